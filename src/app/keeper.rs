//! Keeps what is in force: waits for readiness, and reads the settings again when a file has changed or
//! somebody says so.
//!
//! New settings, and snapshots from the control plane, are read and compiled beside the requests, wait until they are as complete as those in
//! force, and are then swapped in as one. Whatever goes wrong on that way leaves the last good ones in force,
//! is logged, counted and shown on `/readyz`, and is tried again by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::following::Followed;
use super::generation::{Generation, World};
use super::watch::{Seen, Watch};
use super::{Live, systemd};
use crate::api::admin::{Failure, InForce};
use crate::config::{Config, Listen};
use crate::readiness::Needs;
use crate::source::Stored;

/// How long after settings that did not come into force they are tried again: what was wrong may have
/// been an issuer, a store or a file system, which no look at the files tells.
const RETRY: Duration = Duration::from_secs(30);

/// Keeps what is in force.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) path: PathBuf,
    pub(super) live: Live,
    pub(super) addresses: Listen,
    pub(super) world: World,
    pub(super) watch: Watch,
    pub(super) followed: Option<Followed>,
}

/// What is to be put in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    /// The settings, with the snapshot that is in force.
    Settings,
    /// The snapshot that came from the control plane.
    Snapshot,
}

/// How the last attempt at other settings went.
#[derive(Debug, Default)]
struct Standing {
    has_failed: bool,
    /// When it, or another one, is made by itself.
    retry: Option<(Instant, Change)>,
}

impl Keeper {
    /// Runs until `closing`; from `stopping` on it is not ready any more, but keys, policies and the deny
    /// list go on. `reload` yields once for each time the settings are to be read again.
    pub(super) async fn run(
        mut self,
        mut generation: Generation,
        mut reload: mpsc::Receiver<()>,
        stopping: CancellationToken,
        closing: CancellationToken,
    ) -> Result<()> {
        let mut standing = Standing::default();
        loop {
            let is_waiting = !*self.live.ready.borrow() && !stopping.is_cancelled();
            let retry = standing.retry;
            let change = tokio::select! {
                () = closing.cancelled() => return Ok(()),
                () = generation.serviceable(), if is_waiting => {
                    if !stopping.is_cancelled() {
                        tracing::info!("ready");
                        self.live.ready.send_replace(true);
                        systemd::ready();
                    }
                    None
                }
                Some(()) = reload.recv() => Some(Change::Settings),
                () = Followed::comes(&mut self.followed) => Some(Change::Snapshot),
                seen = self.watch.look() => {
                    if seen == Seen::Same && !standing.has_failed {
                        self.world.confirmed.note(self.world.clock.now());
                    }
                    (seen == Seen::Changed).then_some(Change::Settings)
                }
                change = due(retry) => Some(change),
            };
            if let Some(change) = change {
                let is_told = *self.live.ready.borrow() && !stopping.is_cancelled();
                if is_told {
                    systemd::reloading();
                }
                let next = tokio::select! {
                    () = closing.cancelled() => return Ok(()),
                    next = self.next(&generation, change) => next,
                };
                standing = self.settle(next, &mut generation);
                if is_told && !stopping.is_cancelled() {
                    systemd::ready();
                }
            }
        }
    }

    /// Takes the next generation over, or says what is wrong with it.
    fn settle(
        &self,
        next: Result<Generation, (Change, Error)>,
        generation: &mut Generation,
    ) -> Standing {
        let now = Instant::now();
        match next {
            Ok(next) => {
                let last = std::mem::replace(generation, next);
                // Many policies take a while to be given back.
                drop(tokio::task::spawn_blocking(move || drop(last)));
                // What was wrong with a snapshot may have been the settings.
                let is_behind = self.followed.as_ref().is_some_and(Followed::is_behind);
                let retry = is_behind.then_some((now, Change::Snapshot));
                Standing { has_failed: false, retry }
            }
            Err((Change::Settings, error)) => {
                self.fail(&format!("{error:#}"));
                let retry = self.watch.is_on().then_some((now + RETRY, Change::Settings));
                Standing { has_failed: true, retry }
            }
            Err((Change::Snapshot, error)) => {
                let error = format!("{error:#}");
                let refused = self.followed.as_ref().and_then(|followed| followed.refuse(&error));
                let revision = refused.unwrap_or_default();
                self.world.metrics.control_snapshot_refused();
                self.fail(&format!("snapshot `{revision}`: {error}"));
                Standing { has_failed: false, retry: Some((now + RETRY, Change::Snapshot)) }
            }
        }
    }

