//! The checked form of a scope's `identity` settings, and what can still be wrong with it.
//!
//! These come from the settings file with their defaults filled in. `fault` names everything in them
//! that could never work, or would let one caller pass for another.

mod fault;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::api_keys::ApiKeySettings;
use super::claims::ClaimPath;
use super::introspection::IntrospectionSettings;
use crate::keys::Algorithm;

pub use self::fault::IdentityError;

/// How a scope tells who asks.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// Which credentials there must be.
    pub require: Require,
    /// Whose tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// Which API keys are.
    pub api_keys: Option<ApiKeySettings>,
    /// Which client certificates are.
    pub peer: Option<PeerSettings>,
    /// Whether a request without any credentials is the anonymous principal.
    pub anonymous: bool,
}

impl IdentitySettings {
    /// Every Cedar entity type that a principal of this scope can have.
    pub fn principal_types(&self) -> impl Iterator<Item = &str> {
        let issuers = self.issuers.iter().map(|issuer| issuer.principal_type.as_str());
        let api_keys = self.api_keys.iter().map(|keys| keys.principal_type.as_str());
        let peers = self.peer.iter().map(|_| "Certificate");
        issuers.chain(api_keys).chain(peers)
    }
}

/// Which credentials there must be. An API key stands for its user as a token does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Require {
    /// A token or API key; a peer is noted when there is a valid one.
    Jwt,
    /// A peer.
    Peer,
    /// A token or API key, and a peer; the principal is the token's or key's.
    Both,
    /// A token or API key, or in its absence a peer.
    Either,
}

/// One issuer of incoming tokens.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// The exact `iss`.
    pub issuer: String,
    /// Of which a token must name one.
    pub audiences: Audiences,
    /// Where its keys are.
    pub keys: KeySourceSettings,
    /// Whether its keys may be fetched over plain http from another machine.
    pub insecure_http: bool,
    /// The certificate authorities to trust when its keys are fetched, PEM; only these. None: the
    /// system's.
    pub ca_file: Option<PathBuf>,
    /// A file with the token to present when its keys are fetched, read anew each time.
    pub token_file: Option<PathBuf>,
    /// The accepted `alg`.
    pub algorithms: Vec<Algorithm>,
    /// The accepted `typ`.
    pub types: Vec<TokenType>,
    /// Where its tokens stand, in the order they are looked for.
    pub from: Vec<Place>,
    /// The claim that names the caller.
    pub subject: ClaimPath,
    /// The claim that lists the caller's groups.
    pub groups: ClaimPath,
    /// The names that further claims have in this scope, and where each is in the issuer's tokens.
    pub claims: Vec<(String, ClaimPath)>,
    /// The Cedar entity type of its callers.
    pub principal_type: String,
    /// What stands before each of its groups.
    pub group_prefix: String,
    /// How far its clock may be off, for `nbf` and `iat`; never for `exp`.
    pub clock_skew: Duration,
}

/// The accepted `aud`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Audiences {
    /// Any, and none at all.
    Any,
    /// One of these.
    OneOf(Vec<String>),
}

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub enum KeySourceSettings {
    /// A JWK set at this address.
    Url(String),
    /// A JWK set in this file.
    File(PathBuf),
    /// Named by the issuer's OpenID configuration.
    Discovery,
    /// Nowhere: its tokens are opaque, and it is asked about them.
    Introspection(Box<IntrospectionSettings>),
}

/// An accepted `typ`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenType {
    /// A token without `typ`.
    Absent,
    /// This one, in lower case and without `application/`.
    Named(String),
}

impl TokenType {
    /// Reads a `types` entry or a token's `typ`: case does not matter, nor does `application/`
    /// (RFC 7515 section 4.1.9).
    pub fn named(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        Self::Named(name.strip_prefix("application/").unwrap_or(&name).to_owned())
    }
}

/// Where a token may stand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// In this header field, behind this prefix (case does not matter in either).
    Header {
        /// The field's name.
        name: String,
        /// What stands before the token, its space included; may be empty.
        prefix: String,
    },
    /// In this cookie.
    Cookie {
        /// The cookie's name, case-sensitive.
        name: String,
    },
    /// In this parameter of the query (RFC 6750 section 2.3).
    Query {
        /// The parameter's name, case-sensitive.
        name: String,
    },
}

impl Place {
    /// The place without its prefix, a header's name in lower case; and the prefix.
    pub(super) fn bare(&self) -> (Self, &str) {
        match self {
            Self::Header { name, prefix } => {
                let (name, bare) = (name.to_ascii_lowercase(), String::new());
                (Self::Header { name, prefix: bare }, prefix)
            }
            Self::Cookie { .. } | Self::Query { .. } => (self.clone(), ""),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, .. } => write!(f, "header `{name}`"),
            Self::Cookie { name } => write!(f, "cookie `{name}`"),
            Self::Query { name } => write!(f, "query parameter `{name}`"),
        }
    }
}

/// Which client certificates are accepted.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// The SPIFFE trust domains, without `spiffe://`; only where the SPIFFE id counts.
    pub trust_domains: Vec<String>,
    /// How the certificate reaches us.
    pub from: CertificateSource,
    /// The addresses whose word is taken for a certificate in a header.
    pub trusted_hops: Vec<IpNet>,
    /// By what in the certificate its holder is known.
    pub subject: PeerSubject,
}

/// How a client certificate reaches us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CertificateSource {
    /// The proxy that asks us has it from its own connection.
    Proxy,
    /// In the header `Client-Cert` of a hop before it (RFC 9440).
    ClientCert,
    /// In the header `x-forwarded-client-cert` of a hop before it.
    Forwarded,
}

/// By what in a certificate its holder is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerSubject {
    /// The SPIFFE id, in a trusted domain.
    SpiffeId,
    /// The only URI among the alternative names.
    UriSan,
    /// The only DNS name among them.
    DnsSan,
    /// The only common name in the subject.
    CommonName,
    /// The SHA-256 of the certificate, in hexadecimal digits.
    Sha256,
}

#[cfg(test)]
mod tests;
