//! One HTTP server by itself, over TLS whose certificate files are kept up to date.

use std::time::Duration;

use anyhow::Result;
use axum::Router;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listener::Listener;
use super::spawn_http;
use crate::clock::Clock;
use crate::config::ListenerSettings;
use crate::metrics::Metrics;

/// How long requests in progress may take at the end.
const GRACE: Duration = Duration::from_secs(10);

/// Serves `router` on the listener called `name` until `shutdown`.
///
/// # Errors
/// If the listener can't be opened, or the server ends by itself.
pub(crate) async fn serve(
    settings: &ListenerSettings,
    name: &'static str,
    router: Router,
    clock: Clock,
    shutdown: &CancellationToken,
) -> Result<()> {
    let (listener, watch) = Listener::open(settings, name, &Metrics::new(), clock).await?;
    tracing::info!(listener = name, address = ?settings.address, "listening");
    let mut tasks = JoinSet::new();
    spawn_http(&mut tasks, listener, router, shutdown);
    if let Some(watch) = watch {
        tasks.spawn(watch.run(shutdown.clone()));
    }
    let ended = async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
            anyhow::ensure!(shutdown.is_cancelled(), "a task ended by itself");
        }
        Ok(())
    };
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = ended => ended,
        () = overdue => Ok(()),
    }
}
