//! A scope's policies.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::check::{joined, refuse_foreign};
use crate::config::raw;
use crate::config::report::Report;
use crate::identity::IdentitySettings;
use crate::policy::{Cedar, CedarSources, Policy, Protected, Rego, RegoSources};
use crate::route::Routes;
use crate::scope::DecisionHeader;

const DEFAULT_QUERY: &str = "envoy/authz/allow";

pub(super) fn check(
    path: &str,
    raw: &raw::Scope,
    base: &Path,
    routes: &Option<Routes>,
    identity: Option<&IdentitySettings>,
    header: Option<&DecisionHeader>,
    report: &mut Report,
) -> Option<Policy> {
    let path = format!("{path}.policy");
    let raw = report.required(&path, raw.policy.as_ref())?;
    if raw.shadow.is_some() {
        report.error(format_args!("{path}.shadow"), "shadow policies are not in this version");
    }
    let policy = match raw.engine {
        None | Some(raw::Engine::Cedar) => cedar(&path, raw, base, routes, identity, report),
        Some(raw::Engine::Rego) => rego(&path, raw, base, header, report),
        Some(raw::Engine::Authzen) => {
            report.error(
                format_args!("{path}.engine"),
                "authzen is not in this version: use cedar or rego",
            );
            None
        }
    }?;
    if policy.is_empty() {
        report.warning(format_args!("{path}.files"), "there is no policy: all is denied");
    }
    Some(policy)
}

fn cedar(
    path: &str,
    raw: &raw::Policy,
    base: &Path,
    routes: &Option<Routes>,
    identity: Option<&IdentitySettings>,
    report: &mut Report,
) -> Option<Policy> {
    let foreign = [
        ("data", raw.data.is_some()),
        ("query", raw.query.is_some()),
        ("parseBody", raw.parse_body.is_some()),
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
    let issuers = identity.iter().flat_map(|identity| &identity.issuers);
    types.extend(issuers.map(|issuer| issuer.principal_type.as_str()));
    match Cedar::load(&sources, types) {
        Ok(engine) => Some(Policy::cedar(engine)),
        Err(errors) => {
            errors.iter().for_each(|error| report.error(path, error));
            None
        }
    }
}

fn rego(
    path: &str,
    raw: &raw::Policy,
    base: &Path,
    header: Option<&DecisionHeader>,
    report: &mut Report,
) -> Option<Policy> {
    let foreign = [
        ("schema", raw.schema.is_some()),
        ("entities", raw.entities.is_some()),
        ("url", raw.url.is_some()),
        ("timeout", raw.timeout.is_some()),
    ];
    refuse_foreign(path, &foreign, "the engine rego", report);
    let files = report.required(format_args!("{path}.files"), raw.files.as_ref())?;
    let names = header.into_iter().flat_map(|header| {
        std::iter::once(header.name()).chain(header.twins().iter().map(String::as_str))
    });
    let sources = RegoSources {
        files: files.iter().map(|file| joined(base, file)).collect(),
        data: raw.data.iter().flatten().map(|file| joined(base, file)).collect(),
        query: raw.query.clone().unwrap_or_else(|| DEFAULT_QUERY.to_owned()),
        parse_body: raw.parse_body.unwrap_or(true),
        protected: Protected::new(names),
    };
    match Rego::load(&sources) {
        Ok(engine) => {
            tracing::info!(query = sources.query, evaluator = %engine.evaluator(), "rego policies compiled");
            Some(Policy::rego(engine))
        }
        Err(errors) => {
            errors.iter().for_each(|error| report.error(path, error));
            None
        }
    }
}
