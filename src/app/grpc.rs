//! The server of the gRPC listener: calls over HTTP/2.
//!
//! The task of a connection reads calls, and answers at once what needs no waiting. A call that has to wait
//! goes on by a task of its own ([`waiting`]). HTTP/2 itself is the `h2` crate's: the layers that are usually
//! above it would cost each answer more than finding it. What breaks the protocol ends its connection, and a panic
//! one call.

mod waiting;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
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
        converse(connection, Arc::clone(&front), asked, stopping)
    })
    .await;
}

/// Answers the calls of one connection until it ends, or those that are begun when it is `stopping`.
async fn converse(
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
    form: Arc<OneMessage>,
}

/// What is the same in all answers that are one message.
struct OneMessage {
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
        let form = Arc::new(OneMessage::new());
        Self { calls, front, peer, asked, unread: VecDeque::new(), patience: None, form }
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
        // A panic, which the panic hook has told of, ends one call and not the connection.
        let answering = AssertUnwindSafe(|| self.front.answer(call.map(Received)));
        if let Ok(answering) = catch_unwind(answering) {
            self.answer(answering, respond);
        }
    }

    fn answer(&mut self, answering: Answering<Received>, respond: SendResponse<Bytes>) {
        match answering {
            Answering::Now(framed) => self.form.send(framed, respond),
            Answering::Unread(check) if self.unread.len() < MAX_UNREAD => {
                self.unread.push_back((check, respond));
            }
            Answering::Unread(check) => self.send_later(check.wait(), respond),
            Answering::Later(answer) => self.send_later(answer, respond),
            Answering::Other(answer) => drop(tokio::spawn(waiting::send(answer, respond))),
        }
    }

    fn send_later(&self, answer: BoxFuture<'static, Bytes>, respond: SendResponse<Bytes>) {
        tokio::spawn(waiting::send_message(answer, Arc::clone(&self.form), respond));
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
            for (check, respond) in std::mem::take(&mut self.unread) {
                self.send_later(check.wait(), respond);
            }
        }
    }
}

impl OneMessage {
    fn new() -> Self {
        let (mut head, trailers) = (Response::new(()), framing::trailers());
        *head.headers_mut() = framing::head();
        Self { head, trailers }
    }

    /// Sends an answer that is the message `framed`.
    fn send(&self, framed: Bytes, respond: SendResponse<Bytes>) {
        if let Err(error) = self.try_send(framed, respond) {
            tracing::debug!(%error, "an answer was not sent");
        }
    }

