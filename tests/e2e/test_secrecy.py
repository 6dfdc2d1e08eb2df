"""Nothing secret is said: recognizable secrets wherever one can be, at every log level, looked for in everything that comes out."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from jwcrypto import jwk

from harness.authz import call, check_request, is_denial
from harness.bao import Bao
from harness.client import get, send
from harness.placet import BINARY, Placet, merged, new_private_key, pem, run, scope
from harness.process import wait_until

POLICY = (Path(__file__).parents[2] / "deploy" / "vault" / "placet.hcl").read_text()
LEVELS = ["error", "warn", "info", "debug", "trace"]
PAGES = ["/livez", "/readyz", "/metrics", "/config"]


# --- what is looked for


def forms(secret):
    """The ways in which a text or bytes could have been written down."""
    data = secret if isinstance(secret, bytes) else secret.encode()
    found = {data.hex(), data.hex().upper(), data.hex(":"), ", ".join(map(str, data)), ",".join(map(str, data))}
    if not isinstance(secret, bytes):
        found |= {secret, urllib.parse.quote(secret, safe=""), json.dumps(secret)[1:-1], "".join(f"\\x{byte:02x}" for byte in data)}
    # In the middle of other base64 the text stands at one of three places of a group.
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + data)
        inner = encoded[(shift * 8 + 5) // 6:len(data) * 4 // 3 - 3 + shift].decode()
        found |= {inner, inner.translate(str.maketrans("+/", "-_"))}
    assert all(len(form) >= 8 for form in found), f"too short to be told from chance: {found}"
    return found


def found_in(said, secrets):
    """(name of the secret, its form, the line) for each one that was said."""
    found = []
    for name, secret in secrets.items():
        for form in forms(secret):
            if form in said:
                line = next((line for line in said.splitlines() if form in line), form)
                found.append((name, form, line[:400]))
    return found


def secrets_of(name, key):
    """Of a private key: each whole line of its PEM, and its number."""
    lines = [line for line in pem(key).splitlines() if "-----" not in line and len(line) > 20]
    parts = {f"{name}, line {index}": line for index, line in enumerate(lines)}
    return {**parts, f"{name}, number": private_number(key)}


def private_number(key):
    if hasattr(key, "private_bytes_raw"):
        return key.private_bytes_raw()
    return key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")


def test_the_search_finds_every_form():
    """Each of these would be missed by a search for the plain text alone, except the first."""
    secret = "s.canary+/Token?42"
    for said in (secret, base64.b64encode(secret.encode()).decode(), base64.urlsafe_b64encode(b"user:" + secret.encode()).decode(),
                 base64.b64encode(b"ab" + secret.encode() + b"tail").decode(), secret.encode().hex(), str(list(secret.encode())),
                 urllib.parse.quote(secret, safe=""), f'"{json.dumps(secret)}"'):
        assert found_in(f"so it said {said} and went on", {"it": secret}), said
    assert not found_in("s.canary and nothing else", {"it": secret})


# --- a Placet with a secret wherever one can be


@pytest.fixture(scope="module")
def bao(directory):
    with Bao(directory) as running:
        running.policy("placet", POLICY)
        yield running


def canary(what):
    """A text that is found again, and different each time."""
    return f"canary-{what}-{os.urandom(9).hex()}"


class Planted:
    """Scopes that work and scopes that can't, each with secrets of its own; `secrets` names them all."""

    def __init__(self, bao, issuer, place, level, log_format):
        self.bao, self.issuer, self.path, self.secrets, self.env = bao, issuer, f"placet/{place.name}", {}, {"PLACET_LOG": level}
        self.stores = [{"id": "files", "type": "file", "default": True, "details": {"directory": "keys"}},
                       {"id": "environment", "type": "env", "details": {"prefix": "KEY_"}}]
        self.scopes, self.files = [], {}
        self.add_keys()
        self.add_logins()
        self.placet = Placet(place, self.scopes, stores=self.stores, env=self.env, startupGrace="1s")
        self.placet.argv += ["--log-format", log_format]
        for name, text in self.files.items():
            (place / name).write_text(text)
        self.said = ""

    def secret(self, what, value=None):
        """One of our making, the same each time; or a given one, of which there may be several."""
        if value is None:
            return self.secrets.setdefault(what, canary(what))
        self.secrets[f"{what}, {len(self.secrets)}"] = value
        return value

    def scope(self, name, store="files", **signing):
        """A scope whose key is the field of its name."""
        self.scopes.append(scope(self.issuer, name, match={"hosts": [f"{name}.example.com"]},
                                 jwtSigning={"secretStore": store, "publishBefore": "1s", **signing},
                                 jwtResponse={"keyId": "{{client_id}}-{{key_version}}"}))

    def vault(self, name, **auth):
        details = {"address": self.bao.address, "defaultPath": self.path, "refreshInterval": "500ms", "timeout": "1s", "auth": auth}
        self.stores.append({"id": name, "type": "vault", "details": details})
        self.scope(name, name, keyName="orders")

    def new_key(self, name):
        key = new_private_key("ES256")
        self.secrets |= secrets_of(name, key)
        return pem(key)

    def add_keys(self):
        octets = self.secret("oct-key", "b2N0LWNhbmFyeS1zZWNyZXQtb2Yta2V5")
        strange = self.secret("strange-kty")
        edwards = jwk.JWK.generate(kty="OKP", crv="Ed25519").export(as_dict=True)
        self.secret("jwk-d", edwards["d"])
        damaged = self.new_key("damaged").replace("-----END", f"{self.secret('damaged-pem')}\n-----END")
        self.fields = {
            "orders": self.new_key("first"), "jwk": json.dumps(edwards), "damaged": damaged, "text": self.secret("no-key"),
            "oct": json.dumps({"kty": "oct", "k": octets}), "strange": json.dumps({"kty": strange, "crv": strange, "alg": strange, "use": strange, "d": strange}),
            "kind": json.dumps({"kty": strange, "d": strange}), "curve": json.dumps({"kty": "EC", "crv": strange, "d": strange, "x": "AA", "y": "AA"}),
            "label": f"-----BEGIN {self.secret('label')}-----\nAAAA\n-----END {self.secrets['label']}-----",
            "broken": f'{{"kty":"EC","d":"{self.secret("broken-jwk")}", {self.secrets["broken-jwk"]}', "wrong": json.dumps({**edwards, "kty": "EC"}),
        }
        self.bao.put_key(self.path, **self.fields)
        self.token = self.bao.token("placet")
        self.files["token"] = self.secret("token", self.token)
        self.vault("orders", method="token", tokenFile="token")
        for name in self.fields.keys() - {"orders"}:
            self.scope(name, "orders", keyName=name)
        self.scope("file", keyName="spoiled")
        self.files["keys/spoiled.pem"] = f"-----BEGIN PRIVATE KEY-----\n{self.secret('file')}\n-----END PRIVATE KEY-----"
        self.scope("variable", "environment", keyName="spoiled")
        self.env["KEY_SPOILED"] = self.secret("variable")

    def add_logins(self):
        self.env["REFERRED"] = self.secret("reference", self.bao.token("placet"))
        self.vault("reference", method="token", token="{{storeId=ENV_VAR,key=REFERRED}}")
        self.env["WRONG"] = "s." + self.secret("refused-token")
        self.vault("refused-token", method="token", tokenEnv="WRONG")
        self.env["UNFIT"] = self.secret("unfit-token") + " \u00e9"
        self.vault("unfit-token", method="token", tokenEnv="UNFIT")
        role_id, self.env["SECRET_ID"] = self.bao.approle("placet", "placet")
        self.secret("secret-id", self.env["SECRET_ID"])
        self.vault("app-role", method="appRole", roleId=role_id, secretIdEnv="SECRET_ID")
        self.files["wrong"] = self.secret("refused-secret-id")
        self.vault("refused-role", method="appRole", roleId=role_id, secretIdFile="wrong")
        self.vault("wrapped", method="appRole", role="placet", roleId=role_id, secretIdFile="wrapped", secretIdWrapped=True)
        self.files["wrapped"] = self.secret("wrapping-token", wrapped_secret_id(self.bao))
        self.files["jwt"] = f"eyJhbGciOiJub25lIn0.{self.secret('jwt')}.e30"
        self.vault("jwt", method="jwt", role="placet", jwtFile="jwt")
        self.files["client.pem"] = self.files["client.key"] = f"-----BEGIN PRIVATE KEY-----\n{self.secret('client-key')}\n-----END PRIVATE KEY-----"
        self.vault("certificate", method="cert", certificateFile="client.pem", keyFile="client.key")

    # --- what happens to it

    def live(self):
        """A life of a few seconds, in which everything goes well once and wrong once."""
        with self.placet as placet:
            good = {"orders", "jwk", "reference", "app-role", "wrapped"}
            placet.wait_until(lambda: not good & {each["scope"] for each in placet.readiness()[1]["waiting"]}, "the good scopes are loaded")
            self.ask()
            self.look()
            self.bao.put_key(self.path, **{**self.fields, "orders": self.new_key("second")})
            wait_until(lambda: len(placet.jwks()["keys"]) == 2, "the second version is published")
            self.bao.put_key(self.path, **{**self.fields, "orders": self.secret("malformed-version")})
            self.bao.must("POST", "auth/token/revoke", {"token": self.token})
            left = 'placet_signing_key_seconds_left{scope="orders"}'
            wait_until(lambda: placet.metrics()[left] <= 86_400 - 2, "the revoked token is noticed")
            self.ask()
            placet.settings["scopes"][0]["jwtResponse"]["tokenLifetimeSeconds"] = 59
            self.reload(placet.settings, lambda: '"tokenLifetimeSeconds":59' in get(placet.admin, "/config").body.decode())
            for bad in (self.spoiled_settings(), f"version: 1\nsecretStores: [{{id: x, type: *{self.secret('yaml')}"):
                before = placet.metrics()["placet_reload_failures_total"]
                self.reload(bad, lambda: placet.metrics()["placet_reload_failures_total"] > before)
            self.look()
            placet.signal(signal.SIGTERM)
            assert placet.wait(15) == 0
        self.said += placet.stdout + placet.stderr

    def reload(self, settings, is_done):
        self.placet.write(settings)
        self.placet.signal(signal.SIGHUP)
        wait_until(is_done, "the settings are read again")

    def spoiled_settings(self):
        """A credential wherever the settings expect something else, as after a slip of the pen."""
        settings = json.loads(json.dumps(self.placet.settings))
        slips = ({"method": "token", "token": self.secret("literal-token")}, self.secret("auth-as-text"),
                 {"method": "token", "tokenFile": [self.secret("token-in-a-list")]}, {"method": "token", f"token:{self.secret('without-a-space')}": None},
                 {"method": "appRole", "secretId": {"is": self.secret("in-a-map")}}, {"method": "token", "token": "{{" + self.secret("in-braces")},
                 {"method": self.secret("as-the-method")})
        for store, slip in zip([store for store in settings["secretStores"] if store["type"] == "vault"], slips):
            store["details"]["auth"] = slip
        return settings

    def ask(self):
        """Allowed, forbidden, expired, forged, garbage and no credentials; secrets also where none is looked for."""
        issuer = self.issuer
        good = issuer.token(note=self.secret("claim"), exp=int(time.time()) + 60)
        expired = issuer.token(note=self.secrets["claim"], exp=int(time.time()) - 60)
        forged = good.rpartition(".")[0] + "." + self.secret("forged-signature")
        for name, token in (("good", good), ("expired", expired)):
            for part, text in zip(("header and payload", "signature"), token.rsplit(".", 1)):
                self.secret(f"{name} token, {part}", text)
        bearers = [good, expired, forged, f"{self.secret('no-jwt')}", f"a.{self.secret('no-jwt-either')}.b"]
        others = {"cookie": f"session={self.secret('cookie')}", "x-api-key": self.secret("header"), "proxy-authorization": f"Basic {self.secret('proxy')}"}
        for path in (f"/accounts/1?key={self.secret('query')}", "/accounts/secret", "/nowhere"):
            for bearer in (*(f"Bearer {bearer}" for bearer in bearers), f"Basic {self.secret('basic')}", None):
                headers = {**others, **({"authorization": bearer} if bearer else {})}
                response = call(self.placet, check_request(path, headers, host="orders.example.com", body=self.secret("body")))
                if not is_denial(response) and bearer == f"Bearer {good}":
                    minted = response.ok_response.headers[0].header.value
                    self.secret("minted token", minted)
                    self.secret("minted signature", minted.rpartition(".")[2])
        assert any(name.startswith("minted token") for name in self.secrets)
        with suppress(grpc.RpcError):
            call(self.placet, b"\x0a\xff\xff" + self.secret("no-message").encode())
        with suppress(grpc.RpcError):
            call(self.placet, check_request(), metadata=[("authorization", self.secret("grpc-metadata"))])
        for port in (self.placet.http, self.placet.admin):
            send(port, f"/nowhere?key={self.secret('http-query')}", [("authorization", self.secret("http-header"))], host="127.0.0.1")

    def look(self):
        placet = self.placet
        for port, path in (*((placet.admin, path) for path in PAGES), (placet.http, "/.well-known/jwks.json"), (placet.http, "/scopes/orders/jwks.json"), (placet.http, "/scopes/damaged/jwks.json")):
            answer = get(port, path)
            self.said += f"{answer.headers}\n{answer.body.decode()}\n"

    def commands(self):
        """The same settings, good and spoiled, under every command that reads them."""
        place = self.placet.directory
        (place / "wrapped").write_text(self.secret("wrapping-token", wrapped_secret_id(self.bao)))
        (place / "request.json").write_text(json.dumps({"attributes": {"request": {"http": {
            "method": "GET", "path": f"/accounts/1?k={self.secret('captured-query')}", "host": "orders.example.com",
            "headers": {"authorization": f"Bearer {self.secret('captured-token')}", "cookie": self.secret("captured-cookie")}}}}}))
        (place / "cases.yaml").write_text("cases:\n- name: one\n  request: {method: GET, path: /accounts/1, host: orders.example.com, headers: {authorization: " + self.secret("case-header") + "}}\n  expect: {outcome: allow}\n")
        for name, settings in (("good", self.placet.settings), ("spoiled", self.spoiled_settings())):
            file = self.placet.write(settings)
            for command in (["validate"], ["jwks"], ["check", "--request", place / "request.json"], ["check", "--output", "json", "--request", place / "request.json"], ["test", place / "cases.yaml"]):
                result = run(command[0], "--config", file, *command[1:], env=self.env, seconds=30)
                assert result.stderr + result.stdout, f"{command[0]} says nothing of the {name} settings"
                self.said += result.stdout + result.stderr


