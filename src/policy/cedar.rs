//! Decisions by [Cedar](https://docs.cedarpolicy.com).
//!
//! Policies, schema and entities are read and validated at load; an error there keeps the last good
//! set in force (or the process from starting). At a request the principal is an entity made of
//! what its credential says, on top of what the entities file says of it. Cedar itself skips a
//! policy it can't evaluate; for a forbid that would turn a fault into an allow, so here it denies.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::digest::{Context as Digest, SHA256};
use cedar_policy::{
    AuthorizationError, Authorizer, Decision, Effect as PolicyEffect, Entities, Entity, EntityId,
    EntityTypeName, EntityUid, PolicyId, PolicySet, Request, Response, Schema, ValidationMode,
    Validator,
};

use super::{Effect, Grounds, Question, context};

/// Where a scope's policies come from.
#[derive(Clone, Debug)]
pub struct CedarSources {
    /// Policy files, in Cedar syntax.
    pub policies: Vec<PathBuf>,
    /// A schema, in Cedar syntax, or JSON when the name ends in `.json`.
    pub schema: Option<PathBuf>,
    /// Entities, in Cedar's JSON form.
    pub entities: Option<PathBuf>,
}

/// A compiled Cedar policy set with its entities.
#[derive(Debug)]
pub struct Cedar {
    authorizer: Authorizer,
    policies: PolicySet,
    entities: Entities,
    /// Entity types by name, parsed once.
    types: HashMap<String, EntityTypeName>,
    action_type: EntityTypeName,
    group_type: EntityTypeName,
    revision: String,
}

impl Cedar {
    /// Reads and validates everything; all that is wrong is returned at once. `types` are the
    /// principal and asset types that requests will name.
    pub fn load<'t>(
        sources: &CedarSources,
        types: impl IntoIterator<Item = &'t str>,
    ) -> Result<Self, Vec<CedarError>> {
        let mut revision = Digest::new(&SHA256);
        let mut errors = Vec::new();
        let policies = read_policies(&sources.policies, &mut revision, &mut errors);
        let schema = sources
            .schema
            .as_deref()
            .and_then(|path| keep(read_schema(path, &mut revision), &mut errors));
        if let Some(schema) = &schema {
            validate(&policies, schema, &mut errors);
        }
        let entities = keep(read_entities(sources, schema.as_ref(), &mut revision), &mut errors);
        let mut known = HashMap::new();
        for name in types {
            if let Some(parsed) = keep(entity_type(name), &mut errors) {
                known.insert(name.to_owned(), parsed);
            }
        }
        let action_type = keep(entity_type("Action"), &mut errors);
        let group_type = keep(entity_type("Group"), &mut errors);
        match (entities, action_type, group_type) {
            (Some(entities), Some(action_type), Some(group_type)) if errors.is_empty() => {
                Ok(Self {
                    authorizer: Authorizer::new(),
                    policies,
                    entities,
                    types: known,
                    action_type,
                    group_type,
                    revision: short_hex(revision),
                })
            }
            _ => Err(errors),
        }
    }

    pub(super) fn revision(&self) -> &str {
        &self.revision
    }

    pub(super) fn len(&self) -> usize {
        self.policies.num_of_policies()
    }

    /// Evaluates every policy. An `Err` means the question itself could not be put.
    pub(super) fn evaluate(
        &self,
        question: &Question<'_>,
    ) -> Result<(Effect, Grounds), EvaluationError> {
        let principal = self.uid(&question.principal.entity_type, &question.principal.id)?;
        let request = Request::new(
            principal.clone(),
            EntityUid::from_type_name_and_id(
                self.action_type.clone(),
                EntityId::new(&question.target.action),
            ),
            self.uid(&question.target.asset_type, &question.target.asset_id)?,
            context::context(question)?,
            None,
        )
        .map_err(|error| EvaluationError::Question(error.to_string()))?;
        let entities = self.entities_with(principal, question)?;
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        Ok(self.judge(&response))
    }

    pub(super) fn known_assets(&self, types: &BTreeSet<&str>) -> Vec<(String, String)> {
        let mut assets: Vec<_> = self
            .entities
            .iter()
            .map(|entity| entity.uid())
            .map(|uid| (uid.type_name().to_string(), uid.id().unescaped().to_owned()))
            .filter(|(name, _)| types.contains(name.as_str()))
            .collect();
        assets.sort_unstable();
        assets
    }

    fn judge(&self, response: &Response) -> (Effect, Grounds) {
        let mut determining: Vec<_> =
            response.diagnostics().reason().map(ToString::to_string).collect();
        determining.sort_unstable();
        let errors: Vec<_> = response.diagnostics().errors().map(ToString::to_string).collect();
        let broken_forbid = response.diagnostics().errors().find_map(|error| {
            let AuthorizationError::PolicyEvaluationError(error) = error;
            self.is_forbid(error.policy_id()).then(|| error.policy_id().to_string())
        });
        let effect = match (response.decision(), broken_forbid) {
            (Decision::Deny, _) if !determining.is_empty() => Effect::Forbidden,
            (_, Some(id)) => Effect::BrokenForbid(id),
            (Decision::Deny, None) => Effect::Unmatched,
            (Decision::Allow, None) => Effect::Permitted,
        };
        (effect, Grounds { determining, errors, revision: self.revision.clone() })
    }

    /// A policy that can't be found counts as a forbid: the unknown denies.
    fn is_forbid(&self, id: &PolicyId) -> bool {
        self.policies.policy(id).is_none_or(|policy| policy.effect() == PolicyEffect::Forbid)
    }

    /// The entities file's entities, and the principal with what its credential says of it.
    fn entities_with(
        &self,
        uid: EntityUid,
        question: &Question<'_>,
    ) -> Result<Entities, EvaluationError> {
        let (mut attributes, mut parents) = match self.entities.get(&uid) {
            Some(known) => {
                let (_, attributes, parents) = known.clone().into_inner();
                (attributes, parents)
            }
            None => (HashMap::new(), HashSet::new()),
        };
        attributes.extend(context::principal_attributes(question)?);
        parents.extend(question.principal.groups.iter().map(|group| {
            EntityUid::from_type_name_and_id(self.group_type.clone(), EntityId::new(group))
        }));
        let principal = Entity::new(uid, attributes, parents)
            .map_err(|error| EvaluationError::Question(error.to_string()))?;
        self.entities
            .clone()
            .upsert_entities([principal], None)
            .map_err(|error| EvaluationError::Question(error.to_string()))
    }

    fn uid(&self, type_name: &str, id: &str) -> Result<EntityUid, EvaluationError> {
        let type_name = match self.types.get(type_name) {
            Some(known) => known.clone(),
            None => entity_type(type_name)?,
        };
        Ok(EntityUid::from_type_name_and_id(type_name, EntityId::new(id)))
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
    #[error("`{}`: the template `{id}` is linked by nothing: write it out as policies", path.display())]
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

/// Why a question could not be put to Cedar.
#[derive(Debug, thiserror::Error)]
pub(super) enum EvaluationError {
    #[error("{0}")]
    EntityType(#[from] CedarError),
    #[error("the request can't be put to the policies: {0}")]
    Question(String),
    #[error("the request can't be put to the policies: {0}")]
    Context(#[from] Box<cedar_policy::ContextCreationError>),
}

fn entity_type(name: &str) -> Result<EntityTypeName, CedarError> {
    EntityTypeName::from_str(name).map_err(|_| CedarError::EntityType(name.to_owned()))
}

fn read_policies(
    paths: &[PathBuf],
    revision: &mut Digest,
    errors: &mut Vec<CedarError>,
) -> PolicySet {
    let mut all = PolicySet::new();
    for path in paths {
        let Some(set) = keep(read_policy_file(path, revision), errors) else { continue };
        let file = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
        for template in set.templates() {
            let id =
                template.annotation("id").map_or_else(|| template.id().to_string(), str::to_owned);
            errors.push(CedarError::Template { path: path.clone(), id });
        }
        for policy in set.policies() {
            let id = match policy.annotation("id") {
                Some(id) if !id.is_empty() => id.to_owned(),
                _ => format!("{file}.{}", policy.id()),
            };
            if all.add(policy.new_id(PolicyId::new(&id))).is_err() {
                errors.push(CedarError::DuplicateId { path: path.clone(), id });
            }
        }
    }
    all
}

fn read_policy_file(path: &Path, revision: &mut Digest) -> Result<PolicySet, CedarError> {
    let text = read(path, revision)?;
    PolicySet::from_str(&text).map_err(|errors| syntax(path, &errors))
}

fn read_schema(path: &Path, revision: &mut Digest) -> Result<Schema, CedarError> {
    let text = read(path, revision)?;
    if path.extension().is_some_and(|extension| extension == "json") {
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
            let text = read(path, revision)?;
            Entities::from_json_str(&text, schema).map_err(|error| syntax(path, &error))
        }
        (None, Some(schema)) => Entities::from_entities([], Some(schema))
            .map_err(|error| CedarError::Invalid(one_line(&error))),
        (None, None) => Ok(Entities::empty()),
    }
}

fn validate(policies: &PolicySet, schema: &Schema, errors: &mut Vec<CedarError>) {
    let result = Validator::new(schema.clone()).validate(policies, ValidationMode::Strict);
    errors.extend(result.validation_errors().map(|error| CedarError::Invalid(one_line(error))));
}

fn read(path: &Path, revision: &mut Digest) -> Result<String, CedarError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| CedarError::Read { path: path.to_owned(), source })?;
    revision.update(&text.len().to_be_bytes());
    revision.update(text.as_bytes());
    Ok(text)
}

fn keep<T>(result: Result<T, CedarError>, errors: &mut Vec<CedarError>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
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
