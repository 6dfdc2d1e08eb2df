//! The command line of `placet-control`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::certificates::{self, ConfigMaps, Keeper};
use super::controller::{Controller, Pace};
use super::inject::manifest;
use super::refusals::Refusals;
use super::settings::{ControllerSettings, Settings};
use super::snapshot::Snapshots;
use super::stream::StreamSettings;
use super::{resources, stream, webhook};
use crate::app::https;
use crate::cli::{LogFormat, forbid_core_dumps, print, report, start_log};
use crate::clock::Clock;

/// The control plane of Placet: brings it into pods.
#[derive(Debug, Parser)]
#[command(name = "placet-control", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written (default: text on a terminal, else json).
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API server: add Placet to the pods that it asks about.
    Webhook {
        /// The settings file.
        #[arg(long, env = "PLACET_CONTROL_CONFIG", value_name = "FILE")]
        config: PathBuf,
    },
    /// Add Placet to manifests, as the webhook would.
    Inject(Inject),
    /// Watch the custom resources: check them, say in their status what is wrong, and send what is good to the
    /// sidecars of their namespace.
    Controller {
        /// The settings file.
        #[arg(long, env = "PLACET_CONTROL_CONFIG", value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the definitions of the custom resources, for `kubectl apply -f -`.
    Crds,
    /// Send the snapshots in a directory to sidecars, where there is no Kubernetes.
    Snapshots {
        /// The settings file.
        #[arg(long, env = "PLACET_CONTROL_CONFIG", value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Args, Debug)]
struct Inject {
    /// Manifests, YAML or JSON; `-` reads standard input.
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The settings file; without it the defaults hold.
    #[arg(long, env = "PLACET_CONTROL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take every namespace for labelled, as those are whose Namespace is among the manifests.
    #[arg(long)]
    all: bool,
    /// How the manifests are written.
    #[arg(long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Yaml,
    Json,
}

impl Cli {
    /// Runs the command and says how it went: 0 done, 1 failed, 2 the settings or manifests are wrong.
    pub fn run(self) -> ExitCode {
        start_log(self.log_format);
        forbid_core_dumps();
        let done = match &self.command {
            Command::Webhook { config } => serve(config),
            Command::Inject(args) => inject(args),
            Command::Snapshots { config } => snapshots(config),
            Command::Controller { config } => control(config),
            Command::Crds => crds(),
        };
        done.unwrap_or_else(|error| report(&error))
    }
}

fn serve(config: &Path) -> Result<ExitCode> {
    let settings = match Settings::load(config) {
        Ok(settings) => settings,
        Err(errors) => return Ok(refuse(errors)),
    };
    let Some(webhook) = settings.webhook else {
        let what = "webhook: is required: write `webhook: {}` for one with certificates of its own";
        return Ok(refuse(vec![what.to_owned()]));
    };
    until_stopped(async |shutdown| webhook::serve(webhook, settings.injection, &shutdown).await)
}

fn snapshots(config: &Path) -> Result<ExitCode> {
    let settings = match Settings::load(config) {
        Ok(settings) => settings.snapshots,
        Err(errors) => return Ok(refuse(errors)),
    };
    let Some(settings) = settings.filter(|settings| settings.directory.is_some()) else {
        let what = "snapshots.directory: is required: it holds a directory for each namespace";
        return Ok(refuse(vec![what.to_owned()]));
    };
    until_stopped(async |shutdown| {
        stream::serve(&settings, None, Arc::default(), Arc::default(), &shutdown).await
    })
}

/// Does `work`, which ends when it is told to by a signal.
fn until_stopped(work: impl AsyncFnOnce(CancellationToken) -> Result<()>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { work(until_signal()?).await })?;
    Ok(ExitCode::SUCCESS)
}

/// Cancelled by SIGTERM and SIGINT.
fn until_signal() -> Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(shutdown)
}

