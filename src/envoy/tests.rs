use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::{CheckRequest, HttpResponse};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{self, HttpRequest};
use http_body_util::{BodyExt, Full, StreamBody};
use prost::Message;

use super::*;
use crate::audit::Sink;
use crate::authorizer::{Authorizer, DryRun};
use crate::fixture::{self, NOW};
use crate::metrics::Metrics;
use crate::policy::{Authzen, AuthzenSettings, Credentials, Policy};
use crate::scope::{Scopes, Selectable};
use crate::shadow::Shadow;

fn service() -> (CheckService, Metrics) {
    serving(fixture::scope("orders"))
}

fn serving(scope: Scope) -> (CheckService, Metrics) {
    let metrics = Metrics::new();
    let (recorder, _) = Recorder::open(&Sink::None, metrics.clone()).unwrap();
    let scope = Arc::new(scope);
    let scopes = Scopes::new(vec![Selectable { scope, hosts: Vec::new(), default: true }]);
    let scopes = Arc::new(ArcSwap::from_pointee(scopes));
    (CheckService::new(scopes, recorder, Clock::Fixed(NOW), 1 << 20), metrics)
}

fn message(path: &str) -> Vec<u8> {
    let http = HttpRequest {
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: "a.example".to_owned(),
        ..HttpRequest::default()
    };
    let request = attribute_context::Request { http: Some(http), ..Default::default() };
    let attributes = AttributeContext { request: Some(request), ..Default::default() };
    CheckRequest { attributes: Some(attributes) }.encode_to_vec()
}

fn framed(message: &[u8]) -> Body {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(message);
    Body::new(Full::new(Bytes::from(bytes)))
}

fn call(body: Body) -> http::Request<Body> {
    let mut call = http::Request::new(body);
    *call.uri_mut() = "/envoy.service.auth.v3.Authorization/Check".parse().unwrap();
    call
}

