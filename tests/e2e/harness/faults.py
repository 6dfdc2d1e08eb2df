"""Clients behind a real edge while something is wrong, and the judgement: nothing lost, nothing passed, memory bounded."""

import contextlib
import itertools
import threading
import time
from collections import Counter
from pathlib import Path

import jwt

from .client import bearer, send

# What a client asks for, and what it is told while nothing is wrong.
EXPECTED = {"permitted": 200, "forbidden": 403, "anonymous": 401}


def peak_mib(process):
    """The most memory that was resident since `forget_peak`, or the start. What still is depends on when the allocator
    gives back what was freed."""
    lines = Path(f"/proc/{process.popen.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def forget_peak(process):
    """From now on; returns what is resident, in MiB. Who may not do so measures since the start, which is no less."""
    with contextlib.suppress(PermissionError):
        Path(f"/proc/{process.popen.pid}/clear_refs").write_text("5")
    return peak_mib(process)


def descriptors(process):
    return len(list(Path(f"/proc/{process.popen.pid}/fd").iterdir()))


class Clients:
    """Ask without pause; use as a context manager. `token` makes the credential of each request."""

    def __init__(self, edge, echo, token, count=2, host="orders.example.com"):
        self.edge, self.echo, self.token, self.host = edge, echo, token, host
        self.answers, self.errors, self.longest = [], [], 0.0
        self._ended, self._numbers = threading.Event(), itertools.count(1)
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(count)]

    def __enter__(self):
        self.echo.take()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self):
        for kind in itertools.cycle(EXPECTED):
            if self._ended.wait(0.01):
                return
            self.ask(kind)

    def ask(self, kind):
        path = "/accounts/secret" if kind == "forbidden" else f"/accounts/{next(self._numbers)}"
        headers = [] if kind == "anonymous" else [bearer(self.token())]
        began = time.monotonic()
        try:
            status = send(self.edge.port, path, headers, host=self.host).status
        except OSError as error:
            self.errors.append((kind, str(error)))
            return
        ended = time.monotonic()
        self.longest = max(self.longest, ended - began)
        self.answers.append((kind, status, path, began, ended))

    def outcomes(self):
        return Counter((kind, status) for kind, status, *_ in list(self.answers))

    def go_on(self, count=30):
        """Waits for so many more answers, and returns them."""
        before, give_up = len(self.answers), time.monotonic() + 30
        while len(self.answers) < before + count:
            assert time.monotonic() < give_up, "the clients are not answered"
            time.sleep(0.02)
        return self.answers[before:]

    def judge(self, keys, may_fail=False):
        """Everyone was answered, as expected or (if that is allowed) with 503; what arrived at the application is
        exactly what was answered with 200, each with a token of its own request that `keys` verify. Returns the
        tokens' claims by path."""
        assert self.errors == []
        for (kind, status), count in self.outcomes().items():
            assert status == EXPECTED[kind] or (may_fail and status == 503), f"{kind}: {count} times {status}"
        arrived = {seen.target: seen.one("x-placet-decision") for seen in self.echo.take()}
        passed = [path for _, status, path, *_ in self.answers if status == 200]
        assert passed and sorted(arrived) == sorted(passed)
        claims = {path: claims_of(token, keys) for path, token in arrived.items()}
        assert all(said["htu"] == f"http://{self.host}{path}" for path, said in claims.items())
        return claims


def claims_of(token, keys):
    """The claims, if the signature is of one of these keys; when they hold is not looked at."""
    kid = jwt.get_unverified_header(token)["kid"]
    key = next(key for key in keys if key["kid"] == kid)
    skip = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
    return jwt.decode(token, jwt.PyJWK(key), [key["alg"]], options=skip)


def judge_log(placet, claims):
    """Every decision that was counted has one line, and every token that was forwarded is in one that allowed."""
    lines = placet.decisions()
    samples = placet.metrics()
    decided = sum(value for name, value in samples.items() if name.startswith("placet_decisions_total"))
    assert len(lines) == decided
    allowed = {line["id"] for line in lines if line["outcome"] == "allow"}
    assert {said["jti"] for said in claims.values()} <= allowed
    return lines
