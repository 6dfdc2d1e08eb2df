//! The server of the gRPC listener.
//!
//! Each connection has a task, which reads calls and answers at once what needs no waiting. A call that
//! has to wait goes on by a task of its own. When listening ends, every connection is told (GOAWAY), and
//! ends with its last call. There are only so many connections ([`crowd`]), and one that asks nothing for
//! [`FIRST_CALL`] is ended.

mod crowd;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;

use self::crowd::{Asked, Crowd};
use super::listener::{Connection, PAUSE, is_of_the_connection};
use crate::envoy::Front;

/// Calls in progress on one connection; one more is refused by HTTP/2, which Envoy takes for a failure. Before
/// that, more checks than can be in progress are denied.
const MAX_CALLS: u32 = 16_384;

/// How long a connection may take until it has asked something.
const FIRST_CALL: Duration = Duration::from_secs(10);

/// Serves the connections that come in until `stop`, and then what they have begun.
pub(super) async fn serve(
    front: Front,
    incoming: impl Stream<Item = io::Result<Connection>>,
    stop: impl Future<Output = ()>,
) {
    let front = Arc::new(front);
    let mut server = http2::Builder::new(AtOnce);
    server.timer(TokioTimer::new()).auto_date_header(false).max_concurrent_streams(MAX_CALLS);
    let connections = GracefulShutdown::new();
    let mut crowd = Crowd::new();
    {
        // Listening ends with this block, before what was begun is waited for.
        let (mut incoming, mut stop) = (pin!(incoming), pin!(stop));
        while let Some(connection) = tokio::select! {
            () = &mut stop => None,
            accepted = incoming.next() => accepted,
        } {
            let connection = match connection {
                Ok(connection) => connection,
                Err(error) if is_of_the_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let front = Arc::clone(&front);
            let peer = Some(connection.peer().clone()).filter(|peer| peer.uri().is_some());
            let asked = crowd.asked();
            let asks = asked.clone();
            let service = service_fn(move |mut call| {
                asks.now();
                if let Some(peer) = &peer {
                    http::Request::extensions_mut(&mut call).insert(peer.clone());
                }
                front.answer(call).map(Ok::<_, Infallible>)
            });
            let connection = TokioIo::new(connection);
            let served = connections.watch(server.serve_connection(connection, service));
            let task = tokio::spawn(serve_one(served, asked.clone()));
            if crowd.add(asked, task.abort_handle()) {
                tracing::debug!("the connection that has asked nothing for longest made room");
            }
        }
    }
    connections.shutdown().await;
}

/// Serves a connection to its end.
async fn serve_one(served: impl Future<Output = hyper::Result<()>>, asked: Asked) {
    let mut served = pin!(served);
    let ended = match tokio::time::timeout(FIRST_CALL, &mut served).await {
        Err(_) if asked.never() => {
            tracing::debug!("a connection was ended that asked nothing for {FIRST_CALL:?}");
            return;
        }
        Err(_) => served.await,
        Ok(ended) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Runs what is ready where it comes up, and what has to wait as a task of its own.
#[derive(Clone, Copy, Debug)]
struct AtOnce;

impl<F> hyper::rt::Executor<F> for AtOnce
where
    F: Future<Output = ()> + Send + Unpin + 'static,
{
    fn execute(&self, mut future: F) {
        let mut nobody = Context::from_waker(Waker::noop());
        // A panic, which the panic hook has told of, ends one call and not the connection.
        let polled = catch_unwind(AssertUnwindSafe(|| future.poll_unpin(&mut nobody)));
        if let Ok(Poll::Pending) = polled {
            tokio::spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use hyper::rt::Executor as _;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_is_ready_runs_at_once_and_what_waits_runs_on() {
        let (ready, is_ready) = oneshot::channel();
        AtOnce.execute(Box::pin(async { ready.send(()).unwrap() }));
        assert_eq!(is_ready.now_or_never().unwrap(), Ok(()));
        let (go_on, waiting) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        AtOnce.execute(Box::pin(async {
            waiting.await.unwrap();
            done.send(()).unwrap();
        }));
        go_on.send(()).unwrap();
        assert_eq!(is_done.await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_stays_where_it_is() {
        AtOnce.execute(Box::pin(async { panic!("of one call") }));
    }
}
