//! The secret stores.

mod cloud;
mod vault;

use std::collections::BTreeMap;
use std::path::Path;

use super::{joined, refuse_foreign};
use crate::config::load::Loaded;
use crate::config::raw::{self, StoreType};
use crate::config::report::Report;
use crate::secrets::{SecretError, SecretStores, StoreKind, StoreSettings};

pub(super) fn check(loaded: &Loaded, report: &mut Report) -> Option<SecretStores> {
    let stores = &loaded.settings.secret_stores;
    let settings: Vec<Option<StoreSettings>> = stores
        .iter()
        .enumerate()
        .map(|(index, raw)| store(&loaded.store_path(index), raw, loaded.store_base(index), report))
        .collect();
    check_ids(loaded, report);
    // The default one may be yet to come.
    let needs_none = loaded.settings.scopes.is_empty() && loaded.settings.control_plane.is_some();
    // The rules between stores are judged even when one of them is broken.
    let is_complete = settings.iter().all(Option::is_some);
    match SecretStores::open(settings.into_iter().flatten().collect()) {
        Ok(stores) if is_complete => Some(stores),
        Ok(_) => None,
        Err(errors) => {
            // A store that is left out here might be the default.
            let is_known = |error: &&SecretError| {
                let is_default = matches!(error, SecretError::NoDefault { .. });
                let is_said = matches!(error, SecretError::DuplicateStore { .. });
                !is_said && !(is_default && (needs_none || !is_complete))
            };
            errors.iter().filter(is_known).for_each(|error| report.error("secretStores", error));
            None
        }
    }
}

/// No two stores have one id, whether or not one of them is the snapshot's.
fn check_ids(loaded: &Loaded, report: &mut Report) {
    let mut seen = BTreeMap::new();
    let ids = loaded.settings.secret_stores.iter().map(|store| store.id.as_ref());
    for (index, id) in ids.enumerate().filter_map(|(index, id)| Some((index, id?))) {
        let first = *seen.entry(id).or_insert(index);
        if first != index {
            let first = loaded.store_path(first);
            let message = format!("`{id}` is also the id of {first}: rename one");
            report.error(format!("{}.id", loaded.store_path(index)), message);
        }
    }
}

fn store(path: &str, raw: &raw::Store, base: &Path, report: &mut Report) -> Option<StoreSettings> {
    let id = report.required(format_args!("{path}.id"), raw.id.clone());
    if id.as_deref() == Some("ENV_VAR") {
        report.error(format_args!("{path}.id"), "`ENV_VAR` is built in: choose another id");
    }
    let kind = report.required(format_args!("{path}.type"), raw.kind)?;
    let details = format!("{path}.details");
    refuse_foreign(&details, &foreign_details(kind, &raw.details), kind_name(kind), report);
    let kind = match kind {
        StoreType::Vault => {
            StoreKind::Vault(vault::settings(&details, &raw.details, base, report)?)
        }
        StoreType::File => {
            let directory = raw.details.directory.as_deref();
            let directory = report.required(format_args!("{details}.directory"), directory)?;
            StoreKind::File { directory: joined(base, directory) }
        }
        StoreType::Env => {
            let prefix = raw.details.prefix.clone();
            StoreKind::Env { prefix: report.required(format_args!("{details}.prefix"), prefix)? }
        }
        StoreType::AwsSecretsManager => StoreKind::Aws(cloud::aws(&details, &raw.details, report)?),
        StoreType::AzureKeyVault => StoreKind::Azure(cloud::azure(&details, &raw.details, report)?),
    };
    Some(StoreSettings { id: id?, default: raw.default.unwrap_or(false), kind })
}

const fn kind_name(kind: StoreType) -> &'static str {
    match kind {
        StoreType::Vault => "a store of type vault",
        StoreType::File => "a store of type file",
        StoreType::Env => "a store of type env",
        StoreType::AwsSecretsManager => "a store of type awsSecretsManager",
        StoreType::AzureKeyVault => "a store of type azureKeyVault",
    }
}

fn foreign_details(kind: StoreType, details: &raw::Details) -> Vec<(&'static str, bool)> {
    use StoreType::{AwsSecretsManager, AzureKeyVault, Env, File, Vault};
    let fields: [(&str, &[StoreType], bool); 15] = [
        ("address", &[Vault, AwsSecretsManager], details.address.is_some()),
        ("insecureHttp", &[Vault, AwsSecretsManager], details.insecure_http.is_some()),
        ("namespace", &[Vault], details.namespace.is_some()),
        ("mount", &[Vault], details.mount.is_some()),
        ("kvVersion", &[Vault], details.kv_version.is_some()),
        ("transitMount", &[Vault], details.transit_mount.is_some()),
        ("defaultPath", &[Vault], details.default_path.is_some()),
        ("auth", &[Vault], details.auth.is_some()),
        ("tls", &[Vault], details.tls.is_some()),
        ("timeout", &[Vault, AwsSecretsManager, AzureKeyVault], details.timeout.is_some()),
        (
            "refreshInterval",
            &[Vault, AwsSecretsManager, AzureKeyVault],
            details.refresh_interval.is_some(),
        ),
        ("directory", &[File], details.directory.is_some()),
        ("prefix", &[Env], details.prefix.is_some()),
        ("region", &[AwsSecretsManager], details.region.is_some()),
        ("vaultUrl", &[AzureKeyVault], details.vault_url.is_some()),
    ];
    fields
        .into_iter()
        .filter(|(_, owners, _)| !owners.contains(&kind))
        .map(|(name, _, is_set)| (name, is_set))
        .collect()
}

/// Credentials travel to this address: plain http is for loopback unless said aloud.
pub(super) fn check_address(address: &str, is_insecure_fine: bool) -> Result<(), String> {
    let url = reqwest::Url::parse(address)
        .map_err(|_| format!("`{address}` is no address: write https://HOST:PORT"))?;
    let is_loopback = match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback()),
        None => return Err(format!("`{address}` has no host: write https://HOST:PORT")),
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback || is_insecure_fine => Ok(()),
        "http" => Err(format!(
            "`{address}` would send secrets in the clear: use https, or say `insecureHttp: true`"
        )),
        _ => Err(format!("`{address}` is neither http nor https")),
    }
}
