# A whole object as the decision, with a default.
package envoy.authz

import rego.v1

import input.attributes.request.http

default allow := {
	"allowed": false,
	"headers": {"x-ext-auth-allow": "no"},
	"body": "Unauthorized Request",
	"http_status": 301,
}

allow := response if {
	http.method == "GET"
	input.parsed_path == ["ok"]
	response := {
		"allowed": true,
		"headers": {"x-ext-auth-allow": ["first", "last"]},
		"response_headers_to_add": {"set-cookie": ["a=1", "b=2"]},
	}
} else := {
	"allowed": false,
	"http_status": 302,
	"headers": [{"location": "https://login.example/"}, {"set-cookie": ["a=1", "b=2"]}],
} if {
	input.parsed_path == ["login"]
} else := {"allowed": false, "http_status": 429, "body": "{\"wait\": true}", "headers": {"content-type": "application/json"}} if {
	input.parsed_path == ["slow"]
} else := {"allowed": true, "headers": {"X-Placet_Decision": "forged"}} if {
	input.parsed_path == ["forge"]
} else := {"allowed": "true"} if {
	input.parsed_path == ["text"]
} else := {"allowed": true, "subject": "alice", "reason": "she is alice", "entitlements": [
	{"type": "Book", "id": "1", "action": "read"},
	{"type": "Book", "id": "2", "action": "read"},
]} if {
	input.parsed_path == ["alice"]
}
