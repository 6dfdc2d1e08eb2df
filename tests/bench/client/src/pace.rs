//! Sends on a fixed schedule, whether or not earlier answers have come.
//!
//! A latency counts from the moment the schedule names, not from when the request got out: a server
//! that stands still for a while delays all requests of that while, and each is counted. One that can't
//! keep the schedule may refuse: such a request has no latency.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Fault;
use crate::answer::Refused;
use crate::run::Session;

/// The latency of each request in the order they were due, and how late each was sent: if that is
/// much, it is this client that was measured. Nanoseconds.
pub(crate) async fn send(
    session: &Rc<Session>,
    requests: usize,
    rate: u64,
) -> Result<Value, Fault> {
    let latencies = Rc::new(RefCell::new(vec![None; requests]));
    let mut delays = Vec::with_capacity(requests);
    let mut waiting = JoinSet::new();
    let began = Instant::now();
    for number in 0..requests {
        let due = began + Duration::from_nanos(number as u64 * 1_000_000_000 / rate);
        // The runtime's timers are too coarse. This core is the client's own.
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        delays.push(nanoseconds(due.elapsed()));
        let drawn = session.deck.borrow_mut().draw()?;
        let connection = number % session.connections.len();
        let (session, latencies) = (Rc::clone(session), Rc::clone(&latencies));
        waiting.spawn_local(async move {
            match session.ask(connection, &drawn).await {
                Ok(came) => {
                    latencies.borrow_mut()[number] = Some(nanoseconds(came.duration_since(due)));
                    Ok(())
                }
                Err(fault) if fault.is::<Refused>() => Ok(()),
                Err(fault) => Err(fault),
            }
        });
        while let Some(ended) = waiting.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = waiting.join_next().await {
        ended??;
    }
    Ok(json!({"latencies": *latencies.borrow(), "delays": delays}))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
