//! Tokens of the configured issuers, and API keys: found, taken apart, verified, judged.
//!
//! The issuer is chosen by the token's own `iss`, among those that read from its place, before
//! anything is verified; from then on only that issuer's keys, algorithms and types count, so a
//! token can't borrow another issuer's key (RFC 8725 section 3.8). A token that names no issuer is
//! opaque: the one issuer of its place that is asked about tokens is asked about it. A JWT that names
//! another one is never sent there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest;
use serde_json::{Map, Value};

use super::api_keys::{ApiKeySettings, ApiKeys};
use super::claims::{self, Expiry};
use super::introspection::{Answer, AskFault, Introspector};
use super::jwks::{self, IssuerKeys};
use super::jws::{self, Jws, TOKEN_LIMIT};
use super::key_set::KeySet;
use super::peer::Peers;
use super::place::{Credential, Places, Readers};
use super::principal::{Principal, PrincipalKind};
use super::refusal::{BadToken, Excerpt, Refusal};
use super::settings::{IdentitySettings, IssuerSettings, TokenType};
use super::token_cache::{Fingerprint, TokenCache, Verifier};
use crate::clock::Timestamp;
use crate::request::{Reads, Request};
use crate::secrets::Kept;

/// What proves that a token is its issuer's.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A signature with one of these keys.
    Keys(IssuerKeys),
    /// The issuer's word.
    Word(Arc<Introspector>),
    /// The issuer's word, which can't be had offline.
    WordOffline,
}

/// Every issuer of a scope and its API keys, and where their credentials stand.
#[derive(Debug)]
pub(super) struct Bearer {
    places: Places,
    issuers: Vec<Issuer>,
    /// The index of each, by its `iss`.
    named: BTreeMap<String, usize>,
    own_issuers: Arc<BTreeSet<String>>,
    api_keys: Option<(ApiKeySettings, Kept<ApiKeys>)>,
    /// `None`: every token is verified.
    verified: Option<TokenCache>,
}

#[derive(Debug)]
struct Issuer {
    settings: IssuerSettings,
    proof: Proof,
}

/// What is known of a token that is its issuer's.
struct Proven<'a> {
    issuer: &'a IssuerSettings,
    claims: Map<String, Value>,
    expiry: Expiry,
    /// What verified it, unless its issuer was asked.
    verifier: Option<Verifier>,
}

/// What credentials were known by at one time.
#[derive(Debug)]
pub struct KnownBy {
    /// [`jwks::changes`] when issuers' keys were last found to be these.
    changes: AtomicU64,
    key_sets: Vec<Option<Arc<KeySet>>>,
    api_keys: Option<Arc<ApiKeys>>,
}

impl Bearer {
    pub(super) fn new(
        settings: &IdentitySettings,
        proofs: Vec<Proof>,
        api_keys: Option<Kept<ApiKeys>>,
        own_issuers: Arc<BTreeSet<String>>,
    ) -> Self {
        let places = Places::new(settings);
        let issuers = settings.issuers.iter().cloned().zip(proofs);
        let issuers: Vec<_> = issuers.map(|(settings, proof)| Issuer { settings, proof }).collect();
        let named = issuers.iter().enumerate();
        let named = named.map(|(index, issuer)| (issuer.settings.issuer.clone(), index)).collect();
        let api_keys = settings.api_keys.clone().zip(api_keys);
        Self { places, issuers, named, own_issuers, api_keys, verified: None }
    }

    /// Remembers the tokens it has verified.
    pub(super) fn remembering(self) -> Self {
        Self { verified: TokenCache::new(), ..self }
    }

    /// Whose token or API key `request` carries; none when no configured place is present. `peers`
    /// tell the certificate a token may be bound to.
    pub(super) async fn authenticate(
        &self,
        request: &Request,
        peers: &Peers,
        now: Timestamp,
    ) -> Result<Option<Arc<Principal>>, Refusal> {
        let Some(credential) = self.places.find(request)? else { return Ok(None) };
        if credential.readers.api_keys {
            return self.holder(&credential.text, now).map(|holder| Some(Arc::new(holder)));
        }
        let remembered = self.verified.as_ref().and_then(|verified| {
            let readers = credential.readers.number;
            Some((verified, verified.fingerprint(&credential.text, readers)?))
        });
        if let Some((verified, fingerprint)) = remembered
            && let Some(known) =
                verified.get(fingerprint, |verifier| self.is_current(verifier), now)
        {
            let again = |verifier: &Verifier| {
                let proven = self.proven(verifier, &credential.text)?;
                proven.principal(peers, request, now)
            };
            return known.principal(again).map(Some);
        }
        let proven = self.prove(&credential, remembered, now).await?;
        let verifier = proven.verifier.clone().filter(|_| !proven.claims.contains_key("cnf"));
        let principal = proven.principal(peers, request, now)?;
        if let (Some((verified, fingerprint)), Some(verifier), Some(expires)) =
            (remembered, verifier, principal.expires)
        {
            verified.keep(fingerprint, verifier, Ok(expires), credential.text.len(), now);
        }
        Ok(Some(Arc::new(principal)))
    }

