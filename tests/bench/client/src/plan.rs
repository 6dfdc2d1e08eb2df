//! What one run of the client is to do.

use std::path::PathBuf;

use serde::Deserialize;

/// One run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Plan {
    /// `HOST:PORT` or `unix:PATH`.
    pub(crate) address: String,
    pub(crate) protocol: Protocol,
    /// Where `prepare` wrote the crowd.
    pub(crate) crowd: PathBuf,
    /// Named to the server in Envoy's `context_extensions`.
    pub(crate) scope: String,
    pub(crate) method: String,
    /// Asked for by every request; absent: the crowd's own paths.
    pub(crate) path: Option<String>,
    pub(crate) credentials: Credentials,
    pub(crate) expect: Expect,
    pub(crate) connections: usize,
    /// How many requests the fixed set has from which kept credentials are drawn.
    pub(crate) deck: usize,
    pub(crate) amount: Amount,
}

/// What is spoken at the address.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Protocol {
    /// ext_authz itself.
    Grpc,
    /// What a client of Envoy speaks; Envoy sends the token back in a header.
    Http,
}

/// What the requests present.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Credentials {
    /// Requests are drawn from a fixed set, all of which the server has seen.
    Kept,
    /// Every request has a token nobody has seen.
    Fresh,
    /// Nothing is presented.
    None,
}

/// How every answer must be.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Expect {
    /// An allow, of whatever form.
    Allow,
    /// A denial.
    Deny,
    /// An allow with a token that fits the request.
    Token {
        /// The header that carries it.
        header: String,
        /// The keys that verify it: a JWKS.
        jwks: PathBuf,
    },
}

/// How much is sent, and when.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Amount {
    /// So many requests, with so many in flight on each connection.
    Requests { requests: usize, streams: usize },
    /// For so many seconds, with so many in flight on each connection.
    Seconds { seconds: u64, streams: usize },
    /// So many, at so many a second on a fixed schedule, whatever the server does.
    Rate { requests: usize, rate: u64 },
}
