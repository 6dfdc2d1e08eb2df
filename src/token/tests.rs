use std::sync::Arc;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Map, Value, json};

use super::*;
use crate::fixture::{self, NOW};
use crate::identity::{Principal, PrincipalKind};
use crate::policy::{Context, Question};

fn permit(principal: Principal) -> Permit {
    let target = target("1");
    let question = Question {
        principal: &Arc::new(principal),
        target: &target,
        context: Context::Http {
            request: &fixture::request("GET", "/accounts/1"),
            path: &fixture::path("/accounts/1"),
        },
        now: NOW,
    };
    fixture::policy("permit(principal, action, resource);", "[]").decide_now(&question).unwrap()
}

fn target(id: &str) -> Target {
    Target { asset_type: "Account".into(), asset_id: id.into(), action: "read".into() }
}

const ENTITIES: &str = r#"[
    {"uid": {"type": "Account", "id": "1"}, "parents": [],
     "attrs": {"tier": "a,b:50%", "limit": -7, "open": true, "tags": ["x"]}},
    {"uid": {"type": "Account", "id": "2"}, "parents": [], "attrs": {}}
]"#;

const BINDING: Binding<'_> = Binding { method: "GET", uri: "http://a/accounts/1" };

fn mint(settings: ClaimSettings, principal: Principal) -> Result<Token, MintError> {
    mint_items(settings, principal, &[&target("1")])
}

fn mint_items(
    settings: ClaimSettings,
    principal: Principal,
    items: &[&Target],
) -> Result<Token, MintError> {
    let ring = KeyRing::single(Arc::new(fixture::signing_key("orders")));
    let minter = Minter::new(settings, Keys::fixed(ring));
    let assets = fixture::policy("", ENTITIES);
    now(minter.mint(
        &permit(principal),
        &Listed { targets: items, assets: &assets },
        Some(&BINDING),
        Channel::Proxy,
        NOW,
        &DecisionId("id-1".to_owned()),
    ))
}

/// A key in memory signs without waiting.
fn now<T>(minting: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(minting).unwrap()
}

fn part(token: &Token, index: usize) -> Map<String, Value> {
    let text = token.as_str().split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

fn claims(settings: ClaimSettings, principal: Principal) -> Value {
    Value::Object(part(&mint(settings, principal).unwrap(), 1))
}

#[test]
fn a_token_says_exactly_what_the_contract_lists() {
    let token = mint(fixture::claim_settings(), fixture::user("alice")).unwrap();
    assert_eq!(
        Value::Object(part(&token, 0)),
        json!({"alg": "ES256", "kid": "orders", "typ": "JWT"})
    );
    assert_eq!(
        Value::Object(part(&token, 1)),
        json!({
            "iss": "placet", "sub": "alice", "iat": 1_800_000_000, "nbf": 1_800_000_000,
            "exp": 1_800_000_060, "jti": "id-1", "client_id": "orders",
            "idp": "https://idp.example/", "htm": "GET", "htu": "http://a/accounts/1",
            "entitlements": "Account:1:read",
        })
    );
    assert_eq!((token.id(), token.key_id()), ("id-1", "orders"));
    assert!(!format!("{token:?}").contains("eyJ"));
}

#[test]
fn an_independent_verifier_accepts_the_signature() {
    let key = Arc::new(fixture::signing_key("orders"));
    let minter =
        Minter::new(fixture::claim_settings(), Keys::fixed(KeyRing::single(Arc::clone(&key))));
    let id = DecisionId::random().unwrap();
    let token = now(minter.mint(
        &permit(fixture::user("alice")),
        &Listed { targets: &[&target("1")], assets: &fixture::policy("", "[]") },
        Some(&BINDING),
        Channel::Proxy,
        NOW,
        &id,
    ))
    .unwrap();
    let jwk: jsonwebtoken::jwk::Jwk =
        serde_json::from_value(Value::Object(key.jwk().clone())).unwrap();
    let verifier = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
    let (message, signature) = token.as_str().rsplit_once('.').unwrap();
    let verify = |message: &str| {
        let algorithm = jsonwebtoken::Algorithm::ES256;
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &verifier, algorithm).unwrap()
    };
    assert!(verify(message));
    assert!(!verify(&format!("{message}A")));
}

#[test]
fn optional_claims_follow_the_settings() {
    let settings = ClaimSettings {
        audience: Some(json!(["a", "b"])),
        bind_request: false,
        decision_claim: "perms".to_owned(),
        delimiter: None,
        ..fixture::claim_settings()
    };
    let claims = claims(settings, Principal::anonymous());
    assert_eq!(claims["aud"], json!(["a", "b"]));
    assert_eq!(claims["perms"], json!(["Account:1:read"]));
    for absent in ["htm", "htu", "sub", "idp", "entitlements"] {
        assert!(claims.get(absent).is_none(), "{absent}");
    }
}

#[test]
fn the_token_never_outlives_the_incoming_one() {
    let expiring = |seconds: u64| Principal {
        expires: Some(Timestamp::from_millis(NOW.millis() + seconds * 1000 + 999)),
        ..fixture::user("alice")
    };
    let expiry = |seconds| claims(fixture::claim_settings(), expiring(seconds))["exp"].clone();
    assert_eq!(expiry(1), NOW.seconds() + 1);
    assert_eq!(expiry(59), NOW.seconds() + 59);
    assert_eq!(expiry(61), NOW.seconds() + 60);
    assert!(matches!(mint(fixture::claim_settings(), expiring(0)), Err(MintError::Expired)));
}

