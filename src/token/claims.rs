//! What a decision token says.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use super::template::Template;
use super::{Binding, DecisionId, Listed, MintError};
use crate::clock::Timestamp;
use crate::identity::PrincipalKind;
use crate::policy::Permit;

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
    /// What all tokens of the scope say: a JSON object, still open.
    pub(super) fn opening(&self) -> Vec<u8> {
        let mut always = Map::new();
        always.insert("iss".to_owned(), self.issuer.as_str().into());
        always.insert("client_id".to_owned(), self.client_id.as_str().into());
        if let Some(audience) = &self.audience {
            always.insert("aud".to_owned(), audience.clone());
        }
        let mut opening = Value::Object(always).to_string().into_bytes();
        opening.pop();
        opening
    }

    /// Completes the object that `opening` began; when the token expires.
    pub(super) fn write(
        &self,
        opening: &mut Vec<u8>,
        permit: &Permit,
        items: &Listed<'_>,
        request: Option<&Binding<'_>>,
        now: Timestamp,
        id: &DecisionId,
    ) -> Result<Timestamp, MintError> {
        let principal = permit.principal();
        let issued = now.seconds();
        let own_expiry = issued.saturating_add(self.lifetime);
        let expires =
            principal.expires.map_or(own_expiry, |incoming| own_expiry.min(incoming.seconds()));
        if expires <= issued {
            return Err(MintError::Expired);
        }
        let mut claims = Members(opening);
        // What an application states of a subject, nobody verified.
        if self.include_incoming_payload && principal.kind != PrincipalKind::Stated {
            for (name, value) in self.carried_over(&principal.claims) {
                claims.add(name, value)?;
            }
        }
        let stated = permit.additions().subject.as_ref();
        if let Some(subject) = stated.or(principal.subject.as_ref()) {
            claims.add("sub", subject)?;
        }
        claims.add("iat", &issued)?;
        claims.add("nbf", &issued)?;
        claims.add("exp", &expires)?;
        claims.add("jti", &id.0)?;
        if let Some(issuer) = &principal.issuer {
            claims.add("idp", issuer)?;
        }
        if self.include_actor
            && let Some(actor) = principal.actor().map_err(MintError::Actor)?
        {
            claims.add("act", actor)?;
        }
        if let Some(request) = request.filter(|_| self.bind_request) {
            claims.add("htm", request.method)?;
            claims.add("htu", request.uri)?;
        }
        self.add_decision(&mut claims, items)?;
        claims.end();
        Ok(Timestamp::from_seconds(expires))
    }

    fn add_decision(&self, claims: &mut Members<'_>, listed: &Listed<'_>) -> Result<(), MintError> {
        let (count, limit) = (listed.targets.len(), self.max_items);
        if count > limit {
            return Err(MintError::TooManyItems { count, limit });
        }
        let items = listed.targets.iter().map(|target| {
            self.template.render(target, |name| listed.assets.attribute(target, name))
        });
        let items = items.collect::<Result<Vec<_>, _>>()?;
        match &self.delimiter {
            Some(delimiter) => claims.add(&self.decision_claim, &items.join(delimiter)),
            None => claims.add(&self.decision_claim, &items),
        }
    }

    /// None of them is a claim that is set here.
    fn carried_over<'a>(
        &'a self,
        incoming: &'a Map<String, Value>,
    ) -> impl Iterator<Item = (&'a String, &'a Value)> {
        incoming
            .iter()
            .filter(|(name, _)| !NEVER_CARRIED.contains(&name.as_str()))
            .filter(|(name, _)| !self.decision_claims.contains(*name))
            .filter(|(name, _)| **name != self.decision_claim)
    }
}

/// The members of a JSON object, which has some. Each name comes once: it is not looked for among the others.
struct Members<'a>(&'a mut Vec<u8>);

impl Members<'_> {
    fn add(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), MintError> {
        self.0.push(b',');
        serde_json::to_writer(&mut *self.0, name).map_err(MintError::Claims)?;
        self.0.push(b':');
        serde_json::to_writer(&mut *self.0, value).map_err(MintError::Claims)
    }

    fn end(self) {
        self.0.push(b'}');
    }
}
