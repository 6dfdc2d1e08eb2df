"""The quickstart does what it says, with keys in a file and in OpenBao, and leaves nothing running."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest
import yaml

from harness.process import wait_until

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "deploy" / "quickstart"


def environment(directory):
    return {**os.environ, "PLACET_QUICKSTART_DIR": str(directory), "TERM": "dumb"}


@pytest.mark.parametrize("option", [[], ["--vault"]], ids=["file", "vault"])
def test_it_shows_an_allowed_and_a_denied_request(tmp_path, option):
    shown = subprocess.run([QUICKSTART / "run", "--once", *option], env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stderr == ""
    token = re.search(r"x-placet-decision: (\S+)", shown.stdout)[1]
    assert token.count(".") == 2
    assert f'"htu": "{re.search(r"http://127.0.0.1:[0-9]+/orders/42", shown.stdout)[0]}"' in shown.stdout
    assert re.search(r"403: .*Forbidden", shown.stdout)
    assert ("OpenBao" in shown.stdout) == bool(option)


def test_its_next_commands_work_and_an_interrupt_stops_everything(tmp_path):
    log = tmp_path / "shown"
    demo = tmp_path / "demo"
    with log.open("w") as out:
        # As a terminal starts it: where the tests run in the background, interrupts are ignored, and no shell can change that.
        hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        running = subprocess.Popen([QUICKSTART / "run"], env=environment(demo), stdout=out, stderr=out, start_new_session=True, preexec_fn=hears)
    try:
        wait_until(lambda: running.poll() is not None or "Running." in log.read_text(), "the quickstart runs", 600)
        assert running.poll() is None, log.read_text()
        said = log.read_text()
        commands = [line.strip() for line in said.partition("Try next:")[2].splitlines() if line.strip().startswith("curl")]
        assert len(commands) == 5
        answers = [subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30).stdout for command in commands]
        assert answers[0].startswith("DELETE /orders/42\n")
        assert answers[1].startswith("HTTP/1.1 401")
        assert answers[2].startswith("GET /healthz\n") and "x-placet-decision" not in answers[2]
        assert json.loads(answers[3])["keys"][0]["kid"].startswith("orders-")
        assert "placet_decisions_total" in answers[4]
        addresses = set(re.findall(r"http://127\.0\.0\.1:[0-9]+", said))
    finally:
        os.killpg(running.pid, signal.SIGINT)
        code = running.wait(20)
    assert code == 0
    for address in addresses:
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(address, timeout=2)


def test_what_is_missing_is_said_in_one_line(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    shown = subprocess.run([shutil.which("bash"), QUICKSTART / "run"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "missing: cargo (install Rust with rustup)\n"


def test_an_unknown_option_is_refused():
    shown = subprocess.run([QUICKSTART / "run", "--help-me"], capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (2, "usage: deploy/quickstart/run [--vault] [--once]\n")


def test_the_two_settings_differ_in_the_store_only():
    in_file, in_vault = (yaml.safe_load((QUICKSTART / name).read_text()) for name in ("placet.yaml", "placet-vault.yaml"))
    assert in_file.pop("secretStores") != in_vault.pop("secretStores")
    assert in_file == in_vault
