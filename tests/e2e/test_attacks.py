"""Attacks through a plain Envoy, which normalises nothing: each beside a control that passes."""

import json
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from harness import envoy
from harness.client import HOST, bearer, send, send_h2
from harness.issuer import Issuer, b64, new_key, sign, sign_with
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import free_port
from harness.verify import verified


@pytest.fixture(scope="module")
def world(directory, echo):
    with ExitStack() as running:
        issuer = running.enter_context(Issuer("RS256"))
        issuer.rotate("ES256")
        orders = scope(issuer, default=True)
        by_cookie = scope(issuer, "web", match={"hosts": ["web.example.com"]})
        by_cookie["identity"]["jwt"][0]["from"] = [{"cookie": "session"}]
        keys = {name: pem(new_private_key("ES256")) for name in ("orders", "web")}
        placet = running.enter_context(Placet(directory / "p", [orders, by_cookie], keys=keys))
        ports = {}

        def raw_and_map(config):
            [raw] = config["static_resources"]["listeners"]
            listeners = [envoy.plain(raw), json.loads(json.dumps(raw))]
            for encoding, listener in zip(("raw", "map"), listeners):
                envoy.ext_authz(listener)["encode_raw_headers"] = encoding == "raw"
                listener["name"] = encoding
                ports[encoding] = listener["address"]["socket_address"]["port_value"] = free_port()
            config["static_resources"]["listeners"] = listeners
            return config

        running.enter_context(envoy.edge(directory, echo.port, placet.socket, raw_and_map))
        yield SimpleNamespace(placet=placet, ports=ports, echo=echo, issuer=issuer)


@pytest.fixture(params=["raw", "map"])
def ask(request, world):
    """Sends one request with and without encode_raw_headers; the decision must be the same."""

    def ask(target="/accounts/1", headers=(), token=None, exchange=send, **kind):
        world.echo.take()
        credentials = [bearer(token)] if token else []
        answer = exchange(world.ports[request.param], target, [*credentials, *headers], **kind)
        return answer, world.echo.take()

    return ask


def allowed(outcome):
    answer, seen = outcome
    assert (answer.status, len(seen)) == (200, 1)
    return seen[0]


def refused(outcome, *statuses):
    answer, seen = outcome
    assert answer.status in statuses
    assert seen == [], "the application saw a refused request"


# --- credentials that come more than once (rows 2 and 3)


def test_control_one_credential_is_enough(world, ask):
    allowed(ask(token=world.issuer.token()))
    allowed(ask(headers=[("Authorization", f"bearer {world.issuer.token()}")]))
    allowed(ask(headers=[("cookie", f"theme=dark; session={world.issuer.token()}")], host="web.example.com"))


@pytest.mark.parametrize("exchange", [send, send_h2])
def test_two_authorization_headers_are_refused(world, ask, exchange):
    good, other = world.issuer.token(), world.issuer.token(sub="mallory")
    for values in ([good, good], [good, other], [other, good], [good, ""], ["", good], [good, "garbage"]):
        headers = [("authorization", f"Bearer {value}") for value in values]
        refused(ask(headers=headers, exchange=exchange), 401)


def test_an_authorization_header_joined_by_comma_is_refused(world, ask):
    good = world.issuer.token()
    for value in (f"Bearer {good},Bearer {good}", f"Bearer {good}, Basic YTpi", f"Basic YTpi, Bearer {good}", f"Bearer {good},"):
        refused(ask(headers=[("authorization", value)]), 401)


def test_spaces_are_not_trimmed(world, ask):
    good = world.issuer.token()
    for value in (f"Bearer  {good}", f"Bearer\t{good}", f"Bearer{good}", f"Bearer {good} x", "Bearer ", "Bearer"):
        refused(ask(headers=[("authorization", value)]), 401)


def test_an_underscored_authorization_is_no_credential(world, ask):
    refused(ask(headers=[("x_authorization", f"Bearer {world.issuer.token()}")]), 401)


