"""The emergency deny list: who is on it is refused within a second, whatever was decided before, on every edge."""

import base64
import hashlib
import json
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import pytest
import requests
import yaml

from harness import authz, envoy
from harness.authz import call, check_request, denied_status
from harness.client import bearer, get, send
from harness.placet import REMOVED, Placet, new_private_key, pem, run, scope

SECRET = "a secret that nobody guesses"
DIGEST = "sha256:" + hashlib.sha256(SECRET.encode()).hexdigest() + "\n"
API = {"authzen": True, "check": True}


@pytest.fixture
def placet(directory, issuer, request):
    """With answers that are given again, and nobody on the list."""
    own = directory / re.sub(r"\W+", "-", request.node.name)[:30]
    keys = {"orders": pem(new_private_key("ES256")), "orders.callers": DIGEST}
    made = Placet(own, [scope(issuer, api=API)], keys=keys, reuse={"enabled": True}, denyList={"file": "deny.yaml"})
    deny(made)
    with made as running:
        yield running


def deny(placet, **lists):
    """Renames a new list into place."""
    replace(placet, yaml.safe_dump(lists))


def replace(placet, text):
    beside = placet.directory / "deny.new"
    beside.write_text(text)
    beside.rename(placet.directory / "deny.yaml")


def status(placet, token, path="/accounts/1"):
    response = call(placet, check_request(path, headers={"authorization": f"Bearer {token}"}))
    return denied_status(response) if authz.is_denial(response) else 0


def becomes(placet, token, expected):
    """How long until it is so, in seconds."""
    start = time.monotonic()
    placet.wait_until(lambda: status(placet, token) == expected, f"the answer is {expected}")
    return time.monotonic() - start


def page(placet):
    return placet.readiness()[1]["denyList"]


def test_who_is_listed_is_refused_within_a_second_though_the_answer_was_kept(placet, issuer):
    mallory, alice = issuer.token(sub="mallory"), issuer.token()
    for _ in range(2):
        assert (status(placet, mallory), status(placet, alice)) == (0, 0)
    assert placet.decisions()[-1]["reused"]
    refused, allowed = [], []
    for _ in range(5):
        deny(placet, subjects=[{"subject": "mallory", "reason": "ticket 42"}])
        refused.append(becomes(placet, mallory, 403))
        record = placet.decisions()[-1]
        assert (record["outcome"], record["reason"], record["principal"]["id"]) == ("deny", "deny_listed", "mallory")
        assert record["detail"] == "the subject is on the deny list: ticket 42"
        assert status(placet, alice) == 0
        assert status(placet, mallory, "/nowhere") == 403 and placet.decisions()[-1]["reason"] == "deny_listed"
        assert page(placet) == {"entries": 1, "error": None}
        assert placet.metrics()["placet_deny_list_entries"] == 1
        deny(placet)
        allowed.append(becomes(placet, mallory, 0))
    assert max(median(refused), median(allowed)) < 1, (refused, allowed)


def test_behind_envoy_the_application_sees_nothing_of_who_is_listed(placet, directory, issuer, echo):
    mallory = issuer.token(sub="mallory")
    with envoy.edge(directory, echo.port, placet.socket) as edge:
        assert send(edge.port, "/accounts/1", [bearer(mallory)]).status == 200
        deny(placet, subjects=[{"subject": "mallory"}])
        placet.wait_until(lambda: send(edge.port, "/accounts/1", [bearer(mallory)]).status == 403, "the edge refuses")
        echo.take()
        for _ in range(20):
            assert send(edge.port, "/accounts/1", [bearer(mallory)]).status == 403
        assert echo.take() == []
        assert send(edge.port, "/healthz", [bearer(mallory)]).status == 200, "a bypass asks nobody who comes"


def test_tokens_clients_issuers_and_ends(placet, issuer):
    one, other = issuer.token(jti="one", client_id="app"), issuer.token(jti="other", azp="app")
    assert (status(placet, one), status(placet, other)) == (0, 0)
    deny(placet, jtis=[{"jti": "one"}])
    becomes(placet, one, 403)
    assert status(placet, other) == 0
    deny(placet, clientIds=[{"clientId": "app", "issuer": issuer.url}])
    becomes(placet, other, 403)
    assert status(placet, one) == 403
    deny(placet, clientIds=[{"clientId": "app", "issuer": "https://elsewhere.example"}])
    becomes(placet, one, 0)
    until = time.time() + 8
    deny(placet, subjects=[{"subject": "alice", "until": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until + 1))}])
    becomes(placet, one, 403)
    becomes(placet, one, 0)
    assert time.time() > until, "it ended by itself, and not before"


@pytest.mark.parametrize("spoil", ["malformed", "gone", "empty", "a directory"])
def test_a_bad_list_keeps_the_last_good_one_and_says_so(placet, issuer, spoil):
    mallory, alice = issuer.token(sub="mallory"), issuer.token()
    deny(placet, subjects=[{"subject": "mallory"}])
    becomes(placet, mallory, 403)
    file = placet.directory / "deny.yaml"
    if spoil == "malformed":
        replace(placet, "subjects: [{subject: alice, until: soon}]")
    elif spoil == "empty":
        replace(placet, "")
    else:
        file.unlink()
        if spoil == "a directory":
            file.mkdir()
    placet.wait_until(lambda: page(placet)["error"], "/readyz says so")
    assert placet.readiness()[0] == 200 and page(placet)["entries"] == 1
    assert placet.metrics()["placet_deny_list_failures_total"] == 1
    assert "the deny list stays as it was" in placet.stderr
    assert (status(placet, mallory), status(placet, alice)) == (403, 0)
    # Settings that are read again meanwhile do not forget it either.
    (placet.directory / "orders.cedar").write_text("permit (principal, action, resource);")
    placet.signal(signal.SIGHUP)
    placet.wait_until(lambda: placet.metrics()["placet_reloads_total"] == 1, "the settings are read again")
    assert (status(placet, mallory), status(placet, alice)) == (403, 0)
    if file.is_dir():
        file.rmdir()
    deny(placet, subjects=[{"subject": "alice"}])
    becomes(placet, alice, 403)
    assert (status(placet, mallory), page(placet)) == (0, {"entries": 1, "error": None})


def test_a_list_is_written_in_place_too(placet, issuer):
    """As by an editor or a shell: cut to nothing, then written bit by bit."""
    mallory, trent = issuer.token(sub="mallory"), issuer.token(sub="trent")
    deny(placet, subjects=[{"subject": "mallory"}, {"subject": "trent"}])
    becomes(placet, trent, 403)
    seen, ended = [], threading.Event()

    def look():
        while not ended.is_set():
            seen.append((status(placet, mallory), status(placet, trent)))

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            placet.wait_until(lambda: seen, "somebody looks all the while")
            with (placet.directory / "deny.yaml").open("w") as file:
                for line in ("subjects:\n", "- subject: mallory\n", "- subject: trent\n", "- subject: alice\n"):
                    file.write(line)
                    file.flush()
            becomes(placet, issuer.token(), 403)
        finally:
            ended.set()
        looking.result()
    assert set(seen) == {(403, 403)}
    assert (status(placet, mallory), status(placet, trent)) == (403, 403)


def test_no_list_at_the_start_is_an_error(directory, issuer):
    for name, text, said in (("absent", None, "can't be read"), ("bad", "subjects: 1", "is no map of `subjects`")):
        made = Placet(directory / f"deny-{name}", [scope(issuer)], denyList={"file": "deny.yaml"})
        if text:
            (made.directory / "deny.yaml").write_text(text)
        for command in ("validate", "serve"):
            done = run(command, "--config", made.settings_file)
            assert done.returncode == 2 and "denyList.file" in done.stderr and said in done.stderr, done


def test_the_other_edges_refuse_the_same(placet, issuer):
    def evaluation(subject, properties=None):
        body = {"subject": {"type": "User", "id": subject, "properties": properties or {}},
                "action": {"name": "read"}, "resource": {"type": "Account", "id": "1"}}
        url = f"http://127.0.0.1:{placet.http}/access/v1/evaluation"
        return requests.post(url, json=body, auth=("orders", SECRET), timeout=10).json()

    readers = {"groups": ["readers"]}

    def over_http(token):
        caller = base64.b64encode(f"orders:{SECRET}".encode()).decode()
        return send(placet.http, "/check/accounts/1", [bearer(token), ("x-placet-caller", f"Basic {caller}")]).status

    mallory, alice = issuer.token(sub="mallory"), issuer.token()
    placet.wait_until(lambda: over_http(mallory) == 200, "the callers are known")
    assert evaluation("mallory", readers)["decision"] is True
    deny(placet, subjects=[{"subject": "mallory", "issuer": issuer.url}], jtis=[{"jti": "t1"}])
    becomes(placet, mallory, 403)
    assert (over_http(mallory), over_http(alice)) == (403, 200)
    refused = evaluation("mallory", readers)
    assert (refused["decision"], refused["context"]["reason"]) == (False, "deny_listed")
    assert evaluation("alice", readers)["decision"] is True
    assert evaluation("alice", {**readers, "jti": "t1"})["context"]["reason"] == "deny_listed"
    assert get(placet.admin, "/livez").status == 200


def test_a_subject_that_only_the_policy_names_is_looked_up_too(directory, issuer):
    """As where an anonymous scope leaves it to its policy who asks."""
    rego = """package envoy.authz
import rego.v1
allow := {"allowed": true, "subject": input.attributes.request.http.headers["x-who"]}
"""
    made = scope(issuer, identity={"jwt": REMOVED, "anonymous": True}, routes=REMOVED, policy={"engine": "rego", "files": ["who.rego"]})
    placet = Placet(directory / "named", [made], keys={"orders": pem(new_private_key("ES256"))}, denyList={"file": "deny.yaml"})
    (placet.directory / "who.rego").write_text(rego)
    deny(placet, subjects=[{"subject": "mallory"}])
    with placet:
        for who, code in (("alice", 0), ("mallory", 7)):
            assert call(placet, check_request("/accounts/1", headers={"x-who": who})).status.code == code
        assert placet.decisions()[-1]["reason"] == "deny_listed"


def test_a_list_of_a_hundred_thousand_is_taken_and_a_longer_one_is_not(placet, issuer):
    mallory = issuer.token(sub="mallory")
    assert status(placet, mallory) == 0
    many = [{"subject": f"somebody-{number}"} for number in range(99_999)]
    replace(placet, json.dumps({"subjects": [*many, {"subject": "mallory"}]}))
    becomes(placet, mallory, 403)
    assert page(placet)["entries"] == 100_000
    replace(placet, json.dumps({"subjects": [*many, *many]}))
    placet.wait_until(lambda: "100000" in str(page(placet)["error"]), "one that is too long is not taken")
