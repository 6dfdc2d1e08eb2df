"""Signing keys in AWS Secrets Manager, played by moto: which secret and which version, rotation, and what is said.

moto tells times in whole seconds, so new versions are made in seconds of their own.
"""

import json
import time

import pytest
from cryptography.hazmat.primitives import serialization
from jwcrypto import jwk

from harness.authz import call, check_request, denied_status, is_denial
from harness.aws import CREDENTIALS, REGION, Aws
from harness.placet import REMOVED, Placet, certificate, merged, new_private_key, pem, run, scope
from harness.process import wait_until
from harness.verify import verified

REFRESH = 1
KEY = new_private_key("ES256")


@pytest.fixture(scope="module")
def aws(directory):
    with Aws(directory) as running:
        yield running


@pytest.fixture
def placet(directory, issuer, aws):
    """Makes a Placet whose only store is this Secrets Manager."""

    def make(details=None, env=None, key_id="{{thumbprint}}", **signing):
        place = directory / f"{len(list(directory.iterdir()))}"
        base = {"region": REGION, "refreshInterval": f"{REFRESH}s", "timeout": "1s"}
        store = {"id": "aws", "type": "awsSecretsManager", "default": True, "details": merged(base, details or {})}
        environment = {"AWS_ENDPOINT_URL": aws.address, "AWS_EC2_METADATA_DISABLED": "true", **CREDENTIALS, **(env or {})}
        scopes = [scope(issuer, jwtSigning={"publishBefore": "3s", **signing}, jwtResponse={"keyId": key_id})]
        return Placet(place, scopes, stores=[store], env={k: v for k, v in environment.items() if v is not REMOVED})

    return make


def thumbprint(key):
    return jwk.JWK.from_pyca(key.public_key()).thumbprint()


def published(placet):
    """The key that signs, those that will, newest first, and those that did."""
    return [jwk.JWK(**key).thumbprint() for key in placet.jwks()["keys"]]


def ask(placet, issuer):
    return call(placet, check_request(headers={"authorization": f"Bearer {issuer.token()}"}))


def signer(placet, issuer):
    """The thumbprint of the key of a new token, which verifies by the JWKS."""
    response = ask(placet, issuer)
    assert not is_denial(response), response
    kid = verified(response.ok_response.headers[0].header.value, placet.jwks())[0]["kid"]
    [key] = [key for key in placet.jwks()["keys"] if key["kid"] == kid]
    return jwk.JWK(**key).thumbprint()


def next_second():
    second = int(time.time())
    wait_until(lambda: int(time.time()) > second, "the next second")


def new_version(aws, name, key=None, **more):
    """Writes a key in a second of its own; returns its thumbprint and when it was made, at the latest."""
    next_second()
    key = key or new_private_key("ES256")
    id = aws.put(name, pem(key), **more)
    return thumbprint(key), time.time(), id


# --- where a key is


def test_the_whole_secret_is_the_key(placet, issuer, aws):
    aws.put("placet/whole", pem(KEY))
    with placet(pathToKey="placet/whole") as running:
        assert signer(running, issuer) == thumbprint(KEY)
        assert published(running) == [thumbprint(KEY)]


def test_a_field_of_a_json_secret_is_the_key_and_its_certificate_beside_it(placet, issuer, aws):
    text = certificate(KEY).public_bytes(serialization.Encoding.PEM).decode()
    aws.put("placet/json", json.dumps({"signing": pem(KEY), "signing.crt": text, "other": "x"}))
    with placet(pathToKey="placet/json", keyName="signing") as running:
        assert signer(running, issuer) == thumbprint(KEY)
        assert len(running.jwks()["keys"][0]["x5c"]) == 1


def test_a_secret_by_its_arn_and_in_binary(placet, issuer, aws):
    arn = aws.secrets.create_secret(Name="placet/binary", SecretBinary=pem(KEY).encode())["ARN"]
    with placet(pathToKey=arn) as running:
        assert signer(running, issuer) == thumbprint(KEY)


