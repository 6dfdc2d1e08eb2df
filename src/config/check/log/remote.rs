//! Where batches of decision lines are sent, and how.

use std::path::Path;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::audit::{Credentials, Form, GRPC_PATH, HTTP_PATH, RemoteSettings, Resource};
use crate::config::check::credential::credential;
use crate::config::check::stores::check_address;
use crate::config::check::{duration, joined, read_once, refuse_foreign, secs};
use crate::config::raw;
use crate::config::report::Report;

const DEFAULT_BATCH: usize = 1024 * 1024;

/// A smaller batch is hardly one.
const LEAST_BATCH: usize = 1024;

/// A longer attempt would hold everything up.
const MAX_TIMEOUT: Duration = secs(60);

/// What a line may wait at most.
const MAX_INTERVAL: Duration = secs(60);

/// Header fields that are ours to set.
const OWN: [&str; 9] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "grpc-encoding",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What a sink is read beside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) base: &'a Path,
    pub(super) buffer_bytes: usize,
    pub(super) instance: &'a str,
}

pub(super) fn http(
    raw: &raw::RemoteSink,
    around: Surroundings<'_>,
    report: &mut Report,
) -> Option<RemoteSettings> {
    let path = "decisionLog.sink.http";
    let foreign = [
        ("endpoint", raw.endpoint.is_some()),
        ("protocol", raw.protocol.is_some()),
        ("serviceName", raw.service_name.is_some()),
    ];
    refuse_foreign(path, &foreign, "http", report);
    let form = match raw.format {
        None | Some(raw::BatchFormat::Ndjson) => Form::Ndjson,
        Some(raw::BatchFormat::Json) => Form::JsonArray,
    };
    let url = address(&format!("{path}.url"), raw.url.as_deref(), raw, report);
    settings(path, raw, around, report, url.map(|url| (url, form)))
}

pub(super) fn otlp(
    raw: &raw::RemoteSink,
    around: Surroundings<'_>,
    report: &mut Report,
) -> Option<RemoteSettings> {
    let path = "decisionLog.sink.otlp";
    let foreign = [("url", raw.url.is_some()), ("format", raw.format.is_some())];
    refuse_foreign(path, &foreign, "otlp", report);
    let resource = Resource {
        service_name: raw.service_name.clone().unwrap_or_else(|| "placet".to_owned()),
        instance: around.instance.to_owned(),
    };
    let path_of = format!("{path}.endpoint");
    let url = address(&path_of, raw.endpoint.as_deref(), raw, report);
    let url = url.and_then(|mut url| {
        let is_bare = url.path() == "/";
        match raw.protocol {
            None | Some(raw::OtlpProtocol::Grpc) if is_bare => {
                url.set_path(GRPC_PATH);
                Some((url, Form::OtlpGrpc(resource)))
            }
            None | Some(raw::OtlpProtocol::Grpc) => {
                report.error(
                    path_of,
                    "has a path, which gRPC has not: remove it, or say `protocol: http`",
                );
                None
            }
            Some(raw::OtlpProtocol::Http) => {
                let base = url.path().trim_end_matches('/').to_owned();
                if !base.ends_with(HTTP_PATH) {
                    url.set_path(&format!("{base}{HTTP_PATH}"));
                }
                Some((url, Form::OtlpHttp(resource)))
            }
        }
    });
    settings(path, raw, around, report, url)
}

