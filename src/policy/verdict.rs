//! What an engine says, in words common to all engines.

use std::fmt;

use super::changes::{CustomDenial, Mutations};
use crate::route::Target;

/// What an engine found.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) effect: Effect,
    pub(super) grounds: Grounds,
    /// Beside a yes.
    pub(super) additions: Additions,
    /// Beside a no.
    pub(super) denial: Option<Box<CustomDenial>>,
}

#[derive(Debug)]
pub(super) enum Effect {
    Permitted,
    Forbidden,
    Unmatched,
    /// There is no telling: a forbid that fails might have forbidden.
    Fault(Fault),
}

/// Why there is no telling.
#[derive(Debug)]
pub(super) enum Fault {
    /// The engine or the policies failed.
    Engine(String),
    /// The policies look at the body, and it is not what it says it is.
    Body(String),
}

impl Verdict {
    /// A verdict with nothing beside it.
    pub(super) fn plain(effect: Effect, grounds: Grounds) -> Self {
        Self { effect, grounds, additions: Additions::default(), denial: None }
    }

    /// A verdict that there is none, under the policies of `revision`.
    pub(super) fn fault(fault: Fault, revision: &str) -> Self {
        let grounds = Grounds { revision: revision.to_owned(), ..Grounds::default() };
        Self::plain(Effect::Fault(fault), grounds)
    }

    /// The no that it is; one without a reason to permit is a no.
    pub(super) fn refusal(self) -> Refusal {
        let kind = match self.effect {
            Effect::Forbidden => RefusalKind::Forbidden,
            Effect::Permitted | Effect::Unmatched => RefusalKind::NoPermit,
            Effect::Fault(Fault::Engine(text)) => RefusalKind::Fault(text),
            Effect::Fault(Fault::Body(text)) => RefusalKind::BadBody(text),
        };
        Refusal { kind, grounds: Box::new(self.grounds), custom: self.denial }
    }
}

/// What a policy set says of a question, without any power to permit.
#[derive(Clone, Debug)]
pub struct Opinion {
    /// In one word.
    pub said: Said,
    /// What it rests on.
    pub grounds: Grounds,
    /// What exactly was wrong, where there is no telling.
    pub detail: Option<String>,
}

/// What a policy set says, in one word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Said {
    /// Permitted.
    Permitted,
    /// No policy permits it.
    NoPermit,
    /// A policy forbids it.
    Forbidden,
    /// There is no telling.
    Fault,
}

impl Opinion {
    /// That there is no telling, under the policies of `revision`.
    pub fn fault(detail: &str, revision: &str) -> Self {
        let grounds = Grounds { revision: revision.to_owned(), ..Grounds::default() };
        Self { said: Said::Fault, grounds, detail: Some(detail.to_owned()) }
    }

    /// Whether both come to the same yes or no; where there is no telling they never do.
    pub fn agrees(&self, other: &Self) -> bool {
        let is_told = self.said != Said::Fault && other.said != Said::Fault;
        is_told && (self.said == Said::Permitted) == (other.said == Said::Permitted)
    }
}

impl Said {
    /// `allow`, `deny` or `fault`.
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::Permitted => "allow",
            Self::NoPermit | Self::Forbidden => "deny",
            Self::Fault => "fault",
        }
    }

    /// The reason code.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::NoPermit => "no_permit",
            Self::Forbidden => "forbidden",
            Self::Fault => "policy_error",
        }
    }
}

impl From<&Refusal> for Opinion {
    fn from(refusal: &Refusal) -> Self {
        let (said, detail) = match &refusal.kind {
            RefusalKind::NoPermit => (Said::NoPermit, None),
            RefusalKind::Forbidden => (Said::Forbidden, None),
            fault @ (RefusalKind::Fault(_) | RefusalKind::Stale(_) | RefusalKind::BadBody(_)) => {
                (Said::Fault, Some(fault.to_string()))
            }
        };
        Self { said, grounds: (*refusal.grounds).clone(), detail }
    }
}

/// A no, and why.
#[derive(Debug)]
pub struct Refusal {
    /// Which kind of no.
    pub kind: RefusalKind,
    /// What it rests on.
    pub grounds: Box<Grounds>,
    /// How the policy wants it answered.
    pub custom: Option<Box<CustomDenial>>,
}

/// The kinds of no.
#[derive(Debug)]
pub enum RefusalKind {
    /// No policy permits it.
    NoPermit,
    /// A policy forbids it.
    Forbidden,
    /// It could not be decided; the text says why, for the log.
    Fault(String),
    /// The policies were not confirmed for too long.
    Stale(String),
    /// The policies look at the request's body, which can't be read as what it says it is.
    BadBody(String),
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPermit => f.write_str("no policy permits it"),
            Self::Forbidden => f.write_str("a policy forbids it"),
            Self::Fault(text) | Self::Stale(text) => f.write_str(text),
            Self::BadBody(text) => write!(f, "the body can't be read: {text}"),
        }
    }
}

/// What a decision rests on, for the record.
#[derive(Clone, Debug, Default)]
pub struct Grounds {
    /// The ids of the determining policies, sorted.
    pub determining: Vec<String>,
    /// What the determining policies say of themselves (Cedar: by `@reason`, in the same order).
    pub reasons: Vec<String>,
    /// Policies that could not be evaluated, with the error.
    pub errors: Vec<String>,
    /// The policy snapshot.
    pub revision: String,
}

/// What a policy adds to its yes. Cedar adds nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Additions {
    /// Whom the token speaks of, in place of the principal's own subject.
    pub subject: Option<String>,
    /// All that the principal holds, for a token that lists it.
    pub entitlements: Option<Vec<Target>>,
    /// What is to be changed in the request and its response.
    pub mutations: Mutations,
}
