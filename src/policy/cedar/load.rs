//! Reading what decides: policy files, schema, entities, each validated.
//!
//! All that is wrong is said at once. A policy is known by its `@id`; without one by its file and
//! place, or in a JSON policy set by its key there; a link always by the id its file gives it, since
//! all links of a template share the template's annotations.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{Context as Digest, SHA256};
use cedar_policy::{Entities, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use cedar_policy_core::ast::EntityType;

use crate::policy::bundle::Bundle;
use crate::request::Descriptors;

/// Where a scope's policies come from.
#[derive(Clone, Debug)]
pub struct CedarSources {
    /// Policy files, in Cedar syntax, or a JSON policy set when the name ends in `.json`.
    pub policies: Vec<PathBuf>,
    /// A schema, in Cedar syntax, or JSON when the name ends in `.json`.
    pub schema: Option<PathBuf>,
    /// Entities, in Cedar's JSON form.
    pub entities: Option<PathBuf>,
    /// Where all these files are; `None`: in the file system.
    pub bundle: Option<Arc<Bundle>>,
    /// What gRPC methods take.
    pub descriptors: Option<Arc<Descriptors>>,
}

impl CedarSources {
    /// What a bundle holds: policies in every `.cedar` and `.cedar.json`, `schema.cedarschema` and
    /// `entities.json`.
    pub fn of_bundle(bundle: Bundle) -> Self {
        let is_policy = |name: &&str| name.ends_with(".cedar") || name.ends_with(".cedar.json");
        let there = |name: &str| bundle.file_named(name).map(|_| PathBuf::from(name));
        Self {
            policies: bundle
                .files()
                .map(|(name, _)| name)
                .filter(is_policy)
                .map(PathBuf::from)
                .collect(),
            schema: there("schema.cedarschema"),
            entities: there("entities.json"),
            bundle: Some(Arc::new(bundle)),
            descriptors: None,
        }
    }

    fn read(&self, path: &Path, revision: &mut Digest) -> Result<String, CedarError> {
        let text = match &self.bundle {
            None => std::fs::read_to_string(path),
            Some(bundle) => path
                .to_str()
                .and_then(|name| bundle.file_named(name))
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
                .and_then(|bytes| String::from_utf8(bytes.to_vec()).map_err(io::Error::other)),
        };
        let text = text.map_err(|source| CedarError::Read { path: path.to_owned(), source })?;
        revision.update(&text.len().to_be_bytes());
        revision.update(text.as_bytes());
        Ok(text)
    }
}

/// What the sources hold.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) policies: PolicySet,
    pub(super) entities: Entities,
    /// `(asset type, action)`: which actions there are on what, by the schema.
    pub(super) actions: Vec<(String, String)>,
    pub(super) descriptors: Option<Arc<Descriptors>>,
    pub(super) revision: String,
}

impl Loaded {
    /// Reads all sources; `None` when what is missing has been added to `errors`.
    pub(super) fn read(sources: &CedarSources, errors: &mut Vec<CedarError>) -> Option<Self> {
        let mut revision = Digest::new(&SHA256);
        let policies = read_policies(sources, &mut revision, errors);
        let schema = sources
            .schema
            .as_deref()
            .and_then(|path| keep(read_schema(sources, path, &mut revision), errors));
        if let Some(schema) = &schema {
            validate(&policies, schema, errors);
        }
        let entities = keep(read_entities(sources, schema.as_ref(), &mut revision), errors)?;
        let actions = schema.iter().flat_map(actions).collect();
        let descriptors = sources.descriptors.clone();
        if let Some(descriptors) = &descriptors {
            revision.update(descriptors.bytes());
        }
        Some(Self { policies, entities, actions, descriptors, revision: short_hex(revision) })
    }
}

/// What is wrong with a policy set.
#[derive(Debug, thiserror::Error)]
pub enum CedarError {
    /// A file can't be read.
    #[error("can't read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("`{}` is not valid: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Cedar's own words.
        message: String,
    },
    /// Two policies with one id.
    #[error("`{}`: the id `{id}` is taken by another policy: give each its own @id", path.display())]
    DuplicateId {
        /// The file of the second one.
        path: PathBuf,
        /// The id.
        id: String,
    },
    /// A policy template, which nothing links.
    #[error("`{}`: the template `{id}` is linked by nothing: write it out as policies, or link it in a policy set in JSON", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// Its id.
        id: String,
    },
    /// A policy does not fit the schema.
    #[error("the policies do not fit the schema: {0}")]
    Invalid(String),
    /// A name that is no Cedar entity type.
    #[error("`{0}` is not an entity type: write an identifier such as `Account` or `Shop::Order`")]
    EntityType(String),
}

pub(super) fn entity_type(name: &str) -> Result<EntityType, CedarError> {
    EntityType::from_str(name).map_err(|_| CedarError::EntityType(name.to_owned()))
}

pub(super) fn keep<T>(result: Result<T, CedarError>, errors: &mut Vec<CedarError>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

fn read_policies(
    sources: &CedarSources,
    revision: &mut Digest,
    errors: &mut Vec<CedarError>,
) -> PolicySet {
    let mut all = PolicySet::new();
    for path in &sources.policies {
        let text = keep(sources.read(path, revision), errors);
        let Some(set) = text.and_then(|text| keep(parse(path, &text), errors)) else { continue };
        add(path, &set, &mut all, errors);
    }
    all
}

fn parse(path: &Path, text: &str) -> Result<PolicySet, CedarError> {
    if is_json(path) {
        return PolicySet::from_json_str(text).map_err(|error| syntax(path, &error));
    }
    PolicySet::from_str(text).map_err(|errors| syntax(path, &errors))
}

/// Adds what one file holds to `all`, under ids that tell it apart from other files.
fn add(path: &Path, set: &PolicySet, all: &mut PolicySet, errors: &mut Vec<CedarError>) {
    let file = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    // A template's id is seen by nobody; the path keeps it apart from every other id.
    let template_id = |id: &PolicyId| PolicyId::new(format!("{}#{id}", path.display()));
    for template in set.templates() {
        if !is_json(path) {
            let id = template.annotation("id").unwrap_or(template.id().as_ref()).to_owned();
            errors.push(CedarError::Template { path: path.to_owned(), id });
        } else if all.add_template(template.new_id(template_id(template.id()))).is_err() {
            errors.push(duplicate(path, template.id().as_ref()));
        }
    }
    for policy in set.policies() {
        let id = match policy.annotation("id") {
            Some(id) if !id.is_empty() && policy.is_static() => id.to_owned(),
            _ if is_json(path) => policy.id().to_string(),
            _ => format!("{file}.{}", policy.id()),
        };
        if add_policy(all, policy, PolicyId::new(&id), template_id).is_err() {
            errors.push(duplicate(path, &id));
        }
    }
}

fn add_policy(
    all: &mut PolicySet,
    policy: &Policy,
    id: PolicyId,
    template_id: impl Fn(&PolicyId) -> PolicyId,
) -> Result<(), Box<cedar_policy::PolicySetError>> {
    match (policy.template_id(), policy.template_links()) {
        (Some(template), Some(values)) => all.link(template_id(template), id, values),
        _ => all.add(policy.new_id(id)),
    }
    .map_err(Box::new)
}

fn duplicate(path: &Path, id: &str) -> CedarError {
    CedarError::DuplicateId { path: path.to_owned(), id: id.to_owned() }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn read_schema(
    sources: &CedarSources,
    path: &Path,
    revision: &mut Digest,
) -> Result<Schema, CedarError> {
    let text = sources.read(path, revision)?;
    if is_json(path) {
        return Schema::from_json_str(&text).map_err(|error| syntax(path, &error));
    }
    match Schema::from_cedarschema_str(&text) {
        Ok((schema, _)) => Ok(schema),
        Err(error) => Err(syntax(path, &error)),
    }
}

/// With a schema the action groups it declares are entities too.
fn read_entities(
    sources: &CedarSources,
    schema: Option<&Schema>,
    revision: &mut Digest,
) -> Result<Entities, CedarError> {
    match (&sources.entities, schema) {
        (Some(path), schema) => {
            let text = sources.read(path, revision)?;
            Entities::from_json_str(&text, schema).map_err(|error| syntax(path, &error))
        }
        (None, Some(schema)) => Entities::from_entities([], Some(schema))
            .map_err(|error| CedarError::Invalid(one_line(&error))),
        (None, None) => Ok(Entities::empty()),
    }
}

/// A request's action is an `Action` of no namespace, so only such are listed.
fn actions(schema: &Schema) -> Vec<(String, String)> {
    let actions = schema.actions().filter(|action| action.type_name().to_string() == "Action");
    let on = |action| {
        let types = schema.resources_for_action(action).into_iter().flatten();
        types.map(|name| (name.to_string(), action.id().unescaped().to_owned()))
    };
    actions.flat_map(on).collect()
}

fn validate(policies: &PolicySet, schema: &Schema, errors: &mut Vec<CedarError>) {
    let result = Validator::new(schema.clone()).validate(policies, ValidationMode::Strict);
    errors.extend(result.validation_errors().map(|error| CedarError::Invalid(one_line(error))));
}

fn syntax(path: &Path, error: &dyn std::error::Error) -> CedarError {
    CedarError::Syntax { path: path.to_owned(), message: one_line(error) }
}

/// The error and its causes, without line breaks.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.replace(['\n', '\r'], " ")
}

/// The first six bytes of the digest: enough to tell snapshots apart.
fn short_hex(digest: Digest) -> String {
    digest.finish().as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
