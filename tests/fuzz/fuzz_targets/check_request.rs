//! Bytes from Envoy, or from a captured file, to a request: nothing panics, what is read is what the rooms
//! behind rely on, and a message that is read where it lies is what the general decoder reads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::envoy::{decode, json};
use placet::request::Request;

fuzz_target!(|data: &[u8]| {
    let decoded = decode::request(data);
    if let Ok(request) = &decoded {
        check(request);
    }
    let captured = json::read(data);
    captured.iter().flatten().for_each(|captured| check(&captured.request));
    if !data.trim_ascii_start().starts_with(b"{") {
        assert_eq!(decoded.is_ok(), captured.is_ok(), "one message, read in two ways");
        if let (Ok(decoded), Ok(captured)) = (decoded, captured) {
            assert_eq!(captured.len(), 1);
            captured.iter().for_each(|captured| assert_same(&decoded, &captured.request));
        }
    }
});

fn assert_same(one: &Request, other: &Request) {
    let texts = |of: &Request| {
        let Request { id, method, scheme, target, protocol, server_name, .. } = of.clone();
        (id, method, scheme, target, protocol, server_name)
    };
    assert_eq!(texts(one), texts(other));
    assert_eq!((&one.host, one.size, one.time), (&other.host, other.size, other.time));
    assert_eq!((&one.body, one.is_text_body), (&other.body, other.is_text_body));
    assert_eq!(one.extensions, other.extensions);
    assert_eq!(one.metadata, other.metadata);
    assert_eq!(one.route_metadata, other.route_metadata);
    let ends = |of: &Request| format!("{:?} {:?}", of.source, of.destination);
    assert_eq!(ends(one), ends(other));
    // Those of a map are in any order.
    let headers = |of: &Request| {
        let fields = of.headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec()));
        let mut fields: Vec<_> = fields.collect();
        fields.sort();
        fields
    };
    assert_eq!(headers(one), headers(other));
}

fn check(request: &Request) {
    assert!(
        !request.method.is_empty() && request.method.bytes().all(|byte| byte.is_ascii_graphic())
    );
    assert!(matches!(request.scheme.as_str(), "http" | "https"));
    let host = request.host.name();
    assert!(!host.ends_with('.') && host.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(!host.contains(['/', '?', '#', '@']) && *host == host.to_ascii_lowercase());
    assert!(!request.raw_path().contains('?'));
}
