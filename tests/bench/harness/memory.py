"""Resident memory under load, over time."""

import time

from .client import Client
from .processes import resident_mib

STREAMS = 32
INTERVAL = 1.0


def measure(placet, case, seconds):
    """[second, MiB] of an instance with the case's scope alone, while every request has a new token,
    so that whatever is kept of requests grows as far as it can."""
    print(f"memory under load, for {seconds} s")
    amount = {"seconds": {"seconds": seconds, "streams": STREAMS}}
    with placet.serving("memory", scopes=(case.scope,)) as server, Client(case, server, amount) as client:
        samples = [[0.0, resident_mib(server.pid)]]
        began = time.monotonic()
        client.go()
        while not client.is_done(INTERVAL):
            samples.append([time.monotonic() - began, resident_mib(server.pid)])
        requests = client.result()["requests"]
    return {"seconds": seconds, "requests": requests, "samples": samples}
