//! What leaves for a collector over OTLP: the spans of checks, and the metrics.
//!
//! Nothing does unless the settings say so. No decision waits for it: spans are queued with a bound, and
//! dropped and counted beyond ([`Tracer`](crate::trace::Tracer)); a collector that is slow, away or refuses
//! costs its spans and nothing else. At the end what waits is sent within the grace.
//!
//! Of the OpenTelemetry crates only the messages are used (`opentelemetry-proto`). The SDK would have
//! every metric declared a second time beside the registry that `/metrics` shows, where here one is
//! translated into the other; its batches drop spans without a number that a metric could
//! show; and its exporters bring clients of their own, where ours is the one that all else is fetched
//! with, with its rules for TLS, authorities and plain http ([`crate::remote`]).

mod collector;
mod registry;
mod spans;
mod tasks;

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use reqwest::Url;

pub use self::tasks::{MetricsTask, SpanTask};

use crate::secrets::Source;

/// What is sent, and where.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// The collector.
    pub otlp: OtlpSettings,
    /// What is said of this process, beside its name, version and instance.
    pub resource: Vec<(String, String)>,
    /// The spans of checks: the ratio of those that come without a trace for which one is begun.
    pub traces: Option<f64>,
    /// The metrics: how often.
    pub metrics: Option<Duration>,
}

/// A collector, and how it is reached.
#[derive(Clone, Debug)]
pub struct OtlpSettings {
    /// Its address; over HTTP what [`Protocol::Http`] asks for is below it.
    pub endpoint: Url,
    /// What it speaks.
    pub protocol: Protocol,
    /// What is sent with every call.
    pub headers: Vec<(HeaderName, FieldValue)>,
    /// The bearer token that is presented.
    pub token: Option<Source>,
    /// The authorities to trust in place of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// The time for one call.
    pub timeout: Duration,
}

/// What a collector speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with binary protobuf.
    Http,
}

/// The value of a header field.
#[derive(Clone, Debug)]
pub enum FieldValue {
    /// As the settings have it.
    Plain(String),
    /// A credential, read at each call.
    Credential(Source),
}

/// This process.
fn resource(settings: &TelemetrySettings, instance: &str) -> Resource {
    let named = |(name, _): &(&str, String)| !settings.resource.iter().any(|(own, _)| own == name);
    let own = [
        ("service.name", "placet".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance.to_owned()),
    ];
    let own = own.into_iter().filter(named).map(|(name, value)| text(name, value));
    let written = settings.resource.iter().map(|(name, value)| text(name, value.clone()));
    Resource { attributes: own.chain(written).collect(), ..Resource::default() }
}

/// Who measures.
fn scope() -> InstrumentationScope {
    let (name, version) = ("placet".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    InstrumentationScope { name, version, ..InstrumentationScope::default() }
}

fn text(name: &str, value: impl Into<String>) -> KeyValue {
    attribute(name, any_value::Value::StringValue(value.into()))
}

fn attribute(name: &str, value: any_value::Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}
