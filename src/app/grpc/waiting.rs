//! Answers that are waited for: given up when their caller gives up, and sent as fast as it takes them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::{self, Body as _, Frame};
use tonic::body::Body;

/// Sends what `answer` comes to, unless the caller gives up before.
pub(super) async fn send(
    answer: BoxFuture<'static, Response<Body>>,
    mut respond: SendResponse<Bytes>,
) {
    let answer = tokio::select! {
        answer = answer => answer,
        _ = poll_fn(|context| respond.poll_reset(context)) => return,
    };
    if let Err(error) = send_all(answer, respond).await {
        tracing::debug!(%error, "an answer was not sent");
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
            frame = body.frame() => frame,
            _ = poll_fn(|context| stream.poll_reset(context)) => return Ok(()),
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
