//! Tokens of the configured issuers: found, taken apart, verified, judged.
//!
//! The issuer is chosen by the token's own `iss`, among those that read from its place, before
//! anything is verified; from then on only that issuer's keys, algorithms and types count, so a
//! token can't borrow another issuer's key (RFC 8725 section 3.8).

use serde_json::Value;

use super::claims;
use super::jwks::IssuerKeys;
use super::jws::Jws;
use super::place::{Credential, Places};
use super::principal::{Principal, PrincipalKind};
use super::refusal::{BadToken, Excerpt, Refusal};
use super::settings::{IssuerSettings, TokenType};
use crate::clock::Timestamp;
use crate::request::Request;

/// Every issuer of a scope, and where their tokens stand.
#[derive(Debug)]
pub(super) struct Bearer {
    places: Places,
    issuers: Vec<Issuer>,
    own_issuers: Vec<String>,
}

#[derive(Debug)]
struct Issuer {
    settings: IssuerSettings,
    keys: IssuerKeys,
}

impl Bearer {
    pub(super) fn new(
        issuers: Vec<IssuerSettings>,
        keys: Vec<IssuerKeys>,
        own_issuers: Vec<String>,
    ) -> Self {
        let places = Places::new(&issuers);
        let issuers =
            issuers.into_iter().zip(keys).map(|(settings, keys)| Issuer { settings, keys });
        Self { places, issuers: issuers.collect(), own_issuers }
    }

    /// Whose token `request` carries; none when no configured place is present.
    pub(super) fn authenticate(
        &self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Option<Principal>, Refusal> {
        let Some(credential) = self.places.find(&request.headers)? else { return Ok(None) };
        let jws = Jws::parse(credential.token)?;
        let issuer = self.issuer_of(&jws, &credential)?;
        issuer.verify(&jws)?;

        let settings = &issuer.settings;
        let certificate = request.source.certificate.as_deref();
        let expires = claims::judge(&jws.claims, settings, certificate, now)?;
        let subject = claims::subject(&jws.claims, &settings.subject)?;
        Ok(Some(Principal {
            kind: PrincipalKind::Jwt,
            entity_type: settings.principal_type.clone(),
            id: subject.clone(),
            subject: Some(subject),
            issuer: Some(settings.issuer.clone()),
            groups: claims::groups(&jws.claims, &settings.groups, &settings.group_prefix)?,
            claims: jws.claims,
            expires: Some(expires),
            peer: None,
        }))
    }

    fn issuer_of(&self, jws: &Jws<'_>, credential: &Credential<'_>) -> Result<&Issuer, BadToken> {
        let iss = jws.claims.get("iss").and_then(Value::as_str).ok_or(BadToken::NoIssuer)?;
        if self.own_issuers.iter().any(|own| own == iss) {
            return Err(BadToken::OwnToken { iss: Excerpt::new(iss) });
        }
        let mut readers = credential.readers.iter().filter_map(|reader| self.issuers.get(*reader));
        readers
            .find(|issuer| issuer.settings.issuer == iss)
            .ok_or_else(|| BadToken::UnknownIssuer { iss: Excerpt::new(iss) })
    }
}

impl Issuer {
    /// Verifies the signature, with an algorithm and a type accepted of this issuer.
    fn verify(&self, jws: &Jws<'_>) -> Result<(), Refusal> {
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
        let Some(keys) = self.keys.current() else {
            return Err(Refusal::KeysUnavailable { issuer: self.settings.issuer.clone() });
        };
        let verified =
            keys.verify(header.kid.as_deref(), header.algorithm, jws.signed, &jws.signature);
        if let Err(cause) = &verified
            && may_be_rotated(cause, header.kid.as_deref())
        {
            self.keys.nudge();
        }
        Ok(verified?)
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
