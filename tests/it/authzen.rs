//! A remote decision point, from real servers: one that answers, and ones that fail in every way.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::response::Response;
use http_body_util::BodyExt as _;
use placet::clock::Timestamp;
use placet::identity::Principal;
use placet::policy::{
    Authzen, AuthzenSettings, Context, Credentials, Policy, Question, RefusalKind, Stated,
};
use placet::route::Target;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// What the server says.
#[derive(Clone)]
enum Answer {
    Json(&'static str),
    Status(u16, &'static str),
    Redirect(String),
    /// So many bytes after what would be an answer.
    Long(usize),
    /// The headers, and then nothing more.
    Stalled,
    /// Nothing at all.
    Silent,
}

struct Served {
    answer: Mutex<Answer>,
    requests: AtomicUsize,
    /// The version and body of each request.
    seen: Mutex<Vec<(http::Version, Value)>>,
}

struct Server {
    address: SocketAddr,
    served: Arc<Served>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let served = Arc::new(Served {
            answer: Mutex::new(answer),
            requests: AtomicUsize::new(0),
            seen: Mutex::new(Vec::new()),
        });
        let router = Router::new().fallback(serve).with_state(Arc::clone(&served));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, served, task }
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

async fn serve(State(served): State<Arc<Served>>, request: HttpRequest) -> Response {
    served.requests.fetch_add(1, SeqCst);
    let version = request.version();
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    served.seen.lock().unwrap().push((version, serde_json::from_slice(&bytes).unwrap_or_default()));
    let answer = served.answer.lock().unwrap().clone();
    match answer {
        Answer::Json(text) => Response::new(text.into()),
        Answer::Status(status, text) => {
            Response::builder().status(status).body(text.into()).unwrap()
        }
        Answer::Redirect(to) => {
            Response::builder().status(307).header("location", to).body(Body::empty()).unwrap()
        }
        Answer::Long(count) => {
            let text = format!("{{\"decision\": true}}{}", " ".repeat(count));
            Response::new(text.into())
        }
        Answer::Stalled => {
            let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
            Response::new(Body::from_stream(never))
        }
        Answer::Silent => std::future::pending().await,
    }
}

fn settings(address: SocketAddr) -> AuthzenSettings {
    AuthzenSettings {
        url: format!("http://{address}/access/v1/evaluation").parse().unwrap(),
        timeout: Duration::from_secs(10),
        cache_ttl: Duration::ZERO,
        cache_size: 100,
        credentials: Credentials::Nothing,
        authorities: None,
        prior_knowledge: true,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn policy(settings: AuthzenSettings) -> Policy {
    Policy::authzen(Authzen::new(settings).unwrap())
}

/// Decides for `subject`: yes, no, or what went wrong.
async fn decide(policy: &Policy, subject: &str) -> Result<bool, String> {
    let principal = Arc::new(Principal::stated("User", subject, Map::new()).unwrap());
    let target = Target {
        asset_type: "Account".to_owned(),
        asset_id: "1".to_owned(),
        action: "read".to_owned(),
    };
    let stated = Stated::default();
    let context = Context::Stated(&stated);
    let question = Question { principal: &principal, target: &target, context, now: NOW };
    match policy.decide(&question).await {
        Ok(permit) => {
            assert_eq!((permit.principal().id.as_str(), permit.target()), (subject, &target));
            Ok(true)
        }
        Err(refusal) => match refusal.kind {
            RefusalKind::NoPermit => Ok(false),
            RefusalKind::Fault(text) => Err(text),
            other => panic!("{other}"),
        },
    }
}

#[tokio::test]
async fn its_yes_is_a_yes_and_its_no_a_no_over_one_connection() {
    let server = Server::start(Answer::Json(r#"{"decision": true}"#)).await;
    let policy = policy(settings(server.address));
    assert_eq!(decide(&policy, "alice").await, Ok(true));
    *server.served.answer.lock().unwrap() = Answer::Json(r#"{"decision": false}"#);
    assert_eq!(decide(&policy, "alice").await, Ok(false));
    let seen = server.served.seen.lock().unwrap();
    for (version, body) in seen.iter() {
        assert_eq!(*version, http::Version::HTTP_2);
        let subject = json!({"type": "User", "id": "alice", "properties": {}});
        assert_eq!(body["subject"], subject);
    }
}

#[tokio::test]
async fn whatever_is_no_decision_denies_as_a_fault() {
    for (answer, message) in [
        (Answer::Status(500, r#"{"decision": true}"#), "status 500"),
        (Answer::Status(401, r#"{"decision": true}"#), "status 401"),
        (Answer::Status(201, r#"{"decision": true}"#), "status 201"),
        (Answer::Status(204, ""), "status 204"),
        (Answer::Json("decision: true"), "is not json"),
        (Answer::Json(""), "is not json"),
        (Answer::Json("true"), "is not a json object"),
        (Answer::Json("{}"), "no `decision`"),
        (Answer::Json(r#"{"decision": "true"}"#), "no `decision`"),
        (Answer::Json(r#"{"decision": 1}"#), "no `decision`"),
        (Answer::Json(r#"{"decision": false, "decision": true}"#), "twice"),
        (Answer::Json(r#"{"decision": true, "context": {"obligations": ["mfa"]}}"#), "obligations"),
        (Answer::Long(1 << 20), "longer than"),
    ] {
        let server = Server::start(answer).await;
        let error = decide(&policy(settings(server.address)), "alice").await.unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Server::start(Answer::Json(r#"{"decision": true}"#)).await;
    let server = Server::start(Answer::Redirect(format!("http://{}/", other.address))).await;
    let error = decide(&policy(settings(server.address)), "alice").await.unwrap_err();
    assert!(error.contains("status 307"), "{error}");
    assert_eq!(other.requests(), 0);
}

#[tokio::test]
async fn a_silent_or_absent_one_is_given_up_on() {
    for answer in [Answer::Silent, Answer::Stalled] {
        let server = Server::start(answer).await;
        let timeout = Duration::from_millis(100);
        let policy = policy(AuthzenSettings { timeout, ..settings(server.address) });
        let error = decide(&policy, "alice").await.unwrap_err();
        assert!(error.contains("did not answer within 100ms"), "{error}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let error = decide(&policy(settings(nobody)), "alice").await.unwrap_err();
    assert!(error.contains("could not be asked") && !error.contains("access/v1"), "{error}");
}

#[tokio::test]
async fn a_decision_is_kept_for_exactly_what_was_asked_and_a_fault_is_not_kept() {
    let server = Server::start(Answer::Status(500, "")).await;
    let cache_ttl = Duration::from_secs(3600);
    let keeping = policy(AuthzenSettings { cache_ttl, ..settings(server.address) });
    assert!(decide(&keeping, "alice").await.is_err());
    *server.served.answer.lock().unwrap() = Answer::Json(r#"{"decision": true}"#);
    assert_eq!(decide(&keeping, "alice").await, Ok(true));
    assert_eq!(server.requests(), 2);
    *server.served.answer.lock().unwrap() = Answer::Json(r#"{"decision": false}"#);
    assert_eq!(decide(&keeping, "alice").await, Ok(true));
    assert_eq!(server.requests(), 2);
    assert_eq!(decide(&keeping, "bob").await, Ok(false));
    let asking = policy(settings(server.address));
    assert_eq!(decide(&asking, "alice").await, Ok(false));
    assert_eq!(decide(&asking, "alice").await, Ok(false));
    assert_eq!(server.requests(), 5);
}

#[tokio::test]
async fn many_questions_at_once_share_a_connection() {
    let server = Server::start(Answer::Json(r#"{"decision": true}"#)).await;
    let policy = policy(settings(server.address));
    let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let asked = names.iter().map(|name| decide(&policy, name));
    let answers = futures_util::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| *answer == Ok(true)), "{answers:?}");
}
