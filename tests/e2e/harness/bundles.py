"""A server of policy bundles over loopback HTTP, with ETags, and bundles as `opa build` and `opa sign` make them."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt

SIGNATURES = ".signatures.json"


def bundle(files):
    """The archive of `files`, a dict of names and texts."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo("/" + name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(buffer.getvalue())


def digest(name, text):
    """As the format describes it: of JSON documents over the value, with sorted names and no space."""
    is_document = name.rsplit("/", 1)[-1] in ("data.json", ".manifest")
    if is_document:
        text = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def signed(files, key, algorithm="ES256", scope=None, kid="ci"):
    listed = [{"name": name, "hash": digest(name, text), "algorithm": "SHA-256"} for name, text in files.items()]
    claims = {"files": listed} | ({"scope": scope} if scope else {})
    token = jwt.encode(claims, key, algorithm, headers={"kid": kid})
    return {**files, SIGNATURES: json.dumps({"signatures": [token]})}


class BundleServer:
    """Serves one archive; `answers` counts by status."""

    def __init__(self):
        self.archive, self.status, self.token, self.answers = b"", 200, None, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                etag = '"' + hashlib.sha256(outer.archive).hexdigest() + '"'
                status = outer.status
                if outer.token and self.headers["authorization"] != f"Bearer {outer.token}":
                    status = 401
                elif status == 200 and self.headers["if-none-match"] == etag:
                    status = 304
                outer.answers.append(status)
                body = outer.archive if status == 200 else b""
                self.send_response(status)
                self.send_header("etag", etag)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/bundles/orders.tar.gz?secret=canary"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