@pytest.mark.parametrize("exchange", [send, send_h2])
def test_two_session_cookies_are_refused(world, ask, exchange):
    good, other = world.issuer.token(), world.issuer.token(sub="mallory")
    as_cookies = [
        [f"session={good}; session={other}"],
        [f"session={good}", f"session={other}"],
        [f"session={good}", "session="],
        [f"session={good},session={other}"],
    ]
    for cookies in as_cookies:
        headers = [("cookie", cookie) for cookie in cookies]
        refused(ask(headers=headers, host="web.example.com", exchange=exchange), 401)


def test_a_cookie_is_no_credential_where_none_is_configured(world, ask):
    refused(ask(headers=[("cookie", f"session={world.issuer.token()}")]), 401)
    refused(ask(token=world.issuer.token(), host="web.example.com"), 401)


# --- paths (row 4)

PLAIN_PATHS = {"/accounts/1": "1", "/accounts/%7e": "~", "/accounts/%61": "a", "/accounts/a%20b": "a%20b", "/accounts/1?x=/../;//%2f": "1",
               "/accounts/...": "...", "/accounts/a.b": "a.b"}
BAD_PATHS = [
    "/accounts/../accounts/1", "/accounts/./1", "/accounts/%2e%2e/1", "/accounts/%2E/1", "/accounts/.%2e/1", "/accounts/..", "/accounts/%2e",
    "/accounts/%252e%252e/1", "/accounts/%2525", "//accounts/1", "/accounts//1", "/accounts/1//", "/accounts/1;x=1", "/accounts/..;/1", "/accounts;/1",
    "/accounts/a%2fb", "/accounts/a%2Fb", "/accounts/a%5cb", "/accounts/a\\b", "/accounts/%00", "/accounts/a%00b", "/accounts/%0d%0a", "/accounts/%7f",
    "/accounts/%", "/accounts/%4", "/accounts/%zz", "/accounts/%c3", "/accounts/%ff", "/accounts/%c0%af", "/accounts/%ed%a0%80", "/accounts/1#f",
    "/accounts/%23f%2e%2e%2f", "/accounts/\xe9", "/accounts/%c3%a9", "accounts/1", "*", "",
]
UNKNOWN_PATHS = ["/accounts/1/", "/accounts/", "/accounts", "/Accounts/1", "/ACCOUNTS/1", "/accounts/1/2", "/", "/accounts./1"]


@pytest.mark.parametrize("target", PLAIN_PATHS)
def test_control_an_ordinary_path_is_allowed(world, ask, target):
    seen = allowed(ask(target, token=world.issuer.token()))
    claims = verified(seen.one("x-placet-decision"), world.placet.jwks())[1]
    assert claims["htu"] == f"http://{HOST}/accounts/{PLAIN_PATHS[target]}"


@pytest.mark.parametrize("target", BAD_PATHS)
def test_an_ambiguous_path_is_refused(world, ask, target):
    # Envoy itself answers some with 400 or 404; none may reach the application.
    refused(ask(target, token=world.issuer.token()), 400, 404)
    refused(ask(target), 400, 401, 404)


@pytest.mark.parametrize("target", UNKNOWN_PATHS)
def test_a_path_is_not_trimmed_or_folded(world, ask, target):
    refused(ask(target, token=world.issuer.token()), 403)


def test_a_target_in_absolute_form_is_its_path(world, ask):
    seen = allowed(ask(f"http://{HOST}/accounts/1", token=world.issuer.token()))
    assert verified(seen.one("x-placet-decision"), world.placet.jwks())[1]["htu"] == f"http://{HOST}/accounts/1"
    refused(ask(f"http://{HOST}/accounts/../accounts/1", token=world.issuer.token()), 400)


def test_connect_without_a_path_is_refused(world):
    answer = send(world.ports["raw"], f"{HOST}:443", [bearer(world.issuer.token())], method="CONNECT")
    assert answer.status in (400, 403, 404)
    assert world.echo.take() == []


