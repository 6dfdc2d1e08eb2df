//! Decisions by [Cedar](https://docs.cedarpolicy.com), at any number of policies and entities.
//!
//! Policies, schema and entities are read and validated at load; an error there keeps the last good
//! set in force (or the process from starting). At a request only the policies whose heads fit are
//! evaluated, on only what their conditions can see: the answer is the one Cedar's own authorizer
//! gives on everything, and the tests hold the two against each other. Cedar itself skips a policy
//! it can't evaluate; for a forbid that would turn a fault into an allow, so here it denies.

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

use cedar_policy_core::ast::{
    Context, Effect as PolicyEffect, Eid, Entity, EntityType, EntityUID, EntityUIDEntry, Expr,
    Literal, PartialValue, Policy, Request, Value, ValueKind,
};
use cedar_policy_core::entities::Entities;
use cedar_policy_core::evaluator::{EvaluationError as Failure, Evaluator};
use cedar_policy_core::extensions::Extensions;

pub(super) use self::inventory::Inventory;
pub(super) use self::listing::Listing;
pub use self::load::{CedarError, CedarSources};

use self::context::Constructors;
use self::entities::{Caller, Store};
use self::footprint::{Footprint, Reach};
use self::guard::Guarded;
use self::index::{Index, Residue};
use self::load::{Loaded, entity_type, keep};
use super::verdict::{Effect, Fault, Grounds, Verdict};
use super::{self as policy, Question};
use crate::identity::Principal;
use crate::request::BodyFault;
use crate::route::Target;

/// A compiled Cedar policy set with its entities.
#[derive(Debug)]
pub struct Cedar {
    /// By id.
    rules: Vec<Rule>,
    index: Index,
    footprint: Footprint,
    store: Store,
    names: Names,
    constructors: Constructors,
    /// `(asset type, action)`, by the schema.
    actions: Vec<(String, String)>,
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
        let Loaded { actions, revision, .. } = loaded;
        Self { rules, index, footprint, store, names, constructors, actions, revision }
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
    pub(super) fn ask(&self, question: &Question<'_>) -> Result<Asking<'_>, EvaluationError> {
        let wants = &self.footprint.wants;
        let principal = question.principal;
        let caller = self.names.uid(&principal.entity_type, &principal.id)?;
        let group = |name: &String| uid(&self.names.group, name);
        let caller = self.store.caller(
            caller,
            principal.groups.iter().map(group).collect(),
            context::principal_attributes(question, wants),
            &self.index,
            wants,
        )?;
        let context = context::context(question, wants, &self.constructors)?;
        let names = &self.footprint.names;
        let (action, asset) = match question.context {
            policy::Context::Http { .. } => (Vec::new(), Vec::new()),
            policy::Context::Stated(stated) => (
                context::stated_attributes(&stated.action, names),
                context::stated_attributes(&stated.asset, names),
            ),
        };
        Ok(Asking { engine: self, caller, context, action, asset })
    }

    pub(super) fn inventory(&self, pairs: &BTreeSet<(&str, &str)>) -> Inventory {
        Inventory::new(self, pairs)
    }

    /// Makes ready to list what the principal of `question` holds.
    pub(super) fn list<'a>(
        &'a self,
        inventory: &'a Inventory,
        question: &Question<'_>,
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

/// One request's principal and context, made ready.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    engine: &'a Cedar,
    caller: Caller,
    context: Context,
    /// What is stated of the action.
    action: Vec<(String, Value)>,
    /// What is stated of the asset.
    asset: Vec<(String, Value)>,
}

impl<'a> Asking<'a> {
    /// Decides on `target`.
    pub(super) fn decide(&self, target: &Target) -> Verdict {
        match self.outcome(target) {
            Ok(outcome) => Verdict::plain(outcome.effect(), outcome.grounds(&self.engine.revision)),
            Err(error) => self.engine.fault(&error),
        }
    }

    /// Decides on `target`, without the grounds.
    pub(super) fn effect(&self, target: &Target) -> Effect {
        match self.outcome(target) {
            Ok(outcome) => outcome.effect(),
            Err(error) => self.engine.fault(&error).effect,
        }
    }

    fn outcome(&self, target: &Target) -> Result<Outcome<'a>, EvaluationError> {
        let action = uid(&self.engine.names.action, &target.action);
        let resource = self.engine.names.uid(&target.asset_type, &target.asset_id)?;
        let rules = self.candidates(&action, &resource)?;
        self.evaluate(&rules, &action, &resource)
    }

    /// What is stated of action and asset, for the entities that are opened.
    fn said<'s>(
        &'s self,
        action: &'s EntityUID,
        resource: &'s EntityUID,
    ) -> [(&'s EntityUID, &'s [(String, Value)]); 2] {
        [(action, &self.action), (resource, &self.asset)]
    }

    /// The policies that can decide or err, in the order of their ids.
    fn candidates(
        &self,
        action: &EntityUID,
        resource: &EntityUID,
    ) -> Result<Vec<&'a Rule>, EvaluationError> {
        let engine = self.engine;
        let found = engine.index.candidates(
            self.caller.keys(),
            &engine.store.keys(action, &self.caller, &engine.index),
            &engine.store.keys(resource, &self.caller, &engine.index),
        );
        let mut numbers = found.plain;
        if !found.guarded.is_empty() {
            self.add_guarded(&found.guarded, action, resource, &mut numbers)?;
        }
        numbers.sort_unstable();
        numbers.dedup();
        let rules = numbers.into_iter().filter_map(|number| engine.rules.get(number));
        Ok(rules.filter(|rule| rule.residue.admits(self.caller.uid(), resource)).collect())
    }

    /// Adds those of the `guarded` policies whose value is there, or for which it can't be had.
    fn add_guarded(
        &self,
        guarded: &[(usize, &Guarded)],
        action: &EntityUID,
        resource: &EntityUID,
        numbers: &mut Vec<usize>,
    ) -> Result<(), EvaluationError> {
        let guards = guarded.iter().filter_map(|(guard, _)| self.engine.index.guard(*guard));
        let depth = guards.map(|guard| guard.depth).max().unwrap_or_default();
        let roots = [self.caller.uid(), action, resource];
        let said = self.said(action, resource);
        let entities = self.engine.store.slice(&self.caller, roots, &said, depth)?;
        let request = self.request(action, resource);
        let evaluator = Evaluator::new(request, &entities, Extensions::all_available());
        let mut seen = HashMap::new();
        for (number, guarded) in guarded {
            let Some(guard) = self.engine.index.guard(*number) else { continue };
            let look = seen.entry(*number).or_insert_with(|| guard.look(&evaluator));
            guarded.add_to(numbers, look);
        }
        Ok(())
    }

    fn evaluate(
        &self,
        rules: &[&'a Rule],
        action: &EntityUID,
        resource: &EntityUID,
    ) -> Result<Outcome<'a>, EvaluationError> {
        let literals = rules.iter().flat_map(|rule| &rule.reach.literals);
        let roots = [self.caller.uid(), action, resource].into_iter().chain(literals);
        let depth = rules.iter().map(|rule| rule.reach.depth).max().unwrap_or_default();
        let said = self.said(action, resource);
        let entities = self.engine.store.slice(&self.caller, roots, &said, depth)?;
        let request = self.request(action, resource);
        let evaluator = Evaluator::new(request, &entities, Extensions::all_available());
        let mut outcome = Outcome::default();
        for rule in rules {
            match rule.holds(&evaluator) {
                Ok(true) => outcome.satisfied.push(&rule.policy),
                Ok(false) => {}
                Err(error) => outcome.errors.push((&rule.policy, error)),
            }
        }
        Ok(outcome)
    }

    fn request(&self, action: &EntityUID, resource: &EntityUID) -> Request {
        let known = |uid: &EntityUID| EntityUIDEntry::known(uid.clone(), None);
        Request::new_unchecked(
            known(self.caller.uid()),
            known(action),
            known(resource),
            Some(self.context.clone()),
        )
    }
}

impl Rule {
    /// Whether the condition holds, the heads being known to.
    fn holds(&self, evaluator: &Evaluator<'_>) -> Result<bool, Box<Failure>> {
        let Some(condition) = self.policy.non_scope_constraints() else { return Ok(true) };
        let holds = evaluator.interpret(condition, self.policy.env())?;
        if let ValueKind::Lit(Literal::Bool(holds)) = holds.value_kind() {
            return Ok(*holds);
        }
        // Not a yes or no: Cedar's own words for it.
        let strict = Expr::and(condition.clone(), Expr::val(true));
        Ok(evaluator.interpret(&strict, self.policy.env()).map(|_| false)?)
    }
}

/// What the policies say of one target.
#[derive(Debug, Default)]
struct Outcome<'a> {
    satisfied: Vec<&'a Policy>,
    errors: Vec<(&'a Policy, Box<Failure>)>,
}

impl Outcome<'_> {
    fn effect(&self) -> Effect {
        let broken_forbid =
            self.errors.iter().find(|(policy, _)| policy.effect() == PolicyEffect::Forbid);
        if self.has(PolicyEffect::Forbid) {
            Effect::Forbidden
        } else if let Some((policy, _)) = broken_forbid {
            let id = policy.id();
            let text = format!("the forbid policy `{id}` could not be evaluated");
            Effect::Fault(Fault::Engine(text))
        } else if self.has(PolicyEffect::Permit) {
            Effect::Permitted
        } else {
            Effect::Unmatched
        }
    }

    /// The forbids that are satisfied, or when there is none the permits; and all that failed.
    fn grounds(&self, revision: &str) -> Grounds {
        let deciding = if self.has(PolicyEffect::Forbid) {
            PolicyEffect::Forbid
        } else {
            PolicyEffect::Permit
        };
        let determining =
            || self.satisfied.iter().filter(|policy| policy.effect() == deciding).copied();
        let failed = |(policy, error): &(&Policy, Box<Failure>)| {
            format!("error while evaluating policy `{}`: {error}", policy.id())
        };
        Grounds {
            determining: determining().map(|policy| policy.id().to_string()).collect(),
            reasons: determining().filter_map(reason).collect(),
            errors: self.errors.iter().map(failed).collect(),
            revision: revision.to_owned(),
        }
    }

    fn has(&self, effect: PolicyEffect) -> bool {
        self.satisfied.iter().any(|policy| policy.effect() == effect)
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

fn reason(policy: &Policy) -> Option<String> {
    let mut annotations = policy.annotations();
    let (_, text) = annotations.find(|(name, _)| name.as_ref() == "reason")?;
    let text: &str = text.as_ref();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
