"""Signing keys in real OpenBao: every way to log in and to name a key, and what is said when it does not work."""

import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from jwcrypto import jwk

from harness.authz import call, check_request, denied_status
from harness.bao import Bao
from harness.placet import REMOVED, Placet, certificate, merged, new_private_key, pem, run, scope
from harness.verify import verified

POLICY = (Path(__file__).parents[2] / "deploy" / "vault" / "placet.hcl").read_text()
KEY = new_private_key("ES256")


@pytest.fixture(scope="module")
def bao(directory):
    with Bao(directory) as running:
        running.policy("placet", POLICY)
        running.put_key("placet/keys", orders=pem(KEY), elsewhere=pem(KEY, "TraditionalOpenSSL"))
        yield running


@pytest.fixture
def placet(directory, issuer, bao, request):
    """Makes a Placet whose default store is this OpenBao with a token of the shipped policy."""

    def make(details=None, scopes=None, stores=(), env=None, server=None, **signing):
        place = directory / re.sub(r"\W+", "-", request.node.name)
        server = server or bao
        store = {"address": server.address, "defaultPath": "placet/keys", "refreshInterval": "1s", "timeout": "1s",
                 "auth": {"method": "token", "tokenFile": "token"}}
        vault = {"id": "vault", "type": "vault", "default": True, "details": merged(store, details or {})}
        made = Placet(place, scopes or [scope(issuer, jwtSigning=signing)], stores=[vault, *stores], env=env)
        if not server.popen or server.ended():
            (place / "token").write_text("root")
        else:
            (place / "token").write_text(server.token("placet"))
        return made

    return make


def signs(running, issuer, client_id="orders"):
    """Checks that a request is allowed with a token of the published key; returns the token's header."""
    response = call(running, check_request(headers={"authorization": f"Bearer {issuer.token()}"}))
    assert response.status.code == 0, response
    return verified(response.ok_response.headers[0].header.value, running.jwks(client_id), f"{client_id}-api")[0]


def published_thumbprint(running):
    return jwk.JWK(**running.jwks()["keys"][0]).thumbprint()


# --- where a key is


def test_the_default_path_and_the_client_id_find_the_key(placet, issuer):
    with placet() as running:
        assert signs(running, issuer) == {"alg": "ES256", "kid": "orders", "typ": "JWT"}
        assert published_thumbprint(running) == jwk.JWK.from_pyca(KEY.public_key()).thumbprint()


def test_a_path_and_a_key_name_find_another_key(placet, issuer, bao):
    other = new_private_key("RS256")
    bao.put_key("placet/apps/orders", signing=pem(other, "TraditionalOpenSSL"))
    with placet(pathToKey="placet/apps/orders", keyName="signing") as running:
        assert signs(running, issuer)["alg"] == "RS256"
        assert published_thumbprint(running) == jwk.JWK.from_pyca(other.public_key()).thumbprint()


def test_a_key_can_be_a_jwk(placet, issuer, bao):
    key = jwk.JWK.generate(kty="OKP", crv="Ed25519")
    bao.put_key("placet/jwk", orders=key.export())
    with placet(pathToKey="placet/jwk") as running:
        assert signs(running, issuer)["alg"] == "EdDSA"
        assert published_thumbprint(running) == key.thumbprint()


def test_the_version_of_the_secret_can_be_in_the_key_id(placet, issuer, bao):
    bao.put_key("placet/versioned", orders=pem(new_private_key("ES256")))
    bao.put_key("placet/versioned", orders=pem(new_private_key("ES256")))
    scopes = [scope(issuer, jwtSigning={"pathToKey": "placet/versioned"}, jwtResponse={"keyId": "{{client_id}}-{{key_version}}"})]
    with placet(scopes=scopes) as running:
        assert signs(running, issuer)["kid"] in ("orders-1", "orders-2")


def test_the_certificate_beside_the_key_is_published(placet, issuer, bao):
    cert = certificate(KEY).public_bytes(serialization.Encoding.PEM).decode()
    bao.put_key("placet/certified", **{"orders": pem(KEY), "orders.crt": cert})
    with placet(pathToKey="placet/certified") as running:
        signs(running, issuer)
        [key] = running.jwks()["keys"]
        assert len(key["x5c"]) == 1 and key["x5t#S256"]


