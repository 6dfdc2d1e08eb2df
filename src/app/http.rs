//! The server of the HTTP listeners, HTTP/1.1 and HTTP/2: keys, what is shown to operators, and what
//! applications ask.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::Stream;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tower::Service as _;

use super::connections::{self, Crowd};
use super::listener::Connection;

/// How long a connection of HTTP/1 that has asked before may take until it has asked again, silent or byte by byte.
/// Longer than the pauses of a Prometheus.
const NEXT_HEAD: Duration = Duration::from_secs(90);

/// Serves the connections that come in until `stop`, and then what they have begun.
pub(super) async fn serve(
    router: Router,
    incoming: impl Stream<Item = io::Result<Connection>>,
    stop: impl Future<Output = ()>,
) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(NEXT_HEAD);
    server.http2().timer(TokioTimer::new());
    connections::serve(Crowd::part(8), incoming, stop, |connection, asked| {
        let (router, peer) = (router.clone(), connection.peer().clone());
        let service = service_fn(move |call: http::Request<Incoming>| {
            asked.now();
            let mut call = call.map(Body::new);
            call.extensions_mut().insert(peer.clone());
            router.clone().call(call)
        });
        server.serve_connection(TokioIo::new(connection), service).into_owned()
    })
    .await;
}
