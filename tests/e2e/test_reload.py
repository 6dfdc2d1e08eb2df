"""Files that change while Placet runs: taken over by themselves, whole or not at all, while requests go on."""

import itertools
import json
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2

from harness import authz
from harness.authz import call, check_request, denied_status
from harness.bundles import BundleServer, bundle
from harness.client import get
from harness.issuer import Issuer
from harness.placet import REMOVED, Placet, new_private_key, pem, scope
from harness.process import wait_until

WATCHED = {"reload": {"watch": True, "interval": "100ms"}}


def only(account):
    """A policy that permits one account, and says so by its id."""
    return f'@id("only-{account}") permit (principal, action, resource == Account::"{account}");\n'


@pytest.fixture
def own(directory):
    """A directory of the test's own."""
    return Path(tempfile.mkdtemp(dir=directory))


def serving(directory, issuer, made=None, policy=only(1), **settings):
    made = [made or scope(issuer)]
    return Placet(directory, made, keys={"orders": pem(new_private_key("ES256"))}, policy=policy, **{**WATCHED, **settings})


def ask(placet, issuer, account):
    """The HTTP status that Envoy is told; 0 is an allow."""
    headers = {"authorization": f"Bearer {issuer.token()}"}
    response = call(placet, check_request(f"/accounts/{account}", headers=headers))
    return denied_status(response) if authz.is_denial(response) else 0


def takes_over(placet, issuer, account):
    placet.wait_until(lambda: ask(placet, issuer, account) == 0, f"account {account} is permitted")


def count(placet, name):
    return placet.metrics().get(name, 0)


def replace(file, text):
    """As careful programs write: beside, and renamed."""
    beside = file.with_name(file.name + ".new")
    beside.write_text(text)
    beside.rename(file)


# --- under load


class Asker(threading.Thread):
    """Asks about accounts 1 and 2 by turns, on one connection, and keeps what it was answered."""

    def __init__(self, placet, issuer):
        super().__init__(daemon=True)
        self.placet, self.ended, self.answers = placet, threading.Event(), Counter()
        headers = {"authorization": f"Bearer {issuer.token()}"}
        self.requests = [(account, check_request(f"/accounts/{account}", headers=headers).SerializeToString()) for account in (1, 2)]

    def run(self):
        with authz.channel(self.placet) as channel:
            ask = channel.unary_unary(authz.METHOD, request_serializer=bytes, response_deserializer=external_auth_pb2.CheckResponse.FromString)
            for account, request in itertools.cycle(self.requests):
                if self.ended.wait(0.005):
                    return
                try:
                    response = ask(request, timeout=10)
                except grpc.RpcError as error:
                    self.answers[account, error.code().name] += 1
                else:
                    self.answers[account, response.denied_response.status.code if authz.is_denial(response) else 0] += 1


def test_a_thousand_reloads_under_load_and_each_answer_is_of_one_revision(own, issuer):
    with serving(own, issuer, reuse={"enabled": True}, reload={"watch": False}) as placet:
        askers = [Asker(placet, issuer) for _ in range(2)]
        for asker in askers:
            asker.start()
        for number in range(1, 1001):
            replace(own / "orders.cedar", only(1 + number % 2))
            placet.signal(signal.SIGHUP)
            wait_until(lambda: count(placet, "placet_reloads_total") == number, f"reload {number}")
        for asker in askers:
            asker.ended.set()
            asker.join()
        assert count(placet, "placet_reload_failures_total") == 0
        answers = sum((asker.answers for asker in askers), Counter())
        assert set(answers) == {(1, 0), (1, 403), (2, 0), (2, 403)}, answers
        lines = placet.decisions()
    assert len(lines) == sum(answers.values())
    seen = {(line["policy"]["revision"], line["http"]["path"][-1], line["outcome"], *line["policy"].get("determining", [])) for line in lines}
    revisions = sorted({revision for revision, *_ in seen})
    assert len(revisions) == 2
    of = {revision: determining for revision, _, _, *determining in seen if determining}
    for revision in revisions:
        [allowed] = of[revision]
        account = allowed[-1]
        other = {"1": "2", "2": "1"}[account]
        mine = {rest for first, *rest in map(tuple, seen) if first == revision for rest in [tuple(rest)]}
        assert mine == {(account, "allow", f"only-{account}"), (other, "deny")}


# --- what is watched


def test_a_policy_is_taken_over_by_itself_and_shown(own, issuer):
    with serving(own, issuer) as placet:
        first = placet.readiness()[1]["settings"]
        assert first["failure"] is None and first["ageSeconds"] < 60
        assert count(placet, f'placet_settings_info{{revision="{first["revision"]}"}}') == 1
        since = count(placet, "placet_settings_timestamp_seconds")
        assert abs(since - time.time()) < 60
        replace(own / "orders.cedar", only(2))
        takes_over(placet, issuer, 2)
        second = placet.readiness()[1]["settings"]
        assert second["revision"] != first["revision"]
        assert count(placet, f'placet_settings_info{{revision="{second["revision"]}"}}') == 1
        assert f'placet_settings_info{{revision="{first["revision"]}"}}' not in placet.metrics()
        assert count(placet, "placet_settings_timestamp_seconds") > since
        assert (count(placet, "placet_reloads_total"), count(placet, "placet_last_reload_successful")) == (1, 1)
        assert second["revision"] in placet.stderr
        replace(own / "orders.cedar", only(1))
        takes_over(placet, issuer, 1)
        assert placet.readiness()[1]["settings"]["revision"] == first["revision"], "the same again"


def test_what_settings_name_is_watched_too(own, issuer):
    (own / "entities.json").write_text("[]")
    (own / "schema").write_text("")
    permits = 'permit (principal, action, resource) when { resource has open && resource.open };'
    made = scope(issuer, policy={"files": ["orders.cedar"], "entities": "entities.json"})
    with serving(own, issuer, made, policy=permits) as placet:
        assert ask(placet, issuer, 1) == 403
        entity = {"uid": {"type": "Account", "id": "1"}, "attrs": {"open": True}, "parents": []}
        replace(own / "entities.json", json.dumps([entity]))
        takes_over(placet, issuer, 1)


def test_a_directory_of_policies_and_their_data_are_watched(own, issuer):
    (own / "rego" / "deep").mkdir(parents=True)
    (own / "rego" / "p.rego").write_text("package envoy.authz\nimport rego.v1\ndefault allow := false\nallow if input.parsed_path[1] in data.open\n")
    (own / "rego" / "data.json").write_text('{"open": ["1"]}')
    made = scope(issuer, policy={"engine": "rego", "files": ["rego"]})
    with serving(own, issuer, made) as placet:
        assert (ask(placet, issuer, 1), ask(placet, issuer, 2)) == (0, 403)
        replace(own / "rego" / "data.json", '{"open": ["2"]}')
        takes_over(placet, issuer, 2)
        (own / "rego" / "deep" / "q.rego").write_text('package envoy.authz\nimport rego.v1\nallow if input.parsed_path[1] == "3"\n')
        takes_over(placet, issuer, 3)


def test_a_directory_of_scopes_is_watched(own, issuer):
    (own / "scopes").mkdir()
    (own / "scopes" / "orders.yaml").write_text(json.dumps(scope(issuer, policy={"files": ["../orders.cedar"]})))
    placet = serving(own, issuer)
    placet.settings["scopes"] = {"directory": "scopes"}
    placet.write(placet.settings)
    with placet:
        assert ask(placet, issuer, 1) == 0
        other = scope(issuer, "billing", policy={"files": ["../orders.cedar"]}, match={"hosts": ["billing.example.com"]})
        placet.write_key("billing", pem(new_private_key("ES256")))
        replace(own / "scopes" / "billing.yaml", json.dumps(other))
        placet.wait_until(lambda: get(placet.http, "/scopes/billing/jwks.json").status == 200, "the new scope is there")


def test_settings_in_a_volume_are_swapped_as_the_kubelet_does(own, issuer):
    """..data is a link to the directory of one version, which is swapped by renaming another link over it."""
    volume = own / "volume"
    volume.mkdir()
    placet = serving(own, issuer)
    (own / "keys").mkdir(exist_ok=True)
    placet.settings["secretStores"][0]["details"]["directory"] = str(own / "keys")

    def publish(version, account):
        (volume / version).mkdir()
        (volume / version / "placet.yaml").write_text(json.dumps(placet.settings))
        (volume / version / "orders.cedar").write_text(only(account))
        (volume / "..data_tmp").symlink_to(version)
        (volume / "..data_tmp").rename(volume / "..data")

    publish("..1", 1)
    for name in ("placet.yaml", "orders.cedar"):
        (volume / name).symlink_to(f"..data/{name}")
    placet.argv[placet.argv.index("--config") + 1] = str(volume / "placet.yaml")
    with placet:
        assert ask(placet, issuer, 1) == 0
        for number, account in enumerate((2, 3, 4), 2):
            publish(f"..{number}", account)
            takes_over(placet, issuer, account)
            assert ask(placet, issuer, account - 1) == 403
            for file in (volume / f"..{number - 1}").iterdir():
                file.unlink()
            (volume / f"..{number - 1}").rmdir()
        assert count(placet, "placet_reload_failures_total") == 0
        assert count(placet, "placet_reloads_total") == 3, "settings and policies of a version come together"


def test_changes_in_quick_succession_are_one_and_half_a_file_is_none(own, issuer):
    whole = only(1) + 'forbid (principal, action, resource) unless { resource == Account::"1" };\n'
    with serving(own, issuer, reload={"watch": True, "interval": "1s"}) as placet:
        ended, others = threading.Event(), Counter()

        def keep_asking():
            while not ended.is_set():
                others[ask(placet, issuer, 2)] += 1

        asker = threading.Thread(target=keep_asking)
        asker.start()
        with (own / "orders.cedar").open("w") as file:
            # Each part is a policy set by itself, and the first permits too much.
            for text in ("permit (principal, action, resource);\n", *whole.splitlines(keepends=True)):
                file.write(text)
                file.flush()
                time.sleep(0.1)
        placet.wait_until(lambda: count(placet, "placet_reloads_total") == 1, "the whole is taken over")
        ended.set()
        asker.join()
        assert set(others) == {403}
        assert count(placet, "placet_reload_failures_total") == 0


def test_who_does_not_watch_reads_again_when_told(own, issuer):
    with serving(own, issuer, reload={"watch": False, "interval": "50ms"}) as placet:
        replace(own / "orders.cedar", only(2))
        time.sleep(0.5)
        assert (ask(placet, issuer, 2), count(placet, "placet_reloads_total")) == (403, 0)
        placet.signal(signal.SIGHUP)
        takes_over(placet, issuer, 2)


# --- what is wrong


@pytest.mark.parametrize("spoil", ["policy", "policy-gone", "settings", "settings-gone", "settings-empty"])
def test_what_is_broken_keeps_the_last_good_one_and_all_surfaces_say_so(own, issuer, spoil):
    with serving(own, issuer) as placet:
        before = placet.readiness()[1]["settings"]
        file = own / "orders.cedar" if spoil.startswith("policy") else placet.settings_file
        if spoil.endswith("gone"):
            file.unlink()
        else:
            replace(file, {"policy": "permit (principal, action", "settings": "version: 1\nscopes: nonsense\n"}.get(spoil, ""))
        page = placet.wait_until(lambda: (seen := placet.readiness())[1]["settings"]["failure"] and seen, "/readyz says so")
        said = {"policy": "orders.cedar", "policy-gone": "orders.cedar", "settings": "scopes"}.get(spoil, "placet.yaml")
        assert page[0] == 200 and said in page[1]["settings"]["failure"]["error"], page
        assert {**page[1]["settings"], "failure": None, "ageSeconds": 0} == {**before, "ageSeconds": 0}
        assert (count(placet, "placet_reload_failures_total"), count(placet, "placet_last_reload_successful")) == (1, 0)
        assert "the settings stay as they were" in placet.stderr
        assert (ask(placet, issuer, 1), ask(placet, issuer, 2)) == (0, 403)
        # It comes right by itself once what was wrong is written again.
        replace(own / "orders.cedar", only(2))
        replace(placet.settings_file, json.dumps(placet.settings))
        takes_over(placet, issuer, 2)
        placet.wait_until(lambda: placet.readiness()[1]["settings"]["failure"] is None, "/readyz is content")
        assert count(placet, "placet_last_reload_successful") == 1


def test_new_policies_do_not_wait_for_an_issuer_that_is_away(own):
    with Issuer() as issuer, serving(own, issuer) as placet:
        issuer.down = True
        replace(own / "orders.cedar", only(2))
        takes_over(placet, issuer, 2)


def test_settings_that_do_not_become_complete_give_way_to_the_next(own, issuer):
    with Issuer() as away, serving(own, issuer) as placet:
        away.down = True
        good = json.dumps(placet.settings)
        another = {"issuer": away.url, "audiences": ["orders"], "jwksUri": away.jwks_uri}
        placet.settings["scopes"][0]["identity"]["jwt"].append(another)
        replace(placet.settings_file, json.dumps(placet.settings))
        placet.wait_until(lambda: away.fetches, "the new issuer was asked")
        assert ask(placet, issuer, 1) == 0
        replace(own / "orders.cedar", only(2))
        replace(placet.settings_file, good)
        takes_over(placet, issuer, 2)


# --- policies that nobody confirms


def aged(issuer, **policy):
    return scope(issuer, policy={"maxPolicyAge": "5s", **policy})


@pytest.mark.parametrize("reuse", [True, False])
def test_policies_whose_files_can_t_be_read_decide_only_for_so_long(own, issuer, reuse):
    with serving(own, issuer, aged(issuer), reuse={"enabled": reuse}) as placet:
        token = issuer.token()

        def status():
            response = call(placet, check_request("/accounts/1", headers={"authorization": f"Bearer {token}"}))
            return denied_status(response) if authz.is_denial(response) else 0

        assert {status() for _ in range(3)} == {0}
        (own / "orders.cedar").rename(own / "away.cedar")
        placet.wait_until(lambda: status() == 503, "the policies are stale")
        assert placet.decisions()[-1]["reason"] == "policy_stale"
        (own / "away.cedar").rename(own / "orders.cedar")
        placet.wait_until(lambda: status() == 0, "the policies are confirmed again")


def test_a_bundle_that_can_t_be_looked_for_decides_only_for_so_long(own, issuer):
    with BundleServer() as server:
        server.archive = bundle({"orders.cedar": only(1)})
        made = aged(issuer, files=REMOVED, bundle={"url": server.url, "pollInterval": "200ms"})
        with serving(own, issuer, made, reuse={"enabled": True}) as placet:
            assert ask(placet, issuer, 1) == 0
            server.status = 500
            placet.wait_until(lambda: ask(placet, issuer, 1) == 503, "the bundle is stale")
            assert placet.decisions()[-1]["reason"] == "policy_stale"
            server.status = 200
            takes_over(placet, issuer, 1)
