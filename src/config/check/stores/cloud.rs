//! The details of a cloud's store. Credentials are not among them: they are the process's own, in
//! the environment or from the machine.

use super::check_address;
use crate::config::check::{duration, secs, texts};
use crate::config::raw;
use crate::config::report::Report;
use crate::secrets::{AwsSettings, AzureSettings};

pub(super) fn aws(path: &str, details: &raw::Details, report: &mut Report) -> Option<AwsSettings> {
    let is_insecure_fine = details.insecure_http.unwrap_or(false);
    let region = report.required(format_args!("{path}.region"), details.region.clone());
    let region = region.filter(|region| {
        // It becomes a part of a host name.
        let is_fine = !region.is_empty()
            && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_fine {
            let message = format!("`{region}` is no region: write one such as eu-west-1");
            report.error(format_args!("{path}.region"), message);
        }
        is_fine
    });
    let address = match details.address.as_ref().map(texts) {
        None => None,
        Some([address]) => {
            let checked = check_address(address, is_insecure_fine);
            report.keep(format_args!("{path}.address"), checked).map(|()| address.clone())
        }
        Some(_) => {
            report.error(format_args!("{path}.address"), "is a list: give one address, or none");
            None
        }
    };
    let (timeout, refresh_interval) = times(path, details, report)?;
    Some(AwsSettings { region: region?, address, is_insecure_fine, timeout, refresh_interval })
}

pub(super) fn azure(
    path: &str,
    details: &raw::Details,
    report: &mut Report,
) -> Option<AzureSettings> {
    let at = format!("{path}.vaultUrl");
    let vault_url = report.required(&at, details.vault_url.as_deref());
    let vault_url = vault_url.and_then(|url| report.keep(&at, vault_address(url)));
    let (timeout, refresh_interval) = times(path, details, report)?;
    Some(AzureSettings { vault_url: vault_url?, timeout, refresh_interval })
}

fn times(
    path: &str,
    details: &raw::Details,
    report: &mut Report,
) -> Option<(std::time::Duration, std::time::Duration)> {
    let timeout = details.timeout.as_deref();
    let timeout = duration(format_args!("{path}.timeout"), timeout, secs(2), report);
    let refresh = details.refresh_interval.as_deref();
    let refresh = duration(format_args!("{path}.refreshInterval"), refresh, secs(30), report);
    Some((timeout?, refresh?))
}

/// A vault and nothing more. Its tokens go nowhere but over TLS, on loopback too.
fn vault_address(text: &str) -> Result<String, String> {
    check_address(text, false)?;
    let problem = |what: &str| format!("`{text}` {what}: write https://NAME.vault.azure.net");
    let url = reqwest::Url::parse(text).map_err(|_| problem("is no address"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds credentials: take them out".to_owned());
    }
    if url.scheme() != "https" {
        return Err(problem("is not https"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(problem("has more than a host"));
    }
    Ok(url.origin().ascii_serialization())
}
