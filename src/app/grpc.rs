//! The server of the gRPC listener: calls over HTTP/2.
//!
//! The task of a connection reads calls, and answers at once what needs no waiting. A call that has to wait
//! goes on by a task of its own ([`waiting`]). HTTP/2 itself is the `h2` crate's: the layers that are usually
//! above it would cost each answer more than finding it.

mod waiting;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, Request, Response};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use self::waiting::Received;
use super::connections::{self, Asked, Crowd};
use super::listener::Connection;
use crate::envoy::{Answering, Check, Front, framing};
use crate::tls::TlsPeer;

/// Calls in progress on one connection; one more is refused by HTTP/2, which Envoy takes for a failure. Before
/// that, more checks than can be in progress are denied.
const MAX_CALLS: u32 = 16_384;

/// What the other end may send before it must wait for us, in bytes: of one call, and of all on a connection.
const WINDOW: u32 = 1024 * 1024;

/// Longer headers of a call are refused, in bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// How many calls of a connection whose messages are not there yet its task waits for, and for how long: most come
/// with the next bytes, and need no task of their own.
const MAX_UNREAD: usize = 64;
const PATIENCE: Duration = Duration::from_millis(1);

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
    let mut stop = pin!(stopping.cancelled());
    let calls = tokio::select! {
        () = &mut stop => return Ok(()),
        calls = protocol().handshake(connection) => calls?,
    };
    let mut conversation = Conversation::new(calls, front, peer, asked);
    tokio::select! {
        biased;
        ended = poll_fn(|context| conversation.poll(context)) => return ended,
        () = stop => conversation.calls.graceful_shutdown(),
    }
    poll_fn(|context| conversation.poll(context)).await
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

/// The calls of one connection.
struct Conversation {
    calls: h2::server::Connection<Connection, Bytes>,
    front: Arc<Front>,
    /// Who calls, where that is known.
    peer: Option<TlsPeer>,
    asked: Asked,
    unread: VecDeque<(Box<Check<Received>>, SendResponse<Bytes>)>,
    /// How long those are waited for here.
    patience: Option<Pin<Box<Sleep>>>,
    /// What is the same in all answers.
    head: Response<()>,
    trailers: HeaderMap,
}

impl Conversation {
    fn new(
        calls: h2::server::Connection<Connection, Bytes>,
        front: Arc<Front>,
        peer: Option<TlsPeer>,
        asked: Asked,
    ) -> Self {
        let (mut head, trailers) = (Response::new(()), framing::trailers());
        *head.headers_mut() = framing::head();
        Self { calls, front, peer, asked, unread: VecDeque::new(), patience: None, head, trailers }
    }

    /// Reads, answers and writes as far as nothing has to be waited for.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            match self.calls.poll_accept(context)? {
                Poll::Ready(Some((call, respond))) => self.begin(call, respond),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending if self.read_on() => {}
                Poll::Pending => {
                    self.poll_patience(context);
                    return Poll::Pending;
                }
            }
        }
    }

    fn begin(&mut self, mut call: Request<RecvStream>, respond: SendResponse<Bytes>) {
        self.asked.now();
        if let Some(peer) = &self.peer {
            call.extensions_mut().insert(peer.clone());
        }
        let answering = self.front.answer(call.map(Received));
        self.answer(answering, respond);
    }

    fn answer(&mut self, answering: Answering<Received>, respond: SendResponse<Bytes>) {
        match answering {
            Answering::Now(framed) => {
                if let Err(error) = self.send(framed, respond) {
                    tracing::debug!(%error, "an answer was not sent");
                }
            }
            Answering::Unread(check) if self.unread.len() < MAX_UNREAD => {
                self.unread.push_back((check, respond));
            }
            Answering::Unread(check) => drop(tokio::spawn(waiting::send(check.wait(), respond))),
            Answering::Later(answer) => drop(tokio::spawn(waiting::send(answer, respond))),
        }
    }

    /// Sends an answer that is one message.
    fn send(&self, framed: Bytes, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let mut stream = respond.send_response(self.head.clone(), false)?;
        stream.send_data(framed, false)?;
        stream.send_trailers(self.trailers.clone())
    }

    /// Goes on with the calls whose messages have come; whether there were any.
    fn read_on(&mut self) -> bool {
        let before = self.unread.len();
        for _ in 0..before {
            let Some((check, respond)) = self.unread.pop_front() else { break };
            self.answer(check.answer(), respond);
        }
        self.unread.len() < before
    }

    /// Gives calls whose messages have not come for a while tasks of their own.
    fn poll_patience(&mut self, context: &mut Context<'_>) {
        while self.patience.is_some() || !self.unread.is_empty() {
            let patience = || Box::pin(tokio::time::sleep(PATIENCE));
            if self.patience.get_or_insert_with(patience).as_mut().poll(context).is_pending() {
                return;
            }
            self.patience = None;
            for (check, respond) in self.unread.drain(..) {
                tokio::spawn(waiting::send(check.wait(), respond));
            }
        }
    }
}
