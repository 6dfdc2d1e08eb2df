//! What is sent to a collector, and where.

use std::path::Path;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::credential::credential;
use super::{duration, joined, secs};
use crate::config::raw;
use crate::config::report::Report;
use crate::remote::acceptable;
use crate::secrets::Source;
use crate::telemetry::{FieldValue, OtlpSettings, Protocol, TelemetrySettings};

/// Sending the metrics more often is of no use.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Header fields that only ever are credentials.
const CREDENTIALS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// Header fields that are the call's own.
const OF_THE_CALL: [&str; 7] =
    ["connection", "content-length", "content-type", "host", "te", "transfer-encoding", "upgrade"];

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
    let headers = headers(raw, base, report);
    let token = token(raw, base, report);
    Some(OtlpSettings {
        endpoint: endpoint?,
        protocol: match raw.protocol {
            None | Some(raw::OtlpProtocol::Grpc) => Protocol::Grpc,
            Some(raw::OtlpProtocol::Http) => Protocol::Http,
        },
        headers: headers?,
        token: token?,
        ca_file: raw.ca_file.as_deref().map(|file| joined(base, file)),
        timeout: timeout?,
    })
}

/// The fields of every call, but for those of its own.
fn headers(
    raw: &raw::Otlp,
    base: &Path,
    report: &mut Report,
) -> Option<Vec<(HeaderName, FieldValue)>> {
    let (written, files) = ("telemetry.otlp.headers", "telemetry.otlp.headerFiles");
    let mut found = Vec::new();
    for (name, text) in &raw.headers {
        let name = name_of(written, name, report);
        let value = HeaderValue::from_str(text).map_err(|_| "holds a value that no header has");
        let value = report.keep(written, value).map(|_| FieldValue::Plain(text.clone()));
        if name.as_ref().is_some_and(|name| CREDENTIALS.contains(&name.as_str())) {
            let what = "a credential must not stand in the settings: use tokenFile or headerFiles";
            report.error(written, what);
        }
        found.push(name.zip(value));
    }
    for (name, file) in &raw.header_files {
        let value = FieldValue::Credential(Source::File(joined(base, file)));
        found.push(name_of(files, name, report).map(|name| (name, value)));
    }
    found.into_iter().collect()
}

fn name_of(path: &str, name: &str, report: &mut Report) -> Option<HeaderName> {
    let named = HeaderName::try_from(name).ok();
    let named = named.filter(|name| !OF_THE_CALL.contains(&name.as_str()));
    report.keep(path, named.ok_or_else(|| format!("`{name}` is no header that can be set")))
}

/// The outer `None` is an error.
#[expect(clippy::option_option, reason = "of a faulty setting and of one that is not there")]
fn token(raw: &raw::Otlp, base: &Path, report: &mut Report) -> Option<Option<Source>> {
    let given = [
        ("token", raw.token.as_deref()),
        ("tokenFile", raw.token_file.as_deref()),
        ("tokenEnv", raw.token_env.as_deref()),
    ];
    if given.iter().all(|(_, text)| text.is_none()) {
        return Some(None);
    }
    credential("telemetry.otlp", given, base, report).map(Some)
}