def wrapped_secret_id(bao):
    headers = {"x-vault-wrap-ttl": "300", "x-vault-token": "root"}
    request = urllib.request.Request(f"{bao.address}/v1/auth/approle/role/placet/secret-id", b"{}", headers, method="POST")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["wrap_info"]["token"]


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_secret_is_said_at_any_level(directory, issuer, bao, level):
    planted = Planted(bao, issuer, directory / f"at-{level}", level, "text" if level == "trace" else "json")
    planted.live()
    planted.commands()
    leaks = found_in(planted.said, planted.secrets)
    assert not leaks, "\n".join(map(str, leaks))
    # Tokens that OpenBao gave for a login, which no test was told.
    assert not re.findall(r"\bs\.[A-Za-z0-9]{24}\b", planted.said)
    assert "alice" in planted.said and "damaged" in planted.said
    if level in ("debug", "trace"):
        assert "pooling idle connection" in planted.said and "received" in planted.said, "the libraries' own lines are among them"


# --- memory

NOBODY = 65534


def owned(directory, name):
    """A directory that another user can have, with the program in it."""
    place = directory / name
    place.mkdir()
    shutil.copy(BINARY, place / "placet")
    directory.chmod(0o755)
    return place


def readable_by_its_user(pid):
    """Whether another process of the same user may read the memory of this one."""
    program = f"open('/proc/{pid}/mem', 'rb').seek(0); print(len(open('/proc/{pid}/environ').read()))"
    return subprocess.run(["/usr/bin/env", "python3", "-c", program], user=NOBODY, capture_output=True).returncode == 0


