"""The command line: validate, check, jwks, verify, keygen, schema."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from harness.authz import call, check_request
from harness.client import get
from harness.placet import REMOVED, Placet, certificate, merged, new_private_key, pem, run, scope
from harness.verify import verified

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def placet(directory, issuer):
    with Placet(directory / "p", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}) as running:
        yield running


def settings_file(directory, issuer, name, change=lambda settings: settings, **scope_changes):
    """Settings that are complete but for the change, in a directory of their own; nothing is started."""
    unused = Placet(directory / name, [scope(issuer, **scope_changes)], keys={"orders": pem(new_private_key("ES256"))})
    return unused.write(change(unused.settings))


# --- validate


def test_good_settings_validate(directory, issuer):
    result = run("validate", "--config", settings_file(directory, issuer, "good"))
    assert (result.returncode, result.stderr) == (0, "")


def test_the_settings_can_be_named_by_the_environment(directory, issuer):
    file = settings_file(directory, issuer, "env")
    assert run("validate", env={"PLACET_CONFIG": str(file)}).returncode == 0


def test_every_error_is_reported_at_once_with_its_path(directory, issuer):
    def spoil(settings):
        settings["scopes"][0]["jwtResponse"].update(tokenLifetimeSeconds=0, headers=[])
        settings["scopes"][0]["jwtSigning"] = {"secretStore": "nowhere", "algorithm": "HS256"}
        settings["scopes"][0]["jwtCustomization"] = {"itemDelimiter": ""}
        settings["scopes"][0]["clientId"] = "no spaces allowed"
        settings["startupGrace"] = "soon"
        return settings

    result = run("validate", "--config", settings_file(directory, issuer, "spoiled", spoil))
    assert result.returncode == 2
    for path in (
        "scopes[0].clientId", "scopes[0].jwtResponse.tokenLifetimeSeconds", "scopes[0].jwtResponse.headers",
        "scopes[0].jwtSigning.secretStore", "scopes[0].jwtSigning.algorithm",
        "scopes[0].jwtCustomization.itemDelimiter", "startupGrace",
    ):
        assert f"{path}: " in result.stderr, path


BAD_SETTINGS = {
    "unknown-key": ("scopes[0].jwtResponse.audiense", {"jwtResponse": {"audiense": "x"}}),
    "no-lifetime": ("scopes[0].jwtResponse", {"jwtResponse": {"tokenLifetimeSeconds": None}}),
    "long-lifetime": ("scopes[0].jwtResponse.tokenLifetimeSeconds", {"jwtResponse": {"tokenLifetimeSeconds": 86401}}),
    "no-audiences": ("scopes[0].identity.jwt[0]", {"identity": {"jwt": [{"issuer": "https://idp.example", "jwksFile": "x.json"}]}}),
    "plain-http": ("scopes[0].identity", {"identity": {"jwt": [{"issuer": "https://idp.example", "audiences": ["a"], "jwksUri": "http://idp.example/jwks"}]}}),
    "hmac": ("scopes[0].identity.jwt[0].algorithms", {"identity": {"jwt": [{"issuer": "https://idp.example", "audiences": ["a"], "jwksUri": "https://idp.example/jwks", "algorithms": ["HS256"]}]}}),
    "no-policy-file": ("scopes[0].policy", {"policy": {"files": ["missing.cedar"]}}),
    "unknown-engine": ("scopes[0].policy.engine", {"policy": {"engine": "magic"}}),
    "unknown-placeholder": ("scopes[0].jwtResponse.keyId", {"jwtResponse": {"keyId": "{{secret}}"}}),
    "template-nonsense": ("scopes[0].jwtCustomization.template", {"jwtCustomization": {"template": "{{nonsense}}"}}),
    "deny-200": ("scopes[0].deny.status", {"deny": {"status": 200}}),
    "route-nonsense": ("scopes[0].routes[0].match.path", {"routes": [{"match": {"path": "accounts"}, "bypass": True}]}),
    "host-as-header": ("scopes[0].jwtResponse.header", {"jwtResponse": {"header": "host"}}),
    "bad-certificate": ("scopes[0].jwtResponse.x509Certificate", {"jwtResponse": {"x509Certificate": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"}}),
}


@pytest.mark.parametrize(("path", "change"), BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
@pytest.mark.parametrize("command", ["validate", "serve"])
def test_a_bad_setting_is_named(directory, issuer, command, path, change):
    result = run(command, "--config", settings_file(directory, issuer, "bad", **change))
    assert result.returncode == 2
    assert f"{path}" in result.stderr
    assert result.stdout == ""
    assert "panicked" not in result.stderr


def test_a_certificate_of_another_key_is_an_error(directory, issuer):
    other = certificate(new_private_key("ES256")).public_bytes(serialization.Encoding.PEM).decode()
    result = run("validate", "--config", settings_file(directory, issuer, "othercert", jwtResponse={"x509Certificate": other}))
    assert result.returncode == 2
    assert "scopes[0].jwtResponse.x509Certificate: " in result.stderr


@pytest.mark.parametrize("store", ["unknown", "two-defaults", "no-default"])
def test_an_unclear_secret_store_is_an_error(directory, issuer, store):
    files = {"id": "files", "type": "file", "details": {"directory": "keys"}}

    def change(settings):
        if store == "unknown":
            settings["scopes"][0]["jwtSigning"] = {"secretStore": "valt"}
        elif store == "two-defaults":
            settings["secretStores"] = [{**files, "default": True}, {**files, "id": "more", "default": True}]
        else:
            settings["secretStores"] = [files, {**files, "id": "more"}]
        return settings

    result = run("validate", "--config", settings_file(directory, issuer, "stores", change))
    assert result.returncode == 2
    named = {"unknown": ("scopes[0].jwtSigning.secretStore: ", "`valt`"), "two-defaults": ("secretStores", "`more`"), "no-default": ("secretStores: ", "`more`")}
    for text in named[store]:
        assert text in result.stderr


def test_peers_are_refused_where_any_local_process_could_claim_one(directory, issuer):
    def over_tcp(settings):
        settings["listen"]["grpc"] = "127.0.0.1:9191"
        return settings

    peers = {"identity": {"jwt": REMOVED, "peer": {"trustDomains": ["cluster.local"]}}}
    assert run("validate", "--config", settings_file(directory, issuer, "socket", **peers)).returncode == 0, "control"
    result = run("validate", "--config", settings_file(directory, issuer, "tcp", over_tcp, **peers))
    assert result.returncode == 2
    assert "scopes[0].identity.peer: " in result.stderr


def test_settings_that_are_not_there_are_named(directory):
    result = run("validate", "--config", directory / "nothing.yaml")
    assert result.returncode == 2
    assert "nothing.yaml" in result.stderr
    assert len(result.stderr.splitlines()) <= 2


# --- check


def check(file, fixture, *options):
    return run("check", "--config", file, "--request", FIXTURES / fixture, *options)


def decision(file, fixture):
    return json.loads(check(file, fixture, "--output", "json").stdout)


WORKLOADS = """
permit (principal == Workload::"spiffe://example.org/ns/prod/sa/frontend", action, resource);
"""


@pytest.fixture(scope="module")
def workloads(directory, issuer):
    identity = {"peer": {"trustDomains": ["example.org"]}}
    unused = Placet(directory / "workloads", [], keys={"orders": pem(new_private_key("ES256"))}, policy=WORKLOADS)
    base = scope(issuer)
    unused.settings["scopes"] = [{**base, "identity": identity, "routes": []}]
    return unused.write(unused.settings)


@pytest.mark.parametrize("form", ["json", "bin"])
def test_a_captured_request_is_decided_offline(workloads, form):
    found = decision(workloads, f"mtls_spiffe.{form}")
    assert (found["outcome"], found["scope"]) == ("allow", "orders")
    assert (found["principal"]["type"], found["principal"]["id"]) == ("Workload", "spiffe://example.org/ns/prod/sa/frontend")
    assert found["http"]["path"] == found["target"]["assetId"]


@pytest.mark.parametrize("fixture", ["get_bearer_jwt", "post_json", "binbody", "duphdr", "nonutf", "nonutfraw", "partial"])
def test_a_captured_request_without_a_peer_is_denied_in_both_forms(workloads, fixture):
    as_json, as_bytes = decision(workloads, f"{fixture}.json"), decision(workloads, f"{fixture}.bin")
    assert as_json["outcome"] == as_bytes["outcome"] == "deny"
    assert as_json["reason"] == as_bytes["reason"] == "no_credentials"


def test_a_check_is_explained_in_words(workloads):
    result = check(workloads, "mtls_spiffe.json")
    assert "allow" in result.stdout
    assert "spiffe://example.org/ns/prod/sa/frontend" in result.stdout


def test_a_request_that_cannot_be_read_is_named(workloads, directory):
    (directory / "garbage.json").write_text("{")
    result = run("check", "--config", workloads, "--request", directory / "garbage.json")
    assert result.returncode != 0
    assert "garbage.json" in result.stderr


# --- jwks, verify, keygen


def test_jwks_prints_what_is_published(placet):
    result = run("jwks", "--config", placet.settings_file)
    assert result.returncode == 0
    assert json.loads(result.stdout) == get(placet.http, "/.well-known/jwks.json").json()


def test_verify_accepts_only_the_token_of_the_key(placet, issuer, directory):
    headers = {"authorization": f"Bearer {issuer.token()}"}
    token = call(placet, check_request(headers=headers)).ok_response.headers[0].header.value
    claims = verified(token, placet.jwks())[1]
    file = directory / "jwks.json"
    file.write_text(json.dumps(placet.jwks()))
    for jwks in (file, f"http://127.0.0.1:{placet.http}/scopes/orders/jwks.json"):
        accepted = run("verify", "--jwks", jwks, token)
        assert accepted.returncode == 0, accepted.stderr
        assert claims["jti"] in accepted.stdout
        for wrong in (issuer.token(), token[:-8] + "AAAAAAAA", "garbage", token.rsplit(".", 1)[0] + "."):
            refused = run("verify", "--jwks", jwks, wrong)
            assert refused.returncode != 0
            assert "panicked" not in refused.stderr


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "RS256", "PS256", "EdDSA"])
def test_a_generated_key_signs_and_has_its_certificate(directory, issuer, algorithm):
    place = directory / f"keygen-{algorithm}"
    signing = {"jwtSigning": {"algorithm": algorithm}}
    placet = Placet(place, [scope(issuer, **signing)])
    result = run("keygen", "--algorithm", algorithm, "--out", place / "keys", "--name", "orders")
    assert result.returncode == 0, result.stderr
    [key_file] = [file for file in (place / "keys").iterdir() if "PRIVATE KEY" in file.read_text()]
    [certificate_file] = [file for file in (place / "keys").iterdir() if "BEGIN CERTIFICATE" in file.read_text()]
    assert key_file.name == "orders.pem"
    assert key_file.stat().st_mode & 0o077 == 0, "nobody else may read the key"
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    published = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    assert published.public_key() == key.public_key()

    placet.settings["scopes"][0]["jwtResponse"]["x509Certificate"] = certificate_file.read_text()
    placet.write(placet.settings)
    with placet:
        headers = {"authorization": f"Bearer {issuer.token()}"}
        token = call(placet, check_request(headers=headers)).ok_response.headers[0].header.value
        assert verified(token, placet.jwks())[0]["alg"] == algorithm


def test_a_key_is_not_overwritten(directory):
    options = ("keygen", "--algorithm", "ES256", "--out", directory / "twice", "--name", "orders")
    assert run(*options).returncode == 0
    before = (directory / "twice" / "orders.pem").read_text()
    again = run(*options)
    assert again.returncode != 0
    assert (directory / "twice" / "orders.pem").read_text() == before


# --- schema


@pytest.fixture(scope="module")
def schema():
    found = json.loads(run("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_the_schema_accepts_what_the_parser_accepts(schema, directory, issuer):
    schema.validate(yaml.safe_load(settings_file(directory, issuer, "schema").read_text()))


def test_the_schema_refuses_what_the_parser_refuses(schema, directory, issuer):
    good = yaml.safe_load(settings_file(directory, issuer, "schema").read_text())
    for change in ({"scopse": []}, {"version": "one"}, {"scopes": "orders"}, {"listen": {"grcp": "127.0.0.1:1"}}):
        assert not schema.is_valid(merged(good, change)), change


def test_the_schema_accepts_the_example_of_every_setting(schema):
    example = yaml.safe_load((FIXTURES / "contract.yaml").read_text())
    example["scopes"][0]["deny"]["headers"] = {"x-why": "policy"}  # the example has an ellipsis there
    schema.validate(example)


def test_the_shipped_settings_are_good(schema):
    for file in (Path(__file__).parents[2] / "deploy" / "quickstart").glob("placet*.yaml"):
        schema.validate(yaml.safe_load(file.read_text()))
