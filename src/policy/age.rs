//! How long ago policies were confirmed: by a look that found them to be still the ones in force.
//!
//! Whoever keeps them up to date notes the time; a decision only compares. Where the settings say how
//! old a confirmation may be, older policies decide nothing. Age counts by the wall clock and by one that
//! nobody sets, whichever says more: a wall clock that is set back prolongs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Timestamp;

/// When policies were confirmed; clones share it.
#[derive(Clone, Debug)]
pub struct Confirmed(Arc<Times>);

#[derive(Debug)]
struct Times {
    /// By the wall clock, in milliseconds since the Unix epoch.
    wall: AtomicU64,
    began: Instant,
    /// In milliseconds since `began`.
    steady: AtomicU64,
}

impl Confirmed {
    /// Confirmed at `now`.
    pub fn new(now: Timestamp) -> Self {
        let wall = AtomicU64::new(now.millis());
        Self(Arc::new(Times { wall, began: Instant::now(), steady: AtomicU64::new(0) }))
    }

    /// Confirmed again, at `now`.
    pub fn note(&self, now: Timestamp) {
        self.0.wall.store(now.millis(), Ordering::Relaxed);
        let steady = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.steady.store(steady, Ordering::Relaxed);
    }

    /// The last time.
    pub fn last(&self) -> Timestamp {
        Timestamp::from_millis(self.0.wall.load(Ordering::Relaxed))
    }

    /// How long that is ago.
    fn age(&self, now: Timestamp) -> Duration {
        let steady = Duration::from_millis(self.0.steady.load(Ordering::Relaxed));
        now.since(self.last()).max(self.0.began.elapsed().saturating_sub(steady))
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
        self.confirmed.age(now) > self.max
    }
}
