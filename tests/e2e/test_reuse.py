"""A decision that is used again: for whom, for how long, and for whom not.

Each row of the table is a way in which a cache of somebody's answered for another request (Oathkeeper
CVE-2021-32701 and CVE-2026-33496, oathkeeper#763, and their like): whatever a decision rests on is in its key.
"""

import json
import signal
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from harness import envoy
from harness.authz import call, check_request
from harness.client import bearer, get, send
from harness.placet import Placet, new_private_key, pem, scope
from harness.verify import verified

POLICY = """
permit (principal in Group::"readers", action == Action::"read", resource is Account);
permit (principal in Group::"readers", action == Action::"close", resource == Account::"7");
permit (principal, action == Action::"read", resource == Account::"by-header")
  when { context.http.headers has "x-role" && context.http.headers["x-role"] == "reader" };
permit (principal, action == Action::"read", resource == Account::"by-query")
  when { context.http.query has role && context.http.query.role.contains("reader") };
forbid (principal, action, resource == Account::"secret");
"""


@pytest.fixture(scope="module")
def world(directory, issuer, echo):
    scopes = [
        scope(issuer, name, match={"hosts": [f"{name}.example.com"]}, policy={"files": [file]}, jwtResponse=response)
        for name, file, response in [
            ("orders", "orders.cedar", {}),
            ("billing", "orders.cedar", {}),
            ("brief", "orders.cedar", {"tokenLifetimeSeconds": 4}),
            ("by-time", "by-time.cedar", {}),
            ("by-body", "by-body.cedar", {}),
        ]
    ]
    keys = {name: pem(new_private_key("ES256")) for name in ["orders", "billing", "brief", "by-time", "by-body"]}
    with ExitStack() as running:
        placet = Placet(directory / "p", scopes, keys=keys, policy=POLICY, reuse={"enabled": True})
        (placet.directory / "by-time.cedar").write_text(
            'permit (principal, action, resource) when { context.time > datetime("2020-01-01") };')
        (placet.directory / "by-body.cedar").write_text(
            "permit (principal, action, resource) unless { context.http has body && context.http.body has json };")
        running.enter_context(placet)

        def plain(config):
            envoy.plain(config["static_resources"]["listeners"][0])
            return config

        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, plain))
        yield SimpleNamespace(placet=placet, edge=edge, echo=echo, issuer=issuer)


def ask(world, credential, target="/accounts/1", name="orders", method="GET", headers=()):
    """The status, and the token that the application saw."""
    world.echo.take()
    answer = send(world.edge.port, target, [bearer(credential), *headers], method=method, host=f"{name}.example.com")
    seen = world.echo.take()
    return answer.status, seen[0].one("x-placet-decision") if seen else None


def looks(world):
    metrics = world.placet.metrics()
    return [metrics.get(f'placet_cache_{kind}_total{{cache="decisions"}}', 0) for kind in ("hits", "misses")]


def reload(placet):
    """Has the policies, which have changed, read again."""
    def revision():
        return get(placet.admin, "/config").json()["scopes"][0]["policy"]["revision"]

    before = revision()
    placet.signal(signal.SIGHUP)
    placet.wait_until(lambda: revision() != before, "the policies were read again")


def test_the_same_request_gets_the_same_token_and_a_line_of_its_own(world):
    credential = world.issuer.token(groups=["readers"])
    before = looks(world)
    answers = [ask(world, credential, headers=[("x-other", str(number))]) for number in range(4)]
    assert {status for status, _ in answers} == {200}
    tokens = {token for _, token in answers}
    assert len(tokens) == 1
    _, claims = verified(tokens.pop(), world.placet.jwks())
    hits, misses = looks(world)
    assert (hits - before[0], misses - before[1]) == (3, 1)
    lines = world.placet.decisions()[-4:]
    assert [line["reused"] for line in lines] == [False, True, True, True]
    assert {line["id"] for line in lines} == {claims["jti"]}
    assert len({line["requestId"] for line in lines}) == 4
    assert len({json.dumps(line["principal"]) for line in lines}) == 1


@pytest.mark.parametrize("change", [
    {"target": "/accounts/2"},
    {"target": "/accounts/1?role=reader"},
    {"name": "billing"},
    {"method": "DELETE", "target": "/accounts/7"},
    {"headers": [("x-role", "reader")]},
    {"headers": [("x-role", "")]},
], ids=str)
def test_another_request_gets_a_token_of_its_own(world, change):
    credential = world.issuer.token(groups=["readers"])
    first = ask(world, credential)[1]
    status, other = ask(world, credential, **change)
    assert status == 200 and other and other != first
    assert ask(world, credential)[1] == first
    assert ask(world, credential, **change)[1] == other


