"""`placet-control snapshots`: a control plane whose namespaces are directories, and sidecars that follow it."""

import os
from pathlib import Path

import requests
import yaml

from .placet import Placet
from .process import Process, free_port

BINARY = os.environ.get("PLACET_TEST_CONTROL_BINARY", "target/debug/placet-control")


class ControlPlane(Process):
    """`authority` made the certificate `control`; `api` reviews the sidecars' tokens."""

    def __init__(self, directory, authority, api):
        self.directory, self.authority, self.api = Path(directory), authority, api
        self.port, self.jwks_port = free_port(), free_port()
        self.namespaces = self.directory / "namespaces"
        self.namespaces.mkdir(parents=True, exist_ok=True)
        certificate, key = authority.pair("control")
        (self.directory / "control-token").write_text(api.token)
        settings = {"version": 1, "snapshots": {
            "address": f"127.0.0.1:{self.port}", "certificateFile": certificate, "keyFile": key, "directory": "namespaces",
            "tokenReview": {"url": api.url, "caFile": str(authority.file), "tokenFile": "control-token"},
            "jwks": {"address": f"127.0.0.1:{self.jwks_port}", "certificateFile": certificate, "keyFile": key},
        }}
        file = self.directory / "control.yaml"
        file.write_text(yaml.safe_dump(settings))
        env = {**os.environ, "PLACET_LOG": "placet=debug"}
        super().__init__("placet-control", [BINARY, "snapshots", "--config", file], directory, env)

    def start(self):
        already = self.stderr.count("listening")
        super().start()
        self.wait_until(lambda: self.stderr.count("listening") >= already + 2, "the control plane listens")
        return self

    def publish(self, namespace, settings, files):
        """What the namespace's sidecars are to have: `placet.yaml` and the files that it names."""
        place = self.namespaces / namespace
        place.mkdir(exist_ok=True)
        texts = {"placet.yaml": settings if isinstance(settings, str) else yaml.safe_dump(settings, sort_keys=False), **files}
        for name, text in texts.items():
            beside = place / f".{name}"
            beside.write_text(text)
            beside.rename(place / name)

    def get(self, path, **kind):
        return requests.get(f"https://127.0.0.1:{self.jwks_port}{path}", verify=str(self.authority.file), timeout=5, **kind)


class Sidecar(Placet):
    """A Placet that has its scopes from the control plane; `token` is its ServiceAccount's."""

    def __init__(self, directory, control, token, scopes=(), **settings):
        directory = Path(directory)
        directory.mkdir(exist_ok=True)
        (directory / "token").write_text(token)
        follow = {"address": f"https://127.0.0.1:{control.port}", "tokenFile": "token", "caFile": str(control.authority.file), "directory": "snapshots"}
        super().__init__(directory, list(scopes), controlPlane=follow, **settings)

    @property
    def following(self):
        """What /readyz says of the control plane."""
        return self.readiness()[1]["controlPlane"]

    def follows(self, revision=None):
        """Waits until a snapshot, other than `revision`, is in force; returns its revision."""
        def new():
            found = self.following
            return found["connected"] and found["revision"] != revision and found["refused"] is None and found["revision"]

        return self.wait_until(new, "another snapshot is in force")
