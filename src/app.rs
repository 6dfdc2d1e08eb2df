//! Puts the rooms together and runs them. The only room that starts tasks.
//!
//! Settings that do not load end the process at start; later they leave the last good ones in
//! force. A server or task that ends by itself ends the process, loudly: a restart beats half a
//! process.

mod generation;
mod grpc;
mod listener;
mod offline;
mod shadowing;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use arc_swap::ArcSwap;
use axum::Router;
use axum::serve::ListenerExt as _;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api;
use crate::api::desk::Desk;
use crate::api::pdp::PdpService;
use crate::audit::{LogWriter, Recorder};
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::envoy::{self, CheckService, Front};
use crate::metrics::Metrics;
use crate::proto;
use crate::readiness::Needs;
use crate::scope::Scopes;
use crate::tls::TlsPeer;
use generation::Generation;
use listener::{ControlListener, Listener, TlsWatch};

pub use offline::{GivenKeys, Offline};

/// How long requests in progress may take after the process was told to end.
const DRAIN: Duration = Duration::from_secs(10);

/// What is in force, for readers; [`App`] is the one writer.
#[derive(Clone, Debug)]
struct Live {
    scopes: Arc<ArcSwap<Scopes>>,
    needs: Arc<ArcSwap<Vec<Needs>>>,
    settings: Arc<ArcSwap<Value>>,
    ready: watch::Sender<bool>,
    metrics: Metrics,
}

/// The process: built once, run once.
#[derive(Debug)]
pub struct App {
    path: PathBuf,
    clock: Clock,
    live: Live,
    generation: Generation,
    listeners: Listeners,
    recorder: Recorder,
    log: LogWriter,
    reuse_max_bytes: u64,
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
    /// Reads the settings, binds the listeners and begins to load keys.
    pub async fn build(path: PathBuf, clock: Clock) -> Result<Self> {
        let config = Config::load(&path)?;
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let metrics = Metrics::new();
        let listeners = Listeners::bind(&config.listen, &metrics, clock).await?;
        let (recorder, log) = Recorder::open(&config.decision_log, metrics.clone())
            .context("the decision log can't be opened")?;
        let reuse_max_bytes = config.reuse_max_bytes;
        let generation = Generation::start(config, clock, &[], &recorder, &metrics)?;
        let live = Live {
            scopes: Arc::new(ArcSwap::new(Arc::clone(&generation.scopes))),
            needs: Arc::new(ArcSwap::from_pointee(generation.needs.clone())),
            settings: Arc::new(ArcSwap::from_pointee(generation.settings.clone())),
            ready: watch::channel(false).0,
            metrics,
        };
        Ok(Self { path, clock, live, generation, listeners, recorder, log, reuse_max_bytes })
    }

    /// Serves until `shutdown`, then drains. `reload` yields once for each time the settings are to
    /// be read again.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        reload: tokio::sync::mpsc::Receiver<()>,
    ) -> Result<()> {
        let Self { path, clock, live, generation, listeners, recorder, log, reuse_max_bytes } =
            self;
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", ServingStatus::NotServing).await;
        let desk = Desk::new(Arc::clone(&live.scopes), recorder.clone(), clock);
        let check =
            CheckService::new(Arc::clone(&live.scopes), recorder.clone(), clock, reuse_max_bytes);
        let shown = api::admin::Shown {
            ready: live.ready.subscribe(),
            needs: Arc::clone(&live.needs),
            settings: Arc::clone(&live.settings),
            metrics: live.metrics.clone(),
        };
        let check_over_http = check.clone();
        let mut tasks = JoinSet::new();
        let others = Routes::new(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(PdpService::new(desk.clone()));
        let front = Front::new(check, others);
        let Listeners { addresses, grpc: grpc_listener, http, admin, control, certificates } =
            listeners;
        for watch in certificates {
            tasks.spawn(watch.run(shutdown.clone()));
        }
        tracing::info!(grpc = %addresses.grpc, http = %addresses.http, admin = %addresses.admin, "listening");
        let stop = shutdown.clone();
        tasks.spawn(async move {
            grpc::serve(front, grpc_listener.incoming(), stop.cancelled_owned()).await;
            Ok(())
        });
        let public = api::jwks::router(Arc::clone(&live.scopes))
            .merge(api::authzen::router(desk))
            .merge(envoy::over_http::router(check_over_http));
        spawn_http(&mut tasks, http, public, &shutdown);
        spawn_http(&mut tasks, admin, api::admin::router(shown), &shutdown);
        if let Some(control) = control {
            let routes = api::keys::control(Arc::clone(&live.needs));
            let signal = shutdown.clone().cancelled_owned();
            tasks.spawn(async move {
                let served = axum::serve(control, routes).with_graceful_shutdown(signal).await;
                served.context("the control socket failed")
            });
        }
        tasks.spawn(report_health(live.ready.subscribe(), health, shutdown.clone()));
        let keeper = Keeper { path, clock, live, addresses, recorder };
        tasks.spawn(keeper.run(generation, reload, shutdown.clone()));
        let outcome = supervise(tasks, &shutdown).await;
        log.finish();
        outcome
    }
}

