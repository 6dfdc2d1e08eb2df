//! Which policies can apply to a request, found by what their heads name.
//!
//! A policy's head narrows principal, action and resource to anything, a type, one entity, or one
//! entity and all below it; what a head leaves open, the beginning of the condition may narrow. Each
//! of these is a [`Key`], a policy is filed under its three, and a request looks under all the keys
//! its three entities answer to. What is found is exactly what Cedar would find true of heads and
//! beginnings; these can't fail to evaluate, so what is not found could neither decide nor err. The
//! cost follows what is found, not how many policies there are.

use std::collections::HashMap;

use cedar_policy_core::ast::{
    ActionConstraint, EntityReference, EntityType, EntityUID, Policy,
    PrincipalOrResourceConstraint as Constraint, SlotId, Var,
};

use super::guard::{Guard, Guarded};
use super::leading::{Asks, Beginning, Names};

/// One thing that a head can ask of an entity, by the numbers an [`Index`] gives out.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Key {
    Any,
    Type(u32),
    Equal(u32),
    Within(u32),
}

/// What a policy's heads leave to be checked: `is T in E` is filed under `in E` alone.
#[derive(Debug, Default)]
pub(super) struct Residue {
    principal_type: Option<EntityType>,
    resource_type: Option<EntityType>,
}

impl Residue {
    pub(super) fn admits(&self, principal: &EntityUID, resource: &EntityUID) -> bool {
        self.principal_type.as_ref().is_none_or(|wanted| wanted == principal.entity_type())
            && self.resource_type.as_ref().is_none_or(|wanted| wanted == resource.entity_type())
    }
}

/// Policies whose heads agree on principal and resource, by the key of their action.
pub(super) type ByAction = HashMap<Key, Bucket>;
type ByResource = HashMap<Key, ByAction>;

/// Policies of one place in the index.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    plain: Vec<usize>,
    /// Those that begin by naming a value, by the number of its [`Guard`].
    guarded: HashMap<usize, Guarded>,
}

impl Bucket {
    /// All of them.
    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> {
        self.guarded.values().flat_map(Guarded::all).chain(self.plain.iter().copied())
    }
}

/// What a look at the heads finds.
#[derive(Debug, Default)]
pub(super) struct Found<'i> {
    /// Policies to evaluate.
    pub(super) plain: Vec<usize>,
    /// Policies to evaluate if their guard, by its number, has their value.
    pub(super) guarded: Vec<(usize, &'i Guarded)>,
}

/// Evaluating as many policies costs no more than the look that could spare it, where Cedar has to
/// look. Tests always look.
const FEW: usize = if cfg!(test) { 0 } else { 3 };

/// Policies, by number, under the keys of their heads.
#[derive(Debug, Default)]
pub(super) struct Index {
    entities: HashMap<EntityUID, u32>,
    types: HashMap<EntityType, u32>,
    by_principal: HashMap<Key, ByResource>,
    guards: Vec<Guard>,
    /// Their numbers, by how they are written.
    guard_numbers: HashMap<String, usize>,
}

impl Index {
    /// Files `policy` under `number`.
    pub(super) fn insert(&mut self, number: usize, policy: &Policy) -> Residue {
        let beginning = Beginning::of(policy);
        let (principal, principal_type) = self.narrowed(
            policy.principal_constraint().as_inner(),
            policy.env().get(&SlotId::principal()),
            beginning.asks(Var::Principal),
        );
        let (resource, resource_type) = self.narrowed(
            policy.resource_constraint().as_inner(),
            policy.env().get(&SlotId::resource()),
            beginning.asks(Var::Resource),
        );
        let guard = beginning.names.as_ref().map(|names| (self.guard_of(names), &names.wanted));
        for action in self.action_keys(policy.action_constraint(), beginning.asks(Var::Action)) {
            let by_resource = self.by_principal.entry(principal).or_default();
            let by_action = by_resource.entry(resource).or_default();
            let bucket = by_action.entry(action).or_default();
            match &guard {
                Some((guard, wanted)) => {
                    bucket.guarded.entry(*guard).or_default().insert(wanted, number);
                }
                None => bucket.plain.push(number),
            }
        }
        Residue { principal_type, resource_type }
    }

    /// Every entity that some head names.
    pub(super) fn entities(&self) -> impl Iterator<Item = &EntityUID> {
        self.entities.keys()
    }

    /// The number of an entity that some head names.
    pub(super) fn number(&self, uid: &EntityUID) -> Option<u32> {
        self.entities.get(uid).copied()
    }

    /// The keys of `uid` itself; those of what it is within are the caller's to add.
    pub(super) fn keys(&self, uid: &EntityUID) -> Vec<Key> {
        let mut keys = vec![Key::Any];
        keys.extend(self.types.get(uid.entity_type()).copied().map(Key::Type));
        if let Some(number) = self.number(uid) {
            keys.extend([Key::Equal(number), Key::Within(number)]);
        }
        keys
    }

