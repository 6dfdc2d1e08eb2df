//! One request put to the policies: which of them can apply, and what these say.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use cedar_policy_core::ast::{
    Context, Effect as PolicyEffect, Entity, EntityUID, EntityUIDEntry, Expr, Literal, Policy,
    Request, Value, ValueKind,
};
use cedar_policy_core::entities::Entities;
use cedar_policy_core::evaluator::{EvaluationError as Failure, Evaluator};
use cedar_policy_core::extensions::Extensions;

use super::context::{context, principal_attributes};
use super::entities::Caller;
use super::guard::Guarded;
use super::{Cedar, EvaluationError, Rule, uid};
use crate::policy::Question;
use crate::policy::verdict::{Effect, Fault, Grounds, Verdict};
use crate::route::Target;

/// One request's principal and context, made ready.
#[derive(Debug)]
pub(in crate::policy) struct Asking<'a> {
    pub(super) engine: &'a Cedar,
    pub(super) question: Question<'a>,
    pub(super) caller: Caller,
    /// What is stated of the action.
    pub(super) action: Vec<(String, Value)>,
    /// What is stated of the asset.
    pub(super) asset: Vec<(String, Value)>,
    pub(super) general: OnceLock<Shown>,
    pub(super) whole: OnceLock<Shown>,
}

/// What conditions see of the request.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) caller: Arc<Entity>,
    context: Context,
}

impl<'a> Asking<'a> {
    pub(super) fn new(
        engine: &'a Cedar,
        question: Question<'a>,
        caller: Caller,
        action: Vec<(String, Value)>,
        asset: Vec<(String, Value)>,
    ) -> Self {
        let (general, whole) = Default::default();
        Self { engine, question, caller, action, asset, general, whole }
    }

