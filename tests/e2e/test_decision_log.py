"""The decision log behind a real Envoy: where its lines go, what they show, and what becomes of them when the sink fails."""

import hashlib
import hmac
import json
import os
import re
import resource
import signal
import subprocess
import time
from base64 import b64encode
from contextlib import contextmanager

import grpc
import pytest

from harness.authz import call, check_request, denied_status, is_denial
from harness.client import bearer, get, send
from harness.collector import Collector, GrpcCollector
from harness.envoy import edge
from harness.mtls import Authority
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import wait_until

KEY = "a key of hashes that nobody guesses"


@contextmanager
def running(directory, name, issuer, log, env=None, **settings):
    """A Placet with this decision log; `ask` asks it as Envoy does."""
    placet = Placet(directory / name, [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}, decisionLog=log, env=env, **settings)
    (placet.directory / "hash.key").write_text(KEY + "\n")
    with placet:
        yield placet


def ask(placet, issuer, number=1, token=None, path=None, id=None, seconds=5, **request):
    headers = {"authorization": f"Bearer {token or issuer.token()}", "x-request-id": id or f"request-{number}"}
    return call(placet, check_request(path or f"/accounts/{number}", headers=headers, **request), seconds=seconds)


def lines_of(file):
    """Its whole lines; none of a file that is yet to come."""
    try:
        return [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    except FileNotFoundError:
        return []


def dropped(placet):
    return placet.metrics()["placet_decision_log_dropped_total"]


# === what a line says ===


def test_the_audit_columns_are_all_there(directory, issuer, echo):
    log = {"sink": {"file": "log"}, "organization": "acme", "instanceName": "orders-7f9c"}
    with running(directory, "columns", issuer, log) as placet, edge(directory, echo.port, placet.socket) as envoy:
        token = issuer.token(sub="alice")
        answer = send(envoy.port, "/accounts/42?secret=1", [bearer(token)])
        assert answer.status == 200
        (line,) = wait_until(lambda: lines_of(placet.directory / "log"), "the decision is logged")
    id_of_envoy = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    columns = {
        "request_id": (line["id"], r"[\w-]{22}"),
        "request": (f"{line['http']['method']} {line['http']['host']}{line['http']['path']}", "GET orders.example.com/accounts/42"),
        "response": (f"{line['outcome']} {line['reason']} {line['status']}", "allow permitted 0"),
        "ip": (line["http"]["sourceIp"], r"127\.0\.0\.1"),
        "client_id": (line["scope"], "orders"),
        "entity_id": (line["principal"]["id"], "alice"),
        "entity_type": (line["principal"]["type"], "User"),
        "request_type": (line["requestType"], "check"),
        "organization": (line["organization"], "acme"),
        "instance_name": (line["instanceName"], "orders-7f9c"),
        "request_time": (line["time"], r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
        "external_request_id": (line["requestId"], id_of_envoy),
        "total_duration": (str(line["durationUs"]), r"[1-9]\d*"),
    }
    assert len(columns) == 13
    for column, (found, expected) in columns.items():
        assert re.fullmatch(expected, found), (column, found)
    assert line["credentialHash"] == "sha256:" + hashlib.sha256(token.encode()).hexdigest()[:32]
    assert token.rsplit(".", 1)[1] not in json.dumps(line) and "secret" not in json.dumps(line)


def test_only_what_is_listed_is_shown(directory, issuer):
    fields = ["time", "outcome", "http.path", "target"]
    with running(directory, "fields", issuer, {"sink": {"file": "log"}, "fields": fields}) as placet:
        ask(placet, issuer)
        ask(placet, issuer, path="/accounts/secret")
        ask(placet, issuer)
        found = wait_until(lambda: (lines := lines_of(placet.directory / "log"))[2:] and lines, "three are logged")
    assert [line["outcome"] for line in found] == ["allow", "deny", "allow"]
    for line in found:
        assert set(line) == {"time", "outcome", "http", "target"}
        assert list(line["http"]) == ["path"] and set(line["target"]) == {"assetType", "assetId", "action"}


def test_what_is_masked_is_nowhere(directory, issuer):
    masked = ["principal.id", "http.sourceIp", "target.assetId", "requestId", "http.host"]
    rules = [{"field": field, "with": "network" if field == "http.sourceIp" else "hash"} for field in masked]
    log = {"sink": {"file": "log"}, "mask": rules, "hashKeyFile": "hash.key"}
    with running(directory, "masked", issuer, log) as placet:
        token = issuer.token(sub="alice-4711")
        for number in range(3):  # the second is the first again
            ask(placet, issuer, token=token, path="/accounts/acc-4711", id="id-4711-alice-4711", host="h4711.example.com")
        ask(placet, issuer, token=issuer.token(sub="alice-4711", groups=[]), path="/accounts/acc-4711", id="id-4711")
        found = wait_until(lambda: (lines := lines_of(placet.directory / "log"))[3:] and lines, "four are logged")
    assert "4711" not in json.dumps(found)
    masks = lambda text: "hmac-sha256:" + hmac.digest(KEY.encode(), text.encode(), "sha256").hex()[:32]
    assert [line["outcome"] for line in found] == ["allow", "allow", "allow", "deny"]
    for line in found:
        assert line["principal"]["id"] == masks("alice-4711")
        assert line["http"]["path"] == f"/accounts/{masks('acc-4711')}"
    assert found[1]["requestId"] == masks("id-4711-alice-4711")
    if os.environ.get("PLACET_TEST_REUSE") != "off":
        assert [line["reused"] for line in found] == [False, True, True, False]


def test_allows_are_sampled_and_denials_never(directory, issuer):
    with running(directory, "sampled", issuer, {"sink": {"file": "log"}, "sampleAllows": 0.2}) as placet:
        token = issuer.token()
        for number in range(150):
            assert not is_denial(ask(placet, issuer, token=token, path=f"/accounts/{number % 3}", id=f"allow-{number}"))
        for number in range(20):
            assert is_denial(ask(placet, issuer, token=token, path="/accounts/secret", id=f"deny-{number}"))
        denials = lambda: [line for line in lines_of(placet.directory / "log") if line["outcome"] == "deny"]
        wait_until(lambda: len(denials()) == 20, "every denial is logged")
        allows = [line for line in lines_of(placet.directory / "log") if line["outcome"] == "allow"]
        # By their ids, so always the same ones.
        assert 15 <= len(allows) <= 45
        assert {line["sampleRate"] for line in allows} == {0.2} and {line["sampleRate"] for line in denials()} == {1.0}
        counted = {name: value for name, value in placet.metrics().items() if name.startswith("placet_decisions_total")}
        assert sum(counted.values()) == 170, counted
        assert dropped(placet) == 0


# === files ===


def test_a_file_is_rotated_by_size(directory, issuer, echo):
    log = {"sink": {"file": {"path": "log", "maxBytes": 8192, "maxFiles": 3}}}
    with running(directory, "rotated", issuer, log) as placet, edge(directory, echo.port, placet.socket, name="rotating") as envoy:
        token = issuer.token()
        for number in range(60):
            assert send(envoy.port, f"/accounts/{number}", [bearer(token)]).status == 200
        files = [placet.directory / name for name in ("log", "log.1", "log.2")]
        last = lambda: [line for line in lines_of(files[0]) if line["http"]["path"] == "/accounts/59"]
        wait_until(last, "the last is logged")
        assert sorted(placet.directory.glob("log*")) == files
        assert all(file.stat().st_size <= 8192 for file in files)
        kept = [int(line["http"]["path"].rsplit("/", 1)[1]) for file in reversed(files) for line in lines_of(file)]
        assert kept == list(range(60 - len(kept), 60)) and len(kept) > 10
        assert dropped(placet) == 0
        assert files[0].stat().st_mode & 0o777 == 0o640 & ~umask()


def umask():
    current = os.umask(0)
    os.umask(current)
    return current


def test_a_file_that_was_moved_away_is_begun_anew(directory, issuer):
    with running(directory, "moved", issuer, {"sink": {"file": {"path": "log", "mode": "0600"}}}) as placet:
        file = placet.directory / "log"
        ask(placet, issuer, 1)
        wait_until(lambda: lines_of(file), "the first is logged")
        file.rename(placet.directory / "log.yesterday")
        placet.signal(signal.SIGHUP)  # as logrotate's postrotate does; nothing needs it
        ask(placet, issuer, 2)
        wait_until(lambda: lines_of(file), "the second is logged")
        assert [line["requestId"] for line in lines_of(file)] == ["request-2"]
        assert [line["requestId"] for line in lines_of(placet.directory / "log.yesterday")] == ["request-1"]
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_loses_lines_and_no_decision(directory, issuer):
    target = directory / "full-disk.log"
    target.symlink_to("/dev/full")
    with running(directory, "full", issuer, {"sink": {"file": str(target)}}) as placet:
        for number in range(5):
            assert not is_denial(ask(placet, issuer, number))
        wait_until(lambda: dropped(placet) == 5, "the lines are counted as lost")
        assert placet.metrics()["placet_decision_log_failures_total"] >= 1
        assert placet.stderr.count("sink fails") == 1, "it is said once"
        target.unlink()
        ask(placet, issuer, 6)
        wait_until(lambda: lines_of(target), "it is logged again")
        assert [line["requestId"] for line in lines_of(target)] == ["request-6"]
        wait_until(lambda: "works again" in placet.stderr, "that is said too")
        assert dropped(placet) == 5


@pytest.fixture
def small_disk(directory):
    """A file system of 64 KiB, where one can be mounted."""
    place = directory / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_what_a_disk_has_no_room_for_leaves_no_half_line(directory, small_disk, issuer):
    with running(directory, "small", issuer, {"sink": {"file": str(small_disk / "log")}}) as placet:
        token = issuer.token()
        for number in range(120):
            assert not is_denial(ask(placet, issuer, number, token=token))
        wait_until(lambda: dropped(placet) > 0, "the disk is full")
        wait_until(lambda: len(lines_of(small_disk / "log")) + dropped(placet) == 120, "every line is there or counted")
        assert (small_disk / "log").read_text().endswith("\n")
        (small_disk / "log").rename(small_disk / "log.old")
        os.truncate(small_disk / "log.old", 0)
        assert not is_denial(ask(placet, issuer, 500, token=token))
        wait_until(lambda: lines_of(small_disk / "log"), "there is room again")
        assert lines_of(small_disk / "log")[-1]["requestId"] == "request-500"


def test_a_file_that_may_not_grow_ends_no_process(directory, issuer):
    with running(directory, "limited", issuer, {"sink": {"file": "log"}}) as placet:
        token = issuer.token()
        most = 32 * 1024
        resource.prlimit(placet.popen.pid, resource.RLIMIT_FSIZE, (most, most))
        for number in range(100):
            assert not is_denial(ask(placet, issuer, number, token=token))
        file = placet.directory / "log"
        wait_until(lambda: dropped(placet) and len(lines_of(file)) + dropped(placet) == 100, "every line is there or counted")
        assert file.read_text().endswith("\n")
        file.rename(placet.directory / "log.full")
        ask(placet, issuer, 500)
        wait_until(lambda: lines_of(file), "it is logged again")


# === batches over HTTP ===


def http_sink(collector, **more):
    return {"sink": {"http": {"url": f"{collector.url}/logs", "batchInterval": "50ms", **more}}}


@pytest.mark.parametrize("more", [{}, {"format": "json"}, {"compression": "gzip"}], ids=["ndjson", "json", "gzip"])
def test_batches_are_posted(directory, issuer, echo, more):
    with Collector() as collector:
        log = http_sink(collector, tokenFile="token", headers={"x-index": "placet"}, **more)
        name = "-".join(["posted", *more.values()])
        placet = Placet(directory / name, [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}, decisionLog=log)
        (placet.directory / "token").write_text("t0k3n\n")
        with placet, edge(directory, echo.port, placet.socket, name=f"edge-{name}") as envoy:
            for number in range(20):
                assert send(envoy.port, f"/accounts/{number}", [bearer(issuer.token())]).status == 200
            wait_until(lambda: len(collector.lines()) == 20, "all are posted")
            assert [line["http"]["path"] for line in collector.lines()] == [f"/accounts/{number}" for number in range(20)]
            path, headers, _ = collector.calls[0]
            assert path == "/logs"
            assert (headers["authorization"], headers["x-index"]) == ("Bearer t0k3n", "placet")
            (placet.directory / "token").write_text("another\n")
            send(envoy.port, "/accounts/last", [bearer(issuer.token())])
            wait_until(lambda: len(collector.lines()) == 21, "the last is posted")
            assert collector.calls[-1][1]["authorization"] == "Bearer another"
            assert dropped(placet) == 0


def test_credentials_may_be_in_other_headers(directory, issuer):
    with Collector() as collector:
        for more, files, expected in [
            ({"username": "placet", "passwordFile": "secret"}, {"secret": "pass word:1\n"}, "Basic " + b64encode(b"placet:pass word:1").decode()),
            ({"headerFiles": {"Authorization": "secret"}}, {"secret": "Splunk t0k3n\n"}, "Splunk t0k3n"),
        ]:
            log = http_sink(collector, **more)
            placet = Placet(directory / f"by-{len(more)}", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}, decisionLog=log)
            for name, text in files.items():
                (placet.directory / name).write_text(text)
            collector.calls.clear()
            with placet:
                ask(placet, issuer)
                wait_until(lambda: collector.calls, "it is sent")
            headers = {name.lower(): value for name, value in collector.calls[0][1].items()}
            assert headers["authorization"] == expected


def test_a_batch_is_tried_again_while_it_may_be_taken(directory, issuer):
    with Collector() as collector, running(directory, "again", issuer, http_sink(collector)) as placet:
        collector.statuses = [503, 429, 200]
        ask(placet, issuer)
        wait_until(lambda: collector.lines(), "it is taken in the end")
        assert [status for _, _, status in collector.calls] == [503, 429, 200]
        assert len(collector.lines()) == 1 and dropped(placet) == 0
        assert placet.metrics()["placet_decision_log_failures_total"] == 2


def test_a_batch_that_is_not_wanted_holds_nothing_up(directory, issuer):
    with Collector() as collector, running(directory, "unwanted", issuer, http_sink(collector)) as placet:
        collector.statuses = [400, 400, 400, 200]
        ask(placet, issuer, 1)
        wait_until(lambda: dropped(placet) == 1, "it is lost")
        ask(placet, issuer, 2)
        wait_until(lambda: collector.lines(), "the next is taken")
        assert [line["requestId"] for line in collector.lines()] == ["request-2"]
        assert len(collector.calls) == 4


def test_a_server_that_does_not_answer_changes_no_decision(directory, issuer):
    with Collector() as collector:
        log = {**http_sink(collector, batchBytes=65536, timeout="60s"), "bufferBytes": 65536}
        with running(directory, "silent", issuer, log) as placet:
            token = issuer.token()
            collector.hold.clear()
            took = []
            for number in range(150):
                began = time.monotonic()
                assert not is_denial(ask(placet, issuer, number, token=token))
                took.append(time.monotonic() - began)
            # A machine that is busy holds one up now and then.
            assert sum(seconds > 1 for seconds in took) <= 2, sorted(took)[-5:]
            lost = wait_until(lambda: dropped(placet), "there is no more room")
            assert placet.metrics()["placet_decision_log_waiting_bytes"] <= 65536
            collector.hold.set()
            wait_until(lambda: len(collector.lines()) == 150 - lost, "what found room is taken")
            assert dropped(placet) == lost


def test_what_waits_at_the_end_is_sent(directory, issuer):
    with Collector() as collector:
        with running(directory, "end", issuer, http_sink(collector, batchInterval="60s")) as placet:
            for number in range(10):
                ask(placet, issuer, number)
            assert not collector.calls
            placet.signal(signal.SIGTERM)
            assert placet.wait() == 0
        assert len(collector.lines()) == 10


def test_what_can_not_be_sent_at_the_end_is_said_and_holds_nobody_up(directory, issuer):
    with Collector() as collector:
        collector.statuses = [503]
        with running(directory, "lost", issuer, http_sink(collector), shutdownGrace="1s") as placet:
            for number in range(3):
                ask(placet, issuer, number)
            wait_until(lambda: collector.calls, "it is tried")
            began = time.monotonic()
            placet.signal(signal.SIGTERM)
            assert placet.wait() == 0
            assert time.monotonic() - began < 9
            assert re.search(r"could not be delivered.*lost=3|lost=3.*could not be delivered|\"lost\":3", placet.stderr), placet.stderr


def test_no_credential_of_the_log_is_said(directory, issuer):
    secrets = {"token": "t0k3n-of-the-s1nk-0123456789", "header": "h34d3r-of-the-s1nk-0123456789"}
    with Collector() as collector:
        log = {**http_sink(collector, tokenFile="token", headerFiles={"x-key": "header"}), "hashKeyFile": "hash.key",
               "mask": [{"field": "principal.id", "with": "hash"}]}
        placet = Placet(directory / "secret", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}, decisionLog=log,
                        env={"PLACET_LOG": "trace"})
        for name, text in {**secrets, "hash.key": KEY}.items():
            (placet.directory / name).write_text(text)
        collector.statuses = [500, 401, 200]
        with placet:
            token = issuer.token()
            ask(placet, issuer, token=token)
            wait_until(lambda: collector.lines(), "it is taken in the end")
            assert collector.calls[0][1]["x-key"] == secrets["header"]
            pages = [get(placet.admin, page).body.decode() for page in ("/config", "/metrics", "/readyz")]
            said = placet.stderr + placet.stdout + "".join(pages) + json.dumps(collector.lines())
    for secret in (*secrets.values(), KEY, token):
        assert secret not in said


