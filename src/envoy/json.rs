//! A captured `CheckRequest` from a file: protobuf bytes, or the JSON of its proto form.
//!
//! For the command line only; field names may be in snake case, as Envoy's tools print them, or in
//! camel case (proto3 JSON).

use std::collections::HashMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{self as core, address};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, attribute_context as context};
use envoy_types::pb::google::protobuf::Timestamp;
use prost::Message;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::decode::{self, BadRequest};
use super::encode::structure;
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

/// Reads the content of a file: JSON if it begins with `{`, one object or several after each other; else
/// one message in protobuf.
pub fn read(bytes: &[u8]) -> Result<Vec<Captured>, CaptureError> {
    let captured = |check: CheckRequest| {
        let request = decode::from_proto(&check)?;
        Ok(Captured { time: request.time, request })
    };
    read_messages(bytes)?.into_iter().map(captured).collect()
}

/// The messages in a file, as [`read`] reads them.
pub fn read_messages(bytes: &[u8]) -> Result<Vec<CheckRequest>, CaptureError> {
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        let checks = serde_json::Deserializer::from_slice(bytes).into_iter::<Check>();
        return Ok(checks.map(|check| check.map(Into::into)).collect::<Result<_, _>>()?);
    }
    Ok(vec![CheckRequest::decode(bytes).map_err(BadRequest::from)?])
}

#[derive(Deserialize)]
struct Check {
    attributes: Attributes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Attributes {
    source: Source,
    destination: Source,
    request: RequestPart,
    #[serde(alias = "contextExtensions")]
    context_extensions: HashMap<String, String>,
    #[serde(alias = "metadataContext")]
    metadata_context: Metadata,
    #[serde(alias = "routeMetadataContext")]
    route_metadata_context: Metadata,
    #[serde(alias = "tlsSession")]
    tls_session: TlsSession,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(alias = "filterMetadata")]
    filter_metadata: HashMap<String, Map<String, Value>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TlsSession {
    sni: String,
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

#[derive(Default, Deserialize)]
#[serde(default)]
struct SocketAddress {
    address: String,
    #[serde(alias = "portValue")]
    port_value: Option<u32>,
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
    protocol: String,
    /// A number, or as proto3 JSON has it a text.
    size: Value,
    body: String,
    #[serde(alias = "rawBody")]
    raw_body: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
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
        let Attributes { source, destination, request, context_extensions, .. } = check.attributes;
        let time = request.time.as_deref().and_then(timestamp);
        let request = context::Request { time, http: request.http.map(Into::into) };
        let sni = check.attributes.tls_session.sni;
        let attributes = AttributeContext {
            source: Some(source.into()),
            destination: Some(destination.into()),
            request: Some(request),
            context_extensions,
            metadata_context: Some(check.attributes.metadata_context.into()),
            route_metadata_context: Some(check.attributes.route_metadata_context.into()),
            tls_session: Some(context::TlsSession { sni }),
        };
        Self { attributes: Some(attributes) }
    }
}

impl From<Source> for context::Peer {
    fn from(source: Source) -> Self {
        let address = source.address.socket_address.map(|socket| core::Address {
            address: Some(address::Address::SocketAddress(core::SocketAddress {
                address: socket.address,
                port_specifier: socket.port_value.map(PortSpecifier::PortValue),
                ..core::SocketAddress::default()
            })),
        });
        Self {
            address,
            principal: source.principal,
            certificate: source.certificate,
            ..Self::default()
        }
    }
}

impl From<Metadata> for core::Metadata {
    fn from(metadata: Metadata) -> Self {
        let fields = metadata.filter_metadata.iter();
        let fields = fields.map(|(namespace, fields)| (namespace.clone(), structure(fields)));
        Self { filter_metadata: fields.collect(), ..Self::default() }
    }
}

fn timestamp(text: &str) -> Option<Timestamp> {
    let time =
        time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    let nanos = i32::try_from(time.nanosecond()).ok()?;
    Some(Timestamp { seconds: time.unix_timestamp(), nanos })
}

impl From<Http> for context::HttpRequest {
    fn from(http: Http) -> Self {
        let header_map = http.header_map.map(|map| core::HeaderMap {
            headers: map.headers.into_iter().map(Into::into).collect(),
        });
        let size = http.size.as_i64().or_else(|| http.size.as_str()?.parse().ok());
        Self {
            id: http.id,
            method: http.method,
            headers: http.headers,
            header_map,
            path: http.path,
            host: http.host,
            scheme: http.scheme,
            protocol: http.protocol,
            size: size.unwrap_or_default(),
            body: http.body,
            // What is no base64 stays empty, as a body that was not sent.
            raw_body: BASE64_STANDARD.decode(&http.raw_body).unwrap_or_default(),
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
