//! Whose a client ID is, where Scopes of several namespaces ask for the same: the oldest one's.
//!
//! How old they are the API server has noted, and of two of one second the names decide, so every replica finds the
//! same at any time. Whether a Scope is good otherwise has no part in it: to put one right takes nothing from
//! another. What is not the owner's is told whose it is, by the namespace alone: who made the Scope may have no right
//! to know more of it. Two of one namespace are settled where that is judged ([`super::verdict`]).

use std::collections::{BTreeMap, HashMap};

use super::object::{Key, Kind, Object, Objects};

/// The namespaces of the client IDs that there are.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Claims(HashMap<String, String>);

/// The Scopes of a namespace whose client IDs are another's, with that other namespace.
pub(super) type Taken = BTreeMap<Key, String>;

impl Claims {
    /// Of the objects of all namespaces.
    pub(super) fn of(all: &BTreeMap<String, Objects>) -> Self {
        let mut oldest = HashMap::new();
        for (namespace, objects) in all {
            for (key, object) in objects {
                let Some(client_id) = client_id(key, object) else { continue };
                let claim = (object.age(), namespace, &key.name);
                let first = oldest.entry(client_id).or_insert(claim);
                *first = claim.min(*first);
            }
        }
        let owner = |(client_id, (_, namespace, _)): (&str, (_, &String, _))| {
            (client_id.to_owned(), namespace.clone())
        };
        Self(oldest.into_iter().map(owner).collect())
    }

    /// Those of the `objects` of `namespace` that can't have their client ID.
    pub(super) fn taken(&self, namespace: &str, objects: &Objects) -> Taken {
        let taken = |(key, object): (&Key, &Object)| {
            let owner = self.0.get(client_id(key, object)?)?;
            (owner != namespace).then(|| (key.clone(), owner.clone()))
        };
        objects.iter().filter_map(taken).collect()
    }
}

/// What is said of the Scope `object`, whose client ID is `owner`'s.
pub(super) fn fault(object: &Object, owner: &str) -> String {
    let client_id = object.spec().get("clientId").and_then(|it| it.as_str()).unwrap_or_default();
    format!(
        "spec.clientId: `{client_id}` is that of an older Scope in the namespace `{owner}`: make this one with another, or have that one deleted"
    )
}

fn client_id<'a>(key: &Key, object: &'a Object) -> Option<&'a str> {
    object.spec().get("clientId").filter(|_| key.kind == Kind::Scope)?.as_str()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A Scope: namespace, name, client ID, and the second in which it was made.
    type Made = (String, String, String, u32);

    fn all(made: &[Made]) -> BTreeMap<String, Objects> {
        let mut all: BTreeMap<String, Objects> = BTreeMap::new();
        for (namespace, name, client_id, second) in made {
            let time = format!("2026-01-01T00:00:{second:02}Z");
            let object = json!({"metadata": {"name": name, "creationTimestamp": time}, "spec": {"clientId": client_id}});
            let object = Object::new(Arc::new(serde_json::from_value(object).unwrap()));
            all.entry(namespace.clone()).or_default().insert(Key::new(Kind::Scope, name), object);
        }
        all
    }

    fn made(namespace: &str, name: &str, client_id: &str, second: u32) -> Made {
        (namespace.to_owned(), name.to_owned(), client_id.to_owned(), second)
    }

    fn taken(made: &[Made], namespace: &str) -> Vec<(String, String)> {
        let all = all(made);
        let taken = Claims::of(&all).taken(namespace, &all[namespace]);
        taken.into_iter().map(|(key, owner)| (key.name, owner)).collect()
    }

    #[test]
    fn the_oldest_has_it_and_of_one_second_the_first_by_name() {
        let (shop, bank) = (made("shop", "a", "orders", 1), made("bank", "b", "orders", 2));
        let scopes = [shop.clone(), bank, made("bank", "c", "bills", 9)];
        assert_eq!(taken(&scopes, "shop"), []);
        assert_eq!(taken(&scopes, "bank"), [("b".to_owned(), "shop".to_owned())]);
        let twins = [shop, made("bank", "b", "orders", 1)];
        assert_eq!(taken(&twins, "bank"), []);
        assert_eq!(taken(&twins, "shop"), [("a".to_owned(), "bank".to_owned())]);
        // Two of one namespace are its own affair.
        let twice = [made("shop", "a", "orders", 1), made("shop", "b", "orders", 2)];
        assert_eq!(taken(&twice, "shop"), []);
    }

    #[test]
    fn other_kinds_and_what_is_no_text_claim_nothing() {
        let mut all = all(&[made("shop", "a", "orders", 5)]);
        let older = json!({"metadata": {"name": "a", "creationTimestamp": "2025-01-01T00:00:00Z"}});
        for (kind, spec) in [
            (Kind::PolicyBundle, json!({"clientId": "orders"})),
            (Kind::Scope, json!({"clientId": ["orders"]})),
            (Kind::Scope, json!("orders")),
        ] {
            let mut object = older.clone();
            object["spec"] = spec;
            let object = Object::new(Arc::new(serde_json::from_value(object).unwrap()));
            all.entry("bank".to_owned()).or_default().insert(Key::new(kind, "a"), object);
            assert_eq!(Claims::of(&all).taken("shop", &all["shop"]), Taken::new());
        }
    }

    fn any_scopes() -> impl Strategy<Value = Vec<Made>> {
        let (place, scope) = (("[a-c]", "[a-c]"), ("[x-y]", 0..60_u32));
        prop::collection::hash_map(place, scope, 0..9).prop_map(|made| {
            let made = made.into_iter();
            made.map(|((namespace, name), (id, second))| (namespace, name, id, second)).collect()
        })
    }

    proptest! {
        /// In whatever order they are told of, one namespace has each client ID, and it is the same one.
        #[test]
        fn any_order_leads_to_one_owner(
            (scopes, shuffled) in any_scopes().prop_flat_map(|it| (Just(it.clone()), Just(it).prop_shuffle()))
        ) {
            let (all, claims) = (all(&scopes), Claims::of(&all(&scopes)));
            prop_assert_eq!(&claims, &Claims::of(&self::all(&shuffled)));
            for (_, _, client_id, _) in &scopes {
                let has_it = |(namespace, objects): &(&String, &Objects)| {
                    let taken = claims.taken(namespace, objects);
                    objects.iter().any(|(key, object)| {
                        super::client_id(key, object) == Some(client_id) && !taken.contains_key(key)
                    })
                };
                prop_assert_eq!(all.iter().filter(has_it).count(), 1);
            }
        }

        /// Who has it keeps it, whatever is made later.
        #[test]
        fn no_younger_scope_takes_a_client_id_from_an_older_one(mut scopes in any_scopes(), cut in 0..9_usize) {
            scopes.sort_by_key(|(.., second)| *second);
            scopes.dedup_by_key(|(.., second)| *second);
            let before = Claims::of(&all(&scopes[..cut.min(scopes.len())]));
            let after = Claims::of(&all(&scopes));
            for (client_id, owner) in &before.0 {
                prop_assert_eq!(after.0.get(client_id), Some(owner));
            }
        }
    }
}
