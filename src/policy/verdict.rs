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
    /// The policies look at the request's body, which can't be read as what it says it is.
    BadBody(String),
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPermit => f.write_str("no policy permits it"),
            Self::Forbidden => f.write_str("a policy forbids it"),
            Self::Fault(text) => f.write_str(text),
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
