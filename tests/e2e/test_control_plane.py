"""Scopes and policies from a control plane: real sidecars behind real Envoys, `placet-control`, and what reviews tokens."""

import os
import signal
import tempfile
import time
from pathlib import Path

import jwt
import pytest

from harness import authz, envoy
from harness.apiserver import ApiServer
from harness.authz import call, check_request, denied_status
from harness.client import bearer, get, send
from harness.control import ControlPlane, Sidecar
from harness.mtls import Authority
from harness.placet import new_private_key, pem, scope
from harness.process import wait_until

AUDIENCE = {"aud": ["placet-control"]}

# For how many seconds the control plane is away, while sidecars decide.
AWAY = float(os.environ.get("PLACET_TEST_AWAY", "1"))


def only(account):
    return f'permit (principal, action, resource == Account::"{account}");\n'


@pytest.fixture(scope="module")
def authority(directory):
    made = Authority(directory / "authority")
    made.identity("control", ips=["127.0.0.1"])
    made.identity("api", ips=["127.0.0.1"])
    return made


@pytest.fixture(scope="module")
def api(authority):
    with ApiServer(authority.server("api"), "of-the-control-plane") as running:
        yield running


@pytest.fixture
def own():
    """A directory of the test's own, with a short name."""
    with tempfile.TemporaryDirectory(prefix="placet-") as path:
        yield Path(path)


@pytest.fixture
def control(own, authority, api):
    with ControlPlane(own / "control", authority, api) as running:
        yield running


def settings(issuer, **changes):
    return {"scopes": [scope(issuer, **changes)]}


def sidecar(own, control, name="one", namespace="shop", token=None, **kind):
    token = token or control.api.account(namespace, name, **AUDIENCE)
    keys = kind.pop("keys", {"orders": pem(new_private_key("ES256"))})
    return Sidecar(own / name, control, token, keys=keys, **kind)


def ask(placet, issuer, account):
    """The HTTP status that Envoy is told; 0 is an allow."""
    response = call(placet, check_request(f"/accounts/{account}", headers={"authorization": f"Bearer {issuer.token()}"}))
    return denied_status(response) if authz.is_denial(response) else 0


def permits(placet, issuer, account):
    placet.wait_until(lambda: ask(placet, issuer, account) == 0, f"account {account} is permitted")


def test_a_change_reaches_every_sidecar_and_changes_what_envoy_does(own, control, issuer, echo):
    control.publish("shop", settings(issuer), {"orders.cedar": only(1)})
    with sidecar(own, control, "one") as one, sidecar(own, control, "two") as two:
        revisions = {each.follows() for each in (one, two)}
        assert len(revisions) == 1
        for each in (one, two):
            assert get(each.admin, "/config").json()["controlPlane"]["snapshot"] == {"revision": each.following["revision"], "scopes": ["orders"]}
        upstream = envoy.upstream(own, echo.port, one.http)
        with upstream, envoy.edge(own, upstream.port, one.socket) as edge:
            def status(account):
                return send(edge.port, f"/accounts/{account}", [bearer(issuer.token())]).status

            assert (status(1), status(2)) == (200, 403)
            control.publish("shop", settings(issuer), {"orders.cedar": only(2)})
            one.wait_until(lambda: status(2) == 200, "the change reaches Envoy")
            assert status(1) == 403
        permits(two, issuer, 2)
        for each in (one, two):
            samples = each.metrics()
            assert samples[f'placet_control_connected{{address="127.0.0.1:{control.port}"}}'] == 1
            assert samples['placet_control_snapshots_total{outcome="applied"}'] == 2
            assert time.time() - 60 < samples["placet_control_snapshot_timestamp_seconds"] <= time.time()


def test_without_any_snapshot_it_waits_and_refuses(own, control, issuer):
    control.stop()
    with sidecar(own, control).start(until_ready=False) as placet:
        placet.wait_until(lambda: placet.readiness()[0] == 503, "it answers")
        page = placet.readiness()[1]
        assert page["waiting"] == [{"for": ["the control plane: no snapshot ever came"]}]
        placet.wait_until(lambda: "can't connect" in placet.following["problem"], "it says what is wrong")
        assert ask(placet, issuer, 1) == 403
        control.publish("shop", settings(issuer), {"orders.cedar": only(1)})
        control.start()
        permits(placet, issuer, 1)
        placet.wait_until(lambda: placet.readiness()[0] == 200, "it is ready")


