"""What the token holds and where it travels: every setting of `jwtResponse` and `jwtCustomization`, one scope each.

The Envoy between is a plain one. A request picks its scope by host: `<client ID>.example.com`.
"""

import base64
import hashlib
import json
from contextlib import ExitStack
from types import SimpleNamespace

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from jwcrypto import jwk

from harness import envoy
from harness.client import bearer, get, send
from harness.placet import REMOVED, Placet, certificate, new_private_key, pem, scope
from harness.verify import verified

KEY = new_private_key("ES256")
CERTIFICATE = certificate(KEY)
INCOMING = {
    "department": "claims", "amr": ["pwd", "otp"], "address": {"country": "CH"},
    # These say who, for whom and how; they are never carried over.
    "client_id": "FORGED", "idp": "FORGED", "htm": "FORGED", "htu": "FORGED", "act": {"sub": "FORGED"},
    "txn": "FORGED", "tctx": {"a": "FORGED"}, "rctx": {"a": "FORGED"}, "req_wl": "FORGED", "jti": "FORGED",
    # The decision claims of this scope and of others.
    "entitlements": "FORGED", "grants": "FORGED",
}
SCOPES = {
    "defaults": {},
    "incoming": {"jwtCustomization": {"includeIncomingPayload": True}},
    "claim": {"jwtCustomization": {"claimAttributeName": "grants", "includeIncomingPayload": True}},
    "template": {"jwtCustomization": {"template": "{{action}}@{{asset_type}}/{{asset_id}}"}},
    "array": {"jwtCustomization": {"itemDelimiter": None}},
    "delimiter": {"jwtCustomization": {"itemDelimiter": "~|"}},
    "prefix": {"jwtResponse": {"headerPrefix": "Bearer "}},
    "renamed": {"jwtResponse": {"header": "x-authz-proof"}},
    "removing": {"jwtResponse": {"removeHeaders": ["authorization", "cookie"]}},
    "many": {"jwtResponse": {"audience": ["orders-api", "billing-api"]}},
    "nobody": {"jwtResponse": {"audience": REMOVED, "issuer": "https://placet.example/nobody"}},
    "issuing": {"jwtResponse": {"issuer": "https://placet.example"}},
    "keyed": {"jwtResponse": {"keyId": "custom-key"}},
    "thumb": {"jwtResponse": {"keyId": "{{client_id}}.{{thumbprint}}"}},
    "certified": {"jwtResponse": {"x509Certificate": CERTIFICATE.public_bytes(serialization.Encoding.PEM).decode()}},
    "typed": {"jwtResponse": {"type": "decision+jwt"}},
    "unbound": {"jwtResponse": {"bindRequest": False}},
    "brief": {"jwtResponse": {"tokenLifetimeSeconds": 7}},
    "polite": {"deny": {"status": 451, "headers": {"x-why": "policy", "content-type": "text/plain"}, "body": "no\n"}},
    "named": {"jwtSigning": {"keyName": "another-name"}},
}


@pytest.fixture(scope="module")
def world(directory, issuer, echo):
    scopes = [scope(issuer, name, match={"hosts": [f"{name}.example.com"]}, **changes) for name, changes in SCOPES.items()]
    keys = {name: pem(KEY) for name in [*SCOPES, "another-name"] if name != "named"}
    with ExitStack() as running:
        placet = running.enter_context(Placet(directory / "p", scopes, keys=keys))

        def plain(config):
            envoy.plain(config["static_resources"]["listeners"][0])
            return config

        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, plain))
        yield SimpleNamespace(placet=placet, edge=edge, echo=echo, issuer=issuer)


def ask(world, name, target="/accounts/1", headers=(), method="GET", **claims):
    """One request of alice's to the scope; the answer and what the application saw."""
    world.echo.take()
    credentials = bearer(world.issuer.token(**claims))
    answer = send(world.edge.port, target, [credentials, *headers], method=method, host=f"{name}.example.com")
    return answer, world.echo.take()


def claims_of(world, name, target="/accounts/1", audience=None, issuer="placet", **claims):
    answer, seen = ask(world, name, target, **claims)
    assert answer.status == 200, answer
    return verified(seen[0].one("x-placet-decision"), world.placet.jwks(name), audience or f"{name}-api", issuer)[1]


def test_the_incoming_payload_is_left_out_unless_asked_for(world):
    assert set(claims_of(world, "defaults", **INCOMING)) == {
        "iss", "sub", "aud", "iat", "nbf", "exp", "jti", "client_id", "idp", "htm", "htu", "entitlements"}


def test_the_incoming_payload_is_carried_over_but_for_reserved_claims(world):
    claims = claims_of(world, "incoming", **INCOMING)
    assert (claims["department"], claims["amr"], claims["address"]) == ("claims", ["pwd", "otp"], {"country": "CH"})
    assert claims["groups"] == ["readers"]
    assert "FORGED" not in json.dumps(claims)
    assert claims["entitlements"] == "Account:1:read"
    assert {"act", "txn", "tctx", "rctx", "req_wl", "grants"} & set(claims) == set()


def test_the_decision_claim_can_be_renamed(world):
    claims = claims_of(world, "claim", **INCOMING)
    assert claims["grants"] == "Account:1:read"
    assert "entitlements" not in claims, "another scope's decision claim"


def test_the_template_says_how_an_item_looks(world):
    assert claims_of(world, "template")["entitlements"] == "read@Account/1"


def test_no_delimiter_makes_an_array(world):
    assert claims_of(world, "array")["entitlements"] == ["Account:1:read"]