fn settings(
    path: &str,
    raw: &raw::RemoteSink,
    around: Surroundings<'_>,
    report: &mut Report,
    target: Option<(reqwest::Url, Form)>,
) -> Option<RemoteSettings> {
    let path_of = |name: &str| format!("{path}.{name}");
    let within =
        |name: &str, text: Option<&str>, default: u64, max: Duration, report: &mut Report| {
            let found = duration(path_of(name), text, secs(default), report)?;
            let is_fine = !found.is_zero() && found <= max;
            if !is_fine {
                report.error(path_of(name), format_args!("is not between 1ms and {max:?}"));
            }
            is_fine.then_some(found)
        };
    let timeout = within("timeout", raw.timeout.as_deref(), 10, MAX_TIMEOUT, report);
    let interval = raw.batch_interval.as_deref();
    let batch_interval = within("batchInterval", interval, 1, MAX_INTERVAL, report);
    let batch_bytes = raw.batch_bytes.unwrap_or(DEFAULT_BATCH.min(around.buffer_bytes));
    if batch_bytes < LEAST_BATCH || batch_bytes > around.buffer_bytes {
        let what = format_args!("is not between {LEAST_BATCH} and bufferBytes");
        report.error(path_of("batchBytes"), what);
    }
    let headers = headers(path, raw, report);
    let header_files = header_files(path, raw, around.base, report);
    let credentials = credentials(path, raw, around.base, report);
    let ca_file = raw.ca_file.as_deref().map(|name| read_once(around.base, name, report));
    if let Some(file) = ca_file.as_ref().filter(|file| !file.is_file()) {
        let what = format!("there is no file `{}`", file.display());
        report.for_listeners(path_of("caFile"), what);
    }
    let (url, form) = target?;
    Some(RemoteSettings {
        url,
        form,
        headers: headers?,
        header_files: header_files?,
        credentials: credentials?,
        ca_file,
        timeout: timeout?,
        batch_bytes,
        batch_interval: batch_interval?,
        gzip: raw.compression == Some(raw::BatchCompression::Gzip),
    })
}

fn address(
    path: &str,
    text: Option<&str>,
    raw: &raw::RemoteSink,
    report: &mut Report,
) -> Option<reqwest::Url> {
    let text = report.required(path, text)?;
    let url = reqwest::Url::parse(text).map_err(|_| "is no address: write https://HOST".to_owned());
    let url = url.and_then(|url| {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "has a user name or password in it: use username and passwordFile".to_owned()
            );
        }
        check_address(text, raw.insecure_http.unwrap_or(false)).map(|()| url)
    });
    report.keep(path, url)
}

fn name_of(path: &str, name: &str, report: &mut Report) -> Option<HeaderName> {
    let parsed = HeaderName::try_from(name.to_ascii_lowercase()).ok();
    let parsed = parsed.filter(|name| !OWN.contains(&name.as_str()));
    let what = "is no header of yours to set: remove it";
    report.keep(path, parsed.ok_or_else(|| format!("`{name}` {what}")))
}

fn headers(path: &str, raw: &raw::RemoteSink, report: &mut Report) -> Option<HeaderMap> {
    let path = format!("{path}.headers");
    let mut headers = HeaderMap::new();
    for (name, value) in &raw.headers {
        let name = name_of(&path, name, report)?;
        if ["authorization", "proxy-authorization", "cookie"].contains(&name.as_str()) {
            let what = "is a credential, which must not stand in the settings: use tokenFile or headerFiles";
            report.error(path, format_args!("`{name}` {what}"));
            return None;
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("the value of `{name}` is none that a header can have"));
        headers.insert(name, report.keep(&path, value)?);
    }
    Some(headers)
}

fn header_files(
    path: &str,
    raw: &raw::RemoteSink,
    base: &Path,
    report: &mut Report,
) -> Option<Vec<(HeaderName, std::path::PathBuf)>> {
    let path = format!("{path}.headerFiles");
    let files = raw.header_files.iter();
    files.map(|(name, file)| Some((name_of(&path, name, report)?, joined(base, file)))).collect()
}

fn credentials(
    path: &str,
    raw: &raw::RemoteSink,
    base: &Path,
    report: &mut Report,
) -> Option<Credentials> {
    let token = [
        ("token", raw.token.as_deref()),
        ("tokenFile", raw.token_file.as_deref()),
        ("tokenEnv", raw.token_env.as_deref()),
    ];
    let has_token = token.iter().any(|(_, given)| given.is_some());
    match (has_token, &raw.username, &raw.password_file) {
        (false, None, None) => Some(Credentials::Nothing),
        (true, None, None) => credential(path, token, base, report).map(Credentials::Bearer),
        (false, Some(name), Some(_)) if name.is_empty() || name.contains(':') => {
            let what = "is empty or has a `:`, which HTTP Basic can't carry";
            report.error(format_args!("{path}.username"), what);
            None
        }
        (false, Some(name), Some(file)) => {
            Some(Credentials::Basic(name.clone(), joined(base, file)))
        }
        _ => {
            let what = "present either a token, or a username and its passwordFile";
            report.error(format_args!("{path}.tokenFile"), what);
            None
        }
    }
}
