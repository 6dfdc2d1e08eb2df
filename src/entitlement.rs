//! What a principal may do at all: the list that a token can carry (`items: entitlements`).
//!
//! The candidates are the assets that the policy's entities know, of the types that the routes
//! name, with the actions that the routes name for them; each is decided like the request itself.
//! A list is complete or it is refused, never cut.

use std::collections::BTreeSet;

use crate::policy::{Policy, Question, Refusal};
use crate::route::{Routes, Target};

/// Deciding more than this for one request would make it a way to exhaust the process.
const MAX_CANDIDATES: usize = 20_000;

/// Candidates decided between two pauses.
const BETWEEN_YIELDS: usize = 32;

/// All that could be an entitlement in one scope.
#[derive(Debug)]
pub struct Catalogue(Vec<Target>);

impl Catalogue {
    /// Pairs the policy's known assets with the routes' actions.
    pub fn new(policy: &Policy, routes: &Routes) -> Result<Self, TooManyCandidates> {
        let types: BTreeSet<&str> = routes.named_targets().map(|(name, _)| name).collect();
        let pairs: BTreeSet<(&str, &str)> = routes.named_targets().collect();
        let mut targets = BTreeSet::new();
        for (asset_type, asset_id) in policy.known_assets(&types) {
            for (_, action) in pairs.iter().filter(|(name, _)| *name == asset_type) {
                targets.insert(Target {
                    asset_type: asset_type.clone(),
                    asset_id: asset_id.clone(),
                    action: (*action).to_owned(),
                });
            }
        }
        if targets.len() > MAX_CANDIDATES {
            return Err(TooManyCandidates(targets.len()));
        }
        Ok(Self(targets.into_iter().collect()))
    }

    /// What the principal of `question` holds, in the catalogue's order.
    /// Between candidates the caller's deadline can strike, so that a long list ends in a denial
    /// of ours and not in the caller's giving up.
    pub async fn held(
        &self,
        policy: &Policy,
        question: &Question<'_>,
    ) -> Result<Vec<&Target>, Refusal> {
        let inquiry = policy.inquire(question)?;
        let mut held = Vec::new();
        for chunk in self.0.chunks(BETWEEN_YIELDS) {
            for target in chunk {
                if inquiry.permits(target)? {
                    held.push(target);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(held)
    }
}

/// The catalogue is larger than a request may decide on.
#[derive(Debug, thiserror::Error)]
#[error(
    "`items: entitlements` would decide {0} candidates a request, more than {MAX_CANDIDATES}: use `items: decision`, or fewer assets in the entities file"
)]
pub struct TooManyCandidates(usize);
