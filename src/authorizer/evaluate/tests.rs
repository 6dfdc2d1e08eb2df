use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Map, Value, json};

use super::*;
use crate::authorizer::Reason;
use crate::fixture::{self, NOW};
use crate::identity::UnfitSubject;
use crate::keys::{KeyRing, Keys};
use crate::token::{ClaimSettings, Minter};

const READ: &str = r#"permit(principal, action == Action::"read", resource);"#;

fn map(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("no object") };
    map
}

fn statement(subject: (&str, &str), properties: Value) -> Statement {
    let (kind, id) = subject;
    Statement {
        principal: Arc::new(Principal::stated(kind, id, map(properties)).unwrap()),
        target: Target {
            asset_type: "Account".to_owned(),
            asset_id: "1".to_owned(),
            action: "read".to_owned(),
        },
        stated: Stated::default(),
    }
}

/// The fixture's authorizer with another policy.
fn with(policy: &str, entities: &str) -> Authorizer {
    Authorizer { policy: fixture::policy(policy, entities), ..fixture::authorizer() }
}

/// Whether `condition` holds for `statement`.
async fn holds(condition: &str, entities: &str, statement: &Statement) -> bool {
    let policy = format!("permit(principal, action, resource) when {{ {condition} }};");
    let outcome = with(&policy, entities).evaluate(statement, false, NOW).await.outcome;
    if let Err(denial) = &outcome {
        assert_eq!(denial.reason(), Reason::NoPermit, "{}", denial.detail());
    }
    outcome.is_ok()
}

