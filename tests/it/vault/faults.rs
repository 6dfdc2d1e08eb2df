//! Faults that a real server shows too seldom: redirects, overload, rubbish. A server of our own
//! says what each test tells it to.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};

use super::*;

const SECRET: &str = r#"{"data":{"data":{"orders":"key"},"metadata":{"version":1,
    "created_time":"2026-11-22T09:24:15Z","deletion_time":"","destroyed":false,
    "custom_metadata":null}}}"#;

#[tokio::test]
async fn a_redirect_is_followed_to_a_configured_address_alone() {
    let leader = Fake::start(|_, _| ok(SECRET)).await;
    let to = leader.address.clone();
    let standby = Fake::start(move |_, path| redirect(307, &format!("{to}{path}"))).await;
    read_from(&[&standby, &leader]).await.expect("the leader is one of ours");
    assert_eq!((standby.asked().len(), leader.asked().len()), (1, 1), "by the redirect");
    assert!(leader.asked()[0].starts_with("s.token /v1/secret/data/orders"), "token and path");

    let error = read_from(&[&standby]).await.unwrap_err();
    let SecretError::Redirected { to, is_known: false, .. } = &error else { panic!("{error}") };
    assert_eq!(to, &leader.address);
    assert!(error.to_string().contains(&leader.address), "{error}");
    assert_eq!(leader.asked().len(), 1, "our token does not travel there");
}

#[tokio::test]
async fn a_standby_may_name_a_dead_leader() {
    let dead = format!("http://127.0.0.1:{}", free_port());
    let to = dead.clone();
    let standby = Fake::start(move |_, _| redirect(307, &to)).await;
    let survivor = Fake::start(|_, _| ok(SECRET)).await;
    let addresses = [standby.address.clone(), dead, survivor.address.clone()];
    read(settings(&addresses, token("s.token")), "orders", "orders").await.unwrap();
    assert_eq!(survivor.asked().len(), 1);
}

#[tokio::test]
async fn redirects_end() {
    let port = free_port();
    let second = format!("http://127.0.0.1:{port}");
    let to = second.clone();
    let first = Fake::start(move |_, _| redirect(307, &to)).await;
    let to = first.address.clone();
    let second = Fake::start_at(port, move |_, _| redirect(307, &to)).await;
    let error = read_from(&[&first, &second]).await.unwrap_err();
    assert!(matches!(error, SecretError::Redirected { is_known: true, .. }), "{error}");
    assert_eq!(first.asked().len() + second.asked().len(), 6, "three a node");

    let to = first.address.clone();
    let moved = Fake::start(move |_, _| redirect(301, &to)).await;
    let error = read_from(&[&moved]).await.unwrap_err();
    assert!(matches!(error, SecretError::Redirected { .. }), "{error}");
}

