//! The decision, and the proof of it.
//!
//! [`Policy::decide`] is the only place where a [`Permit`] comes into being, and code that signs
//! takes a `Permit`: so nothing is signed that no policy permitted. Deny is the default: no policy
//! that matches, a forbid, or a fault of the engine each refuse.
//!
//! An engine reads a [`Question`] and gives a `Verdict`; what follows from it is the same for all.

mod age;
mod authzen;
pub mod bundle;
mod cedar;
mod changes;
mod rego;
mod source;
mod verdict;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use serde_json::{Map, Value};

use age::AgeLimit;
pub use age::Confirmed;
pub use authzen::{Authzen, AuthzenError, AuthzenSettings, Credentials};
pub use bundle::{Bundle, BundleSettings, BundleTask, Verification};
pub use cedar::{Cedar, CedarError, CedarSources};
pub use changes::{Answer, ChangeFault, Changes, CustomDenial, Mutations, Protected};
pub use rego::{Evaluator, Rego, RegoError, RegoSources};
use source::Source;
pub use source::{Fetching, InForce};
pub use verdict::{Additions, Grounds, Opinion, Refusal, RefusalKind, Said};
use verdict::{Effect, Fault, Verdict};

use crate::clock::Timestamp;
use crate::identity::Principal;
use crate::path::CanonicalPath;
use crate::request::{Reads, Request};
use crate::route::Target;
use crate::secrets::Kept;

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

/// What an application states of a question, as its own word for it. What the operator's entities say
/// stands above it, and it can state no peer and no time.
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
    source: Source,
    age_limit: Option<AgeLimit>,
}

#[derive(Debug)]
enum Engine {
    Cedar(Box<Cedar>),
    Rego(Box<Rego>),
    Authzen(Box<Authzen>),
}

impl Policy {
    /// A policy decided by Cedar.
    pub fn cedar(engine: Cedar) -> Self {
        Self::loaded(Engine::Cedar(Box::new(engine)))
    }

    /// A policy decided by Rego.
    pub fn rego(engine: Rego) -> Self {
        Self::loaded(Engine::Rego(Box::new(engine)))
    }

    /// Whether the policies themselves say what a principal holds, so that there is nothing to ask
    /// them about.
    pub fn lists_entitlements(&self) -> bool {
        self.engine() == "rego"
    }

    /// A policy that a remote decision point keeps.
    pub fn authzen(engine: Authzen) -> Self {
        Self::loaded(Engine::Authzen(Box::new(engine)))
    }

    /// A policy that `settings` say where to fetch, and the task that does. `build` makes the policies
    /// of a bundle, by the engine `name`.
    pub fn fetched(
        name: &'static str,
        settings: BundleSettings,
        build: bundle::Build,
    ) -> (Self, BundleTask) {
        let (keeper, engine) = Kept::channel();
        let task = BundleTask::new(settings, build, keeper);
        (Self { source: Source::Fetched { name, engine }, age_limit: None }, task)
    }

    fn loaded(engine: Engine) -> Self {
        Self { source: Source::Loaded(engine), age_limit: None }
    }

    /// The same, deciding nothing while it was `confirmed` longer ago than `max`.
    #[must_use]
    pub fn no_older_than(self, max: Duration, confirmed: Confirmed) -> Self {
        Self { age_limit: Some(AgeLimit { max, confirmed }), ..self }
    }

