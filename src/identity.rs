//! Who asks: from what a request presents to a [`Principal`].
//!
//! A caller proves itself with a token of a configured issuer or an API key, with its client
//! certificate, or with both. Every check is strict, and every doubt is a [`Refusal`]: a credential
//! that is present and does not hold is never passed over for another one, nor for the anonymous
//! principal. [`Identity::authenticate`] does no I/O, but for opaque tokens, about which their issuer
//! is asked; keys are fetched in the background, and what never arrived is refused as our own fault.
//!
//! Inside: `place` finds the credential, `jws` takes it apart, [`jwks`] holds the keys,
//! `introspection` asks, `token_cache` remembers, `claims` judges what a token says, `bearer` puts these in
//! order; `api_keys` knows API keys; `peer` reads what `certificate` finds; `remote` reaches issuers.

mod api_keys;
mod bearer;
mod certificate;
mod claims;
mod introspection;
mod jws;
mod key_set;
mod peer;
mod place;
mod principal;
mod refusal;
mod settings;
mod token_cache;

pub mod jwks;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use self::api_keys::{ApiKeySettings, ApiKeys};
pub use self::bearer::{KnownBy, Proof};
pub use self::claims::ClaimPath;
pub use self::introspection::{AskFault, IntrospectionSettings, Introspector};
pub(crate) use self::jws::Compact;
pub use self::jws::Part;
pub use self::key_set::{KeySet, KeySetError, UnusedKey};
pub use self::peer::is_spiffe_id;
pub use self::principal::{Principal, PrincipalKind, UnfitSubject};
pub use self::refusal::{BadToken, Excerpt, Refusal};
pub use self::settings::{
    Audiences, CertificateSource, IdentityError, IdentitySettings, IssuerSettings,
    KeySourceSettings, PeerSettings, PeerSubject, Place, Require, TokenType,
};
pub use crate::remote::KeyUrlFault;

use self::bearer::Bearer;
use self::peer::{Peer, Peers};
use crate::clock::Timestamp;
use crate::request::{Reads, Request};
use crate::secrets::Kept;

/// How one scope tells who asks.
#[derive(Debug)]
pub struct Identity {
    require: Require,
    anonymous: bool,
    bearer: Bearer,
    peers: Peers,
}

impl Identity {
    /// Builds the scope's identity from its settings, what proves the tokens of its issuers (one for
    /// each of `settings.issuers`, in that order), its API keys where it has some, and the `iss` of
    /// every decision token this process mints, in whatever scope: none of those is ever a
    /// credential.
    ///
    /// # Errors
    /// The first of [`IdentitySettings::faults`].
    pub fn new(
        settings: IdentitySettings,
        proofs: Vec<Proof>,
        api_keys: Option<Kept<ApiKeys>>,
        own_issuers: Arc<BTreeSet<String>>,
    ) -> Result<Self, IdentityError> {
        if let Some(fault) = settings.faults(&own_issuers).into_iter().next() {
            return Err(fault);
        }
        if proofs.len() != settings.issuers.len() {
            let issuers = settings.issuers.len();
            return Err(IdentityError::KeysMissing { issuers, keys: proofs.len() });
        }
        Ok(Self {
            require: settings.require,
            anonymous: settings.anonymous,
            bearer: Bearer::new(&settings, proofs, api_keys, own_issuers),
            peers: Peers::new(settings.peer),
        })
    }

    /// The same, remembering the tokens it has verified.
    #[must_use]
    pub fn remembering(self) -> Self {
        Self { bearer: self.bearer.remembering(), ..self }
    }

    /// Tells who sent `request`, at the time `now`. It awaits an issuer that must be asked about its
    /// opaque tokens, and nothing else.
    ///
    /// # Errors
    /// [`Refusal::NoCredentials`] when nothing that is required was presented,
    /// [`Refusal::BadToken`] when what was presented does not hold, and
    /// the others when we could not tell.
    pub async fn authenticate(
        &self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Arc<Principal>, Refusal> {
        let user = self.bearer.authenticate(request, &self.peers, now).await?;
        let peer = self.peers.authenticate(request);
        match self.require {
            Require::Jwt => match user {
                Some(user) => Ok(behind(user, peer.unwrap_or(None))),
                None => Ok(behind(self.nobody()?, peer.unwrap_or(None))),
            },
            Require::Peer => {
                peer?.map_or_else(|| self.nobody(), |peer| Ok(peer.principal().into()))
            }
            Require::Both => match (user, peer?) {
                (Some(user), Some(peer)) => Ok(behind(user, Some(peer))),
                (None, None) => self.nobody(),
                (Some(_), None) | (None, Some(_)) => Err(Refusal::NoCredentials),
            },
            Require::Either => match user {
                Some(user) => Ok(behind(user, peer.unwrap_or(None))),
                None => peer?.map_or_else(|| self.nobody(), |peer| Ok(peer.principal().into())),
            },
        }
    }

    /// [`Self::authenticate`], of an identity that asks no issuer. What it remembers of the request makes
    /// no difference.
    #[cfg(test)]
    pub(crate) fn authenticate_now(
        &self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Principal, Refusal> {
        use futures_util::FutureExt as _;
        let first = self.authenticate(request, now).now_or_never().unwrap();
        assert_eq!(first, self.authenticate(request, now).now_or_never().unwrap());
        first.map(Arc::unwrap_or_clone)
    }

    /// What of a request is read to tell who sent it, beside the peer's certificate; `None` where
    /// issuers are asked, who may answer otherwise the next time.
    pub fn reads(&self) -> Option<Reads> {
        let mut reads = self.bearer.reads()?;
        self.peers.add_reads(&mut reads);
        Some(reads)
    }

    /// The SHA-256 of the one credential that `request` presents; `None` where it presents none, or more
    /// than one at a place.
    pub fn credential_digest(&self, request: &Request) -> Option<[u8; 32]> {
        self.bearer.credential_digest(request)
    }

    /// What of a request may hold a credential.
    pub fn places(&self) -> Reads {
        self.bearer.places()
    }

    /// What credentials are known by now.
    pub fn known_by(&self) -> KnownBy {
        self.bearer.known_by()
    }

    /// Whether credentials are still known by the same.
    pub fn is_known_by(&self, then: &KnownBy) -> bool {
        self.bearer.is_known_by(then)
    }

    fn nobody(&self) -> Result<Arc<Principal>, Refusal> {
        let anonymous = || Arc::new(Principal::anonymous());
        self.anonymous.then(anonymous).ok_or(Refusal::NoCredentials)
    }
}

/// The same principal, on a connection of `peer`. A bearer has none of its own.
fn behind(user: Arc<Principal>, peer: Option<Peer>) -> Arc<Principal> {
    match peer {
        None => user,
        Some(peer) => Arc::new(Arc::unwrap_or_clone(user).behind(&peer)),
    }
}
