//! `placet serve`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::clock::Clock;

pub(super) fn run(config: PathBuf) -> Result<()> {
    log_panics();
    forbid_core_dumps();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (reload_sender, reload) = mpsc::channel(1);
        let app = App::build(config, Clock::System).await?;
        let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
        let mut hang_up = signal(SignalKind::hangup()).context("can't wait for SIGHUP")?;
        let stop = shutdown.clone();
        let signals = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return stop.cancel(),
                    _ = interrupt.recv() => return stop.cancel(),
                    // A second SIGHUP while one waits asks for nothing more.
                    _ = hang_up.recv() => drop(reload_sender.try_send(())),
                }
            }
        });
        let outcome = app.run(shutdown, reload).await;
        signals.abort();
        outcome
    })
}

/// A core dump would hold the private keys; nor may another process of this user read the memory.
fn forbid_core_dumps() {
    let limit = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, limit);
    let closed = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Err(error) = limited.and(closed) {
        tracing::warn!(%error, "core dumps can't be forbidden");
    }
}

/// A panic answers its request with a denial; its place is logged, its message is not: that could
/// hold what the request held.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a panic");
    }));
}
