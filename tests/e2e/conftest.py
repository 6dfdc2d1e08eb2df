import os
import shutil
import tempfile
from pathlib import Path

import pytest

from harness import process
from harness.echo import Echo
from harness.issuer import Issuer

os.environ["no_proxy"] = "127.0.0.1"


@pytest.fixture(scope="module")
def directory():
    """A directory with a short name: Unix socket paths end at 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="placet-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def issuer():
    with Issuer() as running:
        yield running


@pytest.fixture(scope="module")
def echo():
    with Echo() as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows the logs of everything that runs below a failure."""
    report = yield
    if report.failed:
        report.sections.append(("logs of the running programs", process.all_logs()))
    return report
