"""Signing keys in Azure Key Vault, against answers written from the public REST reference: no real vault is asked."""

import json
import time

import pytest
from jwcrypto import jwk

from harness.authz import call, check_request, denied_status, is_denial
from harness.azure import ASSERTION, CLIENT, CLIENT_SECRET, TENANT, TOKEN, VAULT, Azure
from harness.placet import Placet, merged, new_private_key, pem, run, scope
from harness.process import wait_until
from harness.verify import verified

REFRESH = 1
KEY = new_private_key("ES256")


@pytest.fixture
def azure(directory):
    with Azure(directory) as running:
        yield running


@pytest.fixture
def placet(directory, issuer, azure):
    """Makes a Placet whose only store is this vault."""

    def make(env=None, details=None, key_id="{{thumbprint}}", **signing):
        place = directory / f"{len(list(directory.iterdir()))}"
        base = {"vaultUrl": f"https://{VAULT}", "refreshInterval": f"{REFRESH}s", "timeout": "1s"}
        store = {"id": "azure", "type": "azureKeyVault", "default": True, "details": merged(base, details or {})}
        scopes = [scope(issuer, jwtSigning={"publishBefore": "3s", **signing}, jwtResponse={"keyId": key_id})]
        return Placet(place, scopes, stores=[store], env=azure.as_application() if env is None else env)

    return make


def thumbprint(key):
    return jwk.JWK.from_pyca(key.public_key()).thumbprint()


def published(placet):
    """The key that signs, those that will, newest first, and those that did."""
    return [jwk.JWK(**key).thumbprint() for key in placet.jwks()["keys"]]


def ask(placet, issuer):
    return call(placet, check_request(headers={"authorization": f"Bearer {issuer.token()}"}))


def signer(placet, issuer):
    response = ask(placet, issuer)
    assert not is_denial(response), response
    return verified(response.ok_response.headers[0].header.value, placet.jwks())[0]["kid"]


def unready(made, *texts):
    """Checks that it says why on /readyz; returns all it said."""
    status, page = made.wait_until(lambda: (seen := made.readiness())[0] and all(text in json.dumps(seen[1]) for text in texts) and seen, f"/readyz says {texts}")
    assert status == 503
    said = json.dumps(page) + made.stderr
    assert not [canary for canary in (CLIENT_SECRET, ASSERTION, TOKEN, "wrong-secret") if canary in said]
    return said


# --- who asks, and where a key is


@pytest.mark.parametrize("who", ["application", "workload", "machine"])
def test_recorded_each_kind_of_identity_gets_the_key(directory, placet, issuer, azure, who):
    azure.put("orders", pem(KEY))
    (directory / "assertion").write_text(ASSERTION)
    workload = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_FEDERATED_TOKEN_FILE": str(directory / "assertion")}
    env = {"application": azure.as_application(), "workload": azure.environment(**workload), "machine": azure.environment()}[who]
    with placet(env) as running:
        assert signer(running, issuer) == thumbprint(KEY)
        from_machine = [asked for asked in azure.asked if "169.254" in asked]
        assert bool(from_machine) == (who == "machine")


def test_recorded_the_key_name_is_the_name_of_the_secret(placet, issuer, azure):
    azure.put("signing-2026", pem(KEY))
    with placet(keyName="signing-2026", key_id="{{client_id}}-{{key_version}}") as running:
        created = azure.versions["signing-2026"][0]["attributes"]["created"]
        assert signer(running, issuer) == f"orders-{created}000"


def test_recorded_no_log_level_shows_the_key_or_the_credentials(placet, issuer, azure):
    azure.put("orders", pem(KEY))
    with placet({**azure.as_application(), "PLACET_LOG": "trace"}) as running:
        assert signer(running, issuer) == thumbprint(KEY)
        assert "TRACE" in running.stderr
        secrets = [*pem(KEY).splitlines()[1:-1], CLIENT_SECRET, TOKEN]
        assert not [secret for secret in secrets if secret in running.stderr]


# --- over its life


def test_recorded_a_new_version_of_a_paged_list_is_published_first_and_then_signs(placet, issuer, azure):
    keys = [new_private_key("ES256") for _ in range(4)]
    oldest, disabled, old, new = (thumbprint(key) for key in keys)
    now = int(time.time())
    azure.put("orders", pem(keys[0]), created=now - 1000)
    azure.put("orders", pem(keys[1]), created=now - 900, enabled=False)
    azure.put("orders", pem(keys[2]), created=now - 800)
    with placet(publishBefore="10s") as running:
        assert (signer(running, issuer), published(running)) == (old, [old])
        made = time.time()
        azure.put("orders", pem(keys[3]))
        wait_until(lambda: published(running) == [old, new], "the new one is published")
        assert signer(running, issuer) == old
        wait_until(lambda: signer(running, issuer) == new, "the new one signs")
        assert time.time() >= made + 9, "publishBefore is 10 s, and the time of its making in whole seconds"
        assert published(running) == [new, old]
        running.signal(9)
        running.wait()
        running.start()
        assert (signer(running, issuer), published(running)) == (new, [new, old]), "a restart changes nothing"

        azure.versions["orders"][3]["attributes"]["enabled"] = False
        wait_until(lambda: published(running) == [old], "the new one is disabled, so withdrawn")
        assert signer(running, issuer) == old


