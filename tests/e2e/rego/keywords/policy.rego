# Comprehensions, sets, `some`, `in`, `every`, `with` helpers, and the connection's own facts.
package envoy.authz

import future.keywords.contains
import future.keywords.every
import future.keywords.if
import future.keywords.in

default allow := false

wanted := {scope | some scope in split(object.get(input.parsed_query, "scope", [""])[0], ",")}

granted contains scope if {
	some scope in split(input.attributes.request.http.headers["x-scopes"], ",")
}

missing := wanted - granted

upper_names := {name: upper(name) | some name in granted}

allow if {
	count(missing) == 0
	every name in wanted {
		upper_names[name] == upper(name)
	}
	input.attributes.source.address.socketAddress.address == "127.0.0.1"
	input.attributes.destination.address.socketAddress.portValue > 0
	input.version == {"ext_authz": "v3", "encoding": "protojson"}
	[last | last := input.parsed_path[count(input.parsed_path) - 1]][0] == "scoped"
}

# A path of two slashes keeps its empty segment: this can't be reached around by `//admin`.
allow if {
	input.parsed_path == ["", "admin", "people"]
}
