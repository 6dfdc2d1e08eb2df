//! The part of a check in a distributed trace.
//!
//! The trace is that of the proxy's call, or else of the request it asks about ([`Incoming`]). Whether
//! spans are made is the caller's to say, and where nobody says, a matter of a ratio of the trace ids;
//! of what is not sampled nothing is made. What was made is queued for whoever exports it, and dropped
//! and counted when there is no room: no decision waits for a collector. What a [`CheckSpan`] holds is all
//! that is told of a check; path, principal, credentials, query and headers are not in it.

mod context;

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

pub use self::context::{Incoming, SpanId, TraceId};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::stages::{Stage, Stages};

/// Checks that wait to be exported.
const MAX_WAITING: usize = 2_048;

/// A check's place in a trace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trace {
    /// The trace.
    pub id: TraceId,
    /// Whose call it is; none where the trace begins with the check.
    pub parent: Option<SpanId>,
    /// The check's own span; none where it is not sampled.
    pub span: Option<SpanId>,
}

/// What became of a check, as its span tells it.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Over what the proxy asked.
    pub edge: Edge,
    /// The client ID of the scope that decided; empty when none was chosen.
    pub scope: String,
    /// `allow`, `deny`, `bypass` or `dry_run`, as in the metrics.
    pub outcome: &'static str,
    /// The reason code.
    pub reason: &'static str,
    /// Whether it was denied by a fault of ours.
    pub is_fault: bool,
    /// The decision's id.
    pub decision_id: String,
    /// The revision of the policies.
    pub revision: String,
    /// Whether the decision was made for an earlier request.
    pub reused: bool,
}

/// Over what a proxy asks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Edge {
    /// gRPC.
    #[default]
    Grpc,
    /// HTTP.
    Http,
}

impl Edge {
    /// What records call a check by it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "check",
            Self::Http => "http_check",
        }
    }
}

/// How a check came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Over what.
    pub edge: Edge,
    /// The trace it belongs to.
    pub trace: Option<Trace>,
}

/// The span of a check, and those of its stages. Times are in nanoseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct CheckSpan {
    /// Its place; it has a span of its own.
    pub trace: Trace,
    /// The check's own span.
    pub span: SpanId,
    /// From its arrival to its answer.
    pub time: (u64, u64),
    /// Its stages.
    pub stages: Vec<(Stage, (u64, u64))>,
    /// What became of it.
    pub told: Told,
}

impl CheckSpan {
    /// How many spans it makes.
    pub fn count(&self) -> u64 {
        1 + self.stages.len() as u64
    }
}

/// Joins checks to traces, and queues their spans.
#[derive(Clone, Debug)]
pub struct Tracer {
    /// Trace ids whose last eight bytes, halved, are below this are sampled.
    below: u64,
    queue: mpsc::Sender<CheckSpan>,
    metrics: Metrics,
    clock: Clock,
}

impl Tracer {
    /// A tracer that begins traces of its own for `ratio` (0 to 1) of the checks that come without one;
    /// and what it queues.
    pub fn new(ratio: f64, metrics: Metrics, clock: Clock) -> (Self, mpsc::Receiver<CheckSpan>) {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        (Self { below: threshold(ratio), queue, metrics, clock }, waiting)
    }

    /// The place of a check; `None` where it has none.
    pub fn join(&self, incoming: Option<Incoming>) -> Option<Trace> {
        match incoming {
            Some(Incoming::Within { trace: id, span: parent, sampled }) => {
                let is_sampled = sampled.unwrap_or_else(|| self.samples(id));
                let span = if is_sampled { SpanId::random() } else { None };
                Some(Trace { id, parent: Some(parent), span })
            }
            Some(Incoming::Asked(false)) => None,
            Some(Incoming::Asked(true)) => Self::root(TraceId::random()?),
            None if self.below == 0 => None,
            None => Self::root(TraceId::random().filter(|id| self.samples(*id))?),
        }
    }

    fn root(id: TraceId) -> Option<Trace> {
        Some(Trace { id, parent: None, span: Some(SpanId::random()?) })
    }

    /// As OpenTelemetry's `TraceIdRatioBased` has it, so that others with the same ratio agree.
    fn samples(&self, id: TraceId) -> bool {
        let bytes = id.bytes();
        let last = bytes.last_chunk().map_or(0, |last| u64::from_be_bytes(*last));
        last >> 1 < self.below
    }