def test_recorded_nbf_and_exp_are_kept(placet, issuer, azure):
    keys = [new_private_key("ES256") for _ in range(2)]
    first, second = (thumbprint(key) for key in keys)
    now = int(time.time())
    azure.put("orders", pem(keys[0]), created=now - 1000)
    azure.put("orders", pem(keys[1]), created=now - 900, nbf=now + 3600)
    its = azure.versions["orders"][1]["attributes"]
    with placet(publishBefore="8s") as running:
        looks = len(azure.asked)
        wait_until(lambda: len(azure.asked) > looks + 4, "it looks again")
        assert (signer(running, issuer), published(running)) == (first, [first])
        its["nbf"] = begins = int(time.time()) + 2
        wait_until(lambda: published(running) == [first, second], "the second is in its time: published")
        assert time.time() >= begins
        wait_until(lambda: signer(running, issuer) == second, "the second signs")
        assert time.time() >= begins + 8
        its["exp"] = ends = int(time.time()) + 2
        wait_until(lambda: published(running) == [first], "the second is past its time")
        assert time.time() >= ends
        assert signer(running, issuer) == first


def test_recorded_two_versions_of_one_second_have_two_numbers(placet, issuer, azure):
    keys = [new_private_key("ES256") for _ in range(2)]
    for key in keys:
        azure.put("orders", pem(key), created=1_700_000_000)
    with placet(key_id="{{key_version}}") as running:
        assert signer(running, issuer) == "1700000000001"


@pytest.mark.parametrize("status", [403, 404, 429, 503])
def test_recorded_what_the_vault_refuses_counts_toward_the_key_s_age(placet, issuer, azure, status):
    said = {403: "Azure denies us `get`", 404: "there is no secret `orders`", 429: "`429`", 503: "Azure can't answer now (`503`)"}[status]
    azure.put("orders", pem(KEY))
    with placet(maxKeyAge="12s") as running:
        azure.fault = status
        running.wait_until(lambda: said in running.stderr, "the log says so")
        assert signer(running, issuer) == thumbprint(KEY), "what was loaded goes on"
        denial = wait_until(lambda: is_denial(answer := ask(running, issuer)) and answer, "nothing is signed any more", 30)
        assert denied_status(denial) == 503
        assert published(running) == [thumbprint(KEY)], "what it signed still verifies"
        azure.fault = None
        wait_until(lambda: not is_denial(ask(running, issuer)), "it signs again")


def test_recorded_a_list_we_may_not_see_is_warned_of_once_and_done_without(placet, issuer, azure):
    azure.put("orders", pem(KEY))
    azure.denied = ("list",)
    with placet() as running:
        assert signer(running, issuer) == thumbprint(KEY)
        looks = len(azure.asked)
        wait_until(lambda: len(azure.asked) > looks + 4, "it looks again")
        assert running.stderr.count("the versions of `orders` can't be seen") == 1


# --- what is said when it does not work


def test_recorded_a_missing_secret_is_named_with_its_vault_and_retried(placet, issuer, azure):
    with placet().start(until_ready=False) as running:
        unready(running, f"there is no secret `orders` in `https://{VAULT}`: check `keyName` and `vaultUrl`")
        azure.put("orders", pem(KEY))
        running.wait_until(lambda: running.readiness()[0] == 200, "it is ready after all")
        assert signer(running, issuer) == thumbprint(KEY)


def test_recorded_refused_credentials_are_said_to_be_refused(placet, azure):
    azure.put("orders", pem(KEY))
    with placet(azure.as_application("wrong-secret")).start(until_ready=False) as running:
        unready(running, "no Azure credentials (", "AADSTS7000215")


def test_recorded_a_missing_token_file_is_named(placet, azure):
    env = azure.environment(AZURE_TENANT_ID=TENANT, AZURE_CLIENT_ID=CLIENT, AZURE_FEDERATED_TOKEN_FILE="/nowhere/token")
    with placet(env).start(until_ready=False) as running:
        unready(running, "no Azure credentials (", "/nowhere/token")


def test_recorded_a_list_that_goes_on_elsewhere_is_not_followed(placet, azure):
    azure.put("orders", pem(KEY))
    azure.put("orders", pem(KEY))
    azure.next_host = "evil.example"
    with placet().start(until_ready=False) as running:
        unready(running, "the list of versions goes on at `https://evil.example`")
        assert not [asked for asked in azure.asked if "evil.example" in asked]


def test_recorded_a_vault_that_is_away_is_named(placet, azure):
    with placet({**azure.as_application(), "HTTPS_PROXY": "http://127.0.0.1:1"}).start(until_ready=False) as running:
        unready(running, f"can't reach `https://{VAULT}`: ", "check `vaultUrl` and the network")


def test_recorded_a_name_that_no_secret_can_have_is_a_settings_error(placet):
    result = run("validate", "--config", placet(keyName="orders_v1").settings_file)
    assert result.returncode == 2
    assert "scopes[0].jwtSigning.keyName: secret store `azure`: `orders_v1` is no name of a Key Vault secret" in result.stderr
