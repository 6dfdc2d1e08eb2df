//! Scopes without a network: for `placet check` and `placet test`.
//!
//! Decisions are made by the same code on the same settings. Only the keys differ: tokens are signed
//! with a throw-away key that nobody trusts, and issuers that publish their keys at an address are
//! known by the keys that the caller brings, or not at all.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::generation::compile;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::identity::jwks::IssuerKeys;
use crate::identity::{IssuerSettings, KeySet, KeySourceSettings};
use crate::keys::{KeyRing, Keys, SigningKey};
use crate::scope::Scopes;
use crate::shadow::Shadow;

/// Compiled scopes that need no store and no issuer.
#[derive(Debug)]
pub struct Offline {
    /// The scopes.
    pub scopes: Scopes,
}

impl Offline {
    /// Compiles `config`. `issuer_keys` stand in for the keys of issuers that would be asked for
    /// them; without, only issuers with a `jwksFile` can be verified.
    pub fn new(config: Config, issuer_keys: Option<&IssuerKeys>, now: Timestamp) -> Result<Self> {
        let own_issuers = config.own_issuers();
        let mut scopes = Vec::new();
        for mut scope in config.scopes {
            let key = SigningKey::throw_away(&scope.key, now)?;
            let ring = Keys::fixed(KeyRing::single(Arc::new(key)));
            let readers = scope
                .identity
                .issuers
                .iter()
                .map(|issuer| keys_of(issuer, issuer_keys))
                .collect::<Result<_>>()?;
            let shadow = scope.shadow.take().map(Shadow::inline);
            scopes.push(compile(scope, &own_issuers, ring, readers, None, shadow)?);
        }
        Ok(Self { scopes: Scopes::new(scopes) })
    }
}

fn keys_of(issuer: &IssuerSettings, given: Option<&IssuerKeys>) -> Result<IssuerKeys> {
    if let Some(keys) = given {
        return Ok(keys.clone());
    }
    match &issuer.keys {
        KeySourceSettings::File(path) => {
            let text = std::fs::read(path)
                .with_context(|| format!("can't read the keys of `{}`", issuer.issuer))?;
            let keys = KeySet::parse(&text).with_context(|| format!("`{}`", path.display()))?;
            Ok(IssuerKeys::fixed(keys))
        }
        KeySourceSettings::Url(_) | KeySourceSettings::Discovery => Ok(IssuerKeys::absent()),
    }
}
