//! How long ago policies were confirmed: by a look that found them to be still the ones in force.
//!
//! Whoever keeps them up to date notes the time; a decision only compares. Where the settings say how
//! old a confirmation may be, older policies decide nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Timestamp;

/// When policies were confirmed; clones share it.
#[derive(Clone, Debug)]
pub struct Confirmed(Arc<AtomicU64>);

impl Confirmed {
    /// Confirmed at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(AtomicU64::new(now.millis())))
    }

    /// Confirmed again, at `now`.
    pub fn note(&self, now: Timestamp) {
        self.0.store(now.millis(), Ordering::Relaxed);
    }

    /// The last time.
    pub fn last(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// How old a confirmation may be.
#[derive(Debug)]
pub(super) struct AgeLimit {
    pub(super) max: Duration,
    pub(super) confirmed: Confirmed,
}

impl AgeLimit {
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        now.since(self.confirmed.last()) > self.max
    }
}
