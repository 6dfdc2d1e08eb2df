//! Sends on a fixed schedule, whether or not earlier answers have come.
//!
//! A latency counts from the moment the schedule names, not from when the request got out: a server
//! that stands still for a while delays all requests of that while, and each is counted. One that can't
//! keep the schedule may refuse: those are counted apart.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Fault;
use crate::answer::Refused;
use crate::run::Session;

/// The percentiles of a curve.
const CURVE: [f64; 14] =
    [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99];

pub(crate) async fn send(session: &Rc<Session>, rate: u64, seconds: u64) -> Result<Value, Fault> {
    let latencies = Rc::new(RefCell::new(Histogram::<u64>::new(3)?));
    // How late requests were sent: if that is much, it is this client that was measured.
    let mut delays = Histogram::<u64>::new(3)?;
    let refused = Rc::new(Cell::new(0_u64));
    let mut waiting = JoinSet::new();
    let began = Instant::now();
    for number in 0..rate * seconds {
        let due = began + Duration::from_nanos(number * 1_000_000_000 / rate);
        // The runtime's timers are too coarse. This core is the client's own.
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        delays.record(nanoseconds(due.elapsed()))?;
        let drawn = session.deck.borrow_mut().draw()?;
        let connection = number as usize % session.connections.len();
        let (session, latencies) = (Rc::clone(session), Rc::clone(&latencies));
        let refused = Rc::clone(&refused);
        waiting.spawn_local(async move {
            match session.ask(connection, &drawn).await {
                Ok(came) => {
                    latencies.borrow_mut().record(nanoseconds(came.duration_since(due)))?;
                }
                Err(fault) if fault.is::<Refused>() => refused.set(refused.get() + 1),
                Err(fault) => return Err(fault),
            }
            Ok::<(), Fault>(())
        });
        while let Some(ended) = waiting.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = waiting.join_next().await {
        ended??;
    }
    let latencies = latencies.borrow();
    let at = |percentile| microseconds(latencies.value_at_percentile(percentile));
    let curve: Vec<_> =
        CURVE.iter().map(|percentile| json!([percentile, at(*percentile)])).collect();
    let sent = (rate * seconds) as f64;
    Ok(json!({
        "refused": refused.get() as f64 / sent,
        "p50": at(50.0), "p99": at(99.0), "p999": at(99.9), "max": microseconds(latencies.max()),
        "curve": curve, "sendDelayP99": microseconds(delays.value_at_percentile(99.0)),
    }))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1_000.0
}
