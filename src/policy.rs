//! The decision, and the proof of it.
//!
//! [`Policy::decide`] is the only place where a [`Permit`] comes into being, and code that signs
//! takes a `Permit`: so nothing is signed that no policy permitted. Deny is the default: no policy
//! that matches, a forbid, or a forbid that can't be evaluated each refuse.

mod cedar;
mod context;
mod entities;
mod footprint;
mod index;
mod load;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use cedar::Cedar;
pub use load::{CedarError, CedarSources};

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
        self.inquire(question)?.decide(question.target)
    }

    /// Makes ready to decide on many targets for the principal and request of `question`; its own
    /// target is but one of them.
    pub fn inquire<'a>(&'a self, question: &Question<'a>) -> Result<Inquiry<'a>, Refusal> {
        let asking = self.engine.ask(question).map_err(|error| self.fault(&error))?;
        Ok(Inquiry { policy: self, principal: question.principal, asking })
    }

    /// Every asset of one of `types` that the policies' entities know.
    pub fn known_assets(&self, types: &BTreeSet<&str>) -> Vec<(String, String)> {
        self.engine.known_assets(types)
    }

    fn fault(&self, error: &cedar::EvaluationError) -> Refusal {
        let grounds = Grounds { revision: self.revision().to_owned(), ..Grounds::default() };
        Refusal { kind: RefusalKind::Fault(error.to_string()), grounds }
    }
}

/// One principal's request, ready to be decided on any number of targets.
#[derive(Debug)]
pub struct Inquiry<'a> {
    policy: &'a Policy,
    principal: &'a Arc<Principal>,
    asking: cedar::Asking<'a>,
}

impl Inquiry<'_> {
    /// Whether the principal may do `target`, decided like the request itself.
    pub fn permits(&self, target: &Target) -> Result<bool, Refusal> {
        match self.verdict(target)?.effect() {
            Effect::Permitted => Ok(true),
            Effect::Forbidden | Effect::Unmatched => Ok(false),
            Effect::BrokenForbid(_) => self.decide(target).map(|_| true),
        }
    }

    fn decide(&self, target: &Target) -> Result<Permit, Refusal> {
        let verdict = self.verdict(target)?;
        let grounds = verdict.grounds(self.policy.revision());
        let kind = match verdict.effect() {
            Effect::Permitted => {
                let principal = Arc::clone(self.principal);
                return Ok(Permit { principal, target: target.clone(), grounds });
            }
            Effect::Forbidden => RefusalKind::Forbidden,
            Effect::Unmatched => RefusalKind::NoPermit,
            Effect::BrokenForbid(id) => {
                RefusalKind::Fault(format!("the forbid policy `{id}` could not be evaluated"))
            }
        };
        Err(Refusal { kind, grounds })
    }

    fn verdict(&self, target: &Target) -> Result<cedar::Verdict<'_>, Refusal> {
        self.asking.verdict(target).map_err(|error| self.policy.fault(&error))
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
    /// What the determining policies say of themselves by `@reason`, in the same order.
    pub reasons: Vec<String>,
    /// Policies that could not be evaluated, with the error.
    pub errors: Vec<String>,
    /// The policy snapshot.
    pub revision: String,
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
