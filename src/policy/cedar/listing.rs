//! What one principal holds, of all that an [`Inventory`] has.
//!
//! The principal's policies say by their heads which assets they can reach; nothing else is visited.
//! Assets that these heads can't tell apart share the policies to be judged, a condition that does
//! not look at the resource is judged once for all of them, and one that does once an asset. What
//! comes out is what deciding each target by itself would permit, and the tests hold the two against
//! each other. A forbid that can't be evaluated, where a permit holds, is a fault of the whole list.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::vec;

use cedar_policy_core::ast::{Effect as PolicyEffect, EntityUID};
use cedar_policy_core::entities::Entities;
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;

use super::index::{Bucket, ByAction, Key};
use super::inventory::{Asset, Inventory};
use super::{Asking, EvaluationError, Rule};
use crate::policy::verdict::Refusal;

/// Assets decided at a time; they share a slice of the entities.
const TOGETHER: usize = 32;

/// A list in the making.
#[derive(Debug)]
pub(in crate::policy) struct Listing<'a> {
    asking: Asking<'a>,
    inventory: &'a Inventory,
    /// The policies whose heads fit the principal, by the key of their resource.
    fitting: HashMap<Key, Vec<&'a ByAction>>,
    /// Assets whose keys depend on who asks.
    beside: &'a [usize],
    /// How many targets the assets have that a permit can reach.
    reach: usize,
    /// The assets still to be visited.
    ahead: vec::IntoIter<usize>,
    groups: HashMap<(usize, Vec<Key>), Arc<Group<'a>>>,
    /// Conditions that are the same for every target, by the policy's number.
    settled: HashMap<usize, Judgement>,
    circumstances: bool,
}

/// Assets of one type that the principal's policies can't tell apart by their heads.
#[derive(Debug, Default)]
struct Group<'a> {
    /// For each action that some permit is about.
    actions: Vec<Candidates<'a>>,
    /// Whether a condition has to be judged for each asset, and how far such conditions look.
    opens: Option<usize>,
    literals: Vec<&'a EntityUID>,
}

#[derive(Debug)]
struct Candidates<'a> {
    /// Counted from the asset's first target.
    place: usize,
    action: &'a EntityUID,
    permits: Vec<&'a Rule>,
    forbids: Vec<&'a Rule>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Judgement {
    Holds,
    Fails,
    Broken,
}

/// One asset as its conditions see it.
struct View<'v> {
    resource: &'v EntityUID,
    evaluator: Option<Evaluator<'v>>,
    /// What was judged of it, by the policy's number: it holds for each of its actions.
    judged: Vec<(usize, Judgement)>,
}

impl<'a> Listing<'a> {
    pub(super) fn new(asking: Asking<'a>, inventory: &'a Inventory) -> Self {
        let engine = asking.engine;
        let fitting = engine.index.fitting(asking.caller.keys());
        let is_permit = |number: usize| {
            let rule = engine.rules.get(number);
            rule.is_some_and(|rule| rule.policy.effect() == PolicyEffect::Permit)
        };
        let permits = fitting.iter().filter(|(_, tables)| {
            tables
                .iter()
                .flat_map(|by_action| by_action.values())
                .flat_map(Bucket::numbers)
                .any(is_permit)
        });
        let beside = inventory.beside(asking.caller.uid());
        let mut reached: Vec<usize> = beside.to_vec();
        reached.extend(permits.flat_map(|(key, _)| inventory.answering(*key)));
        reached.sort_unstable();
        reached.dedup();
        let assets = reached.iter().filter_map(|number| inventory.asset(*number));
        let reach = assets.map(|asset| inventory.actions(asset).count()).sum();
        Self {
            asking,
            inventory,
            fitting,
            beside,
            reach,
            ahead: reached.into_iter(),
            groups: HashMap::new(),
            settled: HashMap::new(),
            circumstances: false,
        }
    }

    /// How many targets there are to decide, at most.
    pub(in crate::policy) fn reach(&self) -> usize {
        self.reach
    }

