//! A call of ext_authz over HTTP to a request: nothing panics, and the request is about what follows
//! the prefix, on the one host of the call, from nobody.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use placet::envoy::over_http;

fuzz_target!(|data: &[u8]| {
    // The first line is method and target, the next ones are fields, the rest after an empty one is the body.
    let (head, body) = match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let Some(space) = first.iter().position(|byte| *byte == b' ') else { return };
    let mut call = http::Request::builder().method(&first[..space]).uri(&first[space + 1..]);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        call = call.header(&line[..colon], &line[colon + 1..]);
    }
    let Ok(call) = call.body(()) else { return };
    let (parts, ()) = call.into_parts();
    let Ok(request) = over_http::request(&parts, Bytes::copy_from_slice(body), "https", "orders")
    else {
        return;
    };
    let whole = parts.uri.path_and_query().map(|target| target.as_str()).unwrap_or_default();
    assert!(request.target.is_empty() || whole == format!("/check{}", request.target));
    assert_eq!(
        (request.method.as_str(), request.scheme.as_str()),
        (parts.method.as_str(), "https")
    );
    assert!(request.source.ip.is_none() && request.source.principal.is_none());
    assert!(request.source.certificate.is_none());
    assert_eq!(request.extensions.get("placet.scope").map(String::as_str), Some("orders"));
    assert!(request.headers.all("x-placet-caller").next().is_none());
    let host = request.host.name();
    assert!(!host.contains(['/', '?', '#', '@', ',']) && *host == host.to_ascii_lowercase());
});
