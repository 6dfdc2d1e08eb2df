"""Verifies a decision of Placet's with PyJWT (`pip install 'pyjwt[crypto]'`).

As a command, with the token on standard input: verify.py JWKS_URI AUDIENCE CLIENT_ID METHOD URL
"""

import json
import sys

import jwt


class Verifier:
    """For one application: make it once, and keep it. Keys are fetched when needed and kept for `key_lifespan` seconds."""

    def __init__(self, jwks_uri, audience, client_id, issuer="placet", key_lifespan=300):
        self._keys = jwt.PyJWKClient(jwks_uri, lifespan=key_lifespan, timeout=2)
        self._audience, self._client_id, self._issuer = audience, client_id, issuer

    def verify(self, token, method, url):
        """The claims of a decision for this request; jwt.PyJWTError if it is none."""
        key = self._keys.get_signing_key_from_jwt(token)
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],  # the key's own, whatever the token says
            audience=self._audience,
            issuer=self._issuer,
            options={"require": ["exp", "iat", "nbf", "aud", "iss", "jti"]},
        )
        # No query: the decision is about method, scheme, host and path.
        expected = {"client_id": self._client_id, "htm": method, "htu": url.partition("?")[0]}
        for name, value in expected.items():
            if claims.get(name) != value:
                raise jwt.InvalidTokenError(f"{name} is not {value!r}")
        return claims


if __name__ == "__main__":
    jwks_uri, audience, client_id, method, url = sys.argv[1:]
    try:
        print(json.dumps(Verifier(jwks_uri, audience, client_id).verify(sys.stdin.read().strip(), method, url)))
    except jwt.PyJWTError as error:
        sys.exit(f"refused: {error}")
