"""`placet keys` and the control socket: what is shown of the keys, and what an operator may order."""

import json
import os
import socket
import stat
import time

import pytest

from harness.authz import call, check_request, denied_status, is_denial
from harness.bao import Bao
from harness.client import get
from harness.placet import Placet, certificate, new_private_key, pem, run, scope
from harness.process import wait_until
from harness.verify import verified
from cryptography.hazmat.primitives import serialization

VERSIONED = {"keyId": "{{client_id}}-{{key_version}}"}


@pytest.fixture(scope="module")
def bao(directory):
    with Bao(directory) as running:
        yield running


class Operated(Placet):
    """A Placet with a control socket, its keys in OpenBao, where a new version waits an hour."""

    def __init__(self, bao, place, issuer, **changes):
        signing = {"pathToKey": f"placet/{place.name}", "publishBefore": "1h"}
        of = scope(issuer, jwtSigning=signing, jwtResponse=VERSIONED, **changes)
        store = {"address": bao.address, "refreshInterval": "500ms", "timeout": "20s", "auth": {"method": "token", "tokenFile": "token"}}
        super().__init__(place, [of], stores=[{"id": "vault", "type": "vault", "default": True, "details": store}])
        (place / "token").write_text("root")
        self.settings["listen"]["control"] = "unix:control.sock"
        self.write(self.settings)
        self.issuer = issuer

    def keys(self, *words):
        return run("keys", *words, "--config", self.settings_file)

    def must(self, *words):
        done = self.keys(*words)
        assert done.returncode == 0, done
        return done.stdout

    def kids(self):
        return [key["kid"] for key in self.jwks()["keys"]]

    def token(self):
        response = call(self, check_request(headers={"authorization": f"Bearer {self.issuer.token()}"}))
        assert not is_denial(response), response
        return response.ok_response.headers[0].header.value

    def signer(self):
        return verified(self.token(), self.jwks())[0]["kid"]

    def denied(self):
        return denied_status(call(self, check_request(headers={"authorization": f"Bearer {self.issuer.token()}"})))


@pytest.fixture
def placet(directory, issuer, bao, request):
    place = directory / request.node.name[5:20]
    bao.put_key(f"placet/{place.name}", orders=pem(new_private_key("ES256")), other="stays")
    with Operated(bao, place, issuer) as running:
        yield running


def test_a_key_is_made_shown_and_activated(placet, bao):
    assert placet.signer() == "orders-1"
    assert "a new version of `orders` is in the store `vault`" in placet.must("rotate")
    wait_until(lambda: placet.kids() == ["orders-1", "orders-2"], "the new version is published")
    assert placet.signer() == "orders-1", "its hour has not come"
    [shown] = json.loads(placet.must("status", "--output", "json"))["scopes"]
    [served] = get(placet.admin, "/keys").json()["scopes"]
    assert shown.pop("signsUntil") and served.pop("signsUntil"), "each look prolongs it"
    assert shown == served
    assert [(key["stage"], key["kid"]) for key in shown["keys"]] == [("next", "orders-2"), ("active", "orders-1")]
    assert shown["keys"][0]["signsFrom"] > shown["keys"][0]["created"]
    lines = placet.must("status").splitlines()
    assert lines[0].split() == ["SCOPE", "STAGE", "KID", "ALG", "VERSION", "CREATED", "SIGNS", "FROM"]
    assert lines[1].split()[:5] == ["orders", "next", "orders-2", "ES256", "2"]

    old = placet.token()
    assert "active" in placet.must("activate", "orders-2")
    assert placet.signer() == "orders-2"
    verified(old, placet.jwks())
    fields = bao.must("GET", f"secret/data/placet/{placet.directory.name}")["data"]["data"]
    assert fields["other"] == "stays" and fields["orders"].startswith("-----BEGIN PRIVATE KEY-----")
    refused = placet.keys("activate", "orders-1")
    assert refused.returncode == 1 and "to go back to an earlier key, withdraw the later ones" in refused.stderr
    assert "an operator's order: activate" in placet.stderr


def test_a_withdrawn_key_is_gone_at_once_and_stays_gone(placet):
    placet.must("rotate")
    wait_until(lambda: len(placet.kids()) == 2, "the new version is published")
    assert "for good: delete the version in the secret store" in placet.must("withdraw", "orders-1")
    assert placet.kids() == ["orders-2"] and placet.signer() == "orders-2"
    [shown] = get(placet.admin, "/keys").json()["scopes"]
    placet.must("withdraw", shown["keys"][0]["thumbprint"])
    assert placet.kids() == [] and placet.denied() == 503
    seen = time.monotonic() + 1.5
    wait_until(lambda: time.monotonic() > seen or placet.kids(), "three looks into the store")
    assert placet.kids() == [], "what the store holds does not bring it back"
    assert "nothing is signed" in placet.must("status")
    placet.must("rotate")
    wait_until(lambda: placet.kids() == ["orders-3"], "a new key signs at once: there is no other")
    assert placet.signer() == "orders-3"


