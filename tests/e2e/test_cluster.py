"""Signing keys in a real cluster of three OpenBao nodes, whose leader dies, which is sealed, and of which one node lags behind.

Standbys of OpenBao answer reads themselves, from what they have: a node that the leader can't reach
goes on answering what it last knew. The first tests are about a store that never answers well.
"""

import signal
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest

from harness import envoy
from harness.authz import call, check_request, denied_status
from harness.bao import STANDBY, Bao, Cluster
from harness.load import JwksReader, Load
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import wait_until
from harness.verify import verified

POLICY = (envoy.DEPLOY.parent / "vault" / "placet.hcl").read_text()
REFRESH, PUBLISH_BEFORE = 1, 3


def on(addresses, place, issuer, token, **details):
    """A Placet whose keys are at `placet/<name of the place>` of the nodes, in that order."""
    store = {"address": addresses, "defaultPath": f"placet/{place.name}", "refreshInterval": f"{REFRESH}s",
             "timeout": "1s", "auth": {"method": "token", "tokenFile": "token"}, **details}
    scopes = [scope(issuer, jwtSigning={"publishBefore": f"{PUBLISH_BEFORE}s"}, jwtResponse={"keyId": "{{client_id}}-{{key_version}}"})]
    made = Placet(place, scopes, stores=[{"id": "vault", "type": "vault", "default": True, "details": store}])
    (place / "token").write_text(token)
    return made


def number(kid):
    return int(kid.rpartition("-")[2])


def published(placet):
    return [number(key["kid"]) for key in placet.jwks()["keys"]]


# --- a store that is no store yet


class Rubbish:
    """A listener on the port where OpenBao will be: it accepts and says nothing, or answers every request with `page`."""

    def __init__(self, port, page):
        self.asked = 0
        if page is None:
            self._server, self._connections = socket.create_server(("127.0.0.1", port)), []
            threading.Thread(target=self._swallow, daemon=True).start()
        else:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler(*page))
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _swallow(self):
        while True:
            try:
                self._connections.append(self._server.accept())
            except OSError:
                return
            self.asked += 1

    def _handler(rubbish, status, content_type, body):
        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                rubbish.asked += 1
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_):
                pass

        return Handler

    def stop(self):
        if isinstance(self._server, ThreadingHTTPServer):
            self._server.shutdown()
            self._server.server_close()
        else:
            # Closing alone leaves the port open for as long as the thread waits in accept.
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            for connection, _ in self._connections:
                connection.close()