def core_limits(pid):
    [line] = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max core file size")]
    return line.split()[4:6]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")
def test_no_other_process_reads_the_memory_and_none_dumps_it(directory, issuer):
    place = owned(directory, "closed")
    placet = Placet(place, [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))})
    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    placet.argv = ["/usr/bin/env", "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c", "ulimit -c unlimited; exec \"$@\"", "sh", str(place / "placet"), *placet.argv[1:]]
    with placet:
        pid = placet.popen.pid
        assert f"Uid:\t{NOBODY}" in Path(f"/proc/{pid}/status").read_text(), "control: it runs as another user"
        assert core_limits(pid) == ["0", "0"]
        assert Path(f"/proc/{pid}/mem").stat().st_uid == 0, "what is not dumpable belongs to root"
        assert not readable_by_its_user(pid)
        other = subprocess.Popen(["sleep", "60"], user=NOBODY)
        try:
            assert readable_by_its_user(other.pid), "control: the same user reads a program that does not mind"
        finally:
            other.kill()
            other.wait()


def test_a_command_that_reads_keys_dumps_nothing_either(directory, issuer):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        details = {"address": f"http://127.0.0.1:{silent.getsockname()[1]}", "defaultPath": "x", "auth": {"method": "token", "tokenEnv": "TOKEN"}}
        made = Placet(directory / "command", [scope(issuer)], stores=[{"id": "vault", "type": "vault", "default": True, "details": details}])
        process = subprocess.Popen([BINARY, "jwks", "--config", made.settings_file], env={**os.environ, "TOKEN": "s.x"}, stderr=subprocess.PIPE)
        try:
            connection, _ = silent.accept()
            assert core_limits(process.pid) == ["0", "0"]
            connection.close()
        finally:
            process.kill()
            process.communicate()


