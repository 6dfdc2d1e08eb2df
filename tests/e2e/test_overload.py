"""More than can be done: what is too much is denied at once, what is taken is answered in time, and memory stays flat."""

import contextlib
import socket
import statistics
import threading
from collections import Counter

from cryptography.hazmat.primitives.asymmetric import rsa

from harness.authz import call, check_request, denied_status, is_denial
from harness.burst import burst
from harness.faults import peak_mib
from harness.placet import REMOVED, Placet, new_private_key, pem, scope
from harness.verify import verified

DEADLINE_MS = 400
ROUNDS = 6
MAX_GROWTH_MIB = 24
# src/envoy.rs
MAX_IN_PROGRESS = 8_192
TOO_MANY = 800
# The signing that is waited for, and the time a busy machine takes to bring an answer here.
SLACK_SECONDS = 8


def counted(placet, reason):
    """Decisions with this reason code."""
    samples = placet.metrics().items()
    return sum(value for name, value in samples if name.startswith("placet_decisions_total") and f'reason="{reason}"' in name)


def judged(answers):
    """How many were allowed, and how many denied with which reason's status; none is unanswered."""
    outcomes = Counter()
    for answer in answers:
        assert answer.grpc_status == 0, answer
        outcomes[denied_status(answer.message) if is_denial(answer.message) else "allowed"] += 1
    return outcomes


def test_ten_times_what_can_be_signed(directory, issuer):
    key = rsa.generate_private_key(65537, 4096)
    signing = scope(issuer, jwtSigning={"algorithm": "PS512"})
    with Placet(directory / "signing", [signing], keys={"orders": pem(key)}) as placet:
        headers = {"authorization": f"Bearer {issuer.token()}"}
        paths = iter(range(10_000_000))
        made = lambda count: [check_request(f"/accounts/{next(paths)}", headers=headers) for _ in range(count)]
        burst(placet, made(20), 10_000)

        # What can be done: all of these within their deadline.
        slowest = []
        for _ in range(2):
            few = burst(placet, made(100), 10_000)
            assert judged(few) == {"allowed": 100}
            slowest.append(max(answer.seconds for answer in few))
        capacity = 100 / min(slowest) * DEADLINE_MS / 1000
        amount = min(int(10 * capacity), 6_000)

        peaks = []
        for _ in range(ROUNDS):
            answers = burst(placet, made(amount), DEADLINE_MS)
            outcomes = judged(answers)
            assert set(outcomes) == {"allowed", 503}, outcomes
            assert max(answer.seconds for answer in answers) < DEADLINE_MS / 1000 + SLACK_SECONDS
            peaks.append(peak_mib(placet))
        for answer in (answer for answer in answers if not is_denial(answer.message)):
            verified(answer.message.ok_response.headers[0].header.value, placet.jwks())
        assert peaks[-1] - peaks[0] < MAX_GROWTH_MIB, peaks

        # And then at once as if nothing had been.
        assert not is_denial(call(placet, made(1)[0]))
        assert counted(placet, "overload") + counted(placet, "deadline") > 0


@contextlib.contextmanager
def silent_decision_point():
    """Takes every question and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def take(connection):
            with connection, contextlib.suppress(OSError):
                while not ended.is_set() and connection.recv(1 << 20):
                    pass

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=take, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        ended.set()
        server.shutdown(socket.SHUT_RDWR)


def test_more_at_once_than_there_is_room_for(directory, issuer):
    # All of them have to be here before the first has had its time.
    deadline = 40_000
    with silent_decision_point() as url:
        remote = {"engine": "authzen", "files": REMOVED, "url": url, "priorKnowledge": True, "timeout": "60s"}
        stuck = scope(issuer, "stuck", policy=remote, match={"hosts": ["stuck.example.com"]})
        keys = {name: pem(new_private_key("ES256")) for name in ("orders", "stuck")}
        with Placet(directory / "room", [scope(issuer, default=True), stuck], keys=keys) as placet:
            headers = {"authorization": f"Bearer {issuer.token()}"}
            requests = [check_request(f"/accounts/{number}", headers, host="stuck.example.com") for number in range(MAX_IN_PROGRESS + TOO_MANY)]
            peaks = []
            for _ in range(2):
                answers = burst(placet, requests, deadline, patience=120)
                assert judged(answers) == {503: len(requests)}
                refused = sorted(answer.seconds for answer in answers)[:TOO_MANY]
                assert statistics.median(refused) < deadline / 1000 / 4, "what there is no room for is denied at once"
                peaks.append(peak_mib(placet))
            assert counted(placet, "overload") >= 2 * TOO_MANY and counted(placet, "deadline") > 0
            assert peaks[-1] - peaks[0] < MAX_GROWTH_MIB, peaks
            assert not is_denial(call(placet, check_request(headers=headers)))
