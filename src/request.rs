//! The request that is decided on, free of any protocol.
//!
//! An edge decodes what it was sent into a [`Request`]; every later room reads only this. Nothing
//! here is interpreted yet: the path is as the client sent it (see [`crate::path`] for the
//! canonical form), and header values are bytes, since a client may send any.

use std::collections::HashMap;
use std::net::IpAddr;

/// One HTTP request as the proxy saw it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The proxy's id of the request.
    pub id: String,
    /// The method, case-sensitive.
    pub method: String,
    /// `http` or `https`, as the proxy believes.
    pub scheme: String,
    /// The authority as sent: case, port and trailing dot kept.
    pub host: String,
    /// The request target as sent: path and query, nothing decoded.
    pub target: String,
    /// The header fields, without pseudo headers.
    pub headers: Headers,
    /// Who connected to the proxy.
    pub source: Source,
    /// What the operator attached to the matched Envoy route (`context_extensions`).
    pub extensions: HashMap<String, String>,
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

/// The peer that connected to the proxy.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Its address.
    pub ip: Option<IpAddr>,
    /// The identity in its client certificate, as the proxy verified it (`source.principal`).
    pub principal: Option<String>,
    /// Its client certificate, PEM.
    pub certificate: Option<String>,
}

/// Header fields in the order they arrived, names in lower case, duplicates kept.
///
/// Envoy's plain `headers` map joins duplicates with a comma before we see them; a reader that
/// needs exactly one value must therefore also refuse commas where its value can't hold one.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// Adds a field; the name is folded to lower case.
    pub fn push(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.0.push((name.to_ascii_lowercase(), value.into()));
    }

    /// Every value of `name` (in lower case), in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_slice())
    }

    /// Every field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }
}
