//! Calls by tasks of their own: what they send is read, and their answers are given up when they give up. An answer
//! that is one message is handed to the connection whole; any other is sent as fast as its caller takes it. One that
//! breaks off resets its call, so that no part of it passes for the whole.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::{self, Body as _, Frame};
use tonic::body::Body;

use super::OneMessage;

/// Sends what `answer` comes to, unless the caller gives up before.
pub(super) async fn send(
    answer: BoxFuture<'static, Response<Body>>,
    mut respond: SendResponse<Bytes>,
) {
    let Some(answer) = wanted(answer, &mut respond).await else { return };
    if let Err(error) = send_all(answer, respond).await {
        tracing::debug!(%error, "an answer was not sent");
    }
}

/// Sends the message that `answer` comes to as `form` has it, unless the caller gives up before.
pub(super) async fn send_message(
    answer: BoxFuture<'static, Bytes>,
    form: Arc<OneMessage>,
    mut respond: SendResponse<Bytes>,
) {
    if let Some(framed) = wanted(answer, &mut respond).await {
        form.send(framed, respond);
    }
}

/// What `answer` comes to, unless the caller gives up before.
async fn wanted<T>(answer: BoxFuture<'static, T>, respond: &mut SendResponse<Bytes>) -> Option<T> {
    tokio::select! {
        biased;
        _ = poll_fn(|context| respond.poll_reset(context)) => None,
        answer = answer => Some(answer),
    }
}

async fn send_all(
    answer: Response<Body>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = answer.into_parts();
    let is_all = body.is_end_stream();
    let mut stream = respond.send_response(Response::from_parts(head, ()), is_all)?;
    if is_all {
        return Ok(());
    }
    loop {
        let frame = tokio::select! {
            biased;
            _ = poll_fn(|context| stream.poll_reset(context)) => return Ok(()),
            frame = body.frame() => frame,
        };
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => send_data(&mut stream, data).await?,
            Some(Ok(Err(trailers))) => {
                return stream.send_trailers(trailers.into_trailers().unwrap_or_default());
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "an answer broke off");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            None => return stream.send_data(Bytes::new(), true),
        }
    }
}

/// Sends `data` as there is room for it.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            match poll_fn(|context| stream.poll_capacity(context)).await {
                Some(capacity) => drop(capacity?),
                None => return Err(Reason::CANCEL.into()),
            }
        }
        let room = stream.capacity().min(data.len());
        stream.send_data(data.split_to(room), false)?;
    }
    Ok(())
}

/// What a caller sends.
pub(super) struct Received(pub(super) RecvStream);

impl body::Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.0.poll_data(context)) {
            Some(Ok(data)) => {
                // What is read makes room for more.
                self.0.flow_control().release_capacity(data.len())?;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let trailers = ready!(self.0.poll_trailers(context))?;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;
    use std::io;

    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use h2::client::{ResponseFuture, SendRequest};
    use http::{HeaderMap, HeaderValue, Request};
    use http_body_util::{Full, StreamBody};
    use tokio::io::{DuplexStream, duplex};
    use tokio::sync::oneshot;

    use super::*;

    /// A connection on which the one call is answered by `answer`, to a client that takes little at once.
    async fn answering(answer: BoxFuture<'static, Response<Body>>) -> SendRequest<Bytes> {
        let (ours, theirs) = duplex(1 << 16);
        tokio::spawn(async move {
            let mut calls = h2::server::handshake(theirs).await.unwrap();
            let (_, respond) = calls.accept().await.unwrap().unwrap();
            tokio::spawn(send(answer, respond));
            while calls.accept().await.is_some() {}
        });
        taking_little(ours).await
    }

    /// A client that takes 100 bytes at once.
    async fn taking_little(stream: DuplexStream) -> SendRequest<Bytes> {
        let mut client = h2::client::Builder::new();
        let (calls, connection) = client.initial_window_size(100).handshake(stream).await.unwrap();
        tokio::spawn(connection);
        calls
    }

    fn call(calls: &mut SendRequest<Bytes>) -> (ResponseFuture, SendStream<Bytes>) {
        let call = Request::get("http://placet/call").body(()).unwrap();
        calls.send_request(call, false).unwrap()
    }

    fn at_once(body: Body) -> BoxFuture<'static, Response<Body>> {
        async { Response::new(body) }.boxed()
    }

    /// Pieces that do not end, and what is told when nobody waits for them any more.
    fn endless() -> (Body, oneshot::Receiver<Infallible>) {
        let (held, is_dropped) = oneshot::channel();
        let pieces = stream::once(async { Ok(Frame::data(Bytes::from_static(b"one"))) });
        let pieces = pieces.chain(stream::pending::<Result<_, Infallible>>());
        let pieces = pieces.inspect(move |_| assert!(!held.is_closed()));
        (Body::new(StreamBody::new(pieces)), is_dropped)
    }

