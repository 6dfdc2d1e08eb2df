//! What is sent to a collector.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FieldForm;

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
        /// Headers of every call: a text, or where it is a credential `{file: PATH}` or `{env: NAME}`,
        /// read at each call.
        pub(in crate::config) headers: BTreeMap<String, FieldForm>,
        /// The authorities to trust in place of the system's, PEM.
        pub(in crate::config) ca_file: Option<String>,
        /// Accept a plain http address that is not on this machine. Default: false.
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

raw! {
    /// Where the value of a header is: exactly one.
    pub(in crate::config) struct FieldSource {
        /// The text of a file.
        pub(in crate::config) file: Option<String>,
        /// An environment variable.
        pub(in crate::config) env: Option<String>,
    }
}

/// What a collector speaks.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum OtlpProtocol {
    Grpc,
    Http,
}
