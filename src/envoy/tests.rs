use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::{CheckRequest, HttpResponse};
use http_body_util::{Full, StreamBody};
use prost::Message;
use tokio::sync::mpsc;
use tonic::body::Body;

use super::*;
use crate::audit::{LogSettings, Sink, WhenFull};
use crate::authorizer::{Authorizer, DryRun};
use crate::fixture::{self, NOW};
use crate::metrics::Metrics;
use crate::policy::{Authzen, Policy};
use crate::scope::{Scopes, Selectable};
use crate::shadow::Shadow;
use crate::stages::Stage;
use crate::trace::CheckSpan;

fn service() -> (CheckService, Metrics) {
    serving(fixture::scope("orders"))
}

fn serving(scope: Scope) -> (CheckService, Metrics) {
    let metrics = Metrics::new();
    let (recorder, _) = Recorder::open(LogSettings::to(Sink::None), metrics.clone()).unwrap();
    (serving_with(scope, recorder), metrics)
}

fn serving_with(scope: Scope, recorder: Recorder) -> CheckService {
    serving_traced(scope, recorder, None)
}

fn serving_traced(scope: Scope, recorder: Recorder, tracer: Option<Tracer>) -> CheckService {
    let scope = Arc::new(scope);
    let scopes = Scopes::new(vec![Selectable { scope, hosts: Vec::new(), default: true }]);
    let scopes = Arc::new(ArcSwap::from_pointee(scopes));
    CheckService::new(scopes, recorder, Clock::Fixed(NOW), 1 << 20, tracer, None)
}

fn message(path: &str) -> Vec<u8> {
    fixture::check_request(path).encode_to_vec()
}

fn framed(message: &[u8]) -> Body {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(message);
    Body::new(Full::new(Bytes::from(bytes)))
}

fn call(body: Body) -> http::Request<Body> {
    http::Request::new(body)
}

async fn answered(service: &CheckService, call: http::Request<Body>) -> Bytes {
    let (head, body) = call.into_parts();
    match service.check(&head.headers, body).answer() {
        Answering::Now(framed) => framed,
        Answering::Unread(check) => check.wait().await,
        Answering::Later(answer) => answer.await,
        Answering::Other(_) => panic!("it is a check"),
    }
}

fn response(framed: Bytes) -> CheckResponse {
    CheckResponse::decode(framing::message(framed).unwrap()).unwrap()
}

/// The answer's code and HTTP status (0 for an allow).
async fn ask(service: &CheckService, call: http::Request<Body>) -> (i32, i32) {
    let answer = response(answered(service, call).await);
    let http = match answer.http_response.unwrap() {
        HttpResponse::DeniedResponse(denied) => denied.status.unwrap().code,
        HttpResponse::OkResponse(_) => 0,
        HttpResponse::ErrorResponse(error) => panic!("{error:?}"),
    };
    (answer.status.unwrap().code, http)
}

#[tokio::test]
async fn whatever_arrives_is_answered_in_a_check_response() {
    let (service, metrics) = service();
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
        assert_eq!(ask(&service, call(body)).await, expected);
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
    let (service, _) = service();
    let error = std::io::Error::other("cut off");
    let frames = futures_util::stream::iter([Err::<http_body::Frame<Bytes>, _>(error)]);
    let answer = ask(&service, call(Body::new(StreamBody::new(frames)))).await;
    assert_eq!(answer, (7, 400));
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_before_the_deadline() {
    let (service, _) = service();
    let frames = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>();
    let mut late = call(Body::new(StreamBody::new(frames)));
    late.headers_mut().insert("grpc-timeout", "250m".parse().unwrap());
    let started = tokio::time::Instant::now();
    assert_eq!(ask(&service, late).await, (7, 503));
    assert!(started.elapsed() < Duration::from_millis(250));
}

/// A decision point that never answers takes longer than the caller waits: a fault of the scope, once
/// it is known.
#[tokio::test(start_paused = true)]
async fn a_deadline_is_denied_but_passes_in_a_dry_run() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    for (dry_run, answer, outcome) in [(false, (7, 503), "deny"), (true, (0, 0), "dry_run")] {
        let policy = Policy::authzen(Authzen::new(fixture::authzen_settings(&url)).unwrap());
        let authorizer = Authorizer { policy, ..fixture::authorizer() };
        let dry_run = DryRun::of_setting(dry_run);
        let scope = Scope { authorizer, dry_run, ..fixture::scope("orders") };
        let (service, metrics) = serving(scope);
        let mut late = call(framed(&message("/accounts/1")));
        late.headers_mut().insert("grpc-timeout", "250m".parse().unwrap());
        let (code, http) = ask(&service, late).await;
        assert_eq!((code, http), answer);
        let line = format!(
            r#"placet_decisions_total{{scope="orders",outcome="{outcome}",reason="deadline"}} 1"#
        );
        assert!(metrics.exposition().contains(&line), "{}", metrics.exposition());
        let (code, http) = ask(&service, call(framed(b"garbage"))).await;
        assert_eq!((code, http), (7, 400), "no scope is known");
    }
}

