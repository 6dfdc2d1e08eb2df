//! Where a bundle of policies is fetched, and who must have signed it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Surroundings;
use crate::config::check::{duration, joined, read_once, secs};
use crate::config::raw;
use crate::config::report::Report;
use crate::identity::KeySet;
use crate::keys::Algorithm;
use crate::policy::{BundleSettings, Verification};
use crate::remote::acceptable;

/// How often to look where the settings don't say.
pub(super) const POLL_INTERVAL: Duration = secs(60);

/// Looking more often is a way to flood a server.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn check(
    path: &str,
    raw: &raw::PolicyBundle,
    around: Surroundings<'_>,
    report: &mut Report,
) -> Option<BundleSettings> {
    let path_of = |name: &str| format!("{path}.bundle.{name}");
    let url = report.required(path_of("url"), raw.url.as_deref());
    let url = url.and_then(|url| {
        let address = acceptable(url, raw.insecure_http.unwrap_or(false), true);
        report.keep(path_of("url"), address)
    });
    let interval = raw.poll_interval.as_deref();
    let interval = duration(path_of("pollInterval"), interval, POLL_INTERVAL, report);
    if interval.is_some_and(|interval| interval < SHORTEST_INTERVAL) {
        report.error(path_of("pollInterval"), "is less than 100ms");
    }
    let verification = match &raw.verification {
        Some(raw) => {
            let checked = verification(&path_of("verification"), raw, around.base, report)?;
            Some(Arc::new(checked))
        }
        None => {
            let what = "is not set: whoever serves the bundle decides";
            report.warning(path_of("verification"), what);
            None
        }
    };
    let ca_file = raw.ca_file.as_deref().map(|name| read_once(around.base, name, report));
    let token_file = raw.token_file.as_deref().map(|name| joined(around.base, name));
    Some(BundleSettings { url: url?, token_file, ca_file, poll_interval: interval?, verification })
}

fn verification(
    path: &str,
    raw: &raw::BundleVerification,
    base: &Path,
    report: &mut Report,
) -> Option<Verification> {
    let key_file = report.required(format_args!("{path}.keyFile"), raw.key_file.as_deref())?;
    let file = read_once(base, key_file, report);
    let text = std::fs::read_to_string(&file)
        .map_err(|error| format!("can't read `{}`: {error}", file.display()));
    let text = report.keep(format_args!("{path}.keyFile"), text)?;
    let keys = if text.trim_start().starts_with('{') {
        KeySet::parse(text.as_bytes()).map_err(|error| error.to_string())
    } else {
        let what = "holds no public key or certificate in PEM, and no JWK set";
        KeySet::of_pem(&text).ok_or_else(|| format!("`{}` {what}", file.display()))
    };
    Some(Verification {
        keys: report.keep(format_args!("{path}.keyFile"), keys)?,
        algorithm: raw.algorithm.unwrap_or(Algorithm::RS256),
        key_id: raw.key_id.clone(),
        scope: raw.scope.clone().unwrap_or_default(),
    })
}