def test_a_withdrawal_does_not_wait_for_a_store_that_hangs(placet, bao):
    bao.popen.send_signal(19)  # SIGSTOP
    try:
        time.sleep(0.6)  # longer than the refresh interval: a look is on its way, and gets no answer
        started = time.monotonic()
        placet.must("withdraw", "orders-1")
        assert time.monotonic() - started < 8 and placet.kids() == [], "a look may take 20 s"
    finally:
        bao.popen.send_signal(18)  # SIGCONT


def test_orders_that_can_not_be_carried_out_say_why(placet):
    unknown = placet.keys("withdraw", "orders-9")
    assert unknown.returncode == 1 and "there is no key `orders-9`: there are `orders-1`" in unknown.stderr
    scope_unknown = placet.keys("withdraw", "orders-1", "--scope", "other")
    assert scope_unknown.returncode == 1 and "there is no scope `other`: there are `orders`" in scope_unknown.stderr
    assert placet.signer() == "orders-1"


def test_only_the_socket_takes_orders_and_only_its_user_may(placet):
    path = placet.directory / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for port in (placet.admin, placet.http):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            body = '{"scope":"orders","key":"orders-1"}'
            connection.sendall(f"POST /keys/withdraw HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
            assert connection.recv(99).split()[1] in (b"404", b"405")
    assert placet.kids() == ["orders-1"]
    if os.geteuid() != 0:
        pytest.skip("another user can only be tried by root")
    path.chmod(0o666)
    placet.directory.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        other = socket.socket(socket.AF_UNIX)
        try:
            other.connect(str(path))
            other.sendall(b"GET /keys HTTP/1.1\r\nhost: x\r\n\r\n")
            os._exit(1 if other.recv(9) else 0)
        except OSError:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "another user was answered"


def test_the_control_socket_is_never_tcp(directory, issuer):
    made = Placet(directory / "tcp", [scope(issuer)])
    made.settings["listen"]["control"] = "127.0.0.1:9194"
    refused = run("validate", "--config", made.write(made.settings))
    assert refused.returncode == 2 and "listen.control: `127.0.0.1:9194` is no Unix socket" in refused.stderr


def test_without_a_control_socket_orders_name_the_setting(directory, issuer):
    with Placet(directory / "none", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}) as placet:
        refused = run("keys", "withdraw", "orders", "--config", placet.settings_file)
        assert refused.returncode == 1 and "set `listen.control: unix:/PATH`" in refused.stderr
        assert "orders" in run("keys", "status", "--config", placet.settings_file).stdout, "asked of the admin listener"


def test_a_certificate_beside_the_key_rotates_with_it(directory, issuer, bao):
    key, place = new_private_key("RS256"), directory / "certified"
    first = certificate(key).public_bytes(serialization.Encoding.PEM).decode()
    bao.put_key("placet/certified", **{"orders": pem(key), "orders.crt": first})
    with Operated(bao, place, issuer) as placet:
        placet.must("rotate")
        wait_until(lambda: len(placet.kids()) == 2, "the new version is published")
        keys = placet.jwks()["keys"]
        assert [(key["alg"], len(key["x5c"])) for key in keys] == [("RS256", 1), ("RS256", 1)]
        assert keys[0]["x5c"] != keys[1]["x5c"]


def test_a_file_is_replaced_in_one_step_and_the_environment_is_not_written_to(directory, issuer):
    place = directory / "file"
    made = Placet(place, [scope(issuer)], keys={"orders": pem(new_private_key("EdDSA"))})
    before = json.loads(run("jwks", "--config", made.settings_file).stdout)
    assert run("keys", "rotate", "--config", made.settings_file).returncode == 0
    after = json.loads(run("jwks", "--config", made.settings_file).stdout)
    assert after["keys"][0]["crv"] == "Ed25519" and after != before
    file = place / "keys" / "orders.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and [each.name for each in file.parent.iterdir()] == ["orders.pem"]
    made.settings["secretStores"] = [{"id": "env", "type": "env", "default": True, "details": {"prefix": "X_"}}]
    refused = run("keys", "rotate", "--config", made.write(made.settings), env={"X_ORDERS": pem(new_private_key("ES256"))})
    assert refused.returncode == 1 and "`env` is of type env, which placet does not write to" in refused.stderr
