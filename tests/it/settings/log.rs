//! The settings of the decision log.

use placet::audit::{Form, Sink, WhenFull};
use serde_json::json;

use super::{Config, errors, settings};

#[test]
fn what_the_contract_names_is_as_it_was() {
    for (sink, expected) in [
        (json!("stdout"), "Stdout"),
        (json!("none"), "None"),
        (json!({"file": "decisions.log"}), "File"),
    ] {
        let (folder, path) = settings(|tree| tree["decisionLog"] = json!({"sink": sink}));
        let config = Config::load(&path).unwrap();
        let log = config.decision_log;
        assert!(format!("{:?}", log.sink).starts_with(expected), "{:?}", log.sink);
        assert_eq!((log.when_full, log.sampling), (WhenFull::Drop, None));
        if let Sink::File(file) = log.sink {
            assert_eq!((file.path, file.max_bytes), (folder.path().join("decisions.log"), None));
        }
    }
}

#[test]
fn a_collector_is_asked_at_the_path_of_its_protocol() {
    for (endpoint, protocol, url) in [
        (
            "http://127.0.0.1:4317",
            "grpc",
            "http://127.0.0.1:4317/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        ),
        ("http://127.0.0.1:4318", "http", "http://127.0.0.1:4318/v1/logs"),
        ("https://otlp.example/own/path/", "http", "https://otlp.example/own/path/v1/logs"),
        ("https://otlp.example/v1/logs", "http", "https://otlp.example/v1/logs"),
    ] {
        let otlp = json!({"endpoint": endpoint, "protocol": protocol});
        let (_folder, path) =
            settings(|tree| tree["decisionLog"] = json!({"sink": {"otlp": otlp}}));
        let log = Config::load(&path).unwrap().decision_log;
        let Sink::Remote(remote) = log.sink else { panic!("{:?}", log.sink) };
        assert_eq!(remote.url.as_str(), url);
        assert_eq!(matches!(remote.form, Form::OtlpGrpc(_)), protocol == "grpc");
    }
}

/// Each of `logs` is refused, with one error that begins so.
fn refused(logs: impl IntoIterator<Item = (serde_json::Value, &'static str)>) {
    for (log, expected) in logs {
        let (_folder, path) = settings(|tree| tree["decisionLog"] = log);
        let errors = errors(&path);
        assert!(errors.first().is_some_and(|e| e.starts_with(expected)), "{expected}: {errors:?}");
        assert_eq!(errors.len(), 1, "{errors:?}");
    }
}

#[test]
fn a_sink_that_can_not_be_is_said_with_its_path_and_a_remedy() {
    refused([
        (
            json!({"sink": "syslog"}),
            "decisionLog.sink: `syslog` is no sink: use stdout, none, {file: PATH}",
        ),
        (json!({"sink": {}}), "decisionLog.sink: needs exactly one of file, http and otlp"),
        (json!({"sink": {"file": "a", "http": {}}}), "decisionLog.sink: needs exactly one"),
        (json!({"sink": {"file": {"mode": "0640"}}}), "decisionLog.sink.file.path: is required"),
        (
            json!({"sink": {"file": {"path": "l", "mode": "rw"}}}),
            "decisionLog.sink.file.mode: `rw` is no octal mode",
        ),
        (
            json!({"sink": {"file": {"path": "l", "maxFiles": 3}}}),
            "decisionLog.sink.file.maxFiles: needs maxBytes or daily",
        ),
        (
            json!({"sink": {"file": {"path": "l", "maxBytes": 9}}}),
            "decisionLog.sink.file.maxBytes: is less than 4096",
        ),
        (json!({"sink": {"file": "no/such/log"}}), "decisionLog.sink.file: there is no directory"),
        (
            json!({"sink": {"file": {"path": "l", "maxBites": 9}}}),
            "decisionLog.sink.file.maxBites: unknown key: did you mean `maxBytes`?",
        ),
    ]);
}

#[test]
fn a_server_that_can_not_be_asked_is_said_too() {
    let http = |more: serde_json::Value| {
        let mut http = json!({"url": "https://logs.example/"});
        http.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"sink": {"http": http}})
    };
    refused([
        (json!({"sink": {"http": {}}}), "decisionLog.sink.http.url: is required"),
        (
            json!({"sink": {"http": {"url": "http://logs.example/"}}}),
            "decisionLog.sink.http.url: `http://logs.example/` would send secrets in the clear",
        ),
        (
            json!({"sink": {"http": {"url": "https://a:b@logs.example/"}}}),
            "decisionLog.sink.http.url: has a user name or password in it",
        ),
        (http(json!({"endpoint": "x"})), "decisionLog.sink.http.endpoint: does not belong to http"),
        (
            http(json!({"headers": {"authorization": "x"}})),
            "decisionLog.sink.http.headers: `authorization` is a credential",
        ),
        (
            http(json!({"headers": {"Content-Type": "x"}})),
            "decisionLog.sink.http.headers: `Content-Type` is no header of yours",
        ),
        (
            http(json!({"token": "x"})),
            "decisionLog.sink.http.token: a credential must not stand in the settings",
        ),
        (
            http(json!({"tokenFile": "x", "username": "y"})),
            "decisionLog.sink.http.tokenFile: present either a token",
        ),
        (
            http(json!({"timeout": "0s"})),
            "decisionLog.sink.http.timeout: is not between 1ms and 60s",
        ),
        (
            http(json!({"batchBytes": 5_000_000})),
            "decisionLog.sink.http.batchBytes: is not between 1024 and bufferBytes",
        ),
        (
            json!({"sink": {"otlp": {"endpoint": "https://c.example/v1/logs"}}}),
            "decisionLog.sink.otlp.endpoint: has a path, which gRPC has not",
        ),
        (
            json!({"sink": {"otlp": {"endpoint": "https://c.example", "protocol": "udp"}}}),
            "decisionLog.sink.otlp.protocol: ",
        ),
    ]);
}

