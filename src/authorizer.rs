//! The heart: one request, straight down.
//!
//! Route, identity, policy, token, in this order; each step either hands the next one what it needs
//! or ends in a [`Denial`]. Every edge calls this and nothing else decides. Whatever the outcome,
//! [`Facts`] say what was learned on the way, for the record. An application that asks without a request
//! takes only the last two of these steps ([`Authorizer::evaluate`]).

mod evaluate;

use std::fmt;
use std::sync::Arc;

pub use evaluate::{Evaluation, Permission, Statement};

use crate::clock::Timestamp;
use crate::entitlement::Catalogue;
use crate::identity::{Identity, Principal, Refusal as CredentialRefusal};
use crate::path::{Allowances, CanonicalPath};
use crate::policy::{
    Context, CustomDenial, Grounds, Permit, Policy, Question, Refusal, RefusalKind,
};
use crate::request::Request;
use crate::route::{Resolved, Routes, Target};
use crate::token::{Binding, Channel, DecisionId, MintError, Minter, Token};

/// Everything that decides for one scope.
#[derive(Debug)]
pub struct Authorizer {
    /// What the scope's paths may hold.
    pub paths: Allowances,
    /// Request to target.
    pub routes: Routes,
    /// Credential to principal.
    pub identity: Identity,
    /// Question to permit.
    pub policy: Policy,
    /// The candidates for `items: entitlements`; `None` when a token lists its decision only.
    pub catalogue: Option<Catalogue>,
    /// Permit to token.
    pub minter: Minter,
}

impl Authorizer {
    /// Decides on `request`, which came over `channel`.
    pub async fn authorize(&self, request: &Request, channel: Channel, now: Timestamp) -> Decision {
        let mut facts = Facts::default();
        let outcome = self.steps(request, channel, now, &mut facts).await;
        Decision { outcome, facts }
    }

    async fn steps(
        &self,
        request: &Request,
        channel: Channel,
        now: Timestamp,
        facts: &mut Facts,
    ) -> Result<Grant, Denial> {
        let id = facts.id.insert(DecisionId::random()?).clone();
        let path = CanonicalPath::parse(request.raw_path(), self.paths)
            .map_err(|error| Denial::new(Reason::BadPath, error))?;
        facts.path = Some(path.clone());
        let resolved = self.routes.resolve(&request.method, &path);
        if resolved == Resolved::Bypass {
            return Ok(Grant::Bypass);
        }
        let principal = Arc::new(self.identity.authenticate(request, now).await?);
        facts.principal = Some(Arc::clone(&principal));
        let Resolved::Target(target) = resolved else {
            return Err(Denial::new(Reason::NoRoute, "no route matches the method and path"));
        };
        let target = facts.target.insert(target);
        let context = Context::Http { request, path: &path };
        let question = Question { principal: &principal, target, context, now };
        let permit = self.policy.decide(&question).await.map_err(|refusal| {
            facts.grounds = Some((*refusal.grounds).clone());
            Denial::from(refusal)
        })?;
        facts.grounds = Some(permit.grounds().clone());
        let items = self.items(&permit, &question).await?;
        let authority = request.host.authority(&request.scheme);
        let uri = format!("{}://{authority}{path}", request.scheme);
        let binding = Binding { method: &request.method, uri: &uri };
        let token = self.minter.mint(&permit, &items, Some(&binding), channel, now, &id).await?;
        Ok(Grant::Signed { permit: Box::new(permit), token })
    }

    /// What the token lists: the request's own target, and where asked for all that is held.
    async fn items<'a>(
        &'a self,
        permit: &'a Permit,
        question: &Question<'_>,
    ) -> Result<Vec<&'a Target>, Denial> {
        let mut items = vec![permit.target()];
        if let Some(catalogue) = &self.catalogue {
            let held = catalogue.held(&self.policy, question).await?;
            items.retain(|target| !held.contains(target));
            items.extend(held);
        }
        Ok(items)
    }
}

/// The outcome, and what was learned on the way to it.
#[derive(Debug)]
pub struct Decision {
    /// Yes or no.
    pub outcome: Result<Grant, Denial>,
    /// For the record.
    pub facts: Facts,
}

impl Decision {
    /// A denial before anything was learned.
    pub fn denied(denial: Denial) -> Self {
        Self { outcome: Err(denial), facts: Facts::default() }
    }
}