    /// What is known of a token that `verifier` has verified before.
    fn proven(&self, verifier: &Verifier, token: &str) -> Result<Proven<'_>, Refusal> {
        let claims = Jws::parse(token)?.claims;
        // It is there: the verifier is one of ours.
        let issuer = &self.issuers.get(verifier.issuer).ok_or(BadToken::NoIssuer)?.settings;
        Ok(Proven { issuer, claims, expiry: Expiry::Required, verifier: None })
    }

    /// Whether the issuer still has the keys that verified a token.
    fn is_current(&self, verifier: &Verifier) -> bool {
        let issuer = self.issuers.get(verifier.issuer);
        is_same(issuer.and_then(Issuer::key_set).as_ref(), Some(&verifier.key_set))
    }

    /// What of a request may hold a credential.
    pub(super) fn places(&self) -> Reads {
        self.places.reads()
    }

    /// What of a request is read; `None` where an issuer is asked.
    pub(super) fn reads(&self) -> Option<Reads> {
        let are_keys = |issuer: &Issuer| matches!(issuer.proof, Proof::Keys(_));
        self.issuers.iter().all(are_keys).then(|| self.places.reads())
    }

    pub(super) fn credential_digest(&self, request: &Request) -> Option<[u8; 32]> {
        let credential = self.places.find(request).ok()??;
        let digest = digest::digest(&digest::SHA256, credential.text.as_bytes());
        digest.as_ref().try_into().ok()
    }

    pub(super) fn known_by(&self) -> KnownBy {
        let changes = AtomicU64::new(jwks::changes());
        let key_sets = self.issuers.iter().map(Issuer::key_set).collect();
        KnownBy { changes, key_sets, api_keys: self.current_api_keys() }
    }

    pub(super) fn is_known_by(&self, then: &KnownBy) -> bool {
        self.has_keys_of(then) && is_same(self.current_api_keys().as_ref(), then.api_keys.as_ref())
    }

    /// Whether the issuers have the same keys. Each is looked at only after some issuer's keys have
    /// changed.
    fn has_keys_of(&self, then: &KnownBy) -> bool {
        let changes = jwks::changes();
        if then.changes.load(Ordering::Relaxed) == changes {
            return true;
        }
        let mut key_sets = self.issuers.iter().zip(&then.key_sets);
        let are_same =
            key_sets.all(|(issuer, then)| is_same(issuer.key_set().as_ref(), then.as_ref()));
        if are_same {
            then.changes.store(changes, Ordering::Relaxed);
        }
        are_same
    }

    fn current_api_keys(&self) -> Option<Arc<ApiKeys>> {
        self.api_keys.as_ref().and_then(|(_, keys)| keys.current())
    }

    fn holder(&self, key: &str, now: Timestamp) -> Result<Principal, Refusal> {
        let (settings, keys) = self.api_keys.as_ref().ok_or(Refusal::ApiKeysUnavailable)?;
        let keys = keys.current().ok_or(Refusal::ApiKeysUnavailable)?;
        Ok(keys.holder(key, &settings.principal_type, now)?)
    }

    async fn prove(
        &self,
        credential: &Credential<'_>,
        remembered: Option<(&TokenCache, Fingerprint)>,
        now: Timestamp,
    ) -> Result<Proven<'_>, Refusal> {
        let token = credential.text.as_ref();
        if token.len() > TOKEN_LIMIT {
            return Err(BadToken::TooLong { bytes: token.len(), limit: TOKEN_LIMIT }.into());
        }
        let mut readers =
            credential.readers.issuers.iter().filter_map(|index| self.issuers.get(*index));
        // At most one issuer of a place is asked: the settings see to that.
        if let Some(asked) = readers.find(|issuer| !matches!(issuer.proof, Proof::Keys(_))) {
            let named = jws::named_issuer(token);
            if named.is_none_or(|named| named == asked.settings.issuer) {
                return Box::pin(asked.ask(token, now)).await;
            }
        }
        let jws = Jws::parse(token)?;
        let (index, issuer) = self.issuer_of(&jws, credential.readers)?;
        let verifier = Verifier { issuer: index, key_set: issuer.accept(&jws)? };
        if let Err(cause) = issuer.verify(&jws, &verifier.key_set) {
            if let (Some((verified, fingerprint)), BadToken::Signature { .. }) =
                (remembered, &cause)
            {
                verified.keep(fingerprint, verifier, Err(cause.clone()), token.len(), now);
            }
            return Err(cause.into());
        }
        let (issuer, verifier) = (&issuer.settings, Some(verifier));
        Ok(Proven { issuer, claims: jws.claims, expiry: Expiry::Required, verifier })
    }

    /// The issuer that the token names, if it reads the token's place.
    fn issuer_of(&self, jws: &Jws<'_>, readers: &Readers) -> Result<(usize, &Issuer), BadToken> {
        let iss = jws.claims.get("iss").and_then(Value::as_str).ok_or(BadToken::NoIssuer)?;
        if self.own_issuers.contains(iss) {
            return Err(BadToken::OwnToken { iss: Excerpt::new(iss) });
        }
        let index = self.named.get(iss).copied().filter(|index| readers.issuers.contains(index));
        index
            .and_then(|index| Some((index, self.issuers.get(index)?)))
            .ok_or_else(|| BadToken::UnknownIssuer { iss: Excerpt::new(iss) })
    }
}

