"""Who asks: several issuers, claims, places and types; SPIFFE peers over mutual TLS; anonymous callers.

A request picks its scope by host. One listener is plain, the other asks for client certificates.
"""

import json
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from harness import envoy
from harness.client import bearer, send
from harness.echo import Echo
from harness.issuer import Issuer
from harness.mtls import Authority
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import free_port
from harness.verify import verified

FRONTEND = "spiffe://cluster.local/ns/prod/sa/frontend"
POLICY = """
permit (principal in Group::"readers", action == Action::"read", resource is Account);
permit (principal in Group::"b/readers", action == Action::"read", resource == Account::"b");
permit (principal == Workload::"spiffe://cluster.local/ns/prod/sa/frontend", action == Action::"read", resource is Account);
permit (principal == Anonymous::"anonymous", action == Action::"read", resource == Account::"public");
permit (principal is Employee, action == Action::"read", resource == Account::"staff");
permit (principal, action == Action::"read", resource == Account::"verified")
  when { principal.claims has email_verified && principal.claims.email_verified };
permit (principal, action == Action::"read", resource == Account::"curl")
  when { context.http.headers has "x-team" && context.http.method == "GET" };
"""


@pytest.fixture(scope="module")
def world(directory):
    with ExitStack() as running:
        a, b = running.enter_context(Issuer()), running.enter_context(Issuer("RS256"))
        echo = running.enter_context(Echo())
        place = directory / "p"
        keys_file = "idp.jwks.json"
        jwt_a = {"issuer": a.url, "audiences": ["orders"], "jwksUri": a.jwks_uri}
        peer = {"trustDomains": ["cluster.local"]}
        identities = {
            "discovery": {"jwt": [{"issuer": a.url, "audiences": ["orders"]}]},
            "file": {"jwt": [{"issuer": a.url, "audiences": ["orders"], "jwksFile": keys_file}]},
            "two": {"jwt": [jwt_a, {"issuer": b.url, "audiences": ["orders"], "jwksUri": b.jwks_uri, "groupPrefix": "b/"}]},
            "narrow": {"jwt": [{**jwt_a, "algorithms": ["RS256"]}]},
            "typed": {"jwt": [{**jwt_a, "types": ["special+jwt"]}]},
            "anyone": {"jwt": [{**jwt_a, "audiences": "any"}]},
            "nested": {"jwt": [{**jwt_a, "subject": "profile.id", "groups": "realm.roles", "principalType": "Employee"}]},
            "places": {"jwt": [{**jwt_a, "from": [{"header": "x-token"}, {"header": "authorization", "prefix": "Bearer "}, {"cookie": "session"}]}]},
            "open": {"jwt": [jwt_a], "anonymous": True},
            "peers": {"peer": peer},
            "both": {"jwt": [jwt_a], "peer": peer},
            "either": {"jwt": [jwt_a], "peer": peer, "require": "either"},
        }
        scopes = []
        for name, identity in identities.items():
            scopes.append({**scope(a, name, match={"hosts": [f"{name}.example.com"]}), "identity": identity})
        keys = {name: pem(new_private_key("ES256")) for name in identities}
        placet = Placet(place, scopes, keys=keys, policy=POLICY)
        (place / keys_file).write_text(json.dumps(a.jwks()))
        running.enter_context(placet)

        authority = Authority(directory / "tls")
        authority.identity("server", "spiffe://cluster.local/ns/edge/sa/envoy")
        thumbprint = authority.identity("frontend", FRONTEND)
        authority.identity("backend", "spiffe://cluster.local/ns/prod/sa/backend")
        authority.identity("foreign", "spiffe://evil.example/ns/prod/sa/frontend")
        tls_port = free_port()

        def with_tls(config):
            [shipped] = config["static_resources"]["listeners"]
            secured = json.loads(json.dumps(shipped))
            secured["name"] = "edge_tls"
            secured["address"]["socket_address"]["port_value"] = tls_port
            secured["filter_chains"][0]["transport_socket"] = authority.envoy_transport("server")
            config["static_resources"]["listeners"].append(secured)
            return config

        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, with_tls))
        yield SimpleNamespace(placet=placet, a=a, b=b, echo=echo, plain=edge.port, tls=tls_port, authority=authority, thumbprint=thumbprint)


@pytest.fixture
def ask(world):
    """One GET of an account in a scope: status, and the claims of the token when it was allowed."""

    def ask(name, account="1", token=None, headers=(), peer=None):
        world.echo.take()
        credentials = [bearer(token)] if token else []
        port, tls = (world.tls, world.authority.client(peer)) if peer else (world.plain, None)
        answer = send(port, f"/accounts/{account}", [*credentials, *headers], host=f"{name}.example.com", tls=tls)
        seen = world.echo.take()
        assert len(seen) == (1 if answer.status == 200 else 0)
        if not seen:
            return answer.status, None
        return 200, verified(seen[0].one("x-placet-decision"), world.placet.jwks(name), f"{name}-api")[1]

    return ask


@pytest.mark.parametrize("name", ["discovery", "file", "two", "anyone"])
def test_an_issuers_keys_come_by_discovery_file_or_url(world, ask, name):
    status, claims = ask(name, token=world.a.token())
    assert (status, claims["sub"], claims["idp"]) == (200, "alice", world.a.url)
    assert ask(name, token=world.a.token(sub="x", iss="https://other.example"))[0] == 401


