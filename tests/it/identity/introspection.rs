//! Opaque tokens, asked about at a real server: what it is told, what is made of its answers, and
//! what happens when it doesn't answer as it must.

use placet::identity::{AskFault, IntrospectionSettings, Introspector};
use placet::secrets::{Secret, Source};
use std::sync::Arc;

use super::*;
use crate::free_port;

const ISSUER: &str = "https://idp.example";
const TOKEN: &str = "s3cr3t-opaque.token~+/=";

fn settings(url: String) -> IntrospectionSettings {
    IntrospectionSettings {
        url,
        insecure_http: false,
        ca_file: None,
        client_id: "placet:1".to_owned(),
        client_secret: Source::Literal(Secret::new("p&ss word%".replace(' ', "+"))),
        cache_ttl: Duration::from_secs(30),
        cache_size: 100,
        timeout: Duration::from_secs(10),
    }
}

/// An identity of one issuer that is asked as `asking` says, for the audience `orders`.
fn identity(asking: IntrospectionSettings) -> Identity {
    let issuer = IssuerSettings {
        issuer: ISSUER.to_owned(),
        audiences: Audiences::OneOf(vec!["orders".to_owned()]),
        keys: KeySourceSettings::Introspection(Box::new(asking.clone())),
        insecure_http: false,
        ca_file: None,
        token_file: None,
        algorithms: Algorithm::ALL.to_vec(),
        types: vec![TokenType::Absent],
        from: vec![Place::Header {
            name: "authorization".to_owned(),
            prefix: "Bearer ".to_owned(),
        }],
        subject: ClaimPath::new("sub"),
        groups: ClaimPath::new("groups"),
        claims: vec![],
        principal_type: "User".to_owned(),
        group_prefix: String::new(),
        clock_skew: Duration::ZERO,
    };
    let settings = IdentitySettings {
        require: Require::Jwt,
        issuers: vec![issuer],
        api_keys: None,
        peer: None,
        anonymous: true,
    };
    let word = Proof::Word(Arc::new(Introspector::new(asking).unwrap()));
    Identity::new(settings, vec![word], None, Arc::new(["placet".to_owned()].into())).unwrap()
}

fn bearing(token: &str) -> Request {
    let mut request = Request::default();
    request.headers.push("authorization", format!("Bearer {token}"));
    request
}

async fn ask_at(identity: &Identity, token: &str, now: Timestamp) -> Result<Principal, Refusal> {
    identity.authenticate(&bearing(token), now).await.map(Arc::unwrap_or_clone)
}

async fn ask(identity: &Identity) -> Result<Principal, Refusal> {
    ask_at(identity, TOKEN, NOW).await
}

/// A good answer with `change`; null takes a member away.
fn answer(change: Value) -> Answer {
    let mut answer = json!({"active": true, "sub": "alice", "aud": "orders", "groups": ["eng"]});
    for (name, value) in change.as_object().unwrap() {
        if value.is_null() {
            answer.as_object_mut().unwrap().remove(name);
        } else {
            answer[name] = value.clone();
        }
    }
    Answer::Text(answer.to_string())
}

/// A server that gives `answer`, and an identity that asks there.
async fn asking(answer: Answer) -> (Server, Identity) {
    let server = Server::start().await;
    server.says("/introspect", answer);
    let identity = identity(settings(server.url("/introspect")));
    (server, identity)
}

fn after(seconds: u64) -> Timestamp {
    NOW.after(Duration::from_secs(seconds))
}

#[tokio::test]
async fn the_issuer_is_told_the_token_and_who_asks_and_its_word_is_the_principal() {
    let (server, identity) = asking(answer(json!({"scope": "read", "client_id": "web"}))).await;
    let principal = ask(&identity).await.unwrap();
    assert_eq!((principal.id.as_str(), principal.issuer.as_deref()), ("alice", Some(ISSUER)));
    assert_eq!(principal.groups, ["eng"]);
    assert_eq!((&principal.claims["scope"], principal.expires), (&json!("read"), None));
    let [seen] = server.served.seen.lock().unwrap().clone().try_into().unwrap();
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.content_type.as_deref(), Some("application/x-www-form-urlencoded"));
    assert_eq!(seen.body, "token=s3cr3t-opaque.token%7E%2B%2F%3D&token_type_hint=access_token");
    let credentials =
        base64::engine::general_purpose::STANDARD.encode("placet%3A1:p%26ss%2Bword%25");
    assert_eq!(seen.authorization, Some(format!("Basic {credentials}")));
}

