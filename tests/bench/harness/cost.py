"""CPU time per request, from the kernel's own account of the server's threads."""

from . import client
from .parts import WHOLE

STREAMS = (1, 16, 32)


def measure(watch, cases, servers, parts, rounds, requests):
    """Round by round, every other one in the reverse order, so that what else the machine does
    falls on all cases alike. Microseconds: {streams: {case: [one a round]}}; of the floor and a
    decision's parts also {streams: [{part: of a round}]}, taken right before and after the decision
    they are compared with, since a virtual machine's speed changes within seconds. Of a case whose
    questions were all asked before it is measured, also the share that was decided anew, at most."""
    spent = {str(streams): {case.name: [] for case in cases} for streams in STREAMS}
    anew = {case.name: 0.0 for case in cases if case.is_known}
    beside = {str(streams): [] for streams in STREAMS}
    for streams in STREAMS:
        for number in range(rounds):
            order = cases if number % 2 == 0 else cases[::-1]
            what = f"CPU per request, {streams} in flight, round {number + 1}"
            print(what)
            figures, row = watch.undisturbed(
                what, lambda meter: _round(meter, order, servers, parts, streams, requests))
            for name, (figure, share) in figures.items():
                spent[str(streams)][name].append(figure)
                if name in anew:
                    anew[name] = max(anew[name], share)
            if row:
                beside[str(streams)].append(row)
    return {"rounds": rounds, "requests": requests, "streams": spent, "anew": anew, "parts": beside}


def _round(meter, cases, servers, parts, streams, requests):
    figures, beside = {}, None
    for case in cases:
        if parts and case.name == WHOLE:
            floor = next(case for case in cases if case.name == "floor")
            beside = {"floor": _send(meter, floor, servers, streams, requests)[0]}
        figures[case.name] = _send(meter, case, servers, streams, requests)
        if beside and case.name == WHOLE:
            beside |= parts.time(meter)
    return figures, beside


def _send(meter, case, servers, streams, requests):
    """Microseconds a request, and the share that was decided anew."""
    # A cold request takes ten times as long as a warm one.
    number = requests // 4 if case.credentials == "fresh" else requests
    amount = {"requests": {"requests": number, "streams": streams}}
    result, nanoseconds = client.send(meter, case, servers[case.server], amount)
    return nanoseconds / number / 1000, result["anew"] / number