def test_the_address_of_the_settings_goes_before_that_of_the_environment(placet, issuer, aws):
    aws.put("placet/address", pem(KEY))
    made = placet({"address": aws.address}, env={"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, pathToKey="placet/address")
    with made as running:
        assert signer(running, issuer) == thumbprint(KEY)


def test_no_log_level_shows_the_key_or_the_credentials(placet, issuer, aws):
    aws.put("placet/traced", json.dumps({"signing": pem(KEY)}))
    with placet(env={"PLACET_LOG": "trace"}, pathToKey="placet/traced", keyName="signing") as running:
        assert signer(running, issuer) == thumbprint(KEY)
        assert "TRACE" in running.stderr
        secrets = [*pem(KEY).splitlines()[1:-1], CREDENTIALS["AWS_SECRET_ACCESS_KEY"]]
        assert not [secret for secret in secrets if secret in running.stderr]


# --- over its life


def test_a_new_version_is_published_first_and_then_signs(placet, issuer, aws):
    old, _, _ = new_version(aws, "placet/rotated")
    with placet(pathToKey="placet/rotated", key_id="{{client_id}}-{{key_version}}", publishBefore="10s") as running:
        assert signer(running, issuer) == old
        wait_until(lambda: time.time() > made_before(running) + 10, "the first version is old enough")
        began = time.time()
        new, _, _ = new_version(aws, "placet/rotated")
        wait_until(lambda: published(running) == [old, new], "the new one is published")
        assert signer(running, issuer) == old
        assert time.time() < began + 10, "the machine is too slow for this test"
        wait_until(lambda: signer(running, issuer) == new, "the new one signs")
        assert time.time() >= began + 10, "publishBefore is 10 s, and it was made in a later second"
        assert published(running) == [new, old]

        running.signal(9)
        running.wait()
        running.start()
        assert (signer(running, issuer), published(running)) == (new, [new, old]), "a restart changes nothing"


def made_before(running):
    """When the version was made that has the first key id, by that id."""
    return int(running.jwks()["keys"][0]["kid"].rpartition("-")[2]) / 1000


def test_two_quick_changes_take_no_key_away(placet, issuer, aws):
    """The version that signs has no label any more: neither current nor previous."""
    first, made, _ = new_version(aws, "placet/quick")
    with placet(pathToKey="placet/quick", publishBefore="8s") as running:
        assert signer(running, issuer) == first
        wait_until(lambda: time.time() > made + 8, "the first version is old enough")
        second, _, _ = new_version(aws, "placet/quick")
        third, _, _ = new_version(aws, "placet/quick")
        wait_until(lambda: published(running) == [first, third, second], "all are published")
        assert signer(running, issuer) == first


def test_a_pending_version_is_not_used_until_it_is_current(placet, issuer, aws):
    old, _, old_id = new_version(aws, "placet/pending")
    with placet(pathToKey="placet/pending") as running:
        new, made, new_id = new_version(aws, "placet/pending", VersionStages=["AWSPENDING"])
        wait_until(lambda: time.time() > made + 3 + 2 * REFRESH, "it would sign by now")
        assert (signer(running, issuer), published(running)) == (old, [old])
        aws.secrets.update_secret_version_stage(SecretId="placet/pending", VersionStage="AWSCURRENT",
                                                MoveToVersionId=new_id, RemoveFromVersionId=old_id)
        wait_until(lambda: signer(running, issuer) == new, "it signs")
        assert published(running) == [new, old]


def test_a_version_whose_label_is_taken_off_is_withdrawn(placet, issuer, aws):
    old, _, old_id = new_version(aws, "placet/withdrawn")
    with placet(pathToKey="placet/withdrawn", publishBefore="10m") as running:
        new, _, _ = new_version(aws, "placet/withdrawn")
        wait_until(lambda: published(running) == [old, new], "both are published")
        aws.secrets.update_secret_version_stage(SecretId="placet/withdrawn", VersionStage="AWSPREVIOUS", RemoveFromVersionId=old_id)
        wait_until(lambda: published(running) == [new], "the old one is withdrawn")
        assert signer(running, issuer) == new


@pytest.mark.parametrize("deleted", ["at once", "after a while"])
def test_a_deleted_secret_counts_toward_the_key_s_age(placet, issuer, aws, deleted):
    name = f"placet/deleted-{deleted.replace(' ', '-')}"
    key, _, _ = new_version(aws, name)
    how = {"ForceDeleteWithoutRecovery": True} if deleted == "at once" else {"RecoveryWindowInDays": 7}
    said = "there is no secret" if deleted == "at once" else "is marked for deletion: restore it"
    with placet(pathToKey=name, maxKeyAge="12s") as running:
        aws.secrets.delete_secret(SecretId=name, **how)
        running.wait_until(lambda: said in running.stderr and name in running.stderr, "the log says so")
        assert signer(running, issuer) == key, "what was loaded goes on"
        denial = wait_until(lambda: is_denial(answer := ask(running, issuer)) and answer, "nothing is signed any more", 30)
        assert denied_status(denial) == 503
        assert published(running) == [key], "what it signed still verifies"
        if deleted == "after a while":
            aws.secrets.restore_secret(SecretId=name)
            wait_until(lambda: not is_denial(ask(running, issuer)), "it signs again")


# --- what is said when it does not work


def test_no_secret_name_is_a_settings_error(placet):
    result = run("validate", "--config", placet().settings_file)
    assert result.returncode == 2
    assert "scopes[0].jwtSigning.pathToKey: secret store `aws`: no secret for key `orders`: set the scope's `pathToKey`" in result.stderr


def unready(made, *texts):
    """Checks that it says why on /readyz; returns all it said."""
    status, page = made.wait_until(lambda: (seen := made.readiness())[0] and all(text in json.dumps(seen[1]) for text in texts) and seen, f"/readyz says {texts}")
    assert status == 503
    said = json.dumps(page) + made.stderr
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in said
    return said


def test_a_missing_secret_is_named_with_its_region_and_retried(placet, issuer, aws):
    with placet(pathToKey="placet/later").start(until_ready=False) as running:
        unready(running, "there is no secret `placet/later` in region `eu-west-1`: check `pathToKey`, `region`")
        aws.put("placet/later", pem(KEY))
        running.wait_until(lambda: running.readiness()[0] == 200, "it is ready after all")
        assert signer(running, issuer) == thumbprint(KEY)


def test_another_region_is_another_place(placet, aws):
    aws.put("placet/region", pem(KEY))
    with placet({"region": "us-east-1"}, pathToKey="placet/region").start(until_ready=False) as running:
        unready(running, "there is no secret `placet/region` in region `us-east-1`")


@pytest.mark.parametrize("text, said", [('{"other": "canary-of-key"}', "has no field `signing`, only `other`"), ("canary-of-key", "is no JSON object")], ids=["field", "json"])
def test_a_missing_field_is_named(placet, aws, text, said):
    name = f"placet/field-{len(text)}"
    aws.put(name, text)
    with placet(pathToKey=name, keyName="signing").start(until_ready=False) as running:
        assert "canary-of-key" not in unready(running, said, name)


def test_missing_credentials_are_said_to_be_missing(placet, aws):
    none = {"AWS_ACCESS_KEY_ID": REMOVED, "AWS_SECRET_ACCESS_KEY": REMOVED, "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    with placet(env=none, pathToKey="placet/any").start(until_ready=False) as running:
        unready(running, "no AWS credentials (", "give the process a role")


def test_a_server_that_is_away_is_named(placet):
    with placet({"address": "http://127.0.0.1:1"}, pathToKey="placet/any").start(until_ready=False) as running:
        unready(running, "can't reach `http://127.0.0.1:1`", "check `address`")


def test_nothing_goes_out_in_the_clear(placet):
    elsewhere = {"AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://secrets.example"}
    with placet(env=elsewhere, pathToKey="placet/any").start(until_ready=False) as running:
        unready(running, "the address `http://secrets.example` would send secrets in the clear")
