//! What a principal may do at all: the list that a token can carry (`items: entitlements`).
//!
//! The list names the assets that the policy's entities know, of the types that the routes name,
//! with the actions that the routes and the schema name for them; each is decided like the request
//! itself. It is complete or it is refused, never cut. A list that depended on nothing of the request but
//! who sent it is kept for the next one; a catalogue belongs to one reading of the policies, so with
//! new policies nothing of the old is left.

use std::collections::BTreeSet;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::clock::Timestamp;
use crate::policy::{Inventory, Policy, Question, Refusal, Sight};
use crate::route::{Routes, Target};

/// What an inventory of more would take of memory, nobody expects of a sidecar.
const MAX_TARGETS: usize = 200_000;

/// Deciding more than this for one request would make it a way to exhaust the process.
const MAX_DECIDED: usize = 20_000;

/// What the kept lists of one scope may take, in bytes.
const MAX_KEPT_BYTES: u64 = 4 * 1024 * 1024;

/// What a kept list takes beside its items, in bytes: this also bounds how many are kept.
const KEPT_OVERHEAD: usize = 128;

/// All that could be an entitlement in one scope, and the lists that need not be made again.
#[derive(Debug)]
pub struct Catalogue {
    inventory: Inventory,
    max_items: usize,
    kept: Cache<Sight, Kept, Bytes>,
}

/// The numbers of the targets that somebody holds, sorted.
#[derive(Clone, Debug)]
struct Kept {
    held: Arc<[u32]>,
    /// When the credential that it was made for ends.
    expires: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Weighter<Sight, Kept> for Bytes {
    fn weight(&self, _: &Sight, kept: &Kept) -> u64 {
        u64::try_from(KEPT_OVERHEAD + size_of_val(&*kept.held)).unwrap_or(u64::MAX)
    }
}

/// A list, and where it came from.
#[derive(Debug)]
pub struct Held<'a> {
    /// What is held, in the catalogue's order.
    pub targets: Vec<&'a Target>,
    /// Whether it had been kept.
    pub lookup: Lookup,
}

/// What a look into a cache found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lookup {
    /// What was looked for.
    Hit,
    /// Nothing that could be used.
    Miss,
}

impl Catalogue {
    /// Pairs the policy's known assets with the actions on them; a list has at most `max_items`.
    pub fn new(policy: &Policy, routes: &Routes, max_items: usize) -> Result<Self, TooManyTargets> {
        let pairs: BTreeSet<(&str, &str)> = routes.named_targets().collect();
        let inventory = policy.inventory(&pairs);
        let count = inventory.targets().len();
        if count > MAX_TARGETS {
            return Err(TooManyTargets(count));
        }
        Ok(Self { inventory, max_items, kept: Cache::with_weighter(256, MAX_KEPT_BYTES, Bytes) })
    }

    /// What the principal of `question` holds by `policy`, which the catalogue was made for.
    /// Between some decisions and the next the caller's deadline can strike, so that a long list
    /// ends in a denial of ours and not in the caller's giving up.
    pub async fn held(
        &self,
        policy: &Policy,
        question: &Question<'_>,
    ) -> Result<Held<'_>, Unlisted> {
        let sight = policy.sight(question);
        if let Some(kept) = sight.and_then(|sight| self.kept.get(&sight))
            && kept.expires.is_none_or(|expires| question.now < expires)
        {
            return Ok(self.list(&kept.held, Lookup::Hit));
        }
        let mut listing = policy.list(&self.inventory, question)?;
        if listing.reach() > MAX_DECIDED {
            return Err(Unlisted::TooManyToDecide(listing.reach()));
        }
        let mut held = Vec::new();
        while listing.decide_some(&mut held)? {
            if held.len() > self.max_items {
                return Err(Unlisted::TooMany(self.max_items));
            }
            tokio::task::yield_now().await;
        }
        held.sort_unstable();
        let held: Arc<[u32]> =
            held.into_iter().filter_map(|number| u32::try_from(number).ok()).collect();
        if let Some(sight) = sight.filter(|_| !listing.looked_at_request()) {
            let kept = Kept { held: Arc::clone(&held), expires: question.principal.expires };
            self.kept.insert(sight, kept);
        }
        Ok(self.list(&held, Lookup::Miss))
    }

    fn list(&self, held: &[u32], lookup: Lookup) -> Held<'_> {
        let target = |number: &u32| self.inventory.targets().get(usize::try_from(*number).ok()?);
        Held { targets: held.iter().filter_map(target).collect(), lookup }
    }
}

/// The catalogue would be larger than a sidecar should hold.
#[derive(Debug, thiserror::Error)]
#[error(
    "`items: entitlements` would keep {0} targets (assets times actions), more than {MAX_TARGETS}: use `items: decision`, or fewer assets in the entities file"
)]
pub struct TooManyTargets(usize);

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum Unlisted {
    /// A target could not be decided on.
    #[error("{}", .0.kind)]
    Undecided(Refusal),
    /// More is held than a list may have.
    #[error(
        "the principal holds more than {0} entitlements: raise jwtCustomization.maxItems, or use `items: decision`"
    )]
    TooMany(usize),
    /// More could be held than a request may decide on.
    #[error(
        "the principal's policies reach {0} targets, more than {MAX_DECIDED} for one request: narrow their heads, or use `items: decision`"
    )]
    TooManyToDecide(usize),
}

impl From<Refusal> for Unlisted {
    fn from(refusal: Refusal) -> Self {
        Self::Undecided(refusal)
    }
}
