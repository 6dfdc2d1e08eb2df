"""What can be asked for."""

import argparse
import pathlib

from .places import OUT

SECTIONS = ("start", "cpu", "instructions", "latency", "envoy", "memory", "growth")


def read():
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description="Measures Placet beside a server that decides nothing: its size, start and "
        "memory, what a request costs, and how long it takes.")
    parser.add_argument("--sections", type=_sections, default=SECTIONS, metavar="NAME,...",
                        help=f"measure only these of {', '.join(SECTIONS)}")
    parser.add_argument("--peer", type=_peer, action="append", default=[], metavar="NAME=COMMAND",
                        help="also measure this ext_authz server; `{address}` in the command is "
                        "where it is to listen")
    parser.add_argument("--rounds", type=_positive, default=60, help="rounds of each case (60)")
    parser.add_argument("--requests", type=_positive, default=1200,
                        help="requests a round, of cold ones a quarter (1200)")
    parser.add_argument("--rates", type=_numbers, default=(1000, 2000, 4000, 6000),
                        metavar="N,...", help="requests a second for latencies (1000,2000,4000,6000)")
    parser.add_argument("--envoy-rate", type=_positive, default=1000,
                        help="requests a second through Envoy (1000)")
    parser.add_argument("--rate-seconds", type=_positive, default=20,
                        help="for how long each case is sent a rate, in turns of half a second (20)")
    parser.add_argument("--memory-seconds", type=_positive, default=60,
                        help="how long memory is watched under load (60; 600 shows more)")
    parser.add_argument("--allocations", action="store_true",
                        help="also count allocations")
    parser.add_argument("--noisy", action="store_true",
                        help="report even if other work used the cores, and say so in the report")
    parser.add_argument("--binary", type=pathlib.Path,
                        help="measure this `placet` instead of building one")
    parser.add_argument("--replot", type=pathlib.Path, metavar="FILE.json",
                        help="measure nothing: draw the pictures from this report")
    parser.add_argument("--pictures", type=pathlib.Path, default=OUT, metavar="DIRECTORY",
                        help="where the pictures go (target/bench; those of the documentation "
                        "are in tests/bench/pictures)")
    return parser.parse_args()


def _sections(text):
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section `{unknown[0]}`")
    return names


def _numbers(text):
    return tuple(map(_positive, text.split(",")))


def _positive(text):
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"`{text}` is no number from 1 on")
    return int(text)


def _peer(text):
    name, separator, command = text.partition("=")
    if not (name and separator and "{address}" in command):
        raise argparse.ArgumentTypeError("write NAME=COMMAND, with `{address}` in the command")
    return name, command
