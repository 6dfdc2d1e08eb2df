"""CPU time per request, from the kernel's own account of the server's threads."""

import contextlib

from .client import Client
from .parts import WHOLE

STREAMS = (1, 16, 32)


def measure(watch, cases, servers, parts, rounds, requests):
    """Rounds in which every case has its short turn, since the speed of a virtual machine changes
    within seconds; every other one in the reverse order. Microseconds: {streams: {case: [one a
    round]}}; of the floor and a decision's parts also {streams: [{part: of a round}]}, taken right
    before and after the decision they are compared with. Of a case whose questions were all asked
    before it is measured, also the share that was decided anew, at most."""
    spent = {str(streams): {case.name: [] for case in cases} for streams in STREAMS}
    anew = {case.name: 0.0 for case in cases if case.is_known}
    beside = {str(streams): [] for streams in STREAMS}
    for streams in STREAMS:
        print(f"CPU per request, {streams} in flight: {rounds} rounds")
        with contextlib.ExitStack() as running:
            turns = {case.name: _Turn(case, servers, streams, requests, running)
                     for case in cases}
            time_parts = parts and running.enter_context(parts.timed())
            for number in range(rounds):
                order = list(turns) if number % 2 == 0 else list(turns)[::-1]
                figures, row = watch.undisturbed(
                    f"CPU per request, {streams} in flight",
                    lambda meter: _round(meter, order, turns, time_parts))
                for name, (figure, share) in figures.items():
                    spent[str(streams)][name].append(figure)
                    if name in anew:
                        anew[name] = max(anew[name], share)
                if row:
                    beside[str(streams)].append(row)
    return {"rounds": rounds, "requests": requests, "streams": spent, "anew": anew, "parts": beside}


def _round(meter, order, turns, time_parts):
    figures, beside = {}, None
    for name in order:
        if time_parts and name == WHOLE:
            beside = {"floor": turns["floor"].take(meter)[0]}
        figures[name] = turns[name].take(meter)
        if beside and name == WHOLE:
            beside |= time_parts(meter)
    return figures, beside


class _Turn:
    """What a case sends in each round."""

    def __init__(self, case, servers, streams, requests, running):
        # A cold request takes ten times as long as a warm one.
        self.number = requests // 4 if case.credentials == "fresh" else requests
        amount = {"requests": {"requests": self.number, "streams": streams}}
        self.client = running.enter_context(Client(case, servers[case.server], amount))

    def take(self, meter):
        """Microseconds a request, and the share that was decided anew."""
        result, nanoseconds = self.client.measured(meter)
        return nanoseconds / self.number / 1000, result["anew"] / self.number
