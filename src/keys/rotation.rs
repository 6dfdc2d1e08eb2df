//! A scope's key from store to ring, for life.
//!
//! [`Rotation`] is the plan, without clock or store: what was seen when, and what follows. A new key
//! is published first and signs only after `publish_before`, since verifiers cache what they
//! fetched; a key that no longer signs stays published until its last token has expired.
//! [`KeyTask`] is the loop around it: it looks into the store, and keeps what it has when the store
//! is away.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{KeyError, KeyRing, KeySettings, SigningKey};
use crate::clock::{Clock, Timestamp};
use crate::secrets::{KeyLocation, SecretError, SecretStore};

/// How far verifiers' clocks may be off.
const SKEW: Duration = Duration::from_secs(60);

/// Pauses between attempts while there is no key at all.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Which keys there are, and since when.
#[derive(Debug)]
pub struct Rotation {
    publish_before: Duration,
    token_lifetime: Duration,
    active: Arc<SigningKey>,
    /// Published, waiting to sign since this time.
    next: Option<(Arc<SigningKey>, Timestamp)>,
    /// No longer signing since this time; latest first.
    retired: Vec<(Arc<SigningKey>, Timestamp)>,
}

impl Rotation {
    /// Begins with the first key seen, which signs at once.
    pub fn begin(key: SigningKey, publish_before: Duration, token_lifetime: Duration) -> Self {
        let active = Arc::new(key);
        Self { publish_before, token_lifetime, active, next: None, retired: Vec::new() }
    }

    /// Takes note of the key that is in the store at `now`. A key that is already known, by its
    /// thumbprint, is not a new version.
    pub fn observe(&mut self, key: SigningKey, now: Timestamp) {
        let is_next = self.next.as_ref().is_some_and(|(next, _)| is_same(next, &key));
        if is_same(&self.active, &key) {
            self.next = None;
        } else if !is_next {
            self.next = Some((Arc::new(key), now));
        }
        self.advance(now);
    }

    /// Does what is due at `now`.
    pub fn advance(&mut self, now: Timestamp) {
        if let Some((_, since)) = &self.next
            && now.since(*since) >= self.publish_before
            && let Some((next, _)) = self.next.take()
        {
            let old = std::mem::replace(&mut self.active, next);
            self.retired.insert(0, (old, now));
        }
        let keep = self.token_lifetime + SKEW;
        self.retired.retain(|(_, since)| now.since(*since) < keep);
    }

    /// The keys by life stage.
    pub fn ring(&self) -> KeyRing {
        KeyRing::new(
            self.next.iter().map(|(key, _)| Arc::clone(key)).collect(),
            Arc::clone(&self.active),
            self.retired.iter().map(|(key, _)| Arc::clone(key)).collect(),
        )
    }
}

fn is_same(known: &SigningKey, key: &SigningKey) -> bool {
    known.thumbprint() == key.thumbprint() && known.kid() == key.kid()
}

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
}

impl KeySource {
    /// Reads the key as it is in the store now.
    pub async fn read(&self) -> Result<SigningKey, LoadError> {
        let material = self.store.read(&self.location).await?;
        Ok(SigningKey::load(&material, &self.settings)?)
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What was read can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A scope's keys, for readers.
#[derive(Clone, Debug)]
pub struct Keys {
    ring: watch::Receiver<Option<Arc<KeyRing>>>,
    problem: watch::Receiver<Option<String>>,
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
        Self { ring, problem }
    }
}

/// Keeps one scope's [`Keys`] up to date.
#[derive(Debug)]
pub struct KeyTask {
    source: KeySource,
    clock: Clock,
    ring: watch::Sender<Option<Arc<KeyRing>>>,
    problem: watch::Sender<Option<String>>,
}

impl KeyTask {
    /// The task, to be run by the caller, and the keys it will fill.
    pub fn new(source: KeySource, clock: Clock) -> (Self, Keys) {
        let (ring, ring_reader) = watch::channel(None);
        let (problem, problem_reader) = watch::channel(None);
        let keys = Keys { ring: ring_reader, problem: problem_reader };
        (Self { source, clock, ring, problem }, keys)
    }

    /// Looks for the key, and for new ones, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let _ = shutdown.run_until_cancelled(self.watch_store()).await;
    }

    async fn watch_store(self) {
        let mut rotation = None;
        let mut retry = FIRST_RETRY;
        loop {
            let now = self.clock.now();
            match self.source.read().await {
                Ok(key) => self.publish(&mut rotation, key, now),
                Err(error) => self.note(&error),
            }
            let pause = match &mut rotation {
                Some(rotation) => {
                    Rotation::advance(rotation, now);
                    self.ring.send_replace(Some(Arc::new(rotation.ring())));
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

    fn publish(&self, rotation: &mut Option<Rotation>, key: SigningKey, now: Timestamp) {
        self.problem.send_replace(None);
        let client_id = &self.source.settings.client_id;
        match rotation {
            Some(rotation) => rotation.observe(key, now),
            None => {
                for warning in key.warnings(now) {
                    tracing::warn!(scope = client_id, "{warning}");
                }
                tracing::info!(scope = client_id, kid = key.kid(), "the signing key is loaded");
                let KeySource { publish_before, token_lifetime, .. } = self.source;
                *rotation = Some(Rotation::begin(key, publish_before, token_lifetime));
            }
        }
    }

    fn note(&self, error: &LoadError) {
        let text = error.to_string();
        let is_new = self.problem.borrow().as_ref() != Some(&text);
        if is_new {
            let client_id = &self.source.settings.client_id;
            tracing::warn!(scope = client_id, "the signing key can't be read: {text}");
            self.problem.send_replace(Some(text));
        }
    }
}

#[cfg(test)]
mod tests;