@pytest.mark.parametrize("method", ["get", "Get", "GETX", "TRACE", "PURGE"])
def test_another_method_is_another_request(world, ask, method):
    refused(ask(token=world.issuer.token(), method=method), 400, 403)


# --- hosts (row 5)


@pytest.mark.parametrize("host", ["web.example.com", "WEB.Example.COM", "web.example.com:8443", "web.example.com."])
def test_one_host_is_one_scope_however_it_is_written(world, ask, host):
    cookie = [("cookie", f"session={world.issuer.token()}")]
    seen = allowed(ask(headers=cookie, host=host))
    assert verified(seen.one("x-placet-decision"), world.placet.jwks("web"), "web-api")[1]["client_id"] == "web"


@pytest.mark.parametrize("host", ["web.example.com.evil.test", "evil.test#web.example.com", "web.example.com@evil.test", "xweb.example.com", "[::1]", "127.0.0.1"])
def test_a_host_that_only_looks_like_the_scopes_is_another(world, ask, host):
    cookie = [("cookie", f"session={world.issuer.token()}")]
    refused(ask(headers=cookie, host=host), 400, 401, 403)


# --- the query (row 6)


@pytest.mark.parametrize("query", ["a=1&a=2", "a=1;a=2", "a=%26b", "?a?b", "a=%", "a=%00", "=", "&&", "a" * 8000, "\\..\\"])
def test_no_query_changes_the_path(world, ask, query):
    seen = allowed(ask(f"/accounts/1?{query}", token=world.issuer.token()))
    assert verified(seen.one("x-placet-decision"), world.placet.jwks())[1]["htu"] == f"http://{HOST}/accounts/1"
    refused(ask(f"/accounts/secret?{query}", token=world.issuer.token()), 403)


# --- bytes that are not text (row 8) and many of them (row 9)


def test_bytes_that_are_not_utf8_change_no_decision(world, ask):
    strange = [("x-name", b"\xff\xfe"), ("user-agent", b"caf\xe9"), ("x-nul-like", b"\x80\x81")]
    allowed(ask(token=world.issuer.token(), headers=strange))
    refused(ask("/accounts/secret", token=world.issuer.token(), headers=strange), 403)
    refused(ask(headers=strange), 401)


def test_a_credential_that_is_not_utf8_is_refused(world, ask):
    good = world.issuer.token().encode()
    refused(ask(headers=[("authorization", b"Bearer " + good + b"\xff")]), 401)
    refused(ask(headers=[("authorization", b"Bearer \xff\xfe")]), 401)
    refused(ask(headers=[("cookie", b"session=" + good + b"\xff")], host="web.example.com"), 401)


def test_many_headers_change_no_decision(world, ask):
    many = [(f"x-{index}", "v") for index in range(80)]
    allowed(ask(token=world.issuer.token(), headers=many))
    refused(ask(headers=many), 401)


# --- tokens (row 10)


def rsa_public_pem(issuer):
    return issuer.keys["idp-1"].export_to_pem()


def with_header(issuer, **changes):
    return issuer.token(header=changes)


def with_payload(issuer, text):
    """Signs exactly this text, with TIMES replaced by times that hold."""
    now = int(time.time())
    base = f'"iss":"{issuer.url}","sub":"alice","aud":"orders","iat":{now},"groups":["readers"]'
    text = text.replace("BASE", base).replace("EXP", str(now + 600))
    return sign(issuer.key, issuer.header(), text.encode())


def with_raw_header(issuer, text):
    return sign(issuer.key, text.replace("KID", issuer.current).encode(), issuer.claims())


def unsigned(issuer, algorithm):
    return f"{b64({'alg': algorithm, 'typ': 'JWT', 'kid': issuer.current})}.{b64(issuer.claims())}."


def all_zero(issuer, length=64):
    head = f"{b64(issuer.header())}.{b64(issuer.claims())}"
    return f"{head}.{b64(bytes(length))}"


