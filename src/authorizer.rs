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
use crate::deny_list::DenyList;
use crate::entitlement::{Catalogue, Lookup, Unlisted};
use crate::identity::{Identity, Principal, Refusal as CredentialRefusal};
use crate::keys::SignError;
use crate::path::{Allowances, CanonicalPath};
use crate::policy::{
    Context, CustomDenial, Opinion, Permit, Policy, Question, Refusal, RefusalKind,
};
use crate::request::Request;
use crate::route::{Resolved, Routes, Target};
use crate::secrets::Kept;
use crate::stages::{Stage, Stages};
use crate::token::{Binding, Channel, DecisionId, Items, Listed, MintError, Minter, Token};

/// Everything that decides for one scope.
#[derive(Debug)]
pub struct Authorizer {
    /// What the scope's paths may hold.
    pub paths: Allowances,
    /// Request to target.
    pub routes: Routes,
    /// Credential to principal.
    pub identity: Identity,
    /// Principals who are refused whatever the policies say.
    pub deny_list: Option<Kept<DenyList>>,
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
        self.authorize_in(&mut Stages::default(), request, channel, now).await
    }

    /// [`Self::authorize`], which notes in `stages` how far it came, even if it is cut off, and waits where they say.
    pub async fn authorize_in(
        &self,
        stages: &mut Stages,
        request: &Request,
        channel: Channel,
        now: Timestamp,
    ) -> Decision {
        let mut facts = Facts::default();
        let outcome = self.steps(request, channel, now, &mut facts, stages).await;
        stages.end();
        Decision { outcome, facts }
    }

    async fn steps(
        &self,
        request: &Request,
        channel: Channel,
        now: Timestamp,
        facts: &mut Facts,
        stages: &mut Stages,
    ) -> Result<Grant, Denial> {
        stages.begin(Stage::Route);
        let id = facts.id.insert(DecisionId::random()?).clone();
        let path = CanonicalPath::parse(request.raw_path(), self.paths)
            .map_err(|error| Denial::new(Reason::BadPath, error))?;
        facts.path = Some(path.clone());
        let resolved = self.routes.resolve(&request.method, &path);
        if resolved == Resolved::Bypass {
            return Ok(Grant::Bypass);
        }
        stages.begin(Stage::Identity);
        let principal = self.identity.authenticate(request, now).await?;
        facts.principal = Some(Arc::clone(&principal));
        let deny_list = self.deny_list();
        refuse_listed(deny_list.as_deref(), &principal, now)?;
        let Resolved::Target(target) = resolved else {
            return Err(Denial::new(Reason::NoRoute, "no route matches the method and path"));
        };
        let target = facts.target.insert(target);
        let context = Context::Http { request, path: &path };
        let question = Question { principal: &principal, target, context, now };
        stages.begin_together(Stage::Policy).await;
        let permit = self.policy.decide(&question).await.map_err(|refusal| {
            facts.opinion = Some(Opinion::from(&refusal));
            Denial::from(refusal)
        })?;
        facts.opinion = Some(Opinion::from(&permit));
        refuse_named(deny_list.as_deref(), &permit, now)?;
        let targets = self.items(&permit, &question, &mut facts.entitlements, stages).await?;
        let items = Listed { targets: &targets, assets: &self.policy };
        stages.begin_together(Stage::Token).await;
        let authority = request.host.authority(&request.scheme);
        let uri = [&request.scheme, "://", &authority, path.as_str()].concat();
        let binding = Binding { method: &request.method, uri: &uri };
        let token = self.minter.mint(&permit, &items, Some(&binding), channel, now, &id).await?;
        Ok(Grant::Signed { permit: Box::new(permit), token })
    }

    /// The deny list in force.
    pub fn deny_list(&self) -> Option<Arc<DenyList>> {
        self.deny_list.as_ref()?.current()
    }

    /// What the token lists: the request's own target, and where asked for all that is held.
    async fn items<'a>(
        &'a self,
        permit: &'a Permit,
        question: &Question<'_>,
        lookup: &mut Option<Lookup>,
        stages: &mut Stages,
    ) -> Result<Vec<&'a Target>, Denial> {
        let mut items = vec![permit.target()];
        let listed = permit.additions().entitlements.as_deref();
        if let Some(listed) = listed.filter(|_| self.minter.items() == Items::Entitlements) {
            items.retain(|target| !listed.contains(target));
            items.extend(listed);
        } else if let Some(catalogue) = &self.catalogue {
            stages.begin(Stage::Entitlements);
            let held = catalogue.held(&self.policy, question).await?;
            *lookup = Some(held.lookup);
            items.extend(held.targets.into_iter().filter(|target| *target != permit.target()));
        } else if self.minter.items() == Items::Entitlements {
            let what = "the policies' result has no entitlements, which the token is to list";
            return Err(Denial::new(Reason::PolicyError, what));
        }
        Ok(items)
    }
}

/// Refuses a principal on the deny list.
fn refuse_listed(
    list: Option<&DenyList>,
    principal: &Principal,
    now: Timestamp,
) -> Result<(), Denial> {
    match list.and_then(|list| list.refusing(principal, now)) {
        Some(listed) => Err(Denial::new(Reason::DenyListed, listed)),
        None => Ok(()),
    }
}

