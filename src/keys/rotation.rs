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

use tokio::sync::{Mutex, watch};
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
        let mut memory = Memory::default();
        memory.look(self, now).await?;
        memory.ring(self, now).ok_or(LoadError::NoVersion)
    }

    /// Whether the keys of `other` are this one's too, so that what is known of them still holds.
    fn is_of_the_same_key(&self, other: &Self) -> bool {
        self.store.id() == other.store.id()
            && self.store.kind() == other.store.kind()
            && self.location == other.location
            && self.settings == other.settings
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
            Self::Secret(SecretError::Cloud { problem, .. }) => problem.is_about_content(),
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
    origin: Option<Origin>,
}

/// Where keys come from and what is known of them, for the next reading of the settings.
#[derive(Clone, Debug)]
struct Origin {
    source: Arc<KeySource>,
    memory: Arc<Mutex<Memory>>,
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
        Self { ring, problem, valid_until, origin: None }
    }
}

/// Keeps one scope's [`Keys`] up to date.
#[derive(Debug)]
pub struct KeyTask {
    origin: Origin,
    clock: Clock,
    ring: watch::Sender<Option<Arc<KeyRing>>>,
    problem: watch::Sender<Option<String>>,
    valid_until: watch::Sender<Option<Timestamp>>,
}

impl KeyTask {
    /// The task, to be run by the caller, and the keys it will fill. `earlier` are the scope's keys
    /// under the settings before: of the same key, what is known goes on being known.
    pub fn new(source: KeySource, clock: Clock, earlier: Option<&Keys>) -> (Self, Keys) {
        let earlier = earlier.and_then(|keys| keys.origin.as_ref());
        let memory = match earlier {
            Some(origin) if origin.source.is_of_the_same_key(&source) => Arc::clone(&origin.memory),
            _ => Arc::default(),
        };
        let origin = Origin { source: Arc::new(source), memory };
        let (ring, ring_reader) = watch::channel(None);
        let (problem, problem_reader) = watch::channel(None);
        let (valid_until, valid_until_reader) = watch::channel(None);
        let keys = Keys {
            ring: ring_reader,
            problem: problem_reader,
            valid_until: valid_until_reader,
            origin: Some(origin.clone()),
        };
        (Self { origin, clock, ring, problem, valid_until }, keys)
    }

    /// Looks for the key, and for new ones, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let _ = shutdown.run_until_cancelled(self.watch_store()).await;
    }

    async fn watch_store(self) {
        let Origin { source, memory } = &self.origin;
        let mut retry = FIRST_RETRY;
        loop {
            let mut memory = memory.lock().await;
            let looked = memory.look(source, self.clock.now()).await;
            let now = self.clock.now();
            self.note(looked.err(), memory.last_success(), now);
            let ring = memory.ring(source, now);
            drop(memory);
            let pause = if ring.is_some() {
                retry = FIRST_RETRY;
                source.store.refresh_interval()
            } else {
                retry = (retry * 2).min(LAST_RETRY);
                retry
            };
            self.publish(ring);
            tokio::time::sleep(pause).await;
        }
    }

    fn publish(&self, ring: Option<KeyRing>) {
        let scope = &self.origin.source.settings.client_id;
        let is_known = match (self.ring.borrow().as_deref(), &ring) {
            (Some(known), Some(ring)) => known.is_same(ring),
            (known, ring) => known.is_none() && ring.is_none(),
        };
        if is_known {
            return;
        }
        let Some(ring) = ring else {
            tracing::warn!(scope, "every version of the key was withdrawn: nothing is signed");
            self.ring.send_replace(None);
            return;
        };
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
        let source = &self.origin.source;
        let scope = &source.settings.client_id;
        let text = error.map(|error| error.to_string());
        if text.is_some() && text != *self.problem.borrow() {
            let text = text.as_deref().unwrap_or_default();
            tracing::warn!(scope, "the signing key can't be read: {text}");
        }
        let valid_until = last_success.map(|success| success.after(source.max_key_age));
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