/// Waits for the end: of `shutdown` and the drain, or of a task that should not have ended.
async fn supervise(mut tasks: JoinSet<Result<()>>, shutdown: &CancellationToken) -> Result<()> {
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
    tracing::info!("draining");
    let drained = tokio::time::timeout(DRAIN, async {
        while let Some(ended) = tasks.join_next().await {
            ended.context("a task panicked")??;
        }
        Ok(())
    });
    drained.await.unwrap_or_else(|_| {
        tracing::warn!("requests in progress were cut off after {DRAIN:?}");
        Ok(())
    })
}

/// Keeps what is in force: waits for readiness, and reads the settings again when told.
#[derive(Debug)]
struct Keeper {
    path: PathBuf,
    clock: Clock,
    live: Live,
    addresses: Listen,
    recorder: Recorder,
}

impl Keeper {
    async fn run(
        self,
        mut generation: Generation,
        mut reload: tokio::sync::mpsc::Receiver<()>,
        shutdown: CancellationToken,
    ) -> Result<()> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = generation.serviceable(), if !*self.live.ready.borrow() => {
                    tracing::info!("ready");
                    self.live.ready.send_replace(true);
                }
                Some(()) = reload.recv() => {
                    match self.next(&generation).await {
                        Ok(next) => generation = next,
                        Err(error) => {
                            self.live.metrics.reload_failed();
                            for line in format!("{error:#}").lines() {
                                tracing::error!("the settings stay as they were: {line}");
                            }
                        }
                    }
                }
            }
        }
    }

    /// Loads the settings again and puts them in force once they are as complete as the last ones.
    async fn next(&self, current: &Generation) -> Result<Generation> {
        let path = self.path.clone();
        let loading = tokio::task::spawn_blocking(move || Config::load_without_listening(&path));
        let config = loading.await??;
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        if config.listen != self.addresses {
            tracing::warn!("listen: a change of listeners takes a restart");
        }
        let has_peers = config.scopes.iter().any(|scope| scope.identity.peer.is_some());
        if has_peers && !self.addresses.grpc.names_its_clients() {
            bail!("identity.peer needs the gRPC listener that the new settings name: restart");
        }
        let next = Generation::start(
            config,
            self.clock,
            &current.needs,
            &self.recorder,
            &self.live.metrics,
        )?;
        if current.is_complete() {
            let grace = next.startup_grace;
            tokio::time::timeout(grace, next.complete()).await.map_err(|_| {
                let missing: Vec<_> = next.needs.iter().flat_map(Needs::missing).collect();
                anyhow!("after {grace:?} still without {}", missing.join(", "))
            })?;
        }
        self.live.scopes.store(Arc::clone(&next.scopes));
        self.live.needs.store(Arc::new(next.needs.clone()));
        self.live.settings.store(Arc::new(next.settings.clone()));
        tracing::info!("the settings were read again and are in force");
        Ok(next)
    }
}

async fn report_health(
    mut ready: watch::Receiver<bool>,
    health: HealthReporter,
    shutdown: CancellationToken,
) -> Result<()> {
    let services = ["", "envoy.service.auth.v3.Authorization"];
    loop {
        let is_serving = *ready.borrow_and_update() && !shutdown.is_cancelled();
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in services {
            health.set_service_status(service, status).await;
        }
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
    shutdown: &CancellationToken,
) {
    let signal = shutdown.clone().cancelled_owned();
    tasks.spawn(async move {
        let served = match listener {
            Listener::Tcp(listener) => {
                // A connection that is gone already ends by itself.
                let listener = listener.tap_io(|stream| drop(listener::prepare(stream)));
                axum::serve(listener, router).with_graceful_shutdown(signal).await
            }
            Listener::Tls(listener) => {
                let router = router.into_make_service_with_connect_info::<TlsPeer>();
                axum::serve(listener, router).with_graceful_shutdown(signal).await
            }
            Listener::Unix(listener, _) => {
                axum::serve(listener, router).with_graceful_shutdown(signal).await
            }
        };
        served.context("an HTTP server failed")
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
