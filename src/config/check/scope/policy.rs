//! A scope's policies, and those that are only compared with them.

mod authzen;

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

/// What policies are read beside; what is missing is wrong and reported elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) base: &'a Path,
    pub(super) routes: Option<&'a Routes>,
    pub(super) identity: Option<&'a IdentitySettings>,
    pub(super) header: Option<&'a DecisionHeader>,
}

/// The policies in force, and the shadow's.
pub(super) fn check(
    path: &str,
    raw: &raw::Scope,
    around: Surroundings<'_>,
    report: &mut Report,
) -> Option<(Policy, Option<Policy>)> {
    let path = format!("{path}.policy");
    let raw = report.required(&path, raw.policy.as_ref())?;
    let policy = load(&path, raw, around, report);
    let shadow = raw.shadow.as_ref().map(|shadow| {
        let raw = as_policy(shadow, raw.engine);
        load(&format!("{path}.shadow"), &raw, around, report)
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
    around: Surroundings<'_>,
    report: &mut Report,
) -> Option<Policy> {
    let policy = match raw.engine {
        None | Some(raw::Engine::Cedar) => cedar(path, raw, around, report),
        Some(raw::Engine::Rego) => rego(path, raw, around, report),
        Some(raw::Engine::Authzen) => {
            let files = vec![("files", raw.files.is_some())];
            let foreign = [files, of_cedar(raw), of_rego(raw)].concat();
            refuse_foreign(path, &foreign, "the engine authzen", report);
            authzen::check(path, raw, around.base, report).map(Policy::authzen)
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
    around: Surroundings<'_>,
    report: &mut Report,
) -> Option<Policy> {
    let foreign = [of_rego(raw), authzen::of(raw)].concat();
    refuse_foreign(path, &foreign, "the engine cedar", report);
    let files = report.required(format_args!("{path}.files"), raw.files.as_ref())?;
    let sources = CedarSources {
        policies: files.iter().map(|file| joined(around.base, file)).collect(),
        schema: raw.schema.as_deref().map(|file| joined(around.base, file)),
        entities: raw.entities.as_deref().map(|file| joined(around.base, file)),
    };
    let mut types: BTreeSet<&str> = BTreeSet::from(["Path", "Workload", "Anonymous"]);
    types.extend(
        around.routes.iter().flat_map(|routes| routes.named_targets()).map(|(name, _)| name),
    );
    types.extend(around.identity.iter().flat_map(|identity| identity.principal_types()));
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
    around: Surroundings<'_>,
    report: &mut Report,
) -> Option<Policy> {
    let foreign = [of_cedar(raw), authzen::of(raw)].concat();
    refuse_foreign(path, &foreign, "the engine rego", report);
    let files = report.required(format_args!("{path}.files"), raw.files.as_ref())?;
    let names = around.header.into_iter().flat_map(|header| {
        std::iter::once(header.name()).chain(header.twins().iter().map(String::as_str))
    });
    let sources = RegoSources {
        files: files.iter().map(|file| joined(around.base, file)).collect(),
        data: raw.data.iter().flatten().map(|file| joined(around.base, file)).collect(),
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

/// The settings that only Cedar has, and whether they are set.
fn of_cedar(raw: &raw::Policy) -> Vec<(&'static str, bool)> {
    vec![("schema", raw.schema.is_some()), ("entities", raw.entities.is_some())]
}

/// The settings that only Rego has.
fn of_rego(raw: &raw::Policy) -> Vec<(&'static str, bool)> {
    vec![
        ("data", raw.data.is_some()),
        ("query", raw.query.is_some()),
        ("parseBody", raw.parse_body.is_some()),
    ]
}
