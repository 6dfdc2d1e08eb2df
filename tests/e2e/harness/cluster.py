"""A Kubernetes API server over HTTP, as far as the webhook's certificates go: Secrets and one MutatingWebhookConfiguration, with versions and conflicts."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

WEBHOOK = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/placet"


class Cluster:
    def __init__(self, configuration):
        self.objects, self.version, self.lock = {}, 0, threading.Lock()
        self.put(WEBHOOK, configuration)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def put(self, path, document):
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        self.objects[path] = document
        return 200, document

    @property
    def bundle(self):
        """What API servers trust of each webhook, all the same."""
        bundles = {webhook["clientConfig"].get("caBundle", "") for webhook in self.objects[WEBHOOK]["webhooks"]}
        assert len(bundles) == 1
        return base64.b64decode(bundles.pop()).decode()

    def kubeconfig(self, file, namespace="placet"):
        named = {"cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}, "name": "here"}
        context = {"name": "here", "context": {"cluster": "here", "user": "here", "namespace": namespace}}
        file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "clusters": [named], "contexts": [context],
                                        "users": [{"name": "here", "user": {}}], "current-context": "here"}))
        return file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method, path, body):
        kept = self.objects.get(path)
        match method:
            case "GET":
                return (200, kept) if kept else (404, None)
            case "POST":
                path = f"{path}/{body['metadata']['name']}"
                return (409, None) if path in self.objects else self.put(path, body)
        if kept is None:
            return 404, None
        if body["metadata"].get("resourceVersion") not in (None, kept["metadata"]["resourceVersion"]):
            return 409, None
        if method == "PUT":
            return self.put(path, body)
        # A strategic merge: lists of webhooks are merged by name.
        merged = json.loads(json.dumps(kept))
        for change in body["webhooks"]:
            [webhook] = [it for it in merged["webhooks"] if it["name"] == change["name"]]
            webhook["clientConfig"].update(change["clientConfig"])
        return self.put(path, merged)

    def _handler(cluster):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self):
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                with cluster.lock:
                    status, document = cluster.answer(self.command, self.path.split("?")[0], body)
                failure = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": status,
                           "reason": {404: "NotFound", 409: "Conflict"}.get(status, ""), "message": "refused"}
                text = json.dumps(document if status < 300 else failure).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_PATCH = do

            def log_message(self, *_):
                pass

        return Handler
