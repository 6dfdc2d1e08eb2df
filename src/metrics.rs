//! Every metric there is, declared in one place. Names begin with `placet_`.
//!
//! Labels hold only what the operator wrote (a client ID, a reason code): nothing a client sends
//! can make a new time series.
//!
//! Durations are in fixed buckets in the text form, and in exponential ones too in the protobuf form, which
//! Prometheus reads as a native histogram and OTLP has as an exponential one: the two have the same
//! boundaries. All that leaves over OTLP is read from the registry here.

mod durations;
mod registration;
mod surroundings;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::prometheus_protobuf::{self, prometheus_data_model::MetricFamily};
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use self::surroundings::{Outcomes, Requests, StoreRequests};

use self::durations::Durations;
use self::surroundings::Surroundings;

use crate::clock::Timestamp;
use crate::stages::{Stage, Stages};

/// The media type of [`Metrics::protobuf`].
pub const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// A whole number that goes up and down.
type Whole = Gauge<i64, AtomicI64>;

/// The process's metrics; a cheap clone shares them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    check_duration: Durations,
    stage_duration: Family<StageLabel, Durations>,
    /// Those of each stage, in order.
    stage_durations: [Durations; Stage::ALL.len()],
    cache_hits: Family<CacheLabel, Counter>,
    cache_misses: Family<CacheLabel, Counter>,
    decisions_known: Counter,
    decisions_unknown: Counter,
    reloads: Counter,
    reload_failures: Counter,
    reload_succeeded: Whole,
    settings_since: Gauge<f64, AtomicU64>,
    settings: Family<RevisionLabel, Whole>,
    deny_list_entries: Whole,
    deny_list_since: Gauge<f64, AtomicU64>,
    deny_list_failures: Counter,
    log_dropped: Counter,
    log: LogMetrics,
    key_age: Family<ScopeLabel, Whole>,
    key_left: Family<ScopeLabel, Whole>,
    shared_kids: Family<ScopeLabel, Whole>,
    shadow_decisions: Family<ShadowLabels, Counter>,
    shadow_dropped: Family<ScopeLabel, Counter>,
    certificate_left: Family<ListenerLabel, Whole>,
    certificate_failures: Family<ListenerLabel, Counter>,
    tls_refused: Family<RefusalLabels, Counter>,
    surroundings: Surroundings,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StageLabel {
    stage: &'static str,
}

