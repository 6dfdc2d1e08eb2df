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


def main():
    asked = options.read()
    if asked.replot:
        pictures.draw(asked.replot, asked.pictures)
        return
    if "instructions" in asked.sections and not counted.is_possible():
        fail("instructions are counted with valgrind: install it, or leave them out (--sections)")
    placet = servers.Placet(build.programs(asked.binary))
    build.workspace(placet.binary, settings.ALGORITHMS)
    settings.write_policies()
    found = {"machine": _machine(), **_measured(placet, asked)}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    (OUT / "report.md").write_text(report.written(found))
    pictures.draw(OUT / "report.json", asked.pictures)
    print(f"{OUT}/report.md\n{OUT}/report.json")


def _measured(placet, asked):
    sections = asked.sections
    watch = Watch(asked.noisy)
    every = cases.all_of(placet, asked.peer)
    # Before anything is timed: a compiler would be in the way.
    alone = parts.Parts() if {"cpu", "instructions"} & set(sections) and not asked.binary else None
    counting = servers.Placet(build.with_system_allocator()) if asked.allocations else None
    growing = growth.built() if "growth" in sections else None
    os.sched_setaffinity(0, {CLIENT_CORE})

    found = {"titles": {case.name: case.title for case in every}}
    if "start" in sections:
        found["start"] = start.measure(placet)
    with servers.all_of(placet, asked.peer) as serving:
        if "cpu" in sections:
            found["cpu"] = cost.measure(watch, every, serving, alone, asked.rounds, asked.requests)
        if "latency" in sections:
            found["latency"] = latency.measure(watch, cases.compared(every), serving, asked.rates,
                                               asked.rate_seconds)
        if "envoy" in sections:
            found["envoy"] = envoy.measure(watch, serving, asked.peer, asked.envoy_rate,
                                           asked.rate_seconds)
    if "memory" in sections:
        cold = next(case for case in every if case.name == "cold-es256")
        found["memory"] = memory.measure(placet, cold, asked.memory_seconds)
    if "instructions" in sections:
        found["instructions"] = {"cases": counted.instructions(placet, every),
                                 "parts": alone.instructions() if alone else {}}
    if counting:
        found["allocations"] = counted.allocations(counting, every)
    if growing:
        found["growth"] = growth.measure(watch, growing)
    found["disturbed"] = watch.disturbed
    return found


def _machine():
    model = re.search(r"^model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "date": str(datetime.date.today()),
        "cores": len(CORES),
        "processor": model.group(1) if model else "unknown",
        "loadAverage": os.getloadavg()[0],
    }
