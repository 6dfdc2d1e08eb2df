"""A Kubernetes API server, as far as an issuer of ServiceAccount tokens goes: its keys, over TLS, for who presents a token."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .issuer import new_key, sign

ISSUER = "https://kubernetes.default.svc.cluster.local"


class ApiServer:
    def __init__(self, tls, token):
        self.token, self.key = token, new_key("RS256", "sa-1")
        self.refused = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.jwks_uri = f"https://127.0.0.1:{self._server.server_port}/openid/v1/jwks"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def account(self, namespace, name, **changes):
        """A token of a pod's ServiceAccount."""
        now = int(time.time())
        bound = {"namespace": namespace, "pod": {"name": f"{name}-0", "uid": "u"}, "serviceaccount": {"name": name, "uid": "u"}}
        claims = {"iss": ISSUER, "sub": f"system:serviceaccount:{namespace}:{name}", "aud": ["orders"], "iat": now,
                  "nbf": now, "exp": now + 600, "jti": "j", "kubernetes.io": bound, **changes}
        return sign(self.key, {"alg": "RS256", "kid": "sa-1"}, claims)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                is_known = self.headers["authorization"] == f"Bearer {server.token}"
                server.refused += not is_known
                page = {"keys": [server.key.export_public(as_dict=True)]}
                body = json.dumps(page if is_known else {"kind": "Status", "code": 401}).encode()
                self.send_response(200 if is_known and self.path == "/openid/v1/jwks" else 401)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler
