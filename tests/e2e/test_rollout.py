"""The first roll-out, through a real Envoy: dry runs, shadow policies, and reasons in answers and access logs."""

import json
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from harness import envoy
from harness.authz import call, check_request, denied_status, is_denial
from harness.client import bearer, send
from harness.placet import POLICY, Placet, new_private_key, pem, run, scope
from harness.verify import verified
from test_header_forging import FORGED, NAME, UNDERSCORES

# Whatever is permitted now, and account secret too; but nothing may be deleted.
NEXT = """
@id("next-read") permit (principal in Group::"readers", action == Action::"read", resource is Account);
"""
# One that can't be evaluated.
BROKEN = 'forbid (principal, action, resource) when { principal.nothing == 1 };'

EXPLAIN = {"responseHeader": "x-placet-reason", "metadata": True}
ACCESS_LOG = [{
    "name": "file",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "log_format": {"json_format": {
            "path": "%REQ(:PATH)%",
            **{name: f"%DYNAMIC_METADATA(envoy.filters.http.ext_authz:{name})%" for name in ("id", "reason", "revision", "determining")},
        }},
    },
}]


def listener(config):
    return config["static_resources"]["listeners"][0]


@pytest.fixture(scope="module")
def world(directory, issuer, echo):
    """Three applications behind one Envoy, by host: a dry run, a shadow, and both off."""
    log = directory / "access.log"

    def change(config):
        manager = envoy.plain(listener(config))["filter_chains"][0]["filters"][0]["typed_config"]
        ACCESS_LOG[0]["typed_config"]["path"] = str(log)
        manager["access_log"] = ACCESS_LOG
        manager["access_log_options"] = {"flush_access_log_on_new_request": False}
        return config

    def hosts(name):
        return {"match": {"hosts": [f"{name}.example.com"]}, "explain": EXPLAIN}

    shadow = {"policy": {"files": ["orders.cedar"], "shadow": {"files": ["next.cedar"]}}}
    broken = {"policy": {"files": ["orders.cedar"], "shadow": {"files": ["broken.cedar"]}}}
    scopes = [
        scope(issuer, "dry", dryRun=True, **hosts("dry")),
        scope(issuer, "shadowed", **hosts("shadowed"), **shadow),
        scope(issuer, "broken", **hosts("broken"), **broken),
        scope(issuer, "quiet", match={"hosts": ["quiet.example.com"]}),
    ]
    keys = {name: pem(new_private_key("ES256")) for name in ("dry", "shadowed", "broken", "quiet")}
    with ExitStack() as running:
        placet = Placet(directory / "p", scopes, keys=keys)
        (placet.directory / "next.cedar").write_text(NEXT)
        (placet.directory / "broken.cedar").write_text(BROKEN)
        running.enter_context(placet)
        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, change))
        yield SimpleNamespace(placet=placet, port=edge.port, echo=echo, token=issuer.token(), log=log)


def ask(world, name, target="/accounts/1", headers=(), credentials=True, method="GET"):
    """The answer, and what the application saw, once the decision is in the log."""
    before = len(decisions(world))
    world.echo.take()
    given = [bearer(world.token)] if credentials else []
    answer = send(world.port, target, [*given, *headers], host=f"{name}.example.com", method=method)
    seen = world.echo.take()
    world.placet.wait_until(lambda: len(decisions(world)) == before + 1, "the decision is in the log")
    return answer, seen


def decisions(world, key="outcome"):
    lines = world.placet.stdout.split("\n")[:-1]
    return [line for line in map(json.loads, lines) if key in line]


# --- dry run


FORGERY = [(NAME, FORGED), (NAME.upper(), "FORGED-2"), *[(name, FORGED) for name in UNDERSCORES]]
DENIED = {
    "forbidden": ("/accounts/secret", True, "forbidden", 403),
    "no credentials": ("/accounts/1", False, "no_credentials", 401),
    "bad path": ("/accounts//1", True, "bad_path", 400),
    "no route": ("/nowhere", True, "no_route", 403),
}


