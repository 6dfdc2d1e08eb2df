use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use proptest::prelude::*;

use super::*;
use crate::authorizer::Authorizer;
use crate::fixture;
use crate::scope::{Scope, Selectable};

/// `{"alg":"ES256"}` and `{"sub":"alice"}`.
const JWT: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9";
const SIGNATURE: &str = "c2lnbmF0dXJl";

fn check(http: HttpRequest) -> Bytes {
    let request = Request { http: Some(http), ..Request::default() };
    let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
    CheckRequest { attributes: Some(attributes) }.encode_to_vec().into()
}

fn header(name: &str, value: &str) -> String {
    let http = HttpRequest {
        headers: [(name.to_owned(), value.to_owned())].into(),
        ..HttpRequest::default()
    };
    let shown = shown(&check(http));
    shown["attributes"]["request"]["http"]["headers"][name].as_str().unwrap().to_owned()
}

fn shown(check: &[u8]) -> serde_json::Value {
    let tap = Tap::new().unwrap();
    let scopes = Scopes::new(Vec::new());
    serde_json::from_str(&line(check, &tap.message, &Kept::by(&scopes)).unwrap()).unwrap()
}

#[test]
fn what_could_be_used_again_is_taken_out() {
    let cut = format!("{JWT}.redacted");
    for (name, value, expected) in [
        ("authorization", format!("Bearer {JWT}.{SIGNATURE}"), format!("Bearer {cut}")),
        ("authorization", "Bearer opaque".into(), "Bearer redacted".into()),
        ("authorization", "Basic dXNlcjpwYXNzd29yZA==".into(), "Basic redacted".into()),
        ("Authorization", "s3cr3t".into(), "redacted".into()),
        (
            "cookie",
            format!("a=1; session={JWT}.{SIGNATURE}; lone"),
            format!("a=redacted; session={cut}; redacted"),
        ),
        ("x-api-key", "k3y".into(), "redacted".into()),
        ("x-anything", "who knows".into(), "who redacted".into()),
        ("x-anything", format!("{JWT}.{SIGNATURE}"), cut.clone()),
        ("x-anything", format!("{JWT}.iv.text.tag"), "redacted".into()),
        ("user-agent", "curl/8".into(), "curl/8".into()),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        ),
        ("x-forwarded-for", format!("192.0.2.7, {JWT}.{SIGNATURE}"), format!("192.0.2.7, {cut}")),
        (
            ":path",
            format!("/a/{JWT}.{SIGNATURE}?access_token={JWT}.{SIGNATURE}&b=2"),
            format!("/a/{cut}?access_token={cut}&b=redacted"),
        ),
        ("x-empty", String::new(), String::new()),
    ] {
        assert_eq!(header(name, &value), expected, "{name}: {value}");
    }
    let http = HttpRequest {
        path: "/a?b=1".into(),
        body: "secret".into(),
        raw_body: b"secret".to_vec(),
        ..HttpRequest::default()
    };
    let page = shown(&check(http));
    assert_eq!(page["attributes"]["request"]["http"], serde_json::json!({"path": "/a?b=redacted"}));
}

proptest! {
    /// No signature and no opaque value comes through, wherever it stands.
    #[test]
    fn nothing_secret_is_shown(
        name in "[a-z-]{1,12}|authorization|cookie|:path|accept",
        before in "[ -~]{0,12}",
        after in "[ -~]{0,12}",
    ) {
        let value = format!("{before} {JWT}.{SIGNATURE} {after}");
        prop_assert!(!header(&name, &value).contains(SIGNATURE), "{}", value);
        if !Kept::default().has(&name) && name != ":path" && name != "cookie" {
            prop_assert!(!header(&name, "Token 0paque=").contains("0paque"));
        }
    }
}

