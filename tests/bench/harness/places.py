"""Where everything is: the sources, what is built and written, and the cores that are used."""

import os
import pathlib
import sys

BENCH = pathlib.Path(__file__).resolve().parents[1]
ROOT = BENCH.parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
OUT = TARGET / "bench"
WORK = OUT / "work"

CORES = sorted(os.sched_getaffinity(0))
# Each of the two has a core of its own, where there are two.
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]


def fail(message):
    sys.exit(f"error: {message.rstrip()}")
