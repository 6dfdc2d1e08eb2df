"""Signing keys over their life: rotation under load, in the middle of a restart, and with the store away.

`publishBefore` and the verifiers' caches are seconds here instead of minutes; their order is the one
that counts: refreshInterval < the verifier's cache < publishBefore - refreshInterval.
"""

import itertools
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack
from types import SimpleNamespace

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from jwcrypto import jwk
from jwcrypto.jws import InvalidJWSSignature
from jwcrypto.jwt import JWT

from harness import envoy
from harness.authz import call, check_request, denied_status, is_denial
from harness.bao import Bao, RaftBao
from harness.client import bearer, get, send
from harness.load import Load
from harness.placet import Placet, certificate, new_private_key, pem, scope
from harness.process import wait_until
from harness.verify import claims_by_jose, verified

POLICY = (envoy.DEPLOY.parent / "vault" / "placet.hcl").read_text()
REFRESH = 1
VERSIONED = "{{client_id}}-{{key_version}}"


@pytest.fixture(scope="module")
def bao(directory):
    with Bao(directory) as running:
        running.policy("placet", POLICY)
        yield running


def on(server, place, scopes, **details):
    """A Placet whose keys are in this OpenBao, read with a token of the shipped policy."""
    store = {"address": server.address, "defaultPath": f"placet/{place.name}", "refreshInterval": f"{REFRESH}s",
             "timeout": "1s", "auth": {"method": "token", "tokenFile": "token"}, **details}
    made = Placet(place, scopes, stores=[{"id": "vault", "type": "vault", "default": True, "details": store}])
    (place / "token").write_text(server.token("placet"))
    return made


def new_version(server, path, key=None, name="orders"):
    """Writes a key, and returns a moment no later than the creation time the store gives it."""
    before = time.time()
    server.put_key(path, **{name: pem(key or new_private_key("ES256"))})
    return before


def kids(placet, client_id="orders"):
    """As published: the key that signs, those that will, newest first, and those that did."""
    return [key["kid"] for key in placet.jwks(client_id)["keys"]]


def ask(placet, issuer):
    return call(placet, check_request(headers={"authorization": f"Bearer {issuer.token()}"}))


def signer(placet, issuer):
    """The key id of a new token, which verifies by the JWKS."""
    response = ask(placet, issuer)
    assert not is_denial(response), response
    return verified(response.ok_response.headers[0].header.value, placet.jwks())[0]["kid"]


def signer_if_any(placet, issuer):
    """The same for waits: None while nothing is signed, or by a key that is not in the JWKS."""
    response, jwks = ask(placet, issuer), placet.jwks()
    if is_denial(response):
        return None
    token = response.ok_response.headers[0].header.value
    is_published = jwt.get_unverified_header(token)["kid"] in [key["kid"] for key in jwks["keys"]]
    return verified(token, jwks)[0]["kid"] if is_published else None


def number(kid):
    return int(kid.rpartition("-")[2])


def kill(placet):
    placet.signal(signal.SIGKILL)
    placet.wait()


# --- a file, which takes a minute: it is looked at every 30 s, so it runs beside the other tests


@pytest.fixture(scope="module", autouse=True)
def changed_file(directory, issuer):
    """A Placet whose key file is replaced after the start, and what it did from then on."""
    keys = [new_private_key("ES256"), new_private_key("ES256")]
    old, new = (jwk.JWK.from_pyca(key.public_key()).thumbprint() for key in keys)
    signing = scope(issuer, jwtSigning={"publishBefore": "3s"}, jwtResponse={"keyId": "{{thumbprint}}"})
    samples, failures, ended = [], [], threading.Event()
    with Placet(directory / "file", [signing], keys={"orders": pem(keys[0])}, decisionLog={"sink": "none"}) as placet:
        assert signer(placet, issuer) == old
        file = placet.directory / "keys" / "orders.pem"
        file.with_suffix(".new").write_text(pem(keys[1]))
        os.replace(file.with_suffix(".new"), file)

        def sample():
            while not ended.wait(0.2):
                try:
                    before, signing, after = kids(placet), signer(placet, issuer), kids(placet)
                except Exception as error:
                    failures.append(error)
                    continue
                # Else there is no telling which of the two it was.
                if before == after:
                    samples.append((time.monotonic(), signing, after))

        sampler = threading.Thread(target=sample)
        sampler.start()
        yield SimpleNamespace(old=old, new=new, samples=samples, failures=failures)
        ended.set()
        sampler.join()


# --- fifty rotations

ROTATIONS, EVERY = 50, 0.9
CACHE, PUBLISH_BEFORE = 3, 8


class SideBySide:
    """Two Placets with an edge each, before one upstream that verifies by the JWKS of the first."""

    def __init__(self, running, bao, place, issuer, echo):
        place.mkdir()
        signing = scope(issuer, jwtSigning={"pathToKey": "placet/fifty", "publishBefore": f"{PUBLISH_BEFORE}s"},
                        jwtResponse={"keyId": VERSIONED, "tokenLifetimeSeconds": 3})
        self.a = running.enter_context(on(bao, place / "a", [signing]))
        # Half an interval later: they look into the store, and notice, at different times.
        time.sleep(REFRESH / 2)
        self.b = running.enter_context(on(bao, place / "b", [signing]))
        self.upstream = running.enter_context(envoy.upstream(place, echo.port, self.a.http, envoy.cached(CACHE)))
        self.echo, self.seen, self.disagreed = echo, [], 0
        self.loads = {}
        for placet, name in ((self.a, "a"), (self.b, "b")):
            edge = running.enter_context(envoy.edge(place, self.upstream.port, placet.socket, name=f"edge-{name}"))
            self.loads[placet] = [Load(edge, name, issuer.token()) for _ in range(2)]
        self.replays = []

    def all_loads(self):
        return [load for loads in self.loads.values() for load in loads]

    def restart_in_mid_rotation(self, placet):
        with ExitStack() as waiting:
            for load in self.loads[placet]:
                waiting.enter_context(load.turn)
            active, *others = map(number, kids(placet))
            assert max(others) > active, "a version is published that does not sign yet"
            kill(placet)
            placet.start()

    def look(self):
        """Counts moments when one Placet knows more than the other, and shows a token again that has waited."""
        self.disagreed += kids(self.a) != kids(self.b)
        self.take()
        self.replays.append(self.seen[-1].one("x-placet-decision"))
        if len(self.replays) > 2:
            old = send(self.upstream.port, "/accounts/again", [("x-placet-decision", self.replays.pop(0))])
            assert old.status == 200, old

    def take(self):
        self.seen += self.echo.take()

    def signed(self, name):
        """The versions of the key in the tokens that came through one Placet."""
        tokens = [seen.one("x-placet-decision") for seen in self.seen if seen.target == f"/accounts/{name}"]
        return {number(jwt.get_unverified_header(token)["kid"]) for token in tokens}


def test_fifty_rotations_under_load_lose_nothing(directory, issuer, echo, bao):
    """A new version every second, two Placets that notice at different times, each once killed and restarted.

    The upstream's Envoy believes the JWKS of the first Placet only, from a cache that outlives the
    refresh interval, and fetches nothing for a key id it does not know. Each Placet has an edge and
    clients of its own; while it is killed they wait, since it is the keys that this is about and not
    an edge without its Placet. The other's clients go on meanwhile: the first Placet's death takes
    the JWKS away that the second's tokens are verified by.
    """
    new_version(bao, "placet/fifty")
    # KV keeps ten versions unless told otherwise, and what it drops is withdrawn.
    bao.must("POST", "secret/metadata/placet/fifty", {"max_versions": 100})
    with ExitStack() as running:
        both = SideBySide(running, bao, directory / "fifty", issuer, echo)
        started = time.monotonic()
        for load in both.all_loads():
            load.start()
        wait_until(lambda: both.take() or both.signed("a") and both.signed("b"), "tokens of both")
        for rotation in range(ROTATIONS):
            # What was late is not made up for: versions in quick succession would not all get to sign.
            due = time.monotonic() + EVERY
            new_version(bao, "placet/fifty")
            both.look()
            if rotation == ROTATIONS // 3:
                both.restart_in_mid_rotation(both.a)
            if rotation == 2 * ROTATIONS // 3:
                both.restart_in_mid_rotation(both.b)
            time.sleep(max(0, due - time.monotonic()))
        last = ROTATIONS + 1
        wait_until(lambda: both.take() or last in both.signed("a") & both.signed("b"), "both sign with the last version")
        for load in both.all_loads():
            load.ended.set()
            load.join()
        lasted = time.monotonic() - started

        answers = sum((load.answers for load in both.all_loads()), Counter())
        assert answers == {(200, b"echo\n"): answers.total()}
        stats = {name.rpartition(".")[2]: count for name, count in both.upstream.stats("jwt_authn").items()}
        assert stats.get("denied", 0) == 0
        assert stats["allowed"] >= answers.total() > 1000
        assert lasted / stats["jwks_fetch_success"] > 2 * REFRESH, "the verifier kept what it had fetched"
        assert both.disagreed >= 5, "they noticed at different times"
        both.take()
        signed = both.signed("a") | both.signed("b")
        assert len(signed) >= 0.9 * last, f"{last} versions; only these signed: {sorted(signed)}"


# --- what is published under which key id, and what verifiers make of it

PACE_OF_THREE, CACHE_OF_THREE, PUBLISH_THREE_BEFORE = 4, 2, 9
THREE = ("versioned", "certified", "unset")


def host_of(client_id):
    return f"{client_id}.example.com"


def verifying_three(placet):
    """The shipped upstream with a provider for each scope, chosen by host."""

    def change(config):
        jwt_authn = envoy.http_filter(config["static_resources"]["listeners"][0], "envoy.filters.http.jwt_authn")
        shipped = jwt_authn["providers"].pop("placet")
        jwt_authn["rules"] = []
        for client_id in THREE:
            uri = {**shipped["remote_jwks"]["http_uri"], "uri": jwks_uri(placet, client_id)}
            remote = {**shipped["remote_jwks"], "http_uri": uri, "cache_duration": f"{CACHE_OF_THREE}s"}
            jwt_authn["providers"][client_id] = {**shipped, "audiences": [f"{client_id}-api"], "remote_jwks": remote}
            of_host = {"name": ":authority", "string_match": {"exact": host_of(client_id)}}
            match = {"prefix": "/", "headers": [of_host]}
            jwt_authn["rules"].append({"match": match, "requires": {"provider_name": client_id}})
        return config

    return change


def jwks_uri(placet, client_id):
    return f"http://127.0.0.1:{placet.http}/scopes/{client_id}/jwks.json"


class Libraries:
    """One scope's verifiers: PyJWT's client with its cache, and jwcrypto with a set fetched as often."""

    def __init__(self, placet, client_id):
        self.placet, self.client_id = placet, client_id
        self.client = jwt.PyJWKClient(jwks_uri(placet, client_id), lifespan=CACHE_OF_THREE)
        self.jwks, self.fetched = None, None

    def refusals(self, token):
        """Names of the libraries that refuse it."""
        now = time.monotonic()
        if self.fetched is None or now - self.fetched > CACHE_OF_THREE:
            self.jwks, self.fetched = get(self.placet.http, f"/scopes/{self.client_id}/jwks.json").body.decode(), now
        return [name for name, refuses in (("PyJWT", self.pyjwt_refuses), ("jwcrypto", self.jwcrypto_refuses)) if refuses(token)]

    def pyjwt_refuses(self, token):
        return pyjwt_refuses(self.client, token, self.client_id)

    def jwcrypto_refuses(self, token):
        try:
            JWT(jwt=token, key=jwk.JWKSet.from_json(self.jwks), algs=["ES256"])
        except (JWKeyNotFound, InvalidJWSSignature):
            return True
        return False


def pyjwt_refuses(client, token, client_id):
    try:
        jwt.decode(token, client.get_signing_key_from_jwt(token), ["ES256"], audience=f"{client_id}-api")
    except jwt.InvalidSignatureError:
        return True
    return False


def jose_refuses(token, jwks, client_id):
    """None where there is no Node."""
    try:
        return False if claims_by_jose(token, jwks, f"{client_id}-api") else None
    except subprocess.CalledProcessError as error:
        assert "multiple matching keys" in error.stderr
        return True


def signing_key(token, keys):
    """Which of the private keys signed it."""
    for index, key in enumerate(keys):
        try:
            jwt.decode(token, key.public_key(), ["ES256"], options={"verify_aud": False})
        except jwt.InvalidSignatureError:
            continue
        return index
    raise AssertionError("signed by none of the keys")


def test_what_an_unset_key_id_costs_each_verifier(directory, issuer, echo, bao):
    """Three rotations of three scopes: a versioned keyId, one with a certificate of its first version, an unset keyId.

    What was measured. Without a version in the key id all versions are `kid: <client id>`, the one
    that signs listed first. Envoy's jwt_authn and jwcrypto's key sets try every key of that id and
    lose nothing. PyJWT's PyJWKClient takes the first and sees no reason to fetch again: it refuses
    every new token from the moment the new version signs until its cached set ends (`lifespan`, 300 s
    by default, 2 s here), and after that the last tokens of the version before. jose (npm) refuses
    every token for as long as two keys are published, before the new one signs and after. With
    `{{key_version}}` in keyId none of them refuses anything.
    """
    place = directory / "three"
    keys = [new_private_key("ES256") for _ in range(4)]
    first_certificate = certificate(keys[0]).public_bytes(serialization.Encoding.PEM).decode()
    response = {"versioned": {"keyId": VERSIONED}, "certified": {"keyId": VERSIONED, "x509Certificate": first_certificate}, "unset": {}}
    scopes = [scope(issuer, name, match={"hosts": [host_of(name)]}, jwtResponse={**response[name], "tokenLifetimeSeconds": 600},
                    jwtSigning={"keyName": "orders", "publishBefore": f"{PUBLISH_THREE_BEFORE}s"}) for name in THREE]
    new_version(bao, "placet/three", keys[0])
    with ExitStack() as running:
        placet = running.enter_context(on(bao, place, scopes))
        upstream = running.enter_context(envoy.upstream(place, echo.port, placet.http, verifying_three(placet)))
        edge = running.enter_context(envoy.edge(place, upstream.port, placet.socket))
        libraries = {name: Libraries(placet, name) for name in THREE}
        refused = {(verifier, name): [] for verifier in ("jwt_authn", "PyJWT", "jwcrypto") for name in THREE}
        # Of the scope without a keyId: when each version was seen to sign, at first and at last, and its last token with the JWKS of then.
        firsts, ends, lasts = {}, {}, {}
        incoming = issuer.token()
        echo.take()

        def ask_each_scope():
            for name in THREE:
                now = time.monotonic()
                answer = send(edge.port, "/accounts/1", [bearer(incoming)], host=host_of(name))
                if answer.status != 200:
                    refused["jwt_authn", name].append((now, answer))
                    continue
                [seen] = echo.take()
                token = seen.one("x-placet-decision")
                for verifier in libraries[name].refusals(token):
                    refused[verifier, name].append((now, token))
                if name == "unset":
                    version = signing_key(token, keys)
                    firsts.setdefault(version, now)
                    ends[version] = now
                    lasts[version] = token, placet.jwks("unset")

        started = time.monotonic()
        for index in (1, 2, 3):
            while time.monotonic() < started + index * PACE_OF_THREE:
                ask_each_scope()
            new_version(bao, "placet/three", keys[index])
        while 3 not in firsts or time.monotonic() < firsts[3] + 1.5 * CACHE_OF_THREE:
            assert time.monotonic() < started + 60, f"the last version never signed; those before since {firsts}"
            ask_each_scope()

        assert list(firsts) == [0, 1, 2, 3]
        costs = refused.pop(("PyJWT", "unset"))
        assert {who: found for who, found in refused.items() if found} == {}
        assert costs, "PyJWT's client refused nothing: say so in the documentation"
        for when, _ in costs:
            of_a_change = (ends[version - 1] <= when <= firsts[version] + CACHE_OF_THREE + 0.5 for version in (1, 2, 3))
            assert any(of_a_change), "refused only from the last token of a version until the cache of its successor's first ends"

        assert {key["kid"] for key in placet.jwks("unset")["keys"]} == {"unset"}
        assert signing_key_listed_first(placet, "unset") == jwk.JWK.from_pyca(keys[3].public_key()).thumbprint()
        fresh = jwt.PyJWKClient(jwks_uri(placet, "unset"))
        assert not pyjwt_refuses(fresh, lasts[3][0], "unset")
        assert pyjwt_refuses(fresh, lasts[2][0], "unset"), "a token of the version before, still good for minutes"
        for version in (0, 3):  # before the first new version signs, and after the last does
            assert len(lasts[version][1]["keys"]) > 1
            assert jose_refuses(*lasts[version], "unset") in (True, None)
        shared = {name: placet.metrics()[f'placet_signing_keys_shared_ids{{scope="{name}"}}'] for name in THREE}
        assert shared == {"versioned": 0, "certified": 0, "unset": 1}
        assert "two live versions" in placet.stderr and "`unset`" in placet.stderr
        assert "`versioned-1`" not in placet.stderr

        with_certificate = {name: [bool(key.get("x5c")) for key in sorted(placet.jwks(name)["keys"], key=lambda key: key["kid"])] for name in THREE}
        assert with_certificate == {"versioned": [False] * 4, "certified": [True, False, False, False], "unset": [False] * 4}


