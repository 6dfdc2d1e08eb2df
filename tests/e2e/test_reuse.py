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
from harness.authz import call, check_request, denied_status, is_denial
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

# The same by rules.
REGO = """
package envoy.authz

import rego.v1
import input.attributes.request.http as http_request

asset := input.placet.target.id
reads if input.placet.target.action == "read"
is_reader if "readers" in input.placet.principal.groups

default allow := false
allow if { asset != "secret"; granted }
granted if { is_reader; reads }
granted if { is_reader; input.placet.target.action == "close"; asset == "7" }
granted if { reads; asset == "by-header"; http_request.headers["x-role"] == "reader" }
granted if { reads; asset == "by-query"; "reader" in input.parsed_query.role }
"""

POLICIES = {
    "orders.cedar": POLICY,
    "orders.rego": REGO,
    "by-time.cedar": 'permit (principal, action, resource) when { context.time > datetime("2020-01-01") };',
    "by-time.rego": "package envoy.authz\nallow := time.now_ns() > 0",
    "by-id.rego": "package envoy.authz\nallow := input.attributes.request.http.id != \"a\"",
    "by-body.cedar": "permit (principal, action, resource) unless { context.http has body && context.http.body has form };",
    "by-body.rego": "package envoy.authz\nimport rego.v1\ndefault allow := false\nallow if not input.parsed_body.form",
}


@pytest.fixture(scope="module")
def world(directory, issuer, echo):
    def policy(file):
        return {"engine": "rego", "files": [file], "query": "envoy/authz/allow"} if file.endswith(".rego") else {"files": [file]}

    scopes = [
        scope(issuer, name, match={"hosts": [f"{name}.example.com"]}, policy=policy(file), jwtResponse=response)
        for name, file, response in [
            ("orders", "orders.cedar", {}),
            ("rego", "orders.rego", {}),
            ("billing", "orders.cedar", {}),
            ("brief", "orders.cedar", {"tokenLifetimeSeconds": 4}),
            ("by-time", "by-time.cedar", {}),
            ("rego-by-time", "by-time.rego", {}),
            ("rego-by-id", "by-id.rego", {}),
            ("by-body", "by-body.cedar", {}),
            ("rego-by-body", "by-body.rego", {}),
        ]
    ]
    keys = {each["clientId"]: pem(new_private_key("ES256")) for each in scopes}
    with ExitStack() as running:
        placet = Placet(directory / "p", scopes, keys=keys, policy=POLICY, reuse={"enabled": True})
        for name, text in POLICIES.items():
            (placet.directory / name).write_text(text)
        running.enter_context(placet)

        def plain(config):
            envoy.plain(config["static_resources"]["listeners"][0])
            return config

        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, plain))
        yield SimpleNamespace(placet=placet, edge=edge, echo=echo, issuer=issuer)


# The scopes that ask the one engine and the other.
by_each = pytest.mark.parametrize("name", ["orders", "rego"])


def ask(world, credential, target="/accounts/1", name="orders", method="GET", headers=()):
    """The status, and the token that the application saw."""
    world.echo.take()
    answer = send(world.edge.port, target, [bearer(credential), *headers], method=method, host=f"{name}.example.com")
    seen = world.echo.take()
    return answer.status, seen[0].one("x-placet-decision") if seen else None


def looks(world):
    metrics = world.placet.metrics()
    return [metrics.get(f'placet_cache_{kind}_total{{cache="decisions"}}', 0) for kind in ("hits", "misses")]


def reload(placet, client_id):
    """Has the policies, which have changed, read again."""
    def revision():
        scopes = get(placet.admin, "/config").json()["scopes"]
        return next(each["policy"]["revision"] for each in scopes if each["clientId"] == client_id)

    before = revision()
    placet.signal(signal.SIGHUP)
    placet.wait_until(lambda: revision() != before, "the policies were read again")


