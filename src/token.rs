//! The decision token: a compact JWS that says who may do what.
//!
//! [`Minter::mint`] takes a [`Permit`], so it can only speak of what policy permitted. It fails,
//! and the request with it, when there is no key, when signing fails, or when the token would be
//! too long to travel in a header; a token is never sent unsigned or cut.

mod claims;
mod template;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Map, Value};

pub use claims::{ClaimSettings, Items, NEVER_CARRIED};
pub use template::{Template, TemplateError};

use crate::clock::Timestamp;
use crate::identity::BadToken;
use crate::keys::{KeyRing, Keys, SignError};
use crate::policy::{NoAttribute, Permit, Policy};
use crate::route::Target;

/// A longer token is a fault: proxies and servers bound the size of a header.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Claims that are no longer take one allocation.
const USUAL_BYTES: usize = 1_024;

/// Mints the tokens of one scope with its current key.
#[derive(Debug)]
pub struct Minter {
    settings: ClaimSettings,
    /// The claims that are the same in all tokens, as JSON.
    opening: Box<[u8]>,
    keys: Keys,
}

impl Minter {
    /// A minter that signs with whichever key `keys` holds at the moment.
    pub fn new(settings: ClaimSettings, keys: Keys) -> Self {
        let opening = settings.opening().into();
        Self { settings, opening, keys }
    }

    /// What the decision claim lists.
    pub fn items(&self) -> Items {
        self.settings.items
    }

    /// How long its tokens live, in seconds.
    pub fn lifetime(&self) -> u64 {
        self.settings.lifetime
    }

    /// The scope's keys, once one is loaded.
    pub fn ring(&self) -> Option<Arc<KeyRing>> {
        self.keys.ring()
    }

    /// Whether the scope has a key, or had some before every one was withdrawn.
    pub fn had_keys(&self) -> bool {
        self.keys.had_keys()
    }

    /// Mints the token that says `permit`, with a list of `items`, bound to `request` if there is one. It awaits a key that
    /// signs in its store, and nothing else.
    pub async fn mint(
        &self,
        permit: &Permit,
        items: &Listed<'_>,
        request: Option<&Binding<'_>>,
        channel: Channel,
        now: Timestamp,
        id: &DecisionId,
    ) -> Result<Token, MintError> {
        let ring = self.keys.ring().ok_or(MintError::NoKey)?;
        let key = ring.signer().ok_or(MintError::Stale)?;
        let mut claims = Vec::with_capacity(USUAL_BYTES);
        claims.extend_from_slice(&self.opening);
        let expires = self.settings.write(&mut claims, permit, items, request, now, id)?;
        let mut jws = String::with_capacity(claims.len() * 2);
        jws.push_str(match channel {
            Channel::Proxy => key.jws_header(),
            Channel::Api => key.api_jws_header(),
        });
        jws.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut jws);
        let signature = key.sign(jws.as_bytes()).await?;
        jws.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut jws);
        if jws.len() > MAX_TOKEN_BYTES {
            return Err(MintError::TooLong(jws.len()));
        }
        let (id, key_id) = (id.0.clone(), key.kid().to_owned());
        Ok(Token { jws, id, key_id, issued: now, expires })
    }
}

/// What a token lists.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The items.
    pub targets: &'a [&'a Target],
    /// Knows the attributes of their assets.
    pub assets: &'a Policy,
}

/// The request a token is bound to (claims `htm` and `htu`, as in RFC 9449 section 4.2).
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// Scheme, authority and canonical path; without the query.
    pub uri: &'a str,
}

/// A signed token.
#[derive(Clone)]
pub struct Token {
    jws: String,
    id: String,
    key_id: String,
    issued: Timestamp,
    expires: Timestamp,
}

impl Token {
    /// The compact serialisation, for the header.
    pub fn as_str(&self) -> &str {
        &self.jws
    }

    /// What it says, for tools that explain it.
    pub fn claims(&self) -> Map<String, Value> {
        let payload = self.jws.split('.').nth(1).and_then(|part| {
            let json = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice(&json).ok()
        });
        payload.unwrap_or_default()
    }

    /// Its `jti`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When it was issued and when it expires.
    pub const fn validity(&self) -> (Timestamp, Timestamp) {
        (self.issued, self.expires)
    }

    /// The `kid` it was signed under.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }
}

/// A token is a credential: only its ids are shown.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("key_id", &self.key_id).finish()
    }
}

/// For whom a token is made. The two kinds differ in `typ`, so that what an application got by asking
/// can't pass for what the proxy forwards (RFC 8725 section 3.11).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Channel {
    /// Envoy over gRPC: the token travels upstream with its request. `typ` is the scope's.
    Proxy,
    /// Anyone else who asks: `typ` is `pdp-decision+jwt`.
    Api,
}

/// A decision's unique id, which is also its token's (`jti`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DecisionId(String);

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl DecisionId {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// 128 random bits.
    pub fn random() -> Result<Self, MintError> {
        let mut bytes = [0_u8; 16];
        rand::fill(&mut bytes).map_err(|_| MintError::Random)?;
        Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }
}

/// Why no token could be minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The scope's key has not been loaded.
    #[error("there is no signing key yet: see /readyz for what its secret store says")]
    NoKey,
    /// The key's store has been away for longer than `maxKeyAge`.
    #[error("the key's secret store has been away for longer than maxKeyAge: see /readyz")]
    Stale,
    /// The key refused.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The incoming token ends in this very second.
    #[error("the incoming token expires within this second")]
    Expired,
    /// The token is too long for a header.
    #[error("the token would be {0} bytes long, more than 8192: carry over fewer claims or items")]
    TooLong(usize),
    /// There are more items than the scope allows.
    #[error("the token would list {count} items, more than jwtCustomization.maxItems ({limit})")]
    TooManyItems {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The template names what an item's asset lacks.
    #[error(transparent)]
    Attribute(#[from] NoAttribute),
    /// The incoming token's chain of actors is malformed.
    #[error("the token can't say who acts: {0}")]
    Actor(BadToken),
    /// The claims are no JSON.
    #[error("the claims can't be written as JSON: {0}")]
    Claims(serde_json::Error),
    /// The system has no randomness.
    #[error("the system's random number generator failed")]
    Random,
}

#[cfg(test)]
mod tests;
