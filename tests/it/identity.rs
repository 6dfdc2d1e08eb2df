//! The issuers' keys, from real servers: slow ones, huge ones, ones that lie, and ones that die.

mod introspection;
mod kubernetes;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use placet::clock::Timestamp;
use placet::identity::jwks::{self, IssuerKeys, Pace};
use placet::identity::{
    Audiences, BadToken, ClaimPath, Identity, IdentitySettings, IssuerSettings, KeySourceSettings,
    Place, Principal, Proof, Refusal, Require, TokenType,
};
use placet::keys::Algorithm;
use placet::request::Request;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

/// Looks once, and again only when something in the test makes it.
const STILL: Pace = Pace {
    timeout: Duration::from_secs(10),
    refresh: HOUR,
    max_age: (HOUR, HOUR),
    file: HOUR,
    retry: (HOUR, HOUR),
    cool_down: HOUR,
};

/// Looks again and again, as fast as it may.
const EAGER: Pace = Pace {
    refresh: Duration::from_millis(5),
    file: Duration::from_millis(5),
    retry: (Duration::from_millis(5), Duration::from_millis(5)),
    ..STILL
};

/// Looks again only when nudged, and then at once.
const NUDGED: Pace = Pace { cool_down: Duration::ZERO, ..STILL };

// === the server ===

/// What the server says at a path.
#[derive(Clone)]
enum Answer {
    Text(String),
    Status(u16),
    Redirect(String),
    /// So many bytes, as fast as they are read.
    Bytes(usize),
    /// The headers, and then nothing more.
    Stalled,
    /// Nothing at all until told.
    Held(Arc<tokio::sync::Notify>, String),
}

#[derive(Default)]
struct Served {
    answers: Mutex<HashMap<String, Answer>>,
    requests: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

/// A request as the server got it.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    authorization: Option<String>,
    content_type: Option<String>,
    body: String,
}

impl Served {
    async fn seen(&self, request: HttpRequest) {
        let (parts, body) = request.into_parts();
        let header =
            |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let (authorization, content_type) = (header("authorization"), header("content-type"));
        let method = parts.method.to_string();
        let body = axum::body::to_bytes(body, 1024 * 1024).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        self.seen.lock().unwrap().push(Seen { method, authorization, content_type, body });
    }
}

struct Server {
    address: SocketAddr,
    served: Arc<Served>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let served = Arc::new(Served::default());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&served));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, served, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn says(&self, path: &str, answer: Answer) {
        self.served.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn requests(&self) -> usize {
        self.served.requests.load(SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(served): State<Arc<Served>>, request: HttpRequest) -> Response {
    served.requests.fetch_add(1, SeqCst);
    let now = served.in_flight.fetch_add(1, SeqCst) + 1;
    served.most_in_flight.fetch_max(now, SeqCst);
    let answer = served.answers.lock().unwrap().get(request.uri().path()).cloned();
    served.seen(request).await;
    let response = match answer {
        None => status(404),
        Some(Answer::Text(text)) => Response::new(text.into()),
        Some(Answer::Status(code)) => status(code),
        Some(Answer::Redirect(to)) => {
            Response::builder().status(307).header("location", to).body(Body::empty()).unwrap()
        }
        Some(Answer::Bytes(count)) => {
            let chunks = (0..count / 1024).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024]));
            Response::new(Body::from_stream(futures_util::stream::iter(chunks)))
        }
        Some(Answer::Stalled) => {
            let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
            Response::new(Body::from_stream(never))
        }
        Some(Answer::Held(release, text)) => {
            release.notified().await;
            Response::new(text.into())
        }
    };
    served.in_flight.fetch_sub(1, SeqCst);
    response
}

