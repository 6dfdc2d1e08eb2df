"""ext_authz over HTTP: deploy/envoy/http.yaml, a real Envoy, and the same answers as over gRPC.

  http, http-open      http.yaml, failing closed and open
  http-plain           an Envoy that just asks over HTTP: nothing of ours but the answer protects
  http-forgotten       http.yaml with allowed_upstream_headers forgotten
  http-body            http-plain with with_request_body
  http-h2              http-plain, over HTTP/2 to Placet
  http-connect         http-plain with a route that takes CONNECT
  http-hasty           http.yaml with the deadline that it ships with; the others wait longer
  grpc-plain           the same questions over gRPC
"""

import base64
import copy
import hashlib
import signal
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from harness import envoy
from harness.client import bearer, get, send, send_h2
from harness.placet import POLICY, ROUTES, Placet, new_private_key, pem, scope
from harness.process import free_port
from harness.verify import verified
from test_header_forging import FORGED, FORGERIES, NAME

CLOSED, OPEN = "http", "http-open"
POLICIES = POLICY + """
permit (principal in Group::"readers", action == Action::"post", resource)
when { context.http.body has json && context.http.body.json has ok && context.http.body.json.ok };
forbid (principal, action, resource == Account::"broken") when { principal.nothing == 1 };
"""
POSTS = {"match": {"methods": ["POST"], "path": "/accounts/{account}"}, "asset": {"type": "Account", "id": "{account}"}, "action": "post"}
SCOPE = {"api": {"check": True}, "routes": [*ROUTES, POSTS], "explain": {"responseHeader": "x-placet-reason"}}


def digest(secret):
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}\n"


def basic(pair):
    return "Basic " + base64.b64encode(pair.encode()).decode()


def changed(listener, name, change=lambda listener, authz: None):
    made = copy.deepcopy(listener)
    change(made, envoy.ext_authz(made))
    made["name"] = envoy.connection_manager(made)["stat_prefix"] = name
    made["address"]["socket_address"]["port_value"] = free_port()
    return made


def fails_open(_, authz):
    authz["failure_mode_allow"] = True


def forgotten(_, authz):
    del authz["http_service"]["authorization_response"]["allowed_upstream_headers"]


def plain(listener, _):
    envoy.plain(listener)


def over_h2(listener, authz):
    envoy.plain(listener)
    authz["http_service"]["server_uri"]["cluster"] = "placet_h2"


def with_connect(listener, _):
    envoy.plain(listener)
    [host] = envoy.connection_manager(listener)["route_config"]["virtual_hosts"]
    upgrade = {"upgrade_type": "CONNECT", "connect_config": {}}
    host["routes"].insert(0, {"match": {"connect_matcher": {}}, "route": {"cluster": "upstream", "upgrade_configs": [upgrade]}})


def hasty(_, authz):
    authz["http_service"]["server_uri"]["timeout"] = "0.25s"


def with_body(listener, authz):
    envoy.plain(listener)
    authz["with_request_body"] = {"max_request_bytes": 64, "allow_partial_message": True}


