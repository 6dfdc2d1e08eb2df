"""Runs the load client."""

import contextlib
import json
import select
import subprocess

from . import processes, settings
from .build import CLIENT
from .places import CLIENT_CORE, WORK, fail


class Client:
    """A client that has connected and warmed its server up, and waits for the word. After each result
    it can be asked for the same amount again."""

    def __init__(self, case, server, amount, connections=1, deck=1000, protocol="grpc",
                 address=None):
        plan = {
            "address": address or server.address,
            "protocol": protocol,
            "crowd": str(WORK),
            "scope": case.scope,
            "method": case.method,
            "path": case.path,
            "credentials": case.credentials,
            "expect": _expected(case, server),
            "connections": connections,
            "deck": deck,
            "amount": amount,
        }
        self.case = case
        self.server = server
        self.process = subprocess.Popen(
            [CLIENT, "run", json.dumps(plan)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, preexec_fn=processes.pinned({CLIENT_CORE}))
        self._line()
        self.is_ready = True

    def measured(self, meter, beside=()):
        """Sends the case's requests; what the client saw, and the nanoseconds the server ran."""
        if not self.is_ready:
            self._tell()
            self._line()
        ours = [self.server.pid, self.server.reader, self.process.pid, *beside]
        with meter.measuring(ours):
            before = processes.cpu_nanoseconds(self.server.pid)
            self.go()
            result = self.result()
            spent = processes.cpu_nanoseconds(self.server.pid) - before
        return result, spent

    def go(self):
        self._tell()
        self.is_ready = False

    def is_done(self, seconds):
        """Whether it ends within so many seconds."""
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def result(self):
        return json.loads(self._line())

    def _tell(self):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            fail(f"case `{self.case.name}`: {self.process.stderr.read().decode()}")
        return line

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.process.wait()


def _expected(case, server):
    if case.expect != "token":
        return case.expect
    return {"token": {"header": settings.HEADER, "jwks": str(server.jwks(case.scope))}}
