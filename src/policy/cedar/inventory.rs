//! What could be held at all: the assets of the entities file, and the actions there are on them.
//!
//! Assets are filed under the keys that policies' heads know them by, so that a listing visits only
//! those that some permit for its principal can reach.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy_core::ast::EntityUID;

use super::index::Key;
use super::{Cedar, uid};
use crate::route::Target;

/// Every target that a listing can name, by asset type, asset id and action.
#[derive(Debug, Default)]
pub(in crate::policy) struct Inventory {
    targets: Vec<Target>,
    assets: Vec<Asset>,
    kinds: Vec<Kind>,
    by_key: HashMap<Key, Vec<usize>>,
    /// The assets that an entity is, or that are within it.
    beside: HashMap<EntityUID, Vec<usize>>,
}

#[derive(Debug)]
pub(super) struct Asset {
    pub(super) uid: EntityUID,
    /// Sorted.
    pub(super) keys: Vec<Key>,
    /// Its type, as a place in [`Inventory::kinds`].
    kind: usize,
    /// The first of its targets; there is one for each action of its kind, in that order.
    first: usize,
}

/// What all assets of one type have in common: their actions, sorted.
#[derive(Debug)]
struct Kind(Vec<EntityUID>);

impl Inventory {
    /// The known assets of the types in `pairs`, with the actions that `pairs` and the schema
    /// name for them.
    pub(super) fn new(engine: &Cedar, pairs: &BTreeSet<(&str, &str)>) -> Self {
        let mut actions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, action) in pairs {
            actions.entry(name).or_default().insert(action);
        }
        for (name, action) in &engine.actions {
            if let Some(known) = actions.get_mut(name.as_str()) {
                known.insert(action);
            }
        }
        let mut inventory = Self::default();
        let mut kinds = HashMap::new();
        for (kind, (name, actions)) in actions.iter().enumerate() {
            let actions = actions.iter().map(|action| uid(&engine.names.action, action));
            inventory.kinds.push(Kind(actions.collect()));
            kinds.insert(*name, kind);
        }
        let mut assets = BTreeMap::new();
        for entity in engine.store.entities() {
            let name = entity.uid().entity_type().to_string();
            if let Some(kind) = kinds.get(name.as_str()) {
                let id: &str = entity.uid().eid().as_ref();
                assets.insert((name, id), (entity, *kind));
            }
        }
        for ((name, id), (entity, kind)) in assets {
            let number = inventory.assets.len();
            let mut keys = engine.store.own_keys(entity.uid(), &engine.index);
            keys.sort_unstable();
            keys.dedup();
            for key in &keys {
                inventory.by_key.entry(*key).or_default().push(number);
            }
            for uid in entity.ancestors().chain([entity.uid()]) {
                inventory.beside.entry(uid.clone()).or_default().push(number);
            }
            let first = inventory.targets.len();
            let actions = actions.get(name.as_str()).into_iter().flatten();
            inventory.targets.extend(actions.map(|action| Target {
                asset_type: name.clone(),
                asset_id: id.to_owned(),
                action: (*action).to_owned(),
            }));
            inventory.assets.push(Asset { uid: entity.uid().clone(), keys, kind, first });
        }
        inventory
    }

    pub(in crate::policy) fn targets(&self) -> &[Target] {
        &self.targets
    }

    pub(super) fn asset(&self, number: usize) -> Option<&Asset> {
        self.assets.get(number)
    }

    /// The assets that answer to `key` whoever asks, in order.
    pub(super) fn answering(&self, key: Key) -> &[usize] {
        self.by_key.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The assets that `uid` is, or that are within it, in order.
    pub(super) fn beside(&self, uid: &EntityUID) -> &[usize] {
        self.beside.get(uid).map_or(&[], Vec::as_slice)
    }

    /// The actions on `asset`, each with the number of its target.
    pub(super) fn actions(&self, asset: &Asset) -> impl Iterator<Item = (usize, &EntityUID)> {
        let actions = self.kinds.get(asset.kind).into_iter().flat_map(|kind| &kind.0);
        actions.enumerate().map(|(place, uid)| (asset.first + place, uid))
    }
}

impl Asset {
    pub(super) fn kind(&self) -> usize {
        self.kind
    }

    pub(super) fn first(&self) -> usize {
        self.first
    }
}