fn part(token: &Token, index: usize) -> Value {
    let part = token.as_str().split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn deny_is_the_default() {
    let asked = statement(("User", "alice"), json!({}));
    let denied = with("", "[]").evaluate(&asked, true, NOW).await;
    assert_eq!(denied.outcome.unwrap_err().reason(), Reason::NoPermit);
    assert_eq!(denied.facts.principal.unwrap().id, "alice");
    assert_eq!(denied.facts.target, Some(asked.target));
    assert!(denied.facts.id.is_some());
}

#[tokio::test]
async fn identity_settings_and_routes_have_no_part_in_it() {
    let closed = Authorizer {
        identity: fixture::identity(false),
        routes: crate::route::Routes::default(),
        ..with(READ, "[]")
    };
    let asked = statement(("User", "alice"), json!({}));
    assert!(closed.evaluate(&asked, false, NOW).await.outcome.is_ok());
}

#[tokio::test]
async fn a_yes_has_a_token_only_where_it_is_asked_for() {
    let asked = statement(("User", "alice"), json!({"iss": "https://idp.example/"}));
    let unsigned = with(READ, "[]").evaluate(&asked, false, NOW).await.outcome.unwrap();
    assert!(unsigned.token.is_none());
    let signed = with(READ, "[]").evaluate(&asked, true, NOW).await;
    let token = signed.outcome.unwrap().token.unwrap();
    assert_eq!(part(&token, 0)["typ"], "pdp-decision+jwt");
    let claims = part(&token, 1);
    assert_eq!(claims["entitlements"], "Account:1:read");
    assert_eq!(claims["sub"], "alice");
    assert_eq!(claims["jti"], signed.facts.id.unwrap().to_string());
    for name in ["idp", "htm", "htu"] {
        assert_eq!(claims.get(name), None, "{name}");
    }
}

#[tokio::test]
async fn without_a_key_there_is_no_signed_yes() {
    let minter = Minter::new(fixture::claim_settings(), fixture::no_keys());
    let keyless = Authorizer { minter, ..with(READ, "[]") };
    let asked = statement(("User", "alice"), json!({}));
    let denial = keyless.evaluate(&asked, true, NOW).await.outcome.unwrap_err();
    assert_eq!(denial.reason(), Reason::KeyUnavailable);
    assert!(keyless.evaluate(&asked, false, NOW).await.outcome.is_ok());
}

#[tokio::test]
async fn what_is_stated_of_a_subject_is_never_carried_over_as_if_verified() {
    let settings = ClaimSettings { include_incoming_payload: true, ..fixture::claim_settings() };
    let ring = KeyRing::single(Arc::new(fixture::signing_key("orders")));
    let carrying =
        Authorizer { minter: Minter::new(settings, Keys::fixed(ring)), ..with(READ, "[]") };
    let asked = statement(("User", "alice"), json!({"email": "alice@example.com"}));
    let token = carrying.evaluate(&asked, true, NOW).await.outcome.unwrap().token.unwrap();
    assert_eq!(part(&token, 1).get("email"), None);
}

#[tokio::test]
async fn an_anonymous_subject_has_no_sub() {
    let asked = statement(("Anonymous", "anonymous"), json!({}));
    let token = with(READ, "[]").evaluate(&asked, true, NOW).await.outcome.unwrap().token;
    assert_eq!(part(&token.unwrap(), 1).get("sub"), None);
}

#[tokio::test]
async fn policies_see_what_is_stated() {
    let properties = json!({"role": "admin", "groups": ["staff"], "half": 0.5, "none": null});
    let mut asked = statement(("User", "alice"), properties);
    asked.stated.asset = map(json!({"status": "archived", "size": {"bytes": 3}}));
    asked.stated.action = map(json!({"soft": true}));
    asked.stated.context = map(json!({"ip": "1.2.3.4", "http": {"method": "GET"}}));
    for condition in [
        r#"principal.claims.role == "admin" && principal in Group::"staff""#,
        r#"!(principal.claims has half) && !(principal.claims has none)"#,
        r#"resource.status == "archived" && resource.size.bytes == 3"#,
        "action.soft",
        r#"context.ip == "1.2.3.4" && context.http.method == "GET""#,
        r#"context.time == datetime("2027-01-15T08:00:00Z")"#,
        "!(principal has issuer)",
    ] {
        assert!(holds(condition, "[]", &asked).await, "{condition}");
    }
}

#[tokio::test]
async fn the_entities_file_stands_above_what_is_stated() {
    let entities = r#"[
        {"uid": {"type": "Account", "id": "1"}, "attrs": {"status": "archived"}, "parents": []},
        {"uid": {"type": "User", "id": "alice"}, "attrs": {"role": "clerk"}, "parents": []}
    ]"#;
    let mut asked = statement(("User", "alice"), json!({"role": "admin"}));
    asked.stated.asset = map(json!({"status": "active", "color": "red"}));
    assert!(holds(r#"resource.status == "archived""#, entities, &asked).await);
    assert!(holds(r#"resource.color == "red""#, entities, &asked).await);
    assert!(holds(r#"principal.role == "clerk""#, entities, &asked).await);
}

#[tokio::test]
async fn no_application_states_a_peer_a_time_or_an_issuer() {
    let mut asked = statement(("User", "alice"), json!({"issuer": "https://idp.example/"}));
    asked.target.asset_type = "User".to_owned();
    asked.target.asset_id = "alice".to_owned();
    asked.stated.asset = map(json!({"issuer": "https://idp.example/", "claims": {"a": 1}}));
    asked.stated.context =
        map(json!({"source": {"principal": "spiffe://a/b"}, "time": "2000-01-01T00:00:00Z"}));
    for condition in [
        "context has source",
        "principal has issuer",
        "resource has issuer",
        "principal.claims has a",
        r#"context.time == "2000-01-01T00:00:00Z""#,
    ] {
        assert!(!holds(condition, "[]", &asked).await, "{condition}");
    }
}

#[tokio::test]
async fn a_forbid_that_needs_a_request_denies_where_there_is_none() {
    let asked = statement(("User", "alice"), json!({}));
    let evaluation = fixture::authorizer().evaluate(&asked, false, NOW).await;
    assert_eq!(evaluation.outcome.unwrap_err().reason(), Reason::PolicyError);
}

#[tokio::test]
async fn a_type_that_no_policy_can_name_is_not_permitted() {
    for kind in ["no type", "", "a-b", "if"] {
        let as_subject = statement((kind, "alice"), json!({}));
        let mut as_asset = statement(("User", "alice"), json!({}));
        as_asset.target.asset_type = kind.to_owned();
        for asked in [as_subject, as_asset] {
            let authorizer = with("permit(principal, action, resource);", "[]");
            let evaluation = authorizer.evaluate(&asked, true, NOW).await;
            assert_eq!(evaluation.outcome.unwrap_err().reason(), Reason::NoPermit, "`{kind}`");
        }
    }
}

#[test]
fn some_subjects_can_not_be_stated() {
    let refused = |kind, properties| Principal::stated(kind, "a", map(properties)).unwrap_err();
    assert_eq!(refused("Group", json!({})), UnfitSubject::Type);
    assert_eq!(refused("Action", json!({})), UnfitSubject::Type);
    for groups in [json!("staff"), json!({}), json!(["staff", 1]), json!(true)] {
        assert_eq!(refused("User", json!({"groups": groups})), UnfitSubject::Groups);
    }
    let plain = Principal::stated("User", "a", map(json!({"groups": null}))).unwrap();
    assert!(plain.groups.is_empty());
}

/// An authorizer that permits everything to anyone but who is on the list.
fn denying(list: &str) -> Authorizer {
    let entities = r#"[
        {"uid": {"type": "User", "id": "alice"}, "attrs": {}, "parents": []},
        {"uid": {"type": "User", "id": "mallory"}, "attrs": {}, "parents": []},
        {"uid": {"type": "Account", "id": "1"}, "attrs": {}, "parents": []}
    ]"#;
    let list = crate::deny_list::DenyList::parse(list.as_bytes()).unwrap();
    Authorizer { deny_list: Some(crate::secrets::Kept::fixed(list)), ..with(READ, entities) }
}

#[tokio::test]
async fn who_is_on_the_deny_list_is_denied_whatever_the_policies_say() {
    let listed =
        denying("subjects: [{subject: mallory, issuer: 'https://any.example', reason: r1}]");
    let mallory = statement(("User", "mallory"), json!({}));
    let denied = listed.evaluate(&mallory, true, NOW).await;
    let denial = denied.outcome.unwrap_err();
    assert_eq!(denial.reason(), Reason::DenyListed);
    assert_eq!(denial.detail(), "the subject is on the deny list: r1");
    assert_eq!(denied.facts.principal.unwrap().id, "mallory");
    assert!(denied.facts.opinion.is_none(), "no policy was asked");
    let alice = statement(("User", "alice"), json!({}));
    assert!(listed.evaluate(&alice, true, NOW).await.outcome.is_ok());
    assert!(denying("{}").evaluate(&mallory, true, NOW).await.outcome.is_ok());
}

#[tokio::test]
async fn a_search_finds_nothing_for_who_is_on_the_deny_list() {
    use crate::search::Open;
    let listed = denying("subjects: [{subject: mallory}]");
    for (open, subject, expected) in [
        (Open::Subject, "", &["alice"][..]),
        (Open::Asset, "alice", &["1"]),
        (Open::Asset, "mallory", &[]),
        (Open::Action, "alice", &["read"]),
        (Open::Action, "mallory", &[]),
    ] {
        let Statement { principal, target, stated } = statement(("User", subject), json!({}));
        let principal = Arc::unwrap_or_clone(principal);
        let search = Search { open, principal, target, stated };
        let found = listed.search(&search, None, 10, NOW).await.unwrap();
        assert_eq!(found.ids, expected, "{open:?} {subject}");
    }
}
