"""The custom resources, and `placet-control controller` as a process, with an API server over real TLS in front of it."""

import json
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import requests
import yaml

from harness import authz, pod
from harness.apiserver import ApiServer as TokenReviewer
from harness.authz import call, check_request, denied_status
from harness.control import Sidecar
from harness.mtls import Authority
from harness.placet import POLICY, Placet, new_private_key, pem, scope
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
    """Lists and watches, patches of a status, a Lease, and Secrets and ConfigMaps as `kept` has them."""

    def __init__(self, directory):
        certificate(directory)
        self.kept, self.asked = {}, set()
        self.objects, self.statuses, self.lease, self.unknown, self.is_closed = {}, {}, None, [], False
        self.version, self.events, self.news = 9, [], threading.Condition()
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

    def put(self, resource, name, **parts):
        """Gives the object a `spec` or a `status`, and tells whoever watches."""
        with self.news:
            self.version += 1
            [at] = [at for at, it in enumerate(self.objects[resource]) if it["metadata"]["name"] == name]
            changed = json.loads(json.dumps(self.objects[resource][at] | parts))
            changed["metadata"] |= {"resourceVersion": str(self.version), "generation": changed["metadata"]["generation"] + ("spec" in parts)}
            self.objects[resource][at] = changed
            self.events.append((self.version, resource, changed))
            self.news.notify_all()
            return changed

    def watch(self, handler, resource, seen):
        handler.send_response(200)
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        with self.news:
            while not self.is_closed:
                for version, kind, it in self.events:
                    if version > seen and kind == resource:
                        handler.wfile.write(json.dumps({"type": "MODIFIED", "object": it}).encode() + b"\n")
                        seen = version
                handler.wfile.flush()
                self.news.wait(60)

    def condition(self, resource, name, kind):
        conditions = self.statuses.get((resource, name), {}).get("conditions", [])
        return next((it for it in conditions if it["type"] == kind), None)

    def keep(self, path, body):
        self.version += 1
        body["metadata"] |= {"namespace": path[2], "resourceVersion": str(self.version)}
        self.kept[tuple(path)] = body
        return body

    def answer(self, handler, verb, path, query, body):
        reasons = {404: "NotFound", 409: "Conflict"}
        failure = lambda code: handler.send({"kind": "Status", "code": code, "reason": reasons[code], "message": "", "status": "Failure"}, code)
        if path[0] == "v1":
            named = query["fieldSelector"][0].split("=")[1] if "fieldSelector" in query else path[4] if len(path) > 4 else None
            words = {"GET": "get" if len(path) > 4 else "list", "POST": "create", "PUT": "update"}
            self.asked.add((words[verb], path[3] if len(path) > 3 else path[1], named))
        match verb, path:
            case "GET", ["v1", "configmaps"] if query["fieldSelector"] == ["metadata.name=placet"]:
                maps = [it for (*_, kind, name), it in self.kept.items() if (kind, name) == ("configmaps", "placet")]
                handler.send({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {}, "items": maps})
            case "POST", ["v1", "namespaces", _, "secrets" | "configmaps"]:
                path = [*path, body["metadata"]["name"]]
                failure(409) if tuple(path) in self.kept else handler.send(self.keep(path, body), 201)
            case "PUT", ["v1", "namespaces", _, "secrets" | "configmaps", _]:
                before = self.kept[tuple(path)]["metadata"]["resourceVersion"]
                handler.send(self.keep(path, body)) if body["metadata"]["resourceVersion"] == before else failure(409)
            case "GET", ["v1", "namespaces", "placet", "secrets", "placet-controller-certificates"]:
                handler.send(self.kept[tuple(path)]) if tuple(path) in self.kept else failure(404)
            case "GET", ["placet.dev", "v1alpha1", resource] if "watch" in query:
                self.watch(handler, resource, int(query["resourceVersion"][0]))
            case "GET", ["placet.dev", "v1alpha1", resource]:
                handler.send({"kind": "List", "apiVersion": "placet.dev/v1alpha1", "metadata": {"resourceVersion": str(self.version)}, "items": self.objects[resource]})
            case "PATCH", ["placet.dev", "v1alpha1", "namespaces", "shop", resource, name, "status"]:
                self.statuses[resource, name] = body["status"]
                handler.send(self.put(resource, name, status=body["status"]))
            case "GET", ["coordination.k8s.io", "v1", "namespaces", "placet", "leases", "placet-control"] if self.lease:
                handler.send(self.lease)
            case "POST" | "PUT", ["coordination.k8s.io", "v1", "namespaces", "placet", "leases", *_]:
                self.lease = body
                handler.send(body)
            case "GET", ["coordination.k8s.io", *_]:
                failure(404)
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
        with self.news:
            self.is_closed = True
            self.news.notify_all()
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