    #[tokio::test]
    async fn nothing_is_made_for_a_caller_that_gives_up() {
        let (held, is_dropped) = oneshot::channel::<Infallible>();
        let answer = async move {
            let _held = held;
            pending().await
        };
        let mut calls = answering(answer.boxed()).await;
        let (_response, mut stream) = call(&mut calls);
        stream.send_reset(Reason::CANCEL);
        is_dropped.await.unwrap_err();
    }

    #[tokio::test]
    async fn nothing_more_is_sent_to_a_caller_that_gives_up_later() {
        let (body, is_dropped) = endless();
        let mut calls = answering(at_once(body)).await;
        let (response, mut stream) = call(&mut calls);
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "one");
        stream.send_reset(Reason::CANCEL);
        is_dropped.await.unwrap_err();
    }

    #[tokio::test]
    async fn nothing_more_is_made_when_the_connection_is_gone() {
        let (body, is_dropped) = endless();
        let mut calls = answering(at_once(body)).await;
        let (response, stream) = call(&mut calls);
        let body = response.await.unwrap().into_body();
        drop((calls, stream, body));
        is_dropped.await.unwrap_err();
    }

    #[tokio::test]
    async fn an_answer_is_sent_as_there_is_room_for_it() {
        let message: Vec<u8> = (0..10_000).map(|place: u32| place.to_le_bytes()[0]).collect();
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from(0))]);
        let answer = Full::new(Bytes::from(message.clone()));
        let answer = answer.with_trailers(std::future::ready(Some(Ok(trailers.clone()))));
        let mut calls = answering(at_once(Body::new(answer))).await;
        let (response, _stream) = call(&mut calls);
        let answer = Received(response.await.unwrap().into_body()).collect().await.unwrap();
        assert_eq!(answer.trailers(), Some(&trailers));
        assert_eq!(answer.to_bytes(), message);
    }

    #[tokio::test]
    async fn a_message_is_whole_however_little_its_caller_takes_at_once() {
        let message: Vec<u8> = (0..10_000).map(|place: u32| place.to_le_bytes()[0]).collect();
        let framed = Bytes::from(message.clone());
        let (ours, theirs) = duplex(1 << 16);
        tokio::spawn(async move {
            let mut calls = h2::server::handshake(theirs).await.unwrap();
            let (_, respond) = calls.accept().await.unwrap().unwrap();
            let answer = async { framed }.boxed();
            tokio::spawn(send_message(answer, Arc::new(OneMessage::new()), respond));
            while calls.accept().await.is_some() {}
        });
        let mut calls = taking_little(ours).await;
        let (response, _stream) = call(&mut calls);
        let answer = Received(response.await.unwrap().into_body()).collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(answer.to_bytes(), message);
    }

    #[tokio::test]
    async fn an_answer_may_be_all_head_or_have_no_trailers() {
        let mut calls = answering(at_once(Body::empty())).await;
        let (response, _stream) = call(&mut calls);
        assert!(response.await.unwrap().into_body().is_end_stream());
        let mut calls = answering(at_once(Body::new(Full::new(Bytes::from_static(b"all"))))).await;
        let (response, _stream) = call(&mut calls);
        let answer = Received(response.await.unwrap().into_body()).collect().await.unwrap();
        assert_eq!(answer.trailers(), None);
        assert_eq!(answer.to_bytes(), "all");
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_none() {
        let pieces = stream::iter([
            Ok(Frame::data(Bytes::from_static(b"half"))),
            Err(io::Error::other("no more")),
        ]);
        let mut calls = answering(at_once(Body::new(StreamBody::new(pieces)))).await;
        let (response, _stream) = call(&mut calls);
        // What was not sent yet is not sent any more.
        let error = match response.await {
            Err(error) => error,
            Ok(response) => Received(response.into_body()).collect().await.unwrap_err(),
        };
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    }

    #[tokio::test]
    async fn what_is_read_makes_room_for_more() {
        let (ours, theirs) = duplex(1 << 16);
        let reading = tokio::spawn(async move {
            let mut server = h2::server::Builder::new();
            let server = server.initial_window_size(100).handshake::<_, Bytes>(theirs);
            let mut calls = server.await.unwrap();
            let (call, _respond) = calls.accept().await.unwrap().unwrap();
            let read = tokio::spawn(Received(call.into_body()).collect());
            tokio::select! {
                _ = calls.accept() => None,
                read = read => Some(read.unwrap().unwrap()),
            }
        });
        let (mut calls, connection) = h2::client::handshake(ours).await.unwrap();
        tokio::spawn(connection);
        let (_response, mut stream) = call(&mut calls);
        send_data(&mut stream, Bytes::from(vec![7; 5_000])).await.unwrap();
        let trailers = HeaderMap::from_iter([("last".parse().unwrap(), HeaderValue::from(1))]);
        stream.send_trailers(trailers.clone()).unwrap();
        let read = reading.await.unwrap().unwrap();
        assert_eq!(read.trailers(), Some(&trailers));
        assert_eq!(read.to_bytes(), vec![7; 5_000]);
    }
}