fn waiting_for(url: &str) -> AuthzenSettings {
    AuthzenSettings {
        url: url.parse().unwrap(),
        timeout: Duration::from_secs(60),
        cache_ttl: Duration::ZERO,
        cache_size: 1,
        credentials: Credentials::Nothing,
        authorities: None,
        prior_knowledge: false,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

/// The gRPC status, and the answer's code and HTTP status (0 for an allow).
async fn ask(service: &mut CheckService, call: http::Request<Body>) -> (String, i32, i32) {
    let response = service.call(call).await.unwrap();
    let head = response.headers().get("grpc-status").cloned();
    let collected = response.into_body().collect().await.unwrap();
    let trailer = collected.trailers().and_then(|map| map.get("grpc-status")).cloned();
    let status = head.or(trailer).unwrap().to_str().unwrap().to_owned();
    let body = collected.to_bytes();
    let Some(message) = body.get(5..) else { return (status, -1, -1) };
    let answer = CheckResponse::decode(message).unwrap();
    let http = match answer.http_response.unwrap() {
        HttpResponse::DeniedResponse(denied) => denied.status.unwrap().code,
        HttpResponse::OkResponse(_) => 0,
        HttpResponse::ErrorResponse(error) => panic!("{error:?}"),
    };
    (status, answer.status.unwrap().code, http)
}

#[tokio::test]
async fn whatever_arrives_is_answered_in_a_check_response() {
    let (mut service, metrics) = service();
    let mut oversized = vec![0; 5 << 20];
    oversized[0] = 0x0a;
    for (body, expected) in [
        (framed(&message("/accounts/1")), (0, 0)),
        (framed(&message("/accounts/2")), (7, 403)),
        (framed(&message("/accounts/../1")), (7, 400)),
        (framed(b""), (7, 400)),
        (framed(b"garbage"), (7, 400)),
        (framed(&oversized), (7, 400)),
        (Body::empty(), (7, 400)),
        (Body::new(Full::new(Bytes::from_static(b"\x01\0\0\0\0"))), (7, 400)),
    ] {
        let (grpc, code, http) = ask(&mut service, call(body)).await;
        assert_eq!((grpc.as_str(), (code, http)), ("0", expected));
    }
    let text = metrics.exposition();
    for line in [
        r#"placet_decisions_total{scope="orders",outcome="allow",reason="permitted"} 1"#,
        r#"placet_decisions_total{scope="orders",outcome="deny",reason="no_permit"} 1"#,
        r#"placet_decisions_total{scope="",outcome="deny",reason="bad_request"} 5"#,
        "placet_check_duration_seconds_count 8",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_broken_body_is_denied() {
    let (mut service, _) = service();
    let error = std::io::Error::other("cut off");
    let frames = futures_util::stream::iter([Err::<http_body::Frame<Bytes>, _>(error)]);
    let answer = ask(&mut service, call(Body::new(StreamBody::new(frames)))).await;
    assert_eq!(answer, ("0".to_owned(), 7, 400));
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_before_the_deadline() {
    let (mut service, _) = service();
    let frames = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>();
    let mut late = call(Body::new(StreamBody::new(frames)));
    late.headers_mut().insert("grpc-timeout", "250m".parse().unwrap());
    let started = tokio::time::Instant::now();
    assert_eq!(ask(&mut service, late).await, ("0".to_owned(), 7, 503));
    assert!(started.elapsed() < Duration::from_millis(250));
}

/// A decision point that never answers takes longer than the caller waits: a fault of the scope, once
/// it is known.
#[tokio::test(start_paused = true)]
async fn a_deadline_is_denied_but_passes_in_a_dry_run() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    for (dry_run, answer, outcome) in [(false, (7, 503), "deny"), (true, (0, 0), "dry_run")] {
        let policy = Policy::authzen(Authzen::new(waiting_for(&url)).unwrap());
        let authorizer = Authorizer { policy, ..fixture::authorizer() };
        let dry_run = DryRun::of_setting(dry_run);
        let scope = Scope { authorizer, dry_run, ..fixture::scope("orders") };
        let (mut service, metrics) = serving(scope);
        let mut late = call(framed(&message("/accounts/1")));
        late.headers_mut().insert("grpc-timeout", "250m".parse().unwrap());
        let (_, code, http) = ask(&mut service, late).await;
        assert_eq!((code, http), answer);
        let line = format!(
            r#"placet_decisions_total{{scope="orders",outcome="{outcome}",reason="deadline"}} 1"#
        );
        assert!(metrics.exposition().contains(&line), "{}", metrics.exposition());
        let (_, code, http) = ask(&mut service, call(framed(b"garbage"))).await;
        assert_eq!((code, http), (7, 400), "no scope is known");
    }
}

#[tokio::test]
async fn a_shadow_gets_what_was_decided_and_a_full_queue_is_counted() {
    let (shadow, mut waiting) = Shadow::queued(fixture::policy("", "[]"));
    let scope = Scope { shadow: Some(shadow), ..fixture::scope("orders") };
    let (mut service, metrics) = serving(scope);
    let mut ids = std::collections::BTreeSet::new();
    for (path, code) in [("/accounts/1", 0), ("/accounts/2", 7), ("/healthz", 0), ("//", 7)] {
        assert_eq!(ask(&mut service, call(framed(&message(path)))).await.1, code, "{path}");
        ids.extend(waiting.try_recv().ok().map(|asked| asked.id));
    }
    assert_eq!(ids.len(), 2, "the policies were asked about two");
    drop(waiting);
    assert_eq!(ask(&mut service, call(framed(&message("/accounts/1")))).await.1, 0);
    assert!(metrics.exposition().contains(r#"placet_shadow_dropped_total{scope="orders"} 1"#));
}

#[tokio::test]
async fn a_panic_is_denied() {
    struct Panics;
    impl http_body::Body for Panics {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
            panic!("while reading")
        }
    }
    let (mut service, _) = service();
    let answer = ask(&mut service, call(Body::new(Panics))).await;
    assert_eq!(answer, ("0".to_owned(), 7, 503));
}

#[tokio::test]
async fn one_check_too_many_is_refused_not_queued() {
    let (mut service, _) = service();
    let inner = Arc::clone(&service.0);
    let all = u32::try_from(MAX_IN_PROGRESS).unwrap();
    let held = inner.in_progress.try_acquire_many(all).unwrap();
    let answer = ask(&mut service, call(framed(&message("/accounts/1")))).await;
    assert_eq!(answer, ("0".to_owned(), 7, 503));
    drop(held);
    let answer = ask(&mut service, call(framed(&message("/accounts/1")))).await;
    assert_eq!(answer, ("0".to_owned(), 0, 0));
}

#[tokio::test]
async fn another_method_is_unimplemented() {
    let (mut service, _) = service();
    let mut other = call(framed(&message("/accounts/1")));
    *other.uri_mut() = "/envoy.service.auth.v3.Authorization/Checks".parse().unwrap();
    assert_eq!(ask(&mut service, other).await.0, "12");
}

#[test]
fn the_margin_leaves_time_to_answer() {
    let of = |millis| margin(Duration::from_millis(millis));
    assert_eq!(of(250), Duration::from_millis(225));
    assert_eq!(of(20), Duration::from_millis(15));
    assert_eq!(of(3), Duration::ZERO);
}