def signing_key_listed_first(placet, client_id):
    return jwk.JWK(**placet.jwks(client_id)["keys"][0]).thumbprint()


def test_a_later_version_without_the_certificate_is_warned_of(directory, issuer, bao):
    key = new_private_key("ES256")
    new_version(bao, "placet/bare", key)
    text = certificate(key).public_bytes(serialization.Encoding.PEM).decode()
    with on(bao, directory / "bare", [scope(issuer, jwtResponse={"keyId": VERSIONED, "x509Certificate": text})]) as placet:
        new_version(bao, "placet/bare")
        wait_until(lambda: kids(placet) == ["orders-1", "orders-2"], "the second version is published")
        assert [bool(key.get("x5c")) for key in placet.jwks()["keys"]] == [True, False]
        warnings = [line for line in placet.stderr.splitlines() if '"WARN"' in line]
        assert [line for line in warnings if "x509Certificate" in line and "orders-2" in line], f"not among {warnings}"


def test_a_certificate_of_no_version_is_an_error_that_stays(directory, issuer, bao):
    new_version(bao, "placet/stranger")
    text = certificate(new_private_key("ES256")).public_bytes(serialization.Encoding.PEM).decode()
    placet = on(bao, directory / "stranger", [scope(issuer, jwtResponse={"x509Certificate": text})])
    with placet.start(until_ready=False):
        wait_until(lambda: "certificate" in placet.stderr, "the log says so")
        with pytest.raises(TimeoutError):
            placet.wait_until(lambda: placet.readiness()[0] == 200, "it is ready all the same", 4)


# --- in the middle of a rotation


def scope_of(issuer, publish_before, key_id=VERSIONED, **signing):
    signing = {"publishBefore": f"{publish_before}s", **signing}
    return scope(issuer, jwtSigning=signing, jwtResponse={"keyId": key_id})


def reload(placet):
    done = "the settings were read again and are in force"
    before = placet.stderr.count(done)
    placet.signal(signal.SIGHUP)
    placet.wait_until(lambda: placet.stderr.count(done) > before, "the settings are read again")


def restart(placet):
    """Returns when it was gone."""
    kill(placet)
    gone = time.time()
    placet.start()
    return gone


def test_a_restart_in_mid_rotation_changes_nothing(directory, issuer, bao):
    """The store's own creation times count, so neither a reload nor a restart starts the wait anew or cuts it short."""
    wait = 12
    first = new_version(bao, "placet/middle")
    with on(bao, directory / "middle", [scope_of(issuer, wait)]) as placet:
        assert signer(placet, issuer) == "orders-1", "the only one signs at once"
        wait_until(lambda: time.time() > first + wait + 0.5, "the first version is old enough")
        second = new_version(bao, "placet/middle")
        wait_until(lambda: kids(placet) == ["orders-1", "orders-2"], "the second is published")
        wait_until(lambda: time.time() > second + 5, "some of the wait is over")
        restarted = restart(placet)
        assert (signer(placet, issuer), kids(placet)) == ("orders-1", ["orders-1", "orders-2"])
        reload(placet)
        assert (signer(placet, issuer), kids(placet)) == ("orders-1", ["orders-1", "orders-2"])
        assert time.time() < second + wait, "the machine is too slow for this test"
        wait_until(lambda: signer(placet, issuer) == "orders-2", "the second signs")
        assert second + wait <= time.time() < restarted + wait, "the wait did not begin anew"
        assert kids(placet) == ["orders-2", "orders-1"]
        restart(placet)
        assert (signer(placet, issuer), kids(placet)) == ("orders-2", ["orders-2", "orders-1"])


