//! Puts the rooms together and runs them. The only room that starts tasks.
//!
//! Settings that do not load end the process at start; later they leave the last good ones in
//! force. A server or task that ends by itself ends the process, loudly: a restart beats half a
//! process.

mod connections;
mod denying;
mod following;
mod generation;
mod grpc;
mod http;
#[cfg(feature = "control")]
pub(crate) mod https;
mod keeper;
mod listener;
mod offline;
mod shadowing;
#[cfg(feature = "control")]
pub(crate) mod streams;
mod systemd;
mod telling;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use arc_swap::{ArcSwap, ArcSwapOption};
use axum::Router;
use tokio::sync::watch as state;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api;
use crate::api::admin::{Failure, InForce};
use crate::api::desk::Desk;
use crate::api::gauges::Gauges;
use crate::api::pdp::PdpService;
use crate::audit::{LogWriter, Recorder};
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::envoy::capture::Tap;
use crate::envoy::{self, CheckService, Front};
use crate::fips;
use crate::metrics::Metrics;
use crate::policy::Confirmed;
use crate::proto;
use crate::readiness::Needs;
use crate::scope::Scopes;
use crate::source::Following;
use following::Controlled;
use generation::{Generation, World};
use keeper::Keeper;
use listener::{ControlListener, Listener, TlsWatch};
use telling::Telling;
use watch::Watch;

pub use offline::{GivenKeys, Offline};

/// What the health and reflection services read of a message, at most.
const MAX_QUESTION_BYTES: usize = 64 * 1024;

/// What is in force, for readers; [`App`] is the one writer.
#[derive(Clone, Debug)]
struct Live {
    scopes: Arc<ArcSwap<Scopes>>,
    needs: Arc<ArcSwap<Vec<Needs>>>,
    in_force: Arc<ArcSwap<InForce>>,
    /// What was wrong with the settings that were to follow.
    failure: Arc<ArcSwapOption<Failure>>,
    ready: state::Sender<bool>,
    metrics: Metrics,
}

/// The process: built once, run once.
#[derive(Debug)]
pub struct App {
    path: PathBuf,
    live: Live,
    world: World,
    generation: Generation,
    watch: Watch,
    controlled: Option<Controlled>,
    listeners: Listeners,
    log: LogWriter,
    telling: Telling,
    reuse_max_bytes: u64,
    /// Where checks are shown to an operator.
    tap: Option<Tap>,
    ending: Ending,
}

/// How the process ends.
#[derive(Clone, Copy, Debug)]
struct Ending {
    /// How long it serves on, as not ready.
    drain_after: Duration,
    /// How long requests in progress may then take.
    grace: Duration,
}

#[derive(Debug)]
struct Listeners {
    addresses: Listen,
    grpc: Listener,
    http: Listener,
    admin: Listener,
    control: Option<ControlListener>,
    /// What keeps their certificates up to date.
    certificates: Vec<TlsWatch>,
}

impl App {
    /// Reads the settings, binds the listeners and begins to load keys. With a `tap` the admin listener
    /// shows what is asked.
    pub async fn build(path: PathBuf, clock: Clock, tap: Option<Tap>) -> Result<Self> {
        let config = Config::load(&path)?;
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let metrics = Metrics::new();
        let listeners = Listeners::bind(&config.listen, &metrics, clock).await?;
        let (recorder, log) = Recorder::open(config.decision_log.clone(), metrics.clone())
            .context("the decision log can't be opened")?;
        let telling = Telling::new(config.telemetry.as_ref(), &metrics, clock)?;
        let reuse_max_bytes = config.reuse_max_bytes;
        let ending = Ending { drain_after: config.drain_after, grace: config.shutdown_grace };
        let watch = Watch::new(config.reload, config.files.clone());
        let [confirmed, controlled] = [clock.now(); 2].map(Confirmed::new);
        let world = World { clock, recorder, metrics, confirmed, controlled };
        let controlled = Controlled::of(&config, &world);
        let generation = Generation::start(config, None, &world)?;
        world.metrics.in_force(&generation.in_force.revision, clock.now());
        let live = Live {
            scopes: Arc::new(ArcSwap::new(Arc::clone(&generation.scopes))),
            needs: Arc::new(ArcSwap::from_pointee(generation.needs.clone())),
            in_force: Arc::new(ArcSwap::from_pointee(generation.in_force.clone())),
            failure: Arc::default(),
            ready: state::channel(false).0,
            metrics: world.metrics.clone(),
        };
        Ok(Self {
            path,
            live,
            world,
            generation,
            watch,
            controlled,
            listeners,
            log,
            telling,
            reuse_max_bytes,
            tap,
            ending,
        })
    }