@contextmanager
def cluster(here, issuer):
    """An API server whose objects are for real sidecars in `here`; yields it, settings of the control plane, and what makes a sidecar."""
    here.mkdir()
    authority = Authority(here / "authority")
    for name in ("control", "api"):
        authority.identity(name, ips=["127.0.0.1"])
    certificate, key = authority.pair("control")
    with TokenReviewer(authority.server("api"), TOKEN) as reviewer, ApiServer(here) as server:
        (here / "token").write_text(TOKEN)
        store, bundle, application = (server.objects[kind][0]["spec"] for kind in ("secretstores", "policybundles", "scopes"))
        store.clear()
        store.update({"type": "file", "default": True, "details": {"directory": str(here / "keys")}})
        bundle["files"] = {"orders.cedar": POLICY}
        application.clear()
        application.update(scope(issuer, policy={"files": ["shop/orders.cedar"]}))
        port, jwks_port = free_port(), free_port()
        snapshots = {"address": f"127.0.0.1:{port}", "certificateFile": certificate, "keyFile": key, "jwks": {"address": f"127.0.0.1:{jwks_port}"},
                     "tokenReview": {"url": reviewer.url, "caFile": str(authority.file), "tokenFile": str(here / "token")}}
        (here / "keys").mkdir()
        (here / "keys/orders.pem").write_text(pem(new_private_key("ES256")))

        def token(name):
            return reviewer.account("shop", name, aud=["placet-control"])

        def sidecar(name, **settings):
            """The one of the pod `NAME-0`."""
            made = Sidecar(here / name, SimpleNamespace(port=port, authority=authority), token(name), **settings)
            del made.settings["secretStores"]
            made.write(made.settings)
            return made

        sidecar.token = token
        yield server, snapshots, sidecar


def asked(sidecar, issuer, account):
    return call(sidecar, check_request(f"/accounts/{account}", headers={"authorization": f"Bearer {issuer.token()}"}))


def test_objects_reach_a_sidecar_that_decides_by_them(directory, issuer):
    here = directory / "reaching"
    with cluster(here, issuer) as (server, snapshots, made):
        sidecar = made("orders")

        def ask(account):
            return asked(sidecar, issuer, account)

        def union():
            return requests.get(f"http://{snapshots['jwks']['address']}/scopes/orders/jwks.json", timeout=5)

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


def test_what_sidecars_refuse_is_said_of_the_scope(directory, issuer):
    """What listeners a pod has only the pod knows: these are reached over plain TCP, where any process could claim to be a peer."""
    with cluster(directory / "refused", issuer) as (server, snapshots, made):
        good = server.objects["scopes"][0]["spec"]
        bad = scope(issuer, policy=good["policy"], identity={"peer": {"trustDomains": ["cluster.local"]}})
        one, two = (made(name, grpc=f"127.0.0.1:{free_port()}") for name in ("orders", "bills"))

        def said():
            return server.condition("scopes", "orders", "Programmed")

        with Controller(directory / "refused", server, snapshots=snapshots) as controller, one, two:
            first = {each.follows() for each in (one, two)}
            controller.wait_until(lambda: {server.statuses.get(("scopes", "orders"), {}).get("revision")} == first, "its status says so")
            assert said() is None
            generation = server.put("scopes", "orders", spec=bad)["metadata"]["generation"]
            controller.wait_until(lambda: "2 sidecars" in (said() or {}).get("message", ""), "its status says what is wrong", 40)
            condition = said()
            assert (condition["status"], condition["reason"], condition["observedGeneration"]) == ("False", "RefusedBySidecars", generation)
            said_by_whom = "the namespace's snapshot is refused, and the last good one kept, by 2 sidecars (bills-0, orders-0): "
            assert condition["message"].startswith(said_by_whom + "Scope `orders`: spec.identity.peer: any local process could claim to be a peer")
            # It was given to them, and they decide by the last one.
            assert server.condition("scopes", "orders", "Ready")["reason"] == "Published"
            assert {each.following["revision"] for each in (one, two)} == first
            assert not any(authz.is_denial(asked(each, issuer, 1)) for each in (one, two))
            assert server.condition("policybundles", "shop", "Programmed") is None
            server.put("scopes", "orders", spec=good | {"explain": {"metadata": True}})
            for each in (one, two):
                each.follows(*first)
            controller.wait_until(lambda: said() is None, "it is taken back")
            assert server.condition("scopes", "orders", "Ready")["observedGeneration"] == generation + 1


