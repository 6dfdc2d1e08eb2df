use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixture::{self, NOW};

const ISSUER: &str = "https://idp.example/";

fn list(text: &str) -> DenyList {
    DenyList::parse(text.as_bytes()).unwrap()
}

/// Why alice, with these claims, is refused.
fn refused(text: &str, change: impl FnOnce(&mut Principal)) -> Option<String> {
    let mut principal = fixture::user("alice");
    principal.kind = PrincipalKind::Jwt;
    change(&mut principal);
    list(text).refusing(&principal, NOW).map(|listed| listed.to_string())
}

fn claims(claims: Value) -> impl FnOnce(&mut Principal) {
    move |principal| principal.claims = claims.as_object().unwrap().clone()
}

#[test]
fn a_caller_is_refused_by_subject_token_client_peer_and_actor() {
    let text = "
subjects:
  - {subject: alice, reason: 'ticket 42', until: 2027-01-15T09:00:00Z}
  - {subject: 'spiffe://a/batch'}
  - {subject: mallory}
jtis: [{jti: t1}]
clientIds: [{clientId: c1}]
";
    let by_subject = "the subject is on the deny list until 2027-01-15T09:00:00.000Z: ticket 42";
    assert_eq!(refused(text, |_| ()).as_deref(), Some(by_subject));
    let bob = |then: fn(&mut Principal)| {
        refused(text, |principal| {
            *principal = Principal { kind: PrincipalKind::Jwt, ..fixture::user("bob") };
            then(principal);
        })
    };
    assert_eq!(bob(|_| ()), None);
    let of = |what: &str| Some(format!("the {what} is on the deny list"));
    assert_eq!(bob(|bob| bob.peer = Some("spiffe://a/batch".to_owned())), of("peer"));
    assert_eq!(bob(|bob| claims(json!({"jti": "t1"}))(bob)), of("token"));
    assert_eq!(bob(|bob| claims(json!({"client_id": "c1"}))(bob)), of("client"));
    assert_eq!(bob(|bob| claims(json!({"azp": "c1"}))(bob)), of("client"));
    assert_eq!(bob(|bob| claims(json!({"act": {"sub": "mallory"}}))(bob)), of("actor"));
    let deeper = json!({"act": {"sub": "x", "act": {"sub": "mallory"}}});
    assert_eq!(bob(move |bob| bob.claims = serde_json::Map::new()), None);
    let deep = refused(text, |principal| {
        *principal = fixture::user("bob");
        principal.kind = PrincipalKind::Jwt;
        claims(deeper)(principal);
    });
    assert_eq!(deep, of("actor"));
    assert_eq!(
        bob(|bob| claims(json!({"jti": "c1", "client_id": "t1", "sub": "mallory"}))(bob)),
        None
    );
}

#[test]
fn an_entry_of_an_issuer_is_about_its_own_callers() {
    let of = |issuer: &str| format!("subjects: [{{subject: alice, issuer: '{issuer}'}}]");
    assert!(refused(&of(ISSUER), |_| ()).is_some());
    assert_eq!(refused(&of("https://other.example/"), |_| ()), None);
    // A workload has no issuer, and one that an application states could have any.
    let without = |kind| {
        move |principal: &mut Principal| {
            principal.issuer = None;
            principal.kind = kind;
        }
    };
    assert_eq!(refused(&of(ISSUER), without(PrincipalKind::Workload)), None);
    assert!(refused(&of(ISSUER), without(PrincipalKind::Stated)).is_some());
    let acting = json!({"act": {"sub": "alice", "iss": "https://other.example/"}});
    let bob = |principal: &mut Principal| {
        principal.subject = Some("bob".to_owned());
        claims(acting)(principal);
    };
    assert_eq!(refused(&of(ISSUER), bob), None);
}

#[test]
fn an_entry_ends_when_it_says_and_another_one_goes_on() {
    for (until, is_refused) in [
        ("2027-01-15T08:00:00Z", false),
        ("2027-01-15T08:00:00.0001Z", true),
        ("2027-01-15T09:00:00.001+01:00", true),
        ("1970-01-01T00:00:00Z", false),
        ("9999-12-31T23:59:59Z", true),
    ] {
        let text = format!("jtis: [{{jti: t, until: '{until}'}}]");
        let found = refused(&text, claims(json!({"jti": "t"})));
        assert_eq!(found.is_some(), is_refused, "{until}");
        let both =
            format!("{text}\nsubjects: [{{subject: alice, until: '{until}'}}, {{subject: alice}}]");
        assert!(refused(&both, |_| ()).is_some(), "{until}");
    }
}