/// Refuses a subject on the deny list that the policies, and not the credential, named.
fn refuse_named(list: Option<&DenyList>, permit: &Permit, now: Timestamp) -> Result<(), Denial> {
    let named = permit.additions().subject.as_deref();
    match list.zip(named).and_then(|(list, subject)| list.refusing_subject(subject, now)) {
        Some(listed) => Err(Denial::new(Reason::DenyListed, listed)),
        None => Ok(()),
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
    /// A denial before anything was learned. It has an id too, unless randomness failed.
    pub fn denied(denial: Denial) -> Self {
        let facts = Facts { id: DecisionId::random().ok(), ..Facts::default() };
        Self { outcome: Err(denial), facts }
    }

    /// Lets a denial pass, as the scope's settings ask by `_asked`; a yes stays what it is.
    #[must_use]
    pub fn waived(self, _asked: DryRun) -> Self {
        let outcome = self.outcome.or_else(|denial| Ok(Grant::Waived(Waived { denial })));
        Self { outcome, ..self }
    }

    /// The code of why.
    pub fn reason(&self) -> &'static str {
        match &self.outcome {
            Ok(Grant::Bypass) => "bypass",
            Ok(Grant::Signed { .. }) => "permitted",
            Ok(Grant::Waived(waived)) => waived.denial.reason.code(),
            Err(denial) => denial.reason.code(),
        }
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
    pub opinion: Option<Opinion>,
    /// Where the list of what the principal holds came from.
    pub entitlements: Option<Lookup>,
}

impl Facts {
    /// What the policies were asked of `request`; `None` when it did not come to that.
    pub fn question<'a>(&'a self, request: &'a Request, now: Timestamp) -> Option<Question<'a>> {
        self.opinion.as_ref()?;
        let context = Context::Http { request, path: self.path.as_ref()? };
        let (principal, target) = (self.principal.as_ref()?, self.target.as_ref()?);
        Some(Question { principal, target, context, now })
    }
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
    /// Denied, and forwarded without a token all the same: the scope is not protected yet.
    Waived(Waived),
}

/// A denial that passes. Only [`Decision::waived`] makes one.
#[derive(Debug)]
pub struct Waived {
    denial: Denial,
}

impl Waived {
    /// What it would have been.
    pub fn denial(&self) -> &Denial {
        &self.denial
    }
}

/// That a scope's settings say `dryRun: true`: without one of these no denial can pass.
#[derive(Clone, Copy, Debug)]
pub struct DryRun(());

impl DryRun {
    /// From the value of the setting.
    pub(crate) fn of_setting(dry_run: bool) -> Option<Self> {
        dry_run.then_some(Self(()))
    }
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
    pub const fn reason(&self) -> Reason {
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
    /// The caller is on the deny list.
    DenyListed,
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
    /// The policies were not confirmed for longer than they may be.
    PolicyStale,
    /// There was no time left to decide.
    Deadline,
    /// Too many requests at once.
    Overload,
    /// The decision log has no room, and nothing is to pass unlogged.
    LogFull,
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
            Self::DenyListed => "deny_listed",
            Self::BadPath => "bad_path",
            Self::BadRequest => "bad_request",
            Self::BadBody => "bad_body",
            Self::KeyUnavailable => "key_unavailable",
            Self::PolicyError => "policy_error",
            Self::PolicyStale => "policy_stale",
            Self::Deadline => "deadline",
            Self::Overload => "overload",
            Self::LogFull => "log_full",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::NoCredentials | Self::BadToken => 401,
            Self::NoScope | Self::NoRoute | Self::NoPermit | Self::Forbidden | Self::DenyListed => {
                403
            }
            Self::BadPath | Self::BadRequest | Self::BadBody => 400,
            Self::KeyUnavailable
            | Self::PolicyError
            | Self::PolicyStale
            | Self::Deadline
            | Self::Overload
            | Self::LogFull
            | Self::Internal => 503,
        }
    }
}

impl From<CredentialRefusal> for Denial {
    fn from(refusal: CredentialRefusal) -> Self {
        let reason = match &refusal {
            CredentialRefusal::NoCredentials => Reason::NoCredentials,
            CredentialRefusal::BadToken(_) => Reason::BadToken,
            CredentialRefusal::KeysUnavailable { .. }
            | CredentialRefusal::Unasked { .. }
            | CredentialRefusal::ApiKeysUnavailable => Reason::KeyUnavailable,
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
            RefusalKind::Stale(_) => Reason::PolicyStale,
            RefusalKind::BadBody(_) => Reason::BadBody,
        };
        Self { custom: refusal.custom, ..Self::new(reason, refusal.kind) }
    }
}

impl From<Unlisted> for Denial {
    fn from(unlisted: Unlisted) -> Self {
        match unlisted {
            Unlisted::Undecided(refusal) => Self::from(refusal),
            Unlisted::TooMany(_) | Unlisted::TooManyToDecide(_) => {
                Self::new(Reason::Internal, unlisted)
            }
        }
    }
}

impl From<MintError> for Denial {
    fn from(error: MintError) -> Self {
        let reason = match error {
            MintError::Sign(SignError::Busy { .. }) => Reason::Overload,
            MintError::NoKey | MintError::Stale | MintError::Sign(_) => Reason::KeyUnavailable,
            MintError::Expired | MintError::Actor(_) => Reason::BadToken,
            MintError::Attribute(_) => Reason::PolicyError,
            MintError::TooLong(_)
            | MintError::TooManyItems { .. }
            | MintError::Claims(_)
            | MintError::Random => Reason::Internal,
        };
        Self::new(reason, error)
    }
}

#[cfg(test)]
mod tests;