    /// [`Self::attempt`], with what was attempted last where it fails.
    async fn next(
        &mut self,
        current: &Generation,
        mut change: Change,
    ) -> Result<Generation, (Change, Error)> {
        let attempted = self.attempt(current, &mut change).await;
        attempted.map_err(|error| (change, error))
    }

    /// Loads the settings again and puts them in force once they are as complete as the last ones.
    /// Where files change meanwhile it begins anew.
    async fn attempt(&mut self, current: &Generation, change: &mut Change) -> Result<Generation> {
        loop {
            let stored = self.snapshot(*change).await?;
            let config = self.read(current.deny_list_path(), stored.clone()).await?;
            self.watch.every(config.reload);
            config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            if config.listen != self.addresses {
                tracing::warn!("listen: a change of listeners takes a restart");
            }
            let has_peers = config.scopes.iter().any(|scope| scope.identity.peer.is_some());
            if has_peers && !self.addresses.grpc.names_its_clients() {
                bail!("identity.peer needs the gRPC listener that the new settings name: restart");
            }
            let next = Generation::start(config, Some(current), &self.world)?;
            if current.is_complete() {
                let grace = next.startup_grace;
                tokio::select! {
                    complete = tokio::time::timeout(grace, next.complete()) => {
                        complete.map_err(|_| {
                            let missing: Vec<_> =
                                next.needs.iter().flat_map(Needs::missing).collect();
                            anyhow!("after {grace:?} still without {}", missing.join(", "))
                        })?;
                    }
                    () = self.watch.changed() => continue,
                    () = Followed::comes(&mut self.followed) => {
                        *change = Change::Snapshot;
                        continue;
                    }
                }
            }
            if *change == Change::Snapshot
                && let (Some(followed), Some(stored)) = (&mut self.followed, stored)
            {
                followed.adopt(stored).await?;
                self.world.metrics.control_snapshot_applied(self.world.clock.now());
            }
            self.put(&next);
            return Ok(next);
        }
    }

    /// The snapshot that is read with the settings.
    async fn snapshot(&self, change: Change) -> Result<Option<Stored>> {
        match (&self.followed, change) {
            (None, _) => Ok(None),
            (Some(followed), Change::Settings) => Ok(followed.in_force()),
            (Some(followed), Change::Snapshot) => followed.store().await,
        }
    }

    async fn read(
        &mut self,
        kept_deny_list: Option<PathBuf>,
        snapshot: Option<Stored>,
    ) -> Result<Config> {
        let path = self.path.clone();
        let reading = move || {
            let read = Config::reload(&path, kept_deny_list.as_deref(), snapshot.as_ref());
            let is_lost = read.is_err() && snapshot.is_some_and(|stored| stored.verify().is_err());
            (read, is_lost)
        };
        let (read, is_lost) = tokio::task::spawn_blocking(reading).await?;
        if let Some(followed) = self.followed.as_ref().filter(|_| is_lost) {
            followed.lost();
        }
        match read {
            Ok(config) => {
                self.watch.over(config.files.clone());
                Ok(config)
            }
            Err(errors) => {
                self.watch.over(errors.files().clone());
                Err(errors.into())
            }
        }
    }

    fn put(&self, next: &Generation) {
        let now = self.world.clock.now();
        self.world.confirmed.note(now);
        self.live.scopes.store(Arc::clone(&next.scopes));
        self.live.needs.store(Arc::new(next.needs.clone()));
        self.live.in_force.store(Arc::new(InForce { since: now, ..next.in_force.clone() }));
        self.live.failure.store(None);
        self.live.metrics.reloaded(&next.in_force.revision, now);
        if next.in_force.deny_list.is_none() {
            self.live.metrics.no_deny_list();
        }
        let revision = &next.in_force.revision;
        tracing::info!(revision, "the settings were read again and are in force");
    }

    fn fail(&self, error: &str) {
        self.live.metrics.reload_failed();
        self.live.metrics.settings_refused();
        let is_news = self.live.failure.load().as_ref().is_none_or(|last| last.error != error);
        if is_news {
            for line in error.lines() {
                tracing::error!("the settings stay as they were: {line}");
            }
        }
        let failure = Failure { time: self.world.clock.now(), error: error.to_owned() };
        self.live.failure.store(Some(Arc::new(failure)));
    }
}

/// Waits until it is time for what is to be done by itself.
async fn due(retry: Option<(Instant, Change)>) -> Change {
    match retry {
        Some((time, change)) => {
            sleep_until(time).await;
            change
        }
        None => std::future::pending().await,
    }
}
