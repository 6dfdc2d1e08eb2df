"""The images of deploy/Dockerfile, built by buildah from programs that are there, and what is in them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.placet import BINARY
from harness.tools import BUILDAH, must

pytestmark = pytest.mark.skipif(not BUILDAH or os.geteuid() != 0, reason="needs buildah, and root")

ROOT = Path(__file__).parents[2]
CONTROL = os.environ.get("PLACET_TEST_CONTROL_BINARY", "target/debug/placet-control")
MACHINE = [f"/{name}" for name in ["bin", "lib", "lib64", "usr", "etc/ssl"] if Path(f"/{name}").exists()]


class Buildah:
    def __init__(self, place):
        self.place = place
        place.mkdir()
        (place / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))

    def __call__(self, command, *argv):
        storage = ["--root", self.place / "root", "--runroot", self.place / "run", "--storage-driver", "vfs"]
        policy = ["--signature-policy", self.place / "policy.json"] if command in ("build", "commit", "from") else []
        return must(BUILDAH, *storage, command, *policy, *argv, cwd=self.place).strip()


@pytest.fixture(scope="module")
def buildah(directory):
    """With an image that stands for the one programs are built in: nothing, on which the machine's own tools are mounted."""
    run = Buildah(directory / "buildah")
    container = run("from", "scratch")
    run("config", "--env", "PATH=/usr/bin:/bin", container)
    run("commit", "--quiet", container, "localhost/machine")
    yield run
    run("rm", "--all")
    run("rmi", "--all", "--force")


@pytest.fixture(scope="module", params=["placet", "placet-control"])
def image(request, directory, buildah):
    """Its name, its configuration, and where its files are."""
    context = directory / "context"
    (context / "dist").mkdir(parents=True, exist_ok=True)
    (context / "deploy").mkdir(exist_ok=True)
    for file in ["deploy/Dockerfile", "deploy/image"]:
        shutil.copy(ROOT / file, context / file)
    for program, name in [(BINARY, "placet"), (CONTROL, "placet-control")]:
        if not (context / "dist" / name).exists():
            subprocess.run(["strip", "-o", context / "dist" / name, program], check=True)
    mounts = [part for path in MACHINE for part in ["--volume", f"{path}:{path}:ro"]]
    buildah("build", "--quiet", "--isolation", "chroot", "--pull-never", "--build-arg", "BUILD=localhost/machine", *mounts, "--target", request.param,
            "--file", context / "deploy/Dockerfile", "--tag", f"localhost/{request.param}", context)
    config = json.loads(buildah("inspect", "--type", "image", f"localhost/{request.param}"))["OCIv1"]["config"]
    container = buildah("from", "--pull-never", f"localhost/{request.param}")
    yield request.param, config, Path(buildah("mount", container))
    buildah("rm", container)


def test_the_image_is_one_program_and_not_root(image):
    name, config, root = image
    assert (config["User"], config["Entrypoint"]) == ("65532:65532", [f"/usr/bin/{name}"])
    files = [file for file in root.rglob("*") if file.is_file() and not file.is_symlink()]
    programs = [str(file.relative_to(root)) for file in files if file.stat().st_mode & 0o111 and ".so" not in file.name]
    assert programs == [f"usr/bin/{name}"]
    assert not [file for file in root.rglob("*") if file.lstat().st_mode & 0o6000], "nothing is set-uid"
    writable = [file for file in root.rglob("*") if not file.is_symlink() and file.stat().st_mode & 0o002]
    assert writable == [root / "tmp"]
    assert len(files) < 16


def test_the_program_runs_as_it_will(image):
    name, config, root = image
    run = ["chroot", f"--userspec={config['User']}", root, *config["Entrypoint"]]
    assert must(*run, "--version").startswith(f"{name} ")
    if name == "placet":
        settings = root / "tmp/placet.yaml"
        settings.write_text("version: 1\nscopes: []\n")
        done = subprocess.run([*run, "validate", "--config", "/tmp/placet.yaml"], capture_output=True, text=True)
        assert done.returncode == 2 and "scopes" in done.stderr
    else:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"placet.dev/inject": "true"}},
               "spec": {"containers": [{"name": "envoy", "image": "e:1"}]}}
        assert "placet-socket" in must(*run, "inject", "-f", "-", input=json.dumps(pod))


def test_names_and_authorities_can_be_looked_up(image):
    _, _, root = image
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERTIFICATE") > 50
    assert (root / "etc/nsswitch.conf").read_text() == "hosts: files dns\n"
    assert "65532" in (root / "etc/passwd").read_text()