HTML = b"<!doctype html><title>canary-portal</title><h1>Sign in</h1>"
RUBBISH = {
    "silent": (None, "timed out"),
    "a-page": ((200, "text/html", HTML), "is not what Vault sends"),
    "broken-json": ((200, "application/json", b'{"data": {"ttl": 1, "canary-portal'), "is not what Vault sends"),
    "other-json": ((200, "application/json", b'{"canary-portal": []}'), "is not what Vault sends"),
    "a-bad-gateway": ((502, "text/html", HTML), "502"),
    "a-wrong-address": ((404, "text/html", HTML), "nothing at"),
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_a_store_that_answers_nonsense_is_named_and_waited_for(directory, issuer, kind):
    """Once the real one answers at its address, Placet is ready by itself."""
    place = directory / kind
    place.mkdir()
    page, said = RUBBISH[kind]
    bao = Bao(place)
    rubbish = Rubbish(bao.port, page)
    with on(bao.address, place, issuer, "root").start(until_ready=False) as placet:
        status, page = placet.wait_until(lambda: said in str((seen := placet.readiness())[1]) and seen, f"/readyz says `{said}`")
        text = str(page)
        assert status == 503 and "orders" in text and rubbish.asked
        placet.wait_until(lambda: said in placet.stderr, "so does the log")
        request = check_request(headers={"authorization": f"Bearer {issuer.token()}"})
        assert denied_status(call(placet, request)) == 503
        assert "canary-portal" not in text + placet.stderr
        rubbish.stop()
        with bao:
            bao.put_key(f"placet/{kind}", orders=pem(new_private_key("ES256")))
            placet.wait_until(lambda: placet.readiness()[0] == 200, "it is ready after all")
            assert call(placet, request).status.code == 0


# --- a cluster


@pytest.fixture(scope="module")
def cluster(directory):
    place = directory / "cluster"
    place.mkdir()
    with Cluster(place) as running:
        running.leader().policy("placet", POLICY)
        yield running


class Run:
    """A Placet on the cluster, its edge before an upstream, clients that ask throughout, and a reader of the JWKS."""

    def __init__(self, placet, edge, issuer, echo):
        self.placet, self.echo, self.tokens = placet, echo, []
        self.loads = [Load(edge, placet.directory.name, issuer.token()) for _ in range(2)]
        self.reader = JwksReader(placet)

    def signed(self):
        """The versions that the tokens were signed with, in the order the tokens came."""
        target = f"/accounts/{self.placet.directory.name}"
        self.tokens += [seen.one("x-placet-decision") for seen in self.echo.take() if seen.target == target]
        return [number(jwt.get_unverified_header(token)["kid"]) for token in self.tokens]

    def newest_seen(self):
        """The newest version published in each look at the JWKS, in order."""
        return [max(map(number, kids)) for _, kids in self.reader.seen]

    def wait_for_signature(self, version, seconds=20):
        wait_until(lambda: version in self.signed()[-1:], f"version {version} signs", seconds)

    def seconds_left(self):
        return self.placet.metrics()['placet_signing_key_seconds_left{scope="orders"}']

    def judge(self):
        """No check failed, no look at the JWKS did, and versions only went forward; every first token was announced."""
        answers = sum((load.answers for load in self.loads), Counter())
        assert answers == {(200, b"echo\n"): answers.total()} and answers.total() > 100
        assert self.reader.failures == [] and len(self.reader.seen) > 20
        signed, newest = self.signed(), self.newest_seen()
        assert len(signed) == answers.total()
        assert newest == sorted(newest), "the JWKS never goes back to before a version that was in it"
        # Two clients' tokens may cross on their way to the upstream.
        assert all(later >= earlier for earlier, later in zip(signed, signed[4:])), f"the signing version went back: {signed}"
        verified(self.tokens[-1], self.reader.last)
        return answers.total()


@contextmanager
def load_on(cluster, addresses, place, issuer, echo, **details):
    leader = cluster.leader()
    leader.put_key(f"placet/{place.name}", orders=pem(new_private_key("ES256")))
    token = leader.token("placet")
    for node in cluster.running():
        wait_until(lambda: node.call("GET", f"secret/metadata/placet/{place.name}", token=token)[0] == 200, "every node has key and token")
    with on(addresses, place, issuer, token, **details) as placet, envoy.edge(place, echo.port, placet.socket) as edge:
        echo.take()
        run = Run(placet, edge, issuer, echo)
        threads = [*run.loads, run.reader]
        try:
            for thread in threads:
                thread.start()
            wait_until(run.signed, "tokens arrive")
            yield run
        finally:
            for thread in threads:
                thread.ended.set()
                thread.join()


def write(cluster, name):
    """Writes a version as soon as a node takes it; the version's number."""

    def accepted():
        for node in cluster.running():
            try:
                status, answer = node.call("POST", f"secret/data/placet/{name}", {"data": {"orders": pem(key)}})
            except OSError:
                continue
            if status == 200:
                return answer["data"]["version"]

    key = new_private_key("ES256")
    return wait_until(accepted, "a node takes the write", 30)


def test_the_leader_dies_under_load(directory, issuer, echo, cluster):
    """Killed (SIGKILL); a survivor takes a new version, which Placet publishes and then signs with; the dead node comes back."""
    dying = cluster.leader()
    addresses = [dying.address, *(node.address for node in cluster.standbys())]
    with load_on(cluster, addresses, directory / "failover", issuer, echo) as run:
        dying.signal(signal.SIGKILL)
        dying.wait()
        died = time.monotonic()
        second = write(cluster, "failover")
        elected = time.monotonic() - died
        written = time.monotonic()
        wait_until(lambda: second in published(run.placet), "the new version is published")
        noticed = time.monotonic() - written
        run.wait_for_signature(second)
        announced = next(when for when, kids in run.reader.seen if second in map(number, kids))
        assert time.monotonic() - announced > PUBLISH_BEFORE - REFRESH - 1, "published before it signed"
        assert cluster.leader() is not dying

        dying.start()
        assert dying.status("sys/health") in (200, STANDBY)
        third = write(cluster, "failover")
        run.wait_for_signature(third)
    checks = run.judge()
    assert [*dict.fromkeys(run.signed())] == [1, second, third]
    print(f"{checks} checks; a survivor took a write {elected:.1f} s after the kill, noticed {noticed:.1f} s later")


def test_sealed_under_load_and_unsealed(directory, issuer, echo, cluster):
    """Every node sealed: the loaded key signs on, /readyz stays 200, and a metric says for how long that may last."""
    with load_on(cluster, cluster.addresses, directory / "sealed", issuer, echo) as run:
        for node in cluster.nodes:
            # A leader that is sealed hands over, and in between there is none.
            wait_until(lambda: node.call("PUT", "sys/seal")[0] == 204, "the node seals")
            wait_until(lambda: node.status("sys/health") == 503, "it is sealed")
        wait_until(lambda: "sealed" in run.placet.stderr, "the log says so")
        counted = [run.seconds_left()]
        wait_until(lambda: counted.append(run.seconds_left()) or counted[0] - counted[-1] >= 3, "the metric counts down")
        assert counted == sorted(counted, reverse=True)
        assert "the loaded keys go on signing" in run.placet.stderr

        for node in cluster.nodes:
            node.unseal()
        wait_until(lambda: run.seconds_left() > counted[0] - 2, "the time starts anew")
        run.wait_for_signature(write(cluster, "sealed"))
    run.judge()


def test_a_node_that_lags_behind_takes_nothing_back(directory, issuer, echo, cluster):
    """Many writes while a standby is asked first; then that standby, cut off from the leader, answers what it knew long ago."""
    first = cluster.standbys()[0]
    addresses = [first.address, *(node.address for node in cluster.nodes if node is not first)]
    with load_on(cluster, addresses, directory / "stale", issuer, echo, refreshInterval="300ms") as run:
        for _ in range(30):
            last = write(cluster, "stale")
            time.sleep(0.05)
        wait_until(lambda: last in published(run.placet), "the last of many is published")
        run.wait_for_signature(last)

        first.signal(signal.SIGKILL)
        first.wait()
        last = write(cluster, "stale")
        wait_until(lambda: last in published(run.placet), "another node is asked")
        # At another port the leader does not find it.
        first.configure()
        first.start()
        assert number_at(first) < last, "the node lags behind, and answers all the same"
        run.wait_for_signature(last)
        looks = len(run.reader.seen)
        wait_until(lambda: len(run.reader.seen) > looks + 40, "a few looks at the node that lags behind")
        assert number_at(first) < last
        assert max(published(run.placet)) == last
    run.judge()
    assert len(set(run.newest_seen())) > 5, "many versions were noticed, one after the other"
    assert run.signed()[-1] == last


def number_at(node):
    return node.must("GET", "secret/metadata/placet/stale")["data"]["current_version"]