@pytest.mark.parametrize("broken", [
    pytest.param((lambda it: {**it, "scopes": [{**it["scopes"][0], "polcy": 1}]}, {}, "snapshot.scopes[0].polcy: unknown key: did you mean `policy`?"), id="settings"),
    pytest.param((lambda it: it, {"orders.cedar": "permit (principal"}, "orders.cedar"), id="policy"),
    pytest.param((lambda it: {**it, "listen": {}}, {}, "snapshot.listen: unknown key"), id="other settings"),
    pytest.param((lambda it: "scopes: [", {}, "is not valid YAML"), id="torn"),
])
def test_what_can_not_be_put_in_force_changes_nothing_and_is_told(own, control, issuer, broken):
    change, files, said = broken
    good = settings(issuer)
    control.publish("shop", good, {"orders.cedar": only(1)})
    with sidecar(own, control) as placet:
        first = placet.follows()
        control.publish("shop", change(good), {"orders.cedar": only(2), **files})
        refused = placet.wait_until(lambda: placet.following["refused"], "it is refused")
        assert said in refused["error"] and refused["revision"] != first
        assert said in placet.readiness()[1]["settings"]["failure"]["error"]
        assert placet.following["revision"] == first and ask(placet, issuer, 1) == 0
        control.wait_until(lambda: "refuses a snapshot" in control.stderr, "the control plane is told")
        [line] = [line for line in control.stderr.splitlines() if "refuses a snapshot" in line][:1]
        assert said.replace('"', '\\"') in line and "one/one-0" in line and refused["revision"] in line
        # A restart begins with what was good.
        placet.stop()
        placet.start()
        assert ask(placet, issuer, 1) == 0
        control.publish("shop", good, {"orders.cedar": only(3)})
        permits(placet, issuer, 3)
        placet.wait_until(lambda: placet.following["refused"] is None, "nothing is wrong any more")


def test_sidecars_outlive_the_control_plane(own, control, issuer):
    control.publish("shop", settings(issuer), {"orders.cedar": only(1)})
    with sidecar(own, control, "one") as one, sidecar(own, control, "two") as two:
        for each in (one, two):
            permits(each, issuer, 1)
        control.signal(signal.SIGKILL)
        control.wait()
        two.signal(signal.SIGKILL)
        two.wait()
        began = time.monotonic()
        two.start()
        assert time.monotonic() - began < 10 and ask(two, issuer, 1) == 0
        one.wait_until(lambda: not one.following["connected"], "it notices")
        until = time.monotonic() + AWAY
        while time.monotonic() < until or ask(one, issuer, 1) != 0:
            assert ask(one, issuer, 1) == ask(two, issuer, 1) == 0 and ask(two, issuer, 2) == 403
            assert one.readiness()[0] == two.readiness()[0] == 200
            time.sleep(0.1)
        assert one.metrics()[f'placet_control_connected{{address="127.0.0.1:{control.port}"}}'] == 0
        control.publish("shop", settings(issuer), {"orders.cedar": only(2)})
        # As the kubelet does, long before the old one has expired.
        for each in (one, two):
            (each.directory / "token").write_text(control.api.account("shop", "renewed", **AUDIENCE))
        control.start()
        for each in (one, two):
            permits(each, issuer, 2)
            assert ask(each, issuer, 1) == 403


def test_a_control_plane_that_can_not_know_sidecars_changes_nothing(own, control, api, issuer):
    control.publish("shop", settings(issuer), {"orders.cedar": only(1)})
    with sidecar(own, control) as placet:
        permits(placet, issuer, 1)
        control.stop()
        api.is_down = True
        try:
            control.start()
            placet.wait_until(lambda: "503" in (placet.following["problem"] or ""), "it is told")
            assert ask(placet, issuer, 1) == 0
        finally:
            api.is_down = False
        placet.wait_until(lambda: placet.following["connected"], "it is known again")