/// A service that traces, and its spans.
fn tracing(scope: Scope, ratio: f64) -> (CheckService, mpsc::Receiver<CheckSpan>, Metrics) {
    let metrics = Metrics::new();
    let (recorder, _) = Recorder::open(LogSettings::to(Sink::None), metrics.clone()).unwrap();
    let (tracer, spans) = Tracer::new(ratio, metrics.clone(), Clock::Fixed(NOW));
    (serving_traced(scope, recorder, Some(tracer)), spans, metrics)
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(start_paused = true)]
async fn the_stage_that_took_too_long_is_the_last_one_in_the_span() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let policy = Policy::authzen(Authzen::new(fixture::authzen_settings(&url)).unwrap());
    let authorizer = Authorizer { policy, ..fixture::authorizer() };
    let (service, mut spans, metrics) =
        tracing(Scope { authorizer, ..fixture::scope("orders") }, 0.0);
    let mut late = call(framed(&message("/accounts/1")));
    late.headers_mut().insert("grpc-timeout", "250m".parse().unwrap());
    late.headers_mut().insert("traceparent", PARENT.parse().unwrap());
    assert_eq!(ask(&service, late).await.1, 503);
    let span = spans.try_recv().unwrap();
    let stages: Vec<_> = span.stages.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(stages, [Stage::Route, Stage::Identity, Stage::Policy]);
    assert_eq!((span.told.reason, span.told.is_fault), ("deadline", true));
    assert_eq!(span.told.scope, "orders");
    for (stage, count) in [("route", 1), ("policy", 1), ("token", 0)] {
        let line = format!(r#"placet_stage_duration_seconds_count{{stage="{stage}"}} {count}"#);
        assert!(metrics.exposition().contains(&line), "{line}");
    }
}

/// Whether the view reads it, the general decoder does or nobody can, and whoever says what the trace is.
#[tokio::test]
async fn every_check_is_in_the_trace_that_is_named_first() {
    let (service, mut spans, _) = tracing(fixture::scope("orders"), 1.0);
    let named = |message: &[u8]| {
        let mut call = call(framed(message));
        call.headers_mut().insert("traceparent", PARENT.parse().unwrap());
        call
    };
    let other = "4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b8-1";
    let within = message_with("/accounts/1", ("b3", other), "");
    // A field that Envoy does not send: only the general decoder reads it.
    let mut unusual = within.clone();
    unusual.extend_from_slice(&[0x7a, 0]);
    let mut found = Vec::new();
    for call in [
        named(&within),
        named(b"garbage"),
        call(framed(&within)),
        call(framed(&unusual)),
        call(framed(&message("/accounts/2"))),
    ] {
        ask(&service, call).await;
        found.push(spans.try_recv().unwrap().trace);
    }
    let parents: Vec<_> = found.iter().map(|trace| trace.parent.map(|it| it.to_string())).collect();
    let (first, second) =
        (Some("00f067aa0ba902b7".to_owned()), Some("00f067aa0ba902b8".to_owned()));
    assert_eq!(parents, [first.clone(), first, second.clone(), second, None]);
    assert_eq!(found[0].id, found[1].id);
    assert_eq!(found[2].id, found[3].id);
}