@pytest.mark.parametrize("kind", DENIED)
@pytest.mark.parametrize("forged", [[], FORGERY], ids=["honest", "forged"])
def test_in_a_dry_run_a_denial_passes_without_any_token(world, kind, forged):
    target, credentials, reason, status = DENIED[kind]
    answer, [seen] = ask(world, "dry", target, forged, credentials)
    assert answer.status == 200
    assert seen.folded(NAME) == []
    record = decisions(world)[-1]
    assert (record["outcome"], record["dryRun"], record["reason"], record["status"]) == ("deny", True, reason, status)
    assert answer.header("x-placet-reason") == f"id={record['id']}, reason={reason}"
    # Control: the same is denied where there is no dry run.
    answer, seen = ask(world, "quiet", target, forged, credentials)
    assert (answer.status, seen) == (status, [])
    assert not decisions(world)[-1]["dryRun"]


def test_in_a_dry_run_a_yes_is_as_ever(world):
    answer, [seen] = ask(world, "dry", headers=FORGERY)
    assert answer.status == 200
    assert seen.folded(NAME) == seen.all(NAME)
    verified(seen.one(NAME), world.placet.jwks("dry"), audience="dry-api")
    record = decisions(world)[-1]
    assert (record["outcome"], record["dryRun"]) == ("allow", False)


def test_dry_run_denials_have_an_outcome_of_their_own_in_the_metrics(world):
    name = 'placet_decisions_total{scope="dry",outcome="%s",reason="forbidden"}'
    before = world.placet.metrics().get(name % "dry_run", 0)
    ask(world, "dry", "/accounts/secret")
    metrics = world.placet.metrics()
    assert metrics[name % "dry_run"] == before + 1
    assert name % "deny" not in metrics


def test_what_no_scope_is_known_for_is_denied_all_the_same(world):
    before = len(decisions(world))
    assert denied_status(call(world.placet, b"garbage")) == 400
    assert denied_status(call(world.placet, check_request(host="nobody.example.com"))) == 403
    assert not is_denial(call(world.placet, check_request(host="dry.example.com"))), "control"
    world.placet.wait_until(lambda: len(decisions(world)) == before + 3, "the decisions are in the log")
    assert all(record["id"] for record in decisions(world)[before:])


def test_a_dry_run_without_a_key_passes_too(directory, issuer, echo):
    with ExitStack() as running:
        placet = Placet(directory / "keyless", [scope(issuer, dryRun=True)], startupGrace="100ms")
        placet.start(until_ready=False)
        running.callback(placet.stop)
        edge = running.enter_context(envoy.edge(directory, echo.port, placet.socket, name="keyless"))
        placet.wait_until(lambda: placet.readiness()[0] == 503, "placet listens")
        echo.take()
        answer = send(edge.port, "/accounts/1", [bearer(issuer.token()), (NAME, FORGED)])
        [seen] = echo.take()
        assert (answer.status, seen.folded(NAME)) == (200, [])
        [record] = placet.wait_until(placet.decisions, "the decision is in the log")
        assert (record["reason"], record["dryRun"]) == ("key_unavailable", True)


def test_validate_says_that_a_dry_run_protects_nothing(world):
    result = run("validate", "--config", world.placet.settings_file)
    assert result.returncode == 0
    assert "warning: scopes[0].dryRun: " in result.stderr and "not protected" in result.stderr


# --- shadow


def shadow_count(world, name, outcome, agrees):
    labels = f'scope="{name}",outcome="{outcome}",agrees="{agrees}"'
    return world.placet.metrics().get(f"placet_shadow_decisions_total{{{labels}}}", 0)


def asked(world, name, target, outcome, agrees, **options):
    """One request, and the wait for the shadow's word on it."""
    before, lines = shadow_count(world, name, outcome, agrees), len(decisions(world, "shadowOf"))
    answer, seen = ask(world, name, target, **options)
    world.placet.wait_until(lambda: shadow_count(world, name, outcome, agrees) == before + 1, f"{outcome}, {agrees}")
    expected = lines + (agrees == "false")
    world.placet.wait_until(lambda: len(decisions(world, "shadowOf")) == expected, "the difference is in the log")
    return answer, seen, decisions(world)[-1]


