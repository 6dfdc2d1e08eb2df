//! The two that send: spans in batches as they come, and the metrics every now and then.

use std::fmt;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::MetricFamily;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::collector::{Collector, ExportError, Signal};
use super::{TelemetrySettings, registry, resource, spans};
use crate::clock::Clock;
use crate::metrics::{Metrics, Outcomes};
use crate::remote::{chain, jittered};
use crate::trace::CheckSpan;

/// Checks that are sent together, at most.
const MAX_BATCH: usize = 512;

/// How long a batch is gathered.
const GATHERING: Duration = Duration::from_secs(1);

/// How often a batch is sent that does not arrive, and the first pause between; the next are twice as long.
const MAX_ATTEMPTS: u32 = 4;
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Sends spans.
pub struct SpanTask {
    waiting: mpsc::Receiver<CheckSpan>,
    sender: Sender,
    metrics: Metrics,
}

/// Sends the metrics.
pub struct MetricsTask {
    interval: Duration,
    sender: Sender,
    started: u64,
    clock: Clock,
}

/// Sends one signal, and tells how that goes.
struct Sender {
    signal: Signal,
    collector: Collector,
    resource: Resource,
    outcomes: Outcomes,
    is_failing: bool,
}

impl SpanTask {
    /// A task that sends what `waiting` yields; `instance` names this process among others.
    pub fn new(
        settings: &TelemetrySettings,
        instance: &str,
        waiting: mpsc::Receiver<CheckSpan>,
        metrics: Metrics,
    ) -> Self {
        let sender = Sender::new(Signal::Traces, settings, instance, &metrics);
        Self { waiting, sender, metrics }
    }

    /// Sends until `stop`, and then what still waits, each batch once.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                count = self.waiting.recv_many(&mut batch, MAX_BATCH) => if count == 0 { return },
            }
            self.gather(&mut batch, &stop).await;
            self.export(std::mem::take(&mut batch), &stop).await;
        }
        self.waiting.close();
        while self.waiting.recv_many(&mut batch, MAX_BATCH).await > 0 {
            self.export(std::mem::take(&mut batch), &stop).await;
        }
    }

    async fn gather(&mut self, batch: &mut Vec<CheckSpan>, stop: &CancellationToken) {
        let until = Instant::now() + GATHERING;
        while let Some(room) = MAX_BATCH.checked_sub(batch.len()).filter(|room| *room > 0) {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(until) => return,
                count = self.waiting.recv_many(batch, room) => if count == 0 { return },
            }
        }
    }

    async fn export(&mut self, batch: Vec<CheckSpan>, stop: &CancellationToken) {
        let count = batch.iter().map(CheckSpan::count).sum();
        let request = spans::request(&self.sender.resource, batch);
        let mut pause = FIRST_RETRY;
        for attempt in 1.. {
            let sent = self.sender.collector.send::<ExportTraceServiceResponse>(&request).await;
            self.sender.note(sent.as_ref().err());
            let error = match sent {
                Ok(answer) => {
                    let rejected = answer.partial_success.map_or(0, |it| it.rejected_spans);
                    self.lose(u64::try_from(rejected).unwrap_or_default());
                    return;
                }
                Err(error) => error,
            };
            if attempt == MAX_ATTEMPTS || !error.is_transient() || stop.is_cancelled() {
                return self.lose(count);
            }
            stop.run_until_cancelled(sleep(jittered(pause))).await;
            pause *= 2;
        }
    }

    fn lose(&self, count: u64) {
        if count > 0 {
            self.metrics.spans_dropped("export", count);
        }
    }
}

impl MetricsTask {
    /// A task that sends every `interval`; `instance` names this process among others.
    pub fn new(
        settings: &TelemetrySettings,
        instance: &str,
        interval: Duration,
        metrics: &Metrics,
        clock: Clock,
    ) -> Self {
        let sender = Sender::new(Signal::Metrics, settings, instance, metrics);
        Self { interval, sender, started: clock.unix_nanos(), clock }
    }

    /// Sends what `read` yields until `stop`, and then once more.
    pub async fn run(mut self, read: impl Fn() -> Vec<MetricFamily>, stop: CancellationToken) {
        loop {
            let is_last = stop.run_until_cancelled(sleep(self.interval)).await.is_none();
            let time = registry::Span { start: self.started, end: self.clock.unix_nanos() };
            let request = registry::request(&self.sender.resource, read(), time);
            // What does not arrive is in the next one.
            let sent = self.sender.collector.send::<ExportMetricsServiceResponse>(&request).await;
            self.sender.note(sent.as_ref().err());
            if is_last {
                return;
            }
        }
    }
}

impl Sender {
    fn new(
        signal: Signal,
        settings: &TelemetrySettings,
        instance: &str,
        metrics: &Metrics,
    ) -> Self {
        let collector = Collector::new(signal, settings.otlp.clone());
        let outcomes = metrics.exports(signal.name());
        let resource = resource(settings, instance);
        Self { signal, collector, resource, outcomes, is_failing: false }
    }

    /// Counts an export, and logs it where it is not what the last one was.
    fn note(&mut self, error: Option<&ExportError>) {
        self.outcomes.count(error.is_none());
        let signal = self.signal.name();
        match error {
            Some(error) if !self.is_failing => {
                tracing::warn!(signal, "the collector takes nothing: {}", chain(error));
            }
            None if self.is_failing => tracing::info!(signal, "the collector takes it again"),
            _ => {}
        }
        self.is_failing = error.is_some();
    }
}

impl fmt::Debug for SpanTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanTask").finish_non_exhaustive()
    }
}

impl fmt::Debug for MetricsTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsTask").field("interval", &self.interval).finish_non_exhaustive()
    }
}
