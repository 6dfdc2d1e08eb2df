"""Writes what was measured as Markdown."""

import statistics

from . import parts


def written(found):
    pieces = ["# What Placet costs", _machine(found)]
    if found["disturbed"]:
        pieces.append(_disturbed(found["disturbed"]))
    writers = {"start": _start, "cpu": _cpu, "latency": _latency, "envoy": _envoy,
               "memory": _memory, "instructions": _instructions, "allocations": _allocations,
               "growth": _growth}
    pieces += [write(found) for name, write in writers.items() if name in found]
    return "\n\n".join(pieces) + "\n"


def _machine(found):
    machine = found["machine"]
    return (f"{machine['date']}, {machine['cores']} cores of {machine['processor']}, load average "
            f"{machine['loadAverage']:.1f} before the run. `tests/bench/README.md` says what each "
            "figure means.")


def _disturbed(rows):
    shares = {}
    for row in rows:
        shares.setdefault(row["what"], []).append(row["share"])
    listed = ", ".join(f"{what} ({len(each)} {'round' if len(each) == 1 else 'rounds'}, up to {max(each):.0%})"
                       for what, each in shares.items())
    return f"**Taken beside other work, and not to be relied on**: of the cores' time in {listed}."


def _start(found):
    start = found["start"]
    rows = [["release binary", f"{start['binaryMiB']:.1f} MiB"],
            ["start to ready, file store", f"{_spread(start['readyMs'])} ms"],
            ["memory when idle (RSS)", f"{_spread(start['idleMiB'])} MiB"]]
    return "## The binary, its start and its memory\n\n" + _table(["", "median (range)"], rows)


def _cpu(found):
    cpu, titles = found["cpu"], found["titles"]
    streams = list(cpu["streams"])
    head = ["case"]
    for count in streams:
        head += [f"µs, {_in_flight(count)}", "to the floor"]
    rows = []
    for name, title in titles.items():
        row = [title]
        for count in streams:
            figures, floor = cpu["streams"][count][name], cpu["streams"][count]["floor"]
            ratios = [mine / base for mine, base in zip(figures, floor)]
            row += [_deciles(figures), _deciles(ratios, 2)]
        rows.append(row)
    text = (f"## CPU per request\n\n{cpu['rounds']} rounds of {cpu['requests']} requests (cold: a "
            "quarter) on one connection; median (first to last decile) of the rounds.\n\n"
            + _table(head, rows))
    if cpu["anew"]:
        text += ("\n\nOf the requests whose answer was kept, at most "
                 f"{max(cpu['anew'].values()):.1%} were decided anew.")
    return text + _whole("µs", {
        _in_flight(count): (cpu["streams"][count][parts.WHOLE], cpu["parts"][count])
        for count in streams})


def _in_flight(count):
    return f"{count} stream" if count == "1" else f"{count} streams"


def _instructions(found):
    counted = found["instructions"]
    figures = counted["cases"]
    rows = [[found["titles"][name], f"{figure:.1f}", f"{figure / figures['floor']:.2f}"]
            for name, figure in figures.items()]
    table = _table(["case", "thousands", "to the floor"], rows)
    beside = [{"floor": figures["floor"], **counted["parts"]}] if counted["parts"] else []
    return ("## User instructions per request\n\n" + table + _whole("thousands", {
        "16 streams": ([figures[parts.WHOLE]], beside)}))


def _whole(unit, shapes):
    """A cold decision beside the sum of what it can't do without: of each shape the figures of the
    whole, and of the floor and the parts beside it, one a round."""
    every = [row for _, beside in shapes.values() for row in beside]
    if not every:
        return ""
    rows = [[name, _deciles([row[name] for row in every])] for name in parts.NAMES]
    text = f"\n\nThe parts of a decision, each alone:\n\n{_table(['part', unit], rows)}"
    rows = []
    for shape, (whole, beside) in shapes.items():
        sums = [sum(row.values()) for row in beside]
        ratios = [mine / base for mine, base in zip(whole, sums)]
        holds = statistics.median(ratios) <= parts.BOUND
        rows.append([shape, _deciles(whole), _deciles(sums), _deciles(ratios, 2),
                     "yes" if holds else "**no**"])
    head = ["cold, Cedar, ES256", unit, f"floor + {' + '.join(parts.NAMES)}", "ratio",
            f"within {parts.BOUND}"]
    return f"{text}\n\n{_table(head, rows)}"


def _allocations(found):
    rows = [[found["titles"][name], f"{blocks:.1f}"]
            for name, blocks in found["allocations"].items()]
    return ("## Allocations per request\n\n"
            + _table(["case", "blocks"], rows))


def _latency(found):
    rows = [[rate, found["titles"][name], *_percentiles(each), f"{each['refused']:.1%}"]
            for rate, cases in found["latency"]["rates"].items() for name, each in cases.items()]
    head = ["a second", "case", "p50 µs", "p99 µs", "p99.9 µs", "sent late, p99 µs", "refused"]
    return "## Latency on a fixed schedule\n\n" + _table(head, rows)


def _envoy(found):
    envoy = found["envoy"]
    rows = []
    for name, title in envoy["titles"].items():
        each = envoy["cases"][name]
        added = [f"{each['added'][key]:.0f}" for key in ("p50", "p99")]
        ratios = [_drawn(each["toFloor"][key]) for key in ("p50", "p99")]
        if name == "plain":
            added, ratios = ["", ""], ["", ""]
        rows.append([title, *_percentiles(each), *added, *ratios])
    head = ["in front of", "p50 µs", "p99 µs", "p99.9 µs", "sent late, p99 µs", "added p50",
            "added p99", "p50 to the floor's", "p99 to the floor's"]
    return (f"## Through Envoy, {envoy['rate']} requests a second\n\n{envoy['seconds']} s of each, "
            "in short turns; a ratio's brackets: first to last decile of rounds drawn anew.\n\n"
            + _table(head, rows))


def _drawn(ratios):
    """A ratio, and the first and last decile of the same from rounds drawn anew."""
    if ratios is None:
        return "-"
    first, *drawn = ratios
    low, *_, high = statistics.quantiles(drawn, n=10, method="inclusive")
    return f"{first:.2f} ({low:.2f} to {high:.2f})"


def _percentiles(each):
    return [f"{each[key]:.0f}" for key in ("p50", "p99", "p999", "sendDelayP99")]


def _memory(found):
    memory = found["memory"]
    resident = [mib for _, mib in memory["samples"]]
    half = resident[len(resident) // 2:]
    rows = [["before the first request", f"{resident[0]:.1f}"],
            ["most", f"{max(resident):.1f}"],
            ["at the end", f"{resident[-1]:.1f}"],
            ["growth in the second half", f"{half[-1] - half[0]:+.1f}"]]
    return (f"## Memory under load\n\n32 streams for {memory['seconds']} s, "
            f"{memory['requests']:,} requests, each with a token of its own.\n\n"
            + _table(["RSS", "MiB"], rows))


def _growth(found):
    pieces = ["## As the settings grow\n\nMicroseconds of one call."]
    for name, rows in found["growth"].items():
        columns = [column for column in rows[0] if column != "size"]
        lines = [[f"{row['size']:,}", *(f"{row[column]:.2f}" for column in columns)]
                 for row in rows]
        pieces.append(_table([name, *columns], lines))
    return "\n\n".join(pieces)


def _table(head, rows):
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def _deciles(values, digits=1):
    """The median, and what nine tenths of many values are above and below."""
    if len(values) < 2:
        return _spread(values, digits)
    low, *_, high = statistics.quantiles(values, n=10, method="inclusive")
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _spread(values, digits=1):
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"
