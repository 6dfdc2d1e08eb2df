use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fixture::{self, NOW};
use crate::identity::Principal;
use crate::policy::Stated;
use crate::route::Target;

fn settings() -> AuthzenSettings {
    AuthzenSettings {
        url: Url::parse("http://127.0.0.1:1/access/v1/evaluation").unwrap(),
        timeout: Duration::from_secs(1),
        cache_ttl: Duration::ZERO,
        cache_size: 0,
        credentials: Credentials::Nothing,
        authorities: None,
        prior_knowledge: false,
        headers: vec!["x-tenant".to_owned(), "x-absent".to_owned()],
        query: vec!["page".to_owned()],
    }
}

fn target() -> Target {
    Target { asset_type: "Account".into(), asset_id: "1".into(), action: "read".into() }
}

fn map(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("no object") };
    map
}

#[test]
fn only_a_plain_yes_or_no_is_a_decision() {
    let read = |text: &str| Answer::read(text.as_bytes());
    let decided = |text| read(text).unwrap().decision;
    assert!(decided(r#"{"decision": true}"#));
    assert!(decided(r#"{"decision": true, "context": {"obligations": [], "id": "1"}, "x": 1}"#));
    assert!(!decided(r#"{"decision": false, "context": {"obligations": [1]}}"#));
    for text in [
        "",
        "true",
        "[]",
        "{}",
        r#"{"Decision": true}"#,
        r#"{"decision": "true"}"#,
        r#"{"decision": 1}"#,
        r#"{"decision": null}"#,
        r#"{"decision": [true]}"#,
        r#"{"decision": false, "decision": true}"#,
        r#"{"decision": true} {"decision": true}"#,
        r#"{"evaluations": [{"decision": true}]}"#,
        r#"{"decision": true, "context": "x"}"#,
        r#"{"decision": true, "context": {"obligations": [{"id": "mfa"}]}}"#,
        r#"{"decision": true, "context": {"obligations": {"id": "mfa"}}}"#,
    ] {
        assert!(read(text).is_err(), "{text}");
    }
    let long = format!(r#"{{"decision": false, "context": {{"reason": "{}"}}}}"#, "x".repeat(999));
    assert_eq!(read(&long).unwrap().reason.unwrap().len(), 200);
}

#[test]
fn nothing_that_is_a_credential_leaves() {
    let mut request = fixture::request("GET", "/accounts/1?access_token=canary&page=1&page=2");
    for (name, value) in [
        ("authorization", "Bearer canary"),
        ("cookie", "session=canary"),
        ("x-api-key", "canary"),
        ("x-tenant", "a"),
        ("X-Tenant", "b"),
    ] {
        request.headers.push(name, value);
    }
    request.source.ip = Some("10.0.0.1".parse().unwrap());
    request.source.certificate = Some("canary".to_owned());
    let mut principal = fixture::user("alice");
    principal.groups = vec!["idp/staff".to_owned()];
    principal.claims = map(json!({
        "sub": "alice", "role": "admin", "exp": 1, "iat": 1, "nbf": 1, "jti": "x", "groups": ["wheel"],
    }));
    let path = fixture::path("/accounts/1");
    let question = Question {
        principal: &Arc::new(principal),
        target: &target(),
        context: Context::Http { request: &request, path: &path },
        now: NOW,
    };
    let body = settings().body(&question);
    assert!(!body.to_string().contains("canary"), "{body}");
    assert_eq!(
        body,
        json!({
            "subject": {
                "type": "User", "id": "alice",
                "properties": {"sub": "alice", "role": "admin", "groups": ["idp/staff"]},
            },
            "action": {"name": "read"},
            "resource": {"type": "Account", "id": "1"},
            "context": {
                "http": {
                    "method": "GET", "host": "orders.example", "path": "/accounts/1",
                    "query": {"page": ["1", "2"]}, "headers": {"x-tenant": "a,b"},
                },
                "source": {"ip": "10.0.0.1"},
            },
        })
    );
}

#[test]
fn groups_that_the_settings_do_not_read_are_not_sent_as_groups() {
    let mut principal = fixture::user("alice");
    principal.claims = map(json!({"groups": ["wheel"]}));
    let stated = Stated::default();
    let question = Question {
        principal: &Arc::new(principal),
        target: &target(),
        context: Context::Stated(&stated),
        now: NOW,
    };
    assert_eq!(settings().body(&question)["subject"]["properties"], json!({}));
}

#[test]
fn what_an_application_states_is_handed_on() {
    let properties = map(json!({"role": "admin", "groups": ["staff"]}));
    let stated = Stated {
        context: map(json!({"ip": "::1"})),
        action: map(json!({"soft": true})),
        asset: map(json!({"status": "active"})),
    };
    let question = Question {
        principal: &Arc::new(Principal::stated("User", "alice", properties.clone()).unwrap()),
        target: &target(),
        context: Context::Stated(&stated),
        now: NOW,
    };
    let body = settings().body(&question);
    assert_eq!(body["subject"]["properties"], Value::Object(properties));
    assert_eq!(body["action"], json!({"name": "read", "properties": {"soft": true}}));
    let resource = json!({"type": "Account", "id": "1", "properties": {"status": "active"}});
    assert_eq!((&body["resource"], &body["context"]), (&resource, &json!({"ip": "::1"})));
}

#[tokio::test]
async fn credentials_are_read_anew_and_shown_nowhere() {
    let file = fixture::file("one\n");
    let bearer = Credentials::Bearer(file.path().to_owned());
    let header = bearer.header().await.unwrap().unwrap();
    assert_eq!(header, "Bearer one");
    assert!(header.is_sensitive() && !format!("{header:?}").contains("one"));
    std::fs::write(file.path(), "two").unwrap();
    assert_eq!(bearer.header().await.unwrap().unwrap(), "Bearer two");
    let basic = Credentials::Basic("orders".to_owned(), file.path().to_owned());
    assert_eq!(basic.header().await.unwrap().unwrap(), "Basic b3JkZXJzOnR3bw==");
    for text in ["", "\n", "a\nb", "a\u{7f}"] {
        std::fs::write(file.path(), text).unwrap();
        assert!(bearer.header().await.is_err(), "{text:?}");
    }
    let absent = Credentials::Bearer("absent".into());
    assert!(absent.header().await.is_err());
}

proptest! {
    #[test]
    fn no_answer_is_a_yes_by_accident(text in any::<Vec<u8>>()) {
        if let Ok(answer) = Answer::read(&text) {
            let read: Value = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(read["decision"].as_bool(), Some(answer.decision));
        }
    }
}
