"""One run: builds, measures, reports."""

import datetime
import json
import os
import pathlib
import re

from . import (build, cases, cost, counted, envoy, growth, latency, memory, options, parts,
               pictures, report, servers, settings, start)
from .places import CLIENT_CORE, CORES, OUT, fail
from .quiet import Watch

REPORTS = ("report.md", "report.json")


def main():
    asked = options.read()
    if asked.replot:
        pictures.draw(asked.replot, asked.pictures)
        return
    if "instructions" in asked.sections and not counted.is_possible():
        fail("instructions are counted with valgrind: install it, or leave them out (--sections)")
    # What an earlier run found is not to be taken for this one's.
    for name in REPORTS:
        (OUT / name).unlink(missing_ok=True)
    placet = servers.Placet(build.programs(asked.binary))
    build.workspace(placet.binary, settings.ALGORITHMS)
    settings.write_policies()
    _measure(placet, asked)
    pictures.draw(OUT / "report.json", asked.pictures)
    print(*(OUT / name for name in REPORTS), sep="\n")


def _measure(placet, asked):
    watch = Watch(asked.noisy)
    every = cases.all_of(placet, asked.peer)
    found = {"machine": _machine(), "titles": {case.name: case.title for case in every},
             "disturbed": watch.disturbed}
    # Before anything is timed: a compiler would be in the way.
    with_parts = {"cpu", "instructions"} & set(asked.sections)
    alone = parts.Parts() if with_parts and not asked.binary else None
    counting = servers.Placet(build.with_system_allocator()) if asked.allocations else None
    growing = growth.built() if "growth" in asked.sections else None
    os.sched_setaffinity(0, {CLIENT_CORE})

    wanted = {*asked.sections, *(["allocations"] if counting else [])}

    def section(name, measure):
        """Measures and reports at once: a later section may end the run."""
        if name in wanted:
            found[name] = measure()
            _report(found)

    section("start", lambda: start.measure(placet))
    with servers.all_of(placet, asked.peer) as serving:
        section("cpu", lambda: cost.measure(
            watch, every, serving, alone, asked.rounds, asked.requests))
        section("latency", lambda: latency.measure(
            watch, cases.compared(every), serving, asked.rates, asked.rate_seconds))
        section("envoy", lambda: envoy.measure(
            watch, serving, asked.peer, asked.envoy_rate, asked.rate_seconds))
    cold = next(case for case in every if case.name == parts.WHOLE)
    section("memory", lambda: memory.measure(placet, cold, asked.memory_seconds))
    section("instructions", lambda: {"cases": counted.instructions(placet, every),
                                     "parts": alone.instructions() if alone else {}})
    section("allocations", lambda: counted.allocations(counting, every))
    section("growth", lambda: growth.measure(watch, growing))


def _report(found):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    (OUT / "report.md").write_text(report.written(found))


def _machine():
    model = re.search(r"^model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "date": str(datetime.date.today()),
        "cores": len(CORES),
        "processor": model.group(1) if model else "unknown",
        "loadAverage": os.getloadavg()[0],
    }