@pytest.fixture(scope="module")
def world(directory, issuer, echo):
    ports = {}

    def every_listener(config):
        resources = config["static_resources"]
        [http] = resources["listeners"]
        over_grpc = yaml.safe_load(envoy.edge_config(free_port(), echo.port, placet.socket, free_port()))["static_resources"]
        [grpc], [_, cluster] = over_grpc["listeners"], over_grpc["clusters"]
        cluster["name"] = "placet_grpc"
        envoy.ext_authz(grpc)["grpc_service"]["envoy_grpc"]["cluster_name"] = "placet_grpc"
        envoy.ext_authz(grpc)["encode_raw_headers"] = False
        h2 = copy.deepcopy(next(each for each in resources["clusters"] if each["name"] == "placet"))
        h2 |= {"name": "placet_h2", "typed_extension_protocol_options": cluster["typed_extension_protocol_options"]}
        resources["clusters"] += [cluster, h2]
        resources["listeners"] = [
            changed(http, CLOSED), changed(http, OPEN, fails_open), changed(http, "http-forgotten", forgotten),
            changed(http, "http-plain", plain), changed(http, "http-body", with_body),
            changed(http, "http-h2", over_h2), changed(http, "http-connect", with_connect), changed(http, "http-hasty", hasty),
            changed(grpc, "grpc-plain", plain),
        ]
        for made in resources["listeners"]:
            ports[made["name"]] = made["address"]["socket_address"]["port_value"]
        return config

    with ExitStack() as running:
        keys = {name: pem(new_private_key("ES256")) for name in ("orders", "other")}
        scopes = [scope(issuer, default=True, **SCOPE), scope(issuer, "other", policy={"files": ["none.cedar"]}, **SCOPE)]
        placet = Placet(directory / "p", scopes, keys=keys, policy=POLICIES)
        (placet.directory / "none.cedar").write_text("")
        (placet.directory / "keys" / "orders.callers").write_text(digest("secret"))
        (placet.directory / "keys" / "other.callers").write_text(digest("another"))
        running.enter_context(placet)
        running.enter_context(envoy.http_edge(directory, echo.port, placet.http, every_listener))
        yield SimpleNamespace(placet=placet, ports=ports, echo=echo, issuer=issuer, token=issuer.token(), jwks=placet.jwks())


def ask(world, way, target="/accounts/1", headers=(), credentials=True, exchange=send, **options):
    """The answer, and what the application saw."""
    world.echo.take()
    given = [bearer(world.token)] if credentials else []
    answer = exchange(world.ports[way], target, [*given, *headers], **options)
    return answer, world.echo.take()


def recorded(world, key, value):
    """The one decision of which this is known; its line is written beside the answer."""

    def found():
        return [record for record in world.placet.decisions() if record[key] == value]

    [record] = world.placet.wait_until(found, f"a decision with the {key} {value}")
    return record


def reason(world, answer):
    """What the answer says, having been found in the decision log too."""
    told = dict(part.split("=", 1) for part in answer.header("x-placet-reason").split(", "))
    record = recorded(world, "id", told["id"])
    assert (record["reason"], record["requestType"]) == (told["reason"], "http_check")
    return told["reason"]


