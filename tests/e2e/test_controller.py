"""The custom resources, and `placet-control controller` as a process, with an API server over real TLS in front of it."""

import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import requests
import yaml

from harness import authz
from harness.apiserver import ApiServer as TokenReviewer
from harness.authz import call, check_request, denied_status
from harness.control import Sidecar
from harness.mtls import Authority
from harness.placet import POLICY, new_private_key, pem, scope
from harness.process import Process, free_port
from harness.verify import verified
from test_kubernetes import BINARY, HERE, certificate, validate

MANIFESTS = HERE.parents[1] / "deploy/kubernetes"
TOKEN = "a-token-of-a-service-account"


def documents(name):
    return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


def test_the_definitions_are_what_kubernetes_takes():
    printed = subprocess.run([BINARY, "crds"], capture_output=True, text=True, check=True).stdout
    assert printed == (MANIFESTS / "crds.yaml").read_text()
    definitions = [it for it in yaml.safe_load_all(printed) if it]
    assert [it["spec"]["names"]["kind"] for it in definitions] == ["Scope", "SecretStore", "PolicyBundle"]
    for definition in definitions:
        validate(definition)


def test_the_shipped_objects_fit_their_definitions():
    schemas = {it["spec"]["names"]["kind"]: it["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for it in documents("crds.yaml")}
    shipped = documents("resources.yaml")
    for it in shipped:
        jsonschema.validate({"spec": it["spec"]}, schemas[it["kind"]])
    shipped[0]["spec"]["type"] = "consul"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"spec": shipped[0]["spec"]}, schemas["SecretStore"])


class ApiServer:
    """Lists and watches without news, patches of a status, and a Lease."""

    def __init__(self, directory):
        certificate(directory)
        self.objects, self.statuses, self.lease, self.unknown, self.closed = {}, {}, None, [], threading.Event()
        for it in documents("resources.yaml"):
            name = it["metadata"]["name"]
            it["metadata"] |= {"namespace": "shop", "uid": name, "resourceVersion": "7", "generation": 3}
            self.objects.setdefault(it["kind"].lower() + "s", []).append(it)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def send(self, page, code=200):
                body = json.dumps(page).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def answer(self):
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                url = urlsplit(self.path)
                if self.headers["authorization"] != f"Bearer {TOKEN}":
                    return self.send({"kind": "Status", "code": 401, "reason": "Unauthorized", "message": "", "status": "Failure"}, 401)
                server.answer(self, self.command, url.path.split("/")[2:], parse_qs(url.query), body)

            do_GET = do_POST = do_PUT = do_PATCH = answer

        self.port, self.handler, self.directory = free_port(), Handler, directory

    def answer(self, handler, verb, path, query, body):
        match verb, path:
            case "GET", ["placet.dev", "v1alpha1", resource] if "watch" in query:
                handler.send_response(200)
                handler.send_header("connection", "close")
                handler.end_headers()
                handler.wfile.flush()
                self.closed.wait(60)
                handler.close_connection = True
            case "GET", ["placet.dev", "v1alpha1", resource]:
                handler.send({"kind": "List", "apiVersion": "placet.dev/v1alpha1", "metadata": {"resourceVersion": "9"}, "items": self.objects[resource]})
            case "PATCH", ["placet.dev", "v1alpha1", "namespaces", "shop", resource, name, "status"]:
                self.statuses[resource, name] = body["status"]
                handler.send(next(it for it in self.objects[resource] if it["metadata"]["name"] == name) | {"status": body["status"]})
            case "GET", ["coordination.k8s.io", "v1", "namespaces", "placet", "leases", "placet-control"] if self.lease:
                handler.send(self.lease)
            case "POST" | "PUT", ["coordination.k8s.io", "v1", "namespaces", "placet", "leases", *_]:
                self.lease = body
                handler.send(body)
            case "GET", ["coordination.k8s.io", *_]:
                handler.send({"kind": "Status", "code": 404, "reason": "NotFound", "message": "", "status": "Failure"}, 404)
            case _:
                self.unknown.append((verb, path))
                handler.send({}, 500)

    def __enter__(self):
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
        self.http.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "tls.crt", self.directory / "tls.key")
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closed.set()
        self.http.shutdown()
        self.http.server_close()


