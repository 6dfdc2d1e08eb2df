//! The lines on their way to the sink: bounded in bytes, whatever the sink does.
//!
//! Lines are gathered in memory and taken by one thread, many at a time: a line costs a decision a copy,
//! and seldom a wake-up. What the writer has taken and not yet delivered counts as waiting.

use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

/// The longest pause at the end.
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Takes lines; when the last clone is gone, the writer ends.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Inlet>);

#[derive(Debug)]
struct Inlet(Arc<Queue>);

/// When the writer is to have what waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathering {
    /// So many bytes are enough.
    pub(super) enough: usize,
    /// The first line waits no longer than this.
    pub(super) patience: Duration,
}

/// The lines that wait, and what becomes of them at the end.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    room: Notify,
    capacity: usize,
    gathering: Gathering,
    /// When the writer must be done; none while there is no end.
    end: watch::Sender<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// How many bytes the writer has taken and not yet delivered, or given up.
    taken: usize,
    /// How many lines it took the last time.
    in_hand: u64,
    is_closed: bool,
}

/// The sink has no room.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Full;

/// A queue for up to `capacity` bytes, and its two ends.
pub(super) fn queue(capacity: usize, gathering: Gathering) -> (Lines, Arc<Queue>) {
    let queue = Arc::new(Queue {
        waiting: Mutex::default(),
        changed: Condvar::new(),
        room: Notify::new(),
        capacity,
        gathering,
        end: watch::channel(None).0,
    });
    (Lines(Arc::new(Inlet(Arc::clone(&queue)))), queue)
}

impl Lines {
    /// Adds one line to those that wait.
    pub(super) fn add(&self, line: &[u8]) -> Result<(), Full> {
        let Inlet(queue) = &*self.0;
        let mut waiting = queue.lock();
        let before = waiting.lines.len();
        let after = before + line.len();
        if after + waiting.taken > queue.capacity || waiting.is_closed {
            return Err(Full);
        }
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        let enough = queue.gathering.enough;
        if before == 0 || (before < enough && enough <= after) {
            queue.changed.notify_one();
        }
        Ok(())
    }