@pytest.mark.parametrize(
    ("name", "segment", "item"),
    [
        ("defaults", "a:b,Account:secret:read", "Account:a%3Ab%2CAccount%3Asecret%3Aread:read"),
        ("defaults", "100%25", "Account:100%25:read"),
        ("defaults", "a%3Ab%2Cc", "Account:a%3Ab%2Cc:read"),
        ("defaults", "a|b~'\"", "Account:a|b~'\":read"),
        ("template", "a@b:c", "read@Account/a%40b:c"),
        ("delimiter", "a~|b", "Account:a%7E%7Cb:read"),
        ("array", "a:b,c", "Account:a%3Ab,c:read"),
    ],
)
def test_an_asset_id_cannot_forge_an_item(world, name, segment, item):
    decision = claims_of(world, name, f"/accounts/{segment}")["entitlements"]
    assert decision == ([item] if name == "array" else item)


def test_the_prefix_stands_before_the_token(world):
    _, [seen] = ask(world, "prefix")
    scheme, token = seen.one("x-placet-decision").split(" ")
    assert scheme == "Bearer"
    verified(token, world.placet.jwks("prefix"), "prefix-api")


def test_the_header_can_be_renamed_and_is_still_only_ours(world):
    forged = [("x-authz-proof", "FORGED"), ("X-Authz-Proof", "FORGED"), ("x_authz_proof", "FORGED"), ("x-authz_proof", "FORGED")]
    _, [seen] = ask(world, "renamed", headers=forged)
    assert len(seen.folded("x-authz-proof")) == 1
    verified(seen.one("x-authz-proof"), world.placet.jwks("renamed"), "renamed-api")
    assert seen.all("x-placet-decision") == []


def test_headers_are_removed_where_asked(world):
    cookie = [("cookie", "session=1"), ("accept", "text/plain")]
    _, [kept] = ask(world, "defaults", headers=cookie)
    _, [removed] = ask(world, "removing", headers=cookie)
    assert (len(kept.all("authorization")), len(kept.all("cookie"))) == (1, 1)
    assert (removed.all("authorization"), removed.all("cookie")) == ([], [])
    assert removed.all("accept") == ["text/plain"]


def test_the_audience_is_one_or_a_list_or_absent(world):
    assert claims_of(world, "defaults")["aud"] == "defaults-api"
    assert claims_of(world, "many", audience="billing-api")["aud"] == ["orders-api", "billing-api"]
    _, [seen] = ask(world, "nobody")
    _, claims = verified(seen.one("x-placet-decision"), world.placet.jwks("nobody"), None, "https://placet.example/nobody")
    assert "aud" not in claims


def test_the_issuer_can_be_named(world):
    assert claims_of(world, "issuing", issuer="https://placet.example")["iss"] == "https://placet.example"


def header_of(world, name):
    _, [seen] = ask(world, name)
    return verified(seen.one("x-placet-decision"), world.placet.jwks(name), f"{name}-api")[0]


def test_the_key_id_is_the_client_id_unless_said_otherwise(world):
    thumbprint = jwk.JWK.from_pyca(KEY.public_key()).thumbprint()
    assert header_of(world, "defaults")["kid"] == "defaults"
    assert header_of(world, "keyed")["kid"] == "custom-key"
    assert header_of(world, "thumb")["kid"] == f"thumb.{thumbprint}"


def test_the_type_can_be_named(world):
    assert header_of(world, "typed") == {"alg": "ES256", "kid": "typed", "typ": "decision+jwt"}


def test_a_token_need_not_be_bound_to_the_request(world):
    assert {"htm", "htu"} & set(claims_of(world, "unbound")) == set()


def test_the_lifetime_is_the_scopes(world):
    claims = claims_of(world, "brief")
    assert claims["exp"] - claims["iat"] == 7


def test_the_key_name_is_the_client_id_unless_said_otherwise(world):
    assert claims_of(world, "named")["client_id"] == "named"


def test_a_denial_looks_as_the_scope_says(world):
    answer, seen = ask(world, "polite", "/accounts/secret")
    assert (answer.status, answer.body, seen) == (451, b"no\n", [])
    assert (answer.header("x-why"), answer.header("content-type")) == ("policy", "text/plain")


def test_the_certificate_is_published_with_the_key(world):
    der = CERTIFICATE.public_bytes(serialization.Encoding.DER)
    [bare], [certified] = (world.placet.jwks(name)["keys"] for name in ("defaults", "certified"))
    assert certified["x5c"] == [base64.b64encode(der).decode()]
    assert certified["x5t#S256"] == base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
    assert {"x5c", "x5t#S256"} & set(bare) == set()
    assert {**certified, "kid": ""} == {**bare, "kid": "", "x5c": certified["x5c"], "x5t#S256": certified["x5t#S256"]}


def test_one_scopes_token_is_not_anothers(world):
    _, [seen] = ask(world, "defaults")
    token = seen.one("x-placet-decision")
    verified(token, world.placet.jwks("defaults"), "defaults-api")
    with pytest.raises(jwt.InvalidAudienceError):
        verified(token, world.placet.jwks("defaults"), "many-api")


def test_the_common_jwks_holds_every_scopes_keys(world):
    kids = [key["kid"] for key in get(world.placet.http, "/.well-known/jwks.json").json()["keys"]]
    assert {"defaults", "custom-key", "certified"} <= set(kids)
    assert [key["kid"] for key in world.placet.jwks("keyed")["keys"]] == ["custom-key"]


def test_an_unknown_host_has_no_scope(world):
    answer, seen = ask(world, "stranger")
    assert (answer.status, seen) == (403, [])
