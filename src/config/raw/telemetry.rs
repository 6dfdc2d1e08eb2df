//! What is sent to a collector.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OtlpProtocol;

raw! {
    /// What is sent to an OpenTelemetry collector. A change takes a restart.
    pub(in crate::config) struct Telemetry {
        /// The collector. Required.
        pub(in crate::config) otlp: Option<Otlp>,
        /// Send a span for each check, with one for each stage. Default: none.
        pub(in crate::config) traces: Option<Traces>,
        /// Send the metrics too that `/metrics` shows. Default: only there.
        pub(in crate::config) metrics: Option<MetricsPush>,
        /// What else is said of this process, such as `deployment.environment.name: production`.
        pub(in crate::config) resource: BTreeMap<String, String>,
    }
}

raw! {
    /// A collector, and how it is reached.
    pub(in crate::config) struct Otlp {
        /// Its address; `/v1/traces` and `/v1/metrics` are put behind it with `protocol: http`. Required.
        pub(in crate::config) endpoint: Option<String>,
        /// `grpc` or `http` (binary protobuf). Default: grpc.
        pub(in crate::config) protocol: Option<OtlpProtocol>,
        /// Further header fields; no credential may be among them.
        pub(in crate::config) headers: BTreeMap<String, String>,
        /// Further header fields whose values are in files, read at each call.
        pub(in crate::config) header_files: BTreeMap<String, String>,
        /// A bearer token to present, as a reference `{{storeId=ENV_VAR,key=…}}`.
        pub(in crate::config) token: Option<String>,
        /// A file that holds it, read at each call.
        pub(in crate::config) token_file: Option<String>,
        /// An environment variable that holds it.
        pub(in crate::config) token_env: Option<String>,
        /// Certificate authorities, PEM; only these are trusted. Default: the system's.
        pub(in crate::config) ca_file: Option<String>,
        /// Accept `http://` beyond loopback.
        pub(in crate::config) insecure_http: Option<bool>,
        /// The time for one call. Default: 10s.
        pub(in crate::config) timeout: Option<String>,
    }
}

raw! {
    /// The spans of checks. Whether a check that comes with a trace is sampled is its caller's to say.
    pub(in crate::config) struct Traces {
        /// Of the checks that come without one, the share for which a trace is begun: 0 to 1. Default: 0.
        pub(in crate::config) ratio: Option<f64>,
    }
}

raw! {
    /// The metrics.
    pub(in crate::config) struct MetricsPush {
        /// How often. Default: 60s.
        pub(in crate::config) interval: Option<String>,
    }
}
