//! A scope's policies, and those that are only compared with them.

mod authzen;
mod bundle;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::check::{duration, read_once, refuse_foreign};
use crate::config::raw;
use crate::config::report::Report;
use crate::identity::IdentitySettings;
use crate::policy::{
    BundleTask, Cedar, CedarSources, Policy, Protected, Rego, RegoSources, bundle as bundles,
};
use crate::request::Descriptors;
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
    pub(super) descriptors: Option<&'a Arc<Descriptors>>,
}

/// A scope's policies.
#[derive(Debug)]
pub(super) struct Policies {
    /// In force.
    pub(super) policy: Policy,
    /// Only compared with them.
    pub(super) shadow: Option<Policy>,
    /// What fetches those in force.
    pub(super) bundle: Option<BundleTask>,
}

pub(super) fn check(
    path: &str,
    raw: &raw::Scope,
    around: Surroundings<'_>,
    report: &mut Report,
) -> Option<Policies> {
    let path = format!("{path}.policy");
    let raw = report.required(&path, raw.policy.as_ref())?;
    let descriptors = raw.proto_descriptor.as_deref().map(|file| {
        let read = descriptors(&read_once(around.base, file, report));
        report.keep(format_args!("{path}.protoDescriptor"), read).map(Arc::new)
    });
    let descriptors = descriptors.map_or(Some(None), |descriptors| descriptors.map(Some));
    // What is only compared sees by the same.
    let around = Surroundings { descriptors: descriptors.iter().flatten().next(), ..around };
    let loaded = match &raw.bundle {
        None => load(&path, raw, around, report).map(|policy| (policy, None)),
        Some(bundle) => fetched(&path, raw, bundle, around, report),
    };
    let shadow = raw.shadow.as_ref().map(|shadow| {
        let raw = as_policy(shadow, raw.engine);
        load(&format!("{path}.shadow"), &raw, around, report)
    });
    let shadow = shadow.map_or(Some(None), |shadow| shadow.map(Some));
    let (policy, bundle) = loaded?;
    descriptors.as_ref()?;
    Some(Policies { policy, shadow: shadow?, bundle })
}

/// How long policies may go unconfirmed, which is not to happen between two looks. The outer `None` is an
/// error.
pub(super) fn max_age(
    path: &str,
    raw: &raw::Scope,
    looks: Option<Duration>,
    report: &mut Report,
) -> Option<Option<Duration>> {
    let Some(raw) = &raw.policy else { return Some(None) };
    let Some(text) = raw.max_policy_age.as_deref() else { return Some(None) };
    let path = format!("{path}.policy.maxPolicyAge");
    let max = duration(&path, Some(text), Duration::ZERO, report)?;
    let (looks, what) = match &raw.bundle {
        _ if raw.engine == Some(raw::Engine::Authzen) => {
            report.error(path, "does not belong to the engine authzen: remove it");
            return None;
        }
        Some(bundle) => (bundle_looks(bundle), "bundle.pollInterval"),
        None => (looks, "reload.interval"),
    };
    match looks {
        None => report.error(path, "needs files to be watched: remove `reload.watch: false`"),
        Some(looks) if max < looks.saturating_mul(3) => {
            report.error(path, format_args!("is less than three times `{what}`"));
        }
        Some(_) => return Some(Some(max)),
    }
    None
}

/// As its own check reads it, which says what is wrong with it.
fn bundle_looks(bundle: &raw::PolicyBundle) -> Option<Duration> {
    let text = bundle.poll_interval.as_deref();
    duration("", text, bundle::POLL_INTERVAL, &mut Report::default())
        .or(Some(bundle::POLL_INTERVAL))
}

fn descriptors(file: &Path) -> Result<Descriptors, String> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| format!("can't read `{shown}`: {error}"))?;
    Descriptors::parse(bytes).map_err(|error| format!("`{shown}` {error}"))
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
            let others = vec![
                ("files", raw.files.is_some()),
                ("protoDescriptor", raw.proto_descriptor.is_some()),
            ];
            let foreign = [others, of_cedar(raw), of_rego(raw)].concat();
            refuse_foreign(path, &foreign, "the engine authzen", report);
            authzen::check(path, raw, around.base, report).map(Policy::authzen)
        }
    }?;
    if policy.is_empty() {
        report.warning(format_args!("{path}.files"), "there is no policy: all is denied");
    }
    Some(policy)
}

/// Policies that are not here yet: what their bundle must be, and how they are made of it.
fn fetched(
    path: &str,
    raw: &raw::Policy,
    bundle: &raw::PolicyBundle,
    around: Surroundings<'_>,
    report: &mut Report,
) -> Option<(Policy, Option<BundleTask>)> {
    let files = vec![("files", raw.files.is_some())];
    let (name, others) = match raw.engine {
        None | Some(raw::Engine::Cedar) => ("cedar", of_rego(raw)),
        Some(raw::Engine::Rego) => ("rego", Vec::new()),
        Some(raw::Engine::Authzen) => {
            report.error(
                format_args!("{path}.bundle"),
                "does not belong to the engine authzen: remove it",
            );
            return None;
        }
    };
    let foreign = [files, of_cedar(raw), authzen::of(raw), others].concat();
    refuse_foreign(path, &foreign, "policies of a bundle", report);
    let settings = bundle::check(path, bundle, around, report)?;
    let build: bundles::Build = if name == "cedar" {
        let types: Vec<String> = cedar_types(around).into_iter().map(str::to_owned).collect();
        let descriptors = around.descriptors.cloned();
        Box::new(move |bundle| {
            let types = types.iter().map(String::as_str);
            let descriptors = descriptors.clone();
            Cedar::load(&CedarSources { descriptors, ..CedarSources::of_bundle(bundle) }, types)
                .map(Policy::cedar)
                .map_err(joined_lines)
        })
    } else {
        let sources = rego_sources(raw, around, report);
        Box::new(move |bundle| {
            let sources = RegoSources { bundle: Some(Arc::new(bundle)), ..sources.clone() };
            Rego::load(&sources).map(Policy::rego).map_err(joined_lines)
        })
    };
    let (policy, task) = Policy::fetched(name, settings, build);
    Some((policy, Some(task)))
}

fn joined_lines(errors: Vec<impl ToString>) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The principal and asset types that requests will name.
fn cedar_types<'a>(around: Surroundings<'a>) -> BTreeSet<&'a str> {
    let mut types: BTreeSet<&str> = BTreeSet::from(["Path", "Workload", "Anonymous"]);
    types.extend(
        around.routes.iter().flat_map(|routes| routes.named_targets()).map(|(name, _)| name),
    );
    types.extend(around.identity.iter().flat_map(|identity| identity.principal_types()));
    types
}

fn rego_sources(raw: &raw::Policy, around: Surroundings<'_>, report: &mut Report) -> RegoSources {
    let names = around.header.into_iter().flat_map(|header| {
        std::iter::once(header.name()).chain(header.twins().iter().map(String::as_str))
    });
    let mut paths = |names: &Option<Vec<String>>| {
        names.iter().flatten().map(|file| read_once(around.base, file, report)).collect()
    };
    RegoSources {
        files: paths(&raw.files),
        data: paths(&raw.data),
        query: raw.query.clone().unwrap_or_else(|| DEFAULT_QUERY.to_owned()),
        parse_body: raw.parse_body.unwrap_or(true),
        protected: Protected::new(names),
        bundle: None,
        descriptors: around.descriptors.cloned(),
    }
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
        policies: files.iter().map(|file| read_once(around.base, file, report)).collect(),
        schema: raw.schema.as_deref().map(|file| read_once(around.base, file, report)),
        entities: raw.entities.as_deref().map(|file| read_once(around.base, file, report)),
        bundle: None,
        descriptors: around.descriptors.cloned(),
    };
    match Cedar::load(&sources, cedar_types(around)) {
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
    report.required(format_args!("{path}.files"), raw.files.as_ref())?;
    let sources = rego_sources(raw, around, report);
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