    /// Queues the span of a check that began at `started` and is answered now, if it is sampled.
    pub fn finish(
        &self,
        trace: Option<Trace>,
        started: Instant,
        stages: &Stages,
        told: impl FnOnce() -> Told,
    ) {
        let Some((trace, span)) = trace.and_then(|trace| Some((trace, trace.span?))) else {
            return;
        };
        let (now, end) = (Instant::now(), self.clock.unix_nanos());
        let at =
            |instant: Instant| end.saturating_sub(nanos(now.saturating_duration_since(instant)));
        let stages: Vec<_> =
            stages.iter().map(|(stage, begun, ended)| (stage, (at(begun), at(ended)))).collect();
        let finished = CheckSpan { trace, span, time: (at(started), end), stages, told: told() };
        if let Err(refused) = self.queue.try_send(finished) {
            self.metrics.spans_dropped("queue", refused.into_inner().count());
        }
    }
}

/// How many of the numbers of 63 bits `ratio` is.
fn threshold(ratio: f64) -> u64 {
    const ALL: u64 = 1 << 63;
    if ratio >= 1.0 {
        return ALL;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "from 0 to 2^63, and a ratio is no more exact than that"
    )]
    let below = (ratio.max(0.0) * ALL as f64) as u64;
    below
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::NOW;

    fn tracer(ratio: f64) -> (Tracer, mpsc::Receiver<CheckSpan>, Metrics) {
        let metrics = Metrics::new();
        let (tracer, queue) = Tracer::new(ratio, metrics.clone(), Clock::Fixed(NOW));
        (tracer, queue, metrics)
    }

    fn within(sampled: Option<bool>) -> Incoming {
        let (trace, span) = (TraceId::random().unwrap(), SpanId::random().unwrap());
        Incoming::Within { trace, span, sampled }
    }

    #[test]
    fn the_caller_says_what_is_sampled() {
        for ratio in [0.0, 1.0] {
            let (tracer, ..) = tracer(ratio);
            let is_sampled =
                |incoming| tracer.join(Some(incoming)).and_then(|it| it.span).is_some();
            assert!(is_sampled(within(Some(true))) && is_sampled(Incoming::Asked(true)));
            assert!(!is_sampled(within(Some(false))) && !is_sampled(Incoming::Asked(false)));
            assert_eq!(is_sampled(within(None)), ratio > 0.0);
        }
        let (tracer, ..) = tracer(0.0);
        let Incoming::Within { trace, span, .. } = within(None) else { panic!() };
        let joined = tracer.join(Some(Incoming::Within { trace, span, sampled: Some(false) }));
        assert_eq!(joined, Some(Trace { id: trace, parent: Some(span), span: None }));
    }

    #[test]
    fn without_a_caller_the_ratio_does() {
        assert_eq!(tracer(0.0).0.join(None), None);
        let joined = tracer(1.0).0.join(None).unwrap();
        assert!(joined.parent.is_none() && joined.span.is_some());
        let half = tracer(0.5).0;
        let sampled = (0..1_000).filter(|_| half.join(None).is_some()).count();
        assert!((350..650).contains(&sampled), "{sampled}");
    }

    #[test]
    fn a_ratio_is_a_share_of_the_ids() {
        for (ratio, below) in [(-1.0, 0), (0.0, 0), (0.5, 1 << 62), (1.0, 1 << 63), (2.0, 1 << 63)]
        {
            assert_eq!(threshold(ratio), below, "{ratio}");
        }
        let id = |last: u64| {
            let mut bytes = [1; 16];
            bytes[8..].copy_from_slice(&last.to_be_bytes());
            TraceId::of(bytes).unwrap()
        };
        let (half, ..) = tracer(0.5);
        assert!(half.samples(id(0)) && half.samples(id((1 << 63) - 1)));
        assert!(!half.samples(id(1 << 63)) && !half.samples(id(u64::MAX)));
        assert!(tracer(1.0).0.samples(id(u64::MAX)));
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (tracer, mut queue, metrics) = tracer(1.0);
        let (started, mut stages) = (Instant::now(), Stages::default());
        stages.begin(Stage::Route);
        stages.end();
        let finish = |trace| tracer.finish(trace, started, &stages, Told::default);
        finish(None);
        finish(tracer.join(Some(within(Some(false)))));
        assert!(queue.try_recv().is_err(), "nothing is made of what is not sampled");
        (0..MAX_WAITING + 3).for_each(|_| finish(tracer.join(None)));
        assert!(metrics.exposition().contains(r#"placet_spans_dropped_total{reason="queue"} 6"#));
        let span = queue.try_recv().unwrap();
        assert_eq!((span.stages[0].0, span.count()), (Stage::Route, 2));
        assert!(span.time.0 <= span.stages[0].1.0 && span.stages[0].1.1 <= span.time.1);
    }
}
