"""Whether anything else ran on the cores in use: a figure taken beside other work is none."""

import contextlib
import os
import pathlib
import time

from .places import CLIENT_CORE, SERVER_CORE, fail
from .processes import cpu_nanoseconds

# The share of the cores' time above which a round does not count.
LIMIT = 0.05
REPEATS = 10

_TICK = 1e9 / os.sysconf("SC_CLK_TCK")
_CORES = {f"cpu{SERVER_CORE}", f"cpu{CLIENT_CORE}"}


class Meter:
    """What the cores did while something was measured, and how much of it was ours."""

    def __init__(self):
        self.idle = self.ours = self.available = 0

    @contextlib.contextmanager
    def measuring(self, pids):
        pids = [os.getpid(), *(pid for pid in pids if pid)]
        idle, began = _idle_nanoseconds(), time.monotonic_ns()
        before = sum(map(cpu_nanoseconds, pids))
        yield
        self.ours += sum(map(cpu_nanoseconds, pids)) - before
        self.idle += _idle_nanoseconds() - idle
        self.available += (time.monotonic_ns() - began) * len(_CORES)

    def others(self):
        """The share of the cores' time that went to other work."""
        return max(0, self.available - self.idle - self.ours) / self.available


class Watch:
    """Repeats what was disturbed, and ends the run if that does not help."""

    def __init__(self, noisy):
        self.noisy = noisy
        # What was disturbed and is reported all the same.
        self.disturbed = []

    def undisturbed(self, what, measure):
        """The result of `measure(meter)` from a time when the cores were ours."""
        for _ in range(1 + REPEATS):
            meter = Meter()
            result = measure(meter)
            share = meter.others()
            if share <= LIMIT:
                return result
            if self.noisy:
                self.disturbed.append({"what": what, "share": share})
                return result
        fail(f"other work used {share:.0%} of the cores during {what}, and still after "
             f"{REPEATS} repeats: end it, or let --noisy report all the same")


def _idle_nanoseconds():
    """Idle, or waiting for a device: this the kernel times. Who was busy it only looks up at each tick,
    and a schedule of whole milliseconds falls into step with those."""
    lines = pathlib.Path("/proc/stat").read_text().splitlines()
    rows = (line.split() for line in lines if line.startswith("cpu"))
    return sum(int(row[field]) for row in rows if row[0] in _CORES for field in (4, 5)) * _TICK
