//! One HTTP server by itself, over TLS whose certificates are kept up to date.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwap;
use axum::Router;
use rustls::ServerConfig;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listener::Listener;
use super::spawn_http;
use crate::clock::Clock;
use crate::config::ListenerSettings;

/// How long requests in progress may take at the end.
const GRACE: Duration = Duration::from_secs(10);

/// Serves `router` on the listener called `name` until `shutdown`, over TLS with what is `current`; without that,
/// with the certificate in its files, if it has any.
///
/// # Errors
/// If the listener can't be opened, or the server ends by itself.
pub(crate) async fn serve(
    settings: &ListenerSettings,
    current: Option<Arc<ArcSwap<ServerConfig>>>,
    name: &'static str,
    router: Router,
    clock: Clock,
    shutdown: &CancellationToken,
) -> Result<()> {
    let (listener, watch) = Listener::open_with(settings, current, name, clock).await?;
    tracing::info!(listener = name, address = ?settings.address, "listening");
    let mut tasks = JoinSet::new();
    spawn_http(&mut tasks, listener, router, shutdown);
    if let Some(watch) = watch {
        tasks.spawn(watch.run(shutdown.clone()));
    }
    until(shutdown, tasks).await
}

/// Waits for what is served to end, which before `shutdown` is an error.
async fn until(shutdown: &CancellationToken, mut tasks: JoinSet<Result<()>>) -> Result<()> {
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
