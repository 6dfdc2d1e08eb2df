"""Programs that a test starts: their logs are kept, and they are ended by pid."""

import random
import signal
import socket
import subprocess
import time
from pathlib import Path

_ports_given = set()
_running = []


def free_port():
    """A loopback port nobody listens on, below the range the kernel hands to outgoing connections."""
    while True:
        port = random.randrange(20000, 32000)
        if port in _ports_given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _ports_given.add(port)
        return port


def wait_until(check, what, seconds=20):
    """Polls `check` until it returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s\n{all_logs()}")
        time.sleep(0.02)


def all_logs(lines=40):
    """The ends of the logs of everything that runs, for a failure report."""
    return "\n".join(process.tail(lines) for process in _running)


class Process:
    """One program with its output in files. Use as a context manager."""

    def __init__(self, name, argv, directory, env=None):
        self.name, self.argv, self.env = name, [str(arg) for arg in argv], env
        self.stdout_file = Path(directory) / f"{name}.stdout"
        self.stderr_file = Path(directory) / f"{name}.stderr"
        self.popen = None

    def start(self):
        with self.stdout_file.open("ab") as stdout, self.stderr_file.open("ab") as stderr:
            self.popen = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=self.env
            )
        if self not in _running:
            _running.append(self)
        return self

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, seconds=10):
        """The exit code."""
        return self.popen.wait(seconds)

    def ended(self):
        return self.popen.poll() is not None

    def stop(self):
        if self in _running:
            _running.remove(self)
        if self.popen is None or self.ended():
            return
        self.signal(signal.SIGTERM)
        try:
            self.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.wait()

    def wait_until(self, check, what, seconds=20):
        """Like the function, but says at once when the program ends instead."""

        def check_or_ended():
            found = check()
            if not found and self.ended():
                raise RuntimeError(f"{self.name} ended with {self.popen.returncode}\n{self.tail()}")
            return found

        return wait_until(check_or_ended, what, seconds)

    @property
    def stdout(self):
        return self.stdout_file.read_text(errors="replace") if self.stdout_file.exists() else ""

    @property
    def stderr(self):
        return self.stderr_file.read_text(errors="replace") if self.stderr_file.exists() else ""

    def tail(self, lines=40):
        last = (self.stdout + self.stderr).splitlines()[-lines:]
        return "\n".join([f"--- {self.name} (pid {self.popen and self.popen.pid})", *last])

    def __enter__(self):
        if self.popen:
            return self
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()