def with_embedded_key(issuer, **extra):
    mine = new_key("ES256", issuer.current)
    return sign(mine, {**issuer.header(), "jwk": mine.export_public(as_dict=True), **extra}, issuer.claims())


TOKENS = {
    "alg-none": lambda i: unsigned(i, "none"),
    "alg-NONE": lambda i: unsigned(i, "NONE"),
    "alg-nOnE-with-signature": lambda i: unsigned(i, "nOnE") + "c2ln",
    "alg-empty": lambda i: unsigned(i, ""),
    "alg-missing": lambda i: with_header(i, alg=None),
    "alg-a-list": lambda i: with_header(i, alg=["ES256"]),
    "alg-unknown": lambda i: with_header(i, alg="XS256"),
    "alg-of-another-key": lambda i: with_header(i, alg="ES384"),
    "alg-lower-case": lambda i: with_header(i, alg="es256"),
    "kid-of-another-key": lambda i: with_header(i, kid="idp-1"),
    "hs256-with-the-rsa-public-key": lambda i: sign_with("HS256", rsa_public_pem(i), i.header(alg="HS256", kid="idp-1"), i.claims()),
    "hs256-with-an-empty-key": lambda i: sign_with("HS256", b"", i.header(alg="HS256"), i.claims()),
    "kid-unknown": lambda i: with_header(i, kid="nobody"),
    "kid-a-path": lambda i: with_header(i, kid="../../../../dev/null"),
    "kid-sql": lambda i: with_header(i, kid="x' OR '1'='1"),
    "kid-nul": lambda i: with_header(i, kid="idp-2\0"),
    "kid-a-number": lambda i: with_header(i, kid=2),
    "kid-null": lambda i: with_raw_header(i, '{"alg":"ES256","kid":null}'),
    "kid-huge": lambda i: with_header(i, kid="k" * 10_000),
    "jwk-embedded": lambda i: with_embedded_key(i),
    "jwk-embedded-without-kid": lambda i: sign(k := new_key("ES256", "k"), {"alg": "ES256", "jwk": k.export_public(as_dict=True)}, i.claims()),
    "jku": lambda i: with_embedded_key(i, jku="http://127.0.0.1:1/jwks.json"),
    "x5u": lambda i: with_embedded_key(i, x5u="http://127.0.0.1:1/cert.pem"),
    "crit-unknown": lambda i: with_header(i, crit=["exp"]),
    "crit-empty": lambda i: with_header(i, crit=[]),
    "crit-unknown-extension": lambda i: with_header(i, crit=["x"], x=1),
    "b64-false": lambda i: with_header(i, crit=["b64"], b64=False),
    "typ-of-something-else": lambda i: with_header(i, typ="logout+jwt"),
    "header-duplicate-alg": lambda i: with_raw_header(i, '{"alg":"none","kid":"KID","alg":"ES256"}'),
    "header-duplicate-kid": lambda i: with_raw_header(i, '{"alg":"ES256","kid":"nobody","kid":"KID"}'),
    "header-an-array": lambda i: with_raw_header(i, '["ES256"]'),
    "header-not-json": lambda i: with_raw_header(i, "alg=ES256"),
    "payload-duplicate-sub": lambda i: with_payload(i, '{BASE,"exp":EXP,"sub":"root"}'),
    "payload-duplicate-exp": lambda i: with_payload(i, '{BASE,"exp":1,"exp":EXP}'),
    "payload-duplicate-escaped": lambda i: with_payload(i, '{BASE,"exp":EXP,"\\u0073ub":"root"}'),
    "payload-an-array": lambda i: with_payload(i, "[]"),
    "payload-not-utf8": lambda i: sign(i.key, i.header(), b'{"sub":"\xff"}'),
    "payload-empty": lambda i: with_payload(i, ""),
    "exp-a-string": lambda i: with_payload(i, '{BASE,"exp":"EXP"}'),
    "exp-missing": lambda i: with_payload(i, "{BASE}"),
    "exp-null": lambda i: with_payload(i, '{BASE,"exp":null}'),
    "exp-too-large-for-a-float": lambda i: with_payload(i, '{BASE,"exp":1e400}'),
    "exp-negative": lambda i: with_payload(i, '{BASE,"exp":-1}'),
    "exp-a-list": lambda i: with_payload(i, '{BASE,"exp":[EXP]}'),
    "exp-true": lambda i: with_payload(i, '{BASE,"exp":true}'),
    "nbf-a-string": lambda i: with_payload(i, '{BASE,"exp":EXP,"nbf":"0"}'),
    "nbf-far-away": lambda i: with_payload(i, '{BASE,"exp":EXP,"nbf":1e400}'),
    "iat-in-the-future": lambda i: i.token(iat=int(time.time()) + 300),
    "sub-missing": lambda i: i.token(sub=None),
    "sub-a-number": lambda i: i.token(sub=7),
    "aud-a-number": lambda i: i.token(aud=7),
    "aud-a-list-of-others": lambda i: i.token(aud=["billing", "Orders"]),
    "aud-an-object": lambda i: i.token(aud={"orders": True}),
    "iss-with-a-slash": lambda i: i.token(iss=i.url + "/"),
    "iss-a-list": lambda i: i.token(iss=[i.url]),
    "cnf": lambda i: i.token(cnf={"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
    "cnf-of-a-certificate": lambda i: i.token(cnf={"x5t#S256": "A" * 43}),
    "signature-all-zero": all_zero,
    "signature-empty": lambda i: all_zero(i, 0),
    "signature-short": lambda i: all_zero(i, 63),
    "signature-der": lambda i: i.token().rsplit(".", 1)[0] + "." + b64(bytes.fromhex("3006020100020100")),
    "signature-padded": lambda i: i.token() + "==",
    "signature-doubled": lambda i: (t := i.token()) + t.rsplit(".", 1)[1],
    "two-parts": lambda i: i.token().rsplit(".", 1)[0],
    "four-parts": lambda i: i.token() + ".e30",
    "five-parts-jwe": lambda i: ".".join([b64({"alg": "dir", "enc": "A256GCM"}), "", "AAAA", "AAAA", "AAAA"]),
    "json-serialisation": lambda i: json.dumps(dict(zip(("protected", "payload", "signature"), i.token().split(".")))),
    "standard-base64": lambda i: (t := i.token())[:5] + "+" + t[6:],
    "spaces-inside": lambda i: i.token().replace(".", " .", 1),
    "huge": lambda i: i.token(padding="x" * 40_000),
}
GOOD_TOKENS = {
    "plain": lambda i: i.token(),
    "rsa": lambda i: sign(i.keys["idp-1"], {"alg": "RS256", "kid": "idp-1"}, i.claims()),
    "at+jwt": lambda i: with_header(i, typ="at+jwt"),
    "application/at+jwt": lambda i: with_header(i, typ="application/at+jwt"),
    "no-typ": lambda i: with_header(i, typ=None),
    "exp-with-a-fraction": lambda i: with_payload(i, '{BASE,"exp":EXP.5}'),
    "aud-a-list": lambda i: i.token(aud=["billing", "orders"]),
    "nested-claims": lambda i: i.token(a={"b": [{"c": None}, 1.5, "x" * 500]}),
}


@pytest.mark.parametrize("make", TOKENS.values(), ids=TOKENS.keys())
def test_a_crafted_token_is_refused(world, ask, make):
    refused(ask(token=make(world.issuer)), 401)


@pytest.mark.parametrize("make", GOOD_TOKENS.values(), ids=GOOD_TOKENS.keys())
def test_control_an_honest_token_is_accepted(world, ask, make):
    allowed(ask(token=make(world.issuer)))


def test_a_decision_token_is_no_credential(world, ask):
    seen = allowed(ask(token=world.issuer.token()))
    refused(ask(token=seen.one("x-placet-decision")), 401)
