//! A scope's policies, and those that are only compared with them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::check::{joined, refuse_foreign};
use crate::config::raw;
use crate::config::report::Report;
use crate::identity::IdentitySettings;
use crate::policy::{Cedar, CedarSources, Policy};
use crate::route::Routes;

/// The policies in force, and the shadow's.
pub(super) fn check(
    path: &str,
    raw: &raw::Scope,
    base: &Path,
    routes: &Option<Routes>,
    identity: Option<&IdentitySettings>,
    report: &mut Report,
) -> Option<(Policy, Option<Policy>)> {
    let path = format!("{path}.policy");
    let raw = report.required(&path, raw.policy.as_ref())?;
    let policy = load(&path, raw, base, routes, identity, report);
    let shadow = raw.shadow.as_ref().map(|shadow| {
        let raw = as_policy(shadow, raw.engine);
        load(&format!("{path}.shadow"), &raw, base, routes, identity, report)
    });
    Some((policy?, shadow.map_or(Some(None), |shadow| shadow.map(Some))?))
}

fn as_policy(shadow: &raw::Shadow, engine: Option<raw::Engine>) -> raw::Policy {
    let raw::Shadow { engine: own, files, schema, entities, data, query } = shadow.clone();
    let engine = own.or(engine);
    raw::Policy { engine, files, schema, entities, data, query, ..raw::Policy::default() }
}

fn load(
    path: &str,
    raw: &raw::Policy,
    base: &Path,
    routes: &Option<Routes>,
    identity: Option<&IdentitySettings>,
    report: &mut Report,
) -> Option<Policy> {
    if let Some(raw::Engine::Rego | raw::Engine::Authzen) = raw.engine {
        report.error(format_args!("{path}.engine"), "only cedar is in this version");
        return None;
    }
    let foreign = [
        ("data", raw.data.is_some()),
        ("query", raw.query.is_some()),
        ("url", raw.url.is_some()),
        ("timeout", raw.timeout.is_some()),
    ];
    refuse_foreign(path, &foreign, "the engine cedar", report);
    let files = report.required(format_args!("{path}.files"), raw.files.as_ref())?;
    let sources = CedarSources {
        policies: files.iter().map(|file| joined(base, file)).collect(),
        schema: raw.schema.as_deref().map(|file| joined(base, file)),
        entities: raw.entities.as_deref().map(|file| joined(base, file)),
    };
    let mut types: BTreeSet<&str> = BTreeSet::from(["Path", "Workload", "Anonymous"]);
    types.extend(routes.iter().flat_map(Routes::named_targets).map(|(name, _)| name));
    types.extend(identity.iter().flat_map(|identity| identity.principal_types()));
    match Cedar::load(&sources, types) {
        Ok(engine) => {
            let policy = Policy::cedar(engine);
            if policy.is_empty() {
                report.warning(format_args!("{path}.files"), "there is no policy: all is denied");
            }
            Some(policy)
        }
        Err(errors) => {
            errors.iter().for_each(|error| report.error(path, error));
            None
        }
    }
}