    /// The policies whose heads hold, but for their [`Residue`]s.
    pub(super) fn candidates(
        &self,
        principal: &[Key],
        action: &[Key],
        resource: &[Key],
    ) -> Found<'_> {
        let mut found = Found::default();
        let by_resource = principal.iter().filter_map(|key| self.by_principal.get(key));
        for by_resource in by_resource {
            for by_action in resource.iter().filter_map(|key| by_resource.get(key)) {
                for bucket in action.iter().filter_map(|key| by_action.get(key)) {
                    found.plain.extend(&bucket.plain);
                    for (guard, guarded) in &bucket.guarded {
                        let is_easy = self.guard(*guard).is_some_and(Guard::is_of_request);
                        if is_easy || guarded.all().nth(FEW).is_some() {
                            found.guarded.push((*guard, guarded));
                        } else {
                            found.plain.extend(guarded.all());
                        }
                    }
                }
            }
        }
        found
    }

    pub(super) fn guard(&self, number: usize) -> Option<&Guard> {
        self.guards.get(number)
    }

    /// The policies whose heads fit a principal of these keys, by the key of their resource.
    pub(super) fn fitting(&self, principal: &[Key]) -> HashMap<Key, Vec<&ByAction>> {
        let mut fitting: HashMap<Key, Vec<&ByAction>> = HashMap::new();
        let by_resource = principal.iter().filter_map(|key| self.by_principal.get(key));
        for (key, by_action) in by_resource.flatten() {
            fitting.entry(*key).or_default().push(by_action);
        }
        fitting
    }

    fn guard_of(&mut self, names: &Names<'_>) -> usize {
        let texts = names.before.iter().chain([&names.value]).map(ToString::to_string);
        let text = texts.collect::<Vec<_>>().join(" && ");
        let next = self.guards.len();
        let number = *self.guard_numbers.entry(text).or_insert(next);
        if number == next {
            self.guards.push(Guard::new(names));
        }
        number
    }

    /// The key of a head, or of what the condition asks where that is narrower; and the type that
    /// is left to be checked.
    fn narrowed<'p>(
        &mut self,
        constraint: &Constraint,
        slot: Option<&EntityUID>,
        mut asked: impl Iterator<Item = Asks<'p>> + Clone,
    ) -> (Key, Option<EntityType>) {
        let left = match constraint {
            Constraint::Any => None,
            Constraint::Is(name) => Some(EntityType::clone(name)),
            Constraint::Eq(_) | Constraint::In(_) | Constraint::IsIn(..) => {
                return self.key(constraint, slot);
            }
        };
        let types = asked.clone();
        if let Some(key) = asked.find_map(|asks| self.named_by(asks)) {
            return (key, left);
        }
        let mut types = types.filter_map(|asks| match asks {
            Asks::Is(name) => Some(name),
            Asks::Equal(_) | Asks::Within(_) => None,
        });
        match types.next().filter(|_| left.is_none()) {
            Some(name) => (Key::Type(self.number_type(name)), None),
            None => self.key(constraint, slot),
        }
    }

    fn named_by(&mut self, asks: Asks<'_>) -> Option<Key> {
        match asks {
            Asks::Is(_) => None,
            Asks::Equal(uid) => Some(Key::Equal(self.number_entity(uid))),
            Asks::Within(uid) => Some(Key::Within(self.number_entity(uid))),
        }
    }

    fn key(
        &mut self,
        constraint: &Constraint,
        slot: Option<&EntityUID>,
    ) -> (Key, Option<EntityType>) {
        match constraint {
            Constraint::Any => (Key::Any, None),
            Constraint::Is(name) => (Key::Type(self.number_type(name)), None),
            Constraint::Eq(reference) => {
                (self.named(reference, slot).map_or(Key::Any, Key::Equal), None)
            }
            Constraint::In(reference) => {
                (self.named(reference, slot).map_or(Key::Any, Key::Within), None)
            }
            Constraint::IsIn(name, reference) => (
                self.named(reference, slot).map_or(Key::Any, Key::Within),
                Some(EntityType::clone(name)),
            ),
        }
    }

    fn action_keys<'p>(
        &mut self,
        constraint: &ActionConstraint,
        mut asked: impl Iterator<Item = Asks<'p>>,
    ) -> Vec<Key> {
        match constraint {
            ActionConstraint::Any => {
                vec![asked.find_map(|asks| self.named_by(asks)).unwrap_or(Key::Any)]
            }
            ActionConstraint::Eq(uid) => vec![Key::Equal(self.number_entity(uid))],
            ActionConstraint::In(uids) => {
                uids.iter().map(|uid| Key::Within(self.number_entity(uid))).collect()
            }
        }
    }

    fn named(&mut self, reference: &EntityReference, slot: Option<&EntityUID>) -> Option<u32> {
        match reference {
            EntityReference::EUID(uid) => Some(self.number_entity(uid)),
            EntityReference::Slot(_) => slot.map(|uid| self.number_entity(uid)),
        }
    }

    fn number_entity(&mut self, uid: &EntityUID) -> u32 {
        let next = u32::try_from(self.entities.len()).unwrap_or(u32::MAX);
        *self.entities.entry(uid.clone()).or_insert(next)
    }

    fn number_type(&mut self, name: &EntityType) -> u32 {
        let next = u32::try_from(self.types.len()).unwrap_or(u32::MAX);
        *self.types.entry(name.clone()).or_insert(next)
    }
}
