//! How a remote decision point is asked.

use std::path::Path;
use std::time::Duration;

use crate::config::check::stores::check_address;
use crate::config::check::{duration, joined, read_once};
use crate::config::raw;
use crate::config::report::Report;
use crate::policy::{Authzen, AuthzenSettings, Credentials};

const DEFAULT_CACHE_SIZE: usize = 10_000;

/// A call longer than this would outlast any proxy's patience.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// A decision kept longer than this would no longer be one.
const MAX_TTL: Duration = Duration::from_secs(3600);

pub(super) fn check(
    path: &str,
    raw: &raw::Policy,
    base: &Path,
    report: &mut Report,
) -> Option<Authzen> {
    let path_of = |name: &str| format!("{path}.{name}");
    let url = report.required(path_of("url"), raw.url.as_deref());
    let url = url.and_then(|url| {
        let is_insecure_fine = raw.insecure_http.unwrap_or(false);
        report.keep(path_of("url"), address(url, is_insecure_fine))
    });
    let timeout = raw.timeout.as_deref();
    let timeout = duration(path_of("timeout"), timeout, Duration::from_millis(100), report);
    let timeout = timeout.filter(|timeout| {
        let is_fine = !timeout.is_zero() && *timeout <= MAX_TIMEOUT;
        if !is_fine {
            report.error(path_of("timeout"), "is not between 1ms and 60s");
        }
        is_fine
    });
    let cache_ttl = raw.cache_ttl.as_deref();
    let cache_ttl = duration(path_of("cacheTtl"), cache_ttl, Duration::ZERO, report);
    if cache_ttl.is_some_and(|ttl| ttl > MAX_TTL) {
        report.error(path_of("cacheTtl"), "is more than 1h");
    }
    let credentials = credentials(path, raw, base, report);
    let authorities = match &raw.ca_file {
        None => None,
        Some(file) => {
            let file = read_once(base, file, report);
            let read = std::fs::read(&file)
                .map_err(|error| format!("can't read `{}`: {error}", file.display()));
            Some(report.keep(path_of("caFile"), read)?)
        }
    };
    let settings = AuthzenSettings {
        url: url?,
        timeout: timeout?,
        cache_ttl: cache_ttl?,
        cache_size: raw.cache_size.unwrap_or(DEFAULT_CACHE_SIZE),
        credentials: credentials?,
        authorities,
        prior_knowledge: raw.prior_knowledge.unwrap_or(false),
        headers: headers(path, raw, report)?,
        query: raw.send_query.clone().unwrap_or_default(),
    };
    report.keep(path, Authzen::new(settings))
}

/// The settings that only this engine has, and whether they are set.
pub(super) fn of(raw: &raw::Policy) -> Vec<(&'static str, bool)> {
    vec![
        ("url", raw.url.is_some()),
        ("timeout", raw.timeout.is_some()),
        ("cacheTtl", raw.cache_ttl.is_some()),
        ("cacheSize", raw.cache_size.is_some()),
        ("tokenFile", raw.token_file.is_some()),
        ("username", raw.username.is_some()),
        ("passwordFile", raw.password_file.is_some()),
        ("caFile", raw.ca_file.is_some()),
        ("insecureHttp", raw.insecure_http.is_some()),
        ("priorKnowledge", raw.prior_knowledge.is_some()),
        ("sendHeaders", raw.send_headers.is_some()),
        ("sendQuery", raw.send_query.is_some()),
    ]
}

fn address(text: &str, is_insecure_fine: bool) -> Result<reqwest::Url, String> {
    let url = reqwest::Url::parse(text);
    let url =
        url.map_err(|_| "is no address: write https://HOST/access/v1/evaluation".to_owned())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or password in it: use username and passwordFile".to_owned());
    }
    check_address(text, is_insecure_fine)?;
    Ok(url)
}

fn credentials(
    path: &str,
    raw: &raw::Policy,
    base: &Path,
    report: &mut Report,
) -> Option<Credentials> {
    match (&raw.token_file, &raw.username, &raw.password_file) {
        (None, None, None) => Some(Credentials::Nothing),
        (Some(file), None, None) => Some(Credentials::Bearer(joined(base, file))),
        (None, Some(name), Some(_)) if name.is_empty() || name.contains(':') => {
            let path = format!("{path}.username");
            report.error(path, "is empty or has a `:`, which HTTP Basic can't carry");
            None
        }
        (None, Some(name), Some(file)) => {
            Some(Credentials::Basic(name.clone(), joined(base, file)))
        }
        _ => {
            let message = "present either a tokenFile, or a username and its passwordFile";
            report.error(format!("{path}.tokenFile"), message);
            None
        }
    }
}

fn headers(path: &str, raw: &raw::Policy, report: &mut Report) -> Option<Vec<String>> {
    let names = raw.send_headers.iter().flatten();
    names
        .map(|name| {
            let lower = name.to_ascii_lowercase();
            let is_name = http::HeaderName::try_from(&lower).is_ok();
            let message = format!("`{name}` is no header that a request can have");
            report.keep(format_args!("{path}.sendHeaders"), is_name.then_some(lower).ok_or(message))
        })
        .collect()
}
