//! `CheckRequest` (envoy/service/auth/v3/attribute_context.proto) to [`Request`].
//!
//! Envoy sends headers either in the map `headers` or, with `encode_raw_headers`, in `header_map`;
//! both are read. What can't be decoded is a [`BadRequest`], which is a denial.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf as pb;
use envoy_types::pb::google::protobuf::value::Kind;
use percent_encoding::percent_decode_str;
use prost::Message;
use serde_json::{Map, Value};

use super::view::{Peer, View};
use crate::clock::Timestamp;
use crate::request::{BadHost, Body, Headers, Host, Request, Source};

/// Set by Envoy (`with_request_body`), in place of any that a client sends.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// The proxy's id of a request, in place of that in its message.
pub(super) const REQUEST_ID: &str = "x-request-id";

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
pub fn request(message: &[u8]) -> Result<Request, BadRequest> {
    match View::of(message) {
        Some(view) => view.request(),
        None => from_proto(&CheckRequest::decode(message)?),
    }
}

/// Reads a decoded `CheckRequest`.
pub fn from_proto(check: &CheckRequest) -> Result<Request, BadRequest> {
    View::over(check).ok_or(BadRequest::NoHttp)?.request()
}

impl View<'_> {
    /// The request it shows.
    pub(super) fn request(&self) -> Result<Request, BadRequest> {
        if http::Method::from_bytes(self.method.as_bytes()).is_err() {
            return Err(BadRequest::Method);
        }
        let scheme = match self.scheme.to_ascii_lowercase().as_str() {
            "" | "http" => "http",
            "https" => "https",
            _ => return Err(BadRequest::Scheme),
        };
        let lengths = self.headers.iter().map(|(name, value)| (name.len(), value.len()));
        let (names, values) = lengths.fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
        let mut headers = Headers::with_capacity(self.headers.len(), names, values);
        for (name, value) in &self.headers {
            // Names are text in every message that is read.
            headers.push(&String::from_utf8_lossy(name), value);
        }
        let metadata = |metadata: &Option<Cow<'_, Metadata>>| {
            metadata.as_deref().map(metadata_fields).unwrap_or_default()
        };
        let extensions = self.extensions.iter();
        Ok(Request {
            id: request_id(&headers, self.id),
            method: self.method.to_owned(),
            scheme: scheme.to_owned(),
            host: Host::parse(self.host)?,
            target: self.path.to_owned(),
            body: body(Bytes::copy_from_slice(self.body), self.size, &headers),
            is_text_body: self.is_text_body,
            headers,
            size: u64::try_from(self.size).ok(),
            protocol: self.protocol.to_owned(),
            time: self.time.and_then(timestamp),
            source: end(&self.source),
            destination: end(&self.destination),
            server_name: some(self.server_name),
            extensions: extensions.map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            metadata: metadata(&self.metadata),
            route_metadata: metadata(&self.route_metadata),
        })
    }
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

pub(super) fn request_id(headers: &Headers, id: &str) -> String {
    let sent = headers.all(REQUEST_ID).next().and_then(|value| str::from_utf8(value).ok());
    sent.unwrap_or(id).to_owned()
}

fn end(peer: &Peer<'_>) -> Source {
    Source {
        ip: peer.address.and_then(|address| address.parse::<IpAddr>().ok()),
        port: peer.port.and_then(|port| u16::try_from(port).ok()),
        principal: some(peer.principal),
        certificate: some(peer.certificate)
            .map(|pem| percent_decode_str(&pem).decode_utf8_lossy().into_owned()),
    }
}

fn timestamp((seconds, nanos): (i64, i32)) -> Option<Timestamp> {
    let seconds = u64::try_from(seconds).ok()?;
    let millis = u64::try_from(nanos).ok()? / 1_000_000;
    Some(Timestamp::from_millis(seconds.checked_mul(1_000)?.checked_add(millis)?))
}

fn metadata_fields(metadata: &Metadata) -> Map<String, Value> {
    let fields = metadata.filter_metadata.iter();
    fields.map(|(namespace, fields)| (namespace.clone(), object(fields))).collect()
}

fn object(fields: &pb::Struct) -> Value {
    Value::Object(fields.fields.iter().map(|(name, value)| (name.clone(), json(value))).collect())
}

/// A protobuf value to the JSON it stands for. Its depth is bounded by the decoder's.
fn json(value: &pb::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::NumberValue(number)) => whole(*number).map_or((*number).into(), Value::from),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(json).collect()),
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

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
