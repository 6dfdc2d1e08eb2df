//! Which policies can apply to a request, found by what their heads name.
//!
//! A policy's head narrows principal, action and resource to anything, a type, one entity, or one
//! entity and all below it. Each of these is a [`Key`], a policy is filed under its three, and a
//! request looks under all the keys its three entities answer to. What is found is exactly what
//! Cedar would find true of the heads; a head can't fail to evaluate, so what is not found could
//! neither decide nor err. The cost follows what is found, not how many policies there are.

use std::collections::HashMap;

use cedar_policy_core::ast::{
    ActionConstraint, EntityReference, EntityType, EntityUID, Policy,
    PrincipalOrResourceConstraint as Constraint, SlotId,
};

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

type ByAction = HashMap<Key, Vec<usize>>;
type ByResource = HashMap<Key, ByAction>;

/// Policies, by number, under the keys of their heads.
#[derive(Debug, Default)]
pub(super) struct Index {
    entities: HashMap<EntityUID, u32>,
    types: HashMap<EntityType, u32>,
    by_principal: HashMap<Key, ByResource>,
}

impl Index {
    /// Files `policy` under `number`.
    pub(super) fn insert(&mut self, number: usize, policy: &Policy) -> Residue {
        let (principal, principal_type) = self
            .key(policy.principal_constraint().as_inner(), policy.env().get(&SlotId::principal()));
        let (resource, resource_type) = self
            .key(policy.resource_constraint().as_inner(), policy.env().get(&SlotId::resource()));
        for action in self.action_keys(policy.action_constraint()) {
            let by_resource = self.by_principal.entry(principal).or_default();
            let by_action = by_resource.entry(resource).or_default();
            by_action.entry(action).or_default().push(number);
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

    /// The policies whose heads hold, but for their [`Residue`]s: sorted, each once.
    pub(super) fn candidates(
        &self,
        principal: &[Key],
        action: &[Key],
        resource: &[Key],
    ) -> Vec<usize> {
        let mut found = Vec::new();
        let by_resource = principal.iter().filter_map(|key| self.by_principal.get(key));
        for by_resource in by_resource {
            for by_action in resource.iter().filter_map(|key| by_resource.get(key)) {
                found.extend(action.iter().filter_map(|key| by_action.get(key)).flatten());
            }
        }
        found.sort_unstable();
        found.dedup();
        found
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

    fn action_keys(&mut self, constraint: &ActionConstraint) -> Vec<Key> {
        match constraint {
            ActionConstraint::Any => vec![Key::Any],
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
