"""Programs that run beside the benchmark, and what the kernel knows of them."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.request

from .places import CLIENT_CORE, WORK, fail


@contextlib.contextmanager
def running(command, name, cores, stdout=None):
    """A program on its cores, with its output in files, until the end of the block."""
    with open(WORK / f"{name}.out", "wb") as out, open(WORK / f"{name}.err", "wb") as err:
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                   stdout=stdout or out, stderr=err, preexec_fn=pinned(cores))
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextlib.contextmanager
def drain():
    """A pipe with somebody at its end who reads and forgets, on the client's core."""
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                              preexec_fn=pinned({CLIENT_CORE}))
    try:
        yield reader
    finally:
        reader.stdin.close()
        reader.wait()


def pinned(cores):
    return lambda: os.sched_setaffinity(0, cores)


def wait_until(condition, process, name):
    deadline = time.monotonic() + 120
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            fail(f"`{name}` did not start:\n{(WORK / (name + '.err')).read_text()}")
        time.sleep(0.0005)


def is_listening(address):
    path = address.removeprefix("unix:")
    try:
        if path != address:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
        else:
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=5).close()
        return True
    except OSError:
        return False


def is_answering(url):
    """With success, and within 5 s: who starts under callgrind may be slower than that at first."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def free_address():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def cpu_nanoseconds(pid):
    """The time all threads of a process have run, its own and the kernel's for it; also of those
    that ended."""
    # clock_getcpuclockid(3), which Python does not have.
    return time.clock_gettime_ns(~pid << 3 | 2)


def resident_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M).group(1)) / 1024