/// What was learned of a request, as far as deciding came.
#[derive(Debug, Default)]
pub struct Facts {
    /// The decision's own id; the `jti` of its token.
    pub id: Option<DecisionId>,
    /// The canonical path.
    pub path: Option<CanonicalPath>,
    /// Who asked.
    pub principal: Option<Arc<Principal>>,
    /// What was asked for.
    pub target: Option<Target>,
    /// What the policies said.
    pub grounds: Option<Grounds>,
}

/// A yes.
#[derive(Debug)]
pub enum Grant {
    /// The route is a bypass: forwarded without a token.
    Bypass,
    /// Permitted, with the token that proves it.
    Signed {
        /// The policy's yes.
        permit: Box<Permit>,
        /// The signed form of it.
        token: Token,
    },
}

/// A no: its reason code, and for the log what exactly was wrong.
#[derive(Debug)]
pub struct Denial {
    reason: Reason,
    detail: String,
    custom: Option<Box<CustomDenial>>,
}

impl Denial {
    /// A denial for `reason`; `detail` is for the operator and never reaches a client.
    pub fn new(reason: Reason, detail: impl fmt::Display) -> Self {
        Self { reason, detail: detail.to_string(), custom: None }
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What exactly was wrong.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// How the policy wants it answered.
    pub fn custom(&self) -> Option<&CustomDenial> {
        self.custom.as_deref()
    }
}

/// Why a request is denied, as a code for logs, metrics and tests.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// No credential was presented.
    NoCredentials,
    /// A credential was presented and does not hold.
    BadToken,
    /// No scope is responsible for the request.
    NoScope,
    /// No route matches.
    NoRoute,
    /// No policy permits it.
    NoPermit,
    /// A policy forbids it.
    Forbidden,
    /// The path is ambiguous.
    BadPath,
    /// The request can't be understood.
    BadRequest,
    /// The policies look at the body, and it is not what it says it is.
    BadBody,
    /// A key, ours or an issuer's, is not there.
    KeyUnavailable,
    /// The policies could not be evaluated.
    PolicyError,
    /// There was no time left to decide.
    Deadline,
    /// Too many requests at once.
    Overload,
    /// A fault of our own.
    Internal,
}

impl Reason {
    /// The code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::BadToken => "bad_token",
            Self::NoScope => "no_scope",
            Self::NoRoute => "no_route",
            Self::NoPermit => "no_permit",
            Self::Forbidden => "forbidden",
            Self::BadPath => "bad_path",
            Self::BadRequest => "bad_request",
            Self::BadBody => "bad_body",
            Self::KeyUnavailable => "key_unavailable",
            Self::PolicyError => "policy_error",
            Self::Deadline => "deadline",
            Self::Overload => "overload",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::NoCredentials | Self::BadToken => 401,
            Self::NoScope | Self::NoRoute | Self::NoPermit | Self::Forbidden => 403,
            Self::BadPath | Self::BadRequest | Self::BadBody => 400,
            Self::KeyUnavailable
            | Self::PolicyError
            | Self::Deadline
            | Self::Overload
            | Self::Internal => 503,
        }
    }
}

impl From<CredentialRefusal> for Denial {
    fn from(refusal: CredentialRefusal) -> Self {
        let reason = match &refusal {
            CredentialRefusal::NoCredentials => Reason::NoCredentials,
            CredentialRefusal::BadToken(_) => Reason::BadToken,
            CredentialRefusal::KeysUnavailable { .. } => Reason::KeyUnavailable,
        };
        Self::new(reason, refusal)
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal.kind {
            RefusalKind::NoPermit => Reason::NoPermit,
            RefusalKind::Forbidden => Reason::Forbidden,
            RefusalKind::Fault(_) => Reason::PolicyError,
            RefusalKind::BadBody(_) => Reason::BadBody,
        };
        Self { custom: refusal.custom, ..Self::new(reason, refusal.kind) }
    }
}

impl From<MintError> for Denial {
    fn from(error: MintError) -> Self {
        let reason = match error {
            MintError::NoKey | MintError::Stale | MintError::Sign(_) => Reason::KeyUnavailable,
            MintError::Expired => Reason::BadToken,
            MintError::TooLong(_) | MintError::Claims(_) | MintError::Random => Reason::Internal,
        };
        Self::new(reason, error)
    }
}

#[cfg(test)]
mod tests;