# === OpenTelemetry ===


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_collector_gets_log_records(directory, issuer, protocol, compression):
    authority = Authority(directory / f"authority-{protocol}-{compression}")
    authority.identity("collector", ips=["127.0.0.1"])
    tls = authority.pair("collector") if protocol == "grpc" else authority.server("collector")
    with (GrpcCollector if protocol == "grpc" else Collector)(tls) as collector:
        otlp = {"endpoint": collector.url, "protocol": protocol, "compression": compression, "caFile": str(authority.file),
                "batchInterval": "50ms", "tokenEnv": "OTLP_TOKEN"}
        log = {"sink": {"otlp": otlp}, "instanceName": "one"}
        with running(directory, f"otlp-{protocol}-{compression}", issuer, log, env={"OTLP_TOKEN": "t0k3n"}) as placet:
            ask(placet, issuer)
            ask(placet, issuer, path="/accounts/secret")
            allow, deny = wait_until(lambda: (lines := collector.lines())[1:] and lines, "both are taken")
            assert dropped(placet) == 0
    assert (allow["outcome"], allow["http"]["path"], allow["sampleRate"], allow["reused"]) == ("allow", "/accounts/1", 1.0, False)
    assert isinstance(allow["durationUs"], int) and allow["policy"]["determining"]
    beside = allow["otlp"]
    assert beside["resource"]["service.name"] == "placet" and beside["resource"]["service.instance.id"] == "one"
    assert (beside["severity"], deny["otlp"]["severity"]) == ("INFO", "WARN")
    assert beside["event"] == "placet.decision" and abs(beside["time"] / 1e9 - time.time()) < 60
    headers = collector.calls[0][0] if protocol == "grpc" else collector.calls[0][1]
    assert headers["authorization"] == "Bearer t0k3n"


