//! Tells when a file that was read may say something else by now.
//!
//! By looking again, not by the kernel's notifications: those know nothing of what another machine writes on a
//! shared volume, lose their file when it is replaced, and need a look to fall back on anyway, while a look at
//! a few named files costs microseconds. A change counts once two looks agree, so that several in quick
//! succession are one, and a file that is being written is left to be finished; what never comes to rest
//! is read in the end. Looks are made where a slow file system holds nobody up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::files::Look;

/// After so many looks that all differ, what is there is read.
const MOST_UNSETTLED: u32 = 10;

/// What a look found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// What was read.
    Same,
    /// Something else, which may not be all yet.
    Unsettled,
    /// Something else.
    Changed,
}

/// Looks at files, again and again.
#[derive(Debug)]
pub(super) struct Watch {
    period: Option<Duration>,
    ticks: Option<Interval>,
    read: Arc<Look>,
    pending: Option<Look>,
    unsettled: u32,
}

impl Watch {
    /// Looks at the files of `read`, which says what they were when they were read, once a `period`; with
    /// none, never.
    pub(super) fn new(period: Option<Duration>, read: Look) -> Self {
        let read = Arc::new(read);
        Self { period, ticks: period.map(ticks), read, pending: None, unsettled: 0 }
    }

    /// From now on looks once a `period`.
    pub(super) fn every(&mut self, period: Option<Duration>) {
        if self.period != period {
            (self.period, self.ticks) = (period, period.map(ticks));
        }
    }

    /// Whether it looks at all.
    pub(super) const fn is_on(&self) -> bool {
        self.ticks.is_some()
    }

    /// From now on looks at the files of `read`.
    pub(super) fn over(&mut self, read: Look) {
        (self.read, self.pending, self.unsettled) = (Arc::new(read), None, 0);
    }

    /// Waits for the next look, and looks.
    pub(super) async fn look(&mut self) -> Seen {
        let Some(ticks) = &mut self.ticks else { return std::future::pending().await };
        ticks.tick().await;
        let read = Arc::clone(&self.read);
        match tokio::task::spawn_blocking(move || read.again()).await {
            Ok(now) => self.judge(now),
            Err(_) => Seen::Unsettled,
        }
    }

    /// Waits until something has changed.
    pub(super) async fn changed(&mut self) {
        while self.look().await != Seen::Changed {}
    }

    fn judge(&mut self, now: Look) -> Seen {
        if now == *self.read {
            (self.pending, self.unsettled) = (None, 0);
            return Seen::Same;
        }
        self.unsettled = self.unsettled.saturating_add(1);
        if self.pending.as_ref() == Some(&now) || self.unsettled > MOST_UNSETTLED {
            (self.pending, self.unsettled) = (None, 0);
            return Seen::Changed;
        }
        self.pending = Some(now);
        Seen::Unsettled
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn noted(file: &Path) -> Look {
        let mut look = Look::default();
        look.note(file);
        look
    }

    #[test]
    fn a_change_counts_once_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let mut watch = Watch::new(None, noted(&file));
        let mut look = || watch.judge(noted(&file));
        assert_eq!(look(), Seen::Same);
        fs::write(&file, "hal").unwrap();
        assert_eq!(look(), Seen::Unsettled);
        fs::write(&file, "half").unwrap();
        assert_eq!(look(), Seen::Unsettled);
        assert_eq!(look(), Seen::Changed);
        assert_eq!(look(), Seen::Unsettled, "nobody has read it yet");
        fs::remove_file(&file).unwrap();
        assert_eq!(look(), Seen::Same, "what was read is there again");
        fs::write(&file, "1").unwrap();
        assert_eq!(look(), Seen::Unsettled);
        watch.over(noted(&file));
        assert_eq!(watch.judge(noted(&file)), Seen::Same);
    }

    #[test]
    fn what_never_settles_is_read_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let mut watch = Watch::new(None, noted(&file));
        let mut seen = Vec::new();
        for length in 1..=11 {
            fs::write(&file, "a".repeat(length)).unwrap();
            seen.push(watch.judge(noted(&file)));
        }
        assert_eq!(seen.pop(), Some(Seen::Changed));
        assert!(seen.iter().all(|it| *it == Seen::Unsettled));
    }

    #[tokio::test]
    async fn who_does_not_watch_looks_never() {
        use futures_util::FutureExt as _;
        let mut watch = Watch::new(None, Look::default());
        assert!(watch.look().now_or_never().is_none());
        watch.every(Some(Duration::from_millis(1)));
        assert_eq!(watch.look().await, Seen::Same);
    }
}
