//! The one who asks, as policy and token see it.

use std::fmt;

use serde_json::{Map, Value};

use super::claims::judge_actors;
use super::peer::Peer;
use super::refusal::BadToken;
use crate::clock::Timestamp;

/// An authenticated caller, or the anonymous one where the scope admits it.
#[derive(Clone, PartialEq)]
pub struct Principal {
    /// By what it is known.
    pub kind: PrincipalKind,
    /// The Cedar entity type: the issuer's or the API keys' `principalType`, `Workload`,
    /// `Certificate` or `Anonymous`.
    pub entity_type: String,
    /// The Cedar entity id: the subject, the SPIFFE id, the certificate's name or `anonymous`.
    pub id: String,
    /// The subject, as a decision token names it; none for the anonymous principal.
    pub subject: Option<String>,
    /// The `iss` of the incoming token.
    pub issuer: Option<String>,
    /// The groups of the incoming token, each behind its issuer's `groupPrefix`.
    pub groups: Vec<String>,
    /// The verified claims of the incoming token, under the names the settings map them to; those of
    /// the API key; or none.
    pub claims: Map<String, Value>,
    /// When the credential expires, if it says so: nothing we say about the caller may outlive it.
    pub expires: Option<Timestamp>,
    /// The SPIFFE id or name of the client certificate, where peers are configured and it was valid.
    pub peer: Option<String>,
}

/// By what a principal is known.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PrincipalKind {
    /// A token of a configured issuer, a JWT or one that the issuer was asked about.
    Jwt,
    /// The SPIFFE id of its client certificate.
    Workload,
    /// Another name in its client certificate.
    Certificate,
    /// An API key.
    ApiKey,
    /// Nothing.
    Anonymous,
    /// The word of an application that asks about it.
    Stated,
}

/// Why an application can't ask about a subject.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnfitSubject {
    /// A group or an action: a policy on who is within it would take it for one of its members.
    #[error("the subject is a `Group` or an `Action`, which asks for nothing: name who asks")]
    Type,
    /// Groups that can't be read would be left out, and with them what is forbidden to them.
    #[error("the subject's `groups` is not a list of strings")]
    Groups,
}

impl Principal {
    /// The principal that presented nothing.
    pub fn anonymous() -> Self {
        Self {
            kind: PrincipalKind::Anonymous,
            entity_type: "Anonymous".to_owned(),
            id: "anonymous".to_owned(),
            subject: None,
            issuer: None,
            groups: Vec::new(),
            claims: Map::new(),
            expires: None,
            peer: None,
        }
    }

    /// The same principal, on a connection of `peer`.
    pub(super) fn behind(self, peer: &Peer) -> Self {
        Self { peer: Some(peer.id().to_owned()), ..self }
    }

    /// The chain of those who act for the subject (RFC 8693 section 4.1), as the verified token
    /// names it. An API key's claims are no such word.
    ///
    /// # Errors
    /// When it is malformed, so that it can't be vouched for.
    pub fn actor(&self) -> Result<Option<&Value>, BadToken> {
        let actor = self.claims.get("act").filter(|_| self.kind == PrincipalKind::Jwt);
        actor.map_or(Ok(None), |actor| judge_actors(actor).map(|()| Some(actor)))
    }

    /// The subject that an authenticated application asks about, as its word for it: `properties`
    /// are the claims, and `groups` among them the groups. It has no issuer and no peer; of type
    /// `Anonymous` it has no subject either.
    ///
    /// # Errors
    /// [`UnfitSubject`], when policies could not be put to it as they are meant.
    pub fn stated(
        entity_type: &str,
        id: &str,
        properties: Map<String, Value>,
    ) -> Result<Self, UnfitSubject> {
        if matches!(entity_type, "Group" | "Action") {
            return Err(UnfitSubject::Type);
        }
        let name = |group: &Value| group.as_str().map(str::to_owned).ok_or(UnfitSubject::Groups);
        let groups = match properties.get("groups") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(groups)) => groups.iter().map(name).collect::<Result<_, _>>()?,
            Some(_) => return Err(UnfitSubject::Groups),
        };
        let template = Self {
            kind: PrincipalKind::Stated,
            entity_type: entity_type.to_owned(),
            groups,
            claims: properties,
            ..Self::anonymous()
        };
        Ok(template.named(id))
    }

    /// The same stated subject by another id: one of the many that a search tries.
    pub(crate) fn named(self, id: &str) -> Self {
        let subject = (self.entity_type != "Anonymous").then(|| id.to_owned());
        Self { id: id.to_owned(), subject, ..self }
    }
}

impl fmt::Debug for Principal {
    /// Claims and groups stay out: they are personal data, and end up in logs this way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("kind", &self.kind)
            .field("entity_type", &self.entity_type)
            .field("id", &self.id)
            .field("issuer", &self.issuer)
            .field("expires", &self.expires)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