#[tokio::test]
async fn only_so_many_read_and_one_that_goes_makes_room() {
    let tap = Tap::new().unwrap();
    let request = check(HttpRequest { path: "/a".into(), ..HttpRequest::default() });
    tap.offer(&request);
    let mut readings: Vec<Reading> = (0..MAX_READERS).map(|_| tap.read().unwrap()).collect();
    assert!(tap.read().is_none());
    tap.offer(&request);
    let scopes = || Arc::new(Scopes::new(Vec::new()));
    for reading in &mut readings {
        assert!(reading.next(scopes).await.unwrap().contains("\"path\":\"/a\""));
    }
    readings.pop();
    let mut last = tap.read().unwrap();
    for _ in 0..WAITING + 10 {
        tap.offer(&request);
    }
    assert!(last.next(scopes).await.is_some(), "a slow one misses some");
    drop(tap);
    while last.next(scopes).await.is_some() {}
}

/// What is empty is left out in the JSON of protobuf. Found by fuzzing.
#[test]
fn what_has_empty_parts_can_be_read_again() {
    let page = r#"{"attributes": {"destination": {"address": {"socketAddress": {"portValue": 10000}}},
        "request": {"http": {"method": "GET", "host": "orders.example", "path": "/", "headerMap": {}}}}}"#;
    let captured = crate::envoy::json::read(page.as_bytes()).unwrap();
    assert_eq!(captured.first().unwrap().request.target, "/");
}

#[test]
fn what_is_shown_can_be_read_again() {
    let http = HttpRequest {
        method: "GET".into(),
        host: "orders.example".into(),
        path: "/accounts/1".into(),
        headers: [("authorization".into(), format!("Bearer {JWT}.{SIGNATURE}"))].into(),
        ..HttpRequest::default()
    };
    let page = shown(&check(http)).to_string();
    let captured = crate::envoy::json::read(page.as_bytes()).unwrap();
    let [captured] = captured.as_slice() else { panic!("{captured:?}") };
    assert_eq!(captured.request.target, "/accounts/1");
    let authorization = format!("Bearer {JWT}.{REDACTED}");
    assert_eq!(
        captured.request.headers.all("authorization").next(),
        Some(authorization.as_bytes())
    );
}

#[test]
fn of_the_proxys_metadata_the_names_stay() {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let list = ListValue { values: vec![text("in a list"), text("")] };
    let fields = [
        ("session".to_owned(), text("0paque")),
        ("jwt".to_owned(), text(&format!("{JWT}.{SIGNATURE}"))),
        ("items".to_owned(), Value { kind: Some(Kind::ListValue(list)) }),
        ("level".to_owned(), Value { kind: Some(Kind::NumberValue(3.0)) }),
    ];
    let metadata = Metadata {
        filter_metadata: [("filter".to_owned(), Struct { fields: fields.into() })].into(),
        ..Metadata::default()
    };
    let attributes =
        AttributeContext { metadata_context: Some(metadata), ..AttributeContext::default() };
    let check = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
    assert_eq!(
        shown(&check)["attributes"]["metadataContext"]["filterMetadata"]["filter"],
        serde_json::json!({
            "session": "redacted",
            "jwt": format!("{JWT}.redacted"),
            "items": ["redacted", ""],
            "level": 3.0,
        })
    );
}

#[test]
fn a_credential_is_taken_out_where_a_policy_reads_it() {
    let policy = r#"permit(principal, action, resource) when {
        context.http.headers has authorization && context.http.headers["x-channel"] == "web" };"#;
    let authorizer = Authorizer { policy: fixture::policy(policy, "[]"), ..fixture::authorizer() };
    let scope = Arc::new(Scope { authorizer, ..fixture::scope("orders") });
    let scopes = Scopes::new(vec![Selectable { scope, hosts: Vec::new(), default: true }]);
    let kept = Kept::by(&scopes);
    assert_eq!(
        ["x-channel", "authorization", "x-other"].map(|name| kept.has(name)),
        [true, false, false]
    );
}
