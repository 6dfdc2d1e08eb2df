//! The decision log: which decisions have a line, what it says, and what happens when there is no room.
//!
//! With [`WhenFull::Drop`] a line that finds no room is lost and counted, and no decision waits for the log.
//! With [`WhenFull::Block`] an answer waits for its line to have room, and an allow that has none in time
//! is none: nothing passes unlogged.

use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::queue::Lines;
use super::record::Record;
use super::sampling::Sampling;
use super::shape::Shape;
use super::sink::Sink;
use crate::metrics::Metrics;

/// How many bytes wait for the sink, where the settings don't say.
pub const DEFAULT_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The decision log as the settings have it.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Where lines go.
    pub sink: Sink,
    /// What happens when they don't go there fast enough.
    pub when_full: WhenFull,
    /// How many bytes of them may wait.
    pub buffer_bytes: usize,
    /// What they show.
    pub shape: Shape,
    /// Which allows have one; `None`: all.
    pub sampling: Option<Sampling>,
    /// Whose Placet this is.
    pub organization: String,
    /// Which Placet this is.
    pub instance_name: String,
}

impl LogSettings {
    /// Everything to `sink`, and all else as it is where the settings say nothing.
    pub fn to(sink: Sink) -> Self {
        Self {
            sink,
            when_full: WhenFull::Drop,
            buffer_bytes: DEFAULT_BUFFER_BYTES,
            shape: Shape::default(),
            sampling: None,
            organization: String::new(),
            instance_name: String::new(),
        }
    }
}

/// What happens to a line that finds no room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WhenFull {
    /// It is lost.
    Drop,
    /// It is waited for, and the answer with it.
    Block,
}

/// The decision log of a process, but for its sink.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) lines: Lines,
    pub(super) when_full: WhenFull,
    pub(super) shape: Shape,
    sampling: Option<Sampling>,
    organization: String,
    instance_name: String,
}

impl Log {
    pub(super) fn new(settings: LogSettings, lines: Lines) -> Self {
        let LogSettings { when_full, shape, sampling, organization, instance_name, .. } = settings;
        Self { lines, when_full, shape, sampling, organization, instance_name }
    }

    /// Whether a yes has a line: by the proxy's id of the request, else by the decision's own.
    pub(super) fn takes(&self, request_id: &str, id: &str) -> bool {
        let id = if request_id.is_empty() { id } else { request_id };
        self.sampling.is_none_or(|sampling| sampling.takes(id))
    }

    /// Whether yeses have lines by the proxy's id of their request.
    pub(super) const fn is_sampled(&self) -> bool {
        self.sampling.is_some()
    }

    /// `record`, with what is the same for all that this process logs.
    pub(super) fn complete<'a>(&'a self, record: Record<'a>) -> Record<'a> {
        let is_yes = record.outcome != "deny";
        let share = self.sampling.filter(|_| is_yes).map_or(1.0, Sampling::share);
        Record {
            organization: self.organization.as_str().into(),
            instance_name: self.instance_name.as_str().into(),
            sample_rate: share,
            ..record
        }
    }
}

/// A decision that is neither logged nor counted yet, because the log has no room.
#[derive(Debug)]
#[must_use]
pub struct Unwritten {
    pub(super) line: Vec<u8>,
    pub(super) lines: Lines,
    pub(super) counter: Counter,
    pub(super) took: Duration,
    pub(super) metrics: Metrics,
    pub(super) is_written: bool,
}

/// The log had no room in time.
#[derive(Debug, thiserror::Error)]
#[error("the decision log has no room for the decision")]
pub struct LogFull;

impl Unwritten {
    /// Waits for room until `until`; then the decision is logged and counted.
    pub async fn written(mut self, until: Instant) -> Result<(), LogFull> {
        self.metrics.log_waited();
        let room = self.lines.add_in_time(&self.line);
        tokio::time::timeout_at(until.into(), room).await.map_err(|_| LogFull)?;
        self.is_written = true;
        self.metrics.decided_again(&self.counter, self.took);
        Ok(())
    }

    /// Counts the decision, which stands although it is not logged: a no.
    pub fn given_up(self) {
        self.metrics.decided_again(&self.counter, self.took);
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        if !self.is_written {
            self.metrics.log_lines_dropped(1);
        }
    }
}
