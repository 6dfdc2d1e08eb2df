//! `CheckRequest` (envoy/service/auth/v3/attribute_context.proto) to [`Request`].
//!
//! Envoy sends headers either in the map `headers` or, with `encode_raw_headers`, in `header_map`;
//! both are read. What can't be decoded is a [`BadRequest`], which is a denial.

use std::collections::HashMap;
use std::net::IpAddr;

use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, Metadata, address};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::Peer;
use envoy_types::pb::google::protobuf as pb;
use envoy_types::pb::google::protobuf::value::Kind;
use percent_encoding::percent_decode_str;
use prost::Message;
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::request::{BadHost, Body, Headers, Host, Request, Source};

/// Set by Envoy (`with_request_body`), in place of any that a client sends.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// Why a message is no request.
#[derive(Debug, thiserror::Error)]
pub enum BadRequest {
    /// Not the protobuf message it should be; a text that is not UTF-8 is a case of it.
    #[error("the message is no CheckRequest: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// `attributes.request.http` is missing.
    #[error("the CheckRequest has no `attributes.request.http`")]
    NoHttp,
    /// The method is not a token (RFC 9110 section 9.1).
    #[error("the CheckRequest has no valid HTTP method")]
    Method,
    /// The scheme is neither `http` nor `https`.
    #[error("the CheckRequest has a scheme other than http and https")]
    Scheme,
    /// More than one host.
    #[error("the call names more than one host")]
    Hosts,
    /// The host is none.
    #[error("the host can't be read: {0}")]
    Host(#[from] BadHost),
}

/// Decodes a serialised `CheckRequest`.
pub fn request(message: Bytes) -> Result<Request, BadRequest> {
    from_proto(CheckRequest::decode(message)?)
}

/// Takes a decoded `CheckRequest` over.
pub fn from_proto(check: CheckRequest) -> Result<Request, BadRequest> {
    let attributes = check.attributes.ok_or(BadRequest::NoHttp)?;
    let request = attributes.request.ok_or(BadRequest::NoHttp)?;
    let time = request.time.and_then(timestamp);
    let http = request.http.ok_or(BadRequest::NoHttp)?;
    if http::Method::from_bytes(http.method.as_bytes()).is_err() {
        return Err(BadRequest::Method);
    }
    let scheme = match http.scheme.to_ascii_lowercase().as_str() {
        "" | "http" => "http",
        "https" => "https",
        _ => return Err(BadRequest::Scheme),
    };
    let host = Host::parse(&http.host)?;
    let headers = headers(http.header_map, http.headers);
    let id = request_id(&headers, http.id);
    let is_text_body = http.raw_body.is_empty();
    let bytes = if is_text_body { http.body.into_bytes() } else { http.raw_body };
    let body = body(bytes.into(), http.size, &headers);
    Ok(Request {
        id,
        method: http.method,
        scheme: scheme.to_owned(),
        host,
        target: http.path,
        headers,
        body,
        is_text_body,
        size: u64::try_from(http.size).ok(),
        protocol: http.protocol,
        time,
        source: attributes.source.map(end).unwrap_or_default(),
        destination: attributes.destination.map(end).unwrap_or_default(),
        server_name: attributes.tls_session.and_then(|session| some(session.sni)),
        extensions: attributes.context_extensions,
        metadata: attributes.metadata_context.map(metadata).unwrap_or_default(),
        route_metadata: attributes.route_metadata_context.map(metadata).unwrap_or_default(),
    })
}

fn headers(raw: Option<HeaderMap>, joined: HashMap<String, String>) -> Headers {
    let mut headers = Headers::default();
    let raw = raw.map(|map| map.headers).unwrap_or_default();
    for field in raw {
        if !field.key.starts_with(':') {
            let value =
                if field.raw_value.is_empty() { field.value.into() } else { field.raw_value };
            headers.push(&field.key, value);
        }
    }
    for (name, value) in joined {
        if !name.starts_with(':') {
            headers.push(&name, value);
        }
    }
    headers
}

/// Envoy tells in a header of its own whether it cut the body off, and in `size` how long the body
/// says it is; with either in doubt, what came is only a part.
pub(super) fn body(bytes: Bytes, size: i64, headers: &Headers) -> Body {
    if bytes.is_empty() {
        return Body::Unsent;
    }
    let is_marked_whole = headers.all(PARTIAL_BODY).eq([b"false"]);
    let is_declared = u64::try_from(size).is_ok_and(|size| size == bytes.len() as u64);
    let is_unmarked = headers.all(PARTIAL_BODY).next().is_none();
    if (is_marked_whole && (size < 0 || is_declared)) || (is_unmarked && is_declared) {
        Body::Whole(bytes)
    } else {
        Body::Partial(bytes)
    }
}

pub(super) fn request_id(headers: &Headers, id: String) -> String {
    let sent = headers.all("x-request-id").next().and_then(|value| str::from_utf8(value).ok());
    sent.map_or(id, str::to_owned)
}

fn end(peer: Peer) -> Source {
    let socket = peer.address.and_then(|address| match address.address? {
        address::Address::SocketAddress(socket) => Some(socket),
        _ => None,
    });
    let port = socket.as_ref().and_then(|socket| match socket.port_specifier.as_ref()? {
        PortSpecifier::PortValue(port) => u16::try_from(*port).ok(),
        PortSpecifier::NamedPort(_) => None,
    });
    Source {
        ip: socket.and_then(|socket| socket.address.parse::<IpAddr>().ok()),
        port,
        principal: some(peer.principal),
        certificate: some(peer.certificate)
            .map(|pem| percent_decode_str(&pem).decode_utf8_lossy().into_owned()),
    }
}

fn timestamp(time: pb::Timestamp) -> Option<Timestamp> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let millis = u64::try_from(time.nanos).ok()? / 1_000_000;
    Some(Timestamp::from_millis(seconds.checked_mul(1_000)?.checked_add(millis)?))
}

fn metadata(metadata: Metadata) -> Map<String, Value> {
    let fields = metadata.filter_metadata.into_iter();
    fields.map(|(namespace, fields)| (namespace, object(fields))).collect()
}

fn object(fields: pb::Struct) -> Value {
    Value::Object(fields.fields.into_iter().map(|(name, value)| (name, json(value))).collect())
}

/// A protobuf value to the JSON it stands for. Its depth is bounded by the decoder's.
fn json(value: pb::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::NumberValue(number)) => whole(number).map_or(number.into(), Value::from),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(json).collect()),
        Some(Kind::StructValue(fields)) => object(fields),
    }
}

/// Protobuf knows doubles only; a whole number is to look like one, as in Envoy's own JSON.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let is_whole = number.trunc() == number && number.abs() <= EXACT;
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within 53 bits")]
    is_whole.then_some(number as i64)
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;
