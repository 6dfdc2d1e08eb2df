"""AuthZEN 1.0 on the wire, both ways: the certification scenario, paging, tokens, and Placet asking Placet through Envoy."""

import hashlib
import json
import time
from pathlib import Path

import pytest
import requests

from harness.client import bearer, get, send, send_h2
from harness.envoy import edge
from harness.placet import REMOVED, Placet, new_private_key, pem, scope
from harness.process import wait_until
from harness.verify import verified

DATA = Path(__file__).parent / "authzen"
SECRET = "a secret that nobody guesses"
SCENARIO = json.loads((DATA / "scenario.json").read_text())


def digest(secret=SECRET):
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest() + "\n"


def answering(client_id, policy, **changes):
    """A scope that is asked by applications."""
    return {
        "clientId": client_id,
        "policy": policy,
        "jwtResponse": {"audience": f"{client_id}-api", "tokenLifetimeSeconds": 60},
        "api": {"authzen": True, "publicUrl": "https://pdp.example.com"},
        **changes,
    }


def started(directory, scopes, **settings):
    """A Placet whose scopes' callers all have the same secret."""
    names = [each["clientId"] for each in scopes]
    keys = {name: pem(new_private_key("ES256")) for name in names}
    keys |= {f"{name}.callers": digest() for name in names}
    placet = Placet(directory, scopes, keys=keys, **settings)
    placet.start()
    for name in names:
        asked = lambda: ask(placet, "evaluation", {}, client_id=name).status_code in (400, 403, 404)
        wait_until(asked, f"the callers of {name} are known")
    return placet


def ask(placet, endpoint, body, client_id="records", secret=SECRET, **headers):
    url = f"http://127.0.0.1:{placet.http}/access/v1/{endpoint}"
    return requests.post(url, json=body, auth=(client_id, secret), headers=headers, timeout=10)


@pytest.fixture(scope="module")
def placet(directory):
    policy = {"engine": "cedar", "files": [str(DATA / "records.cedar")], "entities": str(DATA / "records.json")}
    running = started(directory / "p", [answering("records", policy)])
    yield running
    running.stop()


# === the certification scenario ===


@pytest.mark.parametrize("case", SCENARIO, ids=lambda case: case["id"])
def test_certification(placet, case):
    answer = ask(placet, case["endpoint"], case["request"], **{"X-Request-ID": case["id"]})
    assert answer.status_code == case["status"], answer.text
    assert answer.headers["x-request-id"] == case["id"]
    if answer.status_code != 200:
        assert answer.text
        return
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    if "decision" in case:
        assert body["decision"] is case["decision"]
    if "decisions" in case:
        assert "decision" not in body
        given = [each["decision"] for each in body["evaluations"]]
        assert all(isinstance(each, bool) for each in given) and len(given) == len(case["decisions"])
        for decision, expected in zip(given, case["decisions"]):
            assert expected is None or decision is expected
    for result in case.get("includes", []):
        assert result in body["results"]
    if "exactly" in case:
        assert body["results"] == case["exactly"]
    if "search" in case["endpoint"]:
        assert isinstance(body["page"]["next_token"], str)
        place = case["request"].get(case["endpoint"].split("/")[1], {})
        assert all(result.get("type") == place.get("type") for result in body["results"])


@pytest.mark.parametrize("headers, body", [
    ({"content-type": "text/plain"}, b"{}"),
    ({}, b"{}"),
    ({"content-type": "application/json"}, b"{"),
    ({"content-type": "application/json"}, b""),
], ids=["c-2-4-3 other", "c-2-4-3 none", "c-2-4-4", "c-2-4-5"])
def test_certification_of_what_is_no_question(placet, headers, body):
    url = f"http://127.0.0.1:{placet.http}/access/v1/evaluation"
    answer = requests.post(url, data=body, headers=headers, auth=("records", SECRET), timeout=10)
    assert answer.status_code == 400 and "x-request-id" not in answer.headers


def test_certification_of_idempotency_and_of_pages(placet):
    question = SCENARIO[0]["request"]
    assert {ask(placet, "evaluation", question).text for _ in range(5)} == {'{"decision":true}'}
    search = {**question, "subject": {"type": "user"}, "page": {"limit": 1}}
    first = ask(placet, "search/subject", search).json()
    assert first["page"]["next_token"] != ""
    for name in ("token", "next_token"):
        second = ask(placet, "search/subject", {**search, "page": {name: first["page"]["next_token"]}}).json()
        assert second["page"]["next_token"] == "" and second["results"] == [{"type": "user", "id": "bob"}]


