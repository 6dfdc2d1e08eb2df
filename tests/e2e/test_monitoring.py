"""The dashboard and the alerting rules, put to a real Prometheus that scrapes a real Placet."""

import json
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import yaml

from harness.authz import call, check_request
from harness.placet import Placet, new_private_key, pem, scope
from harness.process import Process, free_port, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"

pytestmark = pytest.mark.skipif(not (shutil.which("prometheus") and shutil.which("promtool")), reason="Prometheus is not installed")


def expressions():
    """Those of the dashboard, with its variables filled in, and those of the alerts."""
    dashboard = json.loads((DEPLOY / "grafana" / "placet.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    filled = [text.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$scope", ".*") for text in shown]
    rules = [rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    return filled, rules


@contextmanager
def watching(directory, issuer, *flags):
    """The address of a Prometheus that has scraped a Placet that has decided."""
    directory.mkdir()
    port = free_port()
    with Placet(directory / "monitored", [scope(issuer)], keys={"orders": pem(new_private_key("ES256"))}) as placet:
        jobs = [{"job_name": "placet", "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{placet.admin}"]}]}]
        config = directory / "prometheus.yaml"
        config.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "scrape_configs": jobs, "global": {"evaluation_interval": "1s"}}))
        argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'prometheus'}", f"--web.listen-address=127.0.0.1:{port}"]
        with Process("prometheus", [*argv, *flags], directory):
            address = f"http://127.0.0.1:{port}"

            def has_decisions():
                call(placet, check_request(headers={"authorization": f"Bearer {issuer.token()}"}))
                try:
                    return value(address, "sum(rate(placet_decisions_total[5s])) > 0")
                except requests.RequestException:  # it is not up yet
                    return None

            wait_until(has_decisions, "Prometheus has seen decisions", 60)
            yield address


@pytest.fixture(scope="module")
def prometheus(directory, issuer):
    with watching(directory / "scraped", issuer) as address:
        yield address


def answer(address, expression):
    return requests.get(f"{address}/api/v1/query", {"query": expression}, timeout=10).json()


def value(address, expression):
    found = answer(address, expression)
    results = found["data"]["result"] if found["status"] == "success" else []
    return float(results[0]["value"][1]) if results else None


def test_the_rules_are_sound():
    checked = subprocess.run(["promtool", "check", "rules", ALERTS], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_prometheus_understands_every_expression(prometheus):
    shown, rules = expressions()
    for expression in shown + rules:
        found = answer(prometheus, expression)
        assert found["status"] == "success", (expression, found)
        assert not found.get("warnings"), (expression, found)


def test_the_panels_show_something_and_no_alert_is_raised(prometheus):
    shown, _ = expressions()
    empty = [expression for expression in shown if not answer(prometheus, expression)["data"]["result"]]
    # Of these nothing has happened: no denials, no shadow, no TLS, no deny list, no rotation, no collector, no control
    # plane; and a file tells no age and has no certificate.
    quiet = ('outcome="deny"', 'reason=~"', "shadow", "listener", "deny_list", "decision_log_dropped", "signing_key_age",
             "signing_key_next_rotation", "signing_certificate", "otlp", "spans", "placet_control")
    assert not [expression for expression in empty if not any(word in expression for word in quiet)]
    alerts = requests.get(f"{prometheus}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
    # A busy machine may be slow for less than the ten minutes that this one waits.
    raised = [alert for alert in alerts if (alert["labels"]["alertname"], alert["state"]) != ("PlacetSlow", "pending")]
    assert not raised


def test_durations_are_native_histograms_for_who_reads_those(directory, issuer):
    with watching(directory / "native", issuer, "--enable-feature=native-histograms") as address:
        for name in ("placet_check_duration_seconds", "placet_stage_duration_seconds"):
            assert value(address, f"histogram_count(sum({name}))") > 0
            assert 0 < value(address, f"histogram_quantile(0.9, sum({name}))") < 1
        # In one expression, since a scrape may come between two.
        both = "histogram_count(sum(placet_check_duration_seconds)) == sum(placet_decisions_total)"
        wait_until(lambda: value(address, both), "every decision has its duration")
