//! The server of the gRPC listener.
//!
//! The task of a connection reads calls, and answers at once what needs no waiting. A call that has to wait
//! goes on by a task of its own.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::{FutureExt, Stream};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::connections::{self, Crowd};
use super::listener::Connection;
use crate::envoy::Front;

/// Calls in progress on one connection; one more is refused by HTTP/2, which Envoy takes for a failure. Before
/// that, more checks than can be in progress are denied.
const MAX_CALLS: u32 = 16_384;

/// Serves the connections that come in until `stop`, and then what they have begun.
pub(super) async fn serve(
    front: Front,
    incoming: impl Stream<Item = io::Result<Connection>>,
    stop: impl Future<Output = ()>,
) {
    let front = Arc::new(front);
    let mut server = http2::Builder::new(AtOnce);
    server.timer(TokioTimer::new()).auto_date_header(false).max_concurrent_streams(MAX_CALLS);
    connections::serve(Crowd::part(2), incoming, stop, |connection, asked| {
        let front = Arc::clone(&front);
        let peer = Some(connection.peer().clone()).filter(|peer| peer.uri().is_some());
        let service = service_fn(move |mut call| {
            asked.now();
            if let Some(peer) = &peer {
                http::Request::extensions_mut(&mut call).insert(peer.clone());
            }
            front.answer(call).map(Ok::<_, Infallible>)
        });
        server.serve_connection(TokioIo::new(connection), service)
    })
    .await;
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
