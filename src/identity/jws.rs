//! A token taken apart: strict compact JWS (RFC 7515 section 3.1), nothing believed yet.
//!
//! What tells a verifier where to find the key, or how to read the token differently, is refused
//! outright, so that no option of the token's own steers us (RFC 8725 sections 3.1 and 3.10).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::refusal::{BadToken, Excerpt};
use super::settings::TokenType;
use crate::json;
use crate::keys::Algorithm;

/// The longest token looked at, in bytes.
pub(super) const TOKEN_LIMIT: usize = 16 * 1024;

/// Never accepted in a header: extensions we don't have, and keys the token brings along.
const REFUSED: [&str; 6] = ["crit", "b64", "jku", "x5u", "jwk", "x5c"];

/// A token's three parts, decoded; what the header says is not interpreted.
#[derive(Debug)]
pub(crate) struct Compact<'a> {
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
    /// What the signature is over.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// Takes `token` apart.
    pub(crate) fn parse(token: &'a str) -> Result<Self, BadToken> {
        Self::parse_within(token, TOKEN_LIMIT)
    }

    /// Takes `token` apart, if it has no more than `limit` bytes.
    pub(crate) fn parse_within(token: &'a str, limit: usize) -> Result<Self, BadToken> {
        if token.len() > limit {
            return Err(BadToken::TooLong { bytes: token.len(), limit });
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(BadToken::NotCompact)?;
        let (header, payload) = signed.split_once('.').ok_or(BadToken::NotCompact)?;
        if payload.contains('.') {
            return Err(BadToken::NotCompact);
        }
        Ok(Self {
            header: object(Part::Header, header)?,
            claims: object(Part::Payload, payload)?,
            signed,
            signature: decode(Part::Signature, signature)?,
        })
    }
}

/// A token, decoded and unverified.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    pub(super) header: Header,
    pub(super) claims: Map<String, Value>,
    /// What the signature is over.
    pub(super) signed: &'a str,
    pub(super) signature: Vec<u8>,
}

/// The header members that matter.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) typ: TokenType,
}

/// A part of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// The first: algorithm, key id and type.
    Header,
    /// The second: the claims.
    Payload,
    /// The third.
    Signature,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

impl<'a> Jws<'a> {
    /// Takes `token` apart.
    pub(super) fn parse(token: &'a str) -> Result<Self, BadToken> {
        let Compact { header, claims, signed, signature } = Compact::parse(token)?;
        Ok(Self { header: Header::read(&header)?, claims, signed, signature })
    }
}

/// The issuer that `token` names, if it looks like a JWT and names one; nothing is believed.
pub(super) fn named_issuer(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    match object(Part::Payload, payload).ok()?.remove("iss")? {
        Value::String(issuer) => Some(issuer),
        _ => None,
    }
}

impl Header {
    fn read(members: &Map<String, Value>) -> Result<Self, BadToken> {
        if let Some(name) = REFUSED.into_iter().find(|name| members.contains_key(*name)) {
            return Err(BadToken::HeaderRefused { name });
        }
        let alg = members.get("alg").and_then(Value::as_str).ok_or(BadToken::NoAlgorithm)?;
        let algorithm =
            alg.parse().map_err(|_| BadToken::UnknownAlgorithm { alg: Excerpt::new(alg) })?;
        let kid = match members.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(BadToken::KeyIdNotText),
        };
        let typ = match members.get("typ") {
            None => TokenType::Absent,
            Some(Value::String(typ)) => TokenType::named(typ),
            Some(_) => return Err(BadToken::TypeNotText),
        };
        Ok(Self { algorithm, kid, typ })
    }
}

fn object(part: Part, text: &str) -> Result<Map<String, Value>, BadToken> {
    json::object(&decode(part, text)?).map_err(|fault| BadToken::Json { part, fault })
}

/// Decodes base64url without padding, in its one canonical form: trailing bits must be zero.
fn decode(part: Part, text: &str) -> Result<Vec<u8>, BadToken> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| BadToken::Encoding { part })
}