#[test]
fn carried_over_claims_can_not_speak_for_us() {
    let mut alice = fixture::user("alice");
    let mut incoming = Map::new();
    for name in NEVER_CARRIED.iter().chain(&["entitlements", "other_scopes", "email", "groups"]) {
        incoming.insert((*name).to_owned(), json!("forged"));
    }
    alice.claims = incoming;
    alice.issuer = None;
    alice.subject = None;
    let settings = ClaimSettings {
        include_incoming_payload: true,
        bind_request: false,
        decision_claims: ["entitlements".to_owned(), "other_scopes".to_owned()].into(),
        ..fixture::claim_settings()
    };
    let claims = claims(settings, alice.clone());
    let forged: Vec<_> = claims
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, value)| **value == "forged")
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(forged, ["email", "groups"]);
    assert_eq!(claims["entitlements"], "Account:1:read");
    let without = self::claims(fixture::claim_settings(), alice);
    assert!(without.get("email").is_none());
}

#[test]
fn no_claim_comes_twice() {
    let mut alice = fixture::user("alice");
    alice.kind = PrincipalKind::Jwt;
    let names = NEVER_CARRIED.iter().chain(&["entitlements", "email", "\"\\\n"]);
    alice.claims = names.map(|name| ((*name).to_owned(), json!({"sub": "agent"}))).collect();
    let settings = ClaimSettings {
        audience: Some(json!("a")),
        include_incoming_payload: true,
        include_actor: true,
        ..fixture::claim_settings()
    };
    let token = mint(settings, alice).unwrap();
    let payload = token.as_str().split('.').nth(1).unwrap();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
    let claims = crate::json::value(&payload).unwrap();
    let twice = crate::json::value(br#"{"a": 1, "a": 1}"#);
    assert!(twice.is_err(), "control: it would be refused");
    assert_eq!(claims["email"], claims["\"\\\n"]);
    assert_eq!(claims.as_object().unwrap().len(), 15);
}

#[test]
fn a_token_too_long_for_a_header_is_a_fault() {
    let held: Vec<Target> = (0..400).map(|n| target(&format!("account-{n}"))).collect();
    let items: Vec<&Target> = held.iter().collect();
    let few = mint_items(fixture::claim_settings(), fixture::user("a"), &items[..100]).unwrap();
    assert!(few.as_str().len() <= 8192);
    let refusal = mint_items(fixture::claim_settings(), fixture::user("a"), &items);
    assert!(matches!(refusal, Err(MintError::TooLong(length)) if length > 8192));
}

#[test]
fn more_items_than_allowed_is_a_fault() {
    let settings = |max_items| ClaimSettings { max_items, ..fixture::claim_settings() };
    let (one, two) = (target("1"), target("2"));
    let minted = |max_items| mint_items(settings(max_items), fixture::user("a"), &[&one, &two]);
    assert!(minted(2).is_ok());
    assert!(matches!(minted(1), Err(MintError::TooManyItems { count: 2, limit: 1 })));
}

#[test]
fn an_item_names_attributes_of_its_asset() {
    let settings = |text| ClaimSettings {
        template: Template::parse(text, Some(",")).unwrap(),
        ..fixture::claim_settings()
    };
    let item = |text, id| {
        let token = mint_items(settings(text), fixture::user("a"), &[&target(id)])?;
        Ok::<_, MintError>(part(&token, 1)["entitlements"].as_str().unwrap().to_owned())
    };
    assert_eq!(
        item("{{asset_id}}:{{attr.tier}}:{{ attr.limit }}:{{attr.open}}", "1").unwrap(),
        "1:a%2Cb%3A50%25:-7:true"
    );
    // Nothing to write is no empty text.
    for (text, id) in [("{{attr.tags}}", "1"), ("{{attr.tier}}", "2"), ("{{attr.tier}}", "3")] {
        let error = item(text, id).unwrap_err();
        assert!(matches!(error, MintError::Attribute(_)), "{text}");
        assert!(error.to_string().contains(&format!("`Account` `{id}`")), "{error}");
    }
}

#[test]
fn ids_are_random() {
    let (one, two) = (DecisionId::random().unwrap(), DecisionId::random().unwrap());
    assert_eq!(one.0.len(), 22);
    assert_ne!(one.0, two.0);
}

#[test]
fn who_acts_is_told_of_a_verified_token_only() {
    let of = |kind: PrincipalKind| {
        let claims = json!({"act": {"sub": "agent"}, "may_act": {"sub": "b"}}).as_object().cloned();
        Principal { kind, claims: claims.unwrap(), ..Principal::anonymous() }
    };
    let minted = |kind, carried: bool, include_actor: bool| {
        let settings = ClaimSettings {
            include_incoming_payload: carried,
            include_actor,
            ..fixture::claim_settings()
        };
        part(&mint(settings, of(kind)).unwrap(), 1).get("act").cloned()
    };
    for carried in [false, true] {
        assert_eq!(minted(PrincipalKind::Jwt, carried, true), Some(json!({"sub": "agent"})));
        assert_eq!(minted(PrincipalKind::Jwt, carried, false), None);
        assert_eq!(minted(PrincipalKind::ApiKey, carried, true), None);
        assert_eq!(minted(PrincipalKind::Workload, carried, true), None);
    }
    let malformed = json!({"act": "agent"}).as_object().cloned().unwrap();
    let caller = || Principal {
        kind: PrincipalKind::Jwt,
        claims: malformed.clone(),
        ..Principal::anonymous()
    };
    let settings = |include_actor| ClaimSettings { include_actor, ..fixture::claim_settings() };
    assert!(matches!(mint(settings(true), caller()), Err(MintError::Actor(_))));
    assert!(mint(settings(false), caller()).is_ok());
}