def test_a_token_says_whose_sidecar_it_is_and_no_other_token_will_do(own, control, api, issuer):
    control.publish("shop", settings(issuer), {"orders.cedar": only(1)})
    control.publish("bank", settings(issuer), {"orders.cedar": only(2)})
    with sidecar(own, control, "shop-one") as shop, sidecar(own, control, "bank-one", "bank") as bank:
        permits(shop, issuer, 1)
        permits(bank, issuer, 2)
        assert ask(shop, issuer, 2) == ask(bank, issuer, 1) == 403
    wrong = {
        "audience": api.account("shop", "a", aud=["vault"]),
        "expired": api.account("shop", "a", exp=int(time.time()) - 60, **AUDIENCE),
        "garbage": "no-token-at-all",
        "user": api.account("shop", "a", sub="system:admin", **AUDIENCE),
    }
    for name, token in wrong.items():
        with sidecar(own, control, name, token=token).start(until_ready=False) as placet:
            placet.wait_until(lambda: "Unauthenticated" in (placet.readiness()[1].get("controlPlane", {}).get("problem") or ""), f"{name} is refused")
            assert placet.readiness()[0] == 503 and placet.following["revision"] is None
            assert token not in control.stderr + placet.stderr
    # One of a namespace without scopes learns nothing of others.
    with sidecar(own, control, "empty", "empty").start(until_ready=False) as placet:
        placet.wait_until(lambda: placet.readiness()[1].get("controlPlane", {}).get("revision"), "it is told that there is nothing")
        assert placet.readiness()[1]["waiting"] == [{"for": ["a scope: the control plane has none for us"]}]
        assert ask(placet, issuer, 1) == 403


def test_scopes_that_went_are_denied_but_only_once_they_are_said_to_be_gone(own, control, issuer):
    control.publish("other", settings(issuer), {"orders.cedar": only(1)})
    control.publish("shop", settings(issuer), {"orders.cedar": only(1)})
    with sidecar(own, control) as placet:
        permits(placet, issuer, 1)
        first = placet.following["revision"]
        # That the directory of all namespaces is away says nothing.
        control.namespaces.rename(own / "away")
        control.wait_until(lambda: "namespaces can't be read" in control.stderr, "it is noticed")
        assert ask(placet, issuer, 1) == 0
        (own / "away").rename(control.namespaces)
        (control.namespaces / "shop").rename(own / "gone")
        placet.follows(first)
        assert ask(placet, issuer, 1) == 403
        assert placet.readiness()[0] == 200, "it goes on answering"
        (own / "gone").rename(control.namespaces / "shop")
        permits(placet, issuer, 1)


def test_local_scopes_and_stores_stand_beside_those_of_the_snapshot(own, control, issuer):
    local = scope(issuer, "bills", match={"hosts": ["bills.example.com"]})
    keys = {name: pem(new_private_key("ES256")) for name in ("orders", "bills")}
    wanted = settings(issuer, default=True, jwtSigning={"secretStore": "sent"})
    wanted["secretStores"] = [{"id": "sent", "type": "file", "details": {"directory": str(own / "one" / "keys")}}]
    control.publish("shop", wanted, {"orders.cedar": only(1)})
    with sidecar(own, control, keys=keys, scopes=[local], policy=only(7)) as placet:
        permits(placet, issuer, 1)
        denied = [line["scope"] for line in placet.decisions() if line["outcome"] == "deny"]
        assert "bills" not in denied, "it decided for a scope that was yet to come"
        headers = {"authorization": f"Bearer {issuer.token()}"}
        answer = call(placet, check_request("/accounts/7", headers=headers, host="bills.example.com"))
        assert not authz.is_denial(answer)
        first = placet.following["revision"]
        # One that has the name of a local one is refused, and both are named.
        twin = {"secretStores": [{**wanted["secretStores"][0], "id": "files"}], "scopes": [scope(issuer, default=True, jwtSigning={"secretStore": "files"})]}
        for clash, said in [
            ({**wanted, "scopes": [scope(issuer, "bills")]}, "snapshot.scopes[0].clientId: `bills` is also the clientId of scopes[0]"),
            (twin, "snapshot.secretStores[0].id: `files` is also the id of secretStores[0]"),
        ]:
            control.publish("shop", clash, {})
            placet.wait_until(lambda: said in ((placet.following["refused"] or {}).get("error") or ""), said)
            assert placet.following["revision"] == first
        # What was wrong may have been the local settings.
        placet.settings["secretStores"][0]["id"] = "renamed"
        placet.write(placet.settings)
        placet.signal(signal.SIGHUP)
        placet.follows(first)


def plain_text(file):
    """What a file holds that is there, and no link."""
    return file.read_text() if file.is_file() and not file.is_symlink() else None


