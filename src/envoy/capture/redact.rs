//! What is taken out of a captured check, so that nothing in it can be used again.
//!
//! Of a JWT, the signature: its claims stay, for `placet check` to decide by. The path stays, as do header
//! fields and the query where they say nothing of who asks, or where the policies read them and no
//! credential is there; of the others, and of the proxy's metadata, the names stay. A body does not.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, Metadata};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

use crate::scope::Scopes;

/// What stands in place of what was taken out.
pub const REDACTED: &str = "redacted";

/// Fields that say nothing of who asks.
const PLAIN: [&str; 24] = [
    ":authority",
    ":method",
    ":scheme",
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "traceparent",
    "user-agent",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// Fields that are there for credentials alone; `cookie` is read pair by pair.
const CREDENTIALS: [&str; 2] = ["authorization", "proxy-authorization"];

/// What stays as it is.
#[derive(Debug, Default)]
pub(super) struct Kept {
    headers: BTreeSet<String>,
    query: bool,
}

impl Kept {
    /// What the policies of `scopes` read and no credential is read from.
    pub(super) fn by(scopes: &Scopes) -> Self {
        let mut kept = Self::default();
        for scope in scopes.iter() {
            let policies = scope.authorizer.policy.in_force();
            let Some(reads) = policies.reads() else { continue };
            kept.headers.extend(reads.headers.iter().cloned());
            kept.query |= reads.query;
        }
        for scope in scopes.iter() {
            let places = scope.authorizer.identity.places();
            kept.headers.retain(|name| !places.headers.contains(name));
            kept.query &= !places.query;
        }
        // A policy may read them where no credential is looked for.
        kept.headers.retain(|name| !CREDENTIALS.contains(&name.as_str()));
        kept
    }

    pub(super) fn has(&self, name: &str) -> bool {
        PLAIN.contains(&name) || self.headers.contains(name)
    }
}

/// Takes out of `check` what could be used again.
pub(super) fn redact(check: &mut CheckRequest, kept: &Kept) {
    let Some(attributes) = &mut check.attributes else { return };
    for metadata in [&mut attributes.metadata_context, &mut attributes.route_metadata_context] {
        metadata.iter_mut().for_each(of_metadata);
    }
    attributes.context_extensions.values_mut().for_each(|value| *value = without_signatures(value));
    let http = attributes.request.as_mut().and_then(|request| request.http.as_mut());
    http.into_iter().for_each(|http| of_http(http, kept));
}

fn of_http(http: &mut HttpRequest, kept: &Kept) {
    http.body.clear();
    http.raw_body.clear();
    http.path = of_path(&http.path, kept);
    http.query = of_query(&http.query, kept);
    for (name, value) in &mut http.headers {
        *value = of_header(&name.to_ascii_lowercase(), value, kept);
    }
    let fields = http.header_map.iter_mut().flat_map(|map| &mut map.headers);
    for HeaderValue { key, value, raw_value, .. } in fields {
        let name = key.to_ascii_lowercase();
        let text = if raw_value.is_empty() { value.as_bytes() } else { raw_value.as_slice() };
        *value = of_header(&name, &String::from_utf8_lossy(text), kept);
        raw_value.clear();
    }
}

fn of_header(name: &str, value: &str, kept: &Kept) -> String {
    match name {
        ":path" | "x-envoy-original-path" => of_path(value, kept),
        "cookie" => pairs(value, "; ", |pair| pair.trim_start()),
        name if kept.has(name) => without_signatures(value),
        // The scheme of a credential, and what follows it.
        _ => match value.split_once(' ') {
            Some((scheme, rest)) if scheme.chars().all(|c| c.is_ascii_alphabetic()) => {
                format!("{scheme} {}", secret(rest))
            }
            _ => secret(value),
        },
    }
}

fn of_path(path: &str, kept: &Kept) -> String {
    match path.split_once('?') {
        Some((path, query)) => format!("{}?{}", without_signatures(path), of_query(query, kept)),
        None => without_signatures(path),
    }
}

fn of_query(query: &str, kept: &Kept) -> String {
    if kept.query { without_signatures(query) } else { pairs(query, "&", |pair| pair) }
}

/// `name=value` pairs of which the names stay.
fn pairs(text: &str, joint: &str, trimmed: fn(&str) -> &str) -> String {
    let separator = joint.trim_end();
    let pairs = text.split(separator).map(trimmed).map(|pair| match pair.split_once('=') {
        Some((name, value)) => format!("{}={}", without_signatures(name), secret(value)),
        None => secret(pair),
    });
    pairs.collect::<Vec<_>>().join(joint)
}

fn of_metadata(metadata: &mut Metadata) {
    // An `Any` may be of a type that nobody here knows.
    metadata.typed_filter_metadata.clear();
    metadata.filter_metadata.values_mut().for_each(of_struct);
}

/// No deeper than a message may nest.
fn of_struct(fields: &mut Struct) {
    fields.fields.values_mut().for_each(of_value);
}

fn of_value(value: &mut Value) {
    match &mut value.kind {
        Some(Kind::StringValue(text)) => *text = secret(text),
        Some(Kind::StructValue(fields)) => of_struct(fields),
        Some(Kind::ListValue(items)) => items.values.iter_mut().for_each(of_value),
        Some(Kind::NullValue(_) | Kind::NumberValue(_) | Kind::BoolValue(_)) | None => {}
    }
}

/// A JWT without its signature, or nothing of what it is.
fn secret(value: &str) -> String {
    match unsigned(value) {
        Some(jwt) => jwt,
        None if value.is_empty() => String::new(),
        None => REDACTED.to_owned(),
    }
}

/// `text`, the JWTs in it without their signatures.
fn without_signatures(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c: char| !is_of_token(c)) {
        let (word, after) = match piece.char_indices().next_back() {
            Some((at, last)) if !is_of_token(last) => piece.split_at(at),
            _ => (piece, ""),
        };
        let word = unsigned(word).unwrap_or_else(|| word.to_owned());
        // Writing to a string does not fail.
        let _ = write!(written, "{word}{after}");
    }
    written
}

const fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// The header and claims of a JWS in compact form, [`REDACTED`] where its signature was; an encrypted
/// JWT (RFC 7516) is nothing but a secret.
fn unsigned(word: &str) -> Option<String> {
    let parts: Vec<&str> = word.split('.').collect();
    let header = parts.first().and_then(|header| BASE64_URL_SAFE_NO_PAD.decode(header).ok())?;
    if header.first() != Some(&b'{') {
        return None;
    }
    match parts.as_slice() {
        [header, claims, _] => Some(format!("{header}.{claims}.{REDACTED}")),
        [_, _, _, _, _] => Some(REDACTED.to_owned()),
        _ => None,
    }
}