class Labelled(Placet):
    """What starts in a pod of a labelled namespace: with the ConfigMap's settings, and nothing of its own but a token."""

    def __init__(self, directory, server, token):
        super().__init__(directory, [])
        files = server.kept["v1", "namespaces", "shop", "configmaps", "placet"]["data"]
        self.settings = yaml.safe_load(files["placet.yaml"])
        assert self.settings["listen"] == {"grpc": {"address": "unix:/run/placet/authz.sock", "mode": "0660", "group": 9191}, "http": "0.0.0.0:9192", "admin": "0.0.0.0:9193"}
        self.host = self.settings["controlPlane"]["address"].removeprefix("https://").split(":")[0]
        assert self.host == "placet-controller.placet.svc"
        # This machine is no container: its places are others.
        self.settings["listen"] = {"grpc": self.grpc, "http": f"127.0.0.1:{self.http}", "admin": f"127.0.0.1:{self.admin}"}
        for name, path in (("tokenFile", "/var/run/secrets/placet/control-token"), ("directory", "/var/lib/placet")):
            assert self.settings["controlPlane"][name] == path
            self.settings["controlPlane"][name] = Path(path).name
        (self.directory / "control-token").write_text(token)
        (self.directory / "ca.pem").write_text(files["ca.pem"])
        self.write(self.settings)
        hosts = self.directory / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {self.host}\n")
        self.argv = ["unshare", "-m", "--propagation", "private", "sh", "-euc", f'mount --bind {hosts} /etc/hosts; exec "$@"', "pod", *self.argv]


@pytest.mark.skipif(not pod.is_possible(), reason="needs root, for a mount namespace with hosts of its own")
def test_a_label_and_objects_are_all_that_a_namespace_needs(directory, issuer):
    """As the chart installs it: the controller makes its certificate, and what pods start with."""
    here = directory / "labelled"
    with cluster(here, issuer) as (server, snapshots, made):
        del snapshots["certificateFile"], snapshots["keyFile"]
        _, jwks_port = snapshots["jwks"]["address"].split(":")
        with Controller(here, server, snapshots=snapshots) as controller:
            controller.wait_until(lambda: ("v1", "namespaces", "shop", "configmaps", "placet") in server.kept, "the namespace has its settings", 60)
            with Labelled(here / "sidecar", server, made.token("orders")) as sidecar:
                answer = asked(sidecar, issuer, 1)
                assert not authz.is_denial(answer) and denied_status(asked(sidecar, issuer, "secret")) == 403
                trusted = ssl.create_default_context(cafile=sidecar.directory / "ca.pem")

                def union():
                    """Over TLS, by the name that the certificate is for."""
                    with socket.create_connection(("127.0.0.1", jwks_port), 5) as plain, trusted.wrap_socket(plain, server_hostname=sidecar.host) as tls:
                        tls.sendall(b"GET /scopes/orders/jwks.json HTTP/1.1\r\nhost: it\r\nconnection: close\r\n\r\n")
                        head, _, body = b"".join(iter(lambda: tls.recv(65536), b"")).partition(b"\r\n\r\n")
                        return json.loads(body) if head.startswith(b"HTTP/1.1 200 ") else None

                keys = controller.wait_until(union, "the union is served", 60)
                [header] = answer.ok_response.headers
                verified(header.header.value, keys)

                # Somebody changes what pods start with.
                data = server.kept["v1", "namespaces", "shop", "configmaps", "placet"]["data"]
                changed = {"metadata": {"name": "placet", "labels": {"app.kubernetes.io/managed-by": "placet-control"}}, "data": {**data, "ca.pem": "x"}}
                server.keep(["v1", "namespaces", "shop", "configmaps", "placet"], changed)
                controller.wait_until(lambda: server.kept["v1", "namespaces", "shop", "configmaps", "placet"]["data"] == data, "it is put back", 60)

                # All is lost in the cluster: the same authority comes back, and the same settings.
                before = dict(server.kept)
                server.kept.clear()
                controller.wait_until(lambda: server.kept.keys() == before.keys(), "all is put back", 60)
                secret, config_map = (next(it["data"] for path, it in server.kept.items() if path[3] == kind) for kind in ("secrets", "configmaps"))
                assert [secret, config_map] == [next(it["data"] for path, it in before.items() if path[3] == kind) for kind in ("secrets", "configmaps")]
            assert server.unknown == []
            assert server.asked <= granted() and {("update", "configmaps", "placet"), ("create", "secrets", None)} <= server.asked


def granted():
    """Verb, resource and name of what the manifests' roles grant in the core group."""
    rules = [rule for it in documents("controller.yaml") if it["kind"] in ("ClusterRole", "Role") for rule in it["rules"] if rule["apiGroups"] == [""]]
    return {(verb, resource, name) for rule in rules for verb in rule["verbs"] for resource in rule["resources"] for name in rule.get("resourceNames", [None])}