    /// Whether what came out so far depends on anything of the request but who sends it.
    pub(in crate::policy) fn looked_at_request(&self) -> bool {
        self.circumstances
    }

    /// Decides some more, and adds to `held` the numbers of the targets that are held. Says whether
    /// there was anything left to decide.
    pub(in crate::policy) fn decide_some(
        &mut self,
        held: &mut Vec<usize>,
    ) -> Result<bool, Refusal> {
        let numbers: Vec<usize> = self.ahead.by_ref().take(TOGETHER).collect();
        let inventory = self.inventory;
        let mut work: Vec<(&Asset, Arc<Group<'a>>)> = Vec::with_capacity(numbers.len());
        for number in &numbers {
            let Some(asset) = inventory.asset(*number) else { continue };
            let group = self.group(*number, asset);
            if !group.actions.is_empty() {
                work.push((asset, group));
            }
        }
        let entities = self.slice(&work).map_err(|error| self.refusal(&error))?;
        for (asset, group) in &work {
            self.decide(asset, group, &entities, held)?;
        }
        Ok(!numbers.is_empty())
    }

    fn decide(
        &mut self,
        asset: &Asset,
        group: &Group<'a>,
        entities: &Entities,
        held: &mut Vec<usize>,
    ) -> Result<(), Refusal> {
        let mut view = View { resource: &asset.uid, evaluator: None, judged: Vec::new() };
        if let Some(first) = group.actions.first().filter(|_| group.opens.is_some()) {
            // Only conditions that do not look at the action are put to it.
            let request = self.asking.request(first.action, &asset.uid, true);
            let request = request.map_err(|error| self.refusal(&error))?;
            view.evaluator = Some(Evaluator::new(request, entities, Extensions::all_available()));
        }
        for candidates in &group.actions {
            match self.is_held(candidates, &mut view) {
                Ok(true) => held.push(asset.first() + candidates.place),
                Ok(false) => {}
                Err(Unclear) => {
                    let place = asset.first() + candidates.place;
                    return Err(self.fault(place));
                }
            }
        }
        Ok(())
    }

    fn is_held(
        &mut self,
        candidates: &Candidates<'a>,
        view: &mut View<'_>,
    ) -> Result<bool, Unclear> {
        let mut is_permitted = false;
        for rule in &candidates.permits {
            is_permitted = self.judge(rule, candidates.action, view) == Judgement::Holds;
            if is_permitted {
                break;
            }
        }
        if !is_permitted {
            return Ok(false);
        }
        let mut is_clear = true;
        for rule in &candidates.forbids {
            match self.judge(rule, candidates.action, view) {
                Judgement::Holds => return Ok(false),
                Judgement::Broken => is_clear = false,
                Judgement::Fails => {}
            }
        }
        if is_clear { Ok(true) } else { Err(Unclear) }
    }

    fn judge(&mut self, rule: &'a Rule, action: &EntityUID, view: &mut View<'_>) -> Judgement {
        if rule.policy.non_scope_constraints().is_none() {
            return Judgement::Holds;
        }
        self.circumstances |= rule.reach.circumstances;
        let reach = &rule.reach;
        if let Some(evaluator) = view.evaluator.as_ref().filter(|_| reach.is_of_resource_alone()) {
            let known = view.judged.iter().find(|(number, _)| *number == rule.number);
            if let Some((_, judgement)) = known {
                return *judgement;
            }
            let judgement = Judgement::from(rule.holds(evaluator).ok());
            view.judged.push((rule.number, judgement));
            return judgement;
        }
        if reach.resource || reach.action {
            return self.judge_alone(rule, action, view.resource);
        }
        if let Some(judgement) = self.settled.get(&rule.number) {
            return *judgement;
        }
        let judgement = self.judge_alone(rule, action, view.resource);
        self.settled.insert(rule.number, judgement);
        judgement
    }

    fn judge_alone(&self, rule: &'a Rule, action: &EntityUID, resource: &EntityUID) -> Judgement {
        match self.asking.evaluate(&[rule], action, resource) {
            Ok(outcome) if outcome.errors.is_empty() => {
                Judgement::from(Some(!outcome.satisfied.is_empty()))
            }
            Ok(_) | Err(_) => Judgement::Broken,
        }
    }

    /// The group of an asset; its policies are looked up once.
    fn group(&mut self, number: usize, asset: &Asset) -> Arc<Group<'a>> {
        let mut keys = if self.beside.binary_search(&number).is_ok() {
            let engine = self.asking.engine;
            let mut keys = engine.store.keys(&asset.uid, &self.asking.caller, &engine.index);
            keys.sort_unstable();
            keys.dedup();
            keys
        } else {
            asset.keys.clone()
        };
        keys.retain(|key| self.fitting.contains_key(key));
        let name = (asset.kind(), keys);
        if let Some(group) = self.groups.get(&name) {
            return Arc::clone(group);
        }
        let group = Arc::new(self.make_group(asset, &name.1));
        self.groups.insert(name, Arc::clone(&group));
        group
    }

