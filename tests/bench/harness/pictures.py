"""Has the pictures drawn, by a Python that has matplotlib."""

from .build import in_shell, must
from .places import BENCH, ROOT


def draw(report, directory):
    venv = "target/venv-bench"
    in_shell(f"need_tools; install_python {venv} tests/bench/requirements.txt")
    python = ROOT / venv / "bin" / "python"
    must(python, BENCH / "harness" / "plot.py", report.resolve(), directory.resolve())