#[tokio::test]
async fn a_no_is_a_bad_token_and_never_anonymous() {
    let (server, identity) = asking(Answer::Text(r#"{"active":false}"#.to_owned())).await;
    assert_eq!(ask(&identity).await, Err(BadToken::Inactive.into()));
    assert_eq!(ask_at(&identity, TOKEN, after(4)).await, Err(BadToken::Inactive.into()));
    assert_eq!(server.requests(), 1);
    server.says("/introspect", answer(json!({})));
    assert!(ask_at(&identity, TOKEN, after(5)).await.is_ok(), "a no is kept for a little while");
}

#[tokio::test]
async fn an_answer_is_kept_for_its_time_and_a_revocation_is_seen_then() {
    let (server, identity) = asking(answer(json!({}))).await;
    for seconds in [0, 0, 10, 29] {
        assert!(ask_at(&identity, TOKEN, after(seconds)).await.is_ok());
    }
    assert_eq!(server.requests(), 1);
    server.says("/introspect", Answer::Text(r#"{"active":false}"#.to_owned()));
    assert!(ask_at(&identity, TOKEN, after(29)).await.is_ok());
    assert_eq!(ask_at(&identity, TOKEN, after(30)).await, Err(BadToken::Inactive.into()));
    assert_eq!(ask_at(&identity, "another", after(30)).await, Err(BadToken::Inactive.into()));
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn nothing_is_kept_where_the_settings_say_so() {
    let server = Server::start().await;
    server.says("/introspect", answer(json!({})));
    let mut none = settings(server.url("/introspect"));
    none.cache_ttl = Duration::ZERO;
    let identity = identity(none);
    for _ in 0..3 {
        assert!(ask(&identity).await.is_ok());
    }
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn what_is_said_is_judged_as_a_token_s_claims_are() {
    let now = NOW.seconds();
    type Judged = Result<(), BadToken>;
    let cases: [(Value, Judged); 13] = [
        (json!({"iss": ISSUER}), Ok(())),
        (json!({"iss": "https://evil.example"}), Err(BadToken::ForeignAnswer)),
        (json!({"iss": 1}), Err(BadToken::ForeignAnswer)),
        (json!({"aud": ["x", "orders"]}), Ok(())),
        (json!({"aud": null}), Err(BadToken::Audience)),
        (json!({"aud": "billing"}), Err(BadToken::Audience)),
        (json!({"exp": now + 1}), Ok(())),
        (json!({"exp": now}), Err(BadToken::Expired { seconds: 0 })),
        (json!({"exp": "later"}), Err(BadToken::Time { claim: "exp" })),
        (json!({"nbf": now + 9}), Err(BadToken::NotYet { seconds: 9 })),
        (json!({"sub": null, "username": "alice"}), Err(BadToken::Subject)),
        (json!({"groups": 1}), Err(BadToken::Groups)),
        (json!({"cnf": {"x5t#S256": "x"}}), Err(BadToken::Certificate)),
    ];
    for (change, expected) in cases {
        let (_server, identity) = asking(answer(change.clone())).await;
        let judged = ask(&identity).await.map(drop);
        assert_eq!(judged, expected.map_err(Refusal::from), "{change}");
    }
    let (_server, identity) = asking(answer(json!({"exp": now + 20}))).await;
    let principal = ask(&identity).await.unwrap();
    assert_eq!(principal.expires, Some(after(20)));
    let expired = ask_at(&identity, TOKEN, after(20)).await;
    assert_eq!(expired, Err(BadToken::Expired { seconds: 0 }.into()), "also of a kept answer");
}

#[tokio::test]
async fn what_is_no_answer_is_a_fault_and_is_not_kept() {
    let text = |text: &str| Answer::Text(text.to_owned());
    let cases = [
        (Answer::Status(401), "answered 401, not 200"),
        (Answer::Status(500), "answered 500, not 200"),
        (Answer::Status(204), "answered 204, not 200"),
        (Answer::Redirect("/elsewhere".to_owned()), "answered 307, not 200"),
        (text(""), "is not json"),
        (text("true"), "is not a json object"),
        (text(r#"{"active":true,"active":false}"#), "names a json member twice"),
        (text("{}"), "no `active`"),
        (text(r#"{"active":"true","sub":"alice","aud":"orders"}"#), "no `active`"),
        (text(r#"{"active":1}"#), "no `active`"),
        (text(r#"{"active":null}"#), "no `active`"),
        (text(r#"{"sub":"alice","aud":"orders"}"#), "no `active`"),
        (Answer::Bytes(1024 * 1024), "larger than 65536 bytes"),
        (Answer::Bytes(usize::MAX), "larger than 65536 bytes"),
    ];
    for (fault, expected) in cases {
        let (server, identity) = asking(fault).await;
        server.says("/elsewhere", answer(json!({})));
        let refusal = ask(&identity).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Unasked { .. }), "{refusal:?}");
        let shown = format!("{refusal} {refusal:?} {identity:?}");
        assert!(shown.contains(expected) || refusal.to_string().contains(expected), "{shown}");
        assert!(!shown.contains("s3cr3t") && !shown.contains("p&ss"), "{shown}");
        server.says("/introspect", answer(json!({})));
        assert!(ask(&identity).await.is_ok(), "{expected}: it was kept");
    }
}

#[tokio::test]
async fn an_issuer_that_is_away_or_silent_is_given_up_on() {
    let nowhere = format!("http://127.0.0.1:{}/i", free_port());
    let refusal = ask(&identity(settings(nowhere))).await.unwrap_err();
    assert!(refusal.to_string().contains("did not answer ("), "{refusal}");
    for silent in [Answer::Held(Arc::default(), String::new()), Answer::Stalled] {
        let server = Server::start().await;
        server.says("/introspect", silent);
        let mut hasty = settings(server.url("/introspect"));
        hasty.timeout = Duration::from_millis(50);
        let fault = ask(&identity(hasty)).await.unwrap_err();
        let (issuer, timeout) = (ISSUER.to_owned(), AskFault::Timeout);
        assert_eq!(fault, Refusal::Unasked { issuer, fault: timeout });
    }
}

#[tokio::test]
async fn requests_with_one_token_ask_once() {
    let release = Arc::new(tokio::sync::Notify::new());
    let good = r#"{"active":true,"sub":"alice","aud":"orders"}"#.to_owned();
    let (server, identity) = asking(Answer::Held(Arc::clone(&release), good)).await;
    let identity = Arc::new(identity);
    let spawn = || {
        let identity = Arc::clone(&identity);
        tokio::spawn(async move { ask(&identity).await.map(|principal| principal.id) })
    };
    let first = spawn();
    until(|| server.requests() == 1).await;
    let others: Vec<_> = (0..50).map(|_| spawn()).collect();
    // Whoever asked is given up by its own caller: the next one asks in its place.
    first.abort();
    until(|| server.requests() == 2).await;
    release.notify_waiters();
    for other in others {
        assert_eq!(other.await.unwrap().unwrap(), "alice");
    }
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn one_issuer_s_answer_is_not_another_s() {
    let (one, first) = asking(answer(json!({}))).await;
    let (two, second) = asking(Answer::Text(r#"{"active":false}"#.to_owned())).await;
    assert!(ask(&first).await.is_ok());
    assert_eq!(ask(&second).await, Err(BadToken::Inactive.into()));
    assert_eq!((one.requests(), two.requests()), (1, 1));
}

#[tokio::test]
async fn a_flood_of_invented_tokens_is_no_flood_at_the_issuer_and_pushes_out_no_good_one() {
    let (server, identity) = asking(answer(json!({}))).await;
    assert!(ask(&identity).await.is_ok());
    server.says("/introspect", Answer::Text(r#"{"active":false}"#.to_owned()));
    let tokens: Vec<_> = (0..400).map(|number| format!("invented-{number}")).collect();
    let asking = tokens.iter().map(|token| ask_at(&identity, token, NOW));
    for answer in futures_util::future::join_all(asking).await {
        assert_eq!(answer, Err(BadToken::Inactive.into()));
    }
    assert!(server.served.most_in_flight.load(SeqCst) <= 64);
    assert!(ask(&identity).await.is_ok());
    assert_eq!(server.requests(), 401);
}

#[tokio::test]
async fn the_client_secret_is_read_anew_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let server = Server::start().await;
    server.says("/introspect", answer(json!({})));
    let mut filed = settings(server.url("/introspect"));
    filed.client_secret = Source::File(file.clone());
    let identity = identity(filed);
    let refusal = ask(&identity).await.unwrap_err();
    assert!(refusal.to_string().contains("the client secret can't be used"), "{refusal}");
    assert_eq!(server.requests(), 0);
    for (secret, token) in [("one", "a"), ("two", "b")] {
        std::fs::write(&file, format!("{secret}\n")).unwrap();
        assert!(ask_at(&identity, token, NOW).await.is_ok());
        let credentials =
            base64::engine::general_purpose::STANDARD.encode(format!("placet%3A1:{secret}"));
        let seen = server.served.seen.lock().unwrap().last().unwrap().clone();
        assert_eq!(seen.authorization, Some(format!("Basic {credentials}")));
    }
}
