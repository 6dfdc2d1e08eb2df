"""The main job on the shipped configurations: edge Envoy -> Placet -> the upstream's Envoy (jwt_authn) -> application."""

import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from harness import envoy
from harness.client import HOST, bearer, get, send
from harness.issuer import new_key, sign
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import free_port
from harness.verify import claims_by_jose, verified

CHAINS = [
    pytest.param(("ES256", "socket", "PKCS8"), id="ES256"),
    pytest.param(("ES256", "tcp", "TraditionalOpenSSL"), id="ES256-tcp-sec1"),
    pytest.param(("ES384", "socket", "PKCS8"), id="ES384"),
    pytest.param(("RS256", "socket", "TraditionalOpenSSL"), id="RS256-pkcs1"),
    pytest.param(("PS256", "socket", "PKCS8"), id="PS256"),
    pytest.param(("EdDSA", "socket", "PKCS8"), id="EdDSA"),
]


@pytest.fixture(scope="module", params=CHAINS)
def chain(request, directory, issuer, echo):
    algorithm, transport, form = request.param
    place = directory / f"{algorithm}-{transport}"
    signing = {"algorithm": "PS256"} if algorithm == "PS256" else {}
    orders = scope(issuer, jwtSigning=signing)
    grpc_port = free_port()
    grpc = f"127.0.0.1:{grpc_port}" if transport == "tcp" else None
    with ExitStack() as running:
        keys = {"orders": pem(new_private_key(algorithm), form)}
        placet = running.enter_context(Placet(place, [orders], keys=keys, grpc=grpc))
        upstream = running.enter_context(envoy.upstream(place, echo.port, placet.http))
        asked = grpc_port if transport == "tcp" else placet.socket
        edge = running.enter_context(envoy.edge(place, upstream.port, asked))
        yield SimpleNamespace(algorithm=algorithm, placet=placet, upstream=upstream, edge=edge, echo=echo, issuer=issuer)


@pytest.fixture
def ask(chain):
    """Sends one request to the edge; returns the answer and what the application saw."""

    def ask(target="/accounts/1", token=None, headers=(), **kind):
        chain.echo.take()
        credentials = [bearer(token)] if token else []
        return send(chain.edge.port, target, [*credentials, *headers], **kind), chain.echo.take()

    return ask


def refused(outcome, status):
    """Checks that the client got the status and the application nothing."""
    answer, seen = outcome
    assert answer.status == status
    assert seen == []
    return answer


def test_an_allowed_request_carries_one_decision_token(chain, ask):
    before = int(time.time())
    answer, [seen] = ask(token=chain.issuer.token())
    assert (answer.status, answer.body) == (200, b"echo\n")

    token = seen.one("x-placet-decision")
    header, claims = verified(token, chain.placet.jwks())
    assert header == {"alg": chain.algorithm, "kid": "orders", "typ": "JWT"}
    assert claims == {
        "iss": "placet",
        "sub": "alice",
        "aud": "orders-api",
        "iat": claims["iat"],
        "nbf": claims["iat"],
        "exp": claims["iat"] + 60,
        "jti": claims["jti"],
        "client_id": "orders",
        "idp": chain.issuer.url,
        "htm": "GET",
        "htu": f"http://{HOST}/accounts/1",
        "entitlements": "Account:1:read",
    }
    assert claims_by_jose(token, chain.placet.jwks()) in (claims, None)
    assert before <= claims["iat"] <= time.time()
    assert len(claims["jti"]) >= 16
    assert seen.one("x-entitlements") == "Account:1:read", "jwt_authn verified the claim and handed it on"
    assert chain.edge.stats("ext_authz.error") == {}


def test_every_token_has_its_own_id(chain, ask):
    ids = set()
    for _ in range(3):
        _, [seen] = ask(token=chain.issuer.token())
        ids.add(verified(seen.one("x-placet-decision"), chain.placet.jwks())[1]["jti"])
    assert len(ids) == 3


def test_the_token_ends_no_later_than_the_incoming_one(chain, ask):
    ends = int(time.time()) + 20
    _, [seen] = ask(token=chain.issuer.token(exp=ends))
    assert verified(seen.one("x-placet-decision"), chain.placet.jwks())[1]["exp"] == ends


def test_the_url_in_the_token_is_canonical_and_without_the_query(chain, ask):
    answer, [seen] = ask("/accounts/%61%7eb?expand=items&limit=10", token=chain.issuer.token())
    assert answer.status == 200
    claims = verified(seen.one("x-placet-decision"), chain.placet.jwks())[1]
    assert claims["htu"] == f"http://{HOST}/accounts/a~b"
    assert claims["entitlements"] == "Account:a~b:read"


def test_no_permit_is_forbidden(chain, ask):
    refused(ask("/accounts/1", token=chain.issuer.token(), method="DELETE"), 403)
    refused(ask(token=chain.issuer.token(groups=["strangers"])), 403)
    answer, seen = ask("/accounts/7", token=chain.issuer.token(), method="DELETE")
    assert (answer.status, len(seen)) == (200, 1), "control: the same request on the account that may be closed"


def test_a_forbid_wins_over_a_permit(chain, ask):
    forbidden = refused(ask("/accounts/secret", token=chain.issuer.token()), 403)
    no_permit = refused(ask(token=chain.issuer.token(groups=[])), 403)
    assert forbidden.body == no_permit.body, "the client cannot tell one cause from another"
    assert forbidden.json() == {"code": 403, "error": "Forbidden"}


