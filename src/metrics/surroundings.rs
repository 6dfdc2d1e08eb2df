//! What goes on beside the decisions: secret stores, issuers, signing, and what is exported.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::durations::Durations;
use super::{Inner, Metrics, ScopeLabel, Whole, unix_seconds, whole};
use crate::clock::Timestamp;

#[derive(Debug)]
pub(super) struct Surroundings {
    store_requests: Family<RequestLabels, Counter>,
    store_durations: Family<OperationLabels, Durations>,
    issuer_fetches: Family<FetchLabels, Counter>,
    issuer_age: Family<IssuerLabels, Whole>,
    next_rotation: Family<ScopeLabel, Whole>,
    certificate_left: Family<ScopeLabel, Whole>,
    signing: Family<ScopeLabel, Whole>,
    checks: Whole,
    spans_dropped: Family<DropLabel, Counter>,
    exports: Family<ExportLabels, Counter>,
    control_connected: Family<ControlLabel, Whole>,
    control_snapshots: Family<SnapshotLabel, Counter>,
    control_since: Gauge<f64, AtomicU64>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    store: String,
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OperationLabels {
    store: String,
    operation: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct FetchLabels {
    issuer: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct IssuerLabels {
    scope: String,
    issuer: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DropLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ExportLabels {
    signal: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ControlLabel {
    address: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct SnapshotLabel {
    outcome: &'static str,
}

/// Counts what goes well and what does not.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    ok: Counter,
    failed: Counter,
}

impl Outcomes {
    fn of(counter: impl Fn(&'static str) -> Counter) -> Self {
        Self { ok: counter("ok"), failed: counter("failed") }
    }

    /// Counts one.
    pub fn count(&self, is_ok: bool) {
        if is_ok { &self.ok } else { &self.failed }.inc();
    }
}

/// What one secret store is asked.
#[derive(Clone, Debug)]
pub struct StoreRequests {
    /// For what it holds.
    pub read: Requests,
    /// To sign.
    pub sign: Requests,
}

/// Requests of one kind.
#[derive(Clone, Debug)]
pub struct Requests {
    outcomes: Outcomes,
    durations: Durations,
}

impl Requests {
    /// Counts one, and the time it took.
    pub fn count(&self, is_ok: bool, took: Duration) {
        self.outcomes.count(is_ok);
        self.durations.observe(took);
    }
}

impl Metrics {
    /// What counts the requests to the secret store of this id.
    pub fn store_requests(&self, store: &str) -> StoreRequests {
        let requests = |operation| {
            let outcomes = Outcomes::of(|outcome| {
                let labels = RequestLabels { store: store.to_owned(), operation, outcome };
                self.0.surroundings.store_requests.get_or_create_owned(&labels)
            });
            let labels = OperationLabels { store: store.to_owned(), operation };
            let durations = self.0.surroundings.store_durations.get_or_create_owned(&labels);
            Requests { outcomes, durations }
        };
        StoreRequests { read: requests("read"), sign: requests("sign") }
    }

    /// What counts looks at an issuer's keys.
    pub fn issuer_fetches(&self, issuer: &str) -> Outcomes {
        Outcomes::of(|outcome| {
            let labels = FetchLabels { issuer: issuer.to_owned(), outcome };
            self.0.surroundings.issuer_fetches.get_or_create_owned(&labels)
        })
    }

    /// What counts exports of a signal: `traces` or `metrics`.
    pub fn exports(&self, signal: &'static str) -> Outcomes {
        Outcomes::of(|outcome| {
            let labels = ExportLabels { signal, outcome };
            self.0.surroundings.exports.get_or_create_owned(&labels)
        })
    }

    /// Counts spans that were made and are lost, because of `queue` or `export`.
    pub fn spans_dropped(&self, reason: &'static str, count: u64) {
        self.0.surroundings.spans_dropped.get_or_create(&DropLabel { reason }).inc_by(count);
    }

    /// Notes how long ago a scope's issuer was last seen to have the keys that are used.
    pub fn issuer_keys_age(&self, scope: &str, issuer: &str, age: Duration) {
        let labels = IssuerLabels { scope: scope.to_owned(), issuer: issuer.to_owned() };
        self.0.surroundings.issuer_age.get_or_create(&labels).set(whole(age.as_secs()));
    }

    /// Notes how long it takes until a scope's next key signs.
    pub fn next_rotation(&self, scope: &str, left: Duration) {
        let label = ScopeLabel { scope: scope.to_owned() };
        self.0.surroundings.next_rotation.get_or_create(&label).set(whole(left.as_secs()));
    }

    /// Notes how many seconds the certificate of a scope's signing key still holds; less than none
    /// once it has ended.
    pub fn signing_certificate_left(&self, scope: &str, seconds: i64) {
        let label = ScopeLabel { scope: scope.to_owned() };
        self.0.surroundings.certificate_left.get_or_create(&label).set(seconds);
    }

    /// Notes how many signatures by a scope's key are under way, or wait.
    pub fn signing_in_progress(&self, scope: &str, count: usize) {
        let label = ScopeLabel { scope: scope.to_owned() };
        self.0.surroundings.signing.get_or_create(&label).set(whole(count as u64));
    }

    /// Notes how many checks are in progress.
    pub fn checks_in_progress(&self, count: usize) {
        self.0.surroundings.checks.set(whole(count as u64));
    }

    /// Notes whether the connection to the control plane at `address` stands.
    pub fn control_connected(&self, address: &str, is_connected: bool) {
        let label = ControlLabel { address: address.to_owned() };
        let connected = &self.0.surroundings.control_connected;
        connected.get_or_create(&label).set(i64::from(is_connected));
    }

    /// Notes that a snapshot of the control plane is in force, since `now`.
    pub fn control_snapshot(&self, now: Timestamp) {
        self.0.surroundings.control_since.set(unix_seconds(now));
    }

    /// Counts a snapshot that was put in force at `now`.
    pub fn control_snapshot_applied(&self, now: Timestamp) {
        let label = SnapshotLabel { outcome: "applied" };
        self.0.surroundings.control_snapshots.get_or_create(&label).inc();
        self.control_snapshot(now);
    }

    /// Counts an attempt at a snapshot that was not put in force.
    pub fn control_snapshot_refused(&self) {
        let label = SnapshotLabel { outcome: "refused" };
        self.0.surroundings.control_snapshots.get_or_create(&label).inc();
    }

    /// Forgets what is noted at each look, so that a scope, an issuer or a key that is gone is gone here too.
    pub fn forget_noted(&self) {
        let Surroundings { issuer_age, next_rotation, certificate_left, signing, .. } =
            &self.0.surroundings;
        issuer_age.clear();
        let Inner { key_age, key_left, shared_kids, .. } = &*self.0;
        for family in [next_rotation, certificate_left, signing, key_age, key_left, shared_kids] {
            family.clear();
        }
    }
}

impl Surroundings {
    pub(super) fn new() -> Self {
        Self {
            store_requests: Family::default(),
            store_durations: Family::default(),
            issuer_fetches: Family::default(),
            issuer_age: Family::default(),
            next_rotation: Family::default(),
            certificate_left: Family::default(),
            signing: Family::default(),
            checks: Gauge::default(),
            spans_dropped: Family::default(),
            exports: Family::default(),
            control_connected: Family::default(),
            control_snapshots: Family::default(),
            control_since: Gauge::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "secret_store_requests",
            "Requests to a secret store by operation (read, sign: Transit) and outcome (ok, failed)",
            self.store_requests.clone(),
        );
        registry.register(
            "secret_store_request_duration_seconds",
            "Time that a request to a secret store took",
            self.store_durations.clone(),
        );
        registry.register(
            "issuer_fetches",
            "Looks at an issuer's keys by outcome (ok, failed)",
            self.issuer_fetches.clone(),
        );
        registry.register(
            "issuer_keys_age_seconds",
            "How long ago an issuer was last seen to have the keys that are used",
            self.issuer_age.clone(),
        );
        registry.register(
            "signing_key_next_rotation_seconds",
            "How long until a key that is published already signs; absent without one, and of a store that does not tell when it was made",
            self.next_rotation.clone(),
        );
        registry.register(
            "signing_certificate_expiry_seconds",
            "How long the certificate of the signing key still holds; negative once it has expired",
            self.certificate_left.clone(),
        );
        registry.register(
            "signing_in_progress",
            "Signatures by a scope's key that are under way or wait: by RSA or in Transit",
            self.signing.clone(),
        );
        registry.register(
            "checks_in_progress",
            "Checks in progress; more than 8192 are refused (reason overload)",
            self.checks.clone(),
        );
        registry.register(
            "spans_dropped",
            "Spans lost because the queue was full (queue) or the collector did not take them (export)",
            self.spans_dropped.clone(),
        );
        registry.register(
            "otlp_exports",
            "Exports to the collector by signal (traces, metrics) and outcome (ok, failed)",
            self.exports.clone(),
        );
        self.register_control(registry);
    }

    fn register_control(&self, registry: &mut Registry) {
        registry.register(
            "control_connected",
            "Whether the connection to the control plane stands; absent without one in the settings",
            self.control_connected.clone(),
        );
        registry.register(
            "control_snapshots",
            "Snapshots of the control plane by outcome: applied, refused (each attempt)",
            self.control_snapshots.clone(),
        );
        registry.register(
            "control_snapshot_timestamp_seconds",
            "Since when the control plane's snapshot is in force, in Unix time; 0: there is none",
            self.control_since.clone(),
        );
    }
}