    /// What conditions see of the request, of its particulars too if they look at any. Made once.
    pub(super) fn shown(&self, particulars: bool) -> Result<&Shown, EvaluationError> {
        let (shown, wants) = match (particulars, self.whole.get()) {
            (_, Some(whole)) => return Ok(whole),
            (true, None) => (&self.whole, &self.engine.footprint.wants),
            (false, None) => (&self.general, &self.engine.general),
        };
        if let Some(shown) = shown.get() {
            return Ok(shown);
        }
        let Cedar { store, constructors, descriptors, .. } = self.engine;
        let context = context(&self.question, wants, constructors, descriptors.as_deref())?;
        let caller = store.entity(&self.caller, principal_attributes(&self.question, wants));
        Ok(shown.get_or_init(|| Shown { caller, context }))
    }

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
        let (rules, opened) = self.candidates(&action, &resource)?;
        match opened.filter(|opened| opened.reach.covers(&rules)) {
            Some(opened) => self.judge(&rules, &action, &resource, &opened),
            None => self.evaluate(&rules, &action, &resource),
        }
    }

    /// The policies that can decide or err, in the order of their ids; and what was opened to know.
    pub(super) fn candidates(
        &self,
        action: &EntityUID,
        resource: &EntityUID,
    ) -> Result<(Vec<&'a Rule>, Option<Opened<'a>>), EvaluationError> {
        let engine = self.engine;
        let mut found = engine.index.candidates(
            self.caller.keys(),
            &engine.store.keys(action, &self.caller, &engine.index),
            &engine.store.keys(resource, &self.caller, &engine.index),
        );
        // Of those with a guard the ones whose value is there, or for which it can't be had.
        let mut left = Vec::new();
        for (number, guarded) in found.guarded {
            let guard = engine.index.guard(number);
            match guard.and_then(|guard| guard.look_at_request(&self.question)) {
                Some(look) => guarded.add_to(&mut found.plain, &look),
                None => left.push((number, guarded)),
            }
        }
        let rules = self.rules(&mut found.plain, resource);
        if left.is_empty() {
            return Ok((rules, None));
        }
        // One look at the entities serves the guards, and mostly what is found by them.
        let guards = left.iter().filter_map(|(guard, _)| engine.index.guard(*guard));
        let mut reach = Reached { particulars: true, ..Reached::of(&rules) };
        reach.depth = guards.map(|guard| guard.depth).fold(reach.depth, usize::max);
        let entities = self.open(&reach, action, resource)?;
        let opened = Opened { entities, reach };
        self.admit(left, action, resource, &opened, &mut found.plain)?;
        Ok((self.rules(&mut found.plain, resource), Some(opened)))
    }

    /// Adds the numbers of those whose guard lets them go on.
    fn admit(
        &self,
        guarded: Vec<(usize, &Guarded)>,
        action: &EntityUID,
        resource: &EntityUID,
        opened: &Opened<'_>,
        numbers: &mut Vec<usize>,
    ) -> Result<(), EvaluationError> {
        let request = self.request(action, resource, opened.reach.particulars)?;
        let evaluator = Evaluator::new(request, &opened.entities, Extensions::all_available());
        let mut seen = HashMap::new();
        for (number, guarded) in guarded {
            let Some(guard) = self.engine.index.guard(number) else { continue };
            let look = seen.entry(number).or_insert_with(|| guard.look(&evaluator));
            guarded.add_to(numbers, look);
        }
        Ok(())
    }

    /// The policies of these numbers whose heads hold, each once, in order.
    fn rules(&self, numbers: &mut Vec<usize>, resource: &EntityUID) -> Vec<&'a Rule> {
        numbers.sort_unstable();
        numbers.dedup();
        let rules = numbers.iter().filter_map(|number| self.engine.rules.get(*number));
        rules.filter(|rule| rule.residue.admits(self.caller.uid(), resource)).collect()
    }

    /// The entities within `reach`, and what is stated of action and asset.
    fn open(
        &self,
        reach: &Reached<'a>,
        action: &EntityUID,
        resource: &EntityUID,
    ) -> Result<Entities, EvaluationError> {
        let roots = [self.caller.uid(), action, resource];
        let roots = roots.into_iter().chain(reach.literals.iter().copied());
        let said = [(action, self.action.as_slice()), (resource, self.asset.as_slice())];
        let caller = &self.shown(reach.particulars)?.caller;
        self.engine.store.slice(caller, roots, &said, reach.depth)
    }

    /// What `rules` say, whose heads hold.
    pub(super) fn evaluate(
        &self,
        rules: &[&'a Rule],
        action: &EntityUID,
        resource: &EntityUID,
    ) -> Result<Outcome<'a>, EvaluationError> {
        let reach = Reached::of(rules);
        let entities = self.open(&reach, action, resource)?;
        self.judge(rules, action, resource, &Opened { entities, reach })
    }

    fn judge(
        &self,
        rules: &[&'a Rule],
        action: &EntityUID,
        resource: &EntityUID,
        opened: &Opened<'_>,
    ) -> Result<Outcome<'a>, EvaluationError> {
        let request = self.request(action, resource, opened.reach.particulars)?;
        let evaluator = Evaluator::new(request, &opened.entities, Extensions::all_available());
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

    pub(super) fn request(
        &self,
        action: &EntityUID,
        resource: &EntityUID,
        particulars: bool,
    ) -> Result<Request, EvaluationError> {
        let known = |uid: &EntityUID| EntityUIDEntry::known(uid.clone(), None);
        let context = self.shown(particulars)?.context.clone();
        let (principal, action, resource) =
            (known(self.caller.uid()), known(action), known(resource));
        Ok(Request::new_unchecked(principal, action, resource, Some(context)))
    }
}

/// Entities that were taken for one target, and how far from it they go.
#[derive(Debug)]
pub(super) struct Opened<'a> {
    entities: Entities,
    reach: Reached<'a>,
}

/// What some conditions can open, beside the four they all begin at.
#[derive(Debug)]
struct Reached<'a> {
    literals: Vec<&'a EntityUID>,
    depth: usize,
    particulars: bool,
}

impl<'a> Reached<'a> {
    fn of(rules: &[&'a Rule]) -> Self {
        Self {
            literals: rules.iter().flat_map(|rule| &rule.reach.literals).collect(),
            depth: rules.iter().map(|rule| rule.reach.depth).max().unwrap_or_default(),
            particulars: rules.iter().any(|rule| rule.reach.particulars),
        }
    }

    fn covers(&self, rules: &[&Rule]) -> bool {
        rules.iter().map(|rule| &rule.reach).all(|reach| {
            reach.depth <= self.depth
                && reach.particulars <= self.particulars
                && reach.literals.iter().all(|literal| self.literals.contains(&literal))
        })
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
