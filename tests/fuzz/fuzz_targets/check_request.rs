//! Bytes from Envoy, or from a captured file, to a request: nothing panics, and what is read is
//! what the rooms behind rely on.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use placet::envoy::{decode, json};
use placet::request::Request;

fuzz_target!(|data: &[u8]| {
    let decoded = decode::request(data);
    if let Ok(request) = &decoded {
        check(request);
    }
    let captured = json::read(data);
    if let Ok(captured) = &captured {
        check(&captured.request);
    }
    if !data.trim_ascii_start().starts_with(b"{") {
        assert_eq!(decoded.is_ok(), captured.is_ok(), "one message, read in two ways");
    }
});

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
