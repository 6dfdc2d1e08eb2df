use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A public key, made up.
fn jwk(kid: &str, x: &str) -> String {
    json!({"kty": "EC", "crv": "P-256", "x": x, "y": "y", "alg": "ES256", "use": "sig", "kid": kid})
        .to_string()
}

fn set(client_id: &str, keys: &[String]) -> KeySet {
    KeySet {
        client_id: client_id.to_owned(),
        keys: keys.to_vec(),
        token_lifetime_seconds: 60,
        max_age_seconds: 100,
    }
}

fn ids(client_ids: &[&str]) -> BTreeSet<String> {
    client_ids.iter().map(|id| (*id).to_owned()).collect()
}

/// A union whose grace is over, and when that is.
fn settled() -> (Union, Instant) {
    let began = Instant::now();
    (Union::new(began), began + GRACE)
}

/// The `x` of each key of a set.
fn marks(set: Option<Set>) -> Vec<String> {
    let keys = set.map(|set| set.keys).unwrap_or_default();
    keys.iter().map(|key| key["x"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn keys_of_all_sidecars_are_one_set_with_the_one_that_signs_first() {
    let (union, now) = settled();
    let orders = ids(&["orders"]);
    let report = |id, keys: &[String]| {
        let refused = union.report(id, "shop", &orders, &[set("orders", keys)], now);
        assert_eq!(refused, []);
    };
    assert_eq!(union.scope("orders", None, now), None);
    report(1, &[jwk("v1", "1"), jwk("v2", "2")]);
    report(2, &[jwk("v2", "2"), jwk("v1", "1")]);
    report(3, &[jwk("v2", "2"), jwk("v1", "1")]);
    report(4, &[jwk("own", "4")]);
    assert_eq!(marks(union.scope("orders", None, now)), ["2", "1", "4"]);
    assert_eq!(marks(union.scope("orders", Some("shop"), now)), ["2", "1", "4"]);
    assert_eq!(marks(union.all(now)), ["2", "1", "4"]);
    assert_eq!(union.scope("orders", Some("other"), now), None);
    assert_eq!(union.scope("orders", None, now).unwrap().max_age, 100);
}

#[test]
fn a_key_outlives_its_sidecar_by_the_life_of_a_token_and_no_longer() {
    let (union, now) = settled();
    let orders = ids(&["orders"]);
    for id in [1, 2] {
        union.report(id, "shop", &orders, &[set("orders", &[jwk("a", "1")])], now);
    }
    union.leave(1, now);
    let end = now + Duration::from_secs(60) + SLACK;
    assert_eq!(marks(union.scope("orders", None, end)), ["1"], "another one has it");
    union.leave(2, now);
    let before = end - Duration::from_secs(1);
    assert_eq!(marks(union.scope("orders", None, before)), ["1"]);
    union.report(3, "shop", &orders, &[set("orders", &[jwk("a", "1")])], before);
    assert_eq!(marks(union.scope("orders", None, end)), ["1"], "it came back");
    union.leave(3, end);
    assert_eq!(union.scope("orders", None, end + Duration::from_secs(360)), None);
}

#[test]
fn what_a_sidecar_withdraws_is_gone_at_once() {
    let (union, now) = settled();
    let orders = ids(&["orders"]);
    let report = |keys: &[String]| {
        union.report(1, "shop", &orders, &[set("orders", keys)], now);
        union.scope("orders", None, now)
    };
    assert_eq!(marks(report(&[jwk("a", "1"), jwk("b", "2")])), ["1", "2"]);
    assert_eq!(marks(report(&[jwk("b", "2")])), ["2"]);
    let empty = report(&[]).unwrap();
    assert!(empty.keys.is_empty(), "every key is withdrawn, which verifiers should know");
}

#[test]
fn a_sidecar_publishes_keys_of_its_namespace_s_scopes_only() {
    let (union, now) = settled();
    let sets = [set("orders", &[jwk("a", "1")]), set("bank", &[jwk("b", "2")])];
    let refused = union.report(1, "shop", &ids(&["orders"]), &sets, now);
    assert_eq!(refused, [Refusal::NoScope("bank".to_owned())]);
    assert_eq!(union.report(1, "shop", &ids(&["orders"]), &sets, now), [], "it was told");
    assert_eq!(union.scope("bank", None, now), None);
    assert_eq!(marks(union.all(now)), ["1"]);
    // Once the snapshot has the scope, what was said counts.
    union.report(1, "shop", &ids(&["orders", "bank"]), &sets, now);
    assert_eq!(marks(union.scope("bank", None, now)), ["2"]);
    // A scope that goes takes its keys with it, once no token by them is valid.
    union.report(1, "shop", &ids(&["orders"]), &sets, now);
    assert_eq!(marks(union.scope("bank", None, now)), ["2"]);
    assert_eq!(union.scope("bank", None, now + Duration::from_secs(360)), None);
}

#[test]
fn a_client_id_is_the_first_namespace_s_and_two_never_mix() {
    let (union, now) = settled();
    let orders = ids(&["orders"]);
    let report = |id, namespace: &str, mark: &str| {
        union.report(id, namespace, &orders, &[set("orders", &[jwk(mark, mark)])], now)
    };
    assert_eq!(report(1, "shop", "1"), []);
    let taken = Refusal::Taken { client_id: "orders".to_owned(), namespace: "shop".to_owned() };
    assert_eq!(report(2, "thief", "2"), [taken]);
    assert_eq!(marks(union.scope("orders", None, now)), ["1"]);
    assert_eq!(marks(union.all(now)), ["1"]);
    assert_eq!(marks(union.scope("orders", Some("thief"), now)), ["2"]);
    union.leave(1, now);
    let later = now + Duration::from_secs(359);
    assert_eq!(marks(union.scope("orders", None, later)), ["1"], "its tokens are still valid");
    let later = now + Duration::from_secs(360);
    assert_eq!(marks(union.scope("orders", None, later)), ["2"]);
}

#[test]
fn after_a_start_nobody_is_first() {
    let (union, settled) = settled();
    let began = settled - GRACE;
    let orders = ids(&["orders"]);
    for (id, namespace) in [(1, "thief"), (2, "shop")] {
        let keys = [jwk(namespace, namespace)];
        assert_eq!(union.report(id, namespace, &orders, &[set("orders", &keys)], began), []);
    }
    assert_eq!(union.waits(began), Some(30));
    assert_eq!(union.waits(settled - Duration::from_millis(1)), Some(1));
    assert_eq!(union.waits(settled), None);
    assert_eq!(union.scope("orders", None, settled), None, "one of them may pose as the other");
    assert_eq!(marks(union.scope("orders", Some("shop"), settled)), ["shop"]);
    union.report(1, "thief", &BTreeSet::new(), &[], settled);
    let later = settled + Duration::from_secs(360);
    assert_eq!(marks(union.scope("orders", None, later)), ["shop"]);
}

#[test]
fn one_key_id_is_one_key_in_the_set_of_all() {
    let (union, now) = settled();
    let sets = [set("a", &[jwk("same", "1"), jwk("own", "2")])];
    union.report(1, "shop", &ids(&["a"]), &sets, now);
    let sets = [set("b", &[jwk("same", "3"), jwk("other", "4")])];
    union.report(2, "shop", &ids(&["b"]), &sets, now);
    assert_eq!(marks(union.all(now)), ["1", "2", "4"]);
    assert_eq!(marks(union.scope("b", None, now)), ["3", "4"], "its own verifiers find it");
    // One key of two scopes is no collision.
    union.report(3, "shop", &ids(&["c"]), &[set("c", &[jwk("same", "1")])], now);
    assert_eq!(marks(union.all(now)), ["1", "2", "4", "1"]);
}

#[test]
fn only_public_signing_keys_are_taken_and_only_what_is_known_of_them() {
    let bad = |change: fn(&mut Value)| {
        let mut key: Value = serde_json::from_str(&jwk("a", "1")).unwrap();
        change(&mut key);
        public_key(&key.to_string()).unwrap_err()
    };
    assert_eq!(bad(|it| it["d"] = "secret".into()), "has a private member");
    assert_eq!(bad(|it| it["k"] = "secret".into()), "has a private member");
    assert_eq!(bad(|it| it["kty"] = "oct".into()), "is of no kind that signs");
    assert_eq!(bad(|it| it["alg"] = "HS256".into()), "has no algorithm that signs");
    assert_eq!(bad(|it| it["use"] = "enc".into()), "is not for signatures");
    assert_eq!(bad(|it| it["kid"] = "".into()), "has no key id");
    assert_eq!(bad(|it| *it = json!([])), "is no JWK");
    let mut key: Value = serde_json::from_str(&jwk("a", "1")).unwrap();
    key["note"] = "x".into();
    let (_, published, kid) = public_key(&key.to_string()).unwrap();
    assert_eq!((published.get("note"), kid.as_str()), (None, "a"));
    assert_eq!(published.len(), 7);
}

#[test]
fn what_one_sidecar_says_is_bounded() {
    let (union, now) = settled();
    let keys: Vec<String> = (0..100).map(|number| jwk(&number.to_string(), "x")).collect();
    let refused = union.report(1, "shop", &ids(&["orders"]), &[set("orders", &keys)], now);
    assert_eq!(refused, [Refusal::TooMany("orders".to_owned())]);
    assert_eq!(union.scope("orders", None, now).unwrap().keys.len(), MAX_REPORTED);
}

proptest! {
    /// Of whatever a sidecar says, nothing is published that is not a member of a public key.
    #[test]
    fn nothing_private_is_ever_published(
        members in proptest::collection::btree_map("kty|alg|kid|use|crv|x|y|n|e|d|p|k|x5c|[a-z]{1,3}", "EC|RSA|oct|ES256|sig|[a-z]{0,3}", 0..12),
        text in ".{0,40}",
    ) {
        for text in [json!(members).to_string(), text] {
            if let Ok((_, published, kid)) = public_key(&text) {
                prop_assert!(published.keys().all(|member| MEMBERS.contains(&member.as_str())));
                prop_assert!(!PRIVATE.iter().any(|member| members.contains_key(*member)));
                prop_assert_eq!(published["kid"].as_str(), Some(kid.as_str()));
            }
        }
    }
}
