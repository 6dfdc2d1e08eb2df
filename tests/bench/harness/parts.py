"""The parts of a decision, each alone: verifying a token, asking the policies, signing."""

import contextlib
import json
import subprocess

from . import counted, settings
from .build import bench
from .places import SERVER_CORE, WORK
from .processes import pinned
from .quiet import Meter

NAMES = ("verify", "policy", "sign")
# The case that needs all of them, and how many times their sum and the floor it may cost.
WHOLE, BOUND = "cold-es256", 1.15
FEW, MANY = 50, 250


class Parts:
    """The program of `cargo bench --bench parts`, on the settings of the benchmark."""

    def __init__(self):
        nowhere = "127.0.0.1:1"
        # No more scopes than needed: each has a key made at the start, and an RSA key takes as many
        # instructions as it happens to.
        path = settings.write("parts", nowhere, nowhere, nowhere, scopes=["es256"],
                              reuse={"enabled": False})
        self.command = [bench("parts"), path, WORK / "credentials.txt"]

    @contextlib.contextmanager
    def timed(self):
        """Gives what measures the microseconds of CPU time of each, again and again."""
        process = subprocess.Popen([*self.command, "time"], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True,
                                   preexec_fn=pinned({SERVER_CORE}))

        def take(meter):
            with meter.measuring([process.pid]):
                print(file=process.stdin, flush=True)
                line = process.stdout.readline()
            return json.loads(line)

        try:
            take(Meter())  # The first calls only warm up.
            yield take
        finally:
            process.stdin.close()
            process.wait()

    def instructions(self):
        """Thousands of user instructions of each."""
        return {name: self._difference(name) / 1000 for name in NAMES}

    def _difference(self, name):
        output = WORK / "callgrind.out"
        totals = []
        for calls in (FEW, MANY):
            command = [*counted.callgrind(output), *self.command, name, str(calls)]
            subprocess.run(command, check=True)
            totals.append(counted.total_instructions(output))
        return (totals[1] - totals[0]) / (MANY - FEW)
