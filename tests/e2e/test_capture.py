"""`serve --capture` and `placet check`: what Envoy asks is seen without credentials, and decided alike offline."""

import json
import threading

import pytest
import requests

from harness.client import bearer, get, send
from harness.envoy import edge
from harness.placet import Placet, new_private_key, pem, run, scope

POLICY = """
@id("read") permit (principal in Group::"readers", action == Action::"read", resource is Account);
@id("channel") forbid (principal, action, resource) when { context.http.headers has "x-channel" && context.http.headers["x-channel"] == "fax" };
"""


@pytest.fixture(scope="module")
def chain(directory, issuer, echo):
    placet = Placet(directory / "p", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}, policy=POLICY)
    placet.argv.append("--capture")
    with placet, edge(directory, echo.port, str(placet.socket)) as envoy:
        yield placet, envoy


class Capture(threading.Thread):
    """Reads what is asked while it is in force."""

    def __init__(self, placet, **query):
        super().__init__(daemon=True)
        self.response = requests.get(f"http://127.0.0.1:{placet.admin}/capture", params=query, stream=True, timeout=20)
        self.lines = []

    def run(self):
        self.lines = [line.decode() for line in self.response.iter_lines()]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.join(20)


def explained(placet, lines, *more):
    """What `placet check` says of captured lines: a decision record each."""
    result = run("check", "--config", placet.settings_file, "--request", "-", "--output", "json", *more, stdin="\n".join(lines))
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_what_is_captured_holds_no_credential_and_is_decided_alike(chain, issuer):
    placet, envoy = chain
    token = issuer.token()
    secrets = [token.rsplit(".", 1)[1], "c00kie", "k3y-of-somebody", "0paque", "hidden-in-the-query", "in-the-body"]
    with Capture(placet, count=4) as capture:
        more = [("cookie", "session=c00kie"), ("x-api-key", "k3y-of-somebody")]
        assert send(envoy.port, "/accounts/1?code=hidden-in-the-query", [bearer(token), *more]).status == 200
        assert send(envoy.port, "/accounts/1", [bearer(token), ("x-channel", "fax")]).status == 403
        assert send(envoy.port, "/accounts/1", [("authorization", "Bearer 0paque")], method="GET", body=b"in-the-body").status == 401
        assert send(envoy.port, "/healthz").status == 200
    assert len(capture.lines) == 4
    for secret in secrets:
        assert secret not in "".join(capture.lines), secret
    online = [(each["outcome"], each["reason"], each.get("policy")) for each in placet.decisions()[-4:]]
    offline = [(each["outcome"], each["reason"], each.get("policy")) for each in explained(placet, capture.lines)]
    assert offline == online and [each[0] for each in offline] == ["allow", "deny", "deny", "bypass"]
    [first, *_] = explained(placet, capture.lines)
    assert first["principal"]["id"] == "alice"


def test_what_comes_from_the_cache_is_captured_too(chain, issuer):
    placet, envoy = chain
    token = issuer.token()
    ask = lambda: send(envoy.port, "/accounts/2", [bearer(token)]).status
    assert ask() == 200
    with Capture(placet, count=1) as capture:
        assert ask() == 200
    [page] = [json.loads(line) for line in capture.lines]
    assert page["attributes"]["request"]["http"]["path"] == "/accounts/2"


def test_it_ends_with_its_time_and_only_so_many_read(chain, issuer):
    placet, _ = chain
    with Capture(placet, count=5, seconds=1) as capture:
        pass
    assert capture.lines == [] and not capture.is_alive()
    readers = [requests.get(f"http://127.0.0.1:{placet.admin}/capture?seconds=30", stream=True, timeout=20) for _ in range(4)]
    assert [reader.status_code for reader in readers] == [200] * 4
    assert get(placet.admin, "/capture").status == 429
    for reader in readers:
        reader.close()
    # Who is gone is seen when there is something to read.
    envoy_asks = lambda: get(placet.admin, "/capture?seconds=1").status
    for query in ("count=0", "count=1001", "seconds=301", "count=many", "size=1"):
        assert get(placet.admin, f"/capture?{query}").status == 400, query
    placet.wait_until(lambda: envoy_asks() == 200, "there is room again")


def test_nothing_is_captured_unless_it_was_started_so(directory, issuer):
    with Placet(directory / "off", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}) as placet:
        answer = get(placet.admin, "/capture")
        assert answer.status == 404 and b"placet serve --capture" in answer.body
        assert "--capture" not in placet.stderr