def test_no_credentials_is_unauthorized(chain, ask):
    answer = refused(ask(), 401)
    assert answer.header("www-authenticate").startswith("Bearer")


def test_another_scheme_is_no_credential_of_ours(chain, ask):
    refused(ask(headers=[("authorization", "Basic YWxpY2U6c2VjcmV0")]), 401)


SPOILED = {
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 1),
    "expired-long-ago": lambda issuer: issuer.token(exp=1_000_000_000),
    "no-exp": lambda issuer: issuer.token(exp=None),
    "not-yet-valid": lambda issuer: issuer.token(nbf=int(time.time()) + 120),
    "wrong-audience": lambda issuer: issuer.token(aud="billing"),
    "no-audience": lambda issuer: issuer.token(aud=None),
    "wrong-issuer": lambda issuer: issuer.token(iss="https://other.example/"),
    "no-issuer": lambda issuer: issuer.token(iss=None),
    "other-key": lambda issuer: sign(new_key("ES256", "idp-1"), issuer.header(), issuer.claims()),
    "changed-payload": lambda issuer: ".".join([(good := issuer.token().split("."))[0], issuer.token(sub="root").split(".")[1], good[2]]),
    "garbage": lambda issuer: "garbage",
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_a_bad_token_is_unauthorized(chain, ask, spoil):
    answer = refused(ask(token=spoil(chain.issuer)), 401)
    assert answer.header("www-authenticate").startswith("Bearer")


def test_an_unknown_route_is_forbidden_and_without_credentials_unauthorized(chain, ask):
    refused(ask("/nowhere", token=chain.issuer.token()), 403)
    refused(ask("/nowhere"), 401)
    refused(ask("/accounts/1/", token=chain.issuer.token()), 403)
    refused(ask("/Accounts/1", token=chain.issuer.token()), 403)


def test_a_bypass_needs_no_credentials_and_carries_no_token(chain, ask):
    answer, [seen] = ask("/healthz", headers=[("x-placet-decision", "FORGED"), ("x-entitlements", "FORGED")])
    assert answer.status == 200
    assert seen.folded("x-placet-decision") == []
    assert seen.all("x-entitlements") == []


@pytest.mark.parametrize("target", ["/accounts/a;b", "/accounts/%252e%252e", "/accounts/%c3%28", "/accounts/%2", "/accounts/%7f"])
def test_an_ambiguous_path_is_a_bad_request(chain, ask, target):
    refused(ask(target, token=chain.issuer.token()), 400)


def test_the_upstream_believes_only_the_token(chain, ask):
    """Straight to the upstream's Envoy, past the edge: what it refuses and what it accepts."""
    _, [seen] = ask(token=chain.issuer.token())
    token = seen.one("x-placet-decision")
    forged = sign(new_key("ES256", "orders"), {"alg": "ES256", "kid": "orders"}, {"iss": "placet", "aud": "orders-api", "exp": int(time.time()) + 60})
    head, payload, signature = token.split(".")
    cut = f"{head}.{payload}.{'A' * len(signature)}"
    for headers in ([], [("x-placet-decision", forged)], [("x-placet-decision", cut)], [("x-placet-decision", chain.issuer.token())]):
        assert send(chain.upstream.port, "/accounts/1", headers).status == 401
    assert chain.echo.take() == []
    assert send(chain.upstream.port, "/accounts/1", [("x-placet-decision", token)]).status == 200, "control"


def test_the_jwks_is_published_at_both_addresses(chain):
    of_scope, of_all = get(chain.placet.http, "/scopes/orders/jwks.json"), get(chain.placet.http, "/.well-known/jwks.json")
    for answer in (of_scope, of_all):
        assert answer.status == 200
        assert answer.header("content-type") == "application/jwk-set+json"
        assert answer.header("cache-control") == "public, max-age=300"
        assert answer.header("etag")
    assert of_scope.json() == of_all.json()

    [key] = of_scope.json()["keys"]
    assert (key["kid"], key["alg"], key["use"]) == ("orders", chain.algorithm, "sig")
    assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & set(key), "no private member"


def test_an_unchanged_jwks_is_not_sent_again(chain):
    first = get(chain.placet.http, "/scopes/orders/jwks.json")
    second = send(chain.placet.http, "/scopes/orders/jwks.json", [("if-none-match", first.header("etag"))])
    assert (second.status, second.body, second.header("etag")) == (304, b"", first.header("etag"))
    assert send(chain.placet.http, "/scopes/orders/jwks.json", [("if-none-match", '"other"')]).status == 200
    assert get(chain.placet.http, "/scopes/nobody/jwks.json").status == 404


def test_the_edge_believes_no_header_that_only_envoys_may_send(chain, ask):
    forged = [("x-envoy-retry-on", "5xx"), ("x-envoy-upstream-rq-timeout-ms", "1"), ("x-envoy-internal", "true"), ("x-forwarded-for", "10.0.0.1")]
    answer, [seen] = ask(token=chain.issuer.token(), headers=forged)
    assert answer.status == 200
    assert seen.all("x-envoy-retry-on") + seen.all("x-envoy-upstream-rq-timeout-ms") + seen.all("x-envoy-internal") == []
