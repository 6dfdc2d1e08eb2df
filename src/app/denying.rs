//! Keeps the deny list up to date with its file, well within a second.
//!
//! It has a watch of its own: settings may take long to be put in force, or may not be good at all, and
//! whoever is on the list is to be refused meanwhile. A list that is malformed or gone leaves the last good
//! one in force, and is logged, counted and shown on `/readyz`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::Clock;
use crate::config::DenyListFile;
use crate::deny_list::{DenyList, DenyListError};
use crate::files::Stamp;
use crate::metrics::Metrics;
use crate::secrets::{Keeper, Kept};

/// Between two looks. A change is seen at the next one and counts at the one after.
const PERIOD: Duration = Duration::from_millis(150);

/// After so many looks that all differ, what is there is read.
const MOST_UNSETTLED: u32 = 2;

/// A deny list that is kept up to date while this lives.
#[derive(Debug)]
pub(super) struct Denying {
    path: PathBuf,
    list: Kept<DenyList>,
    _end: DropGuard,
}

impl Denying {
    /// Begins to keep the list of `file`, unless `earlier` keeps it already.
    pub(super) fn start(
        file: DenyListFile,
        earlier: Option<&Arc<Self>>,
        clock: Clock,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let DenyListFile { path, stamp, list } = file;
        if let Some(earlier) = earlier.filter(|earlier| earlier.path == path) {
            return Arc::clone(earlier);
        }
        let (keeper, kept) = Kept::channel();
        let end = CancellationToken::new();
        let mut task = DenyTask {
            path: path.clone(),
            keeper,
            clock,
            metrics: metrics.clone(),
            read: stamp,
            pending: stamp,
            unsettled: 0,
        };
        if let Some(list) = list {
            task.put(list);
        }
        tokio::spawn(end.child_token().run_until_cancelled_owned(task.run()));
        Arc::new(Self { path, list: kept, _end: end.drop_guard() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn list(&self) -> Kept<DenyList> {
        self.list.clone()
    }
}

struct DenyTask {
    path: PathBuf,
    keeper: Keeper<DenyList>,
    clock: Clock,
    metrics: Metrics,
    /// What the file was when it was last read, and at the last look.
    read: Stamp,
    pending: Stamp,
    unsettled: u32,
}

impl DenyTask {
    async fn run(mut self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let path = self.path.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || Stamp::of(&path)).await else {
                continue;
            };
            if self.is_due(now) {
                self.read = now;
                let path = self.path.clone();
                let read = tokio::task::spawn_blocking(move || DenyList::read(&path)).await;
                self.settle(read.map_err(|_| "reading it made us panic".to_owned()));
            }
        }
    }

    /// Whether the file, which is `now`, is to be read.
    fn is_due(&mut self, now: Stamp) -> bool {
        let is_settled = now == self.pending;
        self.pending = now;
        if now == self.read {
            self.unsettled = 0;
            return false;
        }
        self.unsettled = self.unsettled.saturating_add(1);
        let is_due = is_settled || self.unsettled > MOST_UNSETTLED;
        if is_due {
            self.unsettled = 0;
        }
        is_due
    }

    fn settle(&mut self, read: Result<Result<DenyList, DenyListError>, String>) {
        match read.and_then(|read| read.map_err(|error| error.to_string())) {
            Ok(list) => {
                tracing::info!(entries = list.len(), "the deny list was read and is in force");
                self.put(list);
            }
            Err(problem) => {
                self.metrics.deny_list_failed();
                let path = self.path.display();
                tracing::error!("the deny list stays as it was: `{path}`: {problem}");
                self.keeper.fail(problem);
            }
        }
    }

    fn put(&mut self, list: DenyList) {
        self.metrics.deny_list(list.len(), self.clock.now());
        self.keeper.put(list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once_it_has_settled_or_after_a_few_looks() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deny.yaml");
        let stamp = || Stamp::of(&file);
        let mut task = DenyTask {
            path: file.clone(),
            keeper: Kept::channel().0,
            clock: Clock::System,
            metrics: Metrics::new(),
            read: stamp(),
            pending: stamp(),
            unsettled: 0,
        };
        assert!(!task.is_due(stamp()));
        std::fs::write(&file, "{}").unwrap();
        assert!(!task.is_due(stamp()) && task.is_due(stamp()));
        task.read = stamp();
        assert!(!task.is_due(stamp()));
        let mut due = Vec::new();
        for length in 0..3 {
            std::fs::write(&file, format!("{{}} # {}", "a".repeat(length))).unwrap();
            due.push(task.is_due(stamp()));
        }
        assert_eq!(due, [false, false, true]);
    }
}