    fn try_send(&self, framed: Bytes, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let mut stream = respond.send_response(self.head.clone(), false)?;
        stream.send_data(framed, false)?;
        stream.send_trailers(self.trailers.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use arc_swap::ArcSwap;
    use envoy_types::ext_authz::v3::pb::{CheckResponse, HttpResponse};
    use futures_util::{StreamExt as _, stream};
    use h2::client::{ResponseFuture, SendRequest};
    use h2::{Ping, SendStream};
    use http_body_util::BodyExt as _;
    use prost::Message;
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;
    use tonic::service::Routes;

    use super::*;
    use crate::audit::{LogSettings, Recorder, Sink};
    use crate::clock::Clock;
    use crate::envoy::{CHECK, CheckService};
    use crate::fixture;
    use crate::metrics::Metrics;
    use crate::scope::{Scopes, Selectable};

    /// A client of a server that serves until it is stopped.
    struct Caller {
        calls: SendRequest<Bytes>,
        pings: h2::PingPong,
        stop: CancellationToken,
        server: JoinHandle<()>,
        metrics: Metrics,
    }

    fn front(metrics: &Metrics) -> Front {
        let scope = Arc::new(fixture::scope("orders"));
        let scopes = Scopes::new(vec![Selectable { scope, hosts: Vec::new(), default: true }]);
        let log = LogSettings::to(Sink::None);
        let (recorder, _) = Recorder::open(log, metrics.clone()).unwrap();
        let scopes = Arc::new(ArcSwap::from_pointee(scopes));
        let clock = Clock::Fixed(fixture::NOW);
        let check = CheckService::new(scopes, recorder, clock, 1 << 20, None, None);
        Front::new(check, Routes::default())
    }

    impl Caller {
        async fn connect() -> Self {
            let metrics = Metrics::new();
            let (client, server) = UnixStream::pair().unwrap();
            let incoming = stream::iter([Ok(Connection::unix(server))]).chain(stream::pending());
            let stop = CancellationToken::new();
            let stopped = stop.clone().cancelled_owned();
            let server = tokio::spawn(serve(front(&metrics), incoming, stopped));
            let (calls, mut connection) = h2::client::handshake(client).await.unwrap();
            let pings = connection.ping_pong().unwrap();
            tokio::spawn(connection);
            Self { calls, pings, stop, server, metrics }
        }

        /// Begins a call, whose message is to follow.
        async fn begin(&mut self, timeout: &str) -> (ResponseFuture, SendStream<Bytes>) {
            let call = Request::post(format!("http://placet{CHECK}"));
            let call = call.header("grpc-timeout", timeout).body(()).unwrap();
            self.calls.clone().ready().await.unwrap().send_request(call, false).unwrap()
        }

        /// Asks about `path`: the status, 200 where the answer is yes.
        async fn ask(&mut self, path: &str) -> i32 {
            let (answer, mut stream) = self.begin("9S").await;
            stream.send_data(message(path), true).unwrap();
            status(answer).await
        }

        /// Returns when the server has read all that was sent.
        async fn all_read(&mut self) {
            self.pings.ping(Ping::opaque()).await.unwrap();
        }

        /// How many answers were given again.
        fn reused(&self) -> u64 {
            let text = self.metrics.exposition();
            let of = r#"placet_cache_hits_total{cache="decisions"} "#;
            let line = text.lines().find_map(|line| line.strip_prefix(of));
            line.map_or(0, |count| count.parse().unwrap())
        }
    }

    fn message(path: &str) -> Bytes {
        framing::framed(&fixture::check_request(path))
    }

    async fn status(answer: ResponseFuture) -> i32 {
        let answer = Received(answer.await.unwrap().into_body()).collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
        let message = framing::message(answer.to_bytes()).unwrap();
        let answer = CheckResponse::decode(message).unwrap();
        match answer.http_response.unwrap() {
            HttpResponse::DeniedResponse(denied) => denied.status.unwrap().code,
            HttpResponse::OkResponse(_) => 200,
            HttpResponse::ErrorResponse(error) => panic!("{error:?}"),
        }
    }

    #[tokio::test]
    async fn what_was_asked_before_is_answered_however_the_message_comes() {
        let mut caller = Caller::connect().await;
        assert_eq!(caller.ask("/accounts/1").await, 200);
        assert_eq!(caller.ask("/accounts/1").await, 200);
        let whole = message("/accounts/1");
        for parts in [vec![whole.clone()], vec![whole.slice(..3), whole.slice(3..)]] {
            let (answer, mut stream) = caller.begin("9S").await;
            for part in parts {
                caller.all_read().await;
                stream.send_data(part, false).unwrap();
            }
            caller.all_read().await;
            stream.send_data(Bytes::new(), true).unwrap();
            assert_eq!(status(answer).await, 200);
        }
        assert_eq!(caller.reused(), 3);
    }

    #[tokio::test]
    async fn many_calls_wait_for_their_messages_at_once() {
        let mut caller = Caller::connect().await;
        assert_eq!(caller.ask("/accounts/1").await, 200);
        let mut begun = Vec::new();
        for _ in 0..2 * MAX_UNREAD {
            begun.push(caller.begin("9S").await);
        }
        caller.all_read().await;
        // The last ones first.
        for (answer, mut stream) in begun.into_iter().rev() {
            stream.send_data(message("/accounts/1"), true).unwrap();
            assert_eq!(status(answer).await, 200);
        }
        assert_eq!(caller.reused(), 2 * MAX_UNREAD as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_message_does_not_come_is_denied_in_time() {
        let mut caller = Caller::connect().await;
        let began = tokio::time::Instant::now();
        let (answer, _stream) = caller.begin("2S").await;
        assert_eq!(status(answer).await, 503);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(1_500) && took <= Duration::from_secs(2), "{took:?}");
    }

    #[tokio::test]
    async fn what_is_begun_is_answered_before_the_end() {
        let mut caller = Caller::connect().await;
        let (answer, mut stream) = caller.begin("9S").await;
        caller.all_read().await;
        caller.stop.cancel();
        caller.all_read().await;
        assert!(!caller.server.is_finished());
        stream.send_data(message("/accounts/1"), true).unwrap();
        assert_eq!(status(answer).await, 200);
        caller.server.await.unwrap();
    }

    #[tokio::test]
    async fn an_end_does_not_wait_for_who_says_nothing() {
        let caller = Caller::connect().await;
        caller.stop.cancel();
        caller.server.await.unwrap();
    }

    #[tokio::test]
    async fn an_end_does_not_wait_for_who_has_not_said_what_it_speaks() {
        let (_silent, server) = UnixStream::pair().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let then_stop = stream::once(async move {
            stop.cancel();
            pending().await
        });
        let incoming = stream::iter([Ok(Connection::unix(server))]).chain(then_stop);
        serve(front(&Metrics::new()), incoming, stopped).await;
    }
}
