//! The entities file, kept so that a request takes a slice of it and copies nothing.
//!
//! A decision opens the principal, the action, the resource, what the candidates' conditions name,
//! and what is reached from there through attributes that some condition names, no further than the
//! longest chain in one. What an entity is within is part of it, so parents need not come along.
//! The principal is what the file says of it and what its credential adds; what the file puts below
//! the principal is then also within the principal's groups. What an application states of action and
//! asset is added to them where the file says nothing, so that it can't speak against the operator.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy_core::ast::{Entity, EntityUID, Literal, PartialValue, Value, ValueKind};
use cedar_policy_core::entities::{Entities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;

use super::EvaluationError;
use super::footprint::{Footprint, Wants};
use super::index::{Index, Key};

/// What the entities file says, and what of it the policies' heads and conditions can use.
#[derive(Debug, Default)]
pub(super) struct Store {
    known: HashMap<EntityUID, Known>,
}

#[derive(Debug)]
struct Known {
    entity: Arc<Entity>,
    /// Keys of what it is within.
    within: Vec<Key>,
    /// Entities that a condition can reach from it in one step.
    links: Vec<EntityUID>,
}

impl Store {
    pub(super) fn new(entities: Entities, index: &Index, footprint: &Footprint) -> Self {
        let known = entities.into_iter().map(|entity| {
            let within = entity.ancestors().filter_map(|uid| index.number(uid));
            let within = within.map(Key::Within).collect();
            let links = if footprint.depth > 1 { links(&entity, footprint) } else { Vec::new() };
            (entity.uid().clone(), Known { entity: Arc::new(entity), within, links })
        });
        Self { known: known.collect() }
    }

    pub(super) fn entities(&self) -> impl Iterator<Item = &Entity> {
        self.known.values().map(|known| &*known.entity)
    }

    pub(super) fn get(&self, uid: &EntityUID) -> Option<&Entity> {
        self.known.get(uid).map(|known| &*known.entity)
    }

    /// The keys that `uid` answers to whoever asks.
    pub(super) fn own_keys(&self, uid: &EntityUID, index: &Index) -> Vec<Key> {
        let mut keys = index.keys(uid);
        keys.extend(self.known.get(uid).iter().flat_map(|known| &known.within));
        keys
    }

    /// The principal `uid`, which is in `groups`, beside what the file says.
    pub(super) fn caller(
        &self,
        uid: EntityUID,
        groups: Vec<EntityUID>,
        index: &Index,
        wants: &Wants,
    ) -> Result<Caller, EvaluationError> {
        let known = self.known.get(&uid);
        let mut added = Vec::new();
        let mut parents = HashSet::new();
        let mut ancestors = HashSet::new();
        for group in groups {
            added.extend(index.number(&group).map(Key::Within));
            if let Some(above) = self.known.get(&group) {
                added.extend(&above.within);
                if above.entity.is_descendant_of(&uid) {
                    return Err(EvaluationError::Circle(group.to_string()));
                }
                if wants.ancestors {
                    ancestors.extend(above.entity.ancestors().cloned());
                }
            }
            if group == uid {
                return Err(EvaluationError::Circle(group.to_string()));
            }
            if wants.ancestors {
                parents.insert(group);
            }
        }
        added.extend(known.iter().flat_map(|known| &known.within));
        let mut keys = index.keys(&uid);
        keys.extend(&added);
        keys.sort_unstable();
        keys.dedup();
        Ok(Caller { uid, parents, ancestors, added, keys })
    }

    /// `caller` with `attributes`, beside what the file says.
    pub(super) fn entity(
        &self,
        caller: &Caller,
        attributes: Vec<(&'static str, Value)>,
    ) -> Arc<Entity> {
        let (uid, known) = (caller.uid.clone(), self.known.get(&caller.uid));
        let (ancestors, parents) = (caller.ancestors.clone(), caller.parents.clone());
        Arc::new(entity(uid, known, attributes, ancestors, parents))
    }

    /// The keys that `uid` answers to when `caller` asks.
    pub(super) fn keys(&self, uid: &EntityUID, caller: &Caller, index: &Index) -> Vec<Key> {
        if uid == caller.uid() {
            return caller.keys.clone();
        }
        let mut keys = self.own_keys(uid, index);
        let known = self.known.get(uid);
        if known.is_some_and(|known| known.entity.is_descendant_of(caller.uid())) {
            keys.extend(&caller.added);
        }
        keys
    }

    /// All entities that conditions of `depth` can open, beginning at `roots`; `said` are attributes of
    /// some of them. The `caller` is as [`Store::entity`] makes it.
    pub(super) fn slice<'s>(
        &'s self,
        caller: &Arc<Entity>,
        roots: impl IntoIterator<Item = &'s EntityUID>,
        said: &[(&EntityUID, &[(String, Value)])],
        depth: usize,
    ) -> Result<Entities, EvaluationError> {
        let mut taken = Vec::new();
        let mut seen = HashSet::new();
        let mut layer: Vec<&EntityUID> = roots.into_iter().collect();
        for _ in 0..depth {
            let mut next = Vec::new();
            for uid in layer {
                if !seen.insert(uid) {
                    continue;
                }
                let known = self.known.get(uid);
                let said =
                    said.iter().find(|(of, _)| *of == uid).map(|(_, attributes)| *attributes);
                if uid == caller.uid() {
                    // Not what is said of it as an asset: its attributes speak of who asks.
                    taken.push(Arc::clone(caller));
                } else if let Some(attributes) = said.filter(|said| !said.is_empty()) {
                    let completed = Arc::new(completed(uid, known, attributes));
                    taken.push(extended(&completed, caller));
                } else if let Some(known) = known {
                    taken.push(extended(&known.entity, caller));
                }
                next.extend(known.iter().flat_map(|known| &known.links));
            }
            layer = next;
        }
        Entities::new()
            .add_entities(
                taken,
                None::<&NoEntitiesSchema>,
                TCComputation::AssumeAlreadyComputed,
                Extensions::all_available(),
            )
            .map_err(|error| EvaluationError::Question(error.to_string()))
    }
}

/// The principal of one request, and what it is within.
#[derive(Debug)]
pub(super) struct Caller {
    uid: EntityUID,
    /// By its credential, as far as a condition asks.
    parents: HashSet<EntityUID>,
    ancestors: HashSet<EntityUID>,
    /// Keys of what it is within.
    added: Vec<Key>,
    keys: Vec<Key>,
}

impl Caller {
    pub(super) fn uid(&self) -> &EntityUID {
        &self.uid
    }

    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }
}

