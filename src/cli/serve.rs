//! `placet serve`.

use std::num::NonZero;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Settings;
use crate::app::App;
use crate::clock::Clock;
use crate::envoy::capture::Tap;

/// How long work beside the requests may take when all else has ended.
const LAST_WORK: Duration = Duration::from_secs(1);

/// The arguments of `placet serve`.
#[derive(Args, Debug)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// Show on the admin listener (`/capture`) what Envoy asks, without credentials.
    #[arg(long)]
    capture: bool,
}

pub(super) fn run(args: Serve) -> Result<()> {
    log_panics();
    let tap = if args.capture {
        tracing::warn!("--capture: whoever reaches the admin listener can see what is asked");
        Some(Tap::new().context("checks can't be captured")?)
    } else {
        None
    };
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (reload_sender, reload) = mpsc::channel(1);
        let app = App::build(args.settings.config, Clock::System, tap).await?;
        let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
        let mut hang_up = signal(SignalKind::hangup()).context("can't wait for SIGHUP")?;
        // A log file that may not grow is a failure to write like any other, and no reason to end.
        let _file_size =
            signal(SignalKind::from_raw(nix::libc::SIGXFSZ)).context("can't outlive SIGXFSZ")?;
        let stop = shutdown.clone();
        let signals = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => stop.cancel(),
                    _ = interrupt.recv() => stop.cancel(),
                    // A second SIGHUP while one waits asks for nothing more.
                    _ = hang_up.recv() => drop(reload_sender.try_send(())),
                }
            }
        });
        let outcome = app.run(shutdown, reload).await;
        signals.abort();
        outcome
    });
    // A look at a file system that does not answer must not hold up the end.
    runtime.shutdown_timeout(LAST_WORK);
    outcome
}

/// One thread where there is one core, or the share of one: more would only hand requests to each other.
fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut builder =
        if cores == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.enable_all().build()
}

/// A panic answers its request with a denial; its place is logged, its message is not: that could
/// hold what the request held.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a panic");
    }));
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn of_a_panic_the_place_is_logged_and_not_the_message() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let before = std::panic::take_hook();
        log_panics();
        let caught = tracing::subscriber::with_default(log, || {
            std::panic::catch_unwind(|| panic!("the request held {}", "s3cr3t"))
        });
        std::panic::set_hook(before);
        assert!(caught.is_err());
        let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(logged.contains("a panic") && logged.contains("src/cli/serve.rs:"), "{logged}");
        assert!(!logged.contains("s3cr3t"), "{logged}");
    }
}
