//! A body of any content type, and of the method of a gRPC service: nothing panics, what is not whole
//! says nothing, names and texts of a form were in it, and what is read can be written as JSON.
//!
//! The first line is the content type, the second the path; the rest is the body. A path that begins
//! with a `!` has its body cut off.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use placet::path::{Allowances, CanonicalPath};
use placet::request::{Body, Content, Descriptors, Request};

/// Envoy's own messages, which have maps, oneofs, structs and any.
static DESCRIPTORS: LazyLock<Descriptors> =
    LazyLock::new(|| Descriptors::parse(placet::envoy::DESCRIPTORS.to_vec()).unwrap());

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let kind = lines.next().unwrap_or_default();
    let target = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let body = lines.next().unwrap_or_default();
    let (target, is_whole) = match target.strip_prefix('!') {
        Some(target) => (target, false),
        None => (target.as_str(), true),
    };
    let Ok(path) = CanonicalPath::parse(target, Allowances::default()) else { return };
    let bytes = body.to_vec().into();
    let body_as_sent = if is_whole { Body::Whole(bytes) } else { Body::Partial(bytes) };
    let mut request = Request { body: body_as_sent, ..Request::default() };
    request.headers.push("content-type", kind);
    match request.content(&path, Some(&DESCRIPTORS)) {
        Err(fault) => {
            let text = fault.to_string();
            assert!(is_whole && !text.contains(char::is_control), "{text:?}");
        }
        Ok(Content::Opaque) => {}
        Ok(Content::Json(value)) => {
            assert!(is_whole);
            serde_json::to_string(&value).unwrap();
        }
        Ok(Content::Form(fields)) => {
            assert!(is_whole);
            if !kind.to_ascii_lowercase().starts_with(b"multipart/form-data") {
                return;
            }
            for (name, values) in &fields {
                assert!(!name.is_empty() && holds(body, name.as_bytes()), "{name:?}");
                let mut texts = values.iter().filter_map(|value| value.as_str());
                // A JSON part's text may be written with escapes.
                let is_there = |text: &str| holds(body, text.as_bytes()) || holds(body, b"\\");
                assert!(texts.all(is_there), "{values:?}");
            }
        }
    }
});

fn holds(body: &[u8], part: &[u8]) -> bool {
    part.is_empty() || body.windows(part.len()).any(|window| window == part)
}
