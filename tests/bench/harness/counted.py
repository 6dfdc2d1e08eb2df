"""What valgrind counts: user instructions and allocations.

Each is the difference of a long and a short run over the requests between them, so that the start
and the warming up are not in it. It does not depend on what else runs.
"""

import re
import shutil

from . import quiet, servers
from .client import Client
from .places import WORK

FEW, MANY = 100, 600
# Less to warm up: everything is slow under valgrind.
DECK = 100


def is_possible():
    return shutil.which("valgrind") is not None


def instructions(placet, cases):
    """Thousands of user instructions per request, by callgrind."""
    output = WORK / "callgrind.out"
    command = callgrind(output)
    return {case.name: _difference(case, placet, command, lambda _: total_instructions(output))
            / 1000 for case in _countable(cases)}


def allocations(placet, cases):
    """Blocks per request, by dhat, which sees no other allocator than the system's."""
    command = ["valgrind", "--tool=dhat", f"--dhat-out-file={WORK / 'dhat.out'}"]
    return {case.name: _difference(case, placet, command, _total_blocks)
            for case in _countable(cases) if case.server != "floor-mimalloc"}


def callgrind(output):
    return ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={output}"]


def total_instructions(output):
    return int(re.search(r"^(?:summary|totals): (\d+)", output.read_text(), re.M).group(1))


def _countable(cases):
    # What a peer needs to run under valgrind, nobody here knows.
    return [case for case in cases if not case.server.startswith("peer-")]


def _difference(case, placet, wrapper, read):
    print(f"counting with valgrind: {case.title}")
    totals = []
    for requests in (FEW, MANY):
        with servers.alone(case, placet, wrapper) as server:
            amount = {"requests": {"requests": requests, "streams": 16}}
            with Client(case, server, amount, deck=DECK) as client:
                client.measured(quiet.Meter())
        totals.append(read(server))
    return (totals[1] - totals[0]) / (MANY - FEW)


def _total_blocks(server):
    said = (WORK / f"{server.name}.err").read_text()
    found = re.search(r"^==\d+== Total: .* bytes in ([\d,]+) blocks", said, re.M)
    return int(found.group(1).replace(",", ""))
