//! What a decision token says.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::template::Template;
use super::{Binding, DecisionId, Listed, MintError};
use crate::clock::Timestamp;
use crate::identity::PrincipalKind;
use crate::policy::Permit;
use crate::route::Target;

/// Incoming claims that are never carried over, whether or not we set them ourselves: they would
/// speak for the incoming token, or be taken for a statement of ours.
pub const NEVER_CARRIED: [&str; 17] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "client_id",
    "idp",
    "htm",
    "htu",
    "cnf",
    "act",
    "txn",
    "tctx",
    "rctx",
    "req_wl",
];

/// What the decision claim lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Items {
    /// The request's own target.
    Decision,
    /// All that the principal holds.
    Entitlements,
}

/// How a scope's tokens are filled.
#[derive(Clone, Debug)]
pub struct ClaimSettings {
    /// The scope's client ID (`client_id`).
    pub client_id: String,
    /// `iss`.
    pub issuer: String,
    /// `aud`: none, one, or a list.
    pub audience: Option<Value>,
    /// Seconds from issue to expiry.
    pub lifetime: u64,
    /// Whether `htm` and `htu` are set.
    pub bind_request: bool,
    /// Whether the verified incoming claims are carried over.
    pub include_incoming_payload: bool,
    /// Whether the token names who acts for the subject (`act`).
    pub include_actor: bool,
    /// The claim that holds the decision.
    pub decision_claim: String,
    /// Every scope's decision claim: none of them is ever carried over.
    pub decision_claims: BTreeSet<String>,
    /// How one item is written.
    pub template: Template,
    /// Joins the items into one string; `None` makes an array.
    pub delimiter: Option<String>,
    /// What is listed.
    pub items: Items,
    /// How many items a token may list; one of more is not minted.
    pub max_items: usize,
}

impl ClaimSettings {
    /// The claims, and when the token expires.
    pub(super) fn claims(
        &self,
        permit: &Permit,
        items: &Listed<'_>,
        request: Option<&Binding<'_>>,
        now: Timestamp,
        id: &DecisionId,
    ) -> Result<(Map<String, Value>, Timestamp), MintError> {
        let principal = permit.principal();
        let issued = now.seconds();
        let own_expiry = issued.saturating_add(self.lifetime);
        let expires =
            principal.expires.map_or(own_expiry, |incoming| own_expiry.min(incoming.seconds()));
        if expires <= issued {
            return Err(MintError::Expired);
        }
        // What an application states of a subject, nobody verified.
        let is_verified = principal.kind != PrincipalKind::Stated;
        let mut claims = if self.include_incoming_payload && is_verified {
            self.carried_over(&principal.claims)
        } else {
            Map::new()
        };
        let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        set("iss", self.issuer.as_str().into());
        let stated = permit.additions().subject.as_ref();
        if let Some(subject) = stated.or(principal.subject.as_ref()) {
            set("sub", subject.as_str().into());
        }
        if let Some(audience) = &self.audience {
            set("aud", audience.clone());
        }
        set("iat", issued.into());
        set("nbf", issued.into());
        set("exp", expires.into());
        set("jti", id.0.as_str().into());
        set("client_id", self.client_id.as_str().into());
        if let Some(issuer) = &principal.issuer {
            set("idp", issuer.as_str().into());
        }
        if self.include_actor
            && let Some(actor) = principal.actor().map_err(MintError::Actor)?
        {
            set("act", actor.clone());
        }
        if let Some(request) = request.filter(|_| self.bind_request) {
            set("htm", request.method.into());
            set("htu", request.uri.into());
        }
        set(&self.decision_claim, self.decision(items)?);
        Ok((claims, Timestamp::from_seconds(expires)))
    }

    fn decision(&self, listed: &Listed<'_>) -> Result<Value, MintError> {
        let (count, limit) = (listed.targets.len(), self.max_items);
        if count > limit {
            return Err(MintError::TooManyItems { count, limit });
        }
        let item = |target: &&Target| {
            self.template.render(target, |name| listed.assets.attribute(target, name))
        };
        let items = listed.targets.iter().map(item).collect::<Result<Vec<_>, _>>()?;
        Ok(match &self.delimiter {
            Some(delimiter) => items.join(delimiter).into(),
            None => items.into(),
        })
    }

    fn carried_over(&self, incoming: &Map<String, Value>) -> Map<String, Value> {
        incoming
            .iter()
            .filter(|(name, _)| !NEVER_CARRIED.contains(&name.as_str()))
            .filter(|(name, _)| !self.decision_claims.contains(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}
