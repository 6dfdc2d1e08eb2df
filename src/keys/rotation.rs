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
//!
//! The loop also takes an operator's orders, to activate a key before its time or to withdraw one. They
//! hold for the life of the process: what is withdrawn for good is deleted in the store.

mod memory;
mod order;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::memory::{Memory, Withdrawn};
use self::order::{Order, Request};
use self::plan::Timing;
use super::{KeyError, KeyRing, KeySettings, SignError, SigningKey};
use crate::clock::{Clock, Timestamp};
use crate::secrets::{KeyLocation, SecretError, SecretStore};

pub use self::order::OrderError;

/// Pauses between attempts while there is no key at all.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Where a private key is when it signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Backend {
    /// In memory: it is read from the store.
    Memory,
    /// In Vault's Transit, which it never leaves.
    Transit,
}

/// What one scope's key is loaded by.
#[derive(Debug)]
pub struct KeySource {
    /// The store.
    pub store: Arc<SecretStore>,
    /// Where in the store.
    pub location: KeyLocation,
    /// What signs.
    pub backend: Backend,
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
            && self.backend == other.backend
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
    /// The first key there is can't sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl LoadError {
    /// Whether the store answered and what it holds is at fault: another version may be good.
    fn is_about_content(&self) -> bool {
        match self {
            Self::Key { .. } | Self::NoVersion => true,
            Self::Sign(_) => false,
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
    status: watch::Receiver<Status>,
    origin: Option<Origin>,
    orders: mpsc::Sender<Request>,
}

/// What is known beside the keys themselves.
#[derive(Clone, Debug, Default)]
struct Status {
    /// What the last look failed with.
    problem: Option<String>,
    valid_until: Option<Timestamp>,
    /// There were keys, and every one was withdrawn.
    is_withdrawn: bool,
}

/// Where keys come from and what is known of them, for the next reading of the settings.
#[derive(Clone, Debug)]
struct Origin {
    source: Arc<KeySource>,
    memory: Arc<Mutex<Memory>>,
    withdrawn: Withdrawn,
}

impl Keys {
    /// The ring, once there is one.
    pub fn ring(&self) -> Option<Arc<KeyRing>> {
        self.ring.borrow().clone()
    }

    /// What the last look into the store failed with.
    pub fn problem(&self) -> Option<String> {
        self.status.borrow().problem.clone()
    }

    /// Until when what is loaded may sign without another look that succeeds.
    pub fn valid_until(&self) -> Option<Timestamp> {
        self.status.borrow().valid_until
    }

    /// Whether there is or ever was a key: once every one is withdrawn, that is worth knowing too.
    pub fn had_keys(&self) -> bool {
        self.ring.borrow().is_some() || self.status.borrow().is_withdrawn
    }

    /// When a key that is only published will sign, where its store says when it was made.
    pub fn signs_from(&self, key: &SigningKey) -> Option<Timestamp> {
        Some(key.created()?.after(self.origin.as_ref()?.source.publish_before))
    }

    /// Lets the published key called `name`, by key id or thumbprint, sign from now on.
    ///
    /// # Errors
    /// If no key, or more than one, is called that; if it is no next one.
    pub async fn activate(&self, name: &str) -> Result<(), OrderError> {
        self.order(Order::Activate, name).await
    }

    /// Takes the key called `name`, by key id or thumbprint, out of use and out of the JWKS at once,
    /// for the life of the process. If it was the one that signs, the newest other one does.
    ///
    /// # Errors
    /// If no key, or more than one, is called that.
    pub async fn withdraw(&self, name: &str) -> Result<(), OrderError> {
        self.order(Order::Withdraw, name).await
    }

    async fn order(&self, order: Order, name: &str) -> Result<(), OrderError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { order, name: name.to_owned(), reply };
        self.orders.send(request).await.map_err(|_| OrderError::Ended)?;
        answer.await.unwrap_or(Err(OrderError::Ended))
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
        let (_, status) = watch::channel(Status::default());
        let (orders, _) = mpsc::channel(1);
        Self { ring, status, origin: None, orders }
    }
}

/// Keeps one scope's [`Keys`] up to date.
#[derive(Debug)]
pub struct KeyTask {
    writer: Writer,
    orders: mpsc::Receiver<Request>,
}

/// The one that writes what [`Keys`] read.
#[derive(Debug)]
struct Writer {
    origin: Origin,
    clock: Clock,
    ring: watch::Sender<Option<Arc<KeyRing>>>,
    status: watch::Sender<Status>,
}

impl KeyTask {
    /// The task, to be run by the caller, and the keys it will fill. `earlier` are the scope's keys
    /// under the settings before: of the same key, what is known goes on being known.
    pub fn new(source: KeySource, clock: Clock, earlier: Option<&Keys>) -> (Self, Keys) {
        let earlier = earlier.and_then(|keys| keys.origin.as_ref());
        let withdrawn = earlier.map(|origin| origin.withdrawn.clone()).unwrap_or_default();
        let memory = match earlier {
            Some(origin) if origin.source.is_of_the_same_key(&source) => Arc::clone(&origin.memory),
            _ => Arc::new(Mutex::new(Memory::new(withdrawn.clone()))),
        };
        let origin = Origin { source: Arc::new(source), memory, withdrawn };
        let (ring, ring_reader) = watch::channel(None);
        let (status, status_reader) = watch::channel(Status::default());
        let (order_sender, orders) = mpsc::channel(1);
        let keys = Keys {
            ring: ring_reader,
            status: status_reader,
            origin: Some(origin.clone()),
            orders: order_sender,
        };
        let writer = Writer { origin, clock, ring, status };
        (Self { writer, orders }, keys)
    }

