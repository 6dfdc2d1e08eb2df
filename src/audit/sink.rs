//! Where lines go, and the thread that brings them there.
//!
//! A sink that fails loses lines, which are counted, and never holds a decision up; that it fails is said
//! once, and once that it works again. At the end what waits is delivered as long as there is time.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::delivery::{Remote, RemoteSettings};
use super::file::{FileSettings, LogFile};
use super::log::WhenFull;
use super::queue::{Gathering, Lines, Queue, count, queue};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// How long lines are gathered for a sink on this machine.
const GATHERING: Duration = Duration::from_millis(5);

/// How long the writer waits before it tries again what others wait for.
const BEFORE_ANOTHER: Duration = Duration::from_millis(500);

/// How much longer than it may the writer is waited for.
const LAST_MOMENT: Duration = Duration::from_millis(250);

/// Where decision lines go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// Nowhere.
    None,
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(FileSettings),
    /// Sent elsewhere, in batches.
    Remote(Box<RemoteSettings>),
}

impl Sink {
    /// A file that only others rotate.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(FileSettings::plain(path.into()))
    }
}

/// Brings what is waiting to the sink, until every [`Recorder`](super::Recorder) is gone or it is told to
/// finish.
#[derive(Debug)]
pub struct LogWriter(Option<Running>);

#[derive(Debug)]
struct Running {
    queue: Arc<Queue>,
    metrics: Metrics,
    /// Its other end is the thread's.
    ended: Receiver<()>,
}

impl LogWriter {
    /// Takes no more lines, and waits until those that wait are delivered, at most for `grace`: a request that
    /// was cut off may hold its recorder for as long as its client likes, and a sink may never take them.
    pub fn finish(self, grace: Duration) {
        let Some(Running { queue, metrics, ended }) = self.0 else { return };
        let grace = grace.min(MAX_GRACE);
        queue.close_by(Instant::now() + grace);
        // The sender is never used: that it is gone is what is waited for.
        let waited = ended.recv_timeout(grace + LAST_MOMENT);
        if waited == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let left = queue.left();
            metrics.log_lines_dropped(left);
            tracing::error!(left, "the decision log's sink does not take its lines: they are lost");
        }
    }
}

/// Nobody waits longer for the end.
const MAX_GRACE: Duration = Duration::from_secs(3600);

/// Opens `sink` and starts its writer, for up to `capacity` bytes that wait; no lines are taken for
/// [`Sink::None`].
pub(super) fn open(
    sink: Sink,
    when_full: WhenFull,
    capacity: usize,
    metrics: Metrics,
) -> io::Result<(Option<Lines>, LogWriter)> {
    let local = Gathering { enough: capacity / 4, patience: GATHERING };
    let (output, gathering) = match sink {
        Sink::None => return Ok((None, LogWriter(None))),
        Sink::Stdout => (Output::Stream(Box::new(io::stdout())), local),
        Sink::File(settings) => (Output::File(LogFile::open(settings, Clock::System)?), local),
        Sink::Remote(settings) => {
            let gathering =
                Gathering { enough: settings.batch_bytes, patience: settings.batch_interval };
            (Output::Remote(Box::new(Remote::new(*settings)?)), gathering)
        }
    };
    let (lines, writer) = start(output, when_full, (capacity, gathering), metrics)?;
    Ok((Some(lines), writer))
}

fn start(
    output: Output,
    when_full: WhenFull,
    (capacity, gathering): (usize, Gathering),
    metrics: Metrics,
) -> io::Result<(Lines, LogWriter)> {
    let (lines, queue) = queue(capacity, gathering);
    let (ending, ended) = channel();
    let health = Health::new(metrics.clone());
    let is_patient = when_full == WhenFull::Block;
    let writer = Writer { queue: Arc::clone(&queue), output, is_patient, health, _ending: ending };
    thread::Builder::new().name("decision-log".to_owned()).spawn(move || writer.run())?;
    Ok((lines, LogWriter(Some(Running { queue, metrics, ended }))))
}

enum Output {
    Stream(Box<dyn Write + Send>),
    File(LogFile),
    Remote(Box<Remote>),
}

/// The thread.
struct Writer {
    queue: Arc<Queue>,
    output: Output,
    /// Whether nothing is given up while there is time: others wait for it.
    is_patient: bool,
    health: Health,
    _ending: Sender<()>,
}

impl Writer {
    fn run(mut self) {
        let mut lines = Vec::new();
        while self.queue.take(&mut lines) {
            self.health.metrics.log_waiting(lines.len());
            self.bring(&lines);
            self.queue.release(lines.len());
            self.health.metrics.log_waiting(self.queue.len());
        }
        self.health.end();
    }

    fn bring(&mut self, lines: &[u8]) {
        let mut rest = lines;
        loop {
            let Self { queue, health, is_patient, .. } = self;
            let brought = match &mut self.output {
                Output::Stream(stream) => write(stream, rest, health),
                Output::File(file) => file.write(rest, health),
                Output::Remote(remote) => remote.deliver(rest, queue, *is_patient, health),
            };
            rest = rest.get(brought..).unwrap_or_default();
            if rest.is_empty() {
                return;
            }
            let is_tried_again = self.is_patient && self.queue.pause(BEFORE_ANOTHER);
            if !is_tried_again {
                return self.health.lose(count(rest));
            }
        }
    }
}