def test_a_shadow_that_would_permit_changes_nothing_and_is_logged(world):
    answer, seen, decision = asked(world, "shadowed", "/accounts/secret", "allow", "false")
    assert (answer.status, seen) == (403, [])
    line = decisions(world, "shadowOf")[-1]
    assert (line["shadowOf"], line["scope"]) == (decision["id"], "shadowed")
    enforced, shadow = line["enforced"], line["shadow"]
    assert (enforced["outcome"], enforced["reason"]) == ("deny", "forbidden")
    assert enforced["policy"]["determining"] == decision["policy"]["determining"]
    assert enforced["policy"]["revision"] == decision["policy"]["revision"]
    assert (shadow["outcome"], shadow["reason"]) == ("allow", "permitted")
    assert shadow["policy"]["determining"] == ["next-read"]
    assert shadow["policy"]["revision"] != enforced["policy"]["revision"]


def test_a_shadow_that_would_deny_changes_nothing_and_is_logged(world):
    answer, [seen], decision = asked(world, "shadowed", "/accounts/7", "deny", "false", method="DELETE")
    assert answer.status == 200
    verified(seen.one(NAME), world.placet.jwks("shadowed"), audience="shadowed-api")
    line = decisions(world, "shadowOf")[-1]
    assert (line["shadowOf"], line["shadow"]["reason"]) == (decision["id"], "no_permit")


def test_a_shadow_that_agrees_is_counted_only(world):
    answer, _, _ = asked(world, "shadowed", "/accounts/1", "allow", "true")
    assert answer.status == 200


def test_a_shadow_that_fails_is_a_fault_of_its_own_only(world):
    answer, [seen], decision = asked(world, "broken", "/accounts/1", "fault", "false")
    assert answer.status == 200
    verified(seen.one(NAME), world.placet.jwks("broken"), audience="broken-api")
    line = decisions(world, "shadowOf")[-1]
    assert (line["shadowOf"], line["shadow"]["outcome"]) == (decision["id"], "fault")
    assert line["shadow"]["detail"]


def test_a_shadow_that_does_not_load_is_an_error(directory, issuer):
    policy = {"files": ["orders.cedar"], "shadow": {"files": ["gone.cedar"]}}
    placet = Placet(directory / "gone", [scope(issuer, policy=policy)], keys={"orders": pem(new_private_key("ES256"))})
    result = run("validate", "--config", placet.settings_file)
    assert result.returncode == 2
    assert "scopes[0].policy.shadow: " in result.stderr and "gone.cedar" in result.stderr


# --- why


@pytest.mark.parametrize("name,target,status,reason,determining", [
    ("shadowed", "/accounts/1", 200, "permitted", True),
    ("shadowed", "/accounts/secret", 403, "forbidden", True),
    ("shadowed", "/nowhere", 403, "no_route", False),
    ("shadowed", "/healthz", 200, "bypass", False),
    ("dry", "/nowhere", 200, "no_route", False),
])
def test_envoy_s_access_log_has_the_reason(world, name, target, status, reason, determining):
    marked = f"{target}?{name}-{reason}"
    answer, _ = ask(world, name, marked)
    assert answer.status == status

    def logged():
        lines = world.log.read_text().splitlines() if world.log.exists() else []
        return [line for line in map(json.loads, lines) if line["path"] == marked]

    [line] = world.placet.wait_until(logged, "the access log has it")
    record = decisions(world)[-1]
    assert (line["id"], line["reason"], line["revision"]) == (record["id"], reason, record["policy"]["revision"])
    assert record["policy"]["revision"]
    assert (line["determining"] or []) == record["policy"]["determining"]
    assert bool(line["determining"]) == determining


def test_the_client_reads_our_reason_and_nobody_else_s(world):
    """Neither the client's own copy nor one of the upstream's takes its place."""
    forged = [("x-placet-reason", "reason=forged"), ("x_placet_reason", "reason=forged")]
    world.echo.answers = [("x-placet-reason", "reason=of-the-upstream"), ("X-Placet-Reason", "reason=again")]
    try:
        answer, [seen] = ask(world, "shadowed", headers=forged)
    finally:
        world.echo.answers = []
    assert answer.header("x-placet-reason") == f"id={decisions(world)[-1]['id']}, reason=permitted"
    assert seen.folded("x-placet-reason") == []


