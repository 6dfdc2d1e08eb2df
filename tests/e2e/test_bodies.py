"""Bodies (row 7): policy reads no body yet, so none changes a decision; that one was cut off is there to be read.

Envoy sets `x-envoy-auth-partial-body` itself and overwrites a client's own.
"""

import base64

import pytest

from harness.authz import call, check_request, denied_status, is_denial
from harness.placet import POLICY, Placet, new_private_key, pem, scope

WHOLE_BODIES_ONLY = POLICY + """
forbid (principal, action, resource)
when { context.http.headers has "x-envoy-auth-partial-body" && context.http.headers["x-envoy-auth-partial-body"] != "false" };
"""

BODIES = {
    "text": {"body": '{"account": "7", "admin": true}', "size": 31},
    "bytes": {"raw_body": base64.b64encode(b"\x1f\x8b\x08\x00 not really gzip").decode(), "size": 20},
    "cut-off": {"body": '{"account": "7", "ad', "size": 4096},
    "size-lies": {"body": "{}", "size": -1},
}


@pytest.fixture(scope="module")
def placet(directory, issuer):
    with Placet(directory / "p", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}, policy=WHOLE_BODIES_ONLY) as running:
        yield running


def ask(placet, issuer, path, body, **headers):
    headers = {"authorization": f"Bearer {issuer.token()}", "content-type": "application/json", **headers}
    return call(placet, check_request(path, headers=headers, **body))


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_no_body_changes_a_decision(placet, issuer, body):
    assert not is_denial(ask(placet, issuer, "/accounts/1", body))
    assert denied_status(ask(placet, issuer, "/accounts/secret", body)) == 403


@pytest.mark.parametrize("flag", ["true", "true,false", "false,true", "TRUE"])
def test_a_policy_can_refuse_a_body_that_was_cut_off(placet, issuer, flag):
    assert denied_status(ask(placet, issuer, "/accounts/1", BODIES["cut-off"], **{"x-envoy-auth-partial-body": flag})) == 403


def test_control_a_whole_body_passes(placet, issuer):
    assert not is_denial(ask(placet, issuer, "/accounts/1", BODIES["text"], **{"x-envoy-auth-partial-body": "false"}))