/// How many bytes of `lines` were written.
fn write(output: &mut dyn Write, lines: &[u8], health: &mut Health) -> usize {
    let (written, outcome) = write_out(output, lines);
    match outcome.and_then(|()| output.flush()) {
        Ok(()) => health.works(),
        Err(error) => health.fails(&error),
    }
    written
}

/// Writes `bytes`; how many were written, and what stopped it.
pub(super) fn write_out(output: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match output.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Whether a sink works: a failure is counted each time, and said once.
#[derive(Debug)]
pub(super) struct Health {
    metrics: Metrics,
    is_failing: bool,
    /// How many lines were lost since it was last said.
    lost: u64,
}

impl Health {
    pub(super) const fn new(metrics: Metrics) -> Self {
        Self { metrics, is_failing: false, lost: 0 }
    }

    pub(super) fn works(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            let lost = std::mem::take(&mut self.lost);
            tracing::info!(lost, "the decision log's sink works again");
        }
    }

    pub(super) fn fails(&mut self, error: &dyn std::fmt::Display) {
        self.metrics.log_failed();
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(%error, "the decision log's sink fails; lines it can't take are counted and lost");
        }
    }

    pub(super) fn lose(&mut self, lines: u64) {
        self.metrics.log_lines_dropped(lines);
        self.lost += lines;
    }

    fn end(&self) {
        if self.lost > 0 {
            tracing::error!(lost = self.lost, "lines of the decision log could not be delivered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 4_096;
    const AT_ONCE: Gathering = Gathering { enough: 1, patience: Duration::ZERO };

    /// Tells of each write, and lets it happen when told to.
    struct Slow {
        began: Sender<Vec<u8>>,
        go_on: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.began.send(bytes.to_vec()).unwrap();
            self.go_on.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Lines, LogWriter, Receiver<Vec<u8>>, Sender<()>) {
        let (began, writes) = channel();
        let (let_go, go_on) = channel();
        let output = Output::Stream(Box::new(Slow { began, go_on }));
        let (lines, writer) =
            start(output, WhenFull::Drop, (CAPACITY, AT_ONCE), Metrics::new()).unwrap();
        (lines, writer, writes, let_go)
    }

    #[test]
    fn a_slow_sink_refuses_lines_and_loses_none_that_it_took() {
        let (lines, writer, writes, let_go) = slow();
        lines.add(b"first\n").unwrap();
        assert_eq!(writes.recv().unwrap(), b"first\n");
        let line = vec![b'x'; CAPACITY / 4];
        let taken = (0..6).filter(|_| lines.add(&line).is_ok()).count();
        assert_eq!(taken, 3);
        lines.add(&line).unwrap_err();
        let_go.send(()).unwrap();
        assert_eq!(writes.recv().unwrap().len(), CAPACITY / 4 * 3);
        lines.add(b"last\n").unwrap();
        drop(lines);
        let_go.send(()).unwrap();
        assert_eq!(writes.recv().unwrap(), b"last\n");
        let_go.send(()).unwrap();
        writer.finish(Duration::from_secs(10));
    }

    #[test]
    fn a_sink_that_takes_nothing_does_not_hold_the_end_up() {
        let (lines, writer, writes, let_go) = slow();
        lines.add(b"first\n").unwrap();
        writes.recv().unwrap();
        lines.add(b"second\n").unwrap();
        let metrics = writer.0.as_ref().unwrap().metrics.clone();
        writer.finish(Duration::ZERO);
        assert!(metrics.exposition().contains("placet_decision_log_dropped_total 2\n"));
        drop(let_go);
    }

    /// Has room for so many bytes, and once it was full for all.
    struct Short {
        room: usize,
        written: Sender<Vec<u8>>,
    }

    impl Write for Short {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            if taken == 0 {
                self.room = usize::MAX;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.send(bytes[..taken].to_vec()).unwrap();
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_not_written_is_lost_unless_others_wait_for_it() {
        let text = b"first\nsecond\nthird\n";
        for (when_full, expected, lost) in
            [(WhenFull::Drop, &text[..8], "2"), (WhenFull::Block, &text[..], "0")]
        {
            let (written, writes) = channel();
            let output = Output::Stream(Box::new(Short { room: 8, written }));
            let metrics = Metrics::new();
            let (lines, writer) =
                start(output, when_full, (CAPACITY, AT_ONCE), metrics.clone()).unwrap();
            lines.add(text).unwrap();
            let found: Vec<u8> = if when_full == WhenFull::Block {
                writes.iter().take(2).flatten().collect()
            } else {
                writes.recv().unwrap()
            };
            writer.finish(Duration::from_secs(10));
            assert_eq!(found, expected, "{when_full:?}");
            let exposition = metrics.exposition();
            let dropped = format!("placet_decision_log_dropped_total {lost}\n");
            assert!(exposition.contains(&dropped), "{exposition}");
            assert!(exposition.contains("placet_decision_log_failures_total 1\n"));
        }
    }
}
