use serde_json::json;

use super::*;
use crate::fixture::{self, NOW, file};
use crate::request::{Body, Descriptors};

struct Asked {
    principal: Arc<Principal>,
    target: Target,
    request: Request,
    path: CanonicalPath,
}

impl Asked {
    fn new(principal: Principal) -> Self {
        Self {
            principal: Arc::new(principal),
            target: Target {
                asset_type: "Account".to_owned(),
                asset_id: "1".to_owned(),
                action: "read".to_owned(),
            },
            request: fixture::request("GET", "/accounts/1?a=1&a=2&b=%26x%3D1&c;d"),
            path: fixture::path("/accounts/1"),
        }
    }

    fn question(&self) -> Question<'_> {
        Question {
            principal: &self.principal,
            target: &self.target,
            context: Context::Http { request: &self.request, path: &self.path },
            now: NOW,
        }
    }
}

fn decide(policies: &str, asked: &Asked) -> Result<Permit, Refusal> {
    fixture::policy(policies, "[]").decide_now(&asked.question())
}

/// Whether `condition` holds for `asked`.
fn holds(condition: &str, asked: &Asked) -> bool {
    let result =
        decide(&format!("permit(principal, action, resource) when {{ {condition} }};"), asked);
    if let Err(refusal) = &result {
        assert!(matches!(refusal.kind, RefusalKind::NoPermit), "{refusal:?}");
    }
    result.is_ok()
}

#[test]
fn deny_is_the_default() {
    let asked = Asked::new(fixture::user("alice"));
    assert!(matches!(decide("", &asked).unwrap_err().kind, RefusalKind::NoPermit));
    let other = r#"permit(principal, action == Action::"write", resource);"#;
    assert!(matches!(decide(other, &asked).unwrap_err().kind, RefusalKind::NoPermit));
    let permit = decide("permit(principal, action, resource);", &asked).unwrap();
    assert_eq!(permit.target(), &asked.target);
    assert_eq!(permit.principal().id, "alice");
}

#[test]
fn a_forbid_wins() {
    let both =
        r#"permit(principal, action, resource); @id("no") forbid(principal, action, resource);"#;
    let refusal = decide(both, &Asked::new(fixture::user("alice"))).unwrap_err();
    assert!(matches!(refusal.kind, RefusalKind::Forbidden));
    assert_eq!(refusal.grounds.determining, ["no"]);
}

