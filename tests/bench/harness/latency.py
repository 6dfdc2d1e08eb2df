"""Latencies on a fixed schedule: requests are sent when they are due, whatever the server does, and
each latency counts from then. A server that can't keep the rate may refuse some of them."""

import contextlib
import math

from . import turns
from .client import Client
from .places import fail

CONNECTIONS = 4
# How long a turn is, in seconds; of each, so many requests meet what another server left in the
# processor's caches, and don't count.
TURN, LEAD = 0.5, 20
CURVE = (1, 10, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.75, 99.9, 99.95, 99.99)


def measure(watch, cases, servers, rates, seconds):
    """{rate: {case: percentiles}}, each of so many seconds."""
    found = {}
    for rate in rates:
        seen = paced(watch, f"latencies at {rate} a second", cases, rate, seconds,
                     lambda case, amount: Client(case, servers[case.server], amount,
                                                 connections=CONNECTIONS))
        found[str(rate)] = {name: percentiles(of_case) for name, of_case in seen.items()}
    return {"seconds": seconds, "rates": found}


def paced(watch, what, cases, rate, seconds, connect, beside=()):
    """{case: [what its client saw in a round]}; `connect(case, amount)` is the case's client."""
    amount = {"rate": {"rate": rate, "requests": LEAD + round(rate * TURN)}}
    seen = {case.name: [] for case in cases}
    with contextlib.ExitStack() as running:
        clients = {case.name: running.enter_context(connect(case, amount)) for case in cases}
        for figures in turns.rounds(watch, what, round(seconds / TURN), clients,
                                    lambda meter, name: clients[name].measured(meter, beside)[0]):
            for name, result in figures.items():
                seen[name].append({key: values[LEAD:] for key, values in result["paced"].items()})
    for name, rounds in seen.items():
        if not any(latency for each in rounds for latency in each["latencies"]):
            fail(f"{what}: the server of case `{name}` refused every request (503)")
    return seen


def percentiles(rounds):
    """Microseconds, of all requests of the rounds."""
    sent = [latency for each in rounds for latency in each["latencies"]]
    latencies = sorted(latency for latency in sent if latency is not None)
    delays = sorted(delay for each in rounds for delay in each["delays"])
    return {
        "p50": at(latencies, 50), "p99": at(latencies, 99), "p999": at(latencies, 99.9),
        "sendDelayP99": at(delays, 99),
        "refused": 1 - len(latencies) / len(sent),
        "curve": [[percent, at(latencies, percent)] for percent in CURVE],
    }


def at(ordered, percent):
    """A percentile of ordered nanoseconds, in microseconds: the least that so many are not above."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] / 1000