class Controller(Process):
    def __init__(self, directory, server, **settings):
        self.probes = free_port()
        settings = {"version": 1, "controller": {"probes": f"127.0.0.1:{self.probes}"}, **settings}
        (directory / "control.yaml").write_text(yaml.safe_dump(settings))
        (directory / "kubeconfig").write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": f"https://127.0.0.1:{server.port}", "certificate-authority": str(directory / "tls.crt")}}],
            "users": [{"name": "it", "user": {"token": TOKEN}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": "placet"}}],
        }))
        environment = {"KUBECONFIG": str(directory / "kubeconfig"), "TMPDIR": str(directory)}
        super().__init__("controller", [BINARY, "--log-format", "json", "controller", "--config", directory / "control.yaml"], directory, environment)

    def probe(self, name):
        try:
            return requests.get(f"http://127.0.0.1:{self.probes}/{name}", timeout=5).status_code
        except requests.ConnectionError:
            return None


def test_a_controller_says_what_it_finds_and_leaves_in_order(directory):
    server = ApiServer(directory)
    bad = json.loads(json.dumps(server.objects["scopes"][0]))
    bad["metadata"] |= {"name": "bad", "uid": "bad"}
    bad["spec"] |= {"clientId": "bad", "policy": {"files": ["shop/none.cedar"]}}
    server.objects["scopes"].append(bad)
    with Controller(directory, server) as controller:
        controller.wait_until(lambda: controller.probe("livez") == 200, "it lives")
        controller.wait_until(lambda: "failed to perform initial object list" in controller.stderr, "it misses the API server")
        assert controller.probe("readyz") == 503
        with server:
            controller.wait_until(lambda: controller.probe("readyz") == 200, "it is ready", 60)
            controller.wait_until(lambda: len(server.statuses) == 4, "all is said", 60)
            for (resource, name), status in server.statuses.items():
                [condition] = status["conditions"]
                assert status["observedGeneration"] == condition["observedGeneration"] == 3
                assert condition["status"] == ("False" if name == "bad" else "True"), condition
                assert bool(status.get("revision")) == (name != "bad")
            message = server.statuses["scopes", "bad"]["conditions"][0]["message"]
            assert message == "spec.policy.files[0]: the PolicyBundle `shop` has no `none.cedar`: it has `orders.cedar`"
            assert server.lease["spec"]["holderIdentity"]
            controller.signal(15)
            assert controller.wait() == 0
            assert "holderIdentity" not in server.lease["spec"]
            assert server.unknown == []
    assert [it for it in Path(directory).iterdir() if it.name.startswith("placet-")] == []


def test_objects_reach_a_sidecar_that_decides_by_them(directory, issuer):
    here = directory / "reaching"
    here.mkdir()
    authority = Authority(here / "authority")
    for name in ("control", "api"):
        authority.identity(name, ips=["127.0.0.1"])
    certificate, key = authority.pair("control")
    with TokenReviewer(authority.server("api"), TOKEN) as reviewer, ApiServer(here) as server:
        (here / "token").write_text(TOKEN)
        store, bundle, application = (server.objects[kind][0]["spec"] for kind in ("secretstores", "policybundles", "scopes"))
        store.clear()
        store.update({"type": "file", "default": True, "details": {"directory": str(here / "sidecar/keys")}})
        bundle["files"] = {"orders.cedar": POLICY}
        application.clear()
        application.update(scope(issuer, policy={"files": ["shop/orders.cedar"]}))
        port, jwks_port = free_port(), free_port()
        snapshots = {"address": f"127.0.0.1:{port}", "certificateFile": certificate, "keyFile": key, "jwks": {"address": f"127.0.0.1:{jwks_port}"},
                     "tokenReview": {"url": reviewer.url, "caFile": str(authority.file), "tokenFile": str(here / "token")}}
        token = reviewer.account("shop", "orders", aud=["placet-control"])
        control = SimpleNamespace(port=port, authority=authority)
        sidecar = Sidecar(here / "sidecar", control, token, keys={"orders": pem(new_private_key("ES256"))})
        del sidecar.settings["secretStores"]
        sidecar.write(sidecar.settings)

        def ask(account):
            return call(sidecar, check_request(f"/accounts/{account}", headers={"authorization": f"Bearer {issuer.token()}"}))

        def union():
            return requests.get(f"http://127.0.0.1:{jwks_port}/scopes/orders/jwks.json", timeout=5)

        with Controller(here, server, snapshots=snapshots) as controller, sidecar:
            revision = sidecar.follows()
            controller.wait_until(lambda: server.statuses.get(("scopes", "orders"), {}).get("revision") == revision, "its status says so")
            answer = ask(1)
            assert not authz.is_denial(answer) and denied_status(ask("secret")) == 403
            controller.wait_until(lambda: union().status_code == 200, "the union is served", 60)
            [header] = answer.ok_response.headers
            verified(header.header.value, union().json())
            controller.stop()
            assert not authz.is_denial(ask(1)) and denied_status(ask("secret")) == 403
            assert server.unknown == []
