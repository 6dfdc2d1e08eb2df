//! One gRPC server by itself, of calls that stay open: over TLS whose certificate files are kept up to date.
//!
//! There are only so many connections, and one more is closed: those that are there are sidecars, which ask once and
//! then listen, so none makes room as on other listeners. One that does not ask at first is ended. Each is asked
//! now and then whether it is still there, so that those that went without a word take no room.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::connections::serve_one;
use super::listener::{Listener, PAUSE, is_of_the_connection};
use crate::clock::Clock;
use crate::config::ListenerSettings;

/// The most connections.
const MAX_CONNECTIONS: usize = 16_384;

/// The calls of one connection at once: a caller needs one.
const MAX_CALLS: u32 = 4;

/// How often the other end is asked whether it is there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(20);

/// Headers hold a token, and not much else.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// How long calls may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Has `answer` answer the calls that come to the listener called `name`, until `shutdown`: over TLS with what is
/// `current`; without that, with the certificate in its files.
///
/// # Errors
/// If there is no certificate, the listener can't be opened, or what keeps its certificates up to date ends by itself.
pub(crate) async fn serve<A, F>(
    settings: &ListenerSettings,
    current: Option<Arc<ArcSwap<ServerConfig>>>,
    name: &'static str,
    answer: A,
    clock: Clock,
    shutdown: &CancellationToken,
) -> Result<()>
where
    A: Fn(http::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<Body>> + Send + 'static,
{
    anyhow::ensure!(
        current.is_some() || settings.tls.is_some(),
        "`{name}` has no certificate: its callers show tokens, which are for TLS"
    );
    let (listener, watch) = Listener::open_with(settings, current, name, clock).await?;
    tracing::info!(listener = name, address = %settings.address, "listening");
    let watching = async {
        match watch {
            Some(watch) => watch.run(shutdown.clone()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = accept(listener, answer, shutdown) => Ok(()),
        ended = watching => match ended {
            Ok(()) if shutdown.is_cancelled() => Ok(()),
            Ok(()) => Err(anyhow!("what keeps the certificates of `{name}` up to date ended")),
            Err(error) => Err(error),
        },
    }
}

async fn accept<A, F>(listener: Listener, answer: A, shutdown: &CancellationToken)
where
    A: Fn(http::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<Body>> + Send + 'static,
{
    let mut server = http2::Builder::new(TokioExecutor::new());
    server.timer(TokioTimer::new()).max_concurrent_streams(MAX_CALLS);
    server.keep_alive_interval(PING).keep_alive_timeout(PONG);
    server.max_header_list_size(MAX_HEADER_BYTES);
    let (connections, places) =
        (GracefulShutdown::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let mut incoming = listener.of_many().incoming();
    while let Some(accepted) = tokio::select! {
        () = shutdown.cancelled() => None,
        accepted = incoming.next() => accepted,
    } {
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) if is_of_the_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!("a connection was closed: there are {MAX_CONNECTIONS} already");
            continue;
        };
        let (answer, has_asked) = (answer.clone(), Arc::new(AtomicBool::new(false)));
        let asks = Arc::clone(&has_asked);
        let service = service_fn(move |call| {
            asks.store(true, Ordering::Relaxed);
            let answered = answer(call);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let served = server.serve_connection(TokioIo::new(connection), service);
        let served = connections.watch(served);
        tokio::spawn(async move {
            serve_one(served, || has_asked.load(Ordering::Relaxed)).await;
            drop(place);
        });
    }
    drop(incoming);
    if tokio::time::timeout(GRACE, connections.shutdown()).await.is_err() {
        tracing::warn!("calls in progress were cut off after {GRACE:?}");
    }
}