#[tokio::test]
async fn a_shadow_gets_what_was_decided_and_a_full_queue_is_counted() {
    let (shadow, mut waiting) = Shadow::queued(fixture::policy("", "[]"));
    let scope = Scope { shadow: Some(shadow), ..fixture::scope("orders") };
    let (service, metrics) = serving(scope);
    let mut ids = std::collections::BTreeSet::new();
    for (path, code) in [("/accounts/1", 0), ("/accounts/2", 7), ("/healthz", 0), ("//", 7)] {
        assert_eq!(ask(&service, call(framed(&message(path)))).await.0, code, "{path}");
        ids.extend(waiting.try_recv().ok().map(|asked| asked.id));
    }
    assert_eq!(ids.len(), 2, "the policies were asked about two");
    drop(waiting);
    assert_eq!(ask(&service, call(framed(&message("/accounts/1")))).await.0, 0);
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
    let (service, _) = service();
    let answer = ask(&service, call(Body::new(Panics))).await;
    assert_eq!(answer, (7, 503));
}

#[tokio::test]
async fn one_check_too_many_is_refused_not_queued() {
    let (service, _) = service();
    let inner = Arc::clone(&service.0);
    let all = u32::try_from(MAX_IN_PROGRESS).unwrap();
    let held = inner.in_progress.try_acquire_many(all).unwrap();
    let answer = ask(&service, call(framed(&message("/accounts/1")))).await;
    assert_eq!(answer, (7, 503));
    drop(held);
    let answer = ask(&service, call(framed(&message("/accounts/1")))).await;
    assert_eq!(answer, (0, 0));
    // What is known waits for nothing, and takes no place.
    let _held = inner.in_progress.try_acquire_many(all).unwrap();
    let answer = ask(&service, call(framed(&message("/accounts/1")))).await;
    assert_eq!(answer, (0, 0));
    let answer = ask(&service, call(framed(&message("/accounts/2")))).await;
    assert_eq!(answer, (7, 503));
}

#[test]
fn the_margin_leaves_time_to_answer() {
    let of = |millis| seen::margin(Duration::from_millis(millis));
    assert_eq!(of(250), Duration::from_millis(225));
    assert_eq!(of(20), Duration::from_millis(15));
    assert_eq!(of(3), Duration::ZERO);
}

/// A message for `path` with a header, and the request's own id.
fn message_with(path: &str, header: (&str, &str), id: &str) -> Vec<u8> {
    let mut check = CheckRequest::decode(message(path).as_slice()).unwrap();
    let request = check.attributes.as_mut().unwrap().request.as_mut().unwrap();
    let headers = &mut request.http.as_mut().unwrap().headers;
    headers.insert(header.0.to_owned(), header.1.to_owned());
    headers.insert("x-request-id".to_owned(), id.to_owned());
    check.encode_to_vec()
}

/// The token that travels upstream, if there is one.
async fn token(service: &CheckService, message: &[u8]) -> Option<String> {
    let framed = answered(service, call(framed(message))).await;
    match response(framed).http_response.unwrap() {
        HttpResponse::OkResponse(ok) => Some(ok.headers.first()?.header.clone()?.value),
        _ => None,
    }
}

/// A service whose log has no room for any line.
fn without_room(scope: Scope, when_full: WhenFull) -> (CheckService, Metrics) {
    let metrics = Metrics::new();
    let sink = Sink::file("/dev/null");
    let settings = LogSettings { when_full, buffer_bytes: 1, ..LogSettings::to(sink) };
    let (recorder, _) = Recorder::open(settings, metrics.clone()).unwrap();
    (serving_with(scope, recorder), metrics)
}

async fn status(service: &CheckService, path: &str) -> i32 {
    let framed = answered(service, call(framed(&message(path)))).await;
    match response(framed).http_response.unwrap() {
        HttpResponse::DeniedResponse(denied) => denied.status.unwrap().code,
        _ => 200,
    }
}

