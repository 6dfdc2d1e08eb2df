//! A scope's key from store to ring, for life.
//!
//! [`plan`] says which version of the key is in which stage; [`KeyTask`] is the loop around it. It
//! looks into the store every refresh interval and loads versions it has not seen. A look that
//! fails changes nothing: what was loaded goes on signing, for `maxKeyAge` at most, and stays
//! published. A look that shows less than an earlier one comes from a node that lags behind and
//! is passed over.
//!
//! Stores without history (KV v1, file, env) show one key at a time. Their versions are counted here
//! as they are seen, so a restart in the middle of a rotation forgets the older key and lets the
//! newer one sign at once.

mod memory;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::memory::Memory;
use self::plan::Timing;
use super::{KeyError, KeyRing, KeySettings, SigningKey};
use crate::clock::{Clock, Timestamp};
use crate::secrets::{KeyLocation, SecretError, SecretStore};

/// Pauses between attempts while there is no key at all.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// What one scope's key is loaded by.
#[derive(Debug)]
pub struct KeySource {
    /// The store.
    pub store: Arc<SecretStore>,
    /// Where in the store.
    pub location: KeyLocation,
    /// What the key must be.
    pub settings: KeySettings,
    /// A new key is published this long before it signs.
    pub publish_before: Duration,
    /// The longest life of a token.
    pub token_lifetime: Duration,
    /// With the store away longer than this, nothing is signed.
    pub max_key_age: Duration,
}

impl KeySource {
    /// The keys as a process that starts now would use them.
    pub async fn ring(&self, now: Timestamp) -> Result<KeyRing, LoadError> {
        let mut memory = Memory::new(self.timing());
        memory.look(self, now).await?;
        memory.ring(now, self.max_key_age).ok_or(LoadError::NoVersion)
    }

    fn unusable(&self, source: KeyError) -> LoadError {
        let (store, name) = (self.store.id().to_owned(), self.location.name.clone());
        LoadError::Key { store, name, source }
    }

    fn timing(&self) -> Timing {
        Timing {
            publish_before: self.publish_before,
            token_lifetime: self.token_lifetime,
            refresh_interval: self.store.refresh_interval(),
        }
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What was read can't be used.
    #[error("the key `{name}` in the store `{store}`: {source}")]
    Key {
        /// The store's id.
        store: String,
        /// The key's name.
        name: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// Every version is deleted or unusable.
    #[error("no version of the key can be used: write a new one to the store")]
    NoVersion,
}

impl LoadError {
    /// Whether the store answered and what it holds is at fault: another version may be good.
    fn is_about_content(&self) -> bool {
        match self {
            Self::Key { .. } | Self::NoVersion => true,
            Self::Secret(error) => matches!(
                error,
                SecretError::MissingField { .. }
                    | SecretError::FieldNotText { .. }
                    | SecretError::NothingThere { .. }
                    | SecretError::VersionDeleted { .. }
                    | SecretError::NotUtf8 { .. }
            ),
        }
    }
}

/// A scope's keys, for readers.
#[derive(Clone, Debug)]
pub struct Keys {
    ring: watch::Receiver<Option<Arc<KeyRing>>>,
    problem: watch::Receiver<Option<String>>,
    valid_until: watch::Receiver<Option<Timestamp>>,
}

impl Keys {
    /// The ring, once there is one.
    pub fn ring(&self) -> Option<Arc<KeyRing>> {
        self.ring.borrow().clone()
    }

    /// What the last look into the store failed with.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Until when what is loaded may sign without another look that succeeds.
    pub fn valid_until(&self) -> Option<Timestamp> {
        *self.valid_until.borrow()
    }

    /// Waits for the first key.
    pub async fn loaded(&mut self) {
        // An error means that the writer is gone: nothing will come.
        if self.ring.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Keys that never change.
    pub fn fixed(ring: KeyRing) -> Self {
        let (_, ring) = watch::channel(Some(Arc::new(ring)));
        let (_, problem) = watch::channel(None);
        let (_, valid_until) = watch::channel(None);
        Self { ring, problem, valid_until }
    }
}

/// Keeps one scope's [`Keys`] up to date.
#[derive(Debug)]
pub struct KeyTask {
    source: KeySource,
    clock: Clock,
    ring: watch::Sender<Option<Arc<KeyRing>>>,
    problem: watch::Sender<Option<String>>,
    valid_until: watch::Sender<Option<Timestamp>>,
}

impl KeyTask {
    /// The task, to be run by the caller, and the keys it will fill.
    pub fn new(source: KeySource, clock: Clock) -> (Self, Keys) {
        let (ring, ring_reader) = watch::channel(None);
        let (problem, problem_reader) = watch::channel(None);
        let (valid_until, valid_until_reader) = watch::channel(None);
        let keys =
            Keys { ring: ring_reader, problem: problem_reader, valid_until: valid_until_reader };
        (Self { source, clock, ring, problem, valid_until }, keys)
    }

    /// Looks for the key, and for new ones, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let _ = shutdown.run_until_cancelled(self.watch_store()).await;
    }

    async fn watch_store(self) {
        let mut memory = Memory::new(self.source.timing());
        let mut retry = FIRST_RETRY;
        loop {
            let looked = memory.look(&self.source, self.clock.now()).await;
            let now = self.clock.now();
            self.note(looked.err(), memory.last_success(), now);
            let pause = match memory.ring(now, self.source.max_key_age) {
                Some(ring) => {
                    self.publish(ring);
                    self.source.store.refresh_interval()
                }
                None => {
                    retry = (retry * 2).min(LAST_RETRY);
                    retry
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn publish(&self, ring: KeyRing) {
        let scope = &self.source.settings.client_id;
        let is_new = match self.ring.borrow().as_deref() {
            None => true,
            Some(known) => !known.is_same(&ring),
        };
        if !is_new {
            return;
        }
        let kids = |keys: &[Arc<SigningKey>]| {
            keys.iter().map(|key| key.kid().to_owned()).collect::<Vec<_>>().join(" ")
        };
        let (next, retired) = (kids(ring.next()), kids(ring.retired()));
        tracing::info!(scope, active = ring.active().kid(), next, retired, "the signing keys");
        for kid in ring.shared_kids() {
            tracing::warn!(
                scope,
                "two live versions of the key have the key id `{kid}`: put {{{{key_version}}}} or {{{{thumbprint}}}} into keyId"
            );
        }
        self.ring.send_replace(Some(Arc::new(ring)));
    }

    /// Says what a look failed with, and how long what was loaded may still sign.
    fn note(&self, error: Option<LoadError>, last_success: Option<Timestamp>, now: Timestamp) {
        let scope = &self.source.settings.client_id;
        let text = error.map(|error| error.to_string());
        if text.is_some() && text != *self.problem.borrow() {
            let text = text.as_deref().unwrap_or_default();
            tracing::warn!(scope, "the signing key can't be read: {text}");
        }
        let valid_until = last_success.map(|success| success.after(self.source.max_key_age));
        self.valid_until.send_replace(valid_until);
        if let (Some(_), Some(end)) = (&text, valid_until) {
            let seconds_left = end.since(now).as_secs();
            tracing::warn!(scope, seconds_left, "the loaded keys go on signing");
        }
        self.problem.send_replace(text);
    }
}

#[cfg(test)]
mod tests;