    /// Looks for the key, and for new ones, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let _ = shutdown.run_until_cancelled(self.watch_store()).await;
    }

    async fn watch_store(self) {
        let Self { writer, mut orders } = self;
        let mut retry = FIRST_RETRY;
        loop {
            // An order does not wait for a store that hangs: it ends the look, and the next begins.
            let looked = tokio::select! {
                biased;
                Some(request) = orders.recv() => { writer.obey(request).await; continue }
                looked = writer.look() => looked,
            };
            let pause = if looked {
                retry = FIRST_RETRY;
                writer.origin.source.store.refresh_interval()
            } else {
                retry = (retry * 2).min(LAST_RETRY);
                retry
            };
            tokio::select! {
                biased;
                Some(request) = orders.recv() => writer.obey(request).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl Writer {
    /// Looks into the store and publishes what it found; whether there is a key now.
    async fn look(&self) -> bool {
        let Origin { source, memory, .. } = &self.origin;
        let mut memory = memory.lock().await;
        let looked = memory.look(source, self.clock.now()).await;
        let now = self.clock.now();
        let ring = memory.ring(source, now);
        let last_success = memory.last_success();
        drop(memory);
        let unproven = match &ring {
            // Before the first token: a key in Transit may be one we are not allowed to sign with.
            Some(ring) if self.ring.borrow().is_none() => ring.active().prove().await.err(),
            _ => None,
        };
        let ring = ring.filter(|_| unproven.is_none());
        self.note(looked.err().or(unproven.map(LoadError::Sign)), last_success, now);
        let has_key = ring.is_some();
        self.publish(ring);
        has_key
    }

    async fn obey(&self, Request { order, name, reply }: Request) {
        let Origin { source, memory, .. } = &self.origin;
        let mut memory = memory.lock().await;
        let now = self.clock.now();
        let done = memory.obey(order, &name, now);
        if done.is_ok() {
            let scope = &source.settings.client_id;
            tracing::warn!(scope, key = name, "an operator's order: {order}");
            self.publish(memory.ring(source, now));
        }
        drop(memory);
        // Whoever ordered may not wait for the answer.
        let _ = reply.send(done);
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
            self.status.send_modify(|status| status.is_withdrawn = true);
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
        self.status.send_modify(|status| status.is_withdrawn = false);
    }

    /// Says what a look failed with, and how long what was loaded may still sign.
    fn note(&self, error: Option<LoadError>, last_success: Option<Timestamp>, now: Timestamp) {
        let source = &self.origin.source;
        let scope = &source.settings.client_id;
        let text = error.map(|error| error.to_string());
        if text.is_some() && text != self.status.borrow().problem {
            let text = text.as_deref().unwrap_or_default();
            tracing::warn!(scope, "the signing key can't be read: {text}");
        }
        let valid_until = last_success.map(|success| success.after(source.max_key_age));
        if let (Some(_), Some(end), true) = (&text, valid_until, self.ring.borrow().is_some()) {
            let seconds_left = end.since(now).as_secs();
            tracing::warn!(scope, seconds_left, "the loaded keys go on signing");
        }
        self.status.send_modify(|status| {
            status.problem = text;
            status.valid_until = valid_until;
        });
    }
}

#[cfg(test)]
mod tests;
