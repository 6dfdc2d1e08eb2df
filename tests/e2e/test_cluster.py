"""Three OpenBao nodes, of which the leader is killed; standbys that lag behind; stores that answer rubbish at the start."""

import http.server
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack, contextmanager

import pytest

from harness import envoy
from harness.bao import Bao, RaftCluster
from harness.client import bearer, get, send
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import wait_until
from harness.verify import verified

POLICY = (envoy.DEPLOY.parent / "vault" / "placet.hcl").read_text()
KEY = "placet/cluster"


def on(place, addresses, token, issuer, **details):
    signing = {"pathToKey": KEY, "publishBefore": "4s"}
    of = scope(issuer, jwtSigning=signing, jwtResponse={"keyId": "{{client_id}}-{{key_version}}"})
    store = {"address": addresses, "refreshInterval": "200ms", "timeout": "1s", "auth": {"method": "token", "tokenFile": "token"}, **details}
    made = Placet(place, [of], stores=[{"id": "vault", "type": "vault", "default": True, "details": store}])
    (place / "token").write_text(token)
    return made


def kids(placet):
    return [key["kid"] for key in placet.jwks()["keys"]]


def newest(placet):
    return max(int(kid.rpartition("-")[2]) for kid in kids(placet))


class Steady(threading.Thread):
    """Asks over and over until it is ended, and counts the answers."""

    def __init__(self, ask):
        super().__init__(daemon=True)
        self.ask, self.ended, self.answers = ask, threading.Event(), Counter()

    def run(self):
        while not self.ended.wait(0.01):
            try:
                self.answers[self.ask()] += 1
            except Exception as error:  # noqa: BLE001: whatever it is, it is counted and fails the test
                self.answers[repr(error)] += 1


@contextmanager
def steadily(*asks):
    threads = [Steady(ask) for ask in asks]
    for thread in threads:
        thread.start()
    try:
        yield [thread.answers for thread in threads]
    finally:
        for thread in threads:
            thread.ended.set()
            thread.join()


def test_a_killed_leader_costs_no_request(directory, issuer, echo):
    place = directory / "cluster"
    place.mkdir()
    with ExitStack() as running:
        cluster = running.enter_context(RaftCluster(place))
        leader = cluster.leader()
        leader.policy("placet", POLICY)
        leader.put_key(KEY, orders=pem(new_private_key("ES256")))
        placet = running.enter_context(on(place / "placet", cluster.addresses(), leader.token("placet"), issuer))
        upstream = running.enter_context(envoy.upstream(place, echo.port, placet.http, envoy.cached(1)))
        edge = running.enter_context(envoy.edge(place, upstream.port, placet.socket, envoy.patient))
        incoming = issuer.token()
        request = lambda: send(edge.port, "/accounts/1", [bearer(incoming)]).status
        jwks = lambda: get(placet.http, "/scopes/orders/jwks.json").status
        assert request() == 200

        with steadily(request, request, jwks) as counted:
            wait_until(lambda: counted[0][200] > 50, "there is load")
            leader.signal(signal.SIGKILL)
            leader.wait()
            survivor = wait_until(cluster.leader, "a new leader", seconds=60)
            # Its first write may come before it can be written to.
            wait_until(lambda: survivor.call("POST", f"secret/data/{KEY}", {"data": {"orders": pem(new_private_key("ES256"))}})[0] == 200,
                       "the new leader takes writes", seconds=60)
            wait_until(lambda: "orders-2" in kids(placet), "the new version is published")
            wait_until(lambda: kids(placet)[0] == "orders-2", "the new version signs")
            before = counted[0][200]
            wait_until(lambda: counted[0][200] > before + 50, "and goes on signing")
        for answers in counted:
            assert answers == {200: answers.total()} and answers.total() > 100
        assert placet.readiness()[0] == 200


def test_a_standby_that_lags_takes_nothing_back(directory, issuer):
    """Many writes to the leader, looked for at the standbys, of which either may be behind the other."""
    place = directory / "lagging"
    place.mkdir()
    with RaftCluster(place) as cluster:
        leader = cluster.leader()
        leader.policy("placet", POLICY)
        leader.put_key(KEY, orders=pem(new_private_key("ES256")))
        leader.must("POST", f"secret/metadata/{KEY}", {"max_versions": 100})
        standbys = [node.address for node in cluster.nodes if node is not leader]
        wait_until(lambda: all(node.status(f"secret/data/{KEY}") == 200 for node in cluster.nodes), "every node has the key")
        with on(place / "placet", standbys, leader.token("placet"), issuer) as placet:
            seen = [newest(placet)]
            for _ in range(30):
                leader.put_key(KEY, orders=pem(new_private_key("ES256")))
                seen.append(newest(placet))
                time.sleep(0.1)  # half a refresh interval: every other write is looked for
            wait_until(lambda: seen.append(newest(placet)) or seen[-1] == 31, "the last version is published")
            assert seen == sorted(seen) and len(set(seen)) > 3
            wait_until(lambda: kids(placet)[0] == "orders-31", "the last version signs", seconds=30)


class Rubbish(http.server.BaseHTTPRequestHandler):
    """Answers every question with the same wrong thing."""

    status, kind, body, delay = 200, "text/html", b"<html>welcome</html>", 0

    def answer(self):
        time.sleep(self.delay)
        try:
            self.send_response(self.status)
            self.send_header("content-type", self.kind)
            self.send_header("content-length", str(len(self.body)))
            self.end_headers()
            self.wfile.write(self.body)
        except OSError:
            pass  # whoever asked has given up

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("rubbish, said", [
    ({}, "is not what Vault sends"),
    ({"kind": "application/json", "body": b'{"data": '}, "is not what Vault sends"),
    ({"kind": "application/json", "body": b'{"data": {"data": {"orders": 7}, "metadata": []}}'}, "is not what Vault sends"),
    ({"status": 500, "body": b"no"}, "500"),
    ({"delay": 3}, "operation timed out"),
], ids=["html", "half", "other", "failing", "slow"])
def test_rubbish_at_the_start_is_named_and_waited_out(directory, issuer, request, rubbish, said):
    place = directory / request.node.callspec.id
    place.mkdir()
    with Bao(place) as bao:
        bao.policy("placet", POLICY)
        bao.put_key(KEY, orders=pem(new_private_key("ES256")))
        handler = type("Handler", (Rubbish,), rubbish)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with on(place / "placet", address, bao.token("placet"), issuer, timeout="500ms").start(until_ready=False) as placet:
            page = wait_until(lambda: "signing key:" in str(placet.readiness()[1]) and str(placet.readiness()[1]), "the reason is shown")
            assert placet.readiness()[0] == 503 and said in page, page
            server.shutdown()
            server.server_close()
            forward_to(bao, address, placet)


def forward_to(bao, address, placet):
    """The real store at the same address from now on."""
    port = int(address.rpartition(":")[2])

    class Forward(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            headers = {"x-vault-token": self.headers["x-vault-token"]}
            try:
                answer = urllib.request.urlopen(urllib.request.Request(bao.address + self.path, headers=headers), timeout=5)
                status, body = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, body = error.code, error.read()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Again(http.server.ThreadingHTTPServer):
        allow_reuse_address = True

    server = Again(("127.0.0.1", port), Forward)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        wait_until(lambda: placet.readiness()[0] == 200, "placet is ready", seconds=30)
        assert kids(placet) == ["orders-1"]
    finally:
        server.shutdown()
        server.server_close()
