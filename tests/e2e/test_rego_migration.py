"""Policies of our own, in each idiom that OPA-Envoy's documentation shows, through real Envoy: an OPA-Envoy user
moves by pointing `files` at the same bundle.

Each scope is one bundle of rego/, picked by host. Envoy is one without our protections, so that its requests come raw.
"""

import base64
import hashlib
import json
import shutil
import tarfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import envoy
from harness.client import bearer, send
from harness.echo import Echo
from harness.issuer import Issuer, sign_with
from harness.placet import Placet, new_private_key, pem, run
from harness.verify import verified

POLICIES = Path(__file__).parent / "rego"
SCOPES = {
    "roles": {},
    "result": {"query": "envoy/authz/result"},
    "legacy": {"query": "istio/authz/allow"},
    "keywords": {},
    "response": {},
    "listing": {"files": ["response"]},
    "tokens": {"data": ["idp.json"]},
    "bundle": {"files": ["bundle.tar.gz"]},
}


def scope(name, policy, items="decision"):
    return {
        "clientId": name,
        "match": {"hosts": [f"{name}.example.com"]},
        "identity": {"anonymous": True},
        "paths": {"allow": ["doubleSlash"]},
        "policy": {"engine": "rego", "files": [name], **policy},
        "jwtResponse": {"audience": name, "tokenLifetimeSeconds": 60},
        "jwtCustomization": {"items": items},
    }


@pytest.fixture(scope="module")
def world(directory):
    with ExitStack() as running:
        issuer, echo = running.enter_context(Issuer()), running.enter_context(Echo())
        scopes = [scope(name, policy, "entitlements" if name == "listing" else "decision") for name, policy in SCOPES.items()]
        placet = Placet(directory / "p", scopes, keys={name: pem(new_private_key("ES256")) for name in SCOPES})
        for folder in POLICIES.iterdir():
            shutil.copytree(folder, placet.directory / folder.name)
        with tarfile.open(placet.directory / "bundle.tar.gz", "w:gz") as archive:
            archive.add(POLICIES / "bundle", arcname="/")
        (placet.directory / "idp.json").write_text(json.dumps({"jwks": issuer.jwks(), "issuer": issuer.url}))
        running.enter_context(placet)

        def raw(config):
            [listener] = config["static_resources"]["listeners"]
            envoy.plain(listener)
            body = {"max_request_bytes": 200, "allow_partial_message": True}
            # Envoy 1.40 takes a percent sign in a query parameter for an invalid mutation.
            envoy.ext_authz(listener).update(with_request_body=body, validate_mutations=False)
            return config

        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, raw))
        yield SimpleNamespace(placet=placet, issuer=issuer, echo=echo, port=edge.port)


@pytest.fixture
def ask(world):
    def ask(name, target, headers=(), method="GET", body=None):
        world.echo.take()
        answer = send(world.port, target, [*headers], method, host=f"{name}.example.com", body=body)
        seen = world.echo.take()
        assert len(seen) == (1 if answer.status == 200 else 0), (answer, seen)
        return answer, seen[0] if seen else None

    return ask


def basic(user):
    return ("authorization", "Basic " + base64.b64encode(f"{user}:secret".encode()).decode())


def role_token(role, sub="bob", secret=b"a secret of the test", **changes):
    claims = {"role": role, "sub": base64.urlsafe_b64encode(sub.encode()).decode().rstrip("="), "nbf": 1_514_851_139,
              "exp": int(time.time()) + 3600, **changes}
    return bearer(sign_with("HS256", secret, {"alg": "HS256", "typ": "JWT"}, claims))


JSON = ("content-type", "application/json")


@pytest.mark.parametrize(("status", "method", "target", "headers", "body"), [
    (200, "GET", "/people/1", [role_token("guest")], None),
    (200, "GET", "/people/1", [role_token("admin")], None),
    (403, "GET", "/people/1", [role_token("nobody")], None),
    (403, "GET", "/people/1/2", [role_token("guest")], None),
    (403, "GET", "/people/1", [], None),
    (403, "GET", "/people/1", [role_token("guest", secret=b"another secret")], None),
    (403, "GET", "/people/1", [role_token("guest", exp=1_600_000_000)], None),
    (403, "GET", "/people/1", [role_token("guest", nbf=int(time.time()) + 36_000)], None),
    (200, "POST", "/people", [role_token("admin"), JSON], b'{"firstname": "Charlie"}'),
    (403, "POST", "/people", [role_token("admin"), JSON], b'{"firstname": "BOB"}'),
    (403, "POST", "/people", [role_token("guest"), JSON], b'{"firstname": "Charlie"}'),
    (400, "POST", "/people", [role_token("admin"), JSON], b'{"firstname": '),
    (403, "POST", "/people", [role_token("admin"), JSON], b'{"firstname": "' + b"x" * 200 + b'"}'),
])
def test_a_boolean_by_role_path_and_body(ask, status, method, target, headers, body):
    assert ask("roles", target, headers, method, body)[0].status == status