#[test]
fn what_the_log_has_no_room_for_passes_unless_it_must_not() {
    // Waiting puts a paused clock forward, which the next check would be late by.
    let asked = |service: &CheckService, path: &str| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(status(service, path))
    };
    let dry = || Scope { dry_run: DryRun::of_setting(true), ..fixture::scope("orders") };
    let plain = || fixture::scope("orders");
    for (when_full, scope, statuses) in [
        (WhenFull::Drop, plain(), [200, 200, 200, 403]),
        (WhenFull::Block, plain(), [503, 503, 503, 403]),
        (WhenFull::Drop, dry(), [200, 200, 200, 200]),
        (WhenFull::Block, dry(), [503, 503, 503, 503]),
    ] {
        let (service, metrics) = without_room(scope, when_full);
        let mut found = Vec::new();
        for path in ["/accounts/1", "/accounts/1", "/healthz", "/accounts/2"] {
            found.push(asked(&service, path));
        }
        assert_eq!(found, statuses, "{when_full:?}");
        let exposition = metrics.exposition();
        let decided: f64 = exposition
            .lines()
            .filter(|line| line.starts_with("placet_decisions_total"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum();
        assert!((decided - 4.0).abs() < 0.1, "each is counted once: {exposition}");
    }
}

#[tokio::test]
async fn the_same_question_gets_the_same_token_and_a_record_of_its_own() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let metrics = Metrics::new();
    let (recorder, log) =
        Recorder::open(LogSettings::to(Sink::file(file.path())), metrics.clone()).unwrap();
    let service = serving_with(fixture::scope("orders"), recorder);
    let ask = |header, id| message_with("/accounts/1?q=1", header, id);
    let first = token(&service, &ask(("x-other", "1"), "one")).await.unwrap();
    for (header, id) in [(("x-other", "1"), "two"), (("x-other", "2"), "three")] {
        assert_eq!(token(&service, &ask(header, id)).await, Some(first.clone()), "{id}");
    }
    let other = token(&service, &message_with("/accounts/1", ("x-other", "1"), "four")).await;
    assert_eq!(other, Some(first.clone()), "no policy reads the query");
    assert_eq!(token(&service, &ask(("x-forbid", "1"), "five")).await, None);
    assert_eq!(token(&service, &ask(("x-forbid", "1"), "six")).await, None);
    let exposition = metrics.exposition();
    for line in [
        r#"placet_decisions_total{scope="orders",outcome="allow",reason="permitted"} 4"#,
        r#"placet_decisions_total{scope="orders",outcome="deny",reason="forbidden"} 2"#,
        r#"placet_cache_hits_total{cache="decisions"} 3"#,
        r#"placet_cache_misses_total{cache="decisions"} 3"#,
    ] {
        assert!(exposition.contains(line), "{exposition}");
    }
    drop(service);
    log.finish(Duration::from_secs(10));
    let lines = std::fs::read_to_string(file.path()).unwrap();
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<_> = lines.iter().map(|line| line["requestId"].as_str().unwrap()).collect();
    assert_eq!(ids, ["one", "two", "three", "four", "five", "six"]);
    let reused: Vec<_> = lines.iter().map(|line| line["reused"].as_bool().unwrap()).collect();
    assert_eq!(reused, [false, true, true, true, false, false]);
    let first = &lines[0];
    for line in &lines[1..4] {
        for member in
            ["id", "tokenId", "keyId", "scope", "outcome", "principal", "target", "policy", "http"]
        {
            assert_eq!(line[member], first[member], "{member}");
        }
    }
}

#[tokio::test]
async fn where_nothing_is_used_again_every_request_has_its_own_token() {
    let service = serving(Scope { reuse: None, ..fixture::scope("orders") }).0;
    let first = token(&service, &message("/accounts/1")).await;
    assert!(first.is_some());
    assert_ne!(first, token(&service, &message("/accounts/1")).await);
}
