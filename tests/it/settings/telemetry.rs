//! What is sent to a collector.

use placet::telemetry::{FieldValue, Protocol};
use serde_json::json;

use super::*;

/// What is wrong with `telemetry`.
fn found(telemetry: &Value) -> String {
    let (_folder, path) = settings(|tree| tree["telemetry"] = telemetry.clone());
    errors(&path).join("; ")
}

#[test]
fn nothing_is_sent_unless_it_is_asked_for() {
    let (_folder, path) = settings(|_| {});
    assert!(Config::load(&path).unwrap().telemetry.is_none());
    let (_folder, path) = settings(|tree| {
        tree["telemetry"] = json!({"otlp": {"endpoint": "http://127.0.0.1:4317"}});
    });
    let config = Config::load(&path).unwrap();
    assert!(config.warnings.iter().any(|it| it.starts_with("telemetry: nothing is sent")));
    let telemetry = config.telemetry.unwrap();
    assert!(telemetry.traces.is_none() && telemetry.metrics.is_none());
}

#[test]
fn the_least_settings_have_defaults() {
    let (folder, path) = settings(|tree| {
        tree["telemetry"] = json!({
            "otlp": {
                "endpoint": "https://collector.example:4317",
                "headers": {"x-tenant": "orders"},
                "headerFiles": {"x-api-key": "key"},
                "tokenFile": "token",
                "caFile": "ca.pem",
            },
            "traces": {},
            "metrics": {},
            "resource": {"deployment.environment.name": "test"},
        });
    });
    let config = Config::load(&path).unwrap();
    let telemetry = config.telemetry.unwrap();
    assert_eq!((telemetry.traces, telemetry.metrics.unwrap().as_secs()), (Some(0.0), 60));
    let otlp = telemetry.otlp;
    assert_eq!((otlp.protocol, otlp.timeout.as_secs()), (Protocol::Grpc, 10));
    assert_eq!(otlp.ca_file, Some(folder.path().join("ca.pem")));
    let [(_, tenant), (_, key)] = otlp.headers.as_slice() else { panic!() };
    assert!(matches!(tenant, FieldValue::Plain(text) if text == "orders"));
    assert!(matches!(key, FieldValue::Credential(_)) && otlp.token.is_some());
    let shown = &config.effective["telemetry"];
    assert_eq!(shown["otlp"]["headers"]["x-tenant"], "redacted");
    assert_eq!(shown["otlp"]["headerFiles"]["x-api-key"], "key");
    assert_eq!(
        (&shown["traces"]["ratio"], &shown["metrics"]["interval"]),
        (&json!(0.0), &json!("60s"))
    );
}

#[test]
fn what_is_wrong_is_said() {
    let at = |otlp: Value| json!({"otlp": otlp, "traces": {}});
    let good = "https://collector.example:4317";
    for (telemetry, expected) in [
        (json!({"traces": {}}), "telemetry.otlp: is required"),
        (at(json!({})), "telemetry.otlp.endpoint: is required"),
        (at(json!({"endpoint": "collector:4317"})), "telemetry.otlp.endpoint: that is no https"),
        (
            at(json!({"endpoint": "http://collector.example:4317"})),
            "telemetry.otlp.endpoint: plain http is only for this machine",
        ),
        (at(json!({"endpoint": good, "protocol": "thrift"})), "telemetry.otlp.protocol: "),
        (at(json!({"endpoint": good, "timeout": "soon"})), "telemetry.otlp.timeout: "),
        (at(json!({"endpoint": good, "compression": "gzip"})), "compression: unknown key"),
        (
            at(json!({"endpoint": good, "headers": {"authorization": "Bearer x"}})),
            "telemetry.otlp.headers: a credential must not stand in the settings",
        ),
        (
            at(json!({"endpoint": good, "headers": {"x y": "1"}})),
            "telemetry.otlp.headers: `x y` is no header that can be set",
        ),
        (
            at(json!({"endpoint": good, "headers": {"x": "\n"}})),
            "telemetry.otlp.headers: holds a value that no header has",
        ),
        (
            at(json!({"endpoint": good, "headerFiles": {"Content-Type": "file"}})),
            "telemetry.otlp.headerFiles: `Content-Type` is no header that can be set",
        ),
        (
            at(json!({"endpoint": good, "tokenFile": "a", "tokenEnv": "B"})),
            "telemetry.otlp: needs exactly one of token, tokenFile and tokenEnv",
        ),
        (
            at(json!({"endpoint": good, "token": "s3cr3t"})),
            "telemetry.otlp.token: a credential must not stand in the settings",
        ),
        (
            json!({"otlp": {"endpoint": good}, "traces": {"ratio": 1.5}}),
            "telemetry.traces.ratio: is no share",
        ),
        (
            json!({"otlp": {"endpoint": good}, "metrics": {"interval": "10ms"}}),
            "telemetry.metrics.interval: is less than 1s",
        ),
    ] {
        let found = found(&telemetry);
        assert!(found.contains(expected), "{telemetry}: {found}");
    }
    assert_eq!(found(&at(json!({"endpoint": "http://c.example:4317", "insecureHttp": true}))), "");
}