@by_each
def test_the_same_request_gets_the_same_token_and_a_line_of_its_own(world, name):
    credential = world.issuer.token(groups=["readers"])
    before = looks(world)
    answers = [ask(world, credential, name=name, headers=[("x-other", str(number))]) for number in range(4)]
    assert {status for status, _ in answers} == {200}
    tokens = {token for _, token in answers}
    assert len(tokens) == 1
    _, claims = verified(tokens.pop(), world.placet.jwks(name), audience=f"{name}-api")
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
@by_each
def test_another_request_gets_a_token_of_its_own(world, name, change):
    credential = world.issuer.token(groups=["readers"])
    change = {"name": name, **change}
    first = ask(world, credential, name=name)[1]
    status, other = ask(world, credential, **change)
    assert status == 200 and other and other != first
    assert ask(world, credential, name=name)[1] == first
    assert ask(world, credential, **change)[1] == other


@by_each
def test_another_credential_gets_a_token_of_its_own(world, name):
    alice, bob = (world.issuer.token(sub=subject, groups=["readers"]) for subject in ("alice", "bob"))
    first, second = ask(world, alice, name=name)[1], ask(world, bob, name=name)[1]
    assert first != second
    keys = world.placet.jwks(name)
    subjects = [verified(token, keys, audience=f"{name}-api")[1]["sub"] for token in (first, second)]
    assert subjects == ["alice", "bob"]
    assert ask(world, alice, name=name)[1] == first


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
@by_each
def test_a_denial_is_never_passed_by_what_was_allowed_before(world, name, target, allowing, other):
    credential = world.issuer.token(groups=["readers"] if target == "/accounts/1" else [])
    for _ in range(3):
        assert ask(world, credential, **{"name": name, "target": target, **allowing})[0] == 200
        assert ask(world, credential, **{"name": name, "target": target, **other})[0] == 403


@pytest.mark.parametrize("name", ["by-time", "rego-by-time", "rego-by-id"])
def test_a_policy_that_reads_the_clock_or_what_differs_in_each_request_decides_each_time(world, name):
    credential = world.issuer.token(groups=["readers"])
    before = looks(world)
    first, second = (ask(world, credential, name=name)[1] for _ in range(2))
    assert first and second and first != second
    assert looks(world) == before


@pytest.mark.parametrize("name", ["by-body", "rego-by-body", "rego"])
def test_a_request_with_a_body_is_decided_by_it_and_one_without_is_known(world, name):
    """`rego` looks at no body; but one that is not what its type says is refused."""
    headers = dict([bearer(world.issuer.token(groups=["readers"])), ("content-type", "application/x-www-form-urlencoded")])

    def answer(**body):
        return call(world.placet, check_request(host=f"{name}.example.com", headers=headers, **body))

    def token(**body):
        answered = answer(**body)
        assert not is_denial(answered), answered
        return answered.ok_response.headers[0].header.value

    before = looks(world)
    known = token()
    assert token() == known
    assert [after - now for after, now in zip(looks(world), before)] == [1, 1]
    if name == "rego":
        body = {"body": "a=b", "size": 3}
        assert len({token(**body), token(**body), known}) == 3
    for _ in range(2):
        body = {"body": "a=%ff", "size": 5} if name == "rego" else {"body": "form=b", "size": 6}
        assert denied_status(answer(**body)) == (400 if name == "rego" else 403)
    assert [after - now for after, now in zip(looks(world), before)] == [1, 1]
    assert token() == known


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


@pytest.mark.parametrize("name, file, text", [
    ("orders", "orders.cedar", POLICY + 'forbid (principal, action, resource == Account::"1");'),
    ("rego", "orders.rego", REGO.replace('asset != "secret"', 'not asset in {"1", "secret"}')),
], ids=["orders", "rego"])
def test_a_reload_begins_anew(world, name, file, text):
    credential = world.issuer.token(groups=["readers"])
    first = ask(world, credential, name=name)[1]
    file = world.placet.directory / file
    file.write_text(text)
    try:
        reload(world.placet, name)
        assert ask(world, credential, name=name) == (403, None)
    finally:
        file.write_text(POLICIES[file.name])
        reload(world.placet, name)
    status, again = ask(world, credential, name=name)
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