def test_each_issuer_counts_only_with_its_own_keys_and_groups(world, ask):
    assert ask("two", token=world.a.token())[0] == 200
    assert ask("two", token=world.b.token())[0] == 403, "its `readers` are `b/readers` here"
    status, claims = ask("two", "b", token=world.b.token())
    assert (status, claims["idp"]) == (200, world.b.url)
    assert ask("two", token=world.b.token(iss=world.a.url))[0] == 401
    assert ask("two", "b", token=world.a.token(groups=["b/readers"]))[0] == 200, "a's groups have no prefix: keep them apart on both sides"
    assert ask("discovery", token=world.b.token())[0] == 401


def test_any_audience_must_be_said_aloud(world, ask):
    assert ask("anyone", token=world.a.token(aud="something-else"))[0] == 200
    assert ask("discovery", token=world.a.token(aud="something-else"))[0] == 401


def test_algorithms_and_types_are_the_issuers(world, ask):
    assert ask("narrow", token=world.a.token())[0] == 401
    assert ask("typed", token=world.a.token())[0] == 401
    assert ask("typed", token=world.a.token(header={"typ": None}))[0] == 401
    assert ask("typed", token=world.a.token(header={"typ": "special+jwt"}))[0] == 200


def test_subject_and_groups_are_claims_of_any_depth(world, ask):
    token = world.a.token(profile={"id": "e-17"}, realm={"roles": ["readers"]}, groups=None)
    assert ask("nested", token=token)[1]["sub"] == "e-17"
    assert ask("discovery", "staff", token=world.a.token(groups=[]))[0] == 403, "these are Users"
    token = world.a.token(profile={"id": "e-17"}, realm={"roles": []})
    assert ask("nested", "staff", token=token)[0] == 200
    assert ask("nested", token=world.a.token(realm={"roles": ["readers"]}))[0] == 401, "no subject"


def test_the_first_place_that_holds_anything_decides(world, ask):
    good, bad = world.a.token(), "garbage"
    assert ask("places", headers=[("x-token", good)])[0] == 200
    assert ask("places", token=good)[0] == 200
    assert ask("places", headers=[("cookie", f"session={good}")])[0] == 200
    assert ask("places", headers=[("x-token", bad)], token=good)[0] == 401
    assert ask("places", headers=[("cookie", f"session={bad}")], token=good)[0] == 200
    assert ask("places", headers=[("x-token", f"{good},{good}")])[0] == 401


def test_claims_and_request_are_the_policys_to_read(world, ask):
    assert ask("discovery", "verified", token=world.a.token(groups=[], email_verified=True))[0] == 200
    assert ask("discovery", "verified", token=world.a.token(groups=[], email_verified=False))[0] == 403
    assert ask("discovery", "verified", token=world.a.token(groups=[], email_verified="true"))[0] == 403, "an error does not permit"
    assert ask("discovery", "curl", token=world.a.token(groups=[]), headers=[("x-team", "a")])[0] == 200
    assert ask("discovery", "curl", token=world.a.token(groups=[]))[0] == 403


def test_anonymous_is_for_requests_without_credentials_only(world, ask):
    status, claims = ask("open", "public")
    assert status == 200
    assert "sub" not in claims and "idp" not in claims
    assert ask("open", "1")[0] == 403
    assert ask("open", "public", token="garbage")[0] == 401
    assert ask("open", "1", token=world.a.token())[0] == 200
    assert ask("discovery", "public")[0] == 401


def test_a_peer_is_its_spiffe_id(world, ask):
    status, claims = ask("peers", peer="frontend")
    assert (status, claims["sub"]) == (200, FRONTEND)
    assert ask("peers", peer="backend")[0] == 403
    assert ask("peers", peer="foreign")[0] == 401
    assert ask("peers")[0] == 401
    assert ask("peers", token=world.a.token())[0] == 401, "no jwt is configured: it is an ordinary header"


def test_a_peer_cannot_be_claimed_in_a_header(world, ask):
    claim = f'By=spiffe://cluster.local/x;URI={FRONTEND}'
    assert ask("peers", headers=[("x-forwarded-client-cert", claim)])[0] == 401


def test_both_need_both_and_either_needs_one(world, ask):
    good = world.a.token()
    assert ask("both", token=good, peer="frontend")[0] == 200
    assert ask("both", token=good)[0] == 401
    assert ask("both", peer="frontend")[0] == 401
    assert ask("both", token=good, peer="foreign")[0] == 401
    assert ask("either", token=good)[0] == 200
    assert ask("either", peer="frontend")[0] == 200
    assert ask("either", token="garbage", peer="frontend")[0] == 401, "a bad credential is never overlooked"
    assert ask("either")[0] == 401


def test_a_token_bound_to_a_certificate_is_good_with_that_one_only(world, ask):
    bound = world.a.token(cnf={"x5t#S256": world.thumbprint})
    assert ask("both", token=bound, peer="frontend")[0] == 200
    assert ask("both", token=bound, peer="backend")[0] == 401
    assert ask("discovery", token=bound)[0] == 401
    assert ask("discovery", token=bound, peer="frontend")[0] == 200
