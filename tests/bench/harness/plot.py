"""Draws a report: `plot.py REPORT.json DIRECTORY`. Needs matplotlib.

Each picture is drawn twice, for light and for dark pages, without a background. The same report
makes the same files.
"""

import json
import math
import pathlib
import statistics
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend has to be chosen first)

THEMES = {
    "light": {"ink": "#1f2328", "faint": "#d1d9e0", "bar": "#0969da",
              "lines": ["#59636e", "#0969da", "#bc4c00", "#8250df", "#1a7f37", "#cf222e"]},
    "dark": {"ink": "#f0f6fc", "faint": "#3d444d", "bar": "#4493f8",
             "lines": ["#9198a1", "#4493f8", "#db6d28", "#ab7df8", "#3fb950", "#f85149"]},
}


def main():
    report, directory = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    found = json.loads(report.read_text())
    directory.mkdir(parents=True, exist_ok=True)
    drawings = {"cpu": ("cost", cost), "latency": ("latency", latency),
                "memory": ("memory", memory), "growth": ("growth", growth)}
    for section, (name, draw) in drawings.items():
        if section not in found:
            continue
        for theme, colours in THEMES.items():
            plt.rcParams.update(style(colours))
            figure = draw(found, colours)
            figure.savefig(directory / f"{name}-{theme}.svg", transparent=True,
                           metadata={"Date": None})
            plt.close(figure)


def style(colours):
    ink = colours["ink"]
    return {
        "svg.hashsalt": "placet", "svg.fonttype": "none", "font.family": "sans-serif",
        "font.size": 10, "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink,
        "xtick.color": ink, "ytick.color": ink, "grid.color": colours["faint"],
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
        "axes.prop_cycle": matplotlib.cycler(color=colours["lines"]),
    }


def cost(found, colours):
    """A bar for each case, with as many streams as were measured at most."""
    streams, figures = list(found["cpu"]["streams"].items())[-1]
    names = list(found["titles"])[::-1]
    middles = [statistics.median(figures[name]) for name in names]
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.3 * len(names)), layout="constrained")
    shades = [colours["lines"][0] if is_reference(name) else colours["bar"] for name in names]
    bars = axes.barh([found["titles"][name] for name in names], middles, color=shades, height=0.7)
    axes.bar_label(bars, [f"{middle:.1f}" for middle in middles], padding=3)
    axes.set_xlabel(f"µs of CPU per request, {streams} streams")
    axes.margins(x=0.1)
    return figure


def is_reference(name):
    return name.startswith(("floor", "peer-"))


def latency(found, colours):
    """A panel for each rate: latency by percentile, the tail stretched."""
    rates = found["latency"]["rates"]
    figure, panels = plt.subplots(1, len(rates), figsize=(3 * len(rates), 3.4), sharey=True,
                                  squeeze=False, layout="constrained")
    for axes, (rate, cases) in zip(panels[0], rates.items()):
        for name, each in cases.items():
            percentiles, values = zip(*each["curve"])
            # How many requests there are for one that takes longer.
            axes.plot([100 / (100 - at) for at in percentiles], values,
                      label=found["titles"][name])
        axes.set(xscale="log", yscale="log", title=f"{int(rate):,} a second")
        axes.set_xticks([2, 10, 100, 1000], ["p50", "p90", "p99", "p99.9"])
        axes.minorticks_off()
        axes.grid(axis="y")
    panels[0][0].set_ylabel("µs from when it was due")
    panels[0][0].legend()
    return figure


def memory(found, colours):
    seconds, resident = zip(*found["memory"]["samples"])
    figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
    axes.plot(seconds, resident, color=colours["bar"])
    axes.set(xlabel="seconds of load, 32 streams", ylabel="resident MiB")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    return figure


def growth(found, colours):
    """A panel for each table."""
    tables = found["growth"]
    rows = -(-len(tables) // 3)
    figure, panels = plt.subplots(rows, 3, figsize=(9, 2.6 * rows), squeeze=False,
                                  layout="constrained")
    flat = [axes for row in panels for axes in row]
    for axes in flat[len(tables):]:
        axes.axis("off")
    for axes, (name, table) in zip(flat, tables.items()):
        columns = [column for column in table[0] if column != "size"]
        for column in columns:
            axes.plot([row["size"] for row in table], [row[column] for row in table], label=column)
        axes.set(xscale="log", yscale="log", title=name)
        # Whole decades, so that what hardly grows looks it.
        bottom, top = axes.get_ylim()
        axes.set_ylim(10 ** math.floor(math.log10(bottom)), 10 ** math.ceil(math.log10(top)))
        axes.minorticks_off()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,g}")
        axes.grid(axis="y")
        axes.legend()
    for row in panels:
        row[0].set_ylabel("µs")
    return figure


if __name__ == "__main__":
    main()