def in_memory(pid, needles):
    """Which of these are in the writable memory of the process, and how often."""
    counts = dict.fromkeys(needles, 0)
    with open(f"/proc/{pid}/maps") as maps:
        spans = [line.split()[0] for line in maps if " rw" in line and "[v" not in line]
    try:
        memory = open(f"/proc/{pid}/mem", "rb")
    except PermissionError:
        pytest.skip("the memory of another process can't be read here")
    with memory:
        for start, end in ((int(part, 16) for part in span.split("-")) for span in spans):
            with suppress(OSError):
                memory.seek(start)
                content = memory.read(end - start)
                for name, needle in needles.items():
                    counts[name] += content.count(needle)
    return counts


def needles(key):
    """The private number as the cryptographic library holds it, lowest byte first, and two lines of the text."""
    first, second, _ = [line.encode() for line in pem(key).splitlines() if "-----" not in line]
    return {"number": private_number(key)[::-1], "first line": first, "second line": second}


def test_of_a_key_file_only_the_number_stays_in_memory(directory, issuer):
    key = new_private_key("ES256")
    with Placet(directory / "memory", [scope(issuer)], keys={"orders": pem(key)}) as placet:
        assert in_memory(placet.popen.pid, needles(key)) == {"number": 1, "first line": 0, "second line": 0}


