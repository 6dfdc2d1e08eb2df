use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use proptest::prelude::*;
use tower::ServiceExt as _;

use super::*;
use crate::audit::{LogSettings, Recorder, Sink};
use crate::authorizer::DryRun;
use crate::clock::Clock;
use crate::fixture::{self, NOW};
use crate::metrics::Metrics;
use crate::request::Body as Sent;
use crate::scope::{Api, CallerSecrets, DecisionHeader, DenyResponse, Scope, Selectable};
use crate::secrets::Kept;
use crate::tls::{TlsPeer, UriSan};

/// The digest of `secret`.
const DIGEST: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn scope(client_id: &str, check: bool) -> Scope {
    let secrets = Some(Kept::fixed(CallerSecrets::parse(DIGEST.as_bytes()).unwrap()));
    let workloads = [UriSan::parse(&format!("spiffe://example.org/{client_id}-envoy")).unwrap()];
    let api = Api {
        authzen: true,
        check,
        scheme: "https",
        secrets,
        workloads: workloads.into(),
        public_url: None,
    };
    let api = Some(api);
    Scope { api, ..fixture::scope(client_id) }
}

fn routes(scopes: Vec<Scope>) -> (Router, Metrics) {
    let metrics = Metrics::new();
    let (recorder, _) = Recorder::open(LogSettings::to(Sink::None), metrics.clone()).unwrap();
    let scopes = scopes.into_iter().map(|scope| Selectable {
        scope: Arc::new(scope),
        hosts: Vec::new(),
        default: false,
    });
    let scopes = Arc::new(ArcSwap::from_pointee(Scopes::new(scopes.collect())));
    (router(CheckService::new(scopes, recorder, Clock::Fixed(NOW), 1 << 20, None, None)), metrics)
}

