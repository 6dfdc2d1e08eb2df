"""`backend: transit`: keys that never leave OpenBao sign, are published, rotate, and are denied when they can't sign."""

import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import jwt
import pytest

from harness import envoy
from harness.authz import call, check_request, denied_status, is_denial
from harness.bao import Bao
from harness.client import bearer, send
from harness.placet import REMOVED, Placet, run, scope
from harness.process import wait_until
from harness.verify import claims_by_jose, verified

POLICY = (envoy.DEPLOY.parent / "vault" / "placet.hcl").read_text()
KINDS = {"ES256": "ecdsa-p256", "ES384": "ecdsa-p384", "RS256": "rsa-2048", "PS256": "rsa-2048", "EdDSA": "ed25519"}
VERSIONED = "{{client_id}}-{{key_version}}"


@pytest.fixture(scope="module")
def bao(directory):
    with Bao(directory) as running:
        running.must("POST", "sys/mounts/transit", {"type": "transit"})
        running.policy("placet", POLICY)
        yield running


def signing(issuer, algorithm, key, client_id="orders", **changes):
    transit = {"keyName": key, "backend": "transit", "algorithm": algorithm, "publishBefore": "0s"}
    return scope(issuer, client_id, jwtSigning={**transit, **changes.pop("jwtSigning", {})},
                 jwtResponse={"keyId": VERSIONED, **changes.pop("jwtResponse", {})}, **changes)


def on(bao, place, scopes, token=None, **details):
    store = {"address": bao.address, "refreshInterval": "1s", "auth": {"method": "token", "tokenFile": "token"}, **details}
    made = Placet(place, scopes, stores=[{"id": "vault", "type": "vault", "default": True, "details": store}])
    (place / "token").write_text(token or bao.token("placet"))
    return made


def ask(placet, issuer, **options):
    return call(placet, check_request(headers={"authorization": f"Bearer {issuer.token()}"}, **options))


def token_of(response):
    assert not is_denial(response), response
    return response.ok_response.headers[0].header.value


def make(bao, name, kind="ecdsa-p256"):
    bao.must("POST", f"transit/keys/{name}", {"type": kind})


@pytest.mark.parametrize("algorithm", KINDS)
def test_tokens_are_verified_by_libraries_and_by_envoy(directory, issuer, echo, bao, algorithm):
    name = f"placet-{algorithm.lower()}"
    make(bao, name, KINDS[algorithm])
    place = directory / name
    with ExitStack() as running:
        placet = running.enter_context(on(bao, place, [signing(issuer, algorithm, name)]))
        upstream = running.enter_context(envoy.upstream(place, echo.port, placet.http))
        edge = running.enter_context(envoy.edge(place, upstream.port, placet.socket))
        echo.take()
        answer = send(edge.port, "/accounts/1", [bearer(issuer.token())])
        assert answer.status == 200, answer
        [seen] = echo.take()
        token = seen.one("x-placet-decision")
        header, claims = verified(token, placet.jwks())
        assert (header["alg"], header["kid"]) == (algorithm, "orders-1")
        assert claims_by_jose(token, placet.jwks()) in (claims, None)
        forged = send(upstream.port, "/accounts/1", [("x-placet-decision", token[:-8] + "AAAAAAAA")])
        assert forged.status == 401, "the upstream's Envoy does verify"
        [key] = placet.jwks()["keys"]
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & key.keys()


