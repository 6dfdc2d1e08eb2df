//! What each content type gives, what is refused, and that a part is never the whole.

use serde_json::json;

use super::*;
use crate::path::Allowances;

fn read(request: &Request) -> Result<Content, BodyFault> {
    let path = CanonicalPath::parse("/", Allowances::default()).unwrap();
    request.content(&path, None)
}

fn content(kind: &str, body: &str) -> Result<Content, BodyFault> {
    let mut request = Request { body: Body::Whole(body.to_owned().into()), ..Request::default() };
    request.headers.push("Content-Type", kind);
    read(&request)
}

#[test]
fn a_body_is_read_as_its_type_says() {
    let json = || Ok(Content::Json(json!({"a": [1, null]})));
    for kind in [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/json;charset=\"utf-8\"",
        "application/json;",
        "application/problem+json",
    ] {
        assert_eq!(content(kind, r#"{"a": [1, null]}"#), json(), "{kind}");
    }
    let form = Fields::from([
        ("a".to_owned(), vec!["1".into(), "é ".into()]),
        ("b".to_owned(), vec!["".into()]),
    ]);
    let kind = "application/x-www-form-urlencoded";
    assert_eq!(content(kind, "a=1&b&a=%c3%a9+"), Ok(Content::Form(form)));
    for kind in [
        "text/plain",
        "application/jsonx",
        "",
        "multipart/mixed; boundary=x",
        "application/grpc",
        "application/grpc+json",
        "application/grpc-web+proto",
    ] {
        assert_eq!(content(kind, "{"), Ok(Content::Opaque), "{kind}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let of_json = |body| content("application/json", body).unwrap_err();
    assert_eq!(of_json("{"), BodyFault::Json(JsonFault::Syntax));
    assert_eq!(of_json(""), BodyFault::Json(JsonFault::Syntax));
    assert_eq!(of_json(r#"{"a":1,"a":2}"#), BodyFault::Json(JsonFault::Duplicate));
    assert_eq!(of_json(&"[".repeat(10_000)), BodyFault::Json(JsonFault::TooDeep));
    for (kind, body, fault) in [
        ("application/json; charset=utf-16", "{}", BodyFault::Charset),
        ("application/json; charset=utf-8; charset=utf-16", "{}", BodyFault::Charset),
        ("application/json; charset", "{}", BodyFault::Parameters),
        ("application/json, text/plain", "{}", BodyFault::ContentTypes),
        ("application/x-www-form-urlencoded", "a=%ff", BodyFault::Form),
        ("multipart/form-data; boundary", "", BodyFault::Parameters),
        ("multipart/form-data", "", BodyFault::Multipart(MultipartFault::Boundary)),
    ] {
        assert_eq!(content(kind, body), Err(fault), "{kind}");
    }
}

#[test]
fn a_part_is_not_the_whole() {
    for kind in ["application/json", "multipart/form-data; boundary=x", "application/grpc"] {
        for body in [Body::Unsent, Body::Partial("{".to_owned().into())] {
            let mut request = Request { body, ..Request::default() };
            request.headers.push("content-type", kind);
            assert_eq!(read(&request), Ok(Content::Opaque), "{kind}");
        }
    }
}