    /// Whether it was confirmed so long ago that it decides nothing at `now`.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.age_limit.as_ref().is_some_and(|limit| limit.is_over(now))
    }

    fn fresh(&self, now: Timestamp) -> Result<(), Refusal> {
        match &self.age_limit {
            Some(limit) if limit.is_over(now) => {
                let since = limit.confirmed.last().rfc3339();
                let kind = RefusalKind::Stale(format!(
                    "the policies were last confirmed at {since}, longer ago than `maxPolicyAge`: see /readyz"
                ));
                let revision = self.revision();
                let grounds = Box::new(Grounds { revision, ..Grounds::default() });
                Err(Refusal { kind, grounds, custom: None })
            }
            _ => Ok(()),
        }
    }

    /// What is to be fetched, if anything is.
    pub fn fetching(&self) -> Option<Fetching> {
        match &self.source {
            Source::Fetched { engine, .. } => Some(Fetching::new(engine.clone())),
            Source::Loaded(_) => None,
        }
    }

    /// What decides now.
    pub fn in_force(&self) -> InForce {
        self.source.in_force()
    }

    /// Whether what decided then still does.
    pub fn is_in_force(&self, then: &InForce) -> bool {
        self.source.is_in_force(then)
    }

    fn into_engine(self) -> Option<Engine> {
        match self.source {
            Source::Loaded(engine) => Some(engine),
            Source::Fetched { .. } => None,
        }
    }

    /// The engine's name, as in the settings.
    pub fn engine(&self) -> &'static str {
        match &self.source {
            Source::Loaded(Engine::Cedar(_)) => "cedar",
            Source::Loaded(Engine::Rego(_)) => "rego",
            Source::Loaded(Engine::Authzen(_)) => "authzen",
            Source::Fetched { name, .. } => name,
        }
    }

    /// Which snapshot of the policies this is: changes whenever their text does. Empty before anything
    /// was fetched.
    pub fn revision(&self) -> String {
        self.source.snapshot().map(|engine| engine.revision().to_owned()).unwrap_or_default()
    }

    /// How many policies there are; a remote engine counts as one, and so does what is not fetched.
    pub fn len(&self) -> usize {
        self.source.snapshot().map_or(1, |engine| match &*engine {
            Engine::Cedar(cedar) => cedar.len(),
            Engine::Rego(rego) => rego.len(),
            Engine::Authzen(_) => 1,
        })
    }

    /// Whether there is no policy at all, so that everything is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decides; a yes is a [`Permit`]. It awaits a remote engine, and nothing else.
    pub async fn decide(&self, question: &Question<'_>) -> Result<Permit, Refusal> {
        self.fresh(question.now)?;
        let Some(engine) = self.source.snapshot() else {
            let fault =
                Fault::Engine("no bundle of policies is loaded yet: see /readyz".to_owned());
            return Err(Verdict::fault(fault, "").refusal());
        };
        let verdict = match &*engine {
            Engine::Cedar(cedar) => cedar.decide(question),
            Engine::Rego(rego) => rego.decide(question),
            Engine::Authzen(remote) => Box::pin(remote.decide(question)).await,
        };
        verdict.permit(question.principal, question.target)
    }

    /// What it would decide: to be compared or told, and no proof of anything.
    pub async fn opinion(&self, question: &Question<'_>) -> Opinion {
        match self.decide(question).await {
            Ok(permit) => Opinion::from(&permit),
            Err(refusal) => Opinion::from(&refusal),
        }
    }

    /// The ids of all policies, sorted; none of an engine whose policies have no ids.
    pub fn ids(&self) -> Vec<String> {
        match self.source.snapshot().as_deref() {
            Some(Engine::Cedar(cedar)) => cedar.ids(),
            _ => Vec::new(),
        }
    }

    /// [`Self::decide`], of an engine that asks nobody.
    #[cfg(test)]
    pub(crate) fn decide_now(&self, question: &Question<'_>) -> Result<Permit, Refusal> {
        use futures_util::FutureExt as _;
        self.decide(question).now_or_never().unwrap()
    }

    /// Makes ready to decide on many targets for the principal and circumstances of `question`; its
    /// own target is but one of them. Only policies that know what there is can be asked.
    pub fn inquire<'a>(&'a self, question: &Question<'a>) -> Result<Inquiry<'a>, Refusal> {
        self.fresh(question.now)?;
        let cedar = self.as_cedar().ok_or_else(|| self.unsearchable())?;
        let asking = cedar.ask(question).map_err(|error| cedar.fault(&error).refusal())?;
        Ok(Inquiry { principal: question.principal, asking })
    }

    /// The id of every entity of the type `name` that the policies' entities know, sorted; `None` of
    /// an engine that can't tell.
    pub fn known_ids(&self, name: &str) -> Option<Vec<&str>> {
        self.as_cedar().map(|cedar| cedar.known_ids(name))
    }

    /// Every action that the policies, their schema or entities name; `None` of an engine that can't
    /// tell.
    pub fn known_actions(&self) -> Option<BTreeSet<&str>> {
        self.as_cedar().map(Cedar::known_actions)
    }

    fn unsearchable(&self) -> Refusal {
        let text = format!("the engine {} can't tell what there is", self.engine());
        Verdict::fault(Fault::Engine(text), &self.revision()).refusal()
    }

    /// Cedar that stays in force; what is fetched may be another one in the middle of a list.
    fn as_cedar(&self) -> Option<&Cedar> {
        match &self.source {
            Source::Loaded(Engine::Cedar(cedar)) => Some(cedar),
            Source::Loaded(_) | Source::Fetched { .. } => None,
        }
    }

    /// Everything that a list of what somebody holds can name: the assets that the policies'
    /// entities know, of the types in `pairs` (asset type, action), with the actions that `pairs`
    /// and the schema name for them.
    pub fn inventory(&self, pairs: &BTreeSet<(&str, &str)>) -> Inventory {
        Inventory(self.as_cedar().map(|cedar| cedar.inventory(pairs)).unwrap_or_default())
    }

    /// Makes ready to list what the principal of `question` holds of `inventory`, which is this
    /// policy's own; the question's target is but one of them.
    pub fn list<'a>(
        &'a self,
        inventory: &'a Inventory,
        question: &Question<'a>,
    ) -> Result<Listing<'a>, Refusal> {
        let cedar = self.as_cedar().ok_or_else(|| self.unsearchable())?;
        match cedar.list(&inventory.0, question) {
            Ok(listing) => Ok(Listing(listing)),
            Err(error) => Err(cedar.fault(&error).refusal()),
        }
    }

    /// What the policies can see of the principal of `question`. `None` where an application
    /// states the circumstances: what it says of the principal's peer is then not the peer.
    pub fn sight(&self, question: &Question<'_>) -> Option<Sight> {
        let Context::Http { .. } = question.context else { return None };
        let text = serde_json::to_vec(&self.as_cedar()?.sight(question.principal)).ok()?;
        let digest = digest::digest(&digest::SHA256, &text);
        digest.as_ref().try_into().ok().map(Sight)
    }

    /// The attribute `name` of `target`'s asset, as the policies' entities have it.
    pub fn attribute(&self, target: &Target, name: &str) -> Result<String, NoAttribute> {
        let found = self.as_cedar().and_then(|cedar| cedar.attribute(target, name));
        found.ok_or_else(|| NoAttribute {
            asset_type: target.asset_type.escape_debug().to_string(),
            asset_id: target.asset_id.escape_debug().to_string(),
            name: name.to_owned(),
        })
    }
}