def test_a_rotation_in_the_middle_of_load_loses_nothing(directory, issuer, echo, bao):
    make(bao, "placet-rotating")
    place = directory / "rotating"
    rotating = signing(issuer, "ES256", "placet-rotating", jwtSigning={"publishBefore": "10s"},
                       jwtResponse={"tokenLifetimeSeconds": 3})
    with ExitStack() as running:
        placet = running.enter_context(on(bao, place, [rotating]))
        upstream = running.enter_context(envoy.upstream(place, echo.port, placet.http, envoy.cached(1)))
        edge = running.enter_context(envoy.edge(place, upstream.port, placet.socket))
        ended, answers, signed = threading.Event(), Counter(), Counter()
        incoming = issuer.token()

        def load():
            while not ended.is_set():
                answers[send(edge.port, "/accounts/1", [bearer(incoming)]).status] += 1

        def note():
            for seen in echo.take():
                signed[jwt.get_unverified_header(seen.one("x-placet-decision"))["kid"]] += 1
            return signed

        clients = [threading.Thread(target=load) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            for version in (2, 3):
                done = run("keys", "rotate", "--config", operator(bao, place, rotating))
                assert done.returncode == 0, done
                wait_until(lambda: [key["kid"] for key in placet.jwks()["keys"]].count(f"orders-{version}"), "published")
                assert f"orders-{version}" not in note(), "published before it signs"
                wait_until(lambda: note()[f"orders-{version}"] > 20, "the new version signs")
        finally:
            ended.set()
            for client in clients:
                client.join()
        note()
        assert answers == {200: answers.total()} and answers.total() > 100
        assert set(signed) == {"orders-1", "orders-2", "orders-3"}
        denied = {name: count for name, count in upstream.stats("jwt_authn").items() if name.endswith("denied")}
        assert not any(denied.values())


def operator(bao, place, of):
    """The same settings with the login of somebody who may write."""
    folder = place / "operator"
    folder.mkdir(exist_ok=True)
    made = on(bao, folder, [of], token="root")
    return made.settings_file


def test_many_requests_at_once_share_questions_to_the_store(directory, issuer):
    """Counted by OpenBao's own audit device, which writes two lines a question."""
    place = directory / "busy"
    place.mkdir()
    audited, log = place / "audit.hcl", place / "audit.log"
    audited.write_text(f'audit "file" "all" {{ options {{ file_path = "{log}" }} }}')
    bao = Bao(place)
    bao.argv.append(f"-config={audited}")
    with bao:
        bao.must("POST", "sys/mounts/transit", {"type": "transit"})
        bao.policy("placet", POLICY)
        make(bao, "placet-busy", "rsa-2048")
        with on(bao, place / "placet", [signing(issuer, "RS256", "placet-busy")], timeout="4s") as placet:
            asked = lambda: log.read_text().count("transit/sign/placet-busy/sha2-256\"") // 2
            before = asked()
            assert before > 0, "the audit log shows the proof at the start"
            signing_now = lambda: placet.metrics().get('placet_signing_in_progress{scope="orders"}', 0)
            with ThreadPoolExecutor(32) as pool:
                # Where the clients are slow, so few would wait at once that each had a question of its own.
                bao.signal(signal.SIGSTOP)
                try:
                    answers = pool.map(lambda n: token_of(ask(placet, issuer, path=f"/accounts/{n}")), range(200))
                    wait_until(lambda: signing_now() >= 20, "many wait")
                finally:
                    bao.signal(signal.SIGCONT)
                tokens = list(answers)
            claims = [verified(token, placet.jwks())[1] for token in tokens]
            assert [claim["htu"] for claim in claims] == [f"http://orders.example.com/accounts/{n}" for n in range(200)], "each its own"
            assert 0 < asked() - before < 190, f"{asked() - before} questions for 200 tokens"


def test_what_may_not_sign_is_not_ready_and_says_why(directory, issuer, bao):
    make(bao, "placet-mute")
    bao.policy("reader", 'path "transit/keys/placet-*" { capabilities = ["read"] }')
    with on(bao, directory / "mute", [signing(issuer, "ES256", "placet-mute")], token=bao.token("reader")).start(until_ready=False) as placet:
        wait_until(lambda: "permission" in str(placet.readiness()[1]), "the reason is shown")
        assert placet.readiness()[0] == 503
        assert denied_status(ask(placet, issuer)) == 503


def test_while_the_store_does_not_sign_everything_is_denied_and_published(directory, issuer):
    place = directory / "away"
    place.mkdir()
    with Bao(place) as bao:
        bao.must("POST", "sys/mounts/transit", {"type": "transit"})
        bao.policy("placet", POLICY)
        make(bao, "placet-away")
        with on(bao, place / "placet", [signing(issuer, "ES256", "placet-away")], timeout="2s") as placet:
            published = placet.jwks()
            verified(token_of(ask(placet, issuer)), published)
            bao.stop()
            assert denied_status(ask(placet, issuer)) == 503
            assert placet.jwks() == published and placet.readiness()[0] == 200
            assert placet.decisions()[-1]["reason"] == "key_unavailable"


def test_a_raised_minimum_version_withdraws_the_ones_below(directory, issuer, bao):
    make(bao, "placet-raised")
    bao.must("POST", "transit/keys/placet-raised/rotate")
    retiring = signing(issuer, "ES256", "placet-raised", jwtResponse={"tokenLifetimeSeconds": 600})
    with on(bao, directory / "raised", [retiring]) as placet:
        kids = lambda: [key["kid"] for key in placet.jwks()["keys"]]
        assert kids() == ["orders-2", "orders-1"]
        bao.must("POST", "transit/keys/placet-raised/config", {"min_decryption_version": 2, "min_encryption_version": 2})
        wait_until(lambda: kids() == ["orders-2"], "version 1 is gone")
        verified(token_of(ask(placet, issuer)), placet.jwks())


@pytest.mark.parametrize("changes, said", [
    ({"algorithm": "RS256"}, "`RS256` does not fit a P-256 key: use `ES256`"),
    ({"keyName": "placet-none"}, "there is none: create it"),
    ({"keyName": "placet-symmetric"}, "create one of type ecdsa-p256"),
])
def test_a_key_that_can_not_be_used_is_named(directory, issuer, bao, changes, said):
    if bao.call("GET", "transit/keys/placet-plain")[0] == 404:
        make(bao, "placet-plain")
        make(bao, "placet-symmetric", "aes256-gcm96")
    place = directory / f"unusable-{abs(hash(said))}"
    unusable = signing(issuer, REMOVED, "placet-plain", jwtSigning={"algorithm": "ES256", **changes})
    with on(bao, place, [unusable]).start(until_ready=False) as placet:
        wait_until(lambda: said in str(placet.readiness()[1]), "the reason is shown")


def test_settings_that_can_not_work_are_refused(directory, issuer, bao):
    place = directory / "refused"
    made = Placet(place, [signing(issuer, "ES256", "placet-x")])
    refused = run("validate", "--config", made.settings_file)
    assert refused.returncode == 2
    assert "scopes[0].jwtSigning.backend: secret store `files` is of type file, which does not sign" in refused.stderr
    made = on(bao, place / "named", [signing(issuer, "ES256", "../keys/x")])
    refused = run("validate", "--config", made.settings_file)
    assert refused.returncode == 2 and "is not the name of a Transit key" in refused.stderr
