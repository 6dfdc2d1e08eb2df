//! Time, passed in.
//!
//! Everything that decides by time takes a [`Timestamp`]; only [`Clock`] reads the system. Tests
//! hold a fixed clock and never sleep.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The point `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The point `seconds` seconds after the Unix epoch.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch: a `NumericDate` (RFC 7519 section 2).
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The RFC 3339 form in UTC, with milliseconds.
    pub fn rfc3339(self) -> String {
        let mut text = String::with_capacity(24);
        let time = UNIX_EPOCH + Duration::from_millis(self.0);
        // It fails beyond the year 9999.
        match write!(text, "{}", humantime::format_rfc3339_millis(time)) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }

    /// The point `duration` later.
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// The time from `earlier` to this point; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Where the current time comes from.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The system's wall clock.
    System,
    /// Always this time: for tests and for replaying a captured request.
    Fixed(Timestamp),
}

impl Clock {
    /// The current time.
    pub fn now(self) -> Timestamp {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
            Self::System => SystemTime::now().into(),
            Self::Fixed(now) => now,
        }
    }

    /// The current time in nanoseconds since the Unix epoch, as traces tell it.
    pub fn unix_nanos(self) -> u64 {
        match self {
            #[expect(clippy::disallowed_methods, reason = "and where more than milliseconds count")]
            Self::System => {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
            }
            Self::Fixed(now) => now.millis().saturating_mul(1_000_000),
        }
    }
}
