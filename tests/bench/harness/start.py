"""The binary's size, its start, and its memory before the first request."""

import time

from .places import CORES
from .processes import resident_mib

STARTS = 10


def measure(placet):
    """From the spawn to the first 200 of /readyz, with the file store; and the memory then."""
    times, memory = [], []
    for _ in range(STARTS):
        began = time.monotonic()
        with placet.serving("start", cores=frozenset(CORES)) as server:
            times.append((server.ready_at - began) * 1000)
            time.sleep(0.5)
            memory.append(resident_mib(server.pid))
    size = placet.binary.stat().st_size / 2**20
    return {"binaryMiB": size, "readyMs": times, "idleMiB": memory}