def test_grpc_codes_are_tried_again_or_not(directory, issuer):
    with GrpcCollector() as collector:
        log = {"sink": {"otlp": {"endpoint": collector.url, "batchInterval": "50ms"}}}
        with running(directory, "codes", issuer, log) as placet:
            unavailable, invalid = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT
            collector.codes = [unavailable, grpc.StatusCode.OK, *[invalid] * 3, grpc.StatusCode.OK]
            ask(placet, issuer, 1)
            wait_until(lambda: collector.lines(), "the first is taken")
            ask(placet, issuer, 2)
            wait_until(lambda: dropped(placet) == 1, "the second is lost")
            ask(placet, issuer, 4)
            wait_until(lambda: len(collector.lines()) == 2, "the next is taken")
            collector.rejects = 1
            ask(placet, issuer, 3)
            wait_until(lambda: dropped(placet) == 2, "the third was refused after all")
            assert "1 lines were refused: as the test says" in placet.stderr


# === full ===


def test_with_block_nothing_passes_unlogged(directory, issuer, echo):
    with Collector() as collector:
        log = {**http_sink(collector, batchBytes=65536, timeout="60s"), "bufferBytes": 65536, "whenFull": "block"}
        with running(directory, "block", issuer, log) as placet, edge(directory, echo.port, placet.socket, name="blocking", timeout="2s") as envoy:
            echo.take()
            token = issuer.token()
            ask_envoy = lambda path: send(envoy.port, path, [bearer(token)])
            assert ask_envoy("/accounts/1").status == 200
            collector.hold.clear()
            passed, slowest = 1, 0
            for number in range(300):
                began = time.monotonic()
                answer = ask_envoy(f"/accounts/{number % 5}")
                slowest = max(slowest, time.monotonic() - began)
                if answer.status != 200:
                    break
                passed += 1
            assert answer.status == 503 and answer.json() == {"code": 503, "error": "Service Unavailable"}
            assert slowest < 8, "Envoy is not held beyond its deadline"
            # A bypass is a yes too, if shorter to tell; a no stays what it is.
            assert 503 in (ask_envoy("/healthz").status for _ in range(5))
            assert ask_envoy("/accounts/secret").status == 403
            metrics = placet.metrics()
            assert metrics['placet_decisions_total{scope="orders",outcome="deny",reason="log_full"}'] == 2
            assert metrics["placet_decision_log_waits_total"] >= 3
            allowed = metrics['placet_decisions_total{scope="orders",outcome="allow",reason="permitted"}']
            assert allowed == passed == len([seen for seen in echo.take() if seen.target.startswith("/accounts")])
            collector.hold.set()
            wait_until(lambda: ask_envoy("/accounts/1").status == 200, "there is room again")
            yeses = lambda: [line for line in collector.lines() if line["outcome"] == "allow"]
            wait_until(lambda: len(yeses()) == placet.metrics()['placet_decisions_total{scope="orders",outcome="allow",reason="permitted"}'], "every yes is logged")


