"""What OpenBao's login with ServiceAccount tokens asks of a Kubernetes API server: whose a token is, and for whom (TokenReview)."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt

from .apiserver import ISSUER
from .issuer import new_key, sign


class TokenReviews:
    def __init__(self, tls):
        self.key, self.reviewed = new_key("RS256", "sa-1"), []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.address = f"https://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def token(self, namespace, name, audience, seconds):
        """As the kubelet fetches one for a projected volume."""
        now = int(time.time())
        account = {"name": name, "uid": "u"}
        claims = {"iss": ISSUER, "sub": f"system:serviceaccount:{namespace}:{name}", "aud": [audience], "iat": now, "nbf": now,
                  "exp": now + seconds, "kubernetes.io": {"namespace": namespace, "serviceaccount": account}}
        return sign(self.key, {"alg": "RS256", "kid": "sa-1"}, claims)

    def review(self, spec):
        key = jwt.PyJWK(self.key.export_public(as_dict=True))
        try:
            claims = jwt.decode(spec["token"], key, ["RS256"], audience=spec["audiences"], issuer=ISSUER)
        except jwt.PyJWTError as error:
            return {"authenticated": False, "error": str(error)}
        self.reviewed.append(claims)
        return {"authenticated": True, "user": {"username": claims["sub"], "uid": "u"}, "audiences": claims["aud"]}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _handler(reviews):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                assert self.path == "/apis/authentication.k8s.io/v1/tokenreviews"
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                body = json.dumps({**asked, "status": reviews.review(asked["spec"])}).encode()
                self.send_response(201)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler
