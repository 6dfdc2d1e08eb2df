"""The servers: the floor, Placet, and the peers."""

import contextlib
import json
import shlex
import time
import urllib.request

from . import processes, settings
from .build import FLOOR, FLOOR_MIMALLOC, must
from .places import SERVER_CORE, WORK


class Server:
    """A running server: its processes, where it takes calls, and when it became ready."""

    def __init__(self, name, pid, address, reader=None):
        self.name, self.pid, self.address = name, pid, address
        # Who reads its decision log.
        self.reader = reader
        self.ready_at = time.monotonic()

    def jwks(self, scope):
        return WORK / f"{self.name}-{scope}.jwks.json"


class Placet:
    """The program that is measured."""

    def __init__(self, binary):
        self.binary = binary
        schema = json.loads(must(binary, "schema"))
        self.can_reuse = "reuse" in schema["properties"]

    @contextlib.contextmanager
    def serving(self, name="placet", grpc=None, cores=frozenset({SERVER_CORE}), wrapper=(),
                scopes=tuple(settings.ALGORITHMS), **more):
        """`placet serve`; its decision log goes to a pipe that is read and forgotten."""
        grpc = grpc or processes.free_address()
        http, admin = processes.free_address(), processes.free_address()
        path = settings.write(name, grpc, http, admin, scopes, **more)
        command = [*wrapper, self.binary, "serve", "--config", path]
        with processes.drain() as reader:
            with processes.running(command, name, cores, reader.stdin) as process:
                processes.wait_until(lambda: processes.is_answering(f"http://{admin}/readyz"), process, name)
                server = Server(name, process.pid, grpc, reader.pid)
                for scope in scopes:
                    with urllib.request.urlopen(f"http://{http}/scopes/{scope}/jwks.json") as jwks:
                        server.jwks(scope).write_bytes(jwks.read())
                yield server


@contextlib.contextmanager
def floor(name="floor", address=None, wrapper=()):
    program = FLOOR_MIMALLOC if name == "floor-mimalloc" else FLOOR
    address = address or processes.free_address()
    with processes.running([*wrapper, program, address], name, {SERVER_CORE}) as process:
        processes.wait_until(lambda: processes.is_listening(address), process, name)
        yield Server(name, process.pid, address)


@contextlib.contextmanager
def peer(name, command):
    address = processes.free_address()
    words = [word.replace("{address}", address) for word in shlex.split(command)]
    with processes.running(words, name, {SERVER_CORE}) as process:
        processes.wait_until(lambda: processes.is_listening(address), process, name)
        yield Server(name, process.pid, address)


@contextlib.contextmanager
def all_of(placet, peers):
    """Every server that a case names."""
    with contextlib.ExitStack() as stack:
        opened = [
            floor(),
            floor("floor-mimalloc"),
            floor("floor-unix", f"unix:{WORK}/floor.sock"),
            placet.serving(),
            # Their answers would take what the others' need of `reuse.maxBytes`.
            placet.serving("placet-cold"),
            placet.serving("placet-rego"),
            placet.serving("placet-unix", f"unix:{WORK}/placet.sock"),
            placet.serving("placet-cold-unix", f"unix:{WORK}/placet-cold.sock"),
            *(peer(f"peer-{name}", command) for name, command in peers),
        ]
        if placet.can_reuse:
            opened.append(placet.serving("placet-no-reuse", reuse={"enabled": False}))
        servers = [stack.enter_context(each) for each in opened]
        yield {server.name: server for server in servers}


def alone(case, placet, wrapper):
    """The server of a case by itself, under a tool."""
    unix = case.server.endswith("-unix")
    if case.server.startswith("floor"):
        return floor(case.server, f"unix:{WORK}/floor.sock" if unix else None, wrapper)
    more = {"reuse": {"enabled": False}} if case.server == "placet-no-reuse" else {}
    return placet.serving(case.server, f"unix:{WORK}/placet.sock" if unix else None,
                          wrapper=wrapper, **more)
