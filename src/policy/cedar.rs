//! Decisions by [Cedar](https://docs.cedarpolicy.com), at any number of policies and entities.
//!
//! Policies, schema and entities are read and validated at load; an error there keeps the last good
//! set in force (or the process from starting). At a request only the policies whose heads fit are
//! evaluated, on only what their conditions can see: the answer is the one Cedar's own authorizer
//! gives on everything, and the tests hold the two against each other. Cedar itself skips a policy
//! it can't evaluate; for a forbid that would turn a fault into an allow, so here it denies.

mod asking;
mod context;
mod entities;
mod footprint;
mod guard;
mod index;
mod inventory;
mod leading;
mod listing;
mod load;
mod ranges;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy_core::ast::{
    Eid, Entity, EntityType, EntityUID, Literal, PartialValue, Policy, ValueKind,
};
use cedar_policy_core::entities::Entities;

pub(super) use self::asking::Asking;
pub(super) use self::inventory::Inventory;
pub(super) use self::listing::Listing;
pub use self::load::{CedarError, CedarSources};

use self::context::Constructors;
use self::entities::Store;
use self::footprint::{Footprint, Reach, Wants};
use self::index::{Index, Residue};
use self::load::{Loaded, entity_type, keep};
use super::verdict::{Effect, Fault, Grounds, Verdict};
use super::{self as policy, Question};
use crate::identity::Principal;
use crate::request::{BodyFault, Descriptors, Reads};
use crate::route::Target;

/// A compiled Cedar policy set with its entities.
#[derive(Debug)]
pub struct Cedar {
    /// By id.
    rules: Vec<Rule>,
    index: Index,
    footprint: Footprint,
    /// What conditions look at that look at no [`Reach::particulars`].
    general: Wants,
    store: Store,
    names: Names,
    constructors: Constructors,
    /// `(asset type, action)`, by the schema.
    actions: Vec<(String, String)>,
    descriptors: Option<Arc<Descriptors>>,
    revision: String,
}

/// Entity types, parsed once.
#[derive(Debug)]
struct Names {
    types: HashMap<String, EntityType>,
    action: EntityType,
    group: EntityType,
}

#[derive(Debug)]
struct Rule {
    number: usize,
    policy: Policy,
    residue: Residue,
    reach: Reach,
}

impl Cedar {
    /// Reads and validates everything; all that is wrong is returned at once. `types` are the
    /// principal and asset types that requests will name.
    pub fn load<'t>(
        sources: &CedarSources,
        types: impl IntoIterator<Item = &'t str>,
    ) -> Result<Self, Vec<CedarError>> {
        let mut errors = Vec::new();
        let loaded = Loaded::read(sources, &mut errors);
        let names = Names::new(types, &mut errors);
        match (loaded, names, Constructors::new()) {
            (Some(loaded), Some(names), Some(constructors)) if errors.is_empty() => {
                Ok(Self::compile(loaded, names, constructors))
            }
            _ => Err(errors),
        }
    }

    fn compile(loaded: Loaded, names: Names, constructors: Constructors) -> Self {
        let policies: &cedar_policy_core::ast::PolicySet = loaded.policies.as_ref();
        let mut policies: Vec<Policy> = policies.policies().cloned().collect();
        policies.sort_by(|one, other| one.id().cmp(other.id()));
        let mut index = Index::default();
        let mut footprint = Footprint::default();
        let rules = policies.into_iter().enumerate().map(|(number, policy)| Rule {
            residue: index.insert(number, &policy),
            reach: footprint.add(&policy),
            number,
            policy,
        });
        let rules = rules.collect();
        let entities: &Entities = loaded.entities.as_ref();
        let store = Store::new(entities.clone(), &index, &footprint);
        let Loaded { actions, descriptors, revision, .. } = loaded;
        Self {
            general: footprint.wants.without_particulars(),
            rules,
            index,
            footprint,
            store,
            names,
            constructors,
            actions,
            descriptors,
            revision,
        }
    }

    pub(super) fn revision(&self) -> &str {
        &self.revision
    }

    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.rules.iter().map(|rule| rule.policy.id().to_string()).collect()
    }

    /// What of a request the policies read; `None` where it is the clock, a body, or all headers.
    pub(super) fn reads(&self) -> Option<Reads> {
        self.footprint.wants.reads()
    }

    pub(super) fn decide(&self, question: &Question<'_>) -> Verdict {
        match self.ask(question) {
            Ok(asking) => asking.decide(question.target),
            Err(error) => self.fault(&error),
        }
    }

    pub(super) fn fault(&self, error: &EvaluationError) -> Verdict {
        let fault = match error {
            EvaluationError::Body(fault) => Fault::Body(fault.to_string()),
            // Only an application can state one: no policy speaks of it, so none permits.
            EvaluationError::EntityType(error) => {
                let errors = vec![error.to_string()];
                let grounds =
                    Grounds { errors, revision: self.revision.clone(), ..Grounds::default() };
                return Verdict::plain(Effect::Unmatched, grounds);
            }
            other => Fault::Engine(other.to_string()),
        };
        Verdict::fault(fault, &self.revision)
    }

    /// Makes ready to decide on any number of targets for one request. An `Err` means the question
    /// itself can't be put.
    pub(super) fn ask<'a>(
        &'a self,
        question: &Question<'a>,
    ) -> Result<Asking<'a>, EvaluationError> {
        let principal = question.principal;
        let caller = self.names.uid(&principal.entity_type, &principal.id)?;
        let group = |name: &String| uid(&self.names.group, name);
        let caller = self.store.caller(
            caller,
            principal.groups.iter().map(group).collect(),
            &self.index,
            &self.footprint.wants,
        )?;
        let names = &self.footprint.names;
        let (action, asset) = match question.context {
            policy::Context::Http { .. } => (Vec::new(), Vec::new()),
            policy::Context::Stated(stated) => (
                context::stated_attributes(&stated.action, names),
                context::stated_attributes(&stated.asset, names),
            ),
        };
        Ok(Asking::new(self, *question, caller, action, asset))
    }

    pub(super) fn inventory(&self, pairs: &BTreeSet<(&str, &str)>) -> Inventory {
        Inventory::new(self, pairs)
    }

    /// Makes ready to list what the principal of `question` holds.
    pub(super) fn list<'a>(
        &'a self,
        inventory: &'a Inventory,
        question: &Question<'a>,
    ) -> Result<Listing<'a>, EvaluationError> {
        // What is stated of the question's action and asset says nothing of the others.
        let asking = Asking { action: Vec::new(), asset: Vec::new(), ..self.ask(question)? };
        Ok(Listing::new(asking, inventory))
    }

    /// What the policies can see of the principal.
    pub(super) fn sight<'q>(&self, principal: &'q Principal) -> context::Sight<'q> {
        context::Sight::new(principal, &self.footprint.wants)
    }

    /// The attribute `name` of `target`'s asset, when the entities have it as a plain value.
    pub(super) fn attribute(&self, target: &Target, name: &str) -> Option<String> {
        let asset = self.names.uid(&target.asset_type, &target.asset_id).ok()?;
        let PartialValue::Value(value) = self.store.get(&asset)?.get(name)? else { return None };
        match value.value_kind() {
            ValueKind::Lit(Literal::String(text)) => Some(text.to_string()),
            ValueKind::Lit(Literal::Long(number)) => Some(number.to_string()),
            ValueKind::Lit(Literal::Bool(flag)) => Some(flag.to_string()),
            ValueKind::Lit(Literal::EntityUID(_))
            | ValueKind::Set(_)
            | ValueKind::Record(_)
            | ValueKind::ExtensionValue(_) => None,
        }
    }

    pub(super) fn known_ids(&self, type_name: &str) -> Vec<&str> {
        let Ok(wanted) = entity_type(type_name) else { return Vec::new() };
        let uids =
            self.store.entities().map(Entity::uid).filter(|uid| *uid.entity_type() == wanted);
        let mut ids: Vec<&str> = uids.map(|uid| uid.eid().as_ref()).collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn known_actions(&self) -> BTreeSet<&str> {
        let uids = self.store.entities().map(Entity::uid).chain(self.index.entities());
        let actions = uids.filter(|uid| *uid.entity_type() == self.names.action);
        actions.map(|uid| uid.eid().as_ref()).collect()
    }
}

/// Why a question could not be put to Cedar.
#[derive(Debug, thiserror::Error)]
pub(super) enum EvaluationError {
    #[error("{0}")]
    EntityType(#[from] CedarError),
    #[error("the principal's group `{0}` is, by the entities file, within the principal itself")]
    Circle(String),
    #[error("the request can't be put to the policies: {0}")]
    Question(String),
    #[error("the body can't be read: {0}")]
    Body(#[from] BodyFault),
}

impl Names {
    fn new<'t>(
        types: impl IntoIterator<Item = &'t str>,
        errors: &mut Vec<CedarError>,
    ) -> Option<Self> {
        let mut known = HashMap::new();
        for name in types {
            if let Some(parsed) = keep(entity_type(name), errors) {
                known.insert(name.to_owned(), parsed);
            }
        }
        let action = keep(entity_type("Action"), errors)?;
        let group = keep(entity_type("Group"), errors)?;
        Some(Self { types: known, action, group })
    }

    fn uid(&self, type_name: &str, id: &str) -> Result<EntityUID, CedarError> {
        match self.types.get(type_name) {
            Some(known) => Ok(uid(known, id)),
            None => Ok(uid(&entity_type(type_name)?, id)),
        }
    }
}

fn uid(type_name: &EntityType, id: &str) -> EntityUID {
    EntityUID::from_components(type_name.clone(), Eid::new(id), None)
}

#[cfg(test)]
mod tests;