def test_what_is_not_a_new_version_and_what_is_no_longer_one(directory, issuer, bao):
    second = new_private_key("ES256")
    new_version(bao, "placet/gone")
    with on(bao, directory / "gone", [scope_of(issuer, 12)]) as placet:
        new_version(bao, "placet/gone", second)
        wait_until(lambda: signer(placet, issuer) == "orders-2", "the second signs")
        new_version(bao, "placet/gone", second)
        fourth = new_version(bao, "placet/gone")
        wait_until(lambda: "orders-4" in kids(placet), "the fourth is published")
        assert kids(placet) == ["orders-2", "orders-4", "orders-1"], "the third is the second"

        bao.must("DELETE", "secret/data/placet/gone")
        wait_until(lambda: kids(placet) == ["orders-2", "orders-1"], "the fourth is withdrawn")
        wait_until(lambda: time.time() > fourth + 12 + 2.5 * REFRESH, "the fourth would sign by now")
        assert signer(placet, issuer) == "orders-2"


def test_another_version_signs_at_once_when_the_active_one_is_destroyed(directory, issuer, bao):
    new_version(bao, "placet/destroyed")
    with on(bao, directory / "destroyed", [scope_of(issuer, 1)]) as placet:
        new_version(bao, "placet/destroyed")
        wait_until(lambda: signer(placet, issuer) == "orders-2", "the second signs")
        bao.must("PUT", "secret/destroy/placet/destroyed", {"versions": [2]})
        wait_until(lambda: kids(placet) == ["orders-1"], "the second is withdrawn")
        assert signer(placet, issuer) == "orders-1"


def test_the_only_version_destroyed_is_withdrawn(directory, issuer, bao):
    new_version(bao, "placet/only")
    with on(bao, directory / "only", [scope_of(issuer, 3)]) as placet:
        assert signer(placet, issuer) == "orders-1"
        bao.must("PUT", "secret/destroy/placet/only", {"versions": [1]})
        request = check_request(headers={"authorization": f"Bearer {issuer.token()}"})
        denial = wait_until(lambda: is_denial(answer := call(placet, request)) and answer, "nothing is signed any more")
        assert denied_status(denial) == 503
        assert placet.decisions()[-1]["reason"] == "key_unavailable"


def test_a_rollback_to_an_earlier_key_takes_effect(directory, issuer, bao):
    """As `bao kv rollback`: the text of version 1 again, as version 3."""
    first = new_private_key("ES256")
    print_of_first = jwk.JWK.from_pyca(first.public_key()).thumbprint()
    new_version(bao, "placet/rollback", first)
    with on(bao, directory / "rollback", [scope_of(issuer, 1, "{{thumbprint}}")]) as placet:
        new_version(bao, "placet/rollback")
        wait_until(lambda: signer(placet, issuer) != print_of_first, "the second signs")
        new_version(bao, "placet/rollback", first)
        wait_until(lambda: signer(placet, issuer) == print_of_first, "the first signs again")


def test_a_secret_removed_with_its_history_and_written_anew_is_noticed(directory, issuer, bao):
    """As `bao kv metadata delete`: its versions count from 1 again, which is not a node that lags behind."""
    for _ in range(2):
        new_version(bao, "placet/anew")
    with on(bao, directory / "anew", [scope_of(issuer, 1, "{{thumbprint}}")]) as placet:
        before = kids(placet)
        bao.must("DELETE", "secret/metadata/placet/anew")
        new_version(bao, "placet/anew")
        wait_until(lambda: set(kids(placet)) - set(before), "the new key is published")


