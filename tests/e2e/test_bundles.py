"""Policies from a bundle at an address: fetched, judged by its signature, replaced while requests come, kept when the next one is bad."""

import json

import pytest
from cryptography.hazmat.primitives import serialization

from harness.authz import call, check_request, is_denial
from harness.bundles import BundleServer, bundle, signed
from harness.placet import REMOVED, Placet, new_private_key, pem, scope
from harness.process import wait_until

MANIFEST = json.dumps({"revision": "r1", "roots": ["envoy", "readers"]})


def rego(action, readers=("alice",)):
    policy = f"""package envoy.authz
import rego.v1
default allow := false
allow if {{ input.parsed_path[0] == "{action}"; data.readers.names[_] == "alice" }}
"""
    return {".manifest": MANIFEST, "envoy/authz/p.rego": policy, "readers/data.json": json.dumps({"names": readers})}


def cedar(action):
    policy = f'@id("{action}") permit (principal in Group::"readers", action == Action::"{action}", resource is Account);'
    return {"orders.cedar": policy}


@pytest.fixture(scope="module")
def key():
    return new_private_key("ES256")


@pytest.fixture(scope="module")
def key_file(directory, key):
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    file = directory / "bundle.pem"
    file.write_bytes(public)
    return str(file)


@pytest.fixture
def server():
    with BundleServer() as running:
        yield running


def by_bundle(issuer, server, engine, **details):
    policy = {"engine": engine, "files": REMOVED, "bundle": {"url": server.url, "pollInterval": "200ms", **details}}
    return scope(issuer, policy=policy, **({"identity": {"anonymous": True}, "routes": REMOVED} if engine == "rego" else {}))


def is_allowed(placet, issuer, path):
    headers = {"authorization": f"Bearer {issuer.token(groups=['readers'])}"}
    return not is_denial(call(placet, check_request(path=path, headers=headers)))


def serving(directory, made, **settings):
    return Placet(directory, [made], keys={"orders": pem(new_private_key("ES256"))}, **settings)


@pytest.mark.parametrize("engine", ["rego", "cedar"])
def test_a_bundle_is_fetched_and_the_next_one_replaces_it(directory, issuer, server, key, key_file, engine):
    files, (first, second) = (rego, ("accounts", "orders")) if engine == "rego" else (cedar, ("read", "close"))
    verification = {"keyFile": key_file, "algorithm": "ES256", "keyId": "ci", "scope": "write"}
    server.archive, server.token = bundle(signed(files(first), key, scope="write")), "s3cr3t"
    (directory / "bundle.token").write_text("s3cr3t\n")
    made = by_bundle(issuer, server, engine, verification=verification, tokenFile=str(directory / "bundle.token"))
    with serving(directory / f"next-{engine}", made) as placet:
        assert is_allowed(placet, issuer, "/accounts/1")
        wait_until(lambda: 304 in server.answers, "what is in force is not fetched again")
        assert server.answers.count(200) == 1
        server.archive = bundle(signed(files(second), key, scope="write"))
        wait_until(lambda: not is_allowed(placet, issuer, "/accounts/1"), "the new policies are in force")
        assert server.answers.count(200) == 2


def test_a_bad_bundle_leaves_the_last_good_one_in_force(directory, issuer, server, key, key_file):
    server.archive = bundle(signed(rego("accounts"), key))
    verification = {"keyFile": key_file, "algorithm": "ES256"}
    with serving(directory / "bad", by_bundle(issuer, server, "rego", verification=verification)) as placet:
        forged = rego("orders")
        changed = signed(rego("accounts"), key) | {"envoy/authz/p.rego": forged["envoy/authz/p.rego"]}
        bad = [
            (bundle(forged), "it has no .signatures.json"),
            (bundle(signed(forged, new_private_key("ES256"))), "its signature does not verify as ES256"),
            (bundle(changed), "the file `envoy/authz/p.rego` is not what was signed"),
            (bundle(signed(forged, key) | {"envoy/authz/q.rego": "package q"}), "the file `envoy/authz/q.rego` is not in the signature"),
            (bundle(signed(forged, key, scope="write")), "another scope"),
            (bundle(signed(rego("orders") | {"envoy/authz/x.rego": "package envoy.authz\nallow {"}, key)), "x.rego"),
            (b"no archive", "not a tar.gz"),
        ]
        for archive, said in bad:
            server.archive = archive
            wait_until(lambda: said in placet.stderr, said)
            assert is_allowed(placet, issuer, "/accounts/1") and not is_allowed(placet, issuer, "/orders/1"), said
        server.status = 503
        wait_until(lambda: "answers 503" in placet.stderr, "the server is away")
        assert is_allowed(placet, issuer, "/accounts/1")
        assert placet.readiness()[0] == 200
        assert placet.metrics()["placet_reload_failures_total"] >= len(bad)
        assert "canary" not in placet.stderr
        server.status, server.archive = 200, bundle(signed(rego("orders"), key))
        wait_until(lambda: is_allowed(placet, issuer, "/orders/1"), "the good one after them is in force")


def test_before_the_first_bundle_everything_is_denied_and_said(directory, issuer, server):
    server.status = 500
    placet = serving(directory / "first", by_bundle(issuer, server, "rego"), startupGrace="100ms")
    placet.start(until_ready=False)
    try:
        wait_until(lambda: "answers 500" in placet.stderr, "why there are no policies")
        status, waiting = placet.readiness()
        assert status == 503 and any("bundle of policies" in missing for missing in waiting["waiting"][0]["for"]), waiting
        assert not is_allowed(placet, issuer, "/accounts/1")
        server.status, server.archive = 200, bundle(rego("accounts"))
        wait_until(lambda: is_allowed(placet, issuer, "/accounts/1"), "the first bundle")
        wait_until(lambda: placet.readiness()[0] == 200, "ready")
    finally:
        placet.stop()
