"""`placet` itself: settings as a dict, written to a file, and the program run on it."""

import datetime
import json
import os
import subprocess
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from .client import get
from .process import Process, free_port

BINARY = os.environ.get("PLACET_TEST_BINARY", str(Path(__file__).parents[3] / "target" / "release" / "placet"))

POLICY = """
permit (principal in Group::"readers", action == Action::"read", resource is Account);
permit (principal in Group::"readers", action == Action::"close", resource == Account::"7");
forbid (principal, action, resource == Account::"secret");
"""

ROUTES = [
    {"match": {"methods": ["GET"], "path": "/accounts/{account}"}, "asset": {"type": "Account", "id": "{account}"}, "action": "read"},
    {"match": {"methods": ["DELETE"], "path": "/accounts/{account}"}, "asset": {"type": "Account", "id": "{account}"}, "action": "close"},
    {"match": {"path": "/healthz"}, "bypass": True},
]


# A change to this takes the key away; None is YAML's null.
REMOVED = object()


def merged(base, changes):
    """`base` with `changes` laid over it."""
    result = dict(base)
    for key, value in changes.items():
        if value is REMOVED:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def scope(issuer, client_id="orders", **changes):
    """A scope of the orders application, for tokens of `issuer`."""
    base = {
        "clientId": client_id,
        "identity": {"jwt": [{"issuer": issuer.url, "audiences": ["orders"], "jwksUri": issuer.jwks_uri}]},
        "routes": ROUTES,
        "policy": {"engine": "cedar", "files": ["orders.cedar"]},
        "jwtResponse": {"audience": f"{client_id}-api", "tokenLifetimeSeconds": 60},
    }
    return merged(base, changes)


def new_private_key(algorithm):
    if algorithm in ("ES256", "ES384"):
        return ec.generate_private_key(ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def pem(key, form="PKCS8"):
    """PKCS8, or TraditionalOpenSSL: SEC1 for EC and PKCS#1 for RSA."""
    encoding, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    return key.private_bytes(encoding, getattr(serialization.PrivateFormat, form), no_password).decode()


def certificate(key, common_name="orders"):
    """A self-signed certificate for the key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def run(*argv, env=None, stdin=None, seconds=10):
    """One `placet` command to its end."""
    environment = {**os.environ, **(env or {})}
    return subprocess.run([BINARY, *map(str, argv)], env=environment, input=stdin, timeout=seconds,
                          capture_output=True, text=True)


class Placet(Process):
    """`placet serve` in a directory of its own, with a file store in `keys/`."""

    def __init__(self, directory, scopes, stores=None, keys=None, policy=POLICY, env=None, grpc=None, **settings):
        self.directory = Path(directory)
        self.directory.mkdir(exist_ok=True)
        (self.directory / "keys").mkdir(exist_ok=True)
        (self.directory / "orders.cedar").write_text(policy)
        for name, text in (keys or {}).items():
            self.write_key(name, text)
        self.socket = self.directory / "authz.sock"
        self.grpc = grpc or f"unix:{self.socket}"
        self.http, self.admin = free_port(), free_port()
        listen = {"grpc": self.grpc, "http": f"127.0.0.1:{self.http}", "admin": f"127.0.0.1:{self.admin}"}
        files = [{"id": "files", "type": "file", "default": True, "details": {"directory": "keys"}}]
        # `PLACET_TEST_REUSE=off` tries everything without decisions that are used again.
        reuse = {"enabled": os.environ.get("PLACET_TEST_REUSE") != "off"}
        # Tests say when the settings are read again; those that watch say so.
        settings = {"reload": {"watch": False}, **settings}
        self.settings = {"version": 1, "listen": listen, "secretStores": stores or files, "scopes": scopes, "reuse": reuse, **settings}
        self.settings_file = self.write(self.settings)
        super().__init__("placet", [BINARY, "serve", "--config", self.settings_file], directory, {**os.environ, **(env or {})})

    def write_key(self, name, text):
        (self.directory / "keys" / f"{name}.pem").write_text(text)

    def write(self, settings):
        file = self.directory / "placet.yaml"
        file.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings, sort_keys=False))
        return file

    def start(self, until_ready=True):
        super().start()
        if until_ready:
            self.wait_until(lambda: self.readiness()[0] == 200, "placet is ready")
        return self

    def readiness(self):
        """Status and page of /readyz; status 0 while nothing listens."""
        try:
            answer = get(self.admin, "/readyz")
        except OSError:
            return 0, {}
        return answer.status, answer.json()

    def decisions(self):
        """The decision log, of all that was decided so far: one JSON object a line of standard output."""
        def lines():
            return [json.loads(line) for line in self.stdout.split("\n")[:-1]]

        def all_are_there():
            try:
                samples = self.metrics()
            except OSError:
                return True
            decided = sum(value for name, value in samples.items() if name.startswith("placet_decisions_total"))
            return sum("shadowOf" not in line for line in lines()) >= decided

        if self.settings.get("decisionLog", {}).get("sink", "stdout") == "stdout":
            self.wait_until(all_are_there, "every decision is in the log")
        return lines()

    def metrics(self):
        """Sample name with labels -> value."""
        lines = get(self.admin, "/metrics").body.decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def jwks(self, client_id="orders"):
        answer = get(self.http, f"/scopes/{client_id}/jwks.json")
        assert answer.status == 200, answer
        return answer.json()