def test_certification_of_discovery(placet):
    answer = get(placet.http, "/.well-known/authzen-configuration")
    assert answer.status == 200 and answer.header("content-type") == "application/json"
    url = "https://pdp.example.com"
    assert answer.json() == {
        "policy_decision_point": url,
        "access_evaluation_endpoint": f"{url}/access/v1/evaluation",
        "access_evaluations_endpoint": f"{url}/access/v1/evaluations",
        "search_subject_endpoint": f"{url}/access/v1/search/subject",
        "search_resource_endpoint": f"{url}/access/v1/search/resource",
        "search_action_endpoint": f"{url}/access/v1/search/action",
    }


# === what else is promised ===


def test_the_three_semantics(placet):
    alice = {"type": "user", "id": "alice"}
    actions = ["read", "delete", "write"]
    body = {"subject": alice, "resource": {"type": "record", "id": "record-1"},
            "evaluations": [{"action": {"name": name}} for name in actions]}
    for semantic, expected in [("execute_all", [True, False, True]), ("deny_on_first_deny", [True, False]),
                               ("permit_on_first_permit", [True])]:
        answer = ask(placet, "evaluations", {**body, "options": {"evaluations_semantic": semantic}})
        assert [each["decision"] for each in answer.json()["evaluations"]] == expected, semantic
    assert ask(placet, "evaluations", {**body, "options": {"evaluations_semantic": "some"}}).status_code == 400


def test_a_yes_comes_with_its_token(placet):
    body = {**SCENARIO[0]["request"], "options": {"token": True}}
    body["subject"] = {"type": "user", "id": "alice", "properties": {"iss": "https://evil.example", "email": "a@b"}}
    answer = ask(placet, "evaluation", body).json()
    header, claims = verified(answer["context"]["token"], placet.jwks("records"), audience="records-api")
    assert header["typ"] == "pdp-decision+jwt"
    assert (claims["sub"], claims["client_id"], claims["entitlements"]) == ("alice", "records", "record:record-1:read")
    assert claims["jti"] == answer["context"]["id"]
    assert not {"idp", "htm", "htu", "email"} & claims.keys()
    denied = ask(placet, "evaluation", {**body, "action": {"name": "delete"}}).json()
    assert denied["decision"] is False and "token" not in denied["context"]
    assert denied["context"]["reason"] == "no_permit"


def test_who_asks_must_prove_it(placet):
    question = SCENARIO[0]["request"]
    for pair in [("records", "wrong"), ("others", SECRET), ("records", "")]:
        answer = ask(placet, "evaluation", question, client_id=pair[0], secret=pair[1])
        assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic")
    url = f"http://127.0.0.1:{placet.http}/access/v1/evaluation"
    assert requests.post(url, json=question, timeout=10).status_code == 401


def test_it_is_served_over_http_2_too(placet):
    body = json.dumps(SCENARIO[0]["request"]).encode()
    basic = requests.auth._basic_auth_str("records", SECRET)
    headers = [("authorization", basic), ("content-type", "application/json"), ("x-request-id", "h2")]
    answer = send_h2(placet.http, "/access/v1/evaluation", headers, method="POST", body=body)
    assert (answer.status, answer.json()) == (200, {"decision": True})
    long = b" " * (1 << 20) + body
    answer = send(placet.http, "/access/v1/evaluation", headers, method="POST", body=long)
    assert answer.status == 413


def test_every_answer_is_in_the_decision_log(placet):
    ask(placet, "evaluation", SCENARIO[0]["request"], **{"X-Request-ID": "to be found"})
    lines = wait_until(lambda: [line for line in placet.decisions() if line["requestId"] == "to be found"], "the line")
    [line] = lines
    assert (line["scope"], line["outcome"], line["reason"]) == ("records", "allow", "permitted")
    assert line["principal"] == {"type": "user", "id": "alice", "issuer": ""}
    assert line["target"] == {"assetType": "record", "assetId": "record-1", "action": "read"}
    assert line["policy"]["determining"] == ["read"] and line["http"] is None
    assert line["requestType"] == "evaluation"
    counted = placet.metrics()
    assert counted['placet_decisions_total{scope="records",outcome="allow",reason="permitted"}'] >= 1


def test_a_scope_that_is_not_switched_on_is_not_there(directory, issuer):
    scopes = [scope(issuer, default=True)]
    with Placet(directory / "off", scopes, keys={"orders": pem(new_private_key("ES256"))}) as placet:
        for path in ("evaluation", "evaluations", "search/subject"):
            assert ask(placet, path, SCENARIO[0]["request"], client_id="orders").status_code == 404
        assert get(placet.http, "/.well-known/authzen-configuration").status == 404


