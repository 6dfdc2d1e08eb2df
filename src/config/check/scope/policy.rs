//! A scope's policies.

mod authzen;

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::check::{joined, refuse_foreign};
use crate::config::raw;
use crate::config::report::Report;
use crate::identity::IdentitySettings;
use crate::policy::{Cedar, CedarSources, Policy};
use crate::route::Routes;

pub(super) fn check(
    path: &str,
    raw: &raw::Scope,
    base: &Path,
    routes: &Option<Routes>,
    identity: Option<&IdentitySettings>,
    report: &mut Report,
) -> Option<Policy> {
    let path = format!("{path}.policy");
    let raw = report.required(&path, raw.policy.as_ref())?;
    let engine = raw.engine.unwrap_or(raw::Engine::Cedar);
    if engine == raw::Engine::Rego {
        let message = "rego is not in this version: use cedar or authzen";
        report.error(format_args!("{path}.engine"), message);
        return None;
    }
    if raw.shadow.is_some() {
        report.error(format_args!("{path}.shadow"), "shadow policies are not in this version");
    }
    if engine == raw::Engine::Authzen {
        refuse_foreign(
            &path,
            &[of_cedar(raw), of_rego(raw)].concat(),
            "the engine authzen",
            report,
        );
        return authzen::check(&path, raw, base, report).map(Policy::authzen);
    }
    refuse_foreign(&path, &[of_rego(raw), authzen::of(raw)].concat(), "the engine cedar", report);
    let files = report.required(format_args!("{path}.files"), raw.files.as_ref())?;
    let sources = CedarSources {
        policies: files.iter().map(|file| joined(base, file)).collect(),
        schema: raw.schema.as_deref().map(|file| joined(base, file)),
        entities: raw.entities.as_deref().map(|file| joined(base, file)),
    };
    let mut types: BTreeSet<&str> = BTreeSet::from(["Path", "Workload", "Anonymous"]);
    types.extend(routes.iter().flat_map(Routes::named_targets).map(|(name, _)| name));
    let issuers = identity.iter().flat_map(|identity| &identity.issuers);
    types.extend(issuers.map(|issuer| issuer.principal_type.as_str()));
    match Cedar::load(&sources, types) {
        Ok(engine) => {
            let policy = Policy::cedar(engine);
            if policy.is_empty() {
                report.warning(format_args!("{path}.files"), "there is no policy: all is denied");
            }
            Some(policy)
        }
        Err(errors) => {
            errors.iter().for_each(|error| report.error(&path, error));
            None
        }
    }
}

/// The settings that only Cedar has, and whether they are set.
fn of_cedar(raw: &raw::Policy) -> Vec<(&'static str, bool)> {
    vec![
        ("files", raw.files.is_some()),
        ("schema", raw.schema.is_some()),
        ("entities", raw.entities.is_some()),
    ]
}

/// The settings that only Rego has.
fn of_rego(raw: &raw::Policy) -> Vec<(&'static str, bool)> {
    vec![("data", raw.data.is_some()), ("query", raw.query.is_some())]
}