fn credentials(pair: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

fn call(method: &str, target: &str) -> Call {
    let call = http::Request::builder().method(method).uri(target);
    let call = call.header("host", "orders.example:8080");
    call.header(CALLER, credentials("orders:secret")).body(Body::empty()).unwrap()
}

async fn ask(routes: &Router, call: Call) -> (u16, HeaderMap, String) {
    let (parts, body) = routes.clone().oneshot(call).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

fn part(token: &HeaderValue, index: usize) -> serde_json::Value {
    let part = token.to_str().unwrap().split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn an_allow_carries_a_token_of_the_api_and_removes_its_twins() {
    let (routes, _) = routes(vec![scope("orders", true)]);
    let (status, headers, body) = ask(&routes, call("GET", "/check/accounts/1?a=b")).await;
    assert_eq!((status, body.as_str()), (200, ""));
    let token = headers.get("x-placet-decision").unwrap();
    assert_eq!(part(token, 0)["typ"], "pdp-decision+jwt");
    let claims = part(token, 1);
    assert_eq!(claims["htu"], "https://orders.example:8080/accounts/1");
    assert_eq!(claims["htm"], "GET");
    let removed = headers.get(REMOVE).unwrap().to_str().unwrap();
    assert!(removed.split(',').any(|name| name == "x_placet_decision"), "{removed}");
    assert!(removed.split(',').any(|name| name == "cookie"), "{removed}");
    assert!(!removed.split(',').any(|name| name == "x-placet-decision"), "{removed}");
}

#[tokio::test]
async fn a_proxy_may_show_a_certificate_instead() {
    let (routes, _) = routes(vec![scope("orders", true), scope("billing", false)]);
    let wrong = Some(credentials("orders:wrong"));
    for (peer, caller, expected) in [
        ("orders-envoy", None, 200),
        ("orders-envoy", wrong, 403),
        ("billing-envoy", None, 403),
        ("stranger", None, 403),
    ] {
        let mut call = call("GET", "/check/accounts/1");
        call.headers_mut().remove(CALLER);
        if let Some(caller) = caller {
            call.headers_mut().insert(CALLER, caller.parse().unwrap());
        }
        let connected = TlsPeer::named(&format!("spiffe://example.org/{peer}"));
        call.extensions_mut().insert(connected);
        assert_eq!(ask(&routes, call).await.0, expected, "{peer}");
    }
}

#[tokio::test]
async fn a_list_of_nothing_is_not_sent() {
    let header = DecisionHeader::new("decision", "").unwrap();
    let plain = Scope { header, remove_headers: Vec::new(), ..scope("orders", true) };
    let (routes, _) = routes(vec![plain]);
    let (status, headers, _) = ask(&routes, call("GET", "/check/accounts/1")).await;
    assert_eq!((status, headers.contains_key(REMOVE)), (200, false));
    assert!(headers.contains_key("decision"));
}

#[tokio::test]
async fn what_has_no_slash_after_the_prefix_is_nothing_of_ours() {
    let (routes, _) = routes(vec![scope("orders", true)]);
    for target in ["/check*", "/checks/accounts/1", "/CHECK/accounts/1", "/%63heck/accounts/1"] {
        assert_eq!(ask(&routes, call("GET", target)).await.0, 404, "{target}");
    }
}

#[tokio::test]
async fn a_bypass_and_a_dry_run_remove_the_header_itself() {
    let dry_run = DryRun::of_setting(true);
    let (routes, metrics) = routes(vec![Scope { dry_run, ..scope("orders", true) }]);
    for target in ["/check/healthz", "/check/accounts/2", "/check//", "/check"] {
        let (status, headers, _) = ask(&routes, call("GET", target)).await;
        assert_eq!(status, 200, "{target}");
        assert!(!headers.contains_key("x-placet-decision"));
        let removed = headers.get(REMOVE).unwrap().to_str().unwrap();
        assert!(removed.split(',').any(|name| name == "x-placet-decision"), "{removed}");
    }
    let line = r#"placet_decisions_total{scope="orders",outcome="dry_run",reason="no_permit"} 1"#;
    assert!(metrics.exposition().contains(line));
}

#[tokio::test]
async fn only_the_one_caller_header_counts() {
    let (routes, _) = routes(vec![scope("orders", true), scope("closed", false)]);
    let asked = |values: Vec<String>, authorization: Option<String>| {
        let mut call = call("GET", "/check/accounts/1");
        call.headers_mut().remove(CALLER);
        for value in values {
            call.headers_mut().append(CALLER, value.parse().unwrap());
        }
        if let Some(value) = authorization {
            call.headers_mut().insert("authorization", value.parse().unwrap());
        }
        call
    };
    let good = || credentials("orders:secret");
    assert_eq!(ask(&routes, asked(vec![good()], None)).await.0, 200, "control");
    for (name, call) in [
        ("none", asked(vec![], None)),
        ("in authorization", asked(vec![], Some(good()))),
        ("twice", asked(vec![good(), good()], None)),
        ("joined", asked(vec![format!("{},{}", good(), good())], None)),
        ("wrong", asked(vec![credentials("orders:wrong")], None)),
        ("of a scope that answers no checks", asked(vec![credentials("closed:secret")], None)),
        ("of no scope", asked(vec![credentials("none:secret")], None)),
    ] {
        let (status, headers, body) = ask(&routes, call).await;
        assert_eq!((status, body.as_str()), (403, r#"{"code":403,"error":"Forbidden"}"#), "{name}");
        assert!(!headers.contains_key("x-placet-decision"), "{name}");
    }
}

#[tokio::test]
async fn what_is_off_is_not_there() {
    let (routes, metrics) = routes(vec![scope("orders", false)]);
    assert_eq!(ask(&routes, call("GET", "/check/accounts/1")).await.0, 404);
    assert!(!metrics.exposition().contains("placet_decisions_total{"));
}

#[tokio::test]
async fn a_503_is_a_403_that_envoy_can_not_take_for_no_answer() {
    let deny = DenyResponse { status: 500, ..DenyResponse::default() };
    let (routes, _) = routes(vec![Scope { deny, ..scope("orders", true) }]);
    let (status, headers, _) = ask(&routes, call("GET", "/check/accounts/2")).await;
    assert_eq!((status, headers.contains_key(REMOVE)), (403, false));
    let denied = |reason| {
        let decision = Decision::denied(Denial::new(reason, ""));
        answer(super::super::encode::response(None, &decision)).status().as_u16()
    };
    for (reason, status) in [
        (Reason::Internal, 403),
        (Reason::Deadline, 403),
        (Reason::KeyUnavailable, 403),
        (Reason::BadPath, 400),
        (Reason::BadToken, 401),
        (Reason::NoPermit, 403),
    ] {
        assert_eq!(denied(reason), status, "{reason:?}");
    }
}

#[test]
fn an_answer_without_a_side_is_a_denial() {
    use envoy_types::pb::google::rpc::Status;
    let status = |code| Some(Status { code, ..Status::default() });
    let ok = || Some(HttpResponse::OkResponse(OkHttpResponse::default()));
    let denied = || Some(HttpResponse::DeniedResponse(DeniedHttpResponse::default()));
    for (status, http_response) in
        [(None, None), (None, ok()), (status(7), ok()), (status(0), denied()), (status(0), None)]
    {
        let response = CheckResponse { status, http_response, dynamic_metadata: None };
        assert_eq!(answer(response).status(), 403);
    }
}

fn parts(call: Call) -> Parts {
    call.into_parts().0
}

/// CVE-2026-40575, CVE-2026-76835 and their kind: what a client may say is not what is decided on.
#[test]
fn no_header_changes_what_is_decided_on() {
    let mut lying = call("GET", "/check/accounts/1?a=b");
    for (name, value) in [
        ("x-forwarded-method", "DELETE"),
        ("x-http-method-override", "DELETE"),
        ("x-forwarded-uri", "/healthz"),
        ("x-forwarded-path", "/healthz"),
        ("x-forwarded-prefix", "/healthz"),
        ("x-original-url", "/healthz"),
        ("x-original-uri", "/healthz"),
        ("x-rewrite-url", "/healthz"),
        ("x-envoy-original-path", "/healthz"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "host=evil.example;proto=http;for=10.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-scheme", "http"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("x-envoy-external-address", "10.0.0.1"),
        ("x-forwarded-client-cert", "URI=spiffe://example.org/admin"),
        ("x-placet-scope", "other"),
        ("placet.scope", "other"),
    ] {
        lying.headers_mut().insert(HeaderName::from_static(name), value.parse().unwrap());
    }
    let read = request(&parts(lying), Bytes::new(), "https", "orders").unwrap();
    assert_eq!((read.method.as_str(), read.target.as_str()), ("GET", "/accounts/1?a=b"));
    assert_eq!(read.host, Host::parse("orders.example:8080").unwrap());
    assert_eq!(read.scheme, "https");
    assert!(read.source.ip.is_none());
    assert!(read.source.principal.is_none() && read.source.certificate.is_none());
    let named: Vec<_> = read.extensions.iter().collect();
    assert_eq!(named, [(&SCOPE_EXTENSION.to_owned(), &"orders".to_owned())]);
}

#[test]
fn the_target_is_what_follows_as_it_was_sent() {
    for target in
        ["/", "//a", "/a//b", "/%2e%2e/b", "/a%2Fb?c=%2f&d", "/a;x=1", "/..", "/check/a", "?q", ""]
    {
        let read =
            request(&parts(call("GET", &format!("/check{target}"))), Bytes::new(), "http", "o");
        assert_eq!(read.unwrap().target, target);
    }
}

#[test]
fn two_hosts_are_none() {
    let hosts = |uri: &str, headers: &[&str]| {
        let mut call = http::Request::builder().uri(uri);
        for host in headers {
            call = call.header("host", *host);
        }
        host(&parts(call.body(Body::empty()).unwrap()))
    };
    assert_eq!(hosts("/check/", &["A.example"]).unwrap().name(), "a.example");
    assert_eq!(hosts("http://a.example/check/", &[]).unwrap().name(), "a.example");
    assert_eq!(hosts("http://a.example/check/", &["a.example"]).unwrap().name(), "a.example");
    assert_eq!(hosts("/check/", &[]).unwrap().name(), "");
    for (uri, headers) in [
        ("/check/", &["a.example", "b.example"][..]),
        ("http://a.example/check/", &["b.example"][..]),
        ("/check/", &["user@a.example"][..]),
    ] {
        assert!(hosts(uri, headers).is_err(), "{uri} {headers:?}");
    }
}

#[test]
fn a_body_is_whole_only_where_envoy_says_so() {
    let read = |mark: Option<&str>, body: &'static str| {
        let mut call = call("POST", "/check/a");
        if let Some(mark) = mark {
            call.headers_mut().insert("x-envoy-auth-partial-body", mark.parse().unwrap());
        }
        request(&parts(call), Bytes::from_static(body.as_bytes()), "http", "o").unwrap().body
    };
    assert_eq!(read(Some("false"), "{}"), Sent::Whole(Bytes::from_static(b"{}")));
    for mark in [None, Some("true"), Some("false,true"), Some("FALSE")] {
        assert_eq!(read(mark, "{}"), Sent::Partial(Bytes::from_static(b"{}")), "{mark:?}");
    }
    assert_eq!(read(Some("false"), ""), Sent::Unsent);
}

#[tokio::test]
async fn a_body_without_end_is_refused() {
    let (routes, _) = routes(vec![scope("orders", true)]);
    let mut large = call("GET", "/check/accounts/1");
    *large.body_mut() = vec![0; MAX_BODY_BYTES + 1].into();
    assert_eq!(ask(&routes, large).await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_before_envoy_gives_up() {
    let (routes, _) = routes(vec![scope("orders", true)]);
    let frames = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let mut late = call("GET", "/check/accounts/1");
    late.headers_mut().insert("x-envoy-expected-rq-timeout-ms", "250".parse().unwrap());
    *late.body_mut() = Body::from_stream(frames);
    let started = tokio::time::Instant::now();
    assert_eq!(ask(&routes, late).await.0, 403);
    assert!(started.elapsed() < Duration::from_millis(250));
}

#[tokio::test]
async fn a_policy_sees_nothing_of_the_call_itself() {
    let read = request(&parts(call("GET", "/check/a")), Bytes::new(), "http", "orders").unwrap();
    assert_eq!(read.headers.iter().count(), 0, "{:?}", read.headers);
}

proptest! {
    /// Whatever the call, the request is about what follows the prefix, on the call's own host.
    #[test]
    fn a_request_is_about_its_call(
        target in "/[!-\"$-;=@-_a-z|~]{0,20}",
        name in "[a-z][a-z-]{0,20}",
        value in "[ -~]{0,20}",
    ) {
        let mut call = call("GET", &format!("/check{target}"));
        if name != "host" {
            call.headers_mut().append(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let read = request(&parts(call), Bytes::new(), "http", "orders").unwrap();
        prop_assert_eq!(read.target, target);
        prop_assert_eq!(read.host.name(), "orders.example");
        prop_assert!(read.headers.all(CALLER).next().is_none());
    }
}
