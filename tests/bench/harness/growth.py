"""What a decision costs as the settings grow: `cargo bench --bench growth`."""

import json
import subprocess

from .build import bench
from .places import SERVER_CORE
from .processes import pinned


def built():
    return bench("growth")


def measure(watch, program):
    """{table: [{size, column: microseconds}]}"""
    print("growth")
    return watch.undisturbed("growth", lambda meter: _tables(meter, program))


def _tables(meter, program):
    process = subprocess.Popen([program, "json"], stdout=subprocess.PIPE, text=True,
                               preexec_fn=pinned({SERVER_CORE}))
    with meter.measuring([process.pid]):
        lines = process.stdout.readlines()
    if process.wait() != 0:
        raise SystemExit("error: the bench `growth` failed")
    tables = {}
    for row in map(json.loads, lines):
        tables.setdefault(row.pop("table"), []).append(row)
    return tables
