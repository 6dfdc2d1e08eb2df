"""Planted secrets, looked for in every log level, page and error that Placet writes.

Each secret is looked for as it is, and as base64, base64url, hex, a URL and a byte array show it. What
third parties wrote about themselves in the settings (an issuer's name, a path) is no secret.
"""

import base64
import json
import signal
import urllib.parse
from pathlib import Path

import pytest

from harness.authz import call, check_request, is_denial
from harness.bao import Bao
from harness.client import get
from harness.placet import Placet, new_private_key, pem, run, scope
from harness.process import wait_until

LEVELS = ("error", "warn", "info", "debug", "trace")
COOKIE, GARBAGE, UNKNOWN = "canary-cookie-5b1c", "canary-garbage-77aa", "canary-env-token-91de"


@pytest.fixture(scope="module")
def bao(directory):
    with Bao(directory) as running:
        running.policy("keys", 'path "secret/*" { capabilities = ["read"] }')
        yield running


def spellings(secret):
    """The ways a byte string is shown, as bytes of a log."""
    raw = secret if isinstance(secret, bytes) else secret.encode()
    # Three offsets: base64 of text that the secret stands somewhere in.
    shifted = [base64.b64encode(b"x" * shift + raw)[4:-4].decode() for shift in range(3)]
    listed = ", ".join(str(byte) for byte in raw[:16])
    text = raw.decode(errors="ignore")
    return {text, urllib.parse.quote(text, safe=""), raw.hex(), raw.hex().upper(), listed, listed.replace(" ", ""),
            *shifted, *(each.replace("+", "-").replace("/", "_") for each in shifted)} - {""}


def assert_hidden(secrets, *texts):
    for name, secret in secrets.items():
        for spelling in spellings(secret):
            if len(spelling) < 12:
                continue
            for text in texts:
                found = text.find(spelling)
                assert found < 0, f"{name} is shown: …{text[max(0, found - 120):found]}<HERE>"


def secrets_of(key, name):
    """What of a private key must not be seen: each line of its PEM, and its number."""
    lines = [line for line in pem(key).splitlines() if not line.startswith("-----")]
    number = key.private_numbers().private_value.to_bytes(32, "big")
    return {f"{name}, PEM line {index}": line for index, line in enumerate(lines) if len(line) > 20 and index} | {f"{name}, d": number}


def pages(placet):
    return [get(port, path).body.decode() for port, path in (
        (placet.admin, "/config"), (placet.admin, "/metrics"), (placet.admin, "/readyz"), (placet.admin, "/livez"), (placet.admin, "/keys"),
        (placet.http, "/.well-known/jwks.json"), (placet.http, "/scopes/orders/jwks.json"))]


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_planted_is_shown(directory, issuer, bao, level):
    place = directory / level
    path = f"placet/{level}"
    first, second = new_private_key("ES256"), new_private_key("ES256")
    bao.put_key(path, orders=pem(first))
    role_id, secret_id = bao.approle(f"role-{level}", "keys")
    details = {"address": bao.address, "defaultPath": path, "refreshInterval": "200ms",
               "auth": {"method": "appRole", "roleId": role_id, "secretIdFile": "secret-id"}}
    signing = scope(issuer, default=True, jwtSigning={"publishBefore": "0s"},
                    jwtResponse={"keyId": "{{client_id}}-{{key_version}}"}, jwtCustomization={"includeIncomingPayload": True})
    by_environment = {"id": "environment", "type": "vault", "details": {
        **details, "auth": {"method": "token", "token": "{{storeId=ENV_VAR,key=CANARY_TOKEN}}"}}}
    other = scope(issuer, "other", match={"hosts": ["other.example.com"]}, jwtSigning={"secretStore": "environment", "keyName": "orders"})
    placet = Placet(place, [signing, other], stores=[{"id": "vault", "type": "vault", "default": True, "details": details}, by_environment],
                    env={"PLACET_LOG": level, "CANARY_TOKEN": UNKNOWN}, readiness="any", startupGrace="1s")
    (place / "secret-id").write_text(secret_id)
    incoming = issuer.token(**{"secret_claim": "canary-claim-0f0f"})
    refused = incoming[:-6] + "AAAAAA"
    seen = []
    with placet:
        def ask(token):
            headers = {"authorization": f"Bearer {token}", "cookie": f"session={COOKIE}"}
            return call(placet, check_request(headers=headers))

        minted = ask(incoming).ok_response.headers[0].header.value
        assert is_denial(ask(refused)) and is_denial(ask("not.a.token"))
        bao.put_key(path, orders=pem(second))
        wait_until(lambda: [key["kid"] for key in placet.jwks()["keys"]][0] == "orders-2", "the second key signs")
        for broken in (f"-----BEGIN PRIVATE KEY-----\n{GARBAGE}\n-----END PRIVATE KEY-----", f'{{"kty": "{GARBAGE}", "d": "{GARBAGE}"}}', GARBAGE):
            version = bao.put_key(path, orders=broken)["data"]["version"]
            wait_until(lambda: placet.readiness()[0] == 200 and "private key" in get(placet.admin, "/keys").body.decode(), "the fault is noticed")
            seen += pages(placet)
            bao.must("PUT", f"secret/destroy/{path}", {"versions": [version]})
        seen += pages(placet)
        placet.signal(signal.SIGHUP)
        good = placet.settings_file.read_text()
        placet.settings_file.write_text(good.replace("publishBefore: 0s", f"publishBefore: {GARBAGE[:6]}"))
        placet.signal(signal.SIGHUP)
        placet.settings_file.write_text(good)
        bao.must("POST", f"auth/approle/role/role-{level}/secret-id/destroy", {"secret_id": secret_id})
        bao.must("PUT", "sys/leases/revoke-prefix/auth/approle")
        wait_until(lambda: "login" in get(placet.admin, "/keys").body.decode(), "the refused login is noticed")
        seen += pages(placet)
        limits = Path(f"/proc/{placet.popen.pid}/limits").read_text()
        assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]
    for command in (["validate"], ["jwks"], ["keys", "rotate", "--scope", "orders"]):
        done = run(*command, "--config", placet.settings_file, env={"PLACET_LOG": level, "CANARY_TOKEN": UNKNOWN})
        seen += [done.stdout, done.stderr]

    secrets = {**secrets_of(first, "first key"), **secrets_of(second, "second key"), "secret id": secret_id, "token of the environment": UNKNOWN,
               "cookie": COOKIE, "key text": GARBAGE, "incoming signature": incoming.rpartition(".")[2], "incoming claim": "canary-claim-0f0f",
               "our signature": minted.rpartition(".")[2]}
    logged = placet.stdout + placet.stderr
    assert_hidden(secrets, logged, *seen)
    assert level in ("error", "warn") or "listening" in placet.stderr, "there is a log"
    assert level != "trace" or '"level":"TRACE"' in placet.stderr, "the dependencies' own lines are there too"
    # That something would be found if it were there.
    with pytest.raises(AssertionError, match="is shown"):
        assert_hidden(secrets, logged + base64.b64encode(b"12" + COOKIE.encode() + b"1234").decode())
    assert json.loads(placet.stdout.splitlines()[0])["outcome"] in ("allow", "deny")