def test_an_object_by_partial_rules_allows_with_its_changes(ask):
    headers = [("x-user", "alice"), ("x-secret", "1"), ("x-other-secret", "2"), ("x-ext-auth-allow", "forged")]
    answer, seen = ask("result", "/a?debug=1&tags=old&keep=1", headers)
    assert answer.status == 200 and answer.header("x-foo") == "bar"
    assert seen.all("x-ext-auth-allow") == ["yes"] and seen.one("x-user-upper") == "ALICE"
    assert not seen.all("x-secret") and not seen.all("x-other-secret")
    query = seen.target.split("?")[1].split("&")
    assert "keep=1" in query and "user-role=a%20b%26c" in query and not any(each.startswith("debug") for each in query)
    assert "tags=auth-enabled" in query and "tags=old" not in query
    assert len(seen.all("x-placet-decision")) == 1


@pytest.mark.parametrize(("headers", "status", "body"), [
    ([], 401, b"Authentication Failed"),
    ([("x-user", "mallory")], 403, b"Unauthorized Request"),
])
def test_an_object_by_partial_rules_denies_by_an_else_chain(ask, headers, status, body):
    answer, _ = ask("result", "/a", headers)
    assert (answer.status, answer.body) == (status, body)
    assert answer.header("www-authenticate") == ("Basic" if status == 401 else None)
    assert answer.header("x-foo") is None


@pytest.mark.parametrize(("status", "target", "headers"), [
    (200, "/health", []),
    (200, "/productpage", [basic("alice")]),
    (403, "/api/v1/products", [basic("alice")]),
    (200, "/api/v1/products", [basic("bob")]),
    (403, "/productpage", [basic("nobody")]),
    (403, "/productpage", []),
    (200, "/public/x?lang=de&lang=en", [basic("alice")]),
    (403, "/public/x?lang=de", [basic("alice")]),
    (403, "/public/x?lang=en", [basic("mallory")]),
    (403, "/secret/public?lang=en", [basic("alice")]),
])
def test_rego_from_before_1_0(ask, status, target, headers):
    assert ask("legacy", target, headers)[0].status == status


@pytest.mark.parametrize(("status", "target", "scopes"), [
    (200, "/scoped?scope=a,b", "a,b,c"),
    (403, "/scoped?scope=a,d", "a,b,c"),
    (403, "/other?scope=a", "a"),
    (200, "//admin/people", ""),
    (403, "/admin/people", ""),
    (403, "/x//admin/people", ""),
    (400, "/x/../admin", ""),
    (400, "/x%2fadmin", ""),
])
def test_sets_comprehensions_and_paths(ask, status, target, scopes):
    assert ask("keywords", target, [("x-scopes", scopes)])[0].status == status


def test_a_whole_object_answers_with_what_it_says(ask):
    allowed, seen = ask("response", "/ok", [("x-ext-auth-allow", "forged")])
    assert allowed.status == 200
    # Envoy lets the last of several entries of one name win, for OPA-Envoy as for us.
    assert seen.all("x-ext-auth-allow") == ["last"]
    cookies = [value for name, value in allowed.headers if name == "set-cookie"]
    assert cookies == ["a=1", "b=2"]
    default, _ = ask("response", "/nothing")
    assert (default.status, default.body) == (301, b"Unauthorized Request")
    assert default.header("x-ext-auth-allow") == "no"
    slow, _ = ask("response", "/slow")
    assert (slow.status, slow.json(), slow.header("content-type")) == (429, {"wait": True}, "application/json")


def test_a_redirect_is_a_denial(ask, world):
    answer, _ = ask("response", "/login")
    assert (answer.status, answer.header("location")) == (302, "https://login.example/")
    assert [value for name, value in answer.headers if name == "set-cookie"] == ["a=1", "b=2"]
    record = world.placet.decisions()[-1]
    assert record["reason"] == "no_permit", record


