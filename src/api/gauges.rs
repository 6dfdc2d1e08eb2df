//! What is measured when somebody asks for the metrics, and not while it changes.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::envoy::CheckService;
use crate::metrics::Metrics;
use crate::readiness::Needs;

/// The metrics, with what is measured at a look; a cheap clone shares them.
#[derive(Clone, Debug)]
pub struct Gauges(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Metrics,
    needs: Arc<ArcSwap<Vec<Needs>>>,
    check: CheckService,
    clock: Clock,
    /// One look at a time: each begins with forgetting the last.
    looking: Mutex<()>,
}

impl Gauges {
    /// `metrics`, beside what is to be seen of the others.
    pub fn new(
        metrics: Metrics,
        needs: Arc<ArcSwap<Vec<Needs>>>,
        check: CheckService,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner { metrics, needs, check, clock, looking: Mutex::default() }))
    }

    /// Looks, and has `write` tell what there is.
    pub fn look<T>(&self, write: impl FnOnce(&Metrics) -> T) -> T {
        let _looking = self.0.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.measure();
        write(&self.0.metrics)
    }
}

impl Inner {
    fn measure(&self) {
        let now = self.clock.now();
        self.metrics.forget_noted();
        self.metrics.checks_in_progress(self.check.in_progress());
        for needs in self.needs.load().iter() {
            let scope = &needs.client_id;
            if let Some(ring) = needs.keys.ring() {
                let active = ring.active();
                if let Some(created) = active.created() {
                    self.metrics.signing_key_age(scope, now.since(created));
                }
                if let Some(left) = active.certificate_left(now) {
                    self.metrics.signing_certificate_left(scope, left);
                }
                let turns = ring.next().iter().filter_map(|key| needs.keys.signs_from(key));
                if let Some(turn) = turns.min() {
                    self.metrics.next_rotation(scope, turn.since(now));
                }
                self.metrics.signing_in_progress(scope, active.in_progress());
                self.metrics.shared_key_ids(scope, ring.shared_kids().len());
            }
            if let Some(end) = needs.keys.valid_until() {
                self.metrics.signing_key_left(scope, end.since(now));
            }
            for (issuer, keys) in &needs.issuers {
                if let Some(age) = keys.age() {
                    self.metrics.issuer_keys_age(scope, issuer, age);
                }
            }
        }
    }
}
