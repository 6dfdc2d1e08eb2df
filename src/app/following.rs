//! What comes from the control plane, on its way to being in force.
//!
//! The keeper puts a snapshot in force as it does changed settings; here is kept which one is, which one is to
//! follow, and what the control plane is told of it. What could not be put in force is tried again, and meanwhile
//! is in nobody's way: changed settings are read with the last good one.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::watch;

use super::Live;
use super::generation::World;
use crate::config::Config;
use crate::proto::control::KeySet;
use crate::scope::{Scope, Scopes};
use crate::source::{Directory, Follower, Following, Outcome, Parts, Stored, Wanted};

/// All that follows the control plane.
#[derive(Debug)]
pub(super) struct Controlled {
    pub(super) follower: Follower,
    pub(super) followed: Followed,
    pub(super) following: Following,
}

/// The snapshots, for the keeper.
#[derive(Debug)]
pub(super) struct Followed {
    directory: Directory,
    wanted: watch::Receiver<Option<Arc<Wanted>>>,
    outcome: watch::Sender<Outcome>,
    in_force: Option<Stored>,
    /// The last one that came, while it is not in force.
    pending: Option<Arc<Wanted>>,
}

impl Controlled {
    /// What follows the control plane of `config`.
    pub(super) fn of(config: &Config, world: &World) -> Option<Self> {
        let control_plane = config.control_plane.as_ref()?;
        let in_force = control_plane.snapshot.clone();
        let revision = in_force.as_ref().map(|stored| stored.revision.clone());
        let settings = control_plane.settings.clone();
        let directory = Directory::new(settings.directory.clone());
        let (confirmed, clock, metrics) = (world.controlled.clone(), world.clock, &world.metrics);
        let parts = Parts::new(settings, revision, confirmed, clock, metrics.clone());
        if in_force.is_some() {
            world.metrics.control_snapshot(clock.now());
        }
        let Parts { follower, wanted, outcome, following } = parts;
        let followed = Followed { directory, wanted, outcome, in_force, pending: None };
        Some(Self { follower, followed, following })
    }
}

impl Followed {
    /// Waits for a snapshot.
    pub(super) async fn comes(followed: &mut Option<Self>) {
        let Some(followed) = followed else { return pending().await };
        if followed.wanted.changed().await.is_err() {
            // The follower is gone: the process ends.
            return pending().await;
        }
        followed.pending = followed.wanted.borrow_and_update().clone();
    }

    /// The snapshot in force.
    pub(super) fn in_force(&self) -> Option<Stored> {
        self.in_force.clone()
    }

    /// Whether there is one that is not in force.
    pub(super) fn is_behind(&self) -> bool {
        self.pending.is_some()
    }

    /// Writes the one that is to follow to disk, beside the one in force.
    pub(super) async fn store(&self) -> Result<Option<Stored>> {
        let Some(wanted) = self.pending.clone() else { return Ok(self.in_force()) };
        let directory = self.directory.clone();
        let storing = move || directory.store(&wanted.revision, &wanted.files);
        Ok(Some(tokio::task::spawn_blocking(storing).await??))
    }

    /// Makes `stored`, which is good, the one that a restart begins with.
    pub(super) async fn adopt(&mut self, stored: Stored) -> Result<()> {
        let (directory, adopted) = (self.directory.clone(), stored.clone());
        let adopting = move || {
            directory.adopt(&adopted)?;
            directory.tidy(&adopted);
            Ok::<_, anyhow::Error>(())
        };
        tokio::task::spawn_blocking(adopting).await?.context("the snapshot can't be kept")?;
        let revision = stored.revision.clone();
        self.in_force = Some(stored);
        self.pending = None;
        self.outcome.send_replace(Outcome { in_force: Some(revision), refused: None });
        Ok(())
    }

    /// Has the control plane told why the one that is to follow is not in force.
    pub(super) fn refuse(&self, error: &str) -> Option<&str> {
        let wanted = self.pending.as_ref()?;
        let refused = Some((wanted.revision.clone(), error.to_owned()));
        self.outcome.send_modify(|outcome| outcome.refused = refused);
        Some(&wanted.revision)
    }

    /// Has the one in force asked for anew: it is not on disk any more.
    pub(super) fn lost(&self) {
        self.outcome.send_if_modified(|outcome| outcome.in_force.take().is_some());
    }
}

/// The public keys of the scopes that are the control plane's.
pub(super) fn key_sets(live: &Live) -> Vec<KeySet> {
    reported(&live.scopes.load(), &live.in_force.load().controlled)
}

fn reported(scopes: &Scopes, controlled: &BTreeSet<String>) -> Vec<KeySet> {
    let scopes = controlled.iter().filter_map(|client_id| scopes.with_client_id(client_id));
    scopes.filter(|scope| scope.authorizer.minter.had_keys()).map(|scope| key_set(scope)).collect()
}

fn key_set(scope: &Scope) -> KeySet {
    let minter = &scope.authorizer.minter;
    let jwk =
        |key: &Arc<crate::keys::SigningKey>| serde_json::to_string(key.jwk()).unwrap_or_default();
    let ring = minter.ring();
    KeySet {
        client_id: scope.client_id.clone(),
        keys: ring.iter().flat_map(|ring| ring.published()).map(jwk).collect(),
        token_lifetime_seconds: u32::try_from(minter.lifetime()).unwrap_or(u32::MAX),
        max_age_seconds: u32::try_from(scope.jwks_max_age.as_secs()).unwrap_or(u32::MAX),
    }
}
