//! Load on a running instance, and how long its answers take.
//!
//! With a rate, each check has its time, and what it takes is counted from that time on, whether or not
//! it could be sent then: a server that stalls is seen to stall. Without one, each of a number of callers
//! asks again as soon as it has its answer. Checks that fail are counted by their gRPC code and end
//! nothing; only where no connection comes about is there no report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use envoy_types::ext_authz::v3::pb::{CheckRequest, CheckResponse};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use hdrhistogram::{CreationError, Histogram};
use http::uri::{PathAndQuery, Uri};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::envoy::CHECK;
use crate::remote::place::Connection;

pub use crate::remote::place::{ConnectError, Place, PlaceError};

/// What is sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The checks, sent in turn; not empty.
    pub checks: Vec<CheckRequest>,
    /// How long checks are begun.
    pub duration: Duration,
    /// Checks a second; `None` for as many as are answered.
    pub rate: Option<f64>,
    /// Connections, which the callers share; at least one.
    pub connections: usize,
    /// Checks in progress at most; at least one.
    pub callers: usize,
    /// The deadline of each check, sent as its `grpc-timeout`.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Checks that were begun.
    pub checks: u64,
    /// From the first to the last answer, in seconds.
    pub seconds: f64,
    /// Answers a second.
    pub rate: f64,
    /// Answers that allow.
    pub allowed: u64,
    /// Answers that deny, by the HTTP status they give.
    pub denied: BTreeMap<u32, u64>,
    /// Checks without an answer, by gRPC code.
    pub failed: BTreeMap<String, u64>,
    /// What was said of one of those.
    pub failure: Option<String>,
    /// How long the answers took.
    pub latency: Latency,
}

/// How long answers took, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "each says what it is")]
pub struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p999: u64,
    pub max: u64,
}

/// What one caller saw.
#[derive(Debug)]
struct Seen {
    allowed: u64,
    denied: BTreeMap<u32, u64>,
    failed: BTreeMap<String, u64>,
    failure: Option<String>,
    micros: Histogram<u64>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No connection came about.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The times can't be counted.
    #[error("the times can't be counted: {0}")]
    Counting(#[from] CreationError),
}

/// Carries out `plan` against the instance at `place`, until its end or `stop`.
pub async fn run(plan: Plan, place: &Place, stop: CancellationToken) -> Result<Report, BenchError> {
    // Told apart to three digits.
    let mut all = Seen::new(Histogram::new(3)?);
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        connections.push(place.connect().await?);
    }
    let (given, begun) = Default::default();
    let schedule = Arc::new(Schedule { given, begun, start: Instant::now(), plan, stop });
    let callers = (0..schedule.plan.callers).zip(connections.iter().cycle());
    let callers: Vec<_> = callers
        .map(|(_, connection)| {
            let seen = Seen::new(all.micros.clone());
            tokio::spawn(call(Arc::clone(&schedule), connection.clone(), seen))
        })
        .collect();
    for caller in callers {
        if let Ok(seen) = caller.await {
            all.add(seen);
        }
    }
    Ok(all.report(schedule.begun.load(Ordering::Relaxed), schedule.start.elapsed()))
}

/// Which check is next, and when.
#[derive(Debug)]
struct Schedule {
    /// Numbers given out.
    given: AtomicU64,
    begun: AtomicU64,
    start: Instant,
    plan: Plan,
    stop: CancellationToken,
}

impl Schedule {
    /// The next check and its time, when that has come; `None` when there is none any more.
    async fn next(&self) -> Option<(&CheckRequest, Instant)> {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let time = match self.plan.rate {
            Some(rate) => self.start + Duration::from_secs_f64(number as f64 / rate),
            None => Instant::now(),
        };
        let is_over = time >= self.start + self.plan.duration || self.stop.is_cancelled();
        let is_begun = !is_over
            && tokio::select! {
                () = tokio::time::sleep_until(time) => true,
                () = self.stop.cancelled() => false,
            };
        if !is_begun {
            return None;
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        let checks = &self.plan.checks;
        let place = usize::try_from(number).unwrap_or_default() % checks.len().max(1);
        checks.get(place).map(|check| (check, time))
    }
}

async fn call(schedule: Arc<Schedule>, connection: Connection, mut seen: Seen) -> Seen {
    // HTTP/2 wants an authority; nobody reads it.
    let mut client = Grpc::with_origin(connection, Uri::from_static("http://placet"));
    while let Some((check, time)) = schedule.next().await {
        let answer = ask(&mut client, check.clone(), schedule.plan.timeout).await;
        seen.count(answer.as_ref(), time.elapsed());
    }
    seen
}

async fn ask(
    client: &mut Grpc<Connection>,
    check: CheckRequest,
    timeout: Duration,
) -> Result<CheckResponse, Status> {
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(check);
    request.set_timeout(timeout);
    let codec = ProstCodec::<CheckRequest, CheckResponse>::default();
    let answer = tokio::time::timeout(
        timeout,
        client.unary(request, PathAndQuery::from_static(CHECK), codec),
    )
    .await;
    let late = |_| Status::deadline_exceeded("no answer came in time");
    Ok(answer.map_err(late)??.into_inner())
}

impl Seen {
    fn new(micros: Histogram<u64>) -> Self {
        let (allowed, denied, failed, failure) = Default::default();
        Self { allowed, denied, failed, failure, micros }
    }

    fn count(&mut self, answer: Result<&CheckResponse, &Status>, took: Duration) {
        match answer {
            Ok(answer) if answer.status.as_ref().is_some_and(|status| status.code == 0) => {
                self.allowed += 1;
            }
            Ok(answer) => *self.denied.entry(http_status(answer)).or_default() += 1,
            Err(status) => {
                *self.failed.entry(format!("{:?}", status.code())).or_default() += 1;
                self.failure.get_or_insert_with(|| status.message().to_owned());
                return;
            }
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // It grows to hold any time.
        let _ = self.micros.record(micros);
    }

    fn add(&mut self, other: Self) {
        self.failure = self.failure.take().or(other.failure);
        self.allowed += other.allowed;
        for (status, count) in other.denied {
            *self.denied.entry(status).or_default() += count;
        }
        for (code, count) in other.failed {
            *self.failed.entry(code).or_default() += count;
        }
        // Both are of the same kind, and grow.
        let _ = self.micros.add(&other.micros);
    }

    fn report(self, checks: u64, took: Duration) -> Report {
        let at = |quantile| self.micros.value_at_quantile(quantile);
        let latency = Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.micros.max(),
        };
        let (seconds, answers) = (took.as_secs_f64(), self.micros.len());
        let Self { allowed, denied, failed, failure, .. } = self;
        let rate = answers as f64 / seconds;
        Report { checks, seconds, rate, allowed, denied, failed, failure, latency }
    }
}

/// The status a denial gives the client; Envoy's own default is 403.
fn http_status(answer: &CheckResponse) -> u32 {
    let denied = match &answer.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => denied.status.as_ref(),
        _ => None,
    };
    denied
        .and_then(|status| u32::try_from(status.code).ok())
        .filter(|code| *code != 0)
        .unwrap_or(403)
}
