"""Decision tokens, verified by libraries that know nothing of Placet."""

import json
import os
import subprocess
from pathlib import Path

import jwt
from jwcrypto import jwk, jws

JOSE = os.environ.get("PLACET_TEST_JOSE")


def verified(token, jwks, audience="orders-api", issuer="placet"):
    """Header and claims, after PyJWT and jwcrypto have agreed on them."""
    header = jwt.get_unverified_header(token)
    key = next(key for key in jwks["keys"] if key["kid"] == header["kid"])
    options = {"require": ["exp", "iat", "nbf"], "verify_aud": audience is not None}
    claims = jwt.decode(token, jwt.PyJWK(key), [key["alg"]], audience=audience, issuer=issuer, options=options)

    second = jws.JWS()
    second.deserialize(token, jwk.JWK(**key), alg=key["alg"])
    assert json.loads(second.payload) == claims
    return header, claims


def claims_by_jose(token, jwks, audience="orders-api", issuer="placet"):
    """The claims as npm's jose verifies them; None where there is no Node."""
    if not JOSE:
        return None
    asked = json.dumps({"token": token, "jwks": jwks, "issuer": issuer, "audience": audience})
    argv = ["node", Path(__file__).with_name("verify.mjs"), JOSE]
    return json.loads(subprocess.run(argv, capture_output=True, text=True, input=asked, check=True).stdout)