    /// Serves until `shutdown`, then drains. `reload` yields once for each time the settings are to
    /// be read again.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        reload: tokio::sync::mpsc::Receiver<()>,
    ) -> Result<()> {
        let (reuse_max_bytes, tap, ending) = (self.reuse_max_bytes, self.tap, self.ending);
        let Self { path, live, world, generation, watch, listeners, log, telling, .. } = self;
        let (follower, followed, following) = match self.controlled {
            Some(it) => (Some(it.follower), Some(it.followed), Some(it.following)),
            None => (None, None, None),
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        tell_health(&health, false).await;
        let (recorder, clock) = (world.recorder.clone(), world.clock);
        let desk = Desk::new(Arc::clone(&live.scopes), recorder.clone(), clock);
        let check = CheckService::new(
            Arc::clone(&live.scopes),
            recorder,
            clock,
            reuse_max_bytes,
            telling.tracer(),
            tap.clone(),
        );
        let gauges = live.gauges(&check, clock);
        let told = telling.start(&gauges);
        let others = Routes::new(health_service.max_decoding_message_size(MAX_QUESTION_BYTES))
            .add_service(reflection().build_v1()?.max_decoding_message_size(MAX_QUESTION_BYTES))
            .add_service(
                reflection().build_v1alpha()?.max_decoding_message_size(MAX_QUESTION_BYTES),
            )
            .add_service(PdpService::new(desk.clone()));
        let public = api::jwks::router(Arc::clone(&live.scopes))
            .merge(api::authzen::router(desk))
            .merge(envoy::over_http::router(check.clone()));
        let admin = api::admin::router(live.shown(gauges, following, clock))
            .merge(api::capture::router(tap, Arc::clone(&live.scopes)));
        let served = Served { grpc: Front::new(check, others), public, admin };
        let addresses = listeners.addresses.clone();
        // Cancelled when the listeners are to close, which may be a while after `shutdown`.
        let closing = CancellationToken::new();
        let mut tasks = JoinSet::new();
        served.spawn(&mut tasks, listeners, Arc::clone(&live.needs), &closing);
        let stopping =
            Stopping { health: health.clone(), ready: live.ready.clone(), closing, ending };
        tasks.spawn(report_health(live.ready.subscribe(), health, shutdown.clone()));
        let closed = stopping.closing.clone();
        if let Some(follower) = follower {
            let (live, closed) = (live.clone(), closed.clone());
            tasks.spawn(async move {
                follower.run(|| following::key_sets(&live), closed).await;
                Ok(())
            });
        }
        let keeper = Keeper { path, live, addresses, world, watch, followed };
        tasks.spawn(keeper.run(generation, reload, shutdown.clone(), closed));
        let (outcome, left) = supervise(tasks, &shutdown, stopping).await;
        // It waits for a thread, and nobody else is served any more.
        log.finish(left.max(LOG_GRACE));
        told.finish(left).await;
        outcome
    }
}

/// What is served where.
struct Served {
    grpc: Front,
    public: Router,
    admin: Router,
}

impl Served {
    /// Serves on `listeners` until `closing`.
    fn spawn(
        self,
        tasks: &mut JoinSet<Result<()>>,
        listeners: Listeners,
        needs: Arc<ArcSwap<Vec<Needs>>>,
        closing: &CancellationToken,
    ) {
        let Listeners { addresses, grpc, http, admin, control, certificates } = listeners;
        let version = fips::VERSION;
        tracing::info!(version, grpc = %addresses.grpc, http = %addresses.http, admin = %addresses.admin, "listening");
        let signal = closing.clone().cancelled_owned();
        let front = self.grpc;
        tasks.spawn(async move {
            grpc::serve(front, grpc.incoming(), signal).await;
            Ok(())
        });
        for watch in certificates {
            tasks.spawn(watch.run(closing.clone()));
        }
        spawn_http(tasks, http, self.public, closing);
        spawn_http(tasks, admin, self.admin, closing);
        if let Some(control) = control {
            let routes = api::keys::control(needs);
            let signal = closing.clone().cancelled_owned();
            tasks.spawn(async move {
                let served = axum::serve(control, routes).with_graceful_shutdown(signal).await;
                served.context("the control socket failed")
            });
        }
    }
}

impl Live {
    fn gauges(&self, check: &CheckService, clock: Clock) -> Gauges {
        Gauges::new(self.metrics.clone(), Arc::clone(&self.needs), check.clone(), clock)
    }

