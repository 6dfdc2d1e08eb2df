"""The snippets of deploy/verify accept the decision of a real request, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
import yaml

from harness import envoy
from harness.client import bearer, send
from harness.issuer import b64
from harness.placet import Placet, new_private_key, pem, scope

VERIFY = Path(__file__).parents[2] / "deploy" / "verify"
NAME = "x-placet-decision"
HOST = "orders.example.com"
URL = f"http://{HOST}/accounts/1"


@pytest.fixture(scope="module")
def world(directory, issuer, echo):
    key = new_private_key("ES256")
    with ExitStack() as running:
        placet = running.enter_context(Placet(directory / "p", [scope(issuer)], keys={"orders": pem(key)}))
        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket))
        verifying = running.enter_context(envoy.upstream(directory, echo.port, placet.http, with_snippet(placet.http)))
        echo.take()
        assert send(edge.port, "/accounts/1?of=query", [bearer(issuer.token())], host=HOST).status == 200
        [seen] = echo.take()
        jwks = f"http://127.0.0.1:{placet.http}/scopes/orders/jwks.json"
        yield SimpleNamespace(token=seen.one(NAME), key=key, jwks=jwks, envoy=verifying, echo=echo, directory=directory)


def with_snippet(placet_http):
    """The shipped upstream, with the filters of the snippet in place of its own."""

    def change(config):
        manager = envoy.connection_manager(config["static_resources"]["listeners"][0])
        text = (VERIFY / "envoy" / "http_filters.yaml").read_text().replace("127.0.0.1:9192", f"127.0.0.1:{placet_http}")
        manager["http_filters"] = [*yaml.safe_load(text), manager["http_filters"][-1]]
        return config

    return change


def by_envoy(world, token, method, url):
    """The claims, of the token that the application got; None if it got nothing."""
    target = url.removeprefix(f"http://{HOST}")
    answer = send(world.envoy.port, target, [(NAME, token)] if token else [], method=method, host=HOST)
    seen = world.echo.take()
    assert (answer.status == 200) == bool(seen) and answer.status in (200, 401, 403)
    return jwt.decode(seen[0].one(NAME), options={"verify_signature": False}) if seen else None


def by_command(world, argv, token, method, url):
    argv = [*argv, world.jwks, "orders-api", "orders", method, url]
    done = subprocess.run(list(map(str, argv)), input=token or "", capture_output=True, text=True, timeout=30)
    if done.returncode == 0:
        return json.loads(done.stdout)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("refused: "), done.stderr
    return None


def by_python(world, *request):
    return by_command(world, [sys.executable, VERIFY / "python" / "verify.py"], *request)


def by_node(world, *request):
    jose = os.environ.get("PLACET_TEST_JOSE")
    if not jose or not shutil.which("node"):
        pytest.skip("no Node, or npm could not install jose: deploy/verify/node is not run")
    place = world.directory / "node"
    if not place.exists():
        place.mkdir()
        shutil.copy(VERIFY / "node" / "verify.mjs", place)
        (place / "node_modules").symlink_to(Path(jose).resolve().parents[3])
    return by_command(world, ["node", place / "verify.mjs"], *request)


@pytest.fixture(params=[by_envoy, by_python, by_node], ids=["envoy", "python", "node"])
def verify(request, world):
    return lambda *asked: request.param(world, *asked)


def resigned(world, key=None, algorithm="ES256", **changes):
    """The decision with other claims, signed by its own key unless another is given; None takes a claim away."""
    header = jwt.get_unverified_header(world.token)
    claims = {**jwt.decode(world.token, options={"verify_signature": False}), **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key or world.key, algorithm, headers={"kid": header["kid"]})


def test_the_decision_of_this_request_is_accepted(world, verify):
    claims = verify(world.token, "GET", URL)
    assert claims["sub"] and claims["entitlements"] == "Account:1:read"
    assert verify(world.token, "GET", f"{URL}?another=query") == claims
    assert verify(resigned(world), "GET", URL) == claims, "control: what is signed again with no change is accepted"


PAST = int(time.time()) - 3600
CHANGES = {
    "another-audience": {"aud": "ledger-api"},
    "no-audience": {"aud": None},
    "another-issuer": {"iss": "https://idp.example.com/"},
    "another-client": {"client_id": "ledger"},
    "no-client": {"client_id": None},
    "another-method": {"htm": "DELETE"},
    "no-method": {"htm": None},
    "another-url": {"htu": "http://orders.example.com/accounts/2"},
    "another-host": {"htu": "http://ledger.example.com/accounts/1"},
    "no-url": {"htu": None},
    "expired": {"iat": PAST, "nbf": PAST, "exp": PAST + 60},
    "no-expiry": {"exp": None},
    "not-yet": {"nbf": PAST + 7200, "exp": PAST + 7300},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_decision_for_something_else_is_refused(world, verify, change):
    assert verify(resigned(world, **CHANGES[change]), "GET", URL) is None


def test_another_request_with_this_decision_is_refused(world, verify):
    assert verify(world.token, "DELETE", URL) is None
    assert verify(world.token, "GET", f"http://{HOST}/accounts/2") is None


def test_a_token_that_is_not_signed_by_placet_is_refused(world, verify):
    header, payload, signature = world.token.split(".")
    forged = [
        resigned(world, key=new_private_key("ES256")),
        resigned(world, key="a shared secret of thirty-two bytes", algorithm="HS256"),
        f"{b64(json.dumps({'alg': 'none'}).encode())}.{payload}.",
        f"{header}.{payload}.",
        f"{header}.{payload}.{signature[:-8]}AAAAAAAA",
        "FORGED",
        "",
    ]
    for token in forged:
        assert verify(token, "GET", URL) is None, token