def test_ten_thousand_results_are_paged(directory):
    count = 10_000
    names = [f"a{number:05}" for number in range(count)]
    entities = [{"uid": {"type": kind, "id": name}, "attrs": {}, "parents": []} for name in names for kind in ("Account", "User")]
    (directory / "many.json").write_text(json.dumps(entities))
    (directory / "many.cedar").write_text('permit (principal, action == Action::"read", resource is Account);')
    policy = {"files": [str(directory / "many.cedar")], "entities": str(directory / "many.json")}
    placet = started(directory / "many", [answering("many", policy)], decisionLog={"sink": "none"})
    try:
        for place, kind, page in (("resource", "Account", {}), ("subject", "User", {"limit": 1000})):
            body = {"subject": {"type": "User", "id": "a00001"}, "action": {"name": "read"},
                    "resource": {"type": "Account", "id": "a00001"}, "page": page}
            found, pages, started_at = [], 0, time.monotonic()
            while True:
                answer = ask(placet, f"search/{place}", body, client_id="many").json()
                assert answer["page"]["count"] == len(answer["results"]) <= page.get("limit", 100)
                found += answer["results"]
                pages += 1
                if not answer["page"]["next_token"]:
                    break
                body["page"]["token"] = answer["page"]["next_token"]
            assert found == [{"type": kind, "id": name} for name in names]
            print(f"{place}: {pages} pages in {time.monotonic() - started_at:.2f} s")
    finally:
        placet.stop()


# === Placet asks Placet ===


POLICY = """
@id("read") permit (principal in Group::"readers", action == Action::"read", resource is Account)
when { context.http.method == "GET" && principal.claims.sub == "alice" };
"""


@pytest.fixture(scope="module")
def remote(directory):
    (directory / "remote.cedar").write_text(POLICY)
    policy = {"files": [str(directory / "remote.cedar")]}
    running = started(directory / "remote", [answering("orders", policy)])
    yield running
    running.stop()


def asking(directory, name, issuer, remote, **policy):
    (directory / "password").write_text(SECRET + "\n")
    policy = {"engine": "authzen", "url": f"http://127.0.0.1:{remote.http}/access/v1/evaluation", "priorKnowledge": True,
              "username": "orders", "passwordFile": str(directory / "password"), "timeout": "5s", **policy}
    scopes = [scope(issuer, policy={"files": REMOVED, **policy})]
    return Placet(directory / name, scopes, keys={"orders": pem(new_private_key("ES256"))})


def test_a_remote_decision_point_decides_for_envoy(directory, issuer, echo, remote):
    with asking(directory, "asking", issuer, remote) as placet, edge(directory, echo.port, str(placet.socket)) as envoy:
        good = [bearer(issuer.token(sub="alice"))]
        echo.take()
        wait_until(lambda: send(envoy.port, "/accounts/1", good).status == 200, "a yes")
        [forwarded] = echo.take()
        header, claims = verified(forwarded.one("x-placet-decision"), placet.jwks())
        assert header["typ"] == "JWT" and claims["sub"] == "alice" and claims["entitlements"] == "Account:1:read"
        assert send(envoy.port, "/accounts/1", [bearer(issuer.token(sub="mallory"))]).status == 403
        assert send(envoy.port, "/accounts/1").status == 401
        assert send(envoy.port, "/accounts/1", good, method="DELETE").status == 403
        asked = [line for line in remote.decisions() if line["target"]["action"] == "read"]
        assert {line["principal"]["id"] for line in asked} >= {"alice", "mallory"}
        decided = [line for line in placet.decisions() if line["outcome"] == "deny" and line["reason"] == "no_permit"]
        assert decided and decided[0]["policy"] == {"determining": [], "revision": "remote", "errors": [], "reasons": ["no_permit"]}


def test_without_the_remote_decision_point_nothing_passes(directory, issuer, echo, remote):
    with asking(directory, "alone", issuer, remote, url="http://127.0.0.1:9/access/v1/evaluation") as placet:
        with edge(directory, echo.port, str(placet.socket), name="alone-edge") as envoy:
            answer = send(envoy.port, "/accounts/1", [bearer(issuer.token(sub="alice"))])
            assert answer.status == 503
    with asking(directory, "wrong", issuer, remote, username="others") as placet:
        with edge(directory, echo.port, str(placet.socket), name="wrong-edge") as envoy:
            answer = send(envoy.port, "/accounts/1", [bearer(issuer.token(sub="alice"))])
            assert answer.status == 503
            line = placet.decisions()[-1]
            assert line["reason"] == "policy_error" and "401" in line["detail"] and SECRET not in str(line)


def test_a_decision_is_kept_as_long_as_the_settings_say(directory, issuer, echo, remote):
    with asking(directory, "keeping", issuer, remote, cacheTtl="1h") as placet:
        with edge(directory, echo.port, str(placet.socket), name="keeping-edge") as envoy:
            token = bearer(issuer.token(sub="alice"))
            asked = lambda: len([line for line in remote.decisions() if line["target"]["assetId"] == "77"])
            wait_until(lambda: send(envoy.port, "/accounts/77", [token]).status == 200, "a yes")
            before = asked()
            for _ in range(5):
                assert send(envoy.port, "/accounts/77", [bearer(issuer.token(sub="alice"))]).status == 200
            assert asked() == before > 0
