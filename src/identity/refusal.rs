//! Why a caller was not authenticated.
//!
//! The caller learns only the [`Refusal`]; the cause inside is for our log, and carries nothing of
//! the token but its `alg`, `kid`, `typ` and `iss`, shortened and escaped.

use std::fmt;

use super::introspection::AskFault;
use super::jws::Part;
use super::settings::Place;
use crate::json::JsonFault;
use crate::keys::Algorithm;

/// Why there is no principal.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Nothing that is required was presented.
    #[error("no credentials were presented")]
    NoCredentials,
    /// What was presented does not hold.
    #[error("the credential was refused: {0}")]
    BadToken(#[from] BadToken),
    /// The issuer's keys have not been fetched yet, so its tokens can't be judged. Our fault, not
    /// the caller's.
    #[error("the keys of issuer `{issuer}` are not there yet: see /readyz for the cause")]
    KeysUnavailable {
        /// The issuer, as configured.
        issuer: String,
    },
    /// The issuer could not be asked whether its token is active. Our fault, or the issuer's.
    #[error("issuer `{issuer}` could not be asked about its token: {fault}")]
    Unasked {
        /// The issuer, as configured.
        issuer: String,
        /// Why.
        fault: AskFault,
    },
    /// The API keys have not been read yet. Our fault, not the caller's.
    #[error("the API keys are not there yet: see /readyz for the cause")]
    ApiKeysUnavailable,
}

/// What is wrong with a credential; one variant a cause, for the log only.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum BadToken {
    #[error("the {place} is present more than once, or holds a comma")]
    Repeated { place: Place },
    #[error("the {place} is empty")]
    Empty { place: Place },
    #[error("the {place} is not text")]
    NotText { place: Place },
    #[error("the {place} does not begin with a configured prefix")]
    Prefix { place: Place },

    #[error("the token has {bytes} bytes, and {limit} are allowed")]
    TooLong { bytes: usize, limit: usize },
    #[error("the token is not three parts joined by dots")]
    NotCompact,
    #[error("the token's {part} is not canonical base64url")]
    Encoding { part: Part },
    #[error("the token's {part} {fault}")]
    Json { part: Part, fault: JsonFault },

    #[error("the token's `alg` is missing or no string")]
    NoAlgorithm,
    #[error("the token's `alg` is `{alg}`, which is not an asymmetric signature we know")]
    UnknownAlgorithm { alg: Excerpt },
    #[error("the token's `alg` is `{alg}`, which is not accepted of this issuer")]
    AlgorithmNotAccepted { alg: Algorithm },
    #[error("the token's header has `{name}`, which is never accepted")]
    HeaderRefused { name: &'static str },
    #[error("the token's `typ` is no string")]
    TypeNotText,
    #[error("the token's `typ` is `{typ}`, which is not accepted of this issuer")]
    Type { typ: Excerpt },
    #[error("the token has no `typ`, and this issuer's must have one")]
    TypeAbsent,
    #[error("the token's `kid` is no string")]
    KeyIdNotText,

    #[error("the issuer has no key `{kid}`")]
    UnknownKey { kid: Excerpt },
    #[error("the issuer's key `{kid}` is not for `{alg}`")]
    KeyUnfit { kid: Excerpt, alg: Algorithm },
    #[error("the token has no `kid`, and {fitting} of the issuer's keys are for `{alg}`")]
    NoKeyId { alg: Algorithm, fitting: usize },
    #[error("the signature (`{alg}`, key `{kid}`) does not verify")]
    Signature { alg: Algorithm, kid: Excerpt },

    #[error("the token's `iss` is missing or no string")]
    NoIssuer,
    #[error("the token's `iss` is `{iss}`, which is not an issuer of this place")]
    UnknownIssuer { iss: Excerpt },
    #[error("the token is a decision token of ours (`iss` `{iss}`), which is never a credential")]
    OwnToken { iss: Excerpt },
    #[error("the token's `aud` is neither a string nor a list of strings")]
    AudienceMalformed,
    #[error("the token is not for an accepted audience")]
    Audience,
    #[error("the token has no `exp`")]
    NoExpiry,
    #[error("the token's `{claim}` is not a number of seconds between 1970 and 9999")]
    Time { claim: &'static str },
    #[error("the token expired {seconds} s ago")]
    Expired { seconds: u64 },
    #[error("the token is not valid for another {seconds} s (`nbf`)")]
    NotYet { seconds: u64 },
    #[error("the token was issued {seconds} s in the future (`iat`)")]
    IssuedLater { seconds: u64 },
    #[error("the token's subject is missing, empty or no string")]
    Subject,
    #[error("the token's groups are neither a name nor a list of names")]
    Groups,
    #[error("the token is bound to a key (`cnf`) by other means than one certificate thumbprint")]
    Confirmation,
    #[error("the token is bound to a client certificate (`cnf`), which is not the caller's")]
    Certificate,
    #[error("the token's `act` is no object with a `sub`, or one in it is not")]
    Actor,
    #[error("the token's `act` is a chain of more than {limit} actors")]
    ActorChain { limit: usize },
    #[error("the token holds characters that no bearer token has")]
    NotOpaque,
    #[error("the issuer says that the token is not active")]
    Inactive,
    #[error("the issuer says that the token's `iss` is another, or no string")]
    ForeignAnswer,

    #[error("the API key is not one of the known ones")]
    UnknownApiKey,
    #[error("the API key expired {seconds} s ago")]
    ApiKeyExpired { seconds: u64 },

    #[error("the {place} comes from `{from}`, which is not one of the trusted hops")]
    UntrustedHop { place: Place, from: Excerpt },
    #[error("the {place} is not one client certificate as its form wants it")]
    CertificateMalformed { place: Place },
    #[error("the proxy did not send the client certificate: set `include_peer_certificate`")]
    CertificateUnsent,
    #[error("the client certificate has {count} names of the kind that counts, and must have one")]
    CertificateNames { count: usize },
    #[error("the peer's `{id}` is not a spiffe id")]
    PeerMalformed { id: Excerpt },
    #[error("the peer's trust domain `{domain}` is not trusted")]
    PeerForeign { domain: Excerpt },
}

/// The beginning of a caller's text, escaped so that it can stand in a log line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Excerpt(String);

impl Excerpt {
    const CHARS: usize = 64;

    pub(super) fn new(text: &str) -> Self {
        let mut chars = text.chars();
        let mut shown: String =
            chars.by_ref().take(Self::CHARS).flat_map(char::escape_default).collect();
        if chars.next().is_some() {
            shown.push('…');
        }
        Self(shown)
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_can_break_out_of_no_log_line() {
        assert_eq!(Excerpt::new("idp-2026").to_string(), "idp-2026");
        assert_eq!(
            Excerpt::new("a\r\nb\u{1b}[31m\"\u{202e}").to_string(),
            "a\\r\\nb\\u{1b}[31m\\\"\\u{202e}"
        );
        assert_eq!(Excerpt::new(&"k".repeat(64)).to_string(), "k".repeat(64));
        assert_eq!(Excerpt::new(&"k".repeat(65)).to_string(), "k".repeat(64) + "…");
    }
}
