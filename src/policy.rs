//! The decision, and the proof of it.
//!
//! [`Policy::decide`] is the only place where a [`Permit`] comes into being, and code that signs
//! takes a `Permit`: so nothing is signed that no policy permitted. Deny is the default: no policy
//! that matches, a forbid, or a fault of the engine each refuse.
//!
//! An engine reads a [`Question`] and gives a `Verdict`; what follows from it is the same for all.

pub mod bundle;
mod cedar;
mod changes;
mod rego;
mod verdict;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

pub use cedar::{Cedar, CedarError, CedarSources};
pub use changes::{Answer, ChangeFault, Changes, CustomDenial, Mutations, Protected};
pub use rego::{Evaluator, Rego, RegoError, RegoSources};
pub use verdict::{Additions, Grounds, Refusal, RefusalKind};
use verdict::{Effect, Fault, Verdict};

use crate::clock::Timestamp;
use crate::identity::Principal;
use crate::path::CanonicalPath;
use crate::request::Request;
use crate::route::Target;

/// What is to be decided: may this principal do this, under these circumstances?
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub principal: &'a Arc<Principal>,
    /// What is asked for.
    pub target: &'a Target,
    /// Under which circumstances.
    pub context: Context<'a>,
    /// The time of the decision.
    pub now: Timestamp,
}

/// The circumstances of a question.
#[derive(Clone, Copy, Debug)]
pub enum Context<'a> {
    /// An HTTP request.
    Http {
        /// The request.
        request: &'a Request,
        /// Its canonical path.
        path: &'a CanonicalPath,
    },
    /// What an application states when it asks without a request.
    Stated(&'a Stated),
}

/// What an application states of a question, as its own word for it.
#[derive(Clone, Debug, Default)]
pub struct Stated {
    /// The environment of the action.
    pub context: Map<String, Value>,
    /// Attributes of the action.
    pub action: Map<String, Value>,
    /// Attributes of the asset.
    pub asset: Map<String, Value>,
}

/// The policies of one scope, compiled.
#[derive(Debug)]
pub struct Policy {
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Cedar(Box<Cedar>),
    Rego(Box<Rego>),
}

impl Policy {
    /// A policy decided by Cedar.
    pub fn cedar(engine: Cedar) -> Self {
        Self { engine: Engine::Cedar(Box::new(engine)) }
    }

    /// A policy decided by Rego.
    pub fn rego(engine: Rego) -> Self {
        Self { engine: Engine::Rego(Box::new(engine)) }
    }

    /// Whether the policies themselves say what a principal holds, so that there is nothing to ask
    /// them about.
    pub fn lists_entitlements(&self) -> bool {
        matches!(self.engine, Engine::Rego(_))
    }

    /// Which snapshot of the policies this is: changes whenever their text does.
    pub fn revision(&self) -> &str {
        match &self.engine {
            Engine::Cedar(cedar) => cedar.revision(),
            Engine::Rego(rego) => rego.revision(),
        }
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        match &self.engine {
            Engine::Cedar(cedar) => cedar.len(),
            Engine::Rego(rego) => rego.len(),
        }
    }

    /// Whether there is no policy at all, so that everything is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decides; a yes is a [`Permit`]. It awaits a remote engine, and nothing else.
    pub async fn decide(&self, question: &Question<'_>) -> Result<Permit, Refusal> {
        let verdict = match &self.engine {
            Engine::Cedar(cedar) => cedar.decide(question),
            Engine::Rego(rego) => rego.decide(question),
        };
        verdict.permit(question.principal, question.target)
    }

    /// [`Self::decide`], of an engine that asks nobody.
    #[cfg(test)]
    pub(crate) fn decide_now(&self, question: &Question<'_>) -> Result<Permit, Refusal> {
        use futures_util::FutureExt as _;
        self.decide(question).now_or_never().unwrap()
    }

    /// Makes ready to decide on many targets for the principal and request of `question`; its own
    /// target is but one of them. Policies that list entitlements themselves can't be asked.
    pub fn inquire<'a>(&'a self, question: &Question<'a>) -> Result<Inquiry<'a>, Refusal> {
        let engine = match &self.engine {
            Engine::Cedar(engine) => engine,
            Engine::Rego(rego) => {
                let text = "these policies list entitlements in their own result only";
                return Err(
                    Verdict::fault(Fault::Engine(text.to_owned()), rego.revision()).refusal()
                );
            }
        };
        let asking = engine.ask(question).map_err(|error| engine.fault(&error).refusal())?;
        Ok(Inquiry { principal: question.principal, asking })
    }

    /// Every asset of one of `types` that the policies' entities know.
    pub fn known_assets(&self, types: &BTreeSet<&str>) -> Vec<(String, String)> {
        match &self.engine {
            Engine::Cedar(cedar) => cedar.known_assets(types),
            Engine::Rego(_) => Vec::new(),
        }
    }
}

/// One principal's request, ready to be decided on any number of targets.
#[derive(Debug)]
pub struct Inquiry<'a> {
    principal: &'a Arc<Principal>,
    asking: cedar::Asking<'a>,
}

impl Inquiry<'_> {
    /// Whether the principal may do `target`, decided like the request itself.
    pub fn permits(&self, target: &Target) -> Result<bool, Refusal> {
        match self.asking.effect(target) {
            Effect::Permitted => Ok(true),
            Effect::Forbidden | Effect::Unmatched => Ok(false),
            Effect::Fault(_) => {
                self.asking.decide(target).permit(self.principal, target).map(|_| true)
            }
        }
    }
}

/// Proof that policy permitted: who, what, and why. Only [`Policy::decide`] makes one.
#[derive(Clone, Debug)]
pub struct Permit {
    principal: Arc<Principal>,
    target: Target,
    grounds: Grounds,
    additions: Additions,
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

    /// What the policy adds to its yes.
    pub fn additions(&self) -> &Additions {
        &self.additions
    }
}

impl Verdict {
    /// What follows from it.
    fn permit(self, principal: &Arc<Principal>, target: &Target) -> Result<Permit, Refusal> {
        if !matches!(self.effect, Effect::Permitted) {
            return Err(self.refusal());
        }
        Ok(Permit {
            principal: Arc::clone(principal),
            target: target.clone(),
            grounds: self.grounds,
            additions: self.additions,
        })
    }
}

#[cfg(test)]
mod tests;
