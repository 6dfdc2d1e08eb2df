//! Which replica leads: it alone writes status.
//!
//! As client-go does it: the Lease is replaced at its resource version, so of two that reach for it the API
//! server lets one through; and whether a holder is gone is told by our own clock, by how long its Lease has
//! not changed, never by the times in it. The crates that are there patch without a version and compare
//! clocks of two machines, so that two may lead for a while. A leader that can't renew stops before any other
//! can begin. Leading guards no decision: every replica compiles and publishes.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// The Lease.
pub(super) const NAME: &str = "placet-control";

/// One candidate.
pub(super) struct Election {
    pub(super) leases: Api<Lease>,
    /// What no other candidate is called.
    pub(super) identity: String,
    /// How long a Lease holds that is not renewed, in whole seconds.
    pub(super) duration: Duration,
    pub(super) clock: Clock,
}

/// What a candidate has seen of the Lease.
#[derive(Debug)]
struct Seen {
    version: Option<String>,
    /// When it was first seen like this.
    since: Instant,
}

impl Election {
    /// Takes part until `shutdown`, and says in `leads` whether this candidate leads.
    pub(super) async fn run(self, leads: watch::Sender<bool>, shutdown: CancellationToken) {
        let pace = self.duration / 5;
        let mut ticks = interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Seen { version: None, since: Instant::now() };
        let mut renewed: Option<Instant> = None;
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let began = Instant::now();
            match timeout(pace, self.attempt(&mut seen)).await {
                Ok(Ok(true)) => renewed = Some(began),
                Ok(Ok(false)) => renewed = None,
                Ok(Err(error)) => tracing::warn!(%error, "the lease can't be read or written"),
                Err(_) => tracing::warn!("the lease could not be renewed in time"),
            }
            let is_fresh = |renewed: Instant| renewed.elapsed() < self.duration / 5 * 3;
            let is_leading = renewed.is_some_and(is_fresh);
            leads.send_if_modified(|leads| {
                let is_news = *leads != is_leading;
                *leads = is_leading;
                is_news
            });
        }
        if leads.send_replace(false) {
            let released = timeout(pace, self.release()).await;
            if !matches!(released, Ok(Ok(()))) {
                tracing::warn!(
                    "the lease could not be given up: another replica leads once it ends"
                );
            }
        }
    }

    /// Whether this candidate holds the Lease now, renewed or taken where it may be.
    async fn attempt(&self, seen: &mut Seen) -> kube::Result<bool> {
        let Some(lease) = self.leases.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.taken(None)) };
            return is_ours(self.leases.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone();
        if seen.version != version {
            *seen = Seen { version, since: Instant::now() };
        }
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let wanted = if holder == self.identity {
            LeaseSpec { renew_time: Some(self.now()), ..spec.cloned().unwrap_or_default() }
        } else if holder.is_empty() || seen.since.elapsed() > lasts(spec, self.duration) {
            self.taken(spec)
        } else {
            return Ok(false);
        };
        self.replace(Lease { spec: Some(wanted), ..lease }).await
    }

    async fn replace(&self, lease: Lease) -> kube::Result<bool> {
        is_ours(self.leases.replace(NAME, &PostParams::default(), &lease).await)
    }

    /// Lets another candidate take over at once.
    async fn release(&self) -> kube::Result<()> {
        let Some(lease) = self.leases.get_opt(NAME).await? else { return Ok(()) };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(());
        }
        let spec = LeaseSpec { holder_identity: None, renew_time: Some(self.now()), ..spec };
        self.replace(Lease { spec: Some(spec), ..lease }).await.map(drop)
    }

    /// The Lease after it was another's, or nobody's.
    fn taken(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            lease_transitions: Some(match before {
                Some(_) => transitions.saturating_add(1),
                None => 0,
            }),
            acquire_time: Some(self.now()),
            renew_time: Some(self.now()),
            ..before.cloned().unwrap_or_default()
        }
    }

    fn now(&self) -> MicroTime {
        let millis = i64::try_from(self.clock.now().millis()).unwrap_or(i64::MAX);
        MicroTime(jiff::Timestamp::from_millisecond(millis).unwrap_or_default())
    }
}

/// Whether the write went through: another's write before it is no error.
fn is_ours(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// How long the Lease holds by its holder's own word.
fn lasts(spec: Option<&LeaseSpec>, otherwise: Duration) -> Duration {
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(otherwise, Duration::from_secs)
}
