"""Latencies on a fixed schedule: requests are sent when they are due, whatever the server does, and
each latency counts from then. A server that can't keep the rate may refuse some of them."""

import statistics

from . import client

ROUNDS = 3
CONNECTIONS = 4


def measure(watch, cases, servers, rates, seconds):
    """{rate: {case: percentiles}}, medians of the rounds."""
    found = {str(rate): {} for rate in rates}
    for rate in rates:
        amount = {"rate": {"rate": rate, "seconds": seconds}}
        seen = rounds(watch, f"latencies at {rate} a second", cases,
                      lambda meter, case: client.send(meter, case, servers[case.server], amount,
                                                      connections=CONNECTIONS)[0])
        found[str(rate)] = seen
    return {"seconds": seconds, "rates": found}


def rounds(watch, what, cases, send):
    """Each case in each round, every other round in the reverse order; {case: medians}."""
    seen = {case.name: [] for case in cases}
    for number in range(ROUNDS):
        print(f"{what}: round {number + 1} of {ROUNDS}")
        order = cases if number % 2 == 0 else cases[::-1]
        figures = watch.undisturbed(
            what, lambda meter: {case.name: send(meter, case)["latency"] for case in order})
        for name, latency in figures.items():
            seen[name].append(latency)
    return {name: _median(latencies) for name, latencies in seen.items()}


def _median(latencies):
    middle = {key: statistics.median(each[key] for each in latencies)
              for key in ("p50", "p99", "p999", "sendDelayP99", "refused")}
    curves = zip(*(each["curve"] for each in latencies))
    middle["curve"] = [[points[0][0], statistics.median(value for _, value in points)]
                       for points in curves]
    return middle