    /// [`Self::add`], once there is room.
    pub(super) async fn add_in_time(&self, line: &[u8]) {
        let Inlet(queue) = &*self.0;
        loop {
            let mut room = pin!(queue.room.notified());
            room.as_mut().enable();
            if self.add(line).is_ok() {
                return;
            }
            room.await;
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Queue {
    /// Takes all lines that wait, once there are some and they were gathered. `false`: there will be none.
    pub(super) fn take(&self, lines: &mut Vec<u8>) -> bool {
        lines.clear();
        let Gathering { enough, patience } = self.gathering;
        let is_idle = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.is_closed;
        let is_little = |waiting: &mut Waiting| waiting.lines.len() < enough && !waiting.is_closed;
        let waiting = self.changed.wait_while(self.lock(), is_idle);
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        let waiting = self.changed.wait_timeout_while(waiting, patience, is_little);
        let (mut waiting, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(lines, &mut waiting.lines);
        waiting.taken = lines.len();
        drop(waiting);
        let in_hand = count(lines);
        self.lock().in_hand = in_hand;
        !lines.is_empty()
    }

    /// Makes room: `bytes` of what was taken are delivered, or given up.
    pub(super) fn release(&self, bytes: usize) {
        let mut waiting = self.lock();
        waiting.taken = waiting.taken.saturating_sub(bytes);
        drop(waiting);
        self.room.notify_waiters();
    }

    /// Waits a while, less at the end, before something is tried again; `false`: there is no time left.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let is_open = |waiting: &mut Waiting| !waiting.is_closed;
        let waited = self.changed.wait_timeout_while(self.lock(), pause, is_open);
        let (waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !waiting.is_closed {
            return true;
        }
        drop(waiting);
        let left = self.end.borrow().map(|end| end.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or_default();
        std::thread::sleep(left.min(LAST_PAUSE));
        !left.is_zero()
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        let waiting = self.lock();
        waiting.lines.len() + waiting.taken
    }

    /// Takes no more lines; those that wait are to be delivered until `end`.
    pub(super) fn close_by(&self, end: Instant) {
        self.end.send_replace(Some(end));
        self.close();
    }

    /// When what waits must be delivered, told to whoever waits for that.
    pub(super) fn end(&self) -> watch::Receiver<Option<Instant>> {
        self.end.subscribe()
    }

    /// How many lines are not delivered, or all that the writer took with the last of them.
    pub(super) fn left(&self) -> u64 {
        let waiting = self.lock();
        let in_hand = if waiting.taken > 0 { waiting.in_hand } else { 0 };
        in_hand + count(&waiting.lines)
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many lines there are.
pub(super) fn count(lines: &[u8]) -> u64 {
    let ends = memchr::memchr_iter(b'\n', lines).count();
    u64::try_from(ends).unwrap_or(u64::MAX)
}

/// The whole lines at the beginning that have at most `bytes`, and the rest. A first line that is longer is
/// one nevertheless.
pub(super) fn split(lines: &[u8], bytes: usize) -> (&[u8], &[u8]) {
    let whole = lines
        .get(..bytes)
        .map_or(Some(lines.len()), |start| memchr::memrchr(b'\n', start).map(|end| end + 1));
    let first = || memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1);
    lines.split_at_checked(whole.unwrap_or_else(first)).unwrap_or((lines, &[]))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    const AT_ONCE: Gathering = Gathering { enough: 1, patience: Duration::ZERO };

    #[test]
    fn what_the_writer_holds_takes_room_until_it_is_delivered() {
        let (lines, queue) = queue(10, AT_ONCE);
        lines.add(b"first\n").unwrap();
        let mut taken = Vec::new();
        assert!(queue.take(&mut taken));
        assert_eq!(taken, b"first\n");
        assert_eq!(lines.add(b"second\n"), Err(Full));
        queue.release(taken.len());
        lines.add(b"second\n").unwrap();
        assert_eq!((queue.len(), queue.left()), (7, 1));
    }

    #[test]
    fn whoever_waits_for_room_gets_it() {
        let (lines, queue) = queue(6, AT_ONCE);
        lines.add(b"first\n").unwrap();
        let mut waiting = Box::pin(lines.add_in_time(b"next\n"));
        assert!((&mut waiting).now_or_never().is_none());
        let mut taken = Vec::new();
        queue.take(&mut taken);
        assert!((&mut waiting).now_or_never().is_none());
        queue.release(taken.len());
        assert!(waiting.now_or_never().is_some());
        queue.take(&mut taken);
        assert_eq!(taken, b"next\n");
    }

    #[test]
    fn what_waits_at_the_end_is_taken_and_no_more_comes() {
        let (lines, queue) = queue(100, Gathering { enough: 50, patience: Duration::MAX });
        lines.add(b"last\n").unwrap();
        queue.close_by(Instant::now());
        assert_eq!(lines.add(b"late\n"), Err(Full));
        let mut taken = Vec::new();
        assert!(queue.take(&mut taken));
        assert_eq!(taken, b"last\n");
        assert!(!queue.take(&mut taken));
    }

    proptest! {
        #[test]
        fn batches_are_whole_lines(texts in prop::collection::vec("[a-z]{0,9}", 1..9), bytes in 1_usize..30) {
            let lines: String = texts.iter().map(|text| format!("{text}\n")).collect();
            let (mut rest, mut seen) = (lines.as_bytes(), Vec::new());
            while !rest.is_empty() {
                let (batch, left) = split(rest, bytes);
                prop_assert!(batch.ends_with(b"\n"));
                prop_assert!(batch.len() <= bytes || count(batch) == 1);
                seen.extend_from_slice(batch);
                rest = left;
            }
            prop_assert_eq!(seen, lines.as_bytes());
        }
    }
}
