//! The server of the HTTP listeners, HTTP/1.1 and HTTP/2: keys, what is shown to operators, and what
//! applications ask.

use std::future::Future;
use std::io;
use std::pin::pin;
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
    connections::serve(Crowd::part(8), incoming, stop, |connection, asked, stopping| {
        let (router, peer) = (router.clone(), connection.peer().clone());
        let service = service_fn(move |call: http::Request<Incoming>| {
            asked.now();
            let mut call = call.map(Body::new);
            call.extensions_mut().insert(peer.clone());
            router.clone().call(call)
        });
        let served = server.serve_connection(TokioIo::new(connection), service).into_owned();
        async move {
            let mut served = pin!(served);
            tokio::select! {
                ended = &mut served => return ended,
                () = stopping.cancelled() => served.as_mut().graceful_shutdown(),
            }
            served.await
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::routing::get;
    use futures_util::{StreamExt as _, stream};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn connect() -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        let incoming = stream::iter([Ok(Connection::unix(server))]).chain(stream::pending());
        let router = Router::new().route("/", get(|| async {}));
        tokio::spawn(serve(router, incoming, pending()));
        client
    }

    /// How long it takes until the server ends the connection, to which a byte is sent each second.
    async fn seconds_dripped(client: &mut UnixStream, bytes: &[u8]) -> u64 {
        let began = Instant::now();
        for byte in bytes.iter().chain(&[b'a'; 200]) {
            let mut answer = [0; 256];
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
            if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(SECOND, client.read(&mut answer)).await
            {
                break;
            }
        }
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_head_has_ten_seconds_and_the_next_ones_have_longer() {
        const HEAD: &[u8] = b"GET / HTTP/1.1\r\nx-slow: ";
        for first in [&b""[..], b"PRI * HTTP/2.0", HEAD] {
            assert_eq!(seconds_dripped(&mut connect(), first).await, 10, "{first:?}");
        }
        let mut asking = connect();
        asking.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = [0; 15];
        asking.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        let dripped = seconds_dripped(&mut asking, HEAD).await;
        assert!((89..=91).contains(&dripped), "{dripped}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asked_before_may_be_silent_for_longer() {
        let mut asking = connect();
        asking.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let mut answer = Vec::new();
        asking.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
        assert!((90..=91).contains(&began.elapsed().as_secs()));
    }
}