def is_stopped(process):
    return Path(f"/proc/{process.popen.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def claims_of(world, request):
    header, claims = verified(request.one(NAME), world.jwks)
    assert header["typ"] == "pdp-decision+jwt"
    return claims


# --- the decision header


# Trailers end after the answer, out of reach of an Envoy that has only that: see test_header_forging.py.
FORGED_WAYS = [(way, forgery) for way in (CLOSED, OPEN, "http-plain", "http-forgotten") for forgery in FORGERIES
               if way != "http-plain" or not FORGERIES[forgery][1]]


@pytest.mark.parametrize("way,forgery", FORGED_WAYS)
def test_nothing_forged_arrives(world, way, forgery):
    head, trailers = FORGERIES[forgery]
    has_underscores = any("_" in name for name, _ in [*head, *(trailers or [])])
    for target, credentials, status in [("/accounts/1", True, 200), ("/accounts/secret", True, 403), ("/accounts/1", False, 401), ("/healthz", False, 200)]:
        exchange = send if trailers is None else send_h2
        answer, seen = ask(world, way, target, head, credentials, exchange, **({"trailers": trailers} if trailers else {}))
        for request in seen:
            assert not [value for value in request.folded(NAME) if FORGED in value], request
        if way != "http-plain" and has_underscores:
            assert (answer.status, seen) in [(400, []), (0, [])]
            continue
        assert answer.status == status, target
        assert len(seen) == (status == 200)
        if target == "/accounts/1" and status == 200 and way != "http-forgotten":
            [request] = seen
            assert request.folded(NAME) == request.all(NAME)
            claims_of(world, request)
        elif seen:
            assert seen[0].folded(NAME) == []


def test_the_token_says_what_was_asked(world):
    _, [seen] = ask(world, CLOSED, "/accounts/1?a=b")
    claims = claims_of(world, seen)
    assert (claims["htm"], claims["htu"]) == ("GET", "http://orders.example.com/accounts/1")
    assert claims["entitlements"] == "Account:1:read"


# --- who asks


def test_a_client_cannot_pose_as_the_proxy(world):
    """The credentials are those of a scope that permits nothing; or nobody's."""
    for forged in (basic("other:another"), basic("nobody:nothing"), "garbage"):
        for way in (CLOSED, "http-plain"):
            answer, [seen] = ask(world, way, headers=[("x-placet-caller", forged), ("X-Placet-Caller", forged)])
            assert answer.status == 200
            assert claims_of(world, seen)["client_id"] == "orders"


@pytest.mark.parametrize("caller", [None, basic("orders:wrong"), basic("nobody:secret"), "Bearer secret"])
def test_without_the_caller_s_credentials_nothing_is_told(world, caller):
    headers = [bearer(world.token)] + ([("x-placet-caller", caller)] if caller else [])
    answer = send(world.placet.http, "/check/accounts/1", headers)
    assert (answer.status, answer.json()) == (403, {"code": 403, "error": "Forbidden"})
    assert answer.header(NAME) is None
    assert answer.header("x-placet-reason") is None


def test_the_caller_s_scope_decides_whatever_the_host(world):
    def direct(pair):
        return send(world.placet.http, "/check/accounts/1", [bearer(world.token), ("x-placet-caller", basic(pair))]).status

    assert (direct("orders:secret"), direct("other:another")) == (200, 403)


# --- what is decided on


LIES = {
    "x-forwarded-uri": ("/accounts/1", "/accounts/secret"),
    "x-forwarded-path": ("/accounts/1", "/accounts/secret"),
    "x-forwarded-prefix": ("/accounts/1", "/accounts/secret"),
    "x-original-url": ("/accounts/1", "/accounts/secret"),
    "x-original-uri": ("/accounts/1", "/accounts/secret"),
    "x-rewrite-url": ("/accounts/1", "/accounts/secret"),
    "x-envoy-original-path": ("/accounts/1", "/accounts/secret"),
    "x-envoy-original-url": ("/accounts/1", "/accounts/secret"),
    "x-forwarded-method": ("GET", "DELETE"),
    "x-original-method": ("GET", "DELETE"),
    "x-http-method-override": ("GET", "DELETE"),
    "x-http-method": ("GET", "DELETE"),
    "x-method-override": ("GET", "DELETE"),
    "x-forwarded-host": ("orders.example.com", "other.example"),
    "x-forwarded-server": ("orders.example.com", "other.example"),
    "x-forwarded-proto": ("http", "https"),
    "x-forwarded-scheme": ("http", "https"),
    "forwarded": ("host=orders.example.com", "host=other.example;proto=https"),
    "x-forwarded-for": ("127.0.0.1", "10.0.0.1"),
    "x-forwarded-client-cert": ("URI=spiffe://a/b", "URI=spiffe://a/admin"),
}


@pytest.mark.parametrize("name", LIES)
def test_no_header_changes_what_is_decided_on(world, name):
    """CVE-2026-40575, CVE-2026-76835 (oauth2-proxy), Oathkeeper's and Traefik's X-Forwarded headers."""
    permitted, refused = LIES[name]
    for way in (CLOSED, "http-plain"):
        answer, [seen] = ask(world, way, headers=[(name, refused)])
        assert answer.status == 200
        claims = claims_of(world, seen)
        assert (claims["htm"], claims["htu"]) == ("GET", "http://orders.example.com/accounts/1")
        answer, seen = ask(world, way, "/accounts/secret", [(name, permitted)])
        assert (answer.status, seen) == (403, [])
    record = recorded(world, "tokenId", claims["jti"])
    assert record["http"]["sourceIp"] == record["http"]["sourcePrincipal"] == ""


QUESTIONS = [
    *[(method, target) for method in ("GET", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "POST", "TRACE") for target in ("/accounts/1", "/accounts/7", "/healthz")],
    *[("GET", target) for target in (
        "/accounts/secret", "/accounts/secret/", "/accounts/1/", "/accounts//1", "//accounts/1", "//orders.example.com/accounts/1",
        "/accounts/x/../1", "/accounts/%2e%2e/1", "/accounts/.", "/accounts/a%2fb", "/accounts/a%2Fb", "/accounts/a%5cb", "/accounts/a\\b",
        "/accounts/%73ecret", "/accounts/%252e", "/accounts/a;b", "/accounts/%00", "/accounts/%", "/accounts/%c3%a9", "/accounts/%ff",
        "/ACCOUNTS/1", "/", "/?/accounts/1", "/accounts/1?/accounts/secret", "/accounts/secret?", "/accounts/1?x=%2f&y=a?b", "/check/accounts/1",
        "/nowhere", "/accounts/{1}", "http://orders.example.com/accounts/1", "http://orders.example.com/accounts/secret", "http://other.example/accounts/1",
    )],
    ("OPTIONS", "*"),
    ("CONNECT", "orders.example.com:443"),
]


@pytest.mark.parametrize("method,target", QUESTIONS)
@pytest.mark.parametrize("credentials", [True, False], ids=["token", "no-token"])
@pytest.mark.parametrize("way", ["http-plain", "http-h2"])
def test_the_answers_are_those_of_grpc(world, way, method, target, credentials):
    (http, over_http), (grpc, over_grpc) = (ask(world, way, target, (), credentials, method=method) for way in (way, "grpc-plain"))
    assert (http.status, http.body) == (grpc.status, grpc.body)
    # Of an answer to HEAD, which has no body, Envoy drops the content type.
    for name in ("www-authenticate", "content-type") if method != "HEAD" else ("www-authenticate",):
        assert http.header(name) == grpc.header(name)
    assert (http.header("x-placet-reason") or "").partition("reason=")[2] == (grpc.header("x-placet-reason") or "").partition("reason=")[2]
    assert [(seen.method, seen.target) for seen in over_http] == [(seen.method, seen.target) for seen in over_grpc]
    tokens = [[verified(token, world.jwks)[1] for seen in side for token in seen.all(NAME)] for side in (over_http, over_grpc)]
    told = [[{name: value for name, value in claims.items() if name not in ("jti", "iat", "nbf", "exp")} for claims in side] for side in tokens]
    assert told[0] == told[1]


def test_control_the_questions_have_every_kind_of_answer(world):
    statuses = {ask(world, "http-plain", target, (), token, method=method)[0].status for method, target in QUESTIONS for token in (True, False)}
    assert {200, 400, 401, 403, 404} <= statuses


@pytest.mark.parametrize("target", ["/accounts/<1>", '/accounts/"1"', "/accounts/`1`", "/accounts/^1", "/accounts/|1", "/accounts/1 2", "/accounts/\xe9", "/a#b"])
def test_what_no_uri_holds_does_not_arrive(world, target):
    """Some of these no HTTP server reads: then the server's refusal is the answer."""
    answer, seen = ask(world, "http-plain", target)
    if answer.status == 200:
        assert claims_of(world, seen[0])["htu"].startswith("http://orders.example.com/accounts/")
    else:
        assert (answer.status in (400, 403), seen) == (True, [])


@pytest.mark.parametrize("host,name", [("ORDERS.example.com", "orders.example.com"), ("orders.example.com:80", "orders.example.com"), ("orders.example.com:8080", "orders.example.com:8080")])
def test_the_host_has_one_form(world, host, name):
    _, [seen] = ask(world, "http-plain", host=host)
    assert claims_of(world, seen)["htu"] == f"http://{name}/accounts/1"


@pytest.mark.parametrize("host", ["user@orders.example.com", "a,b", "a/b"])
def test_what_is_no_host_is_refused(world, host):
    answer, seen = ask(world, "http-plain", host=host)
    assert (answer.status, seen) == (400, [])


def test_a_doubled_credential_is_refused(world):
    answer, seen = ask(world, "http-plain", headers=[bearer(world.token)])
    assert (answer.status, seen) == (401, [])


def test_a_connect_is_refused_whatever_its_target(world):
    """Envoy can't ask about a CONNECT over HTTP: to it every answer, a 403 too, is an error."""
    for target in ("orders.example.com:443", "accounts/1", "/accounts/1"):
        answer, seen = ask(world, "http-connect", target, method="CONNECT")
        assert (answer.status, seen) in [(503, []), (400, [])], target
    assert ask(world, "http-connect")[0].status == 200, "control"


# --- bodies


@pytest.mark.parametrize("mark", [None, "true", "false"])
@pytest.mark.parametrize("body,status", [
    (b'{"ok": true}', 200),
    (b'{"ok": false}', 403),
    (b'{"ok": true, "ok": false}', 400),
    (b'{"ok": true, "pad": "' + b"x" * 64 + b'"}', 403),
    (b"", 403),
], ids=["yes", "no", "twice", "cut-off", "none"])
def test_policies_see_the_body_that_envoy_sends(world, body, status, mark):
    headers = [("content-type", "application/json")] + ([("x-envoy-auth-partial-body", mark)] if mark else [])
    answer, _ = ask(world, "http-body", headers=headers, method="POST", body=body)
    assert answer.status == status


def test_no_body_is_seen_where_envoy_sends_none(world):
    headers = [("content-type", "application/json"), ("x-envoy-auth-partial-body", "false")]
    answer, _ = ask(world, "http-plain", headers=headers, method="POST", body=b'{"ok": true}')
    assert answer.status == 403


# --- reasons


def test_the_client_is_told_the_reason_and_the_upstream_is_not(world):
    world.echo.answers = [("x-placet-reason", "reason=of-the-upstream")]
    try:
        answer, [seen] = ask(world, CLOSED, headers=[("x-placet-reason", "reason=forged")])
    finally:
        world.echo.answers = []
    assert reason(world, answer) == "permitted"
    assert seen.folded("x-placet-reason") == []
    answer, _ = ask(world, CLOSED, "/accounts/secret")
    assert reason(world, answer) == "forbidden"


# --- faults; the last ones stop Placet


def test_a_fault_of_placet_s_own_is_a_denial_even_where_envoy_fails_open(world):
    for way in (CLOSED, OPEN):
        answer, seen = ask(world, way, "/accounts/broken")
        assert (answer.status, seen) == (403, [])
        assert reason(world, answer) == "policy_error"


def test_a_placet_that_hangs_or_is_gone_is_a_503(world):
    world.placet.signal(signal.SIGSTOP)
    try:
        world.placet.wait_until(lambda: is_stopped(world.placet), "placet has stopped")
        answer, seen = ask(world, "http-hasty", headers=[(NAME, FORGED)])
        assert (answer.status, seen) == (503, [])
    finally:
        world.placet.signal(signal.SIGCONT)
    world.placet.wait_until(lambda: get(world.placet.admin, "/livez").status == 200, "placet goes on")
    world.placet.stop()
    answer, seen = ask(world, CLOSED, headers=[(NAME, FORGED)])
    assert (answer.status, seen) == (503, [])
    answer, [seen] = ask(world, OPEN, headers=[(NAME, FORGED)])
    assert (answer.status, seen.folded(NAME)) == (200, [])
