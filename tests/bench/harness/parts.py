"""The parts of a decision, each alone: verifying a token, asking the policies, signing."""

import json
import subprocess

from . import counted, settings
from .build import bench
from .places import SERVER_CORE, WORK
from .processes import pinned

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

    def time(self, meter):
        """Microseconds of CPU time of each."""
        process = subprocess.Popen([*self.command, "time"], stdout=subprocess.PIPE, text=True,
                                   preexec_fn=pinned({SERVER_CORE}))
        with meter.measuring([process.pid]):
            line = process.stdout.readline()
        process.wait()
        return json.loads(line)

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