def test_with_block_a_sink_is_tried_until_it_works(directory, issuer):
    target = directory / "blocked.log"
    target.symlink_to("/dev/full")
    log = {"sink": {"file": str(target)}, "bufferBytes": 65536, "whenFull": "block"}
    with running(directory, "patient", issuer, log) as placet:
        token = issuer.token()
        answers = []
        while sum(map(is_denial, answers)) < 3:
            assert len(answers) < 100, "there is room still"
            answers.append(ask(placet, issuer, len(answers), token=token, seconds=2))
        passed = [number for number, answer in enumerate(answers) if not is_denial(answer)]
        assert 20 < len(passed)
        assert {denied_status(answer) for answer in answers if is_denial(answer)} == {503}
        denied_lines = dropped(placet)
        target.unlink()
        wait_until(lambda: len(lines_of(target)) >= len(passed), "what passed is logged")
        assert [line["requestId"] for line in lines_of(target)] == [f"request-{number}" for number in passed]
        assert not is_denial(ask(placet, issuer, token=token))
        assert dropped(placet) == denied_lines > 0


def test_with_block_a_batch_is_not_given_up(directory, issuer):
    with Collector() as collector, running(directory, "stubborn", issuer, {**http_sink(collector), "whenFull": "block"}) as placet:
        collector.statuses = [400, 403, 404, 400, 200]
        ask(placet, issuer)
        wait_until(lambda: collector.lines(), "it is taken in the end")
        assert dropped(placet) == 0 and len(collector.calls) == 5
