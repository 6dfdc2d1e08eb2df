//! The tasks that send spans and metrics to a collector. They end after all others, since the last
//! requests have spans too, and nothing waits for them but the end, which gives them what is left of its
//! grace. One that ends by itself ends nothing: decisions go on, and what is lost is counted.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::gauges::Gauges;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::telemetry::{MetricsTask, SpanTask, TelemetrySettings};
use crate::trace::{SpanId, Tracer};

/// What is to be sent.
#[derive(Debug, Default)]
pub(super) struct Telling {
    tracer: Option<Tracer>,
    spans: Option<SpanTask>,
    metrics: Option<MetricsTask>,
}

/// What is sent.
#[derive(Debug)]
pub(super) struct Told {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Telling {
    pub(super) fn new(
        settings: Option<&TelemetrySettings>,
        metrics: &Metrics,
        clock: Clock,
    ) -> Result<Self> {
        let Some(settings) = settings else { return Ok(Self::default()) };
        let instance = SpanId::random().ok_or_else(|| anyhow!("the system has no randomness"))?;
        let instance = instance.to_string();
        let traces = settings.traces.map(|ratio| {
            let (tracer, waiting) = Tracer::new(ratio, metrics.clone(), clock);
            (tracer, SpanTask::new(settings, &instance, waiting, metrics.clone()))
        });
        let (tracer, spans) = traces.unzip();
        let metrics = settings
            .metrics
            .map(|interval| MetricsTask::new(settings, &instance, interval, metrics, clock));
        Ok(Self { tracer, spans, metrics })
    }

    /// What makes the spans, where any are made.
    pub(super) fn tracer(&self) -> Option<Tracer> {
        self.tracer.clone()
    }

    /// Begins to send.
    pub(super) fn start(self, gauges: &Gauges) -> Told {
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        if let Some(spans) = self.spans {
            tasks.spawn(spans.run(stop.clone()));
        }
        if let Some(metrics) = self.metrics {
            let gauges = gauges.clone();
            tasks.spawn(metrics.run(move || gauges.look(Metrics::families), stop.clone()));
        }
        Told { tasks, stop }
    }
}

impl Told {
    /// Sends what waits, as far as it can be sent in `time`.
    pub(super) async fn finish(self, time: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(time, self.tasks.join_all()).await.is_err() {
            tracing::warn!("the collector did not take the last spans and metrics in time");
        }
    }
}
