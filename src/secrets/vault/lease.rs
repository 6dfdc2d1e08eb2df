//! How long a token lasts, and how long to wait after a refusal: pure functions of the time.

use std::time::Duration;

use tokio::time::Instant;

/// The life of one token, as Vault returned it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Lease {
    pub(super) is_renewable: bool,
    /// How long the token was to last when it was made.
    granted: Duration,
    renew_at: Instant,
    ends_at: Instant,
}

impl Lease {
    /// A lease of `lasts` from `now` on, of a store that is looked at every `look`. `None`: the
    /// token lasts for ever.
    pub(super) fn new(
        now: Instant,
        lasts: Duration,
        is_renewable: bool,
        look: Duration,
    ) -> Option<Self> {
        let ends_at = (!lasts.is_zero()).then(|| now.checked_add(lasts)).flatten()?;
        let renew_at = now + jittered(renew_after(lasts, look));
        Some(Self { is_renewable, granted: lasts, renew_at, ends_at })
    }

    /// The lease after a renewal for `lasts`. `None`: the token nears the end of its greatest
    /// life, since less than half of a lease was granted, so a new login is due.
    pub(super) fn renewed(&self, now: Instant, lasts: Duration, look: Duration) -> Option<Self> {
        let lease = Self::new(now, lasts, self.is_renewable, look)?;
        (lasts * 2 >= self.granted).then_some(Self { granted: self.granted, ..lease })
    }

    /// The lease when it could be neither renewed nor replaced: again after a third of the rest.
    pub(super) fn postponed(&self, now: Instant) -> Self {
        let rest = self.ends_at.saturating_duration_since(now);
        Self { renew_at: now + jittered(rest / 3), ..*self }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.renew_at
    }

    pub(super) fn has_ended(&self, now: Instant) -> bool {
        now >= self.ends_at
    }
}

/// Two thirds of a lease; earlier where the look after the next would come too late.
fn renew_after(lasts: Duration, look: Duration) -> Duration {
    (lasts * 2 / 3).min(lasts.saturating_sub(look * 2)).max(lasts / 3)
}

/// The growing wait after refusals in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pause: Duration,
    until: Instant,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(300);

    /// The wait after a refusal at `now`, which followed on `earlier`'s.
    pub(super) fn after(earlier: Option<Self>, now: Instant) -> Self {
        let pause = earlier.map_or(Self::FIRST, |earlier| (earlier.pause * 2).min(Self::LONGEST));
        Self { pause, until: now + jittered(pause) }
    }

    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// `pause` and up to a fourth less, so that many of us don't ask at the same moment.
pub(super) fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter, and nothing worse.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    pause.saturating_sub(pause.mul_f64(f64::from(byte) / 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_secs(30);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_is_renewed_at_two_thirds_or_before_looks_are_too_few() {
        assert_eq!(renew_after(secs(3600), LOOK), secs(2400));
        assert_eq!(renew_after(secs(120), LOOK), secs(60), "at 80 the next look is the last");
        assert_eq!(renew_after(secs(30), LOOK), secs(10), "never from the start");
        let now = Instant::now();
        let lease = Lease::new(now, secs(3600), true, LOOK).unwrap();
        assert!(!lease.is_due(now + secs(1799)) && lease.is_due(now + secs(2400)));
        assert!(!lease.has_ended(now + secs(3599)) && lease.has_ended(now + secs(3600)));
        assert_eq!(Lease::new(now, Duration::ZERO, true, LOOK), None, "a root token");
    }

    #[test]
    fn a_capped_renewal_asks_for_a_login() {
        let now = Instant::now();
        let lease = Lease::new(now, secs(60), true, secs(1)).unwrap();
        let renewed = lease.renewed(now + secs(40), secs(60), secs(1)).unwrap();
        assert!(!renewed.has_ended(now + secs(99)));
        assert_eq!(renewed.renewed(now + secs(80), secs(29), secs(1)), None);
    }

    #[test]
    fn a_failed_renewal_is_tried_again_before_the_end() {
        let now = Instant::now();
        let lease = Lease::new(now, secs(90), true, secs(1)).unwrap();
        let later = lease.postponed(now + secs(60));
        assert!(!later.is_due(now + secs(60)) && later.is_due(now + secs(70)));
        assert!(later.has_ended(now + secs(90)));
    }

    #[test]
    fn waits_double_to_five_minutes() {
        let now = Instant::now();
        let mut backoff = Backoff::after(None, now);
        assert!(backoff.is_waiting(now + secs(3)) && !backoff.is_waiting(now + secs(5)));
        for _ in 0..9 {
            backoff = Backoff::after(Some(backoff), now);
        }
        assert!(backoff.is_waiting(now + secs(224)) && !backoff.is_waiting(now + secs(300)));
    }
}