def test_a_reload_without_history_forgets_no_key_and_a_restart_does(directory, issuer, bao):
    """KV version 1 shows one key at a time, as files and variables do; what came before is in the process only."""
    if "kv1/" not in bao.must("GET", "sys/mounts")["data"]:
        bao.must("POST", "sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}})
    bao.policy("placet-kv1", 'path "kv1/placet/*" { capabilities = ["read"] }')
    keys = [new_private_key("ES256"), new_private_key("ES256")]
    old, new = (jwk.JWK.from_pyca(key.public_key()).thumbprint() for key in keys)
    bao.put_key("placet/one", mount="kv1", version=1, orders=pem(keys[0]))
    placet = on(bao, directory / "one", [scope_of(issuer, 30, "{{thumbprint}}")], mount="kv1", kvVersion=1)
    (placet.directory / "token").write_text(bao.token("placet-kv1"))
    with placet:
        bao.put_key("placet/one", mount="kv1", version=1, orders=pem(keys[1]))
        wait_until(lambda: kids(placet) == [old, new], "the new key is published")
        assert signer(placet, issuer) == old
        restart(placet)
        assert (signer(placet, issuer), kids(placet)) == (new, [new]), "as the documentation says"

        bao.put_key("placet/one", mount="kv1", version=1, orders=pem(keys[0]))
        wait_until(lambda: kids(placet) == [new, old], "the other key is published")
        reload(placet)
        assert (signer(placet, issuer), kids(placet)) == (new, [new, old])


# --- the store goes away


@pytest.mark.parametrize("outage", ["killed", "sealed"])
def test_the_keys_in_memory_go_on_while_the_store_is_away(directory, issuer, outage):
    """A server on disk, killed (SIGKILL) or sealed; started and unsealed again it has everything it had."""
    place = directory / outage
    place.mkdir()
    with ExitStack() as running:
        bao = running.enter_context(RaftBao(place))
        bao.policy("placet", POLICY)
        new_version(bao, "placet/outage")
        day = running.enter_context(on(bao, place / "day", [scope_of(issuer, 1, pathToKey="placet/outage")]))
        short = running.enter_context(on(bao, place / "short", [scope_of(issuer, 1, pathToKey="placet/outage", maxKeyAge="3s")]))
        published = short.jwks()

        def seconds_left(placet):
            return placet.metrics()['placet_signing_key_seconds_left{scope="orders"}']

        assert signer(day, issuer) == signer(short, issuer) == "orders-1"
        assert 86_400 - 10 < seconds_left(day) <= 86_400
        said = len(day.stderr)
        if outage == "killed":
            kill(bao)
        else:
            bao.must("PUT", "sys/seal")
        # A look that was on its way may have succeeded.
        wait_until(lambda: "the loaded keys go on signing" in day.stderr[said:], "a look fails")

        request = check_request(headers={"authorization": f"Bearer {issuer.token()}"})
        counted = [seconds_left(day)]
        denial = wait_until(
            lambda: counted.append(seconds_left(day)) or signer(day, issuer) and is_denial(answer := call(short, request)) and answer,
            "the short one stops signing")
        assert denied_status(denial) == 503
        assert short.decisions()[-1]["reason"] == "key_unavailable"
        assert short.jwks() == published, "what it signed still verifies"
        assert seconds_left(short) == 0
        wait_until(lambda: counted.append(seconds_left(day)) or counted[0] - counted[-1] >= 4, "the day counts down")
        assert counted == sorted(counted, reverse=True)
        assert signer(day, issuer) == "orders-1"
        assert (day.readiness()[0], short.readiness()[0]) == (200, 200)

        if outage == "killed":
            bao.start()
        else:
            bao.unseal()
        wait_until(lambda: not is_denial(call(short, request)), "the short one signs again")
        wait_until(lambda: seconds_left(day) > counted[0] - 3, "the day starts again")
        new_version(bao, "placet/outage")
        for placet in (day, short):
            wait_until(lambda: signer_if_any(placet, issuer) == "orders-2", "the new version is noticed and signs")


# --- the file, at last


def test_a_file_that_changes_is_published_first_and_then_signs(changed_file):
    old, new, samples = changed_file.old, changed_file.new, changed_file.samples
    wait_until(lambda: changed_file.failures or samples and samples[-1][1] == new, "the new file signs", 75)
    assert changed_file.failures == []
    stages = [(stage, list(group)) for stage, group in itertools.groupby(samples, lambda sample: sample[1:])]
    assert [stage for stage, _ in stages] == [(old, [old]), (old, [old, new]), (new, [new, old])]
    published, signs = stages[1][1][0][0], stages[2][1][0][0]
    assert signs - published >= 3
