//! Writes a draw as a CheckRequest as Envoy sends it, or as the request that Envoy asks about.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, Metadata, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request, TlsSession,
};
use envoy_types::pb::google::protobuf::Timestamp;
use prost::Message as _;

use crate::Fault;
use crate::crowd;
use crate::draw::Draw;
use crate::plan::{Plan, Protocol};

pub(crate) const HOST: &str = "orders.example.com";

/// The headers that no two requests share, or that go with the draw, are added to these.
const HEADERS: [(&str, &str); 7] = [
    ("accept", "application/json"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "en-GB,en;q=0.9"),
    ("cache-control", "no-cache"),
    ("referer", "https://www.example.com/orders"),
    ("sec-fetch-mode", "cors"),
    ("user-agent", "curl/7.88.1"),
];

/// One call, ready to be sent.
pub(crate) struct Call {
    pub(crate) head: http::Request<()>,
    pub(crate) body: Option<Bytes>,
}

/// Writes the calls of a run.
pub(crate) struct Writer {
    protocol: Protocol,
    method: String,
    path: Option<String>,
    scope: String,
    /// Of a gRPC call.
    head: http::Request<()>,
}

impl Writer {
    pub(crate) fn new(plan: &Plan) -> Result<Self, Fault> {
        let head =
            http::Request::post(format!("http://{HOST}/envoy.service.auth.v3.Authorization/Check"))
                .header("te", "trailers")
                .header("grpc-timeout", "10S")
                .header("content-type", "application/grpc")
                .header("x-envoy-internal", "true")
                .body(())?;
        Ok(Self {
            protocol: plan.protocol,
            method: plan.method.clone(),
            path: plan.path.clone(),
            scope: plan.scope.clone(),
            head,
        })
    }

    pub(crate) fn write(&self, draw: &Draw) -> Result<Call, Fault> {
        let headers = self.headers(draw);
        match self.protocol {
            Protocol::Grpc => {
                let body = framed(&self.check_request(draw, headers))?;
                Ok(Call { head: self.head.clone(), body: Some(body) })
            }
            Protocol::Http => {
                let uri = format!("http://{HOST}{}", self.path(draw));
                let mut head = http::Request::builder().method(self.method.as_str()).uri(uri);
                for (name, value) in headers {
                    head = head.header(name, value);
                }
                Ok(Call { head: head.body(())?, body: None })
            }
        }
    }

    fn path(&self, draw: &Draw) -> String {
        self.path.clone().unwrap_or_else(|| {
            format!("/api/v1/orders/{}?expand=items&limit=10", crowd::order(draw.path))
        })
    }

    fn headers(&self, draw: &Draw) -> HashMap<String, String> {
        let mut headers: HashMap<String, String> =
            HEADERS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut set = |name: &str, value: String| headers.insert(name.to_owned(), value);
        let [a, b, c, _] = draw.noise;
        if let Some(token) = &draw.credential {
            set("authorization", format!("Bearer {token}"));
        }
        set("traceparent", format!("00-{a:016x}{b:016x}-{c:016x}-01"));
        if self.protocol == Protocol::Grpc {
            // What Envoy adds.
            set(":authority", HOST.to_owned());
            set(":method", self.method.clone());
            set(":path", self.path(draw));
            set(":scheme", "http".to_owned());
            set("x-envoy-external-address", source(draw));
            set("x-forwarded-for", source(draw));
            set("x-forwarded-proto", "http".to_owned());
            set("x-request-id", request_id(draw));
        }
        headers
    }

    fn check_request(&self, draw: &Draw, headers: HashMap<String, String>) -> CheckRequest {
        let http = HttpRequest {
            id: draw.noise[3].to_string(),
            method: self.method.clone(),
            headers,
            path: self.path(draw),
            host: HOST.to_owned(),
            scheme: "http".to_owned(),
            protocol: "HTTP/1.1".to_owned(),
            ..HttpRequest::default()
        };
        let time = Timestamp {
            seconds: crowd::now().cast_signed(),
            nanos: (draw.noise[3] % 1_000_000_000) as i32,
        };
        let port = 32_768 + (draw.noise[2] % 28_000) as u32;
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(peer(&source(draw), port)),
                destination: Some(peer("127.0.0.1", 10_000)),
                request: Some(Request { time: Some(time), http: Some(http) }),
                context_extensions: HashMap::from([
                    ("placet.scope".to_owned(), self.scope.clone()),
                    ("virtual_host".to_owned(), "local".to_owned()),
                ]),
                metadata_context: Some(Metadata::default()),
                route_metadata_context: Some(Metadata::default()),
                tls_session: Some(TlsSession::default()),
            }),
        }
    }
}

/// An address for documentation, of 192.0.2.0/24.
fn source(draw: &Draw) -> String {
    format!("192.0.2.{}", draw.noise[1] % 250 + 1)
}

fn request_id(draw: &Draw) -> String {
    let id = format!("{:016x}{:016x}", draw.noise[2], draw.noise[3]);
    let parts = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]];
    parts.join("-")
}

fn peer(address: &str, port: u32) -> Peer {
    let socket = SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    let address = Address { address: Some(AddressKind::SocketAddress(socket)) };
    Peer { address: Some(address), ..Peer::default() }
}

/// `message` as one uncompressed gRPC frame: a zero byte and the length before it.
fn framed(message: &CheckRequest) -> Result<Bytes, Fault> {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(length.try_into()?);
    message.encode(&mut frame)?;
    Ok(frame.freeze())
}