def test_the_chosen_store_counts_and_else_the_default(placet, issuer):
    in_file = new_private_key("ES384")
    files = {"id": "files", "type": "file", "details": {"directory": "keys"}}
    by_default = scope(issuer, "elsewhere", match={"hosts": ["elsewhere.example.com"]})
    chosen = scope(issuer, default=True, jwtSigning={"secretStore": "files"})
    made = placet(scopes=[chosen, by_default], stores=[files])
    made.write_key("orders", pem(in_file))
    with made as running:
        assert signs(running, issuer)["alg"] == "ES384"
        request = check_request(host="elsewhere.example.com", headers={"authorization": f"Bearer {issuer.token()}"})
        token = call(running, request).ok_response.headers[0].header.value
        assert verified(token, running.jwks("elsewhere"), "elsewhere-api")[0]["alg"] == "ES256"


def test_an_environment_variable_can_hold_the_key(placet, issuer):
    environment = {"id": "environment", "type": "env", "details": {"prefix": "PLACET_KEY_"}}
    made = placet(stores=[environment], env={"PLACET_KEY_ORDERS_2026": pem(KEY)}, secretStore="environment", keyName="orders-2026")
    with made as running:
        signs(running, issuer)


def test_kv_version_1(placet, issuer, bao):
    bao.must("POST", "sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}})
    bao.put_key("placet/keys", mount="kv1", version=1, orders=pem(KEY))
    bao.policy("placet-kv1", 'path "kv1/placet/*" { capabilities = ["read"] }')
    made = placet({"mount": "kv1", "kvVersion": 1})
    (made.directory / "token").write_text(bao.token("placet-kv1"))
    with made as running:
        signs(running, issuer)


def test_a_namespace(placet, issuer, bao):
    bao.must("POST", "sys/namespaces/team-a", {})
    bao.must("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}, namespace="team-a")
    other = new_private_key("ES256")
    bao.put_key("placet/keys", namespace="team-a", orders=pem(other))
    bao.policy("placet", POLICY, namespace="team-a")
    made = placet({"namespace": "team-a"})
    (made.directory / "token").write_text(bao.token("placet", namespace="team-a"))
    with made as running:
        signs(running, issuer)
        assert published_thumbprint(running) == jwk.JWK.from_pyca(other.public_key()).thumbprint()


# --- who asks


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_token_file(placet, issuer, bao, ending):
    made = placet()
    (made.directory / "token").write_text(bao.token("placet") + ending)
    with made as running:
        signs(running, issuer)


def test_a_token_in_the_environment(placet, issuer, bao):
    auth = {"auth": {"method": "token", "tokenFile": REMOVED, "tokenEnv": "BAO_TOKEN"}}
    with placet(auth, env={"BAO_TOKEN": bao.token("placet")}) as running:
        signs(running, issuer)


@pytest.mark.parametrize("way", ["files", "environment", "reference"])
def test_an_approle(placet, issuer, bao, way):
    role_id, secret_id = bao.approle("placet", "placet")
    auth = {
        "files": {"roleIdFile": "role", "secretIdFile": "secret"},
        "environment": {"roleId": role_id, "secretIdEnv": "BAO_SECRET_ID"},
        "reference": {"roleId": "{{storeId=ENV_VAR,key=BAO_ROLE_ID}}", "secretIdFile": "secret"},
    }[way]
    made = placet({"auth": {"method": "appRole", "tokenFile": REMOVED, **auth}}, env={"BAO_SECRET_ID": secret_id, "BAO_ROLE_ID": role_id})
    (made.directory / "role").write_text(role_id)
    (made.directory / "secret").write_text(secret_id)
    with made as running:
        signs(running, issuer)


# --- what is said when it does not work


def test_no_path_at_all_is_a_settings_error(placet):
    made = placet({"defaultPath": REMOVED})
    for command in ("validate", "serve"):
        result = run(command, "--config", made.settings_file)
        assert result.returncode == 2
        assert "scopes[0].jwtSigning.pathToKey: " in result.stderr


def test_a_login_and_its_keys_must_belong_together(placet):
    result = run("validate", "--config", placet({"auth": {"method": "token", "roleId": "x"}}).settings_file)
    assert result.returncode == 2
    assert "secretStores[0].details.auth.roleId: " in result.stderr


def unready(made, issuer, *texts):
    """Checks that it says why on /readyz and in the log, and denies meanwhile; returns all it said."""
    status, page = made.wait_until(lambda: (seen := made.readiness())[0] and all(text in json.dumps(seen[1]) for text in ("orders", *texts)) and seen, f"/readyz says {texts}")
    assert status == 503
    made.wait_until(lambda: all(text in made.stderr for text in texts), f"the log says {texts}")
    request = check_request(headers={"authorization": f"Bearer {issuer.token()}"})
    assert denied_status(call(made, request)) == 503
    return json.dumps(page) + made.stderr


def ready_and_signing(made, issuer):
    made.wait_until(lambda: made.readiness()[0] == 200, "it is ready after all", 30)
    signs(made, issuer)


def test_a_missing_path_is_named_and_retried(placet, issuer, bao):
    made = placet(pathToKey="placet/later")
    with made.start(until_ready=False):
        unready(made, issuer, "placet/later")
        bao.put_key("placet/later", orders=pem(KEY))
        ready_and_signing(made, issuer)


def test_a_missing_field_is_named_and_retried(placet, issuer, bao):
    bao.put_key("placet/fields", other=pem(KEY))
    made = placet(pathToKey="placet/fields")
    with made.start(until_ready=False):
        unready(made, issuer, "placet/fields", "`orders`")
        bao.put_key("placet/fields", orders=pem(KEY))
        ready_and_signing(made, issuer)


def test_a_refused_token_is_named(placet, issuer):
    made = placet()
    (made.directory / "token").write_text("s.wrong")
    with made.start(until_ready=False):
        unready(made, issuer, "denied")
        assert "s.wrong" not in made.stderr


def test_a_policy_that_does_not_allow_the_path_is_named(placet, issuer):
    made = placet(pathToKey="other/keys")
    with made.start(until_ready=False):
        unready(made, issuer, "denied", "other/keys")


@pytest.mark.parametrize("value", ["canary", pem(new_private_key("ES256")).replace("PRIVATE", "PUBLIC"), ""], ids=["text", "public", "empty"])
def test_a_value_that_is_no_key_is_named_and_not_shown(placet, issuer, bao, value):
    bao.put_key("placet/nonsense", orders=value)
    made = placet(pathToKey="placet/nonsense")
    with made.start(until_ready=False):
        said = unready(made, issuer, "private key")
        assert not [line for line in value.splitlines() if line in said and "-----" not in line]


def test_jwks_says_the_same(placet):
    result = run("jwks", "--config", placet(pathToKey="placet/nowhere").settings_file)
    assert result.returncode != 0
    assert "placet/nowhere" in result.stderr
    assert result.stdout == ""


def test_a_vault_that_is_away_at_start_is_waited_for(placet, issuer, directory):
    (directory / "late").mkdir()
    late = Bao(directory / "late")
    made = placet(server=late)
    with made.start(until_ready=False):
        unready(made, issuer, str(late.port))
        with late:
            late.put_key("placet/keys", orders=pem(KEY))
            ready_and_signing(made, issuer)
        signs(made, issuer)  # the key is in memory: Vault may go again


def test_a_sealed_vault_is_named_and_waited_for(placet, issuer, directory):
    (directory / "sealed").mkdir()
    with Bao(directory / "sealed") as own:
        own.policy("placet", POLICY)
        own.put_key("placet/keys", orders=pem(KEY))
        made = placet(server=own)
        own.must("PUT", "sys/seal")
        with made.start(until_ready=False):
            unready(made, issuer, "sealed")
            [unseal_key] = re.findall(r"Unseal Key: (\S+)", own.stdout)
            own.must("PUT", "sys/unseal", {"key": unseal_key})
            ready_and_signing(made, issuer)
