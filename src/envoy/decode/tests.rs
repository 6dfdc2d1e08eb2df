use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, address};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{self, HttpRequest};

use super::*;

fn check(http: HttpRequest) -> CheckRequest {
    let request = attribute_context::Request { http: Some(http), ..Default::default() };
    CheckRequest {
        attributes: Some(AttributeContext { request: Some(request), ..Default::default() }),
    }
}

fn http() -> HttpRequest {
    HttpRequest {
        method: "GET".to_owned(),
        path: "/a".to_owned(),
        host: "a.example".to_owned(),
        ..HttpRequest::default()
    }
}

fn field(key: &str, value: &[u8]) -> HeaderValue {
    HeaderValue { key: key.to_owned(), raw_value: value.to_vec(), ..Default::default() }
}

fn values<'a>(request: &'a Request, name: &'a str) -> Vec<&'a [u8]> {
    request.headers.all(name).collect()
}

#[test]
fn both_forms_of_headers_are_read() {
    let mut raw = http();
    raw.header_map = Some(HeaderMap {
        headers: vec![
            field(":path", b"/forged"),
            field("X-A", b"1"),
            field("x-a", b"\xff"),
            HeaderValue { key: "x-b".into(), value: "2".into(), ..Default::default() },
        ],
    });
    let request = from_proto(&check(raw)).unwrap();
    assert_eq!(values(&request, "x-a"), [b"1".as_slice(), b"\xff"]);
    assert_eq!(values(&request, "x-b"), [b"2"]);
    assert!(values(&request, ":path").is_empty());
    let mut joined = http();
    joined.headers.insert("x-a".into(), "1,2".into());
    joined.headers.insert(":method".into(), "POST".into());
    let request = from_proto(&check(joined)).unwrap();
    assert_eq!(values(&request, "x-a"), [b"1,2"]);
    assert_eq!((request.method.as_str(), request.raw_path()), ("GET", "/a"));
    assert_eq!(request.headers.iter().count(), 1);
}

#[test]
fn a_body_that_may_be_cut_off_is_a_part() {
    let body = |text: &str, size, marks: &[&str]| {
        let mut http = HttpRequest { body: text.to_owned(), size, ..http() };
        http.header_map = Some(HeaderMap {
            headers: marks.iter().map(|mark| field(PARTIAL_BODY, mark.as_bytes())).collect(),
        });
        from_proto(&check(http)).unwrap().body
    };
    let (whole, part) = (Body::Whole("abc".into()), Body::Partial("abc".into()));
    for (size, marks, expected) in [
        (3, &["false"][..], &whole),
        (-1, &["false"], &whole),
        (3, &[], &whole),
        (9, &["false"], &part),
        (3, &["true"], &part),
        (3, &["false", "true"], &part),
        (3, &["false,true"], &part),
        (0, &[], &part),
        (-1, &[], &part),
    ] {
        assert_eq!(&body("abc", size, marks), expected, "{size} {marks:?}");
    }
    assert_eq!(body("", 0, &["false"]), Body::Unsent);
    let raw = HttpRequest { raw_body: b"\xff".to_vec(), size: 1, ..http() };
    let raw = from_proto(&check(raw)).unwrap();
    assert_eq!((raw.body, raw.is_text_body), (Body::Whole(b"\xff".as_slice().into()), false));
    let text = HttpRequest { body: "!".to_owned(), size: 1, ..http() };
    assert!(from_proto(&check(text)).unwrap().is_text_body, "it may have been another byte");
}

#[test]
fn what_is_no_request_is_refused() {
    assert!(matches!(request(&[]), Err(BadRequest::NoHttp)));
    assert!(matches!(request(b"\xff\xff"), Err(BadRequest::Protobuf(_))));
    let empty = CheckRequest { attributes: Some(AttributeContext::default()) };
    assert!(matches!(from_proto(&empty), Err(BadRequest::NoHttp)));
    for method in ["", "GET ", "G\tT", "é"] {
        let bad = HttpRequest { method: method.to_owned(), ..http() };
        assert!(matches!(from_proto(&check(bad)), Err(BadRequest::Method)), "{method:?}");
    }
    for scheme in ["ftp", "http:", "javascript"] {
        let bad = HttpRequest { scheme: scheme.to_owned(), ..http() };
        assert!(matches!(from_proto(&check(bad)), Err(BadRequest::Scheme)), "{scheme}");
    }
    let bad = HttpRequest { host: "user@a".to_owned(), ..http() };
    assert!(matches!(from_proto(&check(bad)), Err(BadRequest::Host(_))));
}

#[test]
fn a_text_that_is_not_utf_8_is_refused() {
    let valid = check(HttpRequest { path: "/aaaa".to_owned(), ..http() }).encode_to_vec();
    let at = valid.windows(5).position(|window| window == b"/aaaa").unwrap();
    let mut broken = valid.clone();
    broken[at + 1] = 0xff;
    assert!(request(&valid).is_ok());
    assert!(matches!(request(&broken), Err(BadRequest::Protobuf(_))));
}

#[test]
fn the_peer_and_the_id_are_read() {
    let mut check = check(HttpRequest { id: "7".to_owned(), scheme: "HTTPS".to_owned(), ..http() });
    let address = core_address("192.0.2.1");
    check.attributes.as_mut().unwrap().source = Some(attribute_context::Peer {
        address: Some(address),
        principal: "spiffe://a/b".to_owned(),
        certificate: "-----BEGIN%20CERTIFICATE-----%0A".to_owned(),
        ..Default::default()
    });
    let mut request = from_proto(&check).unwrap();
    assert_eq!(request.source.ip, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(request.source.principal.as_deref(), Some("spiffe://a/b"));
    assert_eq!(request.source.certificate.as_deref(), Some("-----BEGIN CERTIFICATE-----\n"));
    assert_eq!((request.id.as_str(), request.scheme.as_str()), ("7", "https"));
    let http = check.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    http.headers.insert("x-request-id".to_owned(), "client".to_owned());
    request = from_proto(&check).unwrap();
    assert_eq!(request.id, "client");
}

fn core_address(ip: &str) -> envoy_types::pb::envoy::config::core::v3::Address {
    use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
    let socket = SocketAddress { address: ip.to_owned(), ..SocketAddress::default() };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}
