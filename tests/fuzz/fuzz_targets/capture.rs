//! What the tap shows of a check: one line of JSON that `placet check` reads again, and nothing of a
//! secret, wherever in the check it stood.

#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use placet::app::{GivenKeys, Offline};
use placet::clock::Timestamp;
use placet::config::Config;
use placet::envoy::capture::Tap;
use placet::envoy::{decode, json};
use placet::scope::Scopes;
use prost::Message as _;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const SECRET: &str = "kZ7-q4x-9f";
/// Header and claims of a token whose signature is the secret.
const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.kZ7-q4x-9f";
/// Fields whose values stay, but for signatures: of those that say nothing of who asks, and the policy's.
const KEPT: [&str; 4] = ["user-agent", "x-request-id", "x-forwarded-for", "x-team"];

static SCOPES: LazyLock<Arc<Scopes>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).expect("a file in it");
    };
    write(
        "policy.cedar",
        r#"permit (principal, action, resource) when { context.http.headers has "x-team" && context.http.headers["x-team"] == "a" };"#,
    );
    write("placet.yaml", include_str!("../settings/decision.yaml"));
    let config = Config::load(&directory.path().join("placet.yaml"));
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    Arc::new(Offline::new(config, &GivenKeys::None, NOW).expect("scopes").scopes)
});

fuzz_target!(|data: &[u8]| {
    let Ok(mut check) = CheckRequest::decode(data) else { return };
    plant(&mut check);
    let bytes = Bytes::from(check.encode_to_vec());
    let tap = Tap::new().expect("our own descriptors");
    let mut reading = tap.read().expect("room for a reader");
    tap.offer(&bytes);
    // What can't be written waits for the next.
    let Some(Some(line)) = reading.next(|| Arc::clone(&SCOPES)).now_or_never() else { return };
    assert!(!line.contains(SECRET), "{line}");
    assert!(!line.contains('\n'));
    if decode::request(&bytes).is_ok() {
        let read = json::read(line.as_bytes());
        assert_eq!(read.map(|captured| captured.len()).ok(), Some(1), "{line}");
    }
});

/// Puts the secret where one may be.
fn plant(check: &mut CheckRequest) {
    let Some(attributes) = &mut check.attributes else { return };
    let metadata = attributes.metadata_context.get_or_insert_default();
    for fields in metadata.filter_metadata.values_mut() {
        fields.fields.insert("planted".to_owned(), nested());
    }
    metadata.filter_metadata.insert("planted".to_owned(), of_struct(nested()));
    for value in attributes.context_extensions.values_mut() {
        *value = format!("{value} {TOKEN}");
    }
    if let Some(http) = attributes.request.as_mut().and_then(|request| request.http.as_mut()) {
        plant_in(http);
    }
}

fn plant_in(http: &mut HttpRequest) {
    http.body.push_str(SECRET);
    http.raw_body.extend_from_slice(SECRET.as_bytes());
    http.path = in_target(&http.path);
    http.query = format!("{}&k={SECRET}", http.query);
    for (name, value) in &mut http.headers {
        *value = in_header(name, value);
    }
    for field in http.header_map.iter_mut().flat_map(|map| &mut map.headers) {
        let text = String::from_utf8_lossy(&field.raw_value).into_owned();
        field.raw_value = in_header(&field.key, &text).into_bytes();
        field.value = in_header(&field.key, &field.value);
    }
    let own = ["authorization", "cookie", "x-api-key"].map(|name| (name, SECRET));
    for (name, value) in own.into_iter().chain(KEPT.map(|name| (name, TOKEN))) {
        http.headers.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
}

/// At the end of a value: after a space, where the field stays, as the signature of a token.
fn in_header(name: &str, value: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        ":path" | "x-envoy-original-path" => in_target(value),
        "cookie" => format!("{value}; k={SECRET}"),
        "authorization" | "proxy-authorization" | "x-api-key" => format!("{value}{SECRET}"),
        _ => format!("{value} {TOKEN}"),
    }
}

fn in_target(target: &str) -> String {
    let joint = if target.contains('?') { '&' } else { '?' };
    format!("{target}{joint}k={SECRET}")
}

fn nested() -> Value {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let values = vec![text(SECRET), text(TOKEN)];
    Value { kind: Some(Kind::ListValue(ListValue { values })) }
}

fn of_struct(value: Value) -> Struct {
    Struct { fields: [("planted".to_owned(), value)].into() }
}
