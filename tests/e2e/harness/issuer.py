"""The identity provider: an issuer with a JWKS and OpenID discovery over loopback HTTP."""

import hmac
import json
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from jwcrypto import jwk

KEY_KINDS = {
    "RS": {"kty": "RSA", "size": 2048},
    "PS": {"kty": "RSA", "size": 2048},
    "ES256": {"kty": "EC", "crv": "P-256"},
    "ES384": {"kty": "EC", "crv": "P-384"},
    "EdDSA": {"kty": "OKP", "crv": "Ed25519"},
}


def new_key(algorithm, kid):
    kind = KEY_KINDS.get(algorithm) or KEY_KINDS[algorithm[:2]]
    return jwk.JWK.generate(kid=kid, use="sig", alg=algorithm, **kind)


def b64(data):
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(key, header, payload):
    """A compact JWS with the key; a header or payload given as bytes is signed as it is."""
    algorithm = jwt.algorithms.get_default_algorithms()[key["alg"]]
    return sign_with(key["alg"], algorithm.from_jwk(key.export()), header, payload)


def sign_with(name, key, header, payload):
    """The same with a named algorithm and a key as that algorithm takes it: bytes for HMAC, whatever they are."""
    signed = f"{b64(header)}.{b64(payload)}"
    if name == "HS256":
        signature = hmac.digest(key, signed.encode(), "sha256")
    else:
        signature = jwt.algorithms.get_default_algorithms()[name].sign(signed.encode(), key)
    return f"{signed}.{b64(signature)}"


class Issuer:
    """`token` makes a good one; every way to spoil it is an argument."""

    def __init__(self, algorithm="ES256"):
        self.keys = {"idp-1": new_key(algorithm, "idp-1")}
        self.current = "idp-1"
        self.down, self.delay, self.redirect_to, self.padding = False, 0.0, None, 0
        # Sent instead of the key set: bytes, or what yields them until the asker has gone.
        self.raw = None
        self.fetches, self.sent = 0, 0
        self.port = 0
        self.resume()
        self.url = f"http://127.0.0.1:{self.port}"
        self.jwks_uri = f"{self.url}/jwks.json"

    @property
    def key(self):
        return self.keys[self.current]

    def rotate(self, algorithm="ES256", keep_old=True):
        kid = f"idp-{len(self.keys) + 1}"
        if not keep_old:
            self.keys.clear()
        self.keys[kid] = new_key(algorithm, kid)
        self.current = kid

    def jwks(self):
        keys = [key.export_public(as_dict=True) for key in self.keys.values()]
        return {"keys": keys, "padding": "x" * self.padding} if self.padding else {"keys": keys}

    def claims(self, **changes):
        """Claims of a good token; a change to None takes the claim away."""
        now = int(time.time())
        claims = {"iss": self.url, "sub": "alice", "aud": "orders", "iat": now, "nbf": now, "exp": now + 600,
                  "jti": uuid.uuid4().hex, "groups": ["readers"], **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def header(self, **changes):
        header = {"alg": self.key["alg"], "kid": self.current, "typ": "JWT", **changes}
        return {name: value for name, value in header.items() if value is not None}

    def token(self, header=None, **claims):
        return sign(self.key, self.header(**(header or {})), self.claims(**claims))

    def stop(self):
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def resume(self):
        """Listens again, at the same port."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _handler(issuer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.fetches += 1
                time.sleep(issuer.delay)
                pages = {
                    "/jwks.json": issuer.jwks,
                    "/.well-known/openid-configuration": lambda: {
                        "issuer": issuer.url, "jwks_uri": issuer.jwks_uri,
                        "authorization_endpoint": f"{issuer.url}/authorize", "response_types_supported": ["code"],
                        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
                    },
                }
                if issuer.down or self.path not in pages:
                    return self._answer(503 if issuer.down else 404, {})
                if issuer.raw is not None and self.path == "/jwks.json":
                    return self._pour(issuer.raw)
                if issuer.redirect_to:
                    return self._answer(302, {}, {"location": issuer.redirect_to})
                return self._answer(200, pages[self.path]())

            def _answer(self, status, page, headers=None):
                body = json.dumps(page).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **(headers or {})}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                try:
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    # Who asked did not wait.
                    pass

            def _pour(self, raw):
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.end_headers()
                issuer.sent = 0
                try:
                    for part in [raw] if isinstance(raw, bytes) else raw():
                        self.wfile.write(part)
                        issuer.sent += len(part)
                except OSError:
                    pass

            def log_message(self, *_):
                pass

        return Handler
