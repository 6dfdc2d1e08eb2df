//! Time, passed in.
//!
//! Everything that decides by time takes a [`Timestamp`]; only [`Clock`] reads the system. Tests
//! hold a fixed clock and never sleep.

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

    /// The RFC 3339 form in UTC, with milliseconds; empty beyond the year 9999. Every decision has one.
    pub fn rfc3339(self) -> String {
        let (days, seconds) = (self.seconds() / 86_400, self.seconds() % 86_400);
        let (year, month, day) = date(days);
        let mut text = String::with_capacity(24);
        if year > 9_999 {
            return text;
        }
        let mut add = |number: u64, digits: u32, end: &str| {
            for place in (0..digits).rev() {
                let digit = number / 10_u64.pow(place) % 10;
                text.push(char::from(b'0' + u8::try_from(digit).unwrap_or_default()));
            }
            text.push_str(end);
        };
        add(year, 4, "-");
        add(month, 2, "-");
        add(day, 2, "T");
        add(seconds / 3_600, 2, ":");
        add(seconds / 60 % 60, 2, ":");
        add(seconds % 60, 2, ".");
        add(self.0 % 1_000, 3, "Z");
        text
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

/// Year, month and day of the Gregorian calendar, so many days after 1 January 1970. Years are counted from March,
/// so that the day that some have more is their last (howardhinnant.github.io, `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    const OF_400_YEARS: u64 = 146_097;
    let since_year_0 = days + 719_468;
    let (cycle, day) = (since_year_0 / OF_400_YEARS, since_year_0 % OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let is_next_year = month >= 10;
    let month = if is_next_year { month - 9 } else { month + 3 };
    (400 * cycle + year + u64::from(is_next_year), month, day)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const YEAR_10000: u64 = 253_402_300_800_000;

    proptest! {
        #[test]
        fn the_text_is_the_one_of_a_well_kept_library(millis in 0..YEAR_10000) {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            let expected = humantime::format_rfc3339_millis(time).to_string();
            prop_assert_eq!(Timestamp::from_millis(millis).rfc3339(), expected);
        }
    }

    #[test]
    fn the_days_about_the_ends_of_february_are_those_of_the_calendar() {
        let of = |seconds| Timestamp::from_seconds(seconds).rfc3339();
        assert_eq!(of(951_782_399), "2000-02-28T23:59:59.000Z");
        assert_eq!(of(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(of(951_868_800), "2000-03-01T00:00:00.000Z");
        assert_eq!(of(4_107_542_400), "2100-03-01T00:00:00.000Z");
        assert_eq!(Timestamp::from_millis(YEAR_10000 - 1).rfc3339(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_millis(YEAR_10000).rfc3339(), "");
        assert_eq!(Timestamp::from_millis(u64::MAX).rfc3339(), "");
    }
}