    fn make_group(&self, asset: &Asset, keys: &[Key]) -> Group<'a> {
        let engine = self.asking.engine;
        let tables: Vec<&'a ByAction> =
            keys.iter().filter_map(|key| self.fitting.get(key)).flatten().copied().collect();
        let mut group = Group::default();
        for (number, action) in self.inventory.actions(asset) {
            let action_keys = engine.store.keys(action, &self.asking.caller, &engine.index);
            let found = tables.iter().flat_map(|by_action| {
                action_keys.iter().filter_map(|key| by_action.get(key)).flat_map(Bucket::numbers)
            });
            let found: BTreeSet<usize> = found.collect();
            let rules = found
                .into_iter()
                .filter_map(|number| engine.rules.get(number))
                .filter(|rule| rule.residue.admits(self.asking.caller.uid(), &asset.uid));
            let (permits, forbids): (Vec<&'a Rule>, Vec<&'a Rule>) =
                rules.partition(|rule| rule.policy.effect() == PolicyEffect::Permit);
            if permits.is_empty() {
                continue;
            }
            for rule in permits.iter().chain(&forbids) {
                if rule.reach.is_of_resource_alone() {
                    group.opens = group.opens.max(Some(rule.reach.depth));
                    group.literals.extend(&rule.reach.literals);
                }
            }
            let place = number - asset.first();
            group.actions.push(Candidates { place, action, permits, forbids });
        }
        group
    }

    /// What the conditions that are judged for each asset can open, for all of `work`.
    fn slice(&self, work: &[(&Asset, Arc<Group<'a>>)]) -> Result<Entities, EvaluationError> {
        let opening = work.iter().filter(|(_, group)| group.opens.is_some());
        let depth = opening.clone().filter_map(|(_, group)| group.opens).max();
        let Some(depth) = depth else { return Ok(Entities::new()) };
        let literals = opening.clone().flat_map(|(_, group)| group.literals.iter().copied());
        let assets = opening.map(|(asset, _)| &asset.uid);
        let roots = [self.asking.caller.uid()].into_iter().chain(assets).chain(literals);
        let caller = &self.asking.shown(true)?.caller;
        self.asking.engine.store.slice(caller, roots, &[], depth)
    }

    /// Why the target of this number can't be decided, in the words it has when asked for itself.
    fn fault(&self, number: usize) -> Refusal {
        match self.inventory.targets().get(number) {
            Some(target) => self.asking.decide(target).refusal(),
            None => self.refusal(&EvaluationError::Question("no such target".to_owned())),
        }
    }

    fn refusal(&self, error: &EvaluationError) -> Refusal {
        self.asking.engine.fault(error).refusal()
    }
}

/// A permit holds, no forbid does, and a forbid can't be evaluated.
struct Unclear;

impl From<Option<bool>> for Judgement {
    fn from(holds: Option<bool>) -> Self {
        match holds {
            Some(true) => Self::Holds,
            Some(false) => Self::Fails,
            None => Self::Broken,
        }
    }
}
