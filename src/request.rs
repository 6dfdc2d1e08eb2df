//! The request that is decided on, free of any protocol.
//!
//! An edge decodes what it was sent into a [`Request`]; every later room reads only this. Nothing
//! here is interpreted yet: the path is as the client sent it (see [`crate::path`] for the
//! canonical form), and header values are bytes, since a client may send any.

mod asked;
mod body;
mod headers;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use serde_json::{Map, Value};

pub use asked::{AddressRead, Asked, Reads};
pub use body::{
    Body, BodyFault, Content, Descriptors, DescriptorsError, Fields, GrpcFault, MultipartFault,
};
pub use headers::Headers;

use crate::clock::Timestamp;

/// One HTTP request as the proxy saw it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The proxy's id of the request.
    pub id: String,
    /// The method, case-sensitive.
    pub method: String,
    /// `http` or `https`, as the proxy believes.
    pub scheme: String,
    /// Whom the request is addressed to.
    pub host: Host,
    /// The request target as sent: path and query, nothing decoded.
    pub target: String,
    /// The header fields, without pseudo headers.
    pub headers: Headers,
    /// The body, as far as the proxy sent it.
    pub body: Body,
    /// Whether the body came as text, in which the proxy writes `!` for every byte that is no UTF-8.
    pub is_text_body: bool,
    /// How long the body says it is, in bytes.
    pub size: Option<u64>,
    /// The protocol, such as `HTTP/2`.
    pub protocol: String,
    /// When the proxy received the first byte.
    pub time: Option<Timestamp>,
    /// Who connected to the proxy.
    pub source: Source,
    /// Where the connection arrived: the proxy's own side of it.
    pub destination: Source,
    /// The server name of the TLS handshake.
    pub server_name: Option<String>,
    /// What the operator attached to the matched Envoy route (`context_extensions`).
    pub extensions: HashMap<String, String>,
    /// What earlier filters of the proxy noted, by namespace, as far as it is told to send it.
    pub metadata: Map<String, Value>,
    /// What the matched route notes, by namespace.
    pub route_metadata: Map<String, Value>,
}

impl Request {
    /// The target up to the first `?`, still as sent.
    pub fn raw_path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    /// The target after the first `?`, still as sent; empty when there is none.
    pub fn raw_query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
}

/// An authority: a host name in one form (lower case, no trailing dot), and a port.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

impl Host {
    /// Reads an authority. User information, an empty name or any character that no host name holds
    /// is refused; an empty text is the empty host, which is in no scope's list.
    pub fn parse(text: &str) -> Result<Self, BadHost> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bad = || BadHost(text.escape_debug().take(80).collect());
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, Some(port)),
            _ => (text, None),
        };
        let port = match port {
            Some(port) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(port.parse().map_err(|_| bad())?)
            }
            Some(_) => return Err(bad()),
            None => None,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let is_valid = match literal {
            Some(literal) => literal.parse::<Ipv6Addr>().is_ok(),
            None => name.split('.').all(is_label),
        };
        if is_valid { Ok(Self { name, port }) } else { Err(bad()) }
    }

    /// The name: lower case, without port and trailing dot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name, and the port where it is not the scheme's own.
    pub fn authority(&self, scheme: &str) -> String {
        match (self.port, scheme) {
            (None, _) | (Some(80), "http") | (Some(443), "https") => self.name.clone(),
            (Some(port), _) => format!("{}:{port}", self.name),
        }
    }
}

/// A text that is no host.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a host name with an optional port")]
pub struct BadHost(String);

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// One end of the connection to the proxy.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Its address.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: Option<u16>,
    /// The identity in its client certificate, as the proxy verified it (`source.principal`).
    pub principal: Option<String>,
    /// Its client certificate, PEM.
    pub certificate: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_form() {
        for (text, name, authority) in [
            ("A.Example.com", "a.example.com", "a.example.com"),
            ("a.example.com.", "a.example.com", "a.example.com"),
            ("a.example.com:80", "a.example.com", "a.example.com"),
            ("a.example.com.:8080", "a.example.com", "a.example.com:8080"),
            ("[::1]:8080", "[::1]", "[::1]:8080"),
            ("[2001:DB8::1]", "[2001:db8::1]", "[2001:db8::1]"),
            ("", "", ""),
        ] {
            let host = Host::parse(text).unwrap();
            assert_eq!((host.name(), host.authority("http").as_str()), (name, authority), "{text}");
        }
        assert_eq!(Host::parse("a:443").unwrap().authority("https"), "a");
        assert_eq!(Host::parse("a:443").unwrap().authority("http"), "a:443");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            ".", "a..b", "a..", ":80", "user@a", "a:b", "a:", "a:99999", "a b", "a/b", "a,b",
            "[::1", "[x]", "::1", "a:1:2", "é", "a\0", "*.a", "a%2eb",
        ] {
            assert!(Host::parse(text).is_err(), "{text:?}");
        }
    }
}
