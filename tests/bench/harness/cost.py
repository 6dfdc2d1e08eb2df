"""CPU time per request, from the kernel's own account of the server's threads."""

import contextlib

from . import turns
from .client import Client
from .parts import WHOLE

STREAMS = (1, 16, 32)


def measure(watch, cases, servers, parts, rounds, requests):
    """Microseconds: {streams: {case: [one a round]}}; of the floor and a decision's parts also
    {streams: [{part: of a round}]}, taken right before and after the decision they are compared
    with. Of a case whose questions were all asked before it is measured, also the share that was
    decided anew, at most."""
    spent = {str(streams): {case.name: [] for case in cases} for streams in STREAMS}
    anew = {case.name: 0.0 for case in cases if case.is_known}
    beside = {str(streams): [] for streams in STREAMS}
    for streams in STREAMS:
        with contextlib.ExitStack() as running:
            every = {case.name: _Turn(case, servers, streams, requests, running) for case in cases}
            if parts:
                every[WHOLE] = _Beside(every[WHOLE], every["floor"],
                                       running.enter_context(parts.timed()))
            for figures in turns.rounds(watch, f"CPU per request, {streams} in flight", rounds,
                                        every, lambda meter, name: every[name].take(meter)):
                for name, figure in figures.items():
                    spent[str(streams)][name].append(figure["spent"])
                    if name in anew:
                        anew[name] = max(anew[name], figure["anew"])
                    if "beside" in figure:
                        beside[str(streams)].append(figure["beside"])
    return {"rounds": rounds, "requests": requests, "streams": spent, "anew": anew, "parts": beside}


class _Turn:
    """What a case sends in each round."""

    def __init__(self, case, servers, streams, requests, running):
        # A cold request takes ten times as long as a warm one.
        self.number = max(1, requests // 4) if case.credentials == "fresh" else requests
        amount = {"requests": {"requests": self.number, "streams": streams}}
        self.client = running.enter_context(Client(case, servers[case.server], amount))

    def take(self, meter):
        """Microseconds a request, and the share that was decided anew."""
        result, nanoseconds = self.client.measured(meter)
        return {"spent": nanoseconds / self.number / 1000, "anew": result["anew"] / self.number}


class _Beside:
    """The turn of a whole decision, between those of the floor and of its parts."""

    def __init__(self, whole, floor, time_parts):
        self.whole, self.floor, self.time_parts = whole, floor, time_parts

    def take(self, meter):
        before = {"floor": self.floor.take(meter)["spent"]}
        return self.whole.take(meter) | {"beside": before | self.time_parts(meter)}
