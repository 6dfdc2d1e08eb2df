"""Builds what is measured, and what measures."""

import json
import os
import shutil
import subprocess

from .places import BENCH, OUT, ROOT, TARGET, WORK, fail

PLACET = TARGET / "release" / "placet"
FLOOR = OUT / "floor" / "release" / "floor"
FLOOR_MIMALLOC = OUT / "floor-mimalloc" / "release" / "floor"
CLIENT = OUT / "client" / "release" / "bench-client"


def programs(binary):
    """Everything but the benches; `placet` itself, which is the one given, if one is."""
    _cargo(BENCH / "floor", OUT / "floor")
    _cargo(BENCH / "floor", OUT / "floor-mimalloc", "--features", "mimalloc")
    _cargo(BENCH / "client", OUT / "client")
    if binary:
        return binary.resolve()
    _cargo(ROOT, TARGET, "--bin", "placet")
    return PLACET


def with_system_allocator():
    """`placet` with the allocator that valgrind sees into."""
    target = OUT / "system-allocator"
    _cargo(ROOT, target, "--bin", "placet", "--no-default-features", "--features", "aws,azure")
    return target / "release" / "placet"


def bench(name):
    """The program of one of Cargo's benches. Cargo builds `placet` beside it, by the profile of benches: elsewhere,
    so that it is not what is measured."""
    command = ["cargo", "bench", "--locked", "--bench", name, "--no-run", "--message-format=json"]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True,
                           env={**os.environ, "CARGO_TARGET_DIR": str(OUT / "benches")})
    if ended.returncode != 0:
        fail(f"`{' '.join(command)}` failed")
    built = [json.loads(line) for line in ended.stdout.splitlines()]
    return next(each["executable"] for each in built
                if each.get("executable") and each["target"]["name"] == name)


def workspace(placet, algorithms):
    """A new directory with signing keys, and with an issuer and its tokens."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    for name, algorithm in algorithms.items():
        must(placet, "keygen", "--algorithm", algorithm, "--out", WORK / "keys", "--name", name)
    must(CLIENT, "prepare", WORK)


def must(*command):
    """Runs a command that has to succeed; its output."""
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        fail(ended.stderr)
    return ended.stdout


def in_shell(line):
    """Runs a line of the scripts that install the Python tools."""
    script = f". deploy/quickstart/install.sh && {line}"
    ended = subprocess.run(["bash", "-euc", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if ended.returncode != 0:
        fail(f"`{line}` failed")
    return ended.stdout.strip()


def _cargo(directory, target, *arguments):
    command = ["cargo", "build", "--release", "--locked", "--quiet", *arguments]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    if subprocess.run(command, cwd=directory, env=environment).returncode != 0:
        fail(f"`{' '.join(command)}` failed in {directory}")