@pytest.mark.parametrize("target", ["/forge", "/text"])
def test_a_result_that_can_not_be_honoured_is_a_fault(ask, world, target):
    answer, _ = ask("response", target)
    assert answer.status == 503 and b"allowed" not in answer.body and b"forged" not in answer.body
    assert world.placet.decisions()[-1]["reason"] == "policy_error"


def test_the_token_says_what_the_policy_says(ask, world):
    _, seen = ask("listing", "/alice")
    _, claims = verified(seen.one("x-placet-decision"), world.placet.jwks("listing"), "listing")
    assert claims["sub"] == "alice"
    held = set(claims["entitlements"].split(","))
    assert {"Book:1:read", "Book:2:read"} <= held, held
    assert "she is alice" in json.dumps(world.placet.decisions()[-1])
    assert ask("listing", "/ok")[0].status == 503, "a list that the policy does not give is not made up"


@pytest.mark.parametrize("target", ["/decode_verify", "/verify"])
def test_tokens_are_verified_with_an_issuers_keys(ask, world, target):
    issuer = world.issuer
    assert ask("tokens", target, [bearer(issuer.token(sub="alice"))])[0].status == 200
    assert ask("tokens", target, [bearer(issuer.token(sub="bob"))])[0].status == 403
    assert ask("tokens", target, [])[0].status == 403
    token = issuer.token(sub="alice")
    spoilt = token[:-8] + ("AAAAAAAA" if token[-8:] != "AAAAAAAA" else "BBBBBBBB")
    assert ask("tokens", target, [bearer(spoilt)])[0].status == 403
    header, payload, _ = token.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    assert ask("tokens", target, [bearer(f"{none}.{payload}.")])[0].status == 403
    assert ask("tokens", target, [bearer(f"{header}.{payload}.")])[0].status == 403
    with Issuer() as other:
        assert ask("tokens", target, [bearer(other.token(sub="alice"))])[0].status == 403


def test_constraints_of_a_token_are_held(ask, world):
    token = world.issuer.token
    for changes in [{"aud": "other"}, {"iss": "https://other.example/"}, {"exp": int(time.time()) - 1}, {"nbf": int(time.time()) + 36_000}]:
        assert ask("tokens", "/decode_verify", [bearer(token(sub="alice", **changes))])[0].status == 403, changes


def test_bodies_are_read_by_their_type(ask):
    form = ("content-type", "application/x-www-form-urlencoded")
    assert ask("tokens", "/form", [form], "POST", b"account=7&account=8")[0].status == 200
    assert ask("tokens", "/form", [form], "POST", b"account=7")[0].status == 403
    body = b'{"account": 7}'
    digest = ("x-digest", hashlib.sha256(body).hexdigest())
    assert ask("tokens", "/json", [JSON, digest], "POST", body)[0].status == 200
    assert ask("tokens", "/json", [JSON, ("x-digest", "0")], "POST", body)[0].status == 403
    assert ask("tokens", "/json", [JSON, digest], "POST", b'{"account": 7, "account": 7}')[0].status == 400
    assert ask("tokens", "/no-body", [("content-type", "text/plain")], "POST", b"x")[0].status == 200
    assert ask("tokens", "/no-body")[0].status == 200


@pytest.mark.parametrize(("status", "method", "user"), [
    (200, "GET", "alice"), (200, "POST", "alice"), (200, "GET", "bob"), (403, "POST", "bob"), (403, "GET", "eve"),
    (403, "DELETE", "alice"),
])
def test_a_bundle_archive_and_its_data(ask, status, method, user):
    assert ask("bundle", "/orders", [("x-user", user)], method)[0].status == status


def test_what_opa_envoy_has_and_placet_lacks_is_refused_at_load(world, tmp_path):
    settings = json.loads(json.dumps(world.placet.settings))
    settings["scopes"] = [scope("orders", {"files": ["p.rego"]})]
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "orders.pem").write_text(pem(new_private_key("ES256")))
    (tmp_path / "p.rego").write_text('package envoy.authz\nallow if http.send({"method": "get", "url": "http://a"}).status_code == 200\n')
    (tmp_path / "placet.yaml").write_text(json.dumps(settings))
    result = run("validate", "--config", tmp_path / "placet.yaml")
    assert result.returncode == 2 and "scopes[0].policy" in result.stderr, result
    assert "line 2" in result.stderr and "`http.send` is not provided" in result.stderr, result.stderr
