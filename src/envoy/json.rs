//! A captured `CheckRequest` from a file: protobuf bytes, or the JSON of its proto form.
//!
//! For the command line only; field names may be in snake case, as Envoy's tools print them, or in
//! camel case (proto3 JSON).

use std::collections::HashMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::config::core::v3::{self as core, address};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, attribute_context as context};
use envoy_types::pb::google::protobuf::Timestamp;
use prost::Message;
use serde::Deserialize;

use super::decode::{self, BadRequest};
use crate::request::Request;

/// A captured request.
#[derive(Debug)]
pub struct Captured {
    /// The request.
    pub request: Request,
    /// When Envoy received it (`attributes.request.time`).
    pub time: Option<crate::clock::Timestamp>,
}

/// Why a file holds no captured request.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Neither valid JSON of the right shape, nor protobuf.
    #[error("it is not the JSON of a CheckRequest: {0}")]
    Json(#[from] serde_json::Error),
    /// Readable, but no request.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
}

/// Reads the content of a file: JSON if it begins with `{`, else protobuf.
pub fn read(bytes: &[u8]) -> Result<Captured, CaptureError> {
    let check = if bytes.trim_ascii_start().first() == Some(&b'{') {
        serde_json::from_slice::<Check>(bytes)?.into()
    } else {
        CheckRequest::decode(bytes).map_err(BadRequest::from)?
    };
    let time = check
        .attributes
        .as_ref()
        .and_then(|attributes| attributes.request.as_ref()?.time)
        .and_then(|time| u64::try_from(time.seconds).ok())
        .map(crate::clock::Timestamp::from_seconds);
    Ok(Captured { request: decode::from_proto(check)?, time })
}

#[derive(Deserialize)]
struct Check {
    attributes: Attributes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Attributes {
    source: Source,
    request: RequestPart,
    #[serde(alias = "contextExtensions")]
    context_extensions: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    address: Address,
    principal: String,
    certificate: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(alias = "socketAddress")]
    socket_address: Option<SocketAddress>,
}

#[derive(Deserialize)]
struct SocketAddress {
    address: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RequestPart {
    time: Option<String>,
    http: Option<Http>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Http {
    id: String,
    method: String,
    headers: HashMap<String, String>,
    #[serde(alias = "headerMap")]
    header_map: Option<HeaderMap>,
    path: String,
    host: String,
    scheme: String,
}

#[derive(Deserialize)]
struct HeaderMap {
    headers: Vec<Header>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Header {
    key: String,
    value: String,
    #[serde(alias = "rawValue")]
    raw_value: String,
}

impl From<Check> for CheckRequest {
    fn from(check: Check) -> Self {
        let Attributes { source, request, context_extensions } = check.attributes;
        let source_address = source.address.socket_address.map(|socket| core::Address {
            address: Some(address::Address::SocketAddress(core::SocketAddress {
                address: socket.address,
                ..core::SocketAddress::default()
            })),
        });
        let source = context::Peer {
            address: source_address,
            principal: source.principal,
            certificate: source.certificate,
            ..context::Peer::default()
        };
        let time = request.time.as_deref().and_then(timestamp);
        let request = context::Request { time, http: request.http.map(Into::into) };
        let attributes = AttributeContext {
            source: Some(source),
            request: Some(request),
            context_extensions,
            ..AttributeContext::default()
        };
        Self { attributes: Some(attributes) }
    }
}

fn timestamp(text: &str) -> Option<Timestamp> {
    let time =
        time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    Some(Timestamp { seconds: time.unix_timestamp(), nanos: 0 })
}

impl From<Http> for context::HttpRequest {
    fn from(http: Http) -> Self {
        let header_map = http.header_map.map(|map| core::HeaderMap {
            headers: map.headers.into_iter().map(Into::into).collect(),
        });
        Self {
            id: http.id,
            method: http.method,
            headers: http.headers,
            header_map,
            path: http.path,
            host: http.host,
            scheme: http.scheme,
            ..Self::default()
        }
    }
}

impl From<Header> for core::HeaderValue {
    fn from(header: Header) -> Self {
        // What is no base64 stays empty, and a header without value is read from `value`.
        let raw_value = BASE64_STANDARD.decode(&header.raw_value).unwrap_or_default();
        Self { key: header.key, value: header.value, raw_value }
    }
}
