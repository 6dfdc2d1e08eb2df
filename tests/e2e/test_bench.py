"""`placet bench` on a running instance: what it counts is what was decided, and a stall is seen."""

import contextlib
import json
import signal
import subprocess
import time

import pytest
from google.protobuf import json_format

from harness.authz import check_request
from harness.placet import BINARY, Placet, new_private_key, pem, run, scope


@pytest.fixture(scope="module")
def placet(directory, issuer):
    with Placet(directory / "p", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}) as running:
        yield running


@pytest.fixture(scope="module")
def requests(directory, issuer):
    """Files of a request that is allowed, of one that is denied, and of one that has no credential, in both forms."""
    allowed = {"authorization": f"Bearer {issuer.token()}"}
    made = {"allowed": check_request(headers=allowed), "denied": check_request("/accounts/secret", allowed), "nobody": check_request()}
    for name, request in made.items():
        file = directory / f"{name}.json"
        file.write_text(json_format.MessageToJson(request))
        made[name] = file
    (directory / "allowed.bin").write_bytes(check_request(headers=allowed).SerializeToString())
    return {**made, "binary": directory / "allowed.bin"}


def bench(placet, files, *more, seconds=30):
    named = [word for file in files for word in ("--request", file)]
    return run("bench", "--address", placet.grpc, *named, "--output", "json", *more, seconds=seconds)


@contextlib.contextmanager
def started(placet, file, *more):
    """The command while it runs, against Placet."""
    argv = [BINARY, "bench", "--address", placet.grpc, "--request", file, "--output", "json", *more]
    with subprocess.Popen(map(str, argv), stdout=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


def decided(placet):
    return sum(value for name, value in placet.metrics().items() if name.startswith("placet_decisions_total"))


def test_every_answer_is_counted_for_what_it_is(placet, requests):
    before = decided(placet)
    result = bench(placet, [requests["allowed"], requests["denied"], requests["nobody"], requests["binary"]], "--rate", 80, "--duration", "1s", "--timeout", "10s")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["checks"], report["allowed"], report["denied"], report["failed"], report["failure"]) == (80, 40, {"401": 20, "403": 20}, {}, None)
    assert decided(placet) - before == 80
    quantiles = [report["latency"][name] for name in ("p50", "p90", "p99", "p99.9", "max")]
    assert quantiles == sorted(quantiles) and quantiles[0] > 0


def test_without_a_rate_callers_ask_again_when_they_are_answered(placet, requests):
    before = decided(placet)
    report = json.loads(bench(placet, [requests["allowed"]], "--duration", "500ms", "--callers", 8, "--connections", 2, "--timeout", "10s").stdout)
    assert report["checks"] == report["allowed"] == decided(placet) - before > 8
    text = run("bench", "--address", placet.grpc, "--request", requests["allowed"], "--duration", "100ms").stdout
    assert "answers a second" in text and "allowed" in text and "p99.9" in text


def test_a_stall_is_seen_by_every_check_it_held_up(placet, requests):
    before = decided(placet)
    options = ["--rate", 100, "--duration", "2s", "--callers", 4, "--timeout", "10s"]
    with started(placet, requests["allowed"], *options) as running:
        placet.wait_until(lambda: decided(placet) > before + 10, "it asks")
        placet.signal(signal.SIGSTOP)
        time.sleep(1)
        placet.signal(signal.SIGCONT)
        report = json.loads(running.communicate(timeout=30)[0])
    # Half of the checks had their time while nothing was answered, though only four were sent then.
    assert (report["checks"], report["allowed"]) == (200, 200)
    assert report["latency"]["p90"] > 500_000


def test_what_was_seen_until_an_interrupt_is_reported(placet, requests):
    before = decided(placet)
    with started(placet, requests["allowed"], "--rate", 50, "--duration", "1h", "--timeout", "10s") as running:
        placet.wait_until(lambda: decided(placet) > before + 10, "it asks")
        running.send_signal(signal.SIGINT)
        report = json.loads(running.communicate(timeout=30)[0])
    assert running.returncode == 0 and report["checks"] == report["allowed"] > 10


@pytest.mark.parametrize("argv, word", [
    (["--address", "unix:/nowhere/placet.sock"], "can't connect to `unix:/nowhere/placet.sock`"),
    (["--address", "nowhere"], "`nowhere` is no address: write `127.0.0.1:9191`"),
    (["--rate", "0"], "write a number above 0"),
    (["--duration", "2h"], "--duration: write a time of up to an hour"),
    (["--certificate-file", "x"], "--ca-file"),
])
def test_what_cannot_be_done_is_said(placet, requests, argv, word):
    address = [] if "--address" in argv else ["--address", placet.grpc]
    result = run("bench", "--request", requests["allowed"], *address, *argv)
    assert result.returncode != 0 and word in result.stderr and result.stdout == ""


def test_a_server_that_is_no_placet_is_an_error(placet, requests):
    result = run("bench", "--address", f"127.0.0.1:{placet.admin}", "--request", requests["allowed"], "--duration", "200ms")
    assert result.returncode == 1 and "nothing was answered" in result.stderr
