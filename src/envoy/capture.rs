//! A tap: what Envoy asks, for an operator who looks. Off unless the process was started with it.
//!
//! While somebody reads, each check is handed on as it came, and written as JSON in the reader's own
//! task, without what could be used again: see `redact`. Nobody waits for a reader; one that is too
//! slow misses some. What is written is read by `placet check`.

mod redact;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::CheckRequest;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use tokio::sync::broadcast::{self, error::RecvError};

use super::DESCRIPTORS;
use crate::scope::Scopes;

use redact::Kept;
pub use redact::REDACTED;

/// How many read at a time.
const MAX_READERS: usize = 4;

/// Checks that wait for a reader.
const WAITING: usize = 64;

/// Where checks are handed on.
#[derive(Clone, Debug)]
pub struct Tap {
    checks: broadcast::Sender<Bytes>,
    readers: Arc<AtomicUsize>,
    message: MessageDescriptor,
}

/// Somebody who reads.
#[derive(Debug)]
pub struct Reading {
    checks: broadcast::Receiver<Bytes>,
    readers: Arc<AtomicUsize>,
    message: MessageDescriptor,
}

impl Tap {
    /// A tap that nobody reads yet; `None` if our own descriptors could not be read.
    pub fn new() -> Option<Self> {
        let pool = DescriptorPool::decode(DESCRIPTORS).ok()?;
        let message = pool.get_message_by_name("envoy.service.auth.v3.CheckRequest")?;
        Some(Self { checks: broadcast::Sender::new(WAITING), readers: Arc::default(), message })
    }

    /// Hands `check` on, if anybody reads.
    pub fn offer(&self, check: &Bytes) {
        if self.readers.load(Ordering::Relaxed) > 0 {
            // The last one may just have gone.
            let _ = self.checks.send(check.clone());
        }
    }

    /// Reads from now on, unless too many do.
    pub fn read(&self) -> Option<Reading> {
        let one_more = |readers| (readers < MAX_READERS).then_some(readers + 1);
        self.readers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let (readers, message) = (Arc::clone(&self.readers), self.message.clone());
        Some(Reading { checks: self.checks.subscribe(), readers, message })
    }
}

impl Reading {
    /// The next check, as one line of JSON. What `scopes` need of it to decide stays, as far as it is
    /// no secret. `None` when there will be none any more.
    pub async fn next(&mut self, scopes: impl Fn() -> Arc<Scopes>) -> Option<String> {
        loop {
            match self.checks.recv().await {
                Ok(check) => {
                    // What can't be decoded was denied, and is not shown.
                    if let Some(line) = line(&check, &self.message, &Kept::by(&scopes())) {
                        return Some(line);
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn line(check: &[u8], message: &MessageDescriptor, kept: &Kept) -> Option<String> {
    let mut check = CheckRequest::decode(check).ok()?;
    redact::redact(&mut check, kept);
    let mut shown = DynamicMessage::new(message.clone());
    shown.transcode_from(&check).ok()?;
    serde_json::to_string(&shown).ok()
}

#[cfg(test)]
mod tests;
