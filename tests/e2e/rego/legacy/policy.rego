# Rego as it was before 1.0: bodies without `if`, sets, functions, iteration, negation.
package istio.authz

default allow = false

allow {
	input.parsed_path == ["health"]
}

allow {
	roles_for_user[r]
	required_roles[r]
}

roles_for_user[r] {
	r := user_roles[user_name][_]
}

required_roles[r] {
	perm := role_perms[r][_]
	perm.method == input.attributes.request.http.method
	perm.path == input.attributes.request.http.path
}

user_name = parsed {
	[_, encoded] := split(input.attributes.request.http.headers.authorization, " ")
	[parsed, _] := split(base64.decode(encoded), ":")
}

is_blocked {
	blocked[_] == user_name
}

blocked = ["mallory"]

allow {
	not is_blocked
	has_prefix(input.parsed_path, "public")
	input.parsed_query.lang[_] == "en"
}

has_prefix(path, first) {
	path[0] == first
}

user_roles = {"alice": ["guest"], "bob": ["admin", "guest"], "mallory": ["admin"]}

role_perms = {
	"guest": [{"method": "GET", "path": "/productpage"}],
	"admin": [
		{"method": "GET", "path": "/productpage"},
		{"method": "GET", "path": "/api/v1/products"},
	],
}