#[test]
fn a_forbid_that_fails_denies_and_a_permit_that_fails_permits_nothing() {
    let asked = Asked::new(fixture::user("alice"));
    let broken_forbid = r#"
        permit(principal, action, resource);
        @id("broken") forbid(principal, action, resource) when { principal.absent };
    "#;
    let refusal = decide(broken_forbid, &asked).unwrap_err();
    assert!(matches!(&refusal.kind, RefusalKind::Fault(text) if text.contains("`broken`")));
    assert_eq!(refusal.grounds.errors.len(), 1);
    let broken_permit = r#"permit(principal, action, resource) when { principal.absent };"#;
    let refusal = decide(broken_permit, &asked).unwrap_err();
    assert!(matches!(refusal.kind, RefusalKind::NoPermit));
    assert_eq!(refusal.grounds.errors.len(), 1);
    let one_of_two = format!(r#"{broken_permit} @id("fine") permit(principal, action, resource);"#);
    assert_eq!(decide(&one_of_two, &asked).unwrap().grounds().determining, ["fine"]);
    let forbidden_too = format!(r#"{broken_forbid} forbid(principal, action, resource);"#);
    let refusal = decide(&forbidden_too, &asked).unwrap_err();
    assert!(matches!(refusal.kind, RefusalKind::Forbidden));
}

#[test]
fn the_principal_has_its_groups_issuer_and_claims() {
    let mut alice = fixture::user("alice");
    alice.groups = vec!["idp-staff".to_owned()];
    let claims = json!({
        "level": 3, "ratio": 1.5, "none": null, "ok": true, "big": 9_223_372_036_854_775_808_u64,
        "list": ["a", 1, null, 2.5], "deep": {"x": {"y": "z"}, "gone": null},
        "\"]; permit(principal,action,resource);": "text",
    });
    alice.claims = claims.as_object().unwrap().clone();
    let asked = Asked::new(alice);
    for condition in [
        r#"principal == User::"alice""#,
        r#"principal in Group::"idp-staff""#,
        r#"principal.issuer == "https://idp.example/""#,
        r#"principal.claims.level == 3 && principal.claims.ok"#,
        r#"principal.claims.list == ["a", 1]"#,
        r#"principal.claims.deep.x.y == "z""#,
    ] {
        assert!(holds(condition, &asked), "{condition}");
    }
    for condition in [
        r#"principal in Group::"staff""#,
        "principal.claims has ratio",
        "principal.claims has none",
        "principal.claims has big",
        "principal.claims.deep has gone",
    ] {
        assert!(!holds(condition, &asked), "{condition}");
    }
    let anonymous = Asked::new(Principal::anonymous());
    assert!(holds(r#"principal == Anonymous::"anonymous" && !(principal has issuer)"#, &anonymous));
}

#[test]
fn the_context_shows_the_request() {
    let mut asked = Asked::new(fixture::user("alice"));
    asked.request.source.ip = Some("192.0.2.7".parse().unwrap());
    asked.request.headers.push("X-A", "1");
    asked.request.headers.push("x-a", "2");
    asked.request.headers.push("x-raw", vec![b'a', 0xff, 0xfe]);
    for condition in [
        r#"context.http.method == "GET""#,
        r#"context.http.host == "orders.example""#,
        r#"context.http.path == "/accounts/1""#,
        r#"context.http.query.a == ["1", "2"]"#,
        r#"context.http.query.b == ["&x=1"]"#,
        r#"context.http.query has "c;d""#,
        r#"context.http.headers["x-a"] == "1,2""#,
        r#"context.http.headers["x-raw"] == "a!!""#,
        r#"context.source.ip.isInRange(ip("192.0.2.0/24"))"#,
        r#"context.time == datetime("2027-01-15T08:00:00.000Z")"#,
    ] {
        assert!(holds(condition, &asked), "{condition}");
    }
    assert!(!holds("context.source has principal", &asked));
    let mut peer = fixture::user("alice");
    peer.peer = Some("spiffe://cluster.local/ns/a/sa/b".to_owned());
    assert!(holds(
        r#"context.source.principal like "spiffe://cluster.local/*""#,
        &Asked::new(peer)
    ));
}

#[test]
fn the_context_shows_the_body() {
    let mut asked = Asked::new(fixture::user("alice"));
    assert!(holds(r#"context.http.body.state == "unsent""#, &asked));
    asked.request.headers.push("content-type", "application/json");
    asked.request.body = Body::Partial(r#"{"amount": 7}"#.into());
    let whole = "context.http.body has json";
    assert!(holds(&format!(r#"context.http.body.state == "partial" && !({whole})"#), &asked));
    asked.request.body = Body::Whole(r#"{"amount": 7}"#.into());
    assert!(holds("context.http.body.json.amount == 7", &asked));
    assert!(holds("!(context.http.body has form)", &asked));
    asked.request.body = Body::Whole(r#"{"amount": 7"#.into());
    let refusal =
        decide(&format!("permit(principal, action, resource) when {{ {whole} }};"), &asked)
            .unwrap_err();
    assert!(matches!(refusal.kind, RefusalKind::BadBody(_)), "{refusal:?}");
    assert!(decide("permit(principal, action, resource);", &asked).is_ok(), "nobody looks at it");
    let mut form = Asked::new(fixture::user("alice"));
    form.request.headers.push("content-type", "application/x-www-form-urlencoded");
    form.request.body = Body::Whole("a=1&a=2".into());
    assert!(holds(r#"context.http.body.form.a == ["1", "2"]"#, &form));
}

#[test]
fn what_cedar_can_not_hold_of_a_form_is_seen_to_be_there() {
    let mut asked = Asked::new(fixture::user("alice"));
    asked.request.headers.push("content-type", "multipart/form-data; boundary=x");
    let part = "--x\r\nContent-Disposition: form-data; name=";
    let text = format!("{part}role\r\n\r\nuser\r\n");
    let order = format!("{part}order\r\nContent-Type: application/json\r\n\r\n{{\"id\":7}}\r\n");
    let file = format!("{part}role; filename=f\r\n\r\n").into_bytes();
    let whole = [text.as_bytes(), order.as_bytes(), b"--x--"].concat();
    asked.request.body = Body::Whole(whole.into());
    let is_user = r#"context.http.body.form.role == ["user"]"#;
    assert!(holds(
        &format!(r#"{is_user} && context.http.body.form.order == [{{"id": 7}}]"#),
        &asked
    ));
    let with_a_file = [text.as_bytes(), &file, b"\xff\r\n--x--"].concat();
    asked.request.body = Body::Whole(with_a_file.into());
    assert!(!holds(is_user, &asked));
    assert!(holds(r#"context.http.body.form.role == ["user", {}]"#, &asked));
}

#[test]
fn a_message_is_seen_by_its_descriptors() {
    let policies =
        file(r"permit(principal, action, resource) when { context.http.body.json.sign };");
    let known = Descriptors::parse(crate::proto::DESCRIPTORS.to_vec()).unwrap();
    let policy = |descriptors| {
        let sources = CedarSources {
            policies: vec![policies.path().to_owned()],
            schema: None,
            entities: None,
            bundle: None,
            descriptors,
        };
        Policy::cedar(Cedar::load(&sources, ["Account"]).unwrap())
    };
    let (seeing, blind) = (policy(Some(Arc::new(known))), policy(None));
    assert_ne!(seeing.revision(), blind.revision());
    let mut asked = Asked::new(fixture::user("alice"));
    asked.path = fixture::path("/placet.v1.PolicyDecisionPoint/Evaluate");
    asked.request.headers.push("content-type", "application/grpc");
    asked.request.body = Body::Whole(b"\0\0\0\0\x02\x28\x01".as_slice().into());
    assert!(seeing.decide_now(&asked.question()).is_ok());
    assert!(blind.decide_now(&asked.question()).is_err());
    asked.request.is_text_body = true;
    let refusal = seeing.decide_now(&asked.question()).unwrap_err();
    assert!(matches!(refusal.kind, RefusalKind::NoPermit), "bytes of it may be lost: {refusal:?}");
    asked.request.is_text_body = false;
    asked.request.body = Body::Whole(b"\0\0\0\0\x02\x28".as_slice().into());
    let refusal = seeing.decide_now(&asked.question()).unwrap_err();
    assert!(matches!(refusal.kind, RefusalKind::BadBody(_)), "{refusal:?}");
}

#[test]
fn the_entities_file_adds_to_the_principal() {
    let entities = r#"[
        {"uid": {"type": "User", "id": "alice"}, "attrs": {"desk": 7, "claims": "old"},
         "parents": [{"type": "Group", "id": "staff"}]},
        {"uid": {"type": "Group", "id": "staff"}, "attrs": {}, "parents": [{"type": "Group", "id": "all"}]},
        {"uid": {"type": "Account", "id": "1"}, "attrs": {"owner": {"__entity": {"type": "User", "id": "alice"}}}, "parents": []}
    ]"#;
    let policies = r#"permit(principal in Group::"all", action, resource)
        when { principal.desk == 7 && resource.owner == principal && principal.claims.level == 1 };"#;
    let policy = fixture::policy(policies, entities);
    let mut alice = fixture::user("alice");
    alice.claims = json!({"level": 1}).as_object().unwrap().clone();
    assert!(policy.decide_now(&Asked::new(alice).question()).is_ok());
    let mut bob = fixture::user("bob");
    bob.groups = vec!["staff".to_owned()];
    assert!(policy.decide_now(&Asked::new(bob).question()).is_err());
}

#[test]
fn the_revision_follows_the_text() {
    let revision = |text| fixture::policy(text, "[]").revision().to_owned();
    let permit = "permit(principal, action, resource);";
    assert_eq!(revision(permit), revision(permit));
    assert_ne!(revision(permit), revision("permit(principal, action, resource) ;"));
    assert_eq!(revision(permit).len(), 12);
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let first = file(r#"@id("a") permit(principal, action, resource); permit(nonsense"#);
    let second = file(
        r#"@id("a") permit(principal, action, resource); @id("a") forbid(principal, action, resource);"#,
    );
    let template = file(r#"@id("t") permit(principal == ?principal, action, resource);"#);
    let sources = CedarSources {
        policies: [&first, &second, &template].map(|file| file.path().to_owned()).to_vec(),
        schema: None,
        entities: Some("/nonexistent.json".into()),
        bundle: None,
        descriptors: None,
    };
    let errors = Cedar::load(&sources, ["not a type"]).unwrap_err();
    let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(errors.len(), 5, "{text}");
    for expected in
        ["is not valid", "id `a` is taken", "template `t`", "can't read", "`not a type`"]
    {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

#[test]
fn policies_that_do_not_fit_the_schema_are_refused() {
    let schema = file(
        r#"entity User = { issuer?: String, claims: { level?: Long } };
           entity Account;
           action read appliesTo { principal: User, resource: Account,
               context: { http: { method: String } } };"#,
    );
    let load = |text: &str| {
        let policies = file(text);
        let sources = CedarSources {
            policies: vec![policies.path().to_owned()],
            schema: Some(schema.path().to_owned()),
            entities: None,
            bundle: None,
            descriptors: None,
        };
        Cedar::load(&sources, ["Account"]).map(Policy::cedar)
    };
    let good = r#"permit(principal, action == Action::"read", resource) when { context.http.method == "GET" };"#;
    assert!(load(good).unwrap().decide_now(&Asked::new(fixture::user("alice")).question()).is_ok());
    for bad in [
        r#"permit(principal, action == Action::"raed", resource);"#,
        r#"permit(principal, action == Action::"read", resource) when { context.http.metod == "GET" };"#,
        r#"permit(principal, action == Action::"read", resource) when { principal.claims.level == "x" };"#,
    ] {
        let errors = load(bad).unwrap_err();
        assert!(errors.iter().any(|error| matches!(error, CedarError::Invalid(_))), "{bad}");
    }
}

#[test]
fn a_json_policy_set_brings_templates_and_their_links() {
    let set = json!({
        "staticPolicies": {
            "no-delete": {
                "effect": "forbid", "principal": {"op": "All"}, "resource": {"op": "All"},
                "action": {"op": "==", "entity": {"type": "Action", "id": "delete"}},
                "conditions": [],
            },
        },
        "templates": {
            "reader": {
                "effect": "permit", "annotations": {"id": "reader", "reason": "reads it"},
                "principal": {"op": "==", "slot": "?principal"}, "action": {"op": "All"},
                "resource": {"op": "in", "slot": "?resource"}, "conditions": [],
            },
            "unused": {
                "effect": "permit", "principal": {"op": "in", "slot": "?principal"},
                "action": {"op": "All"}, "resource": {"op": "All"}, "conditions": [],
            },
        },
        "templateLinks": [
            {"templateId": "reader", "newId": "alice-1", "values": {
                "?principal": {"type": "User", "id": "alice"},
                "?resource": {"type": "Account", "id": "1"}}},
            {"templateId": "reader", "newId": "alice-2", "values": {
                "?principal": {"type": "User", "id": "alice"},
                "?resource": {"type": "Account", "id": "2"}}},
        ],
    });
    let folder = tempfile::tempdir().unwrap();
    let (json, text) = (folder.path().join("links.cedar.json"), folder.path().join("more.cedar"));
    std::fs::write(&json, set.to_string()).unwrap();
    std::fs::write(&text, "permit(principal == User::\"bob\", action, resource);").unwrap();
    let sources = CedarSources {
        policies: vec![json.clone(), text],
        schema: None,
        entities: None,
        bundle: None,
        descriptors: None,
    };
    let policy = Policy::cedar(Cedar::load(&sources, []).unwrap());
    assert_eq!(policy.len(), 4);
    let permit = policy.decide_now(&Asked::new(fixture::user("alice")).question()).unwrap();
    assert_eq!(permit.grounds().determining, ["alice-1"]);
    assert_eq!(permit.grounds().reasons, ["reads it"]);
    let permit = policy.decide_now(&Asked::new(fixture::user("bob")).question()).unwrap();
    assert_eq!(permit.grounds().determining, ["more.policy0"]);
    assert!(policy.decide_now(&Asked::new(fixture::user("carol")).question()).is_err());
    let twice = CedarSources { policies: vec![json.clone(), json.clone()], ..sources.clone() };
    let errors = Cedar::load(&twice, []).unwrap_err();
    assert!(errors.iter().any(|error| error.to_string().contains("`alice-1` is taken")));
    std::fs::write(&json, "{}").unwrap();
    let errors = Cedar::load(&sources, []).unwrap_err();
    assert!(errors.iter().any(|error| error.to_string().contains("is not valid")), "{errors:?}");
}

#[test]
fn determining_policies_give_their_reasons() {
    let asked = Asked::new(fixture::user("alice"));
    let policies = r#"
        @id("a") @reason("all may read") permit(principal, action, resource);
        @id("b") permit(principal, action, resource);
        @id("c") @reason("not decided by this") permit(principal, action == Action::"x", resource);
    "#;
    let permit = decide(policies, &asked).unwrap();
    assert_eq!(permit.grounds().determining, ["a", "b"]);
    assert_eq!(permit.grounds().reasons, ["all may read"]);
    let forbid =
        format!(r#"{policies} @id("d") @reason("closed") forbid(principal, action, resource);"#);
    assert_eq!(decide(&forbid, &asked).unwrap_err().grounds.reasons, ["closed"]);
}

#[test]
fn a_principal_keeps_its_tags_and_is_never_above_its_groups() {
    let entities = r#"[
        {"uid": {"type": "User", "id": "alice"}, "attrs": {}, "parents": [], "tags": {"desk": 7}},
        {"uid": {"type": "Group", "id": "odd"}, "attrs": {}, "parents": [{"type": "User", "id": "alice"}]}
    ]"#;
    let policy = fixture::policy(
        r#"permit(principal, action, resource) when { principal.getTag("desk") == 7 };"#,
        entities,
    );
    let mut alice = fixture::user("alice");
    assert!(policy.decide_now(&Asked::new(alice.clone()).question()).is_ok());
    alice.groups = vec!["odd".to_owned()];
    let refusal = policy.decide_now(&Asked::new(alice).question()).unwrap_err();
    assert!(matches!(&refusal.kind, RefusalKind::Fault(text) if text.contains("`Group::\"odd\"`")));
}

fn listed(policy: &Policy, asked: &Asked, actions: &[&str]) -> Result<Vec<String>, Refusal> {
    let pairs = actions.iter().map(|action| ("Account", *action)).collect();
    let inventory = policy.inventory(&pairs);
    let question = asked.question();
    let mut listing = policy.list(&inventory, &question)?;
    let mut held = Vec::new();
    while listing.decide_some(&mut held)? {}
    held.sort_unstable();
    let targets = inventory.targets();
    Ok(held.iter().map(|n| format!("{}:{}", targets[*n].asset_id, targets[*n].action)).collect())
}

#[test]
fn a_list_holds_what_deciding_would_permit() {
    let policy = fixture::policy(
        r#"permit(principal in Group::"staff", action, resource) when { resource.owner == principal };
           @id("broken") forbid(principal, action == Action::"write", resource) when { principal.absent };"#,
        r#"[{"uid": {"type": "Account", "id": "1"}, "parents": [],
             "attrs": {"owner": {"__entity": {"type": "User", "id": "alice"}}}},
            {"uid": {"type": "Account", "id": "2"}, "parents": [],
             "attrs": {"owner": {"__entity": {"type": "User", "id": "bob"}}}},
            {"uid": {"type": "Account", "id": "3"}, "parents": [], "attrs": {}},
            {"uid": {"type": "Folder", "id": "1"}, "parents": [],
             "attrs": {"owner": {"__entity": {"type": "User", "id": "alice"}}}}]"#,
    );
    let mut alice = fixture::user("alice");
    alice.groups = vec!["staff".to_owned()];
    let alice = Asked::new(alice);
    assert_eq!(listed(&policy, &alice, &["read", "list"]).unwrap(), ["1:list", "1:read"]);
    let refusal = listed(&policy, &alice, &["read", "write"]).unwrap_err();
    assert!(matches!(&refusal.kind, RefusalKind::Fault(text) if text.contains("`broken`")));
    // Where nothing is permitted, a forbid that fails takes nothing away.
    let nobody = Asked::new(fixture::user("bob"));
    assert_eq!(listed(&policy, &nobody, &["read", "write"]).unwrap(), [] as [&str; 0]);
}

#[test]
fn what_is_below_the_principal_is_below_its_groups() {
    let entities = r#"[
        {"uid": {"type": "Account", "id": "1"}, "attrs": {}, "parents": [{"type": "User", "id": "alice"}]},
        {"uid": {"type": "Group", "id": "staff"}, "attrs": {}, "parents": [{"type": "Group", "id": "all"}]}
    ]"#;
    let mut alice = fixture::user("alice");
    alice.groups = vec!["staff".to_owned()];
    let (alice, bob) = (Asked::new(alice), Asked::new(fixture::user("bob")));
    for text in [
        r#"permit(principal, action, resource in Group::"all");"#,
        r#"permit(principal, action, resource) when { resource in Group::"all" };"#,
        r#"permit(principal, action, resource) when { resource in Group::"staff" };"#,
    ] {
        let policy = fixture::policy(text, entities);
        assert!(policy.decide_now(&alice.question()).is_ok(), "{text}");
        assert!(policy.decide_now(&bob.question()).is_err(), "{text}");
    }
}

#[test]
fn policies_that_nobody_confirms_decide_only_for_so_long() {
    let asked = Asked::new(fixture::user("alice"));
    let confirmed = Confirmed::new(NOW);
    let max = Duration::from_secs(60);
    let permits = || fixture::policy("permit(principal, action, resource);", "[]");
    let policy = permits().no_older_than(max, confirmed.clone());
    let at = |seconds| {
        let question =
            Question { now: NOW.after(Duration::from_secs(seconds)), ..asked.question() };
        assert!(permits().decide_now(&question).is_ok());
        let decided = policy.decide_now(&question);
        assert_eq!(policy.is_stale(question.now), decided.is_err());
        assert_eq!(policy.inquire(&question).is_err(), decided.is_err());
        decided
    };
    assert!(at(60).is_ok());
    let refusal = at(61).unwrap_err();
    assert!(matches!(refusal.kind, RefusalKind::Stale(_)), "{refusal:?}");
    assert_eq!(refusal.grounds.revision, policy.revision());
    confirmed.note(NOW.after(max));
    assert!(at(61).is_ok() && at(120).is_ok() && at(121).is_err());
}
