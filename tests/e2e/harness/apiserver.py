"""A Kubernetes API server, as far as ServiceAccount tokens go: its keys, and its reviews of tokens, over TLS, for who presents a token."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt

from .issuer import new_key, sign

ISSUER = "https://kubernetes.default.svc.cluster.local"


class ApiServer:
    def __init__(self, tls, token):
        self.token, self.key = token, new_key("RS256", "sa-1")
        self.refused, self.reviewed, self.is_down = 0, [], False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self.jwks_uri = f"{self.url}/openid/v1/jwks"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def account(self, namespace, name, **changes):
        """A token of a pod's ServiceAccount."""
        now = int(time.time())
        bound = {"namespace": namespace, "pod": {"name": f"{name}-0", "uid": "u"}, "serviceaccount": {"name": name, "uid": "u"}}
        claims = {"iss": ISSUER, "sub": f"system:serviceaccount:{namespace}:{name}", "aud": ["orders"], "iat": now,
                  "nbf": now, "exp": now + 600, "jti": "j", "kubernetes.io": bound, **changes}
        return sign(self.key, {"alg": "RS256", "kid": "sa-1"}, claims)

    def review(self, spec):
        """The status of a TokenReview: authentication.k8s.io/v1."""
        try:
            key = jwt.PyJWK(self.key.export_public(as_dict=True))
            claims = jwt.decode(spec["token"], key, ["RS256"], options={"verify_aud": False})
        except jwt.InvalidTokenError as error:
            return {"user": {}, "error": f"invalid bearer token: {error}"}
        self.reviewed.append(claims)
        audiences = [each for each in spec["audiences"] if each in claims["aud"]]
        if not audiences:
            return {"user": {}, "error": "token audiences are not the ones that are asked about"}
        bound = claims["kubernetes.io"]
        extra = {"authentication.kubernetes.io/pod-name": [bound["pod"]["name"]]}
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{bound['namespace']}"]
        user = {"username": claims["sub"], "uid": bound["serviceaccount"]["uid"], "groups": groups, "extra": extra}
        return {"authenticated": True, "audiences": audiences, "user": user}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer("/openid/v1/jwks", 200, lambda: {"keys": [server.key.export_public(as_dict=True)]})

            def do_POST(self):
                review = json.loads(self.rfile.read(int(self.headers["content-length"])))
                path = "/apis/authentication.k8s.io/v1/tokenreviews"
                self.answer(path, 201, lambda: {**review, "status": server.review(review["spec"])})

            def answer(self, path, status, page):
                is_known = self.headers["authorization"] == f"Bearer {server.token}"
                server.refused += not is_known
                status = 503 if server.is_down else status if is_known and self.path == path else 401
                body = json.dumps(page() if status < 300 else {"kind": "Status", "code": status}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler
