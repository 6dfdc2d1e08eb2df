"""What an operator sees and does: probes, metrics, the decision log, reloads, shutdown."""

import json
import re
import signal
import threading
import time
from contextlib import ExitStack

import pytest

from harness import envoy
from harness.authz import call, check_request, denied_status
from harness.client import HOST, bearer, get, send
from harness.issuer import Issuer
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import wait_until
from harness.verify import verified


@pytest.fixture
def placet(directory, issuer, request):
    """A Placet of the test's own, since most of these tests change or end it."""
    name = re.sub(r"\W+", "-", request.node.name)[:40]
    with Placet(directory / name, [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}) as running:
        yield running


def good(issuer, **claims):
    return {"authorization": f"Bearer {issuer.token(**claims)}"}


def last_decision(placet, count=1):
    return wait_until(lambda: len(found := placet.decisions()) >= count and found, f"{count} decisions in the log")[-1]


def test_the_probes_answer(placet):
    live, ready = get(placet.admin, "/livez"), get(placet.admin, "/readyz")
    assert (live.status, ready.status) == (200, 200)
    assert ready.header("content-type").startswith("application/json")
    ready.json()
    assert get(placet.admin, "/nowhere").status == 404
    assert send(placet.admin, "/readyz", method="POST").status == 405


def test_the_metrics_count_decisions(placet, issuer):
    for path, headers in (("/accounts/1", good(issuer)), ("/accounts/1", good(issuer)), ("/accounts/secret", good(issuer)), ("/accounts/1", {}), ("/healthz", {})):
        call(placet, check_request(path, headers=headers))
    text = get(placet.admin, "/metrics")
    assert text.status == 200
    assert text.header("content-type").startswith(("text/plain", "application/openmetrics-text"))
    samples = placet.metrics()

    def decisions(outcome, reason):
        return samples.get(f'placet_decisions_total{{scope="orders",outcome="{outcome}",reason="{reason}"}}')

    assert decisions("deny", "forbidden") == 1
    assert decisions("deny", "no_credentials") == 1
    allowed = {name: value for name, value in samples.items() if name.startswith("placet_decisions_total") and 'outcome="allow"' in name}
    bypassed = {name: value for name, value in samples.items() if name.startswith("placet_decisions_total") and 'outcome="bypass"' in name}
    assert (sum(allowed.values()), sum(bypassed.values())) == (2, 1)
    counts = [value for name, value in samples.items() if name.startswith("placet_check_duration_seconds_count")]
    assert sum(counts) == 5
    assert any(name.startswith("placet_check_duration_seconds_bucket") for name in samples)


def test_one_decision_is_one_line_of_json(placet, issuer):
    call(placet, check_request("/accounts/1?card=4111", headers=good(issuer)))
    allowed = last_decision(placet, 1)
    call(placet, check_request("/accounts/secret", headers=good(issuer)))
    denied = last_decision(placet, 2)
    assert (allowed["scope"], allowed["outcome"]) == ("orders", "allow")
    assert (allowed["http"]["method"], allowed["http"]["host"], allowed["http"]["path"]) == ("GET", HOST, "/accounts/1")
    assert allowed["principal"] == {"type": "User", "id": "alice", "issuer": issuer.url}
    assert (denied["outcome"], denied["reason"], denied["status"]) == ("deny", "forbidden", 403)
    assert len(placet.decisions()) == 2


def test_nothing_secret_is_in_any_log_or_page(placet, issuer):
    token = issuer.token(exp=int(time.time()) - 5)
    headers = {"authorization": f"Bearer {token}", "cookie": "session=canary-cookie", "x-note": "canary-header"}
    call(placet, check_request("/accounts/1?q=canary-query", headers=headers))
    response = call(placet, check_request(headers=good(issuer)))
    last_decision(placet, 2)
    minted = response.ok_response.headers[0].header.value
    key = (placet.directory / "keys" / "orders.pem").read_text().splitlines()[1]
    pages = "".join(get(placet.admin, path).body.decode() for path in ("/config", "/metrics", "/readyz"))
    for secret in (token, token.split(".")[2], minted, minted.split(".")[2], key, "canary-"):
        assert secret not in placet.stdout + placet.stderr + pages


def test_a_hostile_path_cannot_break_a_log_line(placet):
    for path in ("/accounts/\n{\"outcome\":\"allow\"}", "/accounts/\x1b[2J", '/accounts/"},"outcome":"allow', "/accounts/\u2028"):
        call(placet, check_request(path))
    last_decision(placet, 4)
    assert [line["outcome"] for line in placet.decisions()] == ["deny"] * 4
    assert "\x1b" not in placet.stdout


def test_the_config_page_shows_the_effective_settings(directory, issuer):
    env = {"STORE_TOKEN": "canary-token"}
    stores = [
        {"id": "files", "type": "file", "default": True, "details": {"directory": "keys"}},
        {"id": "spare", "type": "env", "details": {"prefix": "SPARE_"}},
    ]
    with Placet(directory / "config", [scope(issuer)], stores=stores, keys={"orders": pem(new_private_key("ES256"))}, env=env) as placet:
        page = get(placet.admin, "/config")
        assert page.status == 200
        assert "canary-token" not in page.body.decode()
        assert "x-placet-decision" in page.body.decode(), "defaults are shown"


def test_a_term_signal_drains(directory, issuer):
    """A request in flight, held by a slow issuer's unknown key or a slow client, is answered; then the exit code is 0."""
    with Placet(directory / "term", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}) as placet:
        answers, stop = [], threading.Event()

        def keep_asking():
            while not stop.is_set():
                try:
                    answers.append(call(placet, check_request(headers=good(issuer))).status.code)
                except Exception as error:
                    answers.append(error.code().name)

        askers = [threading.Thread(target=keep_asking) for _ in range(4)]
        for asker in askers:
            asker.start()
        wait_until(lambda: len(answers) > 20, "requests are answered")
        placet.signal(signal.SIGTERM)
        assert placet.wait(10) == 0
        stop.set()
        for asker in askers:
            asker.join()
    assert answers[0] == 0
    assert set(answers) <= {0, "UNAVAILABLE"}, "answered, or refused a connection; never cut off"


def test_an_interrupt_ends_it_as_well(placet):
    placet.signal(signal.SIGINT)
    assert placet.wait(10) == 0


def test_a_reload_takes_new_policies(placet, issuer):
    request = check_request("/accounts/secret", headers=good(issuer))
    assert denied_status(call(placet, request)) == 403
    (placet.directory / "orders.cedar").write_text("permit (principal, action, resource);")
    placet.signal(signal.SIGHUP)
    wait_until(lambda: call(placet, request).status.code == 0, "the new policy decides")


def test_a_reload_takes_new_settings(placet, issuer):
    placet.settings["scopes"][0]["jwtResponse"]["tokenLifetimeSeconds"] = 9
    placet.write(placet.settings)
    placet.signal(signal.SIGHUP)

    def lifetime():
        token = call(placet, check_request(headers=good(issuer))).ok_response.headers[0].header.value
        claims = verified(token, placet.jwks())[1]
        return claims["exp"] - claims["iat"]

    wait_until(lambda: lifetime() == 9, "the new lifetime counts")


@pytest.mark.parametrize("spoil", ["policy", "settings", "settings-gone"])
def test_a_bad_reload_keeps_the_last_good_one(placet, issuer, spoil):
    request = check_request(headers=good(issuer))
    assert call(placet, request).status.code == 0
    if spoil == "policy":
        (placet.directory / "orders.cedar").write_text("permit (principal, action")
    elif spoil == "settings":
        placet.write("version: 1\nscopes: nonsense\n")
    else:
        placet.settings_file.unlink()
    placet.signal(signal.SIGHUP)
    wait_until(lambda: failures(placet) == 1, "the failed reload is counted")
    assert call(placet, request).status.code == 0
    assert denied_status(call(placet, check_request("/accounts/secret", headers=good(issuer)))) == 403
    assert placet.readiness()[0] == 200

    (placet.directory / "orders.cedar").write_text("forbid (principal, action, resource);")
    placet.write(placet.settings)
    placet.signal(signal.SIGHUP)
    wait_until(lambda: call(placet, request).status.code == 7, "a good reload works after a bad one")
    assert failures(placet) == 1


def failures(placet):
    return sum(value for name, value in placet.metrics().items() if name.startswith("placet_reload_failures_total"))


def test_a_stale_socket_is_replaced_at_start(directory, issuer):
    """As after kill -9: the file is there and nobody listens."""
    keys = {"orders": pem(new_private_key("ES256"))}
    with Placet(directory / "stale", [scope(issuer)], keys=keys) as first:
        first.signal(signal.SIGKILL)
        first.wait()
        assert first.socket.exists()
    with Placet(directory / "stale", [scope(issuer)], keys=keys) as second:
        assert call(second, check_request(headers=good(issuer))).status.code == 0


def test_envoy_finds_a_restarted_placet(directory, issuer, echo):
    """Down is 503 and says nothing else; the first request after the restart is allowed."""
    keys = {"orders": pem(new_private_key("ES256"))}
    with ExitStack() as running:
        placet = running.enter_context(Placet(directory / "again", [scope(issuer)], keys=keys))
        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket))

        def ask():
            return send(edge.port, "/accounts/1", [bearer(issuer.token())]).status

        assert ask() == 200
        placet.signal(signal.SIGKILL)
        placet.wait()
        assert ask() == 503
        placet.start()
        assert ask() == 200


# --- issuers that misbehave (what of it shows from outside)


@pytest.fixture
def own_issuer():
    with Issuer() as running:
        yield running


def test_an_issuer_that_is_away_at_start_makes_it_unready(directory, own_issuer):
    own_issuer.down = True
    placet = Placet(directory / "away", [scope(own_issuer)], keys={"orders": pem(new_private_key("ES256"))})
    with placet.start(until_ready=False):
        status, page = placet.wait_until(lambda: (seen := placet.readiness())[0] and seen, "the admin page answers")
        assert status == 503
        assert "orders" in json.dumps(page)
        own_issuer.down = False
        placet.wait_until(lambda: placet.readiness()[0] == 200, "it is ready when the issuer is back")
        assert call(placet, check_request(headers=good(own_issuer))).status.code == 0


def test_keys_known_before_are_used_while_the_issuer_is_down(directory, own_issuer):
    with Placet(directory / "stalekeys", [scope(own_issuer)], keys={"orders": pem(new_private_key("ES256"))}) as placet:
        own_issuer.down = True
        assert call(placet, check_request(headers=good(own_issuer))).status.code == 0


def test_a_rotated_issuer_key_is_fetched_once_and_a_flood_of_unknown_ones_is_not(directory, own_issuer):
    with Placet(directory / "rotated", [scope(own_issuer)], keys={"orders": pem(new_private_key("ES256"))}) as placet:
        assert call(placet, check_request(headers=good(own_issuer))).status.code == 0
        own_issuer.rotate()
        rotated = check_request(headers=good(own_issuer))
        wait_until(lambda: call(placet, rotated).status.code == 0, "the new key is known")
        before = own_issuer.fetches
        for index in range(50):
            headers = {"authorization": f"Bearer {own_issuer.token(header={'kid': f'flood-{index}'})}"}
            assert denied_status(call(placet, check_request(headers=headers))) == 401
        assert own_issuer.fetches - before <= 1


def test_a_redirect_or_a_huge_answer_of_the_issuer_is_not_followed(directory, own_issuer):
    with Placet(directory / "hostile", [scope(own_issuer)], keys={"orders": pem(new_private_key("ES256"))}) as placet:
        own_issuer.rotate()
        own_issuer.padding = 50_000_000
        request = check_request(headers=good(own_issuer))
        for _ in range(3):
            assert denied_status(call(placet, request)) == 401
        assert call(placet, check_request("/healthz")).status.code == 0, "control: it still answers"
