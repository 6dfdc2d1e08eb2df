//! Keeps what is in force: waits for readiness, and reads the settings again when a file has changed or
//! somebody says so.
//!
//! New settings are read and compiled beside the requests, wait until they are as complete as those in
//! force, and are then swapped in as one. Whatever goes wrong on that way leaves the last good ones in force,
//! is logged, counted and shown on `/readyz`, and is tried again by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::generation::{Generation, World};
use super::watch::{Seen, Watch};
use super::{Live, systemd};
use crate::api::admin::{Failure, InForce};
use crate::config::{Config, Listen};
use crate::readiness::Needs;

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
}

/// How the last attempt at other settings went.
#[derive(Debug, Default)]
struct Standing {
    has_failed: bool,
    /// When it is made again by itself.
    retry: Option<Instant>,
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
            let is_due = tokio::select! {
                () = closing.cancelled() => return Ok(()),
                () = generation.serviceable(), if is_waiting => {
                    if !stopping.is_cancelled() {
                        tracing::info!("ready");
                        self.live.ready.send_replace(true);
                        systemd::ready();
                    }
                    false
                }
                Some(()) = reload.recv() => true,
                seen = self.watch.look() => {
                    if seen == Seen::Same && !standing.has_failed {
                        self.world.confirmed.note(self.world.clock.now());
                    }
                    seen == Seen::Changed
                }
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => true,
            };
            if is_due {
                let is_told = *self.live.ready.borrow() && !stopping.is_cancelled();
                if is_told {
                    systemd::reloading();
                }
                let next = tokio::select! {
                    () = closing.cancelled() => return Ok(()),
                    next = self.next(&generation) => next,
                };
                standing = self.settle(next, &mut generation);
                if is_told && !stopping.is_cancelled() {
                    systemd::ready();
                }
            }
        }
    }

    /// Takes the next generation over, or says what is wrong with it.
    fn settle(&self, next: Result<Generation>, generation: &mut Generation) -> Standing {
        match next {
            Ok(next) => {
                let last = std::mem::replace(generation, next);
                // Many policies take a while to be given back.
                drop(tokio::task::spawn_blocking(move || drop(last)));
                Standing::default()
            }
            Err(error) => {
                self.fail(&error);
                let retry = self.watch.is_on().then(|| Instant::now() + RETRY);
                Standing { has_failed: true, retry }
            }
        }
    }

    /// Loads the settings again and puts them in force once they are as complete as the last ones.
    /// Where files change meanwhile it begins anew.
    async fn next(&mut self, current: &Generation) -> Result<Generation> {
        loop {
            let config = self.read(current.deny_list_path()).await?;
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
                }
            }
            self.put(&next);
            return Ok(next);
        }
    }

    async fn read(&mut self, kept_deny_list: Option<PathBuf>) -> Result<Config> {
        let path = self.path.clone();
        let reading = move || Config::reload(&path, kept_deny_list.as_deref());
        match tokio::task::spawn_blocking(reading).await? {
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

    fn fail(&self, error: &Error) {
        self.live.metrics.reload_failed();
        self.live.metrics.settings_refused();
        let error = format!("{error:#}");
        let is_news = self.live.failure.load().as_ref().is_none_or(|last| last.error != error);
        if is_news {
            for line in error.lines() {
                tracing::error!("the settings stay as they were: {line}");
            }
        }
        let failure = Failure { time: self.world.clock.now(), error };
        self.live.failure.store(Some(Arc::new(failure)));
    }
}