#[tokio::test]
async fn what_passes_is_asked_again() {
    for status in [429, 500, 502, 412, 473] {
        let busy =
            Fake::start(
                move |count, _| {
                    if count < 3 { answer(status, r#"{"errors":[]}"#) } else { ok(SECRET) }
                },
            );
        let busy = busy.await;
        read_from(&[&busy]).await.unwrap();
        assert_eq!(busy.asked().len(), 3, "{status}");

        let never = Fake::start(move |_, _| answer(status, r#"{"errors":[]}"#)).await;
        let timeout = Duration::from_millis(300);
        let quick = VaultSettings {
            timeout,
            ..settings(std::slice::from_ref(&never.address), token("s.token"))
        };
        let error = read(quick, "orders", "orders").await.unwrap_err();
        let SecretError::Failing { status: said, .. } = error else { panic!("{error}") };
        assert_eq!(said, status);
        assert!((2..10).contains(&never.asked().len()), "{}", never.asked().len());
    }
}

#[tokio::test]
async fn rubbish_is_an_error_that_quotes_none_of_it() {
    let long = format!("\"{}\"", "x".repeat(5 << 20));
    for rubbish in ["", "<html>canary</html>", r#"{"data":"canary"}"#, "[]", &long] {
        let rubbish = rubbish.to_owned();
        let fake = Fake::start(move |_, _| ok(&rubbish)).await;
        let error = read_from(&[&fake]).await.unwrap_err();
        assert!(matches!(error, SecretError::UnreadableAnswer { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn a_refused_login_waits_and_a_failed_one_does_not() {
    let refusing = Fake::start(|_, _| answer(400, r#"{"errors":["canary"]}"#)).await;
    let role = app_role(&("role".to_owned(), "secret".to_owned()));
    let stores = open(settings(std::slice::from_ref(&refusing.address), role.clone()));
    for _ in 0..4 {
        let error = stores.choose(None).unwrap().read(&at("a", "b")).await.unwrap_err();
        assert!(matches!(error, SecretError::LoginRefused { status: 400, .. }), "{error}");
    }
    assert_eq!(refusing.asked().len(), 1);

    let sealed = Fake::start(|_, _| answer(503, r#"{"errors":["Vault is sealed"]}"#)).await;
    let stores = open(settings(std::slice::from_ref(&sealed.address), role));
    for _ in 0..4 {
        let error = stores.choose(None).unwrap().read(&at("a", "b")).await.unwrap_err();
        assert!(matches!(error, SecretError::Sealed { .. }), "{error}");
    }
    assert_eq!(sealed.asked().len(), 4);
}

#[tokio::test]
async fn a_login_that_can_t_be_renewed_is_used_to_its_end() {
    let granted = r#"{"auth":{"client_token":"s.role","lease_duration":3,"renewable":true}}"#;
    let failing = Fake::start(move |_, path| match path {
        "/v1/auth/approle/login" => ok(granted),
        "/v1/auth/token/renew-self" => answer(503, "{}"),
        _ => ok(SECRET),
    });
    let failing = failing.await;
    let settings = VaultSettings {
        refresh_interval: Duration::from_millis(100),
        ..settings(
            std::slice::from_ref(&failing.address),
            app_role(&("role".to_owned(), "secret".to_owned())),
        )
    };
    let stores = open(settings);
    let count = |path: &str| failing.asked().iter().filter(|asked| asked.ends_with(path)).count();
    let started = Instant::now();
    let (mut last, mut longest_gap) = (started, Duration::ZERO);
    while count("/login") < 2 {
        assert!(started.elapsed() < Duration::from_secs(20), "no new login in time");
        stores.choose(None).unwrap().read(&at("orders", "orders")).await.unwrap();
        longest_gap = longest_gap.max(last.elapsed());
        last = Instant::now();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() > Duration::from_millis(2900), "the lease was not used to its end");
    // Each is a quarter of the rest after the one before, or more: some 16 from two seconds to a look.
    let renewals = count("/renew-self");
    assert!(renewals < 24, "{renewals}");
    // Who was held up may have looked again only when the lease was over.
    assert!(renewals > 0 || longest_gap >= Duration::from_millis(500), "{longest_gap:?}");
}

#[tokio::test]
async fn a_wrapped_answer_is_asked_for_once() {
    let failing = Fake::start(|_, path| match path {
        "/v1/sys/wrapping/unwrap" => answer(500, "{}"),
        _ => ok(r#"{"data":{"creation_path":"auth/approle/role/placet/secret-id"}}"#),
    });
    let failing = failing.await;
    let other = Fake::start(|_, _| ok("{}")).await;
    let login = VaultAuth::AppRole {
        role_id: literal("role"),
        secret_id: literal("s.wrapping"),
        wrapped_for: Some("placet".to_owned()),
        mount: "approle".to_owned(),
    };
    let addresses = [failing.address.clone(), other.address.clone()];
    let error = read(settings(&addresses, login), "a", "b").await.unwrap_err();
    assert!(matches!(error, SecretError::Failing { status: 500, .. }), "{error}");
    let asked: Vec<String> = failing.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].starts_with("s.wrapping "), "as the wrapping token itself");
    assert!(other.asked().is_empty());
}

async fn read_from(nodes: &[&Fake]) -> Result<KeyMaterial, SecretError> {
    let addresses: Vec<String> = nodes.iter().map(|node| node.address.clone()).collect();
    read(settings(&addresses, token("s.token")), "orders", "orders").await
}

fn settings(addresses: &[String], auth: VaultAuth) -> VaultSettings {
    VaultSettings {
        addresses: addresses.to_vec(),
        namespace: None,
        mount: "secret".to_owned(),
        kv_version: KvVersion::V2,
        default_path: None,
        auth,
        ca_file: None,
        timeout: Duration::from_secs(5),
        refresh_interval: Duration::from_secs(30),
        transit_mount: "transit".to_owned(),
    }
}

fn ok(body: &str) -> Response {
    answer(200, body)
}

fn answer(status: u16, body: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), body.to_owned()).into_response()
}

fn redirect(status: u16, to: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), [(header::LOCATION, to.to_owned())]).into_response()
}

/// A server that answers by a function of how often it was asked, and the path.
struct Fake {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    async fn start(answer: impl Fn(usize, &str) -> Response + Send + Sync + 'static) -> Self {
        Self::start_at(0, answer).await
    }

    async fn start_at(
        port: u16,
        answer: impl Fn(usize, &str) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap| {
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            async move {
                let path = uri.path().replace("//", "/");
                // A look of a token at itself is no part of what is counted.
                if path == "/v1/auth/token/lookup-self" {
                    return ok(r#"{"data":{"ttl":0}}"#);
                }
                let token =
                    headers.get("x-vault-token").map_or("", |token| token.to_str().unwrap());
                let count = {
                    let mut log = log.lock().unwrap();
                    log.push(format!("{token} {path}"));
                    log.len()
                };
                answer(count, &path)
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, asked }
    }

    /// The token and path of each question so far.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}
