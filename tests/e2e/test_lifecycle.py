"""From the start to the end: what the service manager, the health checks and the requests see of it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from harness import authz, envoy
from harness.authz import call, check_request
from harness.client import bearer, get, send
from harness.placet import BINARY, REMOVED, Placet, new_private_key, pem, scope
from harness.process import wait_until

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "placet.service"
KEY = {"orders": pem(new_private_key("ES256"))}


def health(placet):
    with authz.channel(placet) as channel:
        ask = channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=health_pb2.HealthCheckResponse.FromString)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(ask(b"", timeout=5).status)


# --- the end


def test_it_serves_on_for_a_while_when_told_so_but_is_not_ready(directory, issuer):
    with Placet(directory / "after", [scope(issuer)], keys=KEY, drainAfter="6s") as placet:
        request = check_request(headers={"authorization": f"Bearer {issuer.token()}"})
        assert health(placet) == "SERVING"
        start = time.monotonic()
        placet.signal(signal.SIGTERM)
        placet.wait_until(lambda: health(placet) == "NOT_SERVING", "it is not healthy at once")
        assert time.monotonic() - start < 3
        assert placet.readiness()[0] == 503
        answered = 0
        while answered <= 10 or time.monotonic() - start < 1.7:
            # A connection of its own for each.
            assert call(placet, request).status.code == 0
            answered += 1
        assert get(placet.http, "/scopes/orders/jwks.json").status == 200
        assert placet.wait(10) == 0
        assert time.monotonic() - start >= 6


def test_while_it_serves_on_all_else_goes_on_too(directory, issuer):
    own = directory / "goes-on"
    placet = Placet(own, [scope(issuer)], keys=KEY, drainAfter="10s", denyList={"file": "deny.yaml"})
    (own / "deny.yaml").write_text("{}")
    with placet:
        request = check_request(headers={"authorization": f"Bearer {issuer.token(sub='mallory')}"})
        assert call(placet, request).status.code == 0
        placet.signal(signal.SIGTERM)
        placet.wait_until(lambda: health(placet) == "NOT_SERVING", "it is not healthy")
        (own / "deny.yaml").write_text("subjects: [{subject: mallory}]")
        placet.wait_until(lambda: call(placet, request).status.code == 7, "who is listed now is refused")
        (own / "orders.cedar").write_text("permit (principal, action, resource);")
        placet.signal(signal.SIGHUP)
        placet.wait_until(lambda: placet.metrics()["placet_reloads_total"] == 1, "the settings are read again")
        assert (health(placet), placet.readiness()[0]) == ("NOT_SERVING", 503), "and it is not ready again for that"
        assert placet.wait(20) == 0


class SlowDecisionPoint:
    """Says yes, once it is let."""

    def __init__(self):
        self.asked, self.let = threading.Event(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.asked.set()
                outer.let.wait(20)
                body = b'{"decision": true}'
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.let.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("grace, is_finished", [("10s", True), ("300ms", False)])
def test_requests_in_progress_are_finished_within_the_grace_and_none_holds_up_the_end(directory, issuer, grace, is_finished):
    with SlowDecisionPoint() as slow:
        made = scope(issuer, policy={"engine": "authzen", "files": REMOVED, "url": slow.url, "timeout": "20s"})
        with Placet(directory / f"grace-{grace}", [made], keys=KEY, shutdownGrace=grace) as placet:
            outcomes = []

            def ask():
                try:
                    headers = {"authorization": f"Bearer {issuer.token()}"}
                    outcomes.append(call(placet, check_request(headers=headers), seconds=20).status.code)
                except grpc.RpcError as error:
                    outcomes.append(error.code().name)

            asking = threading.Thread(target=ask)
            asking.start()
            assert slow.asked.wait(10)
            # And one whose client never finishes its request.
            with socket.create_connection(("127.0.0.1", placet.http), timeout=10) as idle:
                idle.sendall(b"GET /scopes/orders/jwks.json HTTP/1.1\r\n")
                placet.signal(signal.SIGTERM)
                placet.wait_until(lambda: "draining" in placet.stderr, "it drains")
                start = time.monotonic()
                if is_finished:
                    slow.let.set()
                    asking.join(10)
                    assert outcomes == [0]
                    idle.close()
                assert placet.wait(8) == 0
                assert time.monotonic() - start < 5
            slow.let.set()
            asking.join(10)
            assert outcomes == ([0] if is_finished else ["UNAVAILABLE"])


class Load(threading.Thread):
    """A client behind the edge that never pauses for long."""

    def __init__(self, edge, issuer, account):
        super().__init__(daemon=True)
        self.port, self.token, self.account = edge.port, issuer.token(), account
        self.ended, self.answers = threading.Event(), Counter()

    def run(self):
        while not self.ended.wait(0.005):
            try:
                answer = send(self.port, f"/accounts/{self.account}", [bearer(self.token)])
                self.answers[answer.status] += 1
            except OSError as error:
                self.answers[str(error)] += 1


def both(first, second):
    """Envoy asks either of two, whichever its health checks find serving."""

    def change(config):
        [cluster] = [each for each in config["static_resources"]["clusters"] if each["name"] == "placet"]
        endpoints = [{"endpoint": {"address": {"pipe": {"path": str(placet.socket)}}}} for placet in (first, second)]
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
        cluster["common_lb_config"] = {"healthy_panic_threshold": {"value": 0}}
        cluster["health_checks"] = [{
            "timeout": "1s", "interval": "0.1s", "no_traffic_interval": "0.1s", "unhealthy_threshold": 1, "healthy_threshold": 1,
            "grpc_health_check": {"service_name": "envoy.service.auth.v3.Authorization"},
        }]
        return config

    return change


def test_a_rolling_restart_of_two_behind_one_envoy_loses_no_request(directory, issuer, echo):
    with ExitStack() as running:
        placets = [running.enter_context(Placet(directory / name, [scope(issuer)], keys=KEY, drainAfter="5s")) for name in ("a", "b")]
        edge = running.enter_context(envoy.edge(directory, echo.port, placets[0].socket, both(*placets), name="rolling"))

        def healthy():
            return edge.stats("cluster.placet.membership_healthy").get("cluster.placet.membership_healthy", 0)

        wait_until(lambda: healthy() == 2, "both are healthy")
        load = [Load(edge, issuer, account) for account in range(3)]
        for client in load:
            client.start()
        for placet in [*placets, *placets]:
            wait_until(lambda: sum(sum(client.answers.values()) for client in load) > 50, "requests are answered")
            placet.signal(signal.SIGTERM)
            assert placet.wait(15) == 0
            wait_until(lambda: healthy() == 1, "one is left")
            placet.start()
            wait_until(lambda: healthy() == 2, "both are healthy again")
        for client in load:
            client.ended.set()
            client.join()
        assert edge.stats("ext_authz").get("http.edge.ext_authz.error", 0) == 0
        assert all(set(client.answers) == {200} for client in load), [client.answers for client in load]
        for placet in placets:
            # Nobody needs them to drain any more.
            placet.signal(signal.SIGKILL)


# --- the service manager


class Manager:
    """What systemd hears."""

    def __init__(self, directory):
        self.path = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(10)

    def heard(self):
        return self.socket.recv(4096).decode().split("\n")


def test_the_service_manager_is_told(directory, issuer):
    own = directory / "told"
    own.mkdir()
    manager = Manager(own)
    with Placet(own, [scope(issuer)], keys=KEY, env={"NOTIFY_SOCKET": manager.path}) as placet:
        assert "READY=1" in manager.heard()
        for policy in ("permit (principal, action, resource);", "permit (", "permit (principal, action, resource);"):
            (own / "orders.cedar").write_text(policy)
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            placet.signal(signal.SIGHUP)
            reloading = manager.heard()
            assert "RELOADING=1" in reloading
            [told] = [re.fullmatch(r"MONOTONIC_USEC=(\d+)", line) for line in reloading if line.startswith("MONOTONIC")]
            assert before <= int(told[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert "READY=1" in manager.heard(), "also where the last good ones stay"
        placet.signal(signal.SIGTERM)
        assert "STOPPING=1" in manager.heard()
        assert placet.wait(10) == 0


def test_nobody_need_listen(directory, issuer):
    with Placet(directory / "alone", [scope(issuer)], keys=KEY, env={"NOTIFY_SOCKET": "/nowhere/notify"}) as placet:
        assert placet.readiness()[0] == 200


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_the_unit_is_one_that_systemd_takes(directory):
    unit = directory / "placet.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/placet", os.path.realpath(BINARY)))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    rated = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)], capture_output=True, text=True, timeout=60)
    assert rated.returncode == 0, rated.stdout[-2000:]
