"""Stands in for the world around Placet.

demo.py issuer DIRECTORY    an identity provider's JWKS (issuer.jwks.json), and tokens of its users (alice.token, bob.token)
demo.py ports PORT...       each port, or the next free one where it is taken
"""

import json
import socket
import sys
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

USERS = {"alice": ["clerks"], "bob": ["clerks", "managers"]}


def make_issuer(directory):
    key = ec.generate_private_key(ec.SECP256R1())
    public = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    jwks = {"keys": [{**public, "kid": "idp-1", "alg": "ES256", "use": "sig"}]}
    (directory / "issuer.jwks.json").write_text(json.dumps(jwks, indent=2) + "\n")
    now = int(time.time())
    for user, groups in USERS.items():
        claims = {"iss": "https://idp.example.com/", "sub": user, "aud": "orders", "groups": groups, "iat": now, "exp": now + 8 * 3600}
        (directory / f"{user}.token").write_text(jwt.encode(claims, key, "ES256", headers={"kid": "idp-1"}) + "\n")


def free_ports(wanted):
    taken = set()
    for port in wanted:
        while port in taken or not is_free(port):
            port += 1
        taken.add(port)
        yield port


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "issuer":
        make_issuer(Path(arguments[0]))
    else:
        print(*free_ports(map(int, arguments)))
