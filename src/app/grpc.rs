//! The server of the gRPC listener: calls over HTTP/2.
//!
//! The task of a connection reads calls, and answers at once what needs no waiting. A call that has to wait
//! goes on by a task of its own ([`waiting`]). HTTP/2 itself is the `h2` crate's: the layers that are usually
//! above it would cost each answer more than finding it.

mod waiting;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, Request, Response};
use tokio_util::sync::CancellationToken;

use self::waiting::Received;
use super::connections::{self, Asked, Crowd};
use super::listener::Connection;
use crate::envoy::{Answering, Front, framing};

/// Calls in progress on one connection; one more is refused by HTTP/2, which Envoy takes for a failure. Before
/// that, more checks than can be in progress are denied.
const MAX_CALLS: u32 = 16_384;

/// What the other end may send before it must wait for us, in bytes: of one call, and of all on a connection.
const WINDOW: u32 = 1024 * 1024;

/// Longer headers of a call are refused, in bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Serves the connections that come in until `stop`, and then what they have begun.
pub(super) async fn serve(
    front: Front,
    incoming: impl Stream<Item = io::Result<Connection>>,
    stop: impl Future<Output = ()>,
) {
    let front = Arc::new(front);
    connections::serve(Crowd::part(2), incoming, stop, |connection, asked, stopping| {
        serve_one(connection, Arc::clone(&front), asked, stopping)
    })
    .await;
}

/// Answers the calls of one connection until it ends, or those that are begun when it is `stopping`.
async fn serve_one(
    connection: Connection,
    front: Arc<Front>,
    asked: Asked,
    stopping: CancellationToken,
) -> Result<(), h2::Error> {
    let peer = Some(connection.peer().clone()).filter(|peer| peer.uri().is_some());
    let (mut stop, mut is_stopping) = (pin!(stopping.cancelled()), false);
    let answers = Answers::new();
    let mut calls = tokio::select! {
        () = &mut stop => return Ok(()),
        calls = protocol().handshake(connection) => calls?,
    };
    loop {
        let call = tokio::select! {
            biased;
            call = calls.accept() => call,
            () = &mut stop, if !is_stopping => {
                is_stopping = true;
                calls.graceful_shutdown();
                continue;
            }
        };
        let Some(call) = call else { return Ok(()) };
        let (mut call, respond) = call?;
        asked.now();
        if let Some(peer) = &peer {
            call.extensions_mut().insert(peer.clone());
        }
        answers.answer(&front, call, respond);
    }
}

fn protocol() -> Builder {
    let mut protocol = h2::server::Builder::new();
    protocol
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(MAX_CALLS);
    protocol
}

/// What is the same in all answers.
struct Answers {
    head: Response<()>,
    trailers: HeaderMap,
}

impl Answers {
    fn new() -> Self {
        let mut head = Response::new(());
        *head.headers_mut() = framing::head();
        Self { head, trailers: framing::trailers() }
    }

    /// Answers one call: at once, or by a task of its own.
    fn answer(&self, front: &Front, call: Request<RecvStream>, respond: SendResponse<Bytes>) {
        match front.answer(call.map(Received)) {
            Answering::Now(framed) => {
                if let Err(error) = self.send(framed, respond) {
                    tracing::debug!(%error, "an answer was not sent");
                }
            }
            Answering::Later(answer) => drop(tokio::spawn(waiting::send(answer, respond))),
        }
    }

    /// Sends an answer that is one message.
    fn send(&self, framed: Bytes, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let mut stream = respond.send_response(self.head.clone(), false)?;
        stream.send_data(framed, false)?;
        stream.send_trailers(self.trailers.clone())
    }
}
