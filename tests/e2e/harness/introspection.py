"""An issuer of opaque tokens: its introspection endpoint (RFC 7662) over loopback HTTP."""

import json
import threading
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs


class Introspection:
    """Says of a token what `tokens` holds for it, or that it is not active, to who presents the client's credentials."""

    def __init__(self, client_id="placet", secret="s3cr3t-of-the-client"):
        self.client_id, self.secret = client_id, secret
        self.tokens, self.questions = {}, []
        self.status, self.delay = 200, 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/introspect"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def settings(self, issuer, **changes):
        """The entry of `identity.jwt` for this issuer; the secret is in the variable CLIENT_SECRET."""
        asking = {"url": self.url, "clientId": self.client_id, "clientSecretEnv": "CLIENT_SECRET", **changes}
        return {"issuer": issuer, "audiences": ["orders"], "introspection": asking}

    def good(self, **changes):
        claims = {"active": True, "sub": "alice", "aud": "orders", "groups": ["readers"], **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _handler(issuer):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                issuer.questions.append(form["token"][0])
                time.sleep(issuer.delay)
                expected = "Basic " + b64encode(f"{issuer.client_id}:{issuer.secret}".encode()).decode()
                status = issuer.status if self.headers["authorization"] == expected else 401
                body = json.dumps(issuer.tokens.get(form["token"][0], {"active": False})).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler
