//! One request put to the policies: which of them can apply, and what these say.

use std::collections::HashMap;

use cedar_policy_core::ast::{
    Context, Effect as PolicyEffect, EntityUID, EntityUIDEntry, Expr, Literal, Policy, Request,
    Value, ValueKind,
};
use cedar_policy_core::evaluator::{EvaluationError as Failure, Evaluator};
use cedar_policy_core::extensions::Extensions;

use super::entities::Caller;
use super::guard::Guarded;
use super::{Cedar, EvaluationError, Rule, uid};
use crate::policy::verdict::{Effect, Fault, Grounds, Verdict};
use crate::route::Target;

/// One request's principal and context, made ready.
#[derive(Debug)]
pub(in crate::policy) struct Asking<'a> {
    pub(super) engine: &'a Cedar,
    pub(super) caller: Caller,
    pub(super) context: Context,
    /// What is stated of the action.
    pub(super) action: Vec<(String, Value)>,
    /// What is stated of the asset.
    pub(super) asset: Vec<(String, Value)>,
}

impl<'a> Asking<'a> {
    /// Decides on `target`.
    pub(in crate::policy) fn decide(&self, target: &Target) -> Verdict {
        match self.outcome(target) {
            Ok(outcome) => Verdict::plain(outcome.effect(), outcome.grounds(&self.engine.revision)),
            Err(error) => self.engine.fault(&error),
        }
    }

    /// Decides on `target`, without the grounds.
    pub(in crate::policy) fn effect(&self, target: &Target) -> Effect {
        match self.outcome(target) {
            Ok(outcome) => outcome.effect(),
            Err(error) => self.engine.fault(&error).effect,
        }
    }

    pub(super) fn outcome(&self, target: &Target) -> Result<Outcome<'a>, EvaluationError> {
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
    pub(super) fn candidates(
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

    pub(super) fn evaluate(
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

    pub(super) fn request(&self, action: &EntityUID, resource: &EntityUID) -> Request {
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
    pub(super) fn holds(&self, evaluator: &Evaluator<'_>) -> Result<bool, Box<Failure>> {
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
pub(super) struct Outcome<'a> {
    pub(super) satisfied: Vec<&'a Policy>,
    pub(super) errors: Vec<(&'a Policy, Box<Failure>)>,
}

impl Outcome<'_> {
    pub(super) fn effect(&self) -> Effect {
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
    pub(super) fn grounds(&self, revision: &str) -> Grounds {
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

    pub(super) fn has(&self, effect: PolicyEffect) -> bool {
        self.satisfied.iter().any(|policy| policy.effect() == effect)
    }
}

fn reason(policy: &Policy) -> Option<String> {
    let mut annotations = policy.annotations();
    let (_, text) = annotations.find(|(name, _)| name.as_ref() == "reason")?;
    let text: &str = text.as_ref();
    (!text.is_empty()).then(|| text.to_owned())
}