/// `entity`; when it is within the caller, then also within all that the caller is within.
fn extended(entity: &Arc<Entity>, caller: &Entity) -> Arc<Entity> {
    if !entity.is_descendant_of(caller.uid()) {
        return Arc::clone(entity);
    }
    let mut entity = Entity::clone(entity);
    caller.ancestors().for_each(|uid| entity.add_indirect_ancestor(uid.clone()));
    Arc::new(entity)
}

/// What the file says of `uid`, and of `attributes` those that it does not have.
fn completed(uid: &EntityUID, known: Option<&Known>, attributes: &[(String, Value)]) -> Entity {
    let is_new = |name: &str| known.is_none_or(|known| known.entity.get(name).is_none());
    let attributes = attributes.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let added = attributes.filter(|(name, _)| is_new(name));
    entity(uid.clone(), known, added, HashSet::new(), HashSet::new())
}

fn entity<'n>(
    uid: EntityUID,
    known: Option<&Known>,
    attributes: impl IntoIterator<Item = (&'n str, Value)>,
    mut ancestors: HashSet<EntityUID>,
    mut parents: HashSet<EntityUID>,
) -> Entity {
    let added = attributes.into_iter().map(|(name, value)| (name.into(), value.into()));
    let Some(Known { entity, .. }) = known else {
        ancestors.retain(|uid| !parents.contains(uid));
        return Entity::new_with_attr_partial_value(uid, added, ancestors, parents, []);
    };
    let (uid, mut attributes, above, direct, tags) = Entity::clone(entity).into_inner();
    attributes.extend(added);
    parents.extend(direct);
    ancestors.extend(above);
    ancestors.retain(|uid| !parents.contains(uid));
    Entity::new_with_attr_partial_value(uid, attributes, ancestors, parents, tags)
}

fn links(entity: &Entity, footprint: &Footprint) -> Vec<EntityUID> {
    let attributes = entity.attrs().filter(|(name, _)| footprint.names.contains(name.as_str()));
    let tags = entity.tags().filter(|_| footprint.tags);
    let mut links = Vec::new();
    for (_, value) in attributes.chain(tags) {
        if let PartialValue::Value(value) = value {
            add_links(value, &footprint.names, &mut links);
        }
    }
    links.sort_unstable();
    links.dedup();
    links
}

/// Nothing can be taken out of a set, so what it holds is not reached.
fn add_links(value: &Value, names: &BTreeSet<String>, links: &mut Vec<EntityUID>) {
    match value.value_kind() {
        ValueKind::Lit(Literal::EntityUID(uid)) => links.push(EntityUID::clone(uid)),
        ValueKind::Record(fields) => {
            for (_, value) in fields.iter().filter(|(name, _)| names.contains(name.as_str())) {
                add_links(value, names, links);
            }
        }
        ValueKind::Lit(_) | ValueKind::Set(_) | ValueKind::ExtensionValue(_) => {}
    }
}