def test_unless_asked_nothing_is_told(world):
    for target in ("/accounts/1", "/accounts/secret"):
        answer, _ = ask(world, "quiet", target)
        assert answer.header("x-placet-reason") is None


# --- on the command line


CASES = """
cases:
  - name: reads
    request: {host: shadowed.example.com, path: /accounts/1}
    token: {sub: alice, groups: [readers]}
    expect: {outcome: allow, shadow: allow}
  - name: the secret
    request: {host: shadowed.example.com, path: /accounts/secret}
    token: {sub: alice, groups: [readers]}
    expect: {outcome: deny, shadow: allow}
"""


def test_cases_run_the_shadow_and_report_coverage(world, directory):
    cases = directory / "cases.yaml"
    cases.write_text(CASES)
    settings = world.placet.settings_file
    result = run("test", "--config", settings, "--coverage", cases)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "deny, by the shadow allow" in result.stdout
    # Three policies in each of four scopes, of which two determined something in one.
    assert "2 of 12 policies determined a decision, 16%" in result.stdout
    assert "never shadowed: orders.policy1" in result.stdout
    assert "never shadowed: orders.policy0" not in result.stdout
    assert run("test", "--config", settings, "--min-coverage", "16", cases).returncode == 0
    short = run("test", "--config", settings, "--min-coverage", "17", "--output", "junit", cases)
    assert short.returncode == 1
    assert "16%" in short.stderr and short.stdout.rstrip().endswith("</testsuite>")
    cases.write_text(CASES.replace("outcome: allow, shadow: allow", "outcome: allow, shadow: deny"))
    wrong = run("test", "--config", settings, cases)
    assert wrong.returncode == 1
    assert 'shadow: expected "deny", found "allow"' in wrong.stdout


def check(world, issuer, directory, **request):
    file = directory / "request.bin"
    file.write_bytes(check_request(headers={"authorization": f"Bearer {issuer.token()}"}, **request).SerializeToString())
    jwks = directory / "idp.json"
    jwks.write_text(json.dumps(issuer.jwks()))
    result = run("check", "--config", world.placet.settings_file, "--request", file, "--jwks", jwks)
    assert result.returncode == 0, result.stderr
    return dict(line.split(None, 1) for line in result.stdout.splitlines())


def test_a_check_accounts_for_every_step(world, issuer, directory):
    steps = check(world, issuer, directory, path="/accounts/secret?a=b", host="shadowed.example.com")
    assert steps["request"] == "GET http://shadowed.example.com/accounts/secret"
    assert steps["scope"] == "shadowed (has the host)"
    assert steps["path"] == "/accounts/secret"
    assert steps["route"] == "routes[0]"
    assert issuer.url in steps["principal"]
    assert steps["target"] == 'read on Account::"secret"'
    assert steps["policies"].startswith("orders.policy2 (deny, revision ")
    assert steps["shadow"].startswith("differs: next-read (allow, revision ")
    assert steps["decision"].startswith("deny (forbidden)")
    assert steps["answer"] == "the client gets 403"
    assert steps["body"] == '{"code":403,"error":"Forbidden"}'


def test_a_check_shows_what_envoy_is_told_and_never_the_token(world, issuer, directory):
    steps = check(world, issuer, directory, host="dry.example.com")
    assert steps["answer"] == "the request is forwarded"
    assert steps["sets"] == "x-placet-decision: the token"
    assert "x_placet_decision" in steps["removes"]
    assert json.loads(steps["claims"])["htm"] == "GET"
    steps = check(world, issuer, directory, host="dry.example.com", path="/nowhere")
    assert steps["decision"].startswith("deny (no_route), let pass in the dry run")
    assert steps["route"] == "none matches the method and path"
    assert "x-placet-decision" in steps["removes"]
    steps = check(world, issuer, directory, host="nobody.example.com")
    assert (steps["scope"], steps["answer"]) == ("none", "the client gets 403")
