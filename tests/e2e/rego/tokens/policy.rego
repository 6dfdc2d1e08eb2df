# Tokens verified with an issuer's key set, in each way OPA has; and bodies of two types.
package envoy.authz

import rego.v1

bearer := substring(header, count("Bearer "), -1) if {
	header := input.attributes.request.http.headers.authorization
	startswith(header, "Bearer ")
}

claims := payload if {
	[valid, _, payload] := io.jwt.decode_verify(bearer, {
		"cert": json.marshal(data.jwks),
		"alg": "ES256",
		"iss": data.issuer,
		"aud": "orders",
	})
	valid
}

allow if {
	input.parsed_path == ["decode_verify"]
	claims.sub == "alice"
}

allow if {
	input.parsed_path == ["verify"]
	io.jwt.verify_es256(bearer, json.marshal(data.jwks))
	[header, payload, _] := io.jwt.decode(bearer)
	header.alg == "ES256"
	payload.sub == "alice"
}

allow if {
	input.parsed_path == ["form"]
	input.parsed_body.account == ["7", "8"]
}

allow if {
	input.parsed_path == ["json"]
	input.parsed_body.account == 7
	input.truncated_body == false
	crypto.sha256(input.attributes.request.http.body) == input.attributes.request.http.headers["x-digest"]
}

allow if {
	input.parsed_path == ["no-body"]
	input.parsed_body == null
}
