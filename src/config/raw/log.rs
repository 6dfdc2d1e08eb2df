//! The settings of the decision log.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FileForm, SinkForm};

raw! {
    /// Where a line for each decision goes, and what it shows. A change takes a restart.
    pub(in crate::config) struct DecisionLog {
        /// `stdout`, `none`, or a map with one of `file`, `http` and `otlp`. Default: stdout.
        pub(in crate::config) sink: Option<SinkForm>,
        /// When the sink is behind: `drop` loses lines and counts them; `block` waits with the answer, and
        /// denies what can't be logged in time. Default: drop.
        pub(in crate::config) when_full: Option<WhenFull>,
        /// How much may wait for the sink, in bytes. Default: 4194304.
        pub(in crate::config) buffer_bytes: Option<usize>,
        /// The share of allows and bypasses that is logged, above 0 and up to 1; denials always are.
        /// Default: 1.
        pub(in crate::config) sample_allows: Option<f64>,
        /// The fields of the record that a line has, such as `outcome`, `http.path` or `http` for all of it.
        /// Default: all.
        pub(in crate::config) fields: Option<Vec<String>>,
        /// What stands in place of a field's text, here and wherever else the line repeats it. Default:
        /// nothing is masked.
        pub(in crate::config) mask: Option<Vec<Mask>>,
        /// A file with the key of hashes (`with: hash`), hard to guess, of at least 16 characters.
        pub(in crate::config) hash_key_file: Option<String>,
        /// An environment variable that holds it.
        pub(in crate::config) hash_key_env: Option<String>,
        /// A reference to it, `{{storeId=ENV_VAR,key=…}}`.
        pub(in crate::config) hash_key: Option<String>,
        /// `organization` in each line. Default: empty.
        pub(in crate::config) organization: Option<String>,
        /// `instanceName` in each line. Default: the name of the host.
        pub(in crate::config) instance_name: Option<String>,
    }
}

/// What happens when the sink is behind.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum WhenFull {
    Drop,
    Block,
}

raw! {
    /// What stands in place of a field's text.
    pub(in crate::config) struct Mask {
        /// The field, such as `principal.id`.
        pub(in crate::config) field: Option<String>,
        /// `redact`: the same for all. `hash`: a keyed hash, the same for the same text. `network`: of
        /// `http.sourceIp`, its /24, of IPv6 its /48. Default: redact.
        pub(in crate::config) with: Option<Masking>,
    }
}

/// What stands in place of a field's text.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum Masking {
    Redact,
    Hash,
    Network,
}

raw! {
    /// A sink: one of these.
    pub(in crate::config) struct Sink {
        /// A file: its path, or a map.
        pub(in crate::config) file: Option<FileForm>,
        /// An HTTP server that takes batches.
        pub(in crate::config) http: Option<RemoteSink>,
        /// An OpenTelemetry collector.
        pub(in crate::config) otlp: Option<RemoteSink>,
    }
}

raw! {
    /// A file that lines are appended to. One that somebody else moved away is begun anew.
    pub(in crate::config) struct FileSink {
        /// Its path. Required.
        pub(in crate::config) path: Option<String>,
        /// The permissions of a new file, octal. Default: "0640".
        pub(in crate::config) mode: Option<String>,
        /// A new file is begun before this one gets larger, in bytes. Default: never.
        pub(in crate::config) max_bytes: Option<u64>,
        /// A new file is begun each day (UTC). Default: false.
        pub(in crate::config) daily: Option<bool>,
        /// How many files are kept, `PATH`, `PATH.1` and so on. Default: 5.
        pub(in crate::config) max_files: Option<usize>,
    }
}

raw! {
    /// A server that takes batches of lines. Which settings apply depends on its kind.
    pub(in crate::config) struct RemoteSink {
        /// http: its address. Required.
        pub(in crate::config) url: Option<String>,
        /// http: `ndjson`, a line for each decision, or `json`, a list. Default: ndjson.
        pub(in crate::config) format: Option<BatchFormat>,
        /// otlp: its address, such as `https://collector:4317`; `/v1/logs` is put behind it with `protocol:
        /// http`. Required.
        pub(in crate::config) endpoint: Option<String>,
        /// otlp: `grpc` or `http`. Default: grpc.
        pub(in crate::config) protocol: Option<OtlpProtocol>,
        /// otlp: the resource's `service.name`. Default: placet.
        pub(in crate::config) service_name: Option<String>,
        /// Further header fields; no credential may be among them.
        pub(in crate::config) headers: BTreeMap<String, String>,
        /// Further header fields whose values are in files, read at each attempt.
        pub(in crate::config) header_files: BTreeMap<String, String>,
        /// A bearer token to present, as a reference `{{storeId=ENV_VAR,key=…}}`.
        pub(in crate::config) token: Option<String>,
        /// A file that holds it, read at each attempt.
        pub(in crate::config) token_file: Option<String>,
        /// An environment variable that holds it.
        pub(in crate::config) token_env: Option<String>,
        /// The user name of HTTP Basic credentials to present.
        pub(in crate::config) username: Option<String>,
        /// A file with their password, read at each attempt.
        pub(in crate::config) password_file: Option<String>,
        /// Certificate authorities, PEM; only these are trusted. Default: the system's.
        pub(in crate::config) ca_file: Option<String>,
        /// Accept `http://` beyond loopback.
        pub(in crate::config) insecure_http: Option<bool>,
        /// The time for one attempt. Default: 10s.
        pub(in crate::config) timeout: Option<String>,
        /// A batch has no more lines than fit into so many bytes. Default: 1048576.
        pub(in crate::config) batch_bytes: Option<usize>,
        /// A line waits no longer for others. Default: 1s.
        pub(in crate::config) batch_interval: Option<String>,
        /// `gzip` or `none`. Default: none.
        pub(in crate::config) compression: Option<BatchCompression>,
    }
}

/// What a batch looks like.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum BatchFormat {
    Ndjson,
    Json,
}

/// How OTLP travels.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum OtlpProtocol {
    Grpc,
    Http,
}

/// Whether batches are compressed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum BatchCompression {
    None,
    Gzip,
}
