//! What is sent to a collector, and where.

use std::path::Path;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};

use super::credential::{credential, resolve};
use super::{duration, joined, secs};
use crate::config::raw;
use crate::config::report::Report;
use crate::remote::acceptable;
use crate::secrets::Source;
use crate::telemetry::{FieldValue, OtlpSettings, Protocol, TelemetrySettings};

/// Sending the metrics more often is of no use.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// The outer `None` is an error.
#[expect(clippy::option_option, reason = "of a faulty setting and of one that is not there")]
pub(super) fn check(
    raw: Option<&raw::Telemetry>,
    base: &Path,
    report: &mut Report,
) -> Option<Option<TelemetrySettings>> {
    let Some(raw) = raw else { return Some(None) };
    if raw.traces.is_none() && raw.metrics.is_none() {
        report.warning("telemetry", "nothing is sent: set `traces`, `metrics` or both");
    }
    let otlp = report.required("telemetry.otlp", raw.otlp.as_ref());
    let otlp = otlp.and_then(|otlp| self::otlp(otlp, base, report));
    let traces = match &raw.traces {
        None => Some(None),
        Some(traces) => ratio(traces.ratio.unwrap_or_default(), report).map(Some),
    };
    let metrics = match &raw.metrics {
        None => Some(None),
        Some(metrics) => interval(metrics.interval.as_deref(), report).map(Some),
    };
    let resource = raw.resource.clone().into_iter().collect();
    Some(Some(TelemetrySettings { otlp: otlp?, resource, traces: traces?, metrics: metrics? }))
}

fn ratio(ratio: f64, report: &mut Report) -> Option<f64> {
    let is_ratio = (0.0..=1.0).contains(&ratio);
    let ratio = is_ratio.then_some(ratio).ok_or("is no share: write a number from 0 to 1");
    report.keep("telemetry.traces.ratio", ratio)
}

fn interval(text: Option<&str>, report: &mut Report) -> Option<Duration> {
    let path = "telemetry.metrics.interval";
    let interval = duration(path, text, secs(60), report)?;
    if interval < SHORTEST_INTERVAL {
        report.error(path, "is less than 1s");
        return None;
    }
    Some(interval)
}

fn otlp(raw: &raw::Otlp, base: &Path, report: &mut Report) -> Option<OtlpSettings> {
    let path = "telemetry.otlp";
    let endpoint = report.required(format_args!("{path}.endpoint"), raw.endpoint.as_deref());
    let endpoint = endpoint.and_then(|text| {
        let url = acceptable(text, raw.insecure_http.unwrap_or(false), true);
        report.keep(format_args!("{path}.endpoint"), url)
    });
    let timeout =
        duration(format_args!("{path}.timeout"), raw.timeout.as_deref(), secs(10), report);
    let headers: Vec<_> = raw
        .headers
        .iter()
        .map(|(name, value)| field(&format!("{path}.headers.{name}"), name, value, base, report))
        .collect();
    Some(OtlpSettings {
        endpoint: endpoint?,
        protocol: match raw.protocol {
            None | Some(raw::OtlpProtocol::Grpc) => Protocol::Grpc,
            Some(raw::OtlpProtocol::Http) => Protocol::Http,
        },
        headers: headers.into_iter().collect::<Option<_>>()?,
        ca_file: raw.ca_file.as_deref().map(|file| joined(base, file)),
        timeout: timeout?,
    })
}

fn field(
    path: &str,
    name: &str,
    value: &raw::FieldForm,
    base: &Path,
    report: &mut Report,
) -> Option<(HeaderName, FieldValue)> {
    let named = HeaderName::try_from(name).map_err(|_| "is no name of a header");
    let name = report.keep(path, named);
    let value = match value {
        raw::FieldForm::Text(text) if text.contains("{{") => {
            let resolved = report.keep(path, resolve(text));
            resolved.map(|secret| FieldValue::Credential(Source::Literal(secret)))
        }
        raw::FieldForm::Text(_) if name == Some(header::AUTHORIZATION) => {
            let what =
                "a credential must not stand in the settings: use {file: PATH} or {env: NAME}";
            report.error(path, what);
            None
        }
        raw::FieldForm::Text(text) => {
            let valid = HeaderValue::from_str(text).map_err(|_| "is no value of a header");
            report.keep(path, valid).map(|_| FieldValue::Plain(text.clone()))
        }
        raw::FieldForm::Source(source) => {
            let (file, env) = (source.file.as_deref(), source.env.as_deref());
            let given = [("a reference", None), ("file", file), ("env", env)];
            credential(path, given, base, report).map(FieldValue::Credential)
        }
    };
    Some((name?, value?))
}