fn control(config: &Path) -> Result<ExitCode> {
    let settings = match Settings::load(config) {
        Ok(settings) => settings,
        Err(errors) => return Ok(refuse(errors)),
    };
    if let Some(Err(errors)) = settings.snapshots.as_ref().map(StreamSettings::check_sidecar) {
        return Ok(refuse(errors));
    }
    until_stopped(async |shutdown| {
        let client = Client::try_default().await;
        let client = client
            .context("can't tell where the API server is: run in a pod, or set KUBECONFIG")?;
        let Settings {
            controller: ControllerSettings { probes, reach }, snapshots: streams, ..
        } = settings;
        let (snapshots, refusals) = (Arc::<Snapshots>::default(), Arc::<Refusals>::default());
        let (sent, refused) = (Arc::clone(&snapshots), Arc::clone(&refusals));
        let controller = Controller::new(client, reach, Pace::default(), sent, refused);
        let router = controller.probes();
        let probes = https::serve(&probes, None, "probes", router, Clock::System, &shutdown);
        let keeper = match &streams {
            Some(settings) => keeper(settings, &controller).await?,
            None => None,
        };
        let sending = async {
            match &streams {
                Some(settings) => send(settings, keeper, snapshots, refusals, &shutdown).await,
                None => {
                    shutdown.cancelled().await;
                    Ok(())
                }
            }
        };
        let watching = controller.run(identity()?, &shutdown);
        // When one ends, the others are no use.
        let ended = async |part: Result<()>| {
            shutdown.cancel();
            part
        };
        let (probes, sending, watching) = tokio::join!(
            async { ended(probes.await).await },
            async { ended(sending.await).await },
            async { ended(watching.await).await },
        );
        probes.and(sending).and(watching)
    })
}

/// What keeps the certificate, if the settings name no files, and tells the namespaces whom to trust.
async fn keeper(
    settings: &StreamSettings,
    controller: &Controller,
) -> Result<Option<Keeper<ConfigMaps>>> {
    let Some(kept) = &settings.kept else { return Ok(None) };
    let client = certificates::client().await?;
    let namespace = client.default_namespace().to_owned();
    let text = kept.sidecar.text(&kept.names.host(&namespace), &settings.listener.address);
    let (reach, namespaces) = (controller.reach(), controller.namespaces());
    let maps = ConfigMaps::new(client.clone(), &kept.config_map, text, reach, namespaces);
    Ok(Some(Keeper::new(client, &namespace, kept.names.clone(), maps)))
}

/// Sends snapshots, with the certificate that `keeper` keeps, if there is one.
async fn send(
    settings: &StreamSettings,
    keeper: Option<Keeper<ConfigMaps>>,
    snapshots: Arc<Snapshots>,
    refusals: Arc<Refusals>,
    shutdown: &CancellationToken,
) -> Result<()> {
    let Some(mut keeper) = keeper else {
        return stream::serve(settings, None, snapshots, refusals, shutdown).await;
    };
    let Some(current) = keeper.first(Clock::System, shutdown).await else { return Ok(()) };
    let keeping = async {
        keeper.run(Clock::System, shutdown.clone()).await;
        Ok(())
    };
    let serving = stream::serve(settings, Some(current), snapshots, refusals, shutdown);
    tokio::try_join!(serving, keeping).map(drop)
}

/// The pod's name, and what tells this process from the one before it there.
fn identity() -> Result<String> {
    let host = nix::unistd::gethostname().context("can't read the host name")?;
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| anyhow!("the system has no random numbers"))?;
    Ok(format!("{}_{}", host.to_string_lossy(), hex::encode(random)))
}

fn crds() -> Result<ExitCode> {
    print(resources::yaml()?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes all manifests, or says everything that keeps them from being injected.
fn inject(args: &Inject) -> Result<ExitCode> {
    let settings = match args.config.as_deref().map(Settings::load) {
        None => Settings::default(),
        Some(Ok(settings)) => settings,
        Some(Err(errors)) => return Ok(refuse(errors)),
    };
    let mut documents = Vec::new();
    for path in &args.files {
        let name = path.display();
        let text = if path == Path::new("-") {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(path)
        };
        let text = text.with_context(|| format!("can't read `{name}`"))?;
        match manifest::read(&text) {
            Ok(read) => documents.extend(read),
            Err(problem) => return Ok(refuse(vec![format!("`{name}`: {problem}")])),
        }
    }
    match manifest::inject(&mut documents, &settings.injection, args.all) {
        Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
        Err(faults) => return Ok(refuse(faults)),
    }
    for document in &documents {
        match args.output {
            Output::Yaml => print(format!("---\n{}", manifest::write(document)).trim_end())?,
            Output::Json => print(&document.to_string())?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse(errors: Vec<String>) -> ExitCode {
    errors.into_iter().for_each(|line| {
        report(&anyhow::Error::msg(line));
    });
    ExitCode::from(2)
}
