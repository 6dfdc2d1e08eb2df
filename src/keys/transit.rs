//! Signing in Vault's Transit: the private key never leaves the store.
//!
//! Signatures are asked for in batches. A few questions are on the way at a time; what arrives
//! meanwhile waits and leaves together, so that a busy sidecar asks less often, not more. Whoever
//! waits for a signature drives its batch: there is no task, and when everyone has given up, so has
//! the question. The version is pinned, and every signature is verified with the public key before it
//! is used. A fault is a [`SignError`] for each of the batch; nothing is tried again here, since
//! the client waits.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;

use super::Algorithm;
use crate::secrets::{SecretError, SecretStore};

/// Questions on their way at a time.
const MAX_IN_FLIGHT: usize = 4;

/// The most signatures one question asks for.
const MAX_BATCH: usize = 64;

/// One version of a Transit key, and what waits for its signatures.
#[derive(Clone)]
pub(super) struct TransitSigner(Arc<Inner>);

struct Inner {
    store: Arc<SecretStore>,
    name: String,
    version: u64,
    algorithm: Algorithm,
    open: Mutex<Option<Batch>>,
    slots: Semaphore,
}

/// What leaves together.
#[derive(Clone)]
struct Batch {
    messages: Arc<Mutex<Vec<Vec<u8>>>>,
    answer: Shared<BoxFuture<'static, Answer>>,
}

/// The signatures, in the order of the messages; or one error for all.
type Answer = Result<Arc<Vec<Signature>>, Arc<SecretError>>;
type Signature = Result<Vec<u8>, Arc<SecretError>>;

impl TransitSigner {
    /// Signs with `version` of the key `name`, which is of a kind that `algorithm` fits.
    pub(super) fn new(
        store: Arc<SecretStore>,
        name: String,
        version: u64,
        algorithm: Algorithm,
    ) -> Self {
        let (open, slots) = (Mutex::default(), Semaphore::new(MAX_IN_FLIGHT));
        Self(Arc::new(Inner { store, name, version, algorithm, open, slots }))
    }

    /// The JWS signature over `message`.
    ///
    /// # Errors
    /// If the store can't be reached, refuses, or answers anything but that signature.
    pub(super) async fn sign(&self, message: &[u8]) -> Signature {
        let (place, answer) = self.join(message);
        let signatures = answer.await?;
        signatures.get(place).cloned().unwrap_or_else(|| {
            let store = self.0.store.id().to_owned();
            Err(Arc::new(SecretError::UnreadableAnswer { store, path: self.0.name.clone() }))
        })
    }

    /// Puts `message` into the batch that leaves next.
    fn join(&self, message: &[u8]) -> (usize, Shared<BoxFuture<'static, Answer>>) {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = open.get_or_insert_with(|| self.batch());
        let mut messages = batch.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let place = messages.len();
        messages.push(message.to_vec());
        let is_full = messages.len() >= MAX_BATCH;
        drop(messages);
        let answer = batch.answer.clone();
        if is_full {
            *open = None;
        }
        (place, answer)
    }

    fn batch(&self) -> Batch {
        let messages: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let (inner, leaving) = (Arc::clone(&self.0), Arc::clone(&messages));
        let answer = async move { inner.ask(&leaving).await }.boxed().shared();
        Batch { messages, answer }
    }
}

impl Inner {
    async fn ask(&self, messages: &Arc<Mutex<Vec<Vec<u8>>>>) -> Answer {
        // It is never closed.
        let _slot = self.slots.acquire().await;
        let messages = self.close(messages);
        let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let signatures =
            self.store.transit_sign(&self.name, self.version, self.algorithm, &messages).await?;
        Ok(Arc::new(signatures.into_iter().map(|signed| signed.map_err(Arc::new)).collect()))
    }

    /// Takes the messages of a batch, which nobody can join any more.
    fn close(&self, messages: &Arc<Mutex<Vec<Vec<u8>>>>) -> Vec<Vec<u8>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|batch| Arc::ptr_eq(&batch.messages, messages)) {
            *open = None;
        }
        std::mem::take(&mut messages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for TransitSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransitSigner")
            .field("name", &self.0.name)
            .field("version", &self.0.version)
            .finish_non_exhaustive()
    }
}