def test_another_credential_gets_a_token_of_its_own(world):
    alice, bob = (world.issuer.token(sub=name, groups=["readers"]) for name in ("alice", "bob"))
    first, second = ask(world, alice)[1], ask(world, bob)[1]
    assert first != second
    keys = world.placet.jwks()
    subjects = [verified(token, keys)[1]["sub"] for token in (first, second)]
    assert subjects == ["alice", "bob"]
    assert ask(world, alice)[1] == first


@pytest.mark.parametrize("spoil", [
    lambda token: token + "a",
    lambda token: token[:-1],
    lambda token: token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:],
    lambda token: token.upper(),
    lambda token: "",
], ids=["longer", "shorter", "changed", "upper", "none"])
def test_a_credential_that_differs_in_one_byte_is_refused(world, spoil):
    credential = world.issuer.token(groups=["readers"])
    assert ask(world, credential)[0] == 200
    assert ask(world, spoil(credential)) == (401, None)
    assert ask(world, credential)[0] == 200


@pytest.mark.parametrize("target, allowing, other", [
    ("/accounts/by-header", {"headers": [("x-role", "reader")]}, {"headers": [("x-role", "writer")]}),
    ("/accounts/by-header", {"headers": [("x-role", "reader")]}, {"headers": [("x-role", "reader"), ("x-role", "b")]}),
    ("/accounts/by-header", {"headers": [("x-role", "reader")]}, {}),
    ("/accounts/by-query?role=reader", {}, {"target": "/accounts/by-query?role=writer"}),
    ("/accounts/by-query?role=reader", {}, {"target": "/accounts/by-query"}),
    ("/accounts/1", {}, {"target": "/accounts/secret"}),
], ids=str)
def test_a_denial_is_never_passed_by_what_was_allowed_before(world, target, allowing, other):
    credential = world.issuer.token(groups=["readers"] if target == "/accounts/1" else [])
    for _ in range(3):
        assert ask(world, credential, **{"target": target, **allowing})[0] == 200
        assert ask(world, credential, **{"target": target, **other})[0] == 403


def test_a_policy_that_reads_the_clock_or_the_body_decides_each_time(world):
    credential = world.issuer.token(groups=["readers"])
    for name in ("by-time", "by-body"):
        before = looks(world)
        first, second = (ask(world, credential, name=name)[1] for _ in range(2))
        assert first and second and first != second
        assert looks(world) == before


def test_a_token_is_given_again_for_half_of_its_life_only(world):
    credential = world.issuer.token(groups=["readers"])
    started = time.time()
    seen, last = {}, None
    while time.time() - started < 6:
        asked = time.time()
        _, last = ask(world, credential, name="brief")
        _, claims = verified(last, world.placet.jwks("brief"), audience="brief-api")
        assert claims["exp"] - asked >= 2 - 1, "less than half of its life, give or take the whole seconds of its claims"
        seen.setdefault(last, asked)
        time.sleep(0.2)
    assert 2 <= len(seen) <= 4, "a new one about every two seconds"


def test_it_ends_with_the_credential(world):
    credential = world.issuer.token(groups=["readers"], exp=int(time.time()) + 3)
    assert ask(world, credential)[0] == 200
    assert ask(world, credential)[0] == 200
    deadline = time.time() + 10
    while (answer := ask(world, credential))[0] == 200:
        assert time.time() < deadline
        time.sleep(0.1)
    assert answer == (401, None)


def test_a_reload_begins_anew(world):
    credential = world.issuer.token(groups=["readers"])
    first = ask(world, credential)[1]
    file = world.placet.directory / "orders.cedar"
    file.write_text(POLICY + 'forbid (principal, action, resource == Account::"1");')
    try:
        reload(world.placet)
        assert ask(world, credential) == (403, None)
    finally:
        file.write_text(POLICY)
        reload(world.placet)
    status, again = ask(world, credential)
    assert status == 200 and again != first


def test_it_can_be_switched_off(directory, issuer):
    placet = Placet(directory / "off", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))},
                    reuse={"enabled": False})
    with placet:
        request = check_request(headers=dict([bearer(issuer.token(groups=["readers"]))]))
        tokens = {call(placet, request).ok_response.headers[0].header.value for _ in range(3)}
        assert len(tokens) == 3
        assert get(placet.admin, "/config").json()["reuse"] == {"enabled": False, "maxBytes": 5242880}
        metrics = placet.metrics()
        assert not any(metrics[f'placet_cache_{kind}_total{{cache="decisions"}}'] for kind in ("hits", "misses"))