fn status(code: u16) -> Response {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

// === the issuer ===

/// A signing key of the issuer.
struct Key {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(kid: &'static str) -> Self {
        Self { kid, pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref().split_first().unwrap().1.split_at(32);
        json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y), "kid": self.kid})
    }

    fn token(&self, issuer: &str) -> String {
        let header = json!({"alg": "ES256", "kid": self.kid});
        let claims = json!({"iss": issuer, "sub": "alice", "exp": NOW.seconds() + 60});
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", b64(signature))
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn set(keys: &[&Key]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

// === what is tested ===

/// An identity of one issuer, with its keys kept by a running task.
struct Subject {
    issuer: String,
    identity: Identity,
    keys: IssuerKeys,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Subject {
    fn new(issuer: &str, keys: KeySourceSettings, pace: Pace) -> Self {
        Self::with(issuer, keys, pace, |_| {})
    }

    fn with(
        issuer: &str,
        keys: KeySourceSettings,
        pace: Pace,
        change: impl FnOnce(&mut IssuerSettings),
    ) -> Self {
        let mut settings = IssuerSettings {
            issuer: issuer.to_owned(),
            audiences: Audiences::Any,
            keys,
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
            claims: Vec::new(),
            principal_type: "User".to_owned(),
            group_prefix: String::new(),
            clock_skew: Duration::ZERO,
        };
        change(&mut settings);
        let (keys, task) = jwks::start(&settings, pace, None).unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(task.run(shutdown.clone()));
        let settings = IdentitySettings {
            require: Require::Jwt,
            issuers: vec![settings],
            api_keys: None,
            peer: None,
            anonymous: false,
        };
        let identity =
            Identity::new(settings, vec![Proof::Keys(keys.clone())], None, Arc::default())
                .unwrap()
                .remembering();
        Self { issuer: issuer.to_owned(), identity, keys, shutdown, task }
    }

    fn by_url(url: String, pace: Pace) -> Self {
        Self::new("https://idp.example", KeySourceSettings::Url(url), pace)
    }

    fn authenticate(&self, key: &Key) -> Result<Principal, Refusal> {
        let mut request = Request::default();
        request.headers.push("authorization", format!("Bearer {}", key.token(&self.issuer)));
        let found = self.identity.authenticate(&request, NOW).now_or_never().unwrap();
        found.map(Arc::unwrap_or_clone)
    }

    fn knows(&self, key: &Key) -> bool {
        self.authenticate(key).is_ok()
    }

    /// Waits until the keys are there.
    async fn loaded(&self) {
        let mut keys = self.keys.clone();
        timeout(Duration::from_secs(10), keys.loaded()).await.unwrap();
    }

    /// Waits for a look to fail, and says why it did.
    async fn error(&self) -> String {
        until(|| self.keys.last_error().is_some()).await;
        self.keys.last_error().unwrap()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), waiting).await.unwrap();
}

#[tokio::test]
async fn keys_come_from_their_address() {
    let (server, key, other) = (Server::start().await, Key::new("a"), Key::new("a"));
    let release = Arc::new(tokio::sync::Notify::new());
    server.says("/keys", Answer::Held(Arc::clone(&release), set(&[&key])));
    let subject = Subject::by_url(server.url("/keys"), STILL);
    until(|| server.requests() == 1).await;
    assert!(!subject.keys.ready());
    assert!(matches!(subject.authenticate(&key), Err(Refusal::KeysUnavailable { .. })));

    release.notify_one();
    subject.loaded().await;
    assert!(subject.keys.ready());
    assert_eq!(subject.keys.last_error(), None);
    assert_eq!(subject.authenticate(&key).unwrap().id, "alice");
    assert!(!subject.knows(&other));
}

#[tokio::test]
async fn a_silent_issuer_is_given_up_on() {
    let pace = Pace { timeout: Duration::from_millis(100), ..STILL };
    for answer in [Answer::Held(Arc::default(), String::new()), Answer::Stalled] {
        let server = Server::start().await;
        server.says("/keys", answer);
        let subject = Subject::by_url(server.url("/keys"), pace);
        let error = subject.error().await;
        assert!(error.contains("did not answer"), "{error}");
        assert!(!subject.keys.ready());
    }
}

#[tokio::test]
async fn an_answer_is_bounded_in_size() {
    let (server, key) = (Server::start().await, Key::new("a"));
    server.says("/huge", Answer::Bytes(2 * 1024 * 1024));
    server.says("/endless", Answer::Bytes(usize::MAX));
    for path in ["/huge", "/endless"] {
        let error = Subject::by_url(server.url(path), STILL).error().await;
        assert!(error.contains("larger than 1048576 bytes"), "{error}");
    }
    let padding = " ".repeat(1024 * 1024 - set(&[&key]).len());
    server.says("/large", Answer::Text(padding.clone() + &set(&[&key])));
    let subject = Subject::by_url(server.url("/large"), STILL);
    subject.loaded().await;
    assert!(subject.knows(&key));
    server.says("/larger", Answer::Text(padding + " " + &set(&[&key])));
    let error = Subject::by_url(server.url("/larger"), STILL).error().await;
    assert!(error.contains("larger than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_a_little_and_only_at_home() {
    let (server, elsewhere, key) = (Server::start().await, Server::start().await, Key::new("a"));
    for server in [&server, &elsewhere] {
        server.says("/0", Answer::Text(set(&[&key])));
    }
    for hop in 1..=4 {
        server.says(&format!("/{hop}"), Answer::Redirect(format!("/{}", hop - 1)));
    }
    let subject = Subject::by_url(server.url("/3"), STILL);
    subject.loaded().await;
    assert!(subject.knows(&key));
    let error = Subject::by_url(server.url("/4"), STILL).error().await;
    assert!(error.contains("redirects too often"), "{error}");

    server.says("/loop", Answer::Redirect("/loop".to_owned()));
    let before = server.requests();
    let error = Subject::by_url(server.url("/loop"), STILL).error().await;
    assert!(error.contains("redirects too often"), "{error}");
    assert_eq!(server.requests() - before, 4);

    let port = server.address.port();
    for target in [
        elsewhere.url("/0"),
        format!("http://localhost:{port}/0"),
        format!("https://127.0.0.1:{port}/0"),
    ] {
        server.says("/away", Answer::Redirect(target));
        let error = Subject::by_url(server.url("/away"), STILL).error().await;
        assert!(error.contains("another origin"), "{error}");
    }
    assert_eq!(elsewhere.requests(), 0);
}

#[tokio::test]
async fn a_set_that_is_none_is_a_failure() {
    let server = Server::start().await;
    for (path, answer, cause) in [
        ("/missing", Answer::Status(404), "answered 404"),
        ("/broken", Answer::Status(500), "answered 500"),
        ("/no-content", Answer::Status(204), "answered 204"),
        ("/html", Answer::Text("<html>".to_owned()), "not json"),
        ("/empty", Answer::Text(r#"{"keys":[]}"#.to_owned()), "none of the key set's 0 keys"),
        ("/secret", Answer::Text(r#"{"keys":[{"kty":"oct","k":"AA"}]}"#.to_owned()), "none of"),
    ] {
        server.says(path, answer);
        let subject = Subject::by_url(server.url(path), STILL);
        let error = subject.error().await;
        assert!(error.contains(cause), "{error}");
        assert!(!subject.keys.ready());
    }
}

#[tokio::test]
async fn the_last_good_set_outlives_its_issuer() {
    let (server, old, new) = (Server::start().await, Key::new("old"), Key::new("new"));
    server.says("/keys", Answer::Text(set(&[&old])));
    let subject = Subject::by_url(server.url("/keys"), EAGER);
    subject.loaded().await;
    for bad in [
        Answer::Status(503),
        Answer::Text(r#"{"keys":[]}"#.to_owned()),
        Answer::Text("x".to_owned()),
        Answer::Bytes(2 << 20),
    ] {
        server.says("/keys", bad);
        subject.error().await;
        assert!(subject.keys.ready() && subject.knows(&old));
        server.says("/keys", Answer::Text(set(&[&old])));
        until(|| subject.keys.last_error().is_none()).await;
    }
    server.says("/keys", Answer::Text(set(&[&new])));
    until(|| subject.knows(&new)).await;
    assert!(!subject.knows(&old));

    drop(server);
    subject.error().await;
    assert!(subject.keys.ready() && subject.knows(&new));
}

#[tokio::test]
async fn an_unknown_key_id_is_looked_for_in_the_background() {
    let (server, old, new) = (Server::start().await, Key::new("old"), Key::new("new"));
    server.says("/keys", Answer::Text(set(&[&old])));
    let subject = Subject::by_url(server.url("/keys"), NUDGED);
    subject.loaded().await;
    server.says("/keys", Answer::Text(set(&[&old, &new])));
    assert_eq!(server.requests(), 1);
    // The request that finds the key missing is refused; it does not wait for the look it causes.
    let refusal = subject.authenticate(&new).unwrap_err();
    assert!(matches!(refusal, Refusal::BadToken(BadToken::UnknownKey { .. })), "{refusal}");
    until(|| subject.knows(&new)).await;
    assert!(subject.knows(&old));
}

#[tokio::test]
async fn a_flood_of_key_ids_is_at_most_one_look_a_cool_down() {
    let (server, key) = (Server::start().await, Key::new("a"));
    server.says("/keys", Answer::Text(set(&[&key])));
    let cool_down = Duration::from_millis(100);
    let start = Instant::now();
    let subject = Subject::by_url(server.url("/keys"), Pace { cool_down, ..STILL });
    subject.loaded().await;
    let unknown = Key::new("unknown");
    let mut refused = 0;
    let flood = async {
        while server.requests() < 4 {
            assert!(!subject.knows(&unknown));
            refused += 1;
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), flood).await.unwrap();
    assert!(start.elapsed() >= 3 * cool_down, "{:?}", start.elapsed());
    assert!(refused > 20, "{refused}");
}

#[tokio::test]
async fn there_is_never_more_than_one_look_in_flight() {
    let (server, key, unknown) = (Server::start().await, Key::new("a"), Key::new("b"));
    server.says("/keys", Answer::Text(set(&[&key])));
    let subject = Subject::by_url(server.url("/keys"), NUDGED);
    subject.loaded().await;
    let release = Arc::new(tokio::sync::Notify::new());
    server.says("/keys", Answer::Held(Arc::clone(&release), set(&[&key])));
    let flood = async {
        while server.requests() < 5 {
            assert!(!subject.knows(&unknown));
            assert!(subject.knows(&key));
            release.notify_one();
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), flood).await.unwrap();
    assert_eq!(server.served.most_in_flight.load(SeqCst), 1);
}

#[tokio::test]
async fn discovery_finds_the_keys_of_exactly_its_issuer() {
    let (server, key) = (Server::start().await, Key::new("a"));
    let configuration = "/.well-known/openid-configuration";
    server.says("/keys", Answer::Text(set(&[&key])));
    let says = |issuer: &str, jwks_uri: &str| {
        let text = json!({"issuer": issuer, "jwks_uri": jwks_uri}).to_string();
        server.says(configuration, Answer::Text(text));
    };
    let discover = |issuer: &str| Subject::new(issuer, KeySourceSettings::Discovery, STILL);
    for issuer in [server.url(""), server.url("/")] {
        says(&issuer, &server.url("/keys"));
        let subject = discover(&issuer);
        subject.loaded().await;
        assert!(subject.knows(&key));
    }

    says("https://evil.example", &server.url("/keys"));
    let error = discover(&server.url("")).error().await;
    assert!(error.contains("is not of issuer"), "{error}");
    says(&server.url("/"), &server.url("/keys"));
    let error = discover(&server.url("")).error().await;
    assert!(error.contains("is not of issuer"), "{error}");
    for uri in ["http://keys.example/keys", "file:///etc/passwd", "keys"] {
        says(&server.url(""), uri);
        let error = discover(&server.url("")).error().await;
        assert!(error.contains("no acceptable `jwks_uri`"), "{error}");
    }
    server.says(configuration, Answer::Bytes(2 << 20));
    let error = discover(&server.url("")).error().await;
    assert!(error.contains("larger than"), "{error}");
}

#[tokio::test]
async fn keys_in_a_file_are_read_again_when_they_change() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let subject = Subject::new("local", KeySourceSettings::File(path.clone()), EAGER);
    let error = subject.error().await;
    assert!(error.contains("could not read"), "{error}");

    std::fs::write(&path, set(&[&old])).unwrap();
    subject.loaded().await;
    until(|| subject.knows(&old)).await;
    std::fs::write(&path, "half a fi").unwrap();
    assert!(subject.error().await.contains("not json"));
    assert!(subject.knows(&old));
    std::fs::write(&path, set(&[&new])).unwrap();
    until(|| subject.knows(&new)).await;
    assert!(!subject.knows(&old));
    until(|| subject.keys.last_error().is_none()).await;
    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    until(|| subject.keys.last_error().is_some_and(|error| error.contains("larger than"))).await;
}

#[tokio::test]
async fn a_task_ends_at_shutdown_even_in_the_middle_of_a_look() {
    let (server, key) = (Server::start().await, Key::new("a"));
    server.says("/held", Answer::Held(Arc::default(), String::new()));
    server.says("/keys", Answer::Text(set(&[&key])));
    for path in ["/held", "/keys"] {
        let before = server.requests();
        let mut subject = Subject::by_url(server.url(path), STILL);
        until(|| server.requests() > before).await;
        subject.shutdown.cancel();
        timeout(Duration::from_secs(10), &mut subject.task).await.unwrap().unwrap();
    }
}
