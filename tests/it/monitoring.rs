//! The dashboard and the alerts ask for what there is: every metric by its name and labels, and no
//! metric is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use placet::clock::Timestamp;
use placet::metrics::Metrics;
use placet::stages::{Stage, Stages};
use regex::Regex;
use serde_json::Value;

/// Beside what Placet exports: from the scrape, or added by Prometheus.
const OF_PROMETHEUS: [&str; 3] = ["job", "instance", "le"];

/// Each of them, with one sample at least.
fn exposition() -> String {
    let (metrics, now, second) =
        (Metrics::new(), Timestamp::from_seconds(1_800_000_000), Duration::from_secs(1));
    metrics.decision("orders", "deny", "forbidden", second);
    metrics.cache_lookup("decisions", true);
    metrics.cache_lookup("decisions", false);
    metrics.shadow_decision("orders", "deny", false);
    metrics.shadow_dropped("orders");
    metrics.reloaded("1", now);
    metrics.reload_failed();
    metrics.deny_list(1, now);
    metrics.deny_list_failed();
    metrics.log_lines_dropped(1);
    metrics.log_failed();
    metrics.log_waited();
    metrics.log_waiting(1);
    metrics.signing_key_age("orders", second);
    metrics.signing_key_left("orders", second);
    metrics.shared_key_ids("orders", 0);
    metrics.certificate_left("grpc", 1);
    metrics.certificate_failed("grpc");
    metrics.tls_refused("grpc", "certificate");
    let mut stages = Stages::default();
    stages.begin(Stage::Policy);
    stages.end();
    metrics.stages(&stages);
    metrics.store_requests("vault").read.count(true, second);
    metrics.issuer_fetches("https://idp.example/").count(true);
    metrics.issuer_keys_age("orders", "https://idp.example/", second);
    metrics.next_rotation("orders", second);
    metrics.signing_certificate_left("orders", 1);
    metrics.signing_in_progress("orders", 1);
    metrics.checks_in_progress(1);
    metrics.spans_dropped("queue", 1);
    metrics.exports("traces").count(true);
    metrics.control_connected("placet-control:9444", true);
    metrics.control_snapshot_applied(now);
    metrics.control_snapshot_refused();
    metrics.exposition()
}

/// The names of all samples, and the labels of each.
fn samples() -> BTreeMap<String, BTreeSet<String>> {
    let sample = Regex::new(r"(?m)^(placet_\w+)(?:\{([^}]*)\})? ").unwrap();
    let label = Regex::new(r#"(\w+)=""#).unwrap();
    let exposition = exposition();
    let mut samples: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for found in sample.captures_iter(&exposition) {
        let labels = found.get(2).map_or("", |labels| labels.as_str());
        let labels = label.captures_iter(labels).map(|name| name[1].to_owned());
        samples.entry(found[1].to_owned()).or_default().extend(labels);
    }
    samples
}

fn dashboard() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/placet.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn alerts() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yaml");
    yaml_serde::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The values of all members called `name`, at any depth.
fn members(value: &Value, name: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| match value {
            Value::String(text) if key == name => found.push(text.clone()),
            _ => members(value, name, found),
        }),
        Value::Array(list) => list.iter().for_each(|value| members(value, name, found)),
        _ => {}
    }
}

fn expressions() -> Vec<String> {
    let mut found = Vec::new();
    members(&dashboard(), "expr", &mut found);
    members(&dashboard(), "query", &mut found);
    members(&alerts(), "expr", &mut found);
    found
}

#[test]
fn they_ask_for_metrics_and_labels_that_there_are() {
    let (samples, expressions) = (samples(), expressions());
    assert!(expressions.len() > 40, "{}", expressions.len());
    let name = Regex::new(r"placet_\w+(?:\{([^}]*)\})?").unwrap();
    let label = Regex::new(r#"(\w+)\s*(?:=~|!=|!~|=)\s*""#).unwrap();
    let by = Regex::new(r"by \(([^)]*)\)").unwrap();
    for expression in &expressions {
        let mut known: BTreeSet<&str> = OF_PROMETHEUS.into();
        for found in name.find_iter(expression) {
            let metric = found.as_str().split('{').next().unwrap();
            let labels = samples.get(metric);
            let labels = labels.unwrap_or_else(|| panic!("no `{metric}`, in {expression}"));
            known.extend(labels.iter().map(String::as_str));
        }
        let matched = label.captures_iter(expression).map(|found| found.get(1).unwrap().as_str());
        let grouped = by
            .captures_iter(expression)
            .flat_map(|found| found.get(1).unwrap().as_str().split(','));
        for label in matched.chain(grouped.map(str::trim)) {
            assert!(known.contains(label), "no label `{label}`, in {expression}");
        }
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let mut shown = Vec::new();
    members(&dashboard(), "expr", &mut shown);
    let shown = shown.join("\n");
    let of_histogram = Regex::new(r"_(count|sum)$").unwrap();
    for metric in samples().keys().filter(|name| !of_histogram.is_match(name)) {
        assert!(shown.contains(metric.as_str()), "{metric}");
    }
}

#[test]
fn every_alert_says_what_happens_and_what_to_do() {
    let alerts = alerts();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(name.starts_with("Placet"), "{name}");
        let is_there = |text: &Value| text.as_str().is_some_and(|text| !text.is_empty());
        let notes = &rule["annotations"];
        assert!(is_there(&notes["summary"]) && is_there(&notes["description"]), "{name}");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}");
    }
}