@pytest.mark.parametrize("damage", [
    pytest.param(lambda snapshot: (snapshot / "orders.cedar").write_text(only(9)), id="edited"),
    pytest.param(lambda snapshot: (snapshot / "orders.cedar").write_bytes(b""), id="torn"),
    pytest.param(lambda snapshot: ((snapshot / "orders.cedar").rename(snapshot.parent / "moved"), (snapshot / "orders.cedar").symlink_to("../moved")), id="link"),
])
def test_what_was_changed_on_disk_is_not_used_and_fetched_anew(own, control, issuer, damage):
    control.publish("shop", settings(issuer), {"orders.cedar": only(1)})
    with sidecar(own, control, reload={"watch": True, "interval": "100ms"}) as placet:
        revision = placet.follows()
        snapshot = own / "one" / "snapshots" / revision
        damage(snapshot)
        placet.wait_until(lambda: "is damaged" in placet.stderr, "it is noticed")
        placet.wait_until(lambda: plain_text(snapshot / "orders.cedar") == only(1), "it is fetched anew")
        assert (ask(placet, issuer, 1), ask(placet, issuer, 9)) == (0, 403)
        placet.follows()
        placet.stop()
        damage(snapshot) if not (snapshot.parent / "moved").exists() else (snapshot / "orders.cedar").write_text("")
        control.stop()
        Sidecar.start(placet, until_ready=False)
        placet.wait_until(lambda: placet.readiness()[0] == 503, "it answers")
        assert ask(placet, issuer, 1) == ask(placet, issuer, 9) == 403
        assert "it is not used, and asked for anew" in placet.stderr
        control.start()
        permits(placet, issuer, 1)


def test_the_keys_of_all_sidecars_verify_at_one_address(own, control, issuer):
    control.publish("shop", settings(issuer, jwtResponse={"keyId": "{{client_id}}-{{thumbprint}}"}), {"orders.cedar": only(1)})

    def token(placet):
        response = call(placet, check_request("/accounts/1", headers={"authorization": f"Bearer {issuer.token()}"}))
        [header] = [each.header for each in response.ok_response.headers if each.header.key == "x-placet-decision"]
        return header.raw_value.decode() or header.value

    def verifies(signed, path):
        keys = control.get(path).json()
        key = next((key for key in keys["keys"] if key["kid"] == jwt.get_unverified_header(signed)["kid"]), None)
        return key and jwt.decode(signed, jwt.PyJWK(key), ["ES256"], audience="orders-api", issuer="placet")["sub"] == "alice"

    paths = ["/scopes/orders/jwks.json", "/.well-known/jwks.json", "/namespaces/shop/scopes/orders/jwks.json"]
    with sidecar(own, control, "one") as one, sidecar(own, control, "two") as two:
        for each in (one, two):
            permits(each, issuer, 1)
        early = control.get(paths[0])
        assert early.status_code == 503 and 0 < int(early.headers["retry-after"]) <= 30, "half a set would be worse"
        control.wait_until(lambda: control.get(paths[0]).status_code == 200, "sidecars had the time to come back", 40)
        first, second = token(one), token(two)
        for path in paths:
            assert verifies(first, path) and verifies(second, path), path
        answer = control.get(paths[0])
        own_answer = get(one.http, "/scopes/orders/jwks.json")
        assert answer.headers["content-type"] == own_answer.header("content-type") == "application/jwk-set+json"
        assert answer.headers["cache-control"] == own_answer.header("cache-control")
        assert control.get(paths[0], headers={"if-none-match": answer.headers["etag"]}).status_code == 304
        assert all("d" not in key for key in answer.json()["keys"])
        assert control.get("/scopes/unknown/jwks.json").status_code == 404
        assert control.get("/namespaces/bank/scopes/orders/jwks.json").status_code == 404
        # The key of a sidecar that went verifies what it has signed.
        one.signal(signal.SIGKILL)
        one.wait()
        control.wait_until(lambda: "a stream ended" in control.stderr, "it is noticed")
        assert verifies(first, paths[0]) and verifies(second, paths[0])


def test_the_age_of_its_policies_is_what_the_control_plane_says(own, control, issuer):
    aging = settings(issuer, policy={"maxPolicyAge": "7s"})
    control.publish("shop", aging, {"orders.cedar": only(1)})
    with sidecar(own, control, reload={"watch": True, "interval": "100ms"}) as placet:
        until = time.monotonic() + 9
        while time.monotonic() < until:
            assert ask(placet, issuer, 1) == 0, "it is confirmed again and again"
        control.stop()
        placet.wait_until(lambda: ask(placet, issuer, 1) == 503, "nobody confirms it")
        assert placet.decisions()[-1]["reason"] == "policy_stale"
        control.start()
        permits(placet, issuer, 1)
