//! What is learned of a check on its way, and until when it must be answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer_cache::InTheMaking;
use crate::audit::Unwritten;
use crate::request::Request;
use crate::reuse::Key;
use crate::scope::Scope;
use crate::stages::Stages;
use crate::trace::{Edge, Trace};

/// The time for a check whose caller sends no deadline.
pub(super) const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// The time for a check at most, whatever its caller says.
const LONGEST_DEADLINE: Duration = Duration::from_secs(60);

/// What was learned of a check.
pub(super) struct Seen {
    pub(super) edge: Edge,
    pub(super) started: Instant,
    /// When it must be answered.
    pub(super) until: Instant,
    pub(super) request: Option<Box<Request>>,
    pub(super) scope: Option<Arc<Scope>>,
    /// Under which key its answer may be kept, and who gives it.
    pub(super) question: Option<(Arc<Scope>, Key)>,
    /// While the answer is made, others with the same question wait.
    pub(super) making: Option<InTheMaking>,
    /// The record of an answer that was given before, while the log has no room for it.
    pub(super) unwritten: Option<Box<Unwritten>>,
    /// The trace it belongs to, once that is known.
    pub(super) trace: Option<Trace>,
    pub(super) is_joined: bool,
    pub(super) stages: Stages,
}

impl Seen {
    /// Nothing yet, of a check whose caller waits for so long.
    pub(super) fn new(edge: Edge, deadline: Option<Duration>) -> Self {
        let (started, time) = (Instant::now(), margin(deadline.unwrap_or(DEFAULT_DEADLINE)));
        Self {
            edge,
            started,
            until: started + time,
            request: None,
            scope: None,
            question: None,
            making: None,
            unwritten: None,
            trace: None,
            is_joined: false,
            stages: Stages::of_check(started, time),
        }
    }
}

/// Answers before the caller gives up: its giving up would be an error, and could be an allow.
pub(super) fn margin(deadline: Duration) -> Duration {
    let deadline = deadline.min(LONGEST_DEADLINE);
    deadline.saturating_sub(Duration::from_millis(5).max(deadline / 10))
}