impl Issuer {
    fn key_set(&self) -> Option<Arc<KeySet>> {
        match &self.proof {
            Proof::Keys(keys) => keys.current(),
            Proof::Word(_) | Proof::WordOffline => None,
        }
    }

    /// Asks this issuer about `token`, which is opaque or its own.
    async fn ask(&self, token: &str, now: Timestamp) -> Result<Proven<'_>, Refusal> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadToken::NotOpaque.into());
        }
        let issuer = &self.settings.issuer;
        let failed = |fault| Refusal::Unasked { issuer: issuer.clone(), fault };
        let Proof::Word(introspector) = &self.proof else { return Err(failed(AskFault::Offline)) };
        let claims = match introspector.ask(token, now).await.map_err(failed)? {
            Answer::Active(claims) => claims,
            Answer::Inactive => return Err(BadToken::Inactive.into()),
        };
        if claims.get("iss").is_some_and(|iss| iss != issuer) {
            return Err(BadToken::ForeignAnswer.into());
        }
        let claims = claims.as_ref().clone();
        Ok(Proven { issuer: &self.settings, claims, expiry: Expiry::Optional, verifier: None })
    }

    /// The keys that may have signed the token, whose algorithm and type are accepted of this issuer.
    fn accept(&self, jws: &Jws<'_>) -> Result<Arc<KeySet>, Refusal> {
        let header = &jws.header;
        if !self.settings.algorithms.contains(&header.algorithm) {
            return Err(BadToken::AlgorithmNotAccepted { alg: header.algorithm }.into());
        }
        if !self.settings.types.contains(&header.typ) {
            let cause = match &header.typ {
                TokenType::Absent => BadToken::TypeAbsent,
                TokenType::Named(typ) => BadToken::Type { typ: Excerpt::new(typ) },
            };
            return Err(cause.into());
        }
        // What names an issuer that is asked was asked about before it came here.
        let Proof::Keys(keys) = &self.proof else { return Err(BadToken::Inactive.into()) };
        let issuer = || self.settings.issuer.clone();
        keys.current().ok_or_else(|| Refusal::KeysUnavailable { issuer: issuer() })
    }

    /// Verifies the signature.
    fn verify(&self, jws: &Jws<'_>, key_set: &KeySet) -> Result<(), BadToken> {
        let (kid, algorithm) = (jws.header.kid.as_deref(), jws.header.algorithm);
        let verified = key_set.verify(kid, algorithm, jws.signed, &jws.signature);
        if let (Err(cause), Proof::Keys(keys)) = (&verified, &self.proof)
            && may_be_rotated(cause, kid)
        {
            keys.nudge();
        }
        verified
    }
}

impl Proven<'_> {
    /// The one it is about, if it holds at `now`.
    fn principal(
        self,
        peers: &Peers,
        request: &Request,
        now: Timestamp,
    ) -> Result<Principal, Refusal> {
        let Self { issuer, claims, expiry, .. } = self;
        let expires = claims::judge(&claims, issuer, expiry, || peers.thumbprint(request), now)?;
        let subject = claims::subject(&claims, &issuer.subject)?;
        Ok(Principal {
            kind: PrincipalKind::Jwt,
            entity_type: issuer.principal_type.clone(),
            id: subject.clone(),
            subject: Some(subject),
            issuer: Some(issuer.issuer.clone()),
            groups: claims::groups(&claims, &issuer.groups, &issuer.group_prefix)?,
            claims: claims::mapped(claims, &issuer.claims),
            expires,
            peer: None,
        })
    }
}

fn is_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// Whether the issuer may have changed its keys since we last looked.
fn may_be_rotated(cause: &BadToken, kid: Option<&str>) -> bool {
    match cause {
        BadToken::UnknownKey { .. } | BadToken::NoKeyId { .. } => true,
        BadToken::Signature { .. } => kid.is_none(),
        _ => false,
    }
}
