# Grants looked up in data by what the request names.
package envoy.authz

actions := {"GET": "read", "POST": "write"}

allow if {
	[area] := input.parsed_path
	user := input.attributes.request.http.headers["x-user"]
	some granted in data.grants[user][area]
	granted == actions[input.attributes.request.http.method]
}