#[test]
fn so_is_what_lines_can_not_show() {
    refused([
        (json!({"whenFull": "wait"}), "decisionLog.whenFull: "),
        (json!({"bufferBytes": 5}), "decisionLog.bufferBytes: is not between 65536 and"),
        (json!({"sampleAllows": 0}), "decisionLog.sampleAllows: `0` is not above 0 and up to 1"),
        (
            json!({"sampleAllows": 0.5, "whenFull": "block"}),
            "decisionLog.sampleAllows: leaves decisions out",
        ),
        (
            json!({"sampleAllows": 0.5, "fields": ["time"]}),
            "decisionLog.sampleAllows: needs `sampleRate` among the fields",
        ),
        (
            json!({"sink": "none", "whenFull": "drop"}),
            "decisionLog.whenFull: does not belong to sink: none",
        ),
        (
            json!({"fields": ["outcom"]}),
            "decisionLog.fields[0]: `outcom` is no such field: did you mean `outcome`?",
        ),
        (json!({"fields": []}), "decisionLog.fields: is empty"),
        (json!({"mask": [{"with": "redact"}]}), "decisionLog.mask[0].field: is required"),
        (
            json!({"mask": [{"field": "outcome"}]}),
            "decisionLog.mask[0].field: `outcome` is no such field",
        ),
        (
            json!({"mask": [{"field": "principal.id", "with": "hash"}]}),
            "decisionLog.mask[0].with: `hash` needs hashKeyFile",
        ),
        (
            json!({"mask": [{"field": "principal.id", "with": "network"}]}),
            "decisionLog.mask[0].with: `network` is for http.sourceIp only",
        ),
        (
            json!({"mask": [{"field": "detail"}, {"field": "detail"}]}),
            "decisionLog.mask[1].field: `detail` is masked already",
        ),
        (json!({"hashKeyFile": "no-file"}), "decisionLog.hashKeyFile: can't read"),
        (
            json!({"hashKeyFile": "p.cedar", "hashKeyEnv": "X"}),
            "decisionLog: needs exactly one of hashKey",
        ),
        (
            json!({"hashKey": "a key in the settings"}),
            "decisionLog.hashKey: a credential must not stand",
        ),
    ]);
}

#[test]
fn no_credential_of_a_sink_is_shown() {
    let http =
        json!({"url": "https://logs.example/", "headers": {"x-key": "c4n4ry"}, "tokenFile": "t"});
    let (_folder, path) = settings(|tree| tree["decisionLog"] = json!({"sink": {"http": http}}));
    let shown = Config::load(&path).unwrap().effective.to_string();
    assert!(shown.contains("x-key") && !shown.contains("c4n4ry"), "{shown}");
}
