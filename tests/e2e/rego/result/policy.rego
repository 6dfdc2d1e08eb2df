# An object decision put together by partial rules, its status by an else chain.
package envoy.authz

import rego.v1

import data.people.allowed_names
import input.attributes.request.http

default allow := false

allow if {
	user
	http.headers["x-user"] in allowed_names
}

user := name if name := http.headers["x-user"]

headers["x-ext-auth-allow"] := "yes" if allow

headers["x-user-upper"] := upper(user) if allow

headers["www-authenticate"] := "Basic" if not user

request_headers_to_remove := ["x-secret", "x-other-secret"]

response_headers_to_add["x-foo"] := "bar"

query_parameters_to_set := {"user-role": "a b&c", "tags": ["main-flow", "auth-enabled"]}

query_parameters_to_remove := ["debug"]

status_code := 200 if {
	allow
} else := 401 if {
	not user
} else := 403

body := "Authentication Failed" if status_code == 401

body := "Unauthorized Request" if status_code == 403

dynamic_metadata := {"team": "orders", "level": 3}

result["allowed"] := allow

result["headers"] := headers

result["response_headers_to_add"] := response_headers_to_add

result["request_headers_to_remove"] := request_headers_to_remove

result["body"] := body

result["http_status"] := status_code

result["dynamic_metadata"] := dynamic_metadata

result["query_parameters_to_set"] := query_parameters_to_set

result["query_parameters_to_remove"] := query_parameters_to_remove
