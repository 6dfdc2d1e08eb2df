//! Scopes without a network: for `placet check` and `placet test`.
//!
//! Decisions are made by the same code on the same settings. Only the keys differ: tokens are signed
//! with a throw-away key that nobody trusts, issuers that publish their keys at an address are known
//! by the keys that the caller brings, or not at all, and none is asked about an opaque token.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::generation::{Credentials, compile};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::identity::jwks::IssuerKeys;
use crate::identity::{IssuerSettings, KeySet, KeySourceSettings, Proof};
use crate::keys::{KeyRing, Keys, SigningKey};
use crate::scope::Scopes;
use crate::secrets::Kept;
use crate::shadow::Shadow;

/// Compiled scopes that need no store and no issuer.
#[derive(Debug)]
pub struct Offline {
    /// The scopes.
    pub scopes: Scopes,
}

/// The keys that the caller brings.
#[derive(Debug)]
pub enum GivenKeys {
    /// None: only issuers with a `jwksFile` can be verified.
    None,
    /// Those of the issuers that would be asked for their keys.
    Published(IssuerKeys),
    /// Those of every issuer, in place of whatever proves its tokens.
    Every(IssuerKeys),
}

impl Offline {
    /// Compiles `config`, with the keys that are `given`.
    pub fn new(config: Config, given: &GivenKeys, now: Timestamp) -> Result<Self> {
        let own_issuers = config.own_issuers();
        let deny_list = config.deny_list.and_then(|file| file.list).map(Kept::fixed);
        let mut scopes = Vec::new();
        for mut scope in config.scopes {
            let key = SigningKey::throw_away(&scope.key, now)?;
            let ring = Keys::fixed(KeyRing::single(Arc::new(key)));
            let identity = &scope.identity;
            let proofs = identity.issuers.iter().map(|issuer| proof_of(issuer, given));
            let proofs = proofs.collect::<Result<_>>()?;
            let api_keys = identity.api_keys.as_ref().map(|_| Kept::absent());
            let credentials = Credentials { proofs, api_keys, deny_list: deny_list.clone() };
            let shadow = scope.shadow.take().map(Shadow::inline);
            scopes.push(compile(scope, &own_issuers, ring, credentials, None, shadow)?);
        }
        Ok(Self { scopes: Scopes::new(scopes) })
    }
}

fn proof_of(issuer: &IssuerSettings, given: &GivenKeys) -> Result<Proof> {
    let keys = match (given, &issuer.keys) {
        (GivenKeys::Every(keys), _) => keys.clone(),
        (_, KeySourceSettings::Introspection(_)) => return Ok(Proof::WordOffline),
        (GivenKeys::Published(keys), _) => keys.clone(),
        (GivenKeys::None, KeySourceSettings::File(path)) => {
            let text = std::fs::read(path)
                .with_context(|| format!("can't read the keys of `{}`", issuer.issuer))?;
            let keys = KeySet::parse(&text).with_context(|| format!("`{}`", path.display()))?;
            IssuerKeys::fixed(keys)
        }
        (GivenKeys::None, _) => IssuerKeys::absent(),
    };
    Ok(Proof::Keys(keys))
}