#[test]
fn an_api_key_s_claims_name_no_actor() {
    let of_key = |principal: &mut Principal| {
        principal.subject = Some("ci".to_owned());
        principal.kind = PrincipalKind::ApiKey;
        principal.claims.insert("act".to_owned(), json!({"sub": "mallory"}));
    };
    assert_eq!(refused("subjects: [{subject: mallory}]", of_key), None);
}

#[test]
fn json_is_read_too_and_nobody_is_said_aloud() {
    let text = json!({"subjects": [{"subject": "alice"}], "clientIds": [], "jtis": []}).to_string();
    assert!(refused(&text, |_| ()).is_some());
    assert_eq!(list(&text).len(), 1);
    for nobody in ["{}", "subjects: []", "{jtis: []} # nobody now"] {
        assert!(list(nobody).is_empty(), "{nobody}");
    }
}

#[test]
fn a_list_that_is_wrong_is_refused_as_a_whole_and_not_quoted() {
    for text in [
        "",
        " \n",
        "# canary",
        "canary",
        "- canary",
        "subjects: canary",
        "subjects: [canary]",
        "subjects: [{subject: canary}]\nsubjects: []",
        "subjects: [{subject: canary, canary: 1}]",
        "subjects: [{jti: canary}]",
        "canary: []",
        "subjects: [{subject: canary}, {subject: ''}]",
        "subjects: [{subject: canary, issuer: ''}]",
        "jtis: [{jti: canary, until: canary}]",
        "jtis: [{jti: canary, until: 2027-01-15}]",
        "jtis: [{jti: canary, until: '1969-12-31T00:00:00Z'}]",
        "clientIds: [{clientId: canary, reason: [canary]}]",
        "{\"subjects\": [{\"subject\": \"canary\"}",
    ] {
        let error = DenyList::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(!error.contains("canary") && !error.contains('\n'), "{text}: {error}");
    }
    assert!(DenyList::parse(b"\xff").is_err());
    assert!(DenyList::read(Path::new("/nowhere/deny.yaml")).is_err());
}

#[test]
fn a_list_is_bounded() {
    let of = |count: usize| {
        let entries: Vec<Value> = (0..count).map(|it| json!({"subject": it.to_string()})).collect();
        DenyList::parse(json!({ "subjects": entries }).to_string().as_bytes())
    };
    assert_eq!(of(ENTRY_LIMIT).unwrap().len(), ENTRY_LIMIT);
    assert!(matches!(of(ENTRY_LIMIT + 1), Err(DenyListError::Entries)));
    let long = vec![b' '; SIZE_LIMIT + 1];
    assert!(matches!(DenyList::parse(&long), Err(DenyListError::Size)));
}

proptest! {
    #[test]
    fn no_text_panics_and_no_error_quotes_it(text in "[a-z0-9:{}\\[\\], \n\"-]{0,80}") {
        if let Err(error) = DenyList::parse(format!("s3cr3t{text}").as_bytes()) {
            let error = error.to_string();
            prop_assert!(!error.contains("s3cr3t") && !error.contains('\n'));
        }
    }

    /// Exactly those are refused who are listed, whatever else is.
    #[test]
    fn only_who_is_listed_is_refused(
        listed in proptest::collection::vec(("\\PC{1,12}", any::<bool>()), 0..8),
        asking in "\\PC{1,12}",
        picked in any::<prop::sample::Index>(),
        is_picked in any::<bool>(),
    ) {
        let asking = match listed.get(picked.index(listed.len().max(1))) {
            Some((subject, _)) if is_picked => subject.clone(),
            _ => asking,
        };
        let until = |has_ended: &bool| has_ended.then_some("2020-01-01T00:00:00Z");
        let entries: Vec<Value> = listed
            .iter()
            .map(|(subject, has_ended)| json!({"subject": subject, "until": until(has_ended)}))
            .collect();
        let text = json!({ "subjects": entries }).to_string();
        let is_refused = list(&text).refusing(&fixture::user(&asking), NOW).is_some();
        let is_listed = listed.iter().any(|(subject, has_ended)| *subject == asking && !has_ended);
        prop_assert_eq!(is_refused, is_listed);
    }
}