/// Of the decision log's way to its sink.
#[derive(Debug, Default)]
struct LogMetrics {
    waits: Counter,
    failures: Counter,
    waiting: Gauge<i64, AtomicI64>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ListenerLabel {
    listener: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RefusalLabels {
    listener: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ShadowLabels {
    scope: String,
    outcome: &'static str,
    agrees: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DecisionLabels {
    scope: String,
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ScopeLabel {
    scope: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RevisionLabel {
    revision: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CacheLabel {
    cache: &'static str,
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let (cache_hits, cache_misses) = <(Family<_, Counter>, Family<_, Counter>)>::default();
        let decisions = CacheLabel { cache: "decisions" };
        let stage_duration = Family::<StageLabel, Durations>::default();
        let of_stage =
            |stage: Stage| stage_duration.get_or_create_owned(&StageLabel { stage: stage.name() });
        let inner = Inner {
            decisions_known: cache_hits.get_or_create_owned(&decisions),
            decisions_unknown: cache_misses.get_or_create_owned(&decisions),
            registry: Registry::with_prefix("placet"),
            decisions: Family::default(),
            check_duration: Durations::default(),
            stage_durations: Stage::ALL.map(of_stage),
            stage_duration,
            cache_hits,
            cache_misses,
            reloads: Counter::default(),
            reload_failures: Counter::<u64, AtomicU64>::default(),
            reload_succeeded: Gauge::default(),
            settings_since: Gauge::default(),
            settings: Family::default(),
            deny_list_entries: Gauge::default(),
            deny_list_since: Gauge::default(),
            deny_list_failures: Counter::default(),
            log_dropped: Counter::default(),
            log: LogMetrics::default(),
            key_age: Family::default(),
            key_left: Family::default(),
            shared_kids: Family::default(),
            shadow_decisions: Family::default(),
            shadow_dropped: Family::default(),
            certificate_left: Family::default(),
            certificate_failures: Family::default(),
            tls_refused: Family::default(),
            surroundings: Surroundings::new(),
        };
        Self(Arc::new(inner.registered()))
    }

    /// Counts a decision and the time it took.
    pub fn decision(
        &self,
        scope: &str,
        outcome: &'static str,
        reason: &'static str,
        took: Duration,
    ) {
        self.decided_again(&self.decisions(scope, outcome, reason), took);
    }

    /// The counter of decisions like this one.
    pub fn decisions(&self, scope: &str, outcome: &'static str, reason: &'static str) -> Counter {
        let labels = DecisionLabels { scope: scope.to_owned(), outcome, reason };
        self.0.decisions.get_or_create_owned(&labels)
    }

    /// Counts a decision by its counter, and the time it took.
    pub fn decided_again(&self, decisions: &Counter, took: Duration) {
        decisions.inc();
        self.0.check_duration.observe(took);
    }

    /// Counts the time that the stages of a decision took.
    pub fn stages(&self, stages: &Stages) {
        for (stage, begun, ended) in stages.iter() {
            if let Some(durations) = self.0.stage_durations.get(stage as usize) {
                durations.observe(ended.saturating_duration_since(begun));
            }
        }
    }

    /// Counts a look into the cache of this name.
    pub fn cache_lookup(&self, cache: &'static str, is_hit: bool) {
        let counters = if is_hit { &self.0.cache_hits } else { &self.0.cache_misses };
        counters.get_or_create(&CacheLabel { cache }).inc();
    }

    /// Counts a look for a decision that could be used again.
    pub fn decision_lookup(&self, is_known: bool) {
        if is_known { &self.0.decisions_known } else { &self.0.decisions_unknown }.inc();
    }

    /// Counts what a scope's shadow policies say of a decision: `allow`, `deny` or `fault`.
    pub fn shadow_decision(&self, scope: &str, outcome: &'static str, agrees: bool) {
        let agrees = if agrees { "true" } else { "false" };
        let labels = ShadowLabels { scope: scope.to_owned(), outcome, agrees };
        self.0.shadow_decisions.get_or_create(&labels).inc();
    }

    /// Counts a decision that a scope's shadow policies were not asked about.
    pub fn shadow_dropped(&self, scope: &str) {
        self.0.shadow_dropped.get_or_create(&ScopeLabel { scope: scope.to_owned() }).inc();
    }

    /// Notes which settings are in force, since `now`.
    pub fn in_force(&self, revision: &str, now: Timestamp) {
        self.0.settings.clear();
        self.0.settings.get_or_create(&RevisionLabel { revision: revision.to_owned() }).set(1);
        self.0.settings_since.set(unix_seconds(now));
        self.0.reload_succeeded.set(1);
    }

    /// Counts settings that were taken over at `now`.
    pub fn reloaded(&self, revision: &str, now: Timestamp) {
        self.0.reloads.inc();
        self.in_force(revision, now);
    }

    /// Notes that the settings in force are not the last ones written.
    pub fn settings_refused(&self) {
        self.0.reload_succeeded.set(0);
    }

    /// Notes a deny list with `entries`, in force since `now`.
    pub fn deny_list(&self, entries: usize, now: Timestamp) {
        self.0.deny_list_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.0.deny_list_since.set(unix_seconds(now));
    }

    /// Notes that there is no deny list.
    pub fn no_deny_list(&self) {
        self.deny_list(0, Timestamp::from_millis(0));
    }

    /// Counts a deny list that was not taken over.
    pub fn deny_list_failed(&self) {
        self.0.deny_list_failures.inc();
    }

    /// Counts settings or policies that were not taken over.
    pub fn reload_failed(&self) {
        self.0.reload_failures.inc();
    }

    /// Counts lines that the decision log could not take.
    pub fn log_lines_dropped(&self, lines: u64) {
        self.0.log_dropped.inc_by(lines);
    }

    /// Counts a decision that waited for room in the decision log.
    pub fn log_waited(&self) {
        self.0.log.waits.inc();
    }

    /// Counts an attempt to write or send lines that failed.
    pub fn log_failed(&self) {
        self.0.log.failures.inc();
    }

    /// Notes how many bytes of the decision log wait for its sink.
    pub fn log_waiting(&self, bytes: usize) {
        self.0.log.waiting.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Notes how old a scope's signing key is.
    pub fn signing_key_age(&self, scope: &str, age: Duration) {
        set_seconds(&self.0.key_age, scope, age);
    }

    /// Notes how long a scope's keys may go on signing without their store.
    pub fn signing_key_left(&self, scope: &str, left: Duration) {
        set_seconds(&self.0.key_left, scope, left);
    }

    /// Notes how many key ids more than one of a scope's published keys has.
    pub fn shared_key_ids(&self, scope: &str, count: usize) {
        let label = ScopeLabel { scope: scope.to_owned() };
        self.0.shared_kids.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Notes how many seconds a listener's certificate still holds; less than none once it has ended.
    pub fn certificate_left(&self, listener: &'static str, seconds: i64) {
        self.0.certificate_left.get_or_create(&ListenerLabel { listener }).set(seconds);
    }

    /// Counts certificate files of a listener that were not taken over.
    pub fn certificate_failed(&self, listener: &'static str) {
        self.0.certificate_failures.get_or_create(&ListenerLabel { listener }).inc();
    }

    /// Counts a connection that ended before its TLS handshake did.
    pub fn tls_refused(&self, listener: &'static str, reason: &'static str) {
        self.0.tls_refused.get_or_create(&RefusalLabels { listener, reason }).inc();
    }

    /// The Prometheus text exposition.
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.0.registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(%error, "the metrics could not be written");
                String::new()
            }
        }
    }

    /// Prometheus's protobuf exposition: the same, with exponential buckets.
    pub fn protobuf(&self) -> Vec<u8> {
        prometheus_protobuf::encode_to_vec(&self.0.registry).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics could not be written");
            Vec::new()
        })
    }

    /// The metrics as messages of Prometheus, for who translates them.
    pub fn families(&self) -> Vec<MetricFamily> {
        prometheus_protobuf::encode(&self.0.registry).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics could not be written");
            Vec::new()
        })
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "exact for the next quarter of a million years")]
fn unix_seconds(time: Timestamp) -> f64 {
    time.millis() as f64 / 1000.0
}

fn set_seconds(family: &Family<ScopeLabel, Whole>, scope: &str, duration: Duration) {
    let label = ScopeLabel { scope: scope.to_owned() };
    family.get_or_create(&label).set(whole(duration.as_secs()));
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