impl Engine {
    fn revision(&self) -> &str {
        match self {
            Self::Cedar(cedar) => cedar.revision(),
            Self::Rego(rego) => rego.revision(),
            Self::Authzen(remote) => remote.revision(),
        }
    }

    /// A remote point of decision keeps what it decides itself.
    fn reads(&self) -> Option<Reads> {
        match self {
            Self::Cedar(cedar) => cedar.reads(),
            Self::Rego(rego) => rego.reads(),
            Self::Authzen(_) => None,
        }
    }
}

/// One principal under its circumstances, ready to be decided on any number of targets.
#[derive(Debug)]
pub struct Inquiry<'a> {
    principal: &'a Arc<Principal>,
    asking: cedar::Asking<'a>,
}

impl Inquiry<'_> {
    /// Whether the principal may do `target`, decided like the question itself.
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

/// All that a list of what somebody holds can name.
#[derive(Debug)]
pub struct Inventory(cedar::Inventory);

impl Inventory {
    /// By asset type, asset id and action. A target's place here is its number.
    pub fn targets(&self) -> &[Target] {
        self.0.targets()
    }
}

/// A list of what one principal holds, in the making.
#[derive(Debug)]
pub struct Listing<'a>(cedar::Listing<'a>);

impl Listing<'_> {
    /// How many targets there are to decide, at most: those that some permit can reach.
    pub fn reach(&self) -> usize {
        self.0.reach()
    }

    /// Decides on some more targets and adds the numbers of those that are held to `held`, in no
    /// order. False when there was nothing left to decide. What is held is exactly what
    /// [`Policy::decide`] would permit; where it could not tell, the whole list is refused.
    pub fn decide_some(&mut self, held: &mut Vec<usize>) -> Result<bool, Refusal> {
        self.0.decide_some(held)
    }

    /// Whether what came out so far depends on more than the principal's [`Sight`].
    pub fn looked_at_request(&self) -> bool {
        self.0.looked_at_request()
    }
}

/// A digest of all that the policies can see of a principal: its id, type and groups, and of its
/// issuer, its peer and its claims what some policy names.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Sight([u8; 32]);

/// The entities don't say what is to be written of an asset.
#[derive(Debug, thiserror::Error)]
#[error(
    "the asset `{asset_type}` `{asset_id}` has no attribute `{name}` that is a string, a whole number or true or false: add it to the entities, or take it out of the template"
)]
pub struct NoAttribute {
    asset_type: String,
    asset_id: String,
    name: String,
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

impl From<&Permit> for Opinion {
    fn from(permit: &Permit) -> Self {
        Self { said: Said::Permitted, grounds: permit.grounds.clone(), detail: None }
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
