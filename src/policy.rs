//! The decision, and the proof of it.
//!
//! [`Policy::decide`] is the only place where a [`Permit`] comes into being, and code that signs
//! takes a `Permit`: so nothing is signed that no policy permitted. Deny is the default: no policy
//! that matches, a forbid, or a forbid that can't be evaluated each refuse.

mod cedar;
mod context;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use cedar::{Cedar, CedarError, CedarSources};

use crate::clock::Timestamp;
use crate::identity::Principal;
use crate::path::CanonicalPath;
use crate::request::Request;
use crate::route::Target;

/// What is to be decided: may this principal do this, on this request?
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub principal: &'a Arc<Principal>,
    /// What is asked for.
    pub target: &'a Target,
    /// The request it came in.
    pub request: &'a Request,
    /// The request's canonical path.
    pub path: &'a CanonicalPath,
    /// The time of the decision.
    pub now: Timestamp,
}

/// The policies of one scope, compiled.
#[derive(Debug)]
pub struct Policy {
    engine: Cedar,
}

impl Policy {
    /// A policy decided by Cedar.
    pub fn cedar(engine: Cedar) -> Self {
        Self { engine }
    }

    /// Which snapshot of the policies this is: changes whenever their text does.
    pub fn revision(&self) -> &str {
        self.engine.revision()
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.engine.len()
    }

    /// Whether there is no policy at all, so that everything is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decides; a yes is a [`Permit`].
    pub fn decide(&self, question: &Question<'_>) -> Result<Permit, Refusal> {
        let evaluation = self.engine.evaluate(question).map_err(|error| Refusal {
            kind: RefusalKind::Fault(error.to_string()),
            grounds: Grounds::new(self.revision()),
        })?;
        let (effect, grounds) = evaluation;
        match effect {
            Effect::Permitted => Ok(Permit {
                principal: Arc::clone(question.principal),
                target: question.target.clone(),
                grounds,
            }),
            Effect::Forbidden => Err(Refusal { kind: RefusalKind::Forbidden, grounds }),
            Effect::Unmatched => Err(Refusal { kind: RefusalKind::NoPermit, grounds }),
            Effect::BrokenForbid(id) => {
                let fault = format!("the forbid policy `{id}` could not be evaluated");
                Err(Refusal { kind: RefusalKind::Fault(fault), grounds })
            }
        }
    }

    /// Whether the principal of `question` may do `target`, decided like the question itself.
    pub fn permits(&self, question: &Question<'_>, target: &Target) -> Result<bool, Refusal> {
        match self.decide(&Question { target, ..*question }) {
            Ok(_) => Ok(true),
            Err(Refusal { kind: RefusalKind::Forbidden | RefusalKind::NoPermit, .. }) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Every asset of one of `types` that the policies' entities know.
    pub fn known_assets(&self, types: &BTreeSet<&str>) -> Vec<(String, String)> {
        self.engine.known_assets(types)
    }
}

/// Proof that policy permitted: who, what, and why. Only [`Policy::decide`] makes one.
#[derive(Clone, Debug)]
pub struct Permit {
    principal: Arc<Principal>,
    target: Target,
    grounds: Grounds,
}

impl Permit {
    /// Who was permitted.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What was permitted.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Why.
    pub fn grounds(&self) -> &Grounds {
        &self.grounds
    }
}

/// A no, and why.
#[derive(Debug)]
pub struct Refusal {
    /// Which kind of no.
    pub kind: RefusalKind,
    /// What it rests on.
    pub grounds: Grounds,
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
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPermit => f.write_str("no policy permits it"),
            Self::Forbidden => f.write_str("a policy forbids it"),
            Self::Fault(fault) => f.write_str(fault),
        }
    }
}

/// What a decision rests on, for the record.
#[derive(Clone, Debug, Default)]
pub struct Grounds {
    /// The ids of the determining policies, sorted.
    pub determining: Vec<String>,
    /// Policies that could not be evaluated, with the error.
    pub errors: Vec<String>,
    /// The policy snapshot.
    pub revision: String,
}

impl Grounds {
    fn new(revision: &str) -> Self {
        Self { revision: revision.to_owned(), ..Self::default() }
    }
}

/// What an engine found.
#[derive(Debug)]
enum Effect {
    Permitted,
    Forbidden,
    Unmatched,
    /// The forbid policy with this id failed: it might have forbidden.
    BrokenForbid(String),
}

#[cfg(test)]
mod tests;