def test_a_withdrawn_key_is_gone_from_memory(directory, issuer, bao):
    """Its number is. Its text may stay in memory that the JSON parser gave back unwritten, as was seen."""
    old, new = new_private_key("ES256"), new_private_key("ES256")
    bao.put_key("placet/withdrawn", orders=pem(old))
    details = {"address": bao.address, "defaultPath": "placet/withdrawn", "refreshInterval": "500ms", "auth": {"method": "token", "tokenEnv": "TOKEN"}}
    with Placet(directory / "withdrawn", [scope(issuer, jwtSigning={"publishBefore": "1s"})], env={"TOKEN": bao.token("placet")},
                stores=[{"id": "vault", "type": "vault", "default": True, "details": details}]) as placet:
        pid = placet.popen.pid
        assert in_memory(pid, needles(old))["number"] == 1, "control: the search finds the key that signs"
        bao.put_key("placet/withdrawn", orders=pem(new))
        wait_until(lambda: len(placet.jwks()["keys"]) == 2, "the new key is published")
        bao.must("PUT", "secret/destroy/placet/withdrawn", {"versions": [1]})
        wait_until(lambda: len(placet.jwks()["keys"]) == 1, "the old key is withdrawn")
        wait_until(lambda: in_memory(pid, needles(old))["number"] == 0, "it is overwritten")
        assert in_memory(pid, needles(new))["number"] == 1
        print("the withdrawn key's text:", in_memory(pid, needles(old)))