    fn shown(
        &self,
        gauges: Gauges,
        following: Option<Following>,
        clock: Clock,
    ) -> api::admin::Shown {
        api::admin::Shown {
            ready: self.ready.subscribe(),
            needs: Arc::clone(&self.needs),
            in_force: Arc::clone(&self.in_force),
            failure: Arc::clone(&self.failure),
            following,
            gauges,
            clock,
        }
    }
}

/// The way to the end: first it is said that nothing more should come, then, after a while, the listeners
/// close, and what is in progress is finished.
struct Stopping {
    health: HealthReporter,
    ready: state::Sender<bool>,
    closing: CancellationToken,
    ending: Ending,
}

impl Stopping {
    async fn begin(&self) {
        systemd::stopping();
        self.ready.send_replace(false);
        tell_health(&self.health, false).await;
        let Ending { drain_after, .. } = self.ending;
        if !drain_after.is_zero() {
            tracing::info!("not ready any more; serving on for {drain_after:?}");
            tokio::time::sleep(drain_after).await;
        }
        tracing::info!("draining");
        self.closing.cancel();
    }
}

/// How long the decision log's last lines may take in any case.
const LOG_GRACE: Duration = Duration::from_secs(1);

/// Waits for the end: of `shutdown` and the drain, or of a task that should not have ended. How it ended,
/// and what is left of the time for it.
async fn supervise(
    tasks: JoinSet<Result<()>>,
    shutdown: &CancellationToken,
    stopping: Stopping,
) -> (Result<()>, Duration) {
    let grace = stopping.ending.grace;
    let mut draining = None;
    let outcome = drain(tasks, shutdown, stopping, &mut draining).await;
    let spent = draining.map_or(Duration::ZERO, |since: Instant| since.elapsed());
    (outcome, grace.saturating_sub(spent))
}

async fn drain(
    mut tasks: JoinSet<Result<()>>,
    shutdown: &CancellationToken,
    stopping: Stopping,
    draining: &mut Option<Instant>,
) -> Result<()> {
    let first = tokio::select! {
        () = shutdown.cancelled() => None,
        ended = tasks.join_next() => ended,
    };
    if let Some(ended) = first
        && !shutdown.is_cancelled()
    {
        shutdown.cancel();
        ended.context("a task panicked")??;
        return Err(anyhow!("a task ended by itself"));
    }
    stopping.begin().await;
    *draining = Some(Instant::now());
    let grace = stopping.ending.grace;
    let drained = tokio::time::timeout(grace, async {
        while let Some(ended) = tasks.join_next().await {
            ended.context("a task panicked")??;
        }
        Ok(())
    });
    drained.await.unwrap_or_else(|_| {
        tracing::warn!("requests in progress were cut off after {grace:?}");
        Ok(())
    })
}

async fn tell_health(health: &HealthReporter, is_serving: bool) {
    let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", envoy::SERVICE] {
        health.set_service_status(service, status).await;
    }
}

async fn report_health(
    mut ready: state::Receiver<bool>,
    health: HealthReporter,
    shutdown: CancellationToken,
) -> Result<()> {
    loop {
        let is_serving = *ready.borrow_and_update() && !shutdown.is_cancelled();
        tell_health(&health, is_serving).await;
        if shutdown.is_cancelled() {
            return Ok(());
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            // Its writer ends at shutdown too, and may be first.
            changed = ready.changed() => if changed.is_err() { shutdown.cancelled().await },
        }
    }
}

fn spawn_http(
    tasks: &mut JoinSet<Result<()>>,
    listener: Listener,
    router: Router,
    closing: &CancellationToken,
) {
    let signal = closing.clone().cancelled_owned();
    tasks.spawn(async move {
        http::serve(router, listener.incoming(), signal).await;
        Ok(())
    });
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(envoy::DESCRIPTORS)
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

impl Listeners {
    async fn bind(addresses: &Listen, metrics: &Metrics, clock: Clock) -> Result<Self> {
        let (grpc, of_grpc) = Listener::open(&addresses.grpc, "grpc", metrics, clock).await?;
        let (http, of_http) = Listener::open(&addresses.http, "http", metrics, clock).await?;
        let (admin, of_admin) = Listener::open(&addresses.admin, "admin", metrics, clock).await?;
        let control = match &addresses.control {
            Some(path) => Some(ControlListener::bind(path).await?),
            None => None,
        };
        let certificates = [of_grpc, of_http, of_admin].into_iter().flatten().collect();
        Ok(Self { addresses: addresses.clone(), grpc, http, admin, control, certificates })
    }
}
