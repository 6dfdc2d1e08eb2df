"""A kubelet, as far as one pod goes: starts what a pod template says as processes, each with a root of its own.

Containers see the machine's programs, their image's files, their volumes and nothing else of the disk (mount namespaces, so
this needs root); they share the machine's network, as containers of a pod share the pod's. Users, groups and capabilities
are as the template has them. Native sidecars are started in their order, each awaited by its startup probe, before the
containers, and are ended after them; `preStop` comes before SIGTERM.
"""

import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

from .client import get
from .process import Process

MACHINE = ["bin", "lib", "lib32", "lib64", "opt", "sbin", "usr"]


def is_possible():
    """Whether there may be mount namespaces."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


class Image:
    """What an image's entry point is here, the user it runs as if nobody says otherwise, and what it has of its own."""

    def __init__(self, *entrypoint, user, files=()):
        self.entrypoint, self.user, self.files = [str(part) for part in entrypoint], user, [Path(file) for file in files]


class Pod:
    """`template` as injected; `volumes` has a directory for each that is no emptyDir."""

    def __init__(self, template, images, volumes, directory):
        self.spec, self.images, self.directory = template["spec"], images, Path(directory)
        self.volumes = {name: Path(path) for name, path in volumes.items()}
        self.sidecars, self.containers = [], []
        for volume in self.spec.get("volumes", []):
            if "emptyDir" in volume:
                path = self.directory / volume["name"]
                path.mkdir()
                path.chmod(0o777)
                self.volumes[volume["name"]] = path

    def start(self):
        for container in self.spec.get("initContainers", []):
            process = self.run(container)
            if container.get("restartPolicy") == "Always":
                self.sidecars.append(process)
                self.await_probe(process, "startupProbe")
            else:
                assert process.wait(30) == 0, process.tail()
        self.containers = [self.run(container) for container in self.spec["containers"]]
        for process in self.sidecars + self.containers:
            self.await_probe(process, "readinessProbe")
        return self

    def run(self, container):
        return Process(container["name"], self.argv(container), self.directory, self.environment(container)).start()

    def environment(self, container):
        """And nothing of ours."""
        return {"PATH": os.environ["PATH"], **{each["name"]: each["value"] for each in container.get("env", [])}}

    def argv(self, container):
        image = self.images[container["image"]]
        command = container.get("command", image.entrypoint) + container.get("args", [])
        pod, own = self.spec.get("securityContext", {}), container.get("securityContext", {})
        user = own.get("runAsUser", pod.get("runAsUser", image.user))
        group = own.get("runAsGroup", pod.get("runAsGroup", user))
        groups = ",".join(map(str, [group, *pod.get("supplementalGroups", [])]))
        assert user or not own.get("runAsNonRoot", pod.get("runAsNonRoot"))
        who = ["setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={groups}"]
        if own.get("allowPrivilegeEscalation") is False:
            who += ["--no-new-privs"]
        if own.get("capabilities", {}).get("drop") == ["ALL"]:
            who += ["--inh-caps=-all", "--bounding-set=-all"]
        return ["unshare", "-m", "--propagation", "private", "sh", "-euc", self.root(container, image), "root", *who, *command]

    def root(self, container, image):
        """A script that makes the container's root and runs its arguments there."""
        root = self.directory / f"root-{container['name']}"
        root.mkdir(exist_ok=True)
        at = lambda path: shlex.quote(f"{root}/{str(path).strip('/')}")
        lines = [f"mount -t tmpfs root {root}", f"cd {root}", "mkdir -m 1777 tmp", "mkdir dev etc proc sys run var"]
        for name in MACHINE:
            if Path(f"/{name}").is_symlink():
                lines += [f"ln -s {os.readlink(f'/{name}')} {name}"]
            elif Path(f"/{name}").is_dir():
                lines += [f"mkdir {name}", f"mount --rbind -o ro /{name} {name}"]
        lines += ["mount --rbind /dev dev", "mount --rbind /proc proc", "cp -r /etc/passwd /etc/group /etc/ld.so.cache /etc/ssl etc/"]
        for file in image.files:
            if file.parts[1] not in MACHINE:
                made = f"mkdir -p {at(file)}" if file.is_dir() else f"mkdir -p {at(file.parent)}; touch {at(file)}"
                lines += [made, f"mount --bind -o ro {file} {at(file)}"]
        for mount in container.get("volumeMounts", []):
            mode = "ro" if mount.get("readOnly") else "rw"
            lines += [f"mkdir -p {at(mount['mountPath'])}",
                      f"mount --bind {self.volumes[mount['name']]} {at(mount['mountPath'])}",
                      f"mount -o remount,bind,{mode} {at(mount['mountPath'])}"]
        if container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            lines += [f"mount -o remount,ro {root}"]
        return "\n".join([*lines, f'exec chroot {root} "$@"'])

    def probe(self, name, kind):
        """As the kubelet does: 200 to 399 is well."""
        [container] = [it for it in self.spec.get("initContainers", []) + self.spec["containers"] if it["name"] == name]
        asked = container.get(kind, {}).get("httpGet")
        if not asked:
            return True
        try:
            return 200 <= get(asked["port"], asked["path"]).status < 400
        except OSError:
            return False

    def await_probe(self, process, kind):
        process.wait_until(lambda: self.probe(process.name, kind), f"{process.name}: {kind}", 60)

    def terminate(self):
        """As when the pod is deleted; returns the exit codes in the order in which they came."""
        ended = []

        def end(process, container):
            time.sleep(container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0))
            process.signal(signal.SIGTERM)
            ended.append((process.name, process.wait(self.spec.get("terminationGracePeriodSeconds", 30))))

        threads = [threading.Thread(target=end, args=pair) for pair in zip(self.containers, self.spec["containers"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        specs = {it["name"]: it for it in self.spec.get("initContainers", [])}
        for process in reversed(self.sidecars):
            end(process, specs[process.name])
        return ended

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        for process in [*self.containers, *reversed(self.sidecars)]:
            process.stop()
