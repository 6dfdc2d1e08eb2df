//! gRPC framing of one request and one response message
//! ([PROTOCOL-HTTP2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).
//!
//! Ready-made codecs answer a message they can't read with a gRPC error, which Envoy may be
//! configured to treat as an allow. Here it is a [`FrameError`], for the caller to deny.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use hyper::body;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;

/// A larger message is refused. Its rest is read and dropped, so that the answer still arrives.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

const PREFIX_BYTES: usize = 5;

/// So many messages may be waited for at once. It is well below what can be in progress, so that calls whose
/// messages never come take no room from those that are there.
const MAX_AWAITED: usize = 1_024;

/// What messages of more than one piece may take at once, in KiB.
const MAX_ROOM: usize = 64 * 1024;

/// The room there is for messages that do not come in one piece.
#[derive(Debug)]
pub(crate) struct Room {
    awaited: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

impl Room {
    /// All of it.
    pub(crate) fn new() -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        Self { awaited: places(MAX_AWAITED), kib: places(MAX_ROOM) }
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Why a request body holds no message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(
        "the gRPC message is larger than {MAX_MESSAGE_BYTES} bytes: lower max_request_bytes in Envoy's with_request_body"
    )]
    TooLarge,
    #[error("the gRPC message is compressed, which this service does not accept")]
    Compressed,
    #[error("the body is not exactly one gRPC message")]
    NotOneMessage,
    #[error("the body could not be read")]
    Broken,
    #[error("too many messages that are not there yet, or not in one piece")]
    NoRoom,
}

/// The one message of a unary call, as far as it is read. Most are there at once, in one piece, which is not
/// copied; others take of the room, for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    read: Bytes,
    is_too_large: bool,
    awaited: Option<OwnedSemaphorePermit>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Reading {
    /// Reads what of the message is there.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        body: &mut (impl body::Body<Data = Bytes> + Unpin),
        room: &Room,
    ) -> Poll<Result<Bytes, FrameError>> {
        while let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(context) {
            let Some(frame) = frame else { return Poll::Ready(self.end()) };
            let Ok(frame) = frame else { return Poll::Ready(Err(FrameError::Broken)) };
            if let Ok(data) = frame.into_data() {
                self.add(data, room)?;
            }
        }
        if self.awaited.is_none() {
            let place = Arc::clone(&room.awaited).try_acquire_owned();
            self.awaited = Some(place.map_err(|_| FrameError::NoRoom)?);
        }
        Poll::Pending
    }

    fn add(&mut self, data: Bytes, room: &Room) -> Result<(), FrameError> {
        let length = self.read.len() + data.len();
        self.is_too_large = self.is_too_large || length > PREFIX_BYTES + MAX_MESSAGE_BYTES;
        if self.is_too_large {
            self.read.clear();
            self.taken = None;
        } else if self.read.is_empty() {
            self.read = data;
        } else {
            self.take(length, room)?;
            let read = std::mem::take(&mut self.read);
            let mut longer = read.try_into_mut().unwrap_or_else(|read| BytesMut::from(&read[..]));
            longer.extend_from_slice(&data);
            self.read = longer.freeze();
        }
        Ok(())
    }

    /// Takes as much of `room` as `bytes` in all need.
    fn take(&mut self, bytes: usize, room: &Room) -> Result<(), FrameError> {
        let taken = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(1024).saturating_sub(taken);
        let missing = u32::try_from(missing).map_err(|_| FrameError::TooLarge)?;
        let more = Arc::clone(&room.kib).try_acquire_many_owned(missing);
        let more = more.map_err(|_| FrameError::NoRoom)?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Bytes, FrameError> {
        self.awaited = None;
        let read = std::mem::take(&mut self.read);
        if self.is_too_large { Err(FrameError::TooLarge) } else { message(read) }
    }
}

/// The one message that `framed` holds.
pub(crate) fn message(mut framed: Bytes) -> Result<Bytes, FrameError> {
    if framed.len() < PREFIX_BYTES {
        return Err(FrameError::NotOneMessage);
    }
    let compressed = framed.get_u8();
    let length = framed.get_u32();
    match (compressed, usize::try_from(length)) {
        (0, Ok(length)) if length == framed.len() => Ok(framed),
        (0, _) => Err(FrameError::NotOneMessage),
        _ => Err(FrameError::Compressed),
    }
}

/// `message` as the one of a call, or of an answer.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = Vec::with_capacity(PREFIX_BYTES + length);
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.encode_raw(&mut framed);
    framed.into()
}

/// The headers before an answer.
pub(crate) fn head() -> HeaderMap {
    [(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))].into_iter().collect()
}

/// The trailers of a call that succeeded.
pub(crate) fn trailers() -> HeaderMap {
    [(GRPC_STATUS, HeaderValue::from_static("0"))].into_iter().collect()
}

/// The answer to a method that does not exist.
pub(crate) fn unimplemented() -> http::Response<Body> {
    status("12")
}

/// The answer where there is no room for a call (RESOURCE_EXHAUSTED).
pub(crate) fn exhausted() -> http::Response<Body> {
    status("8")
}

/// The answer to a call that took too long (DEADLINE_EXCEEDED).
pub(crate) fn too_late() -> http::Response<Body> {
    status("4")
}

fn status(code: &'static str) -> http::Response<Body> {
    let mut response = with_head(Body::empty());
    response.headers_mut().insert(GRPC_STATUS, HeaderValue::from_static(code));
    response
}

fn with_head(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    *response.headers_mut() = head();
    response
}

/// The caller's `grpc-timeout`.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount.checked_mul(3600)?),
        "M" => Duration::from_secs(amount.checked_mul(60)?),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io;

    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn framed(flag: u8, length: u32, message: &[u8]) -> Body {
        let mut bytes = vec![flag];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(message);
        Body::new(Full::new(Bytes::from(bytes)))
    }

    /// The message, and what holds its room.
    async fn reading(mut body: Body, room: &Room) -> Result<(Bytes, Reading), FrameError> {
        let mut reading = Reading::default();
        let message = poll_fn(|context| reading.poll(context, &mut body, room)).await?;
        Ok((message, reading))
    }

    #[tokio::test]
    async fn reads_exactly_one_message() {
        let room = Room::new();
        let read = async |body| reading(body, &room).await.map(|(message, _)| message);
        assert_eq!(read(framed(0, 3, b"abc")).await.unwrap(), "abc");
        assert_eq!(read(framed(0, 0, b"")).await.unwrap(), "");
        for (body, error) in [
            (framed(0, 4, b"abc"), "exactly one"),
            (framed(0, 2, b"abc"), "exactly one"),
            (framed(0, u32::MAX, b"abc"), "exactly one"),
            (framed(1, 3, b"abc"), "compressed"),
            (Body::empty(), "exactly one"),
            (framed(0, 0, &vec![0; MAX_MESSAGE_BYTES + 1]), "larger"),
        ] {
            let refusal = read(body).await.unwrap_err().to_string();
            assert!(refusal.contains(error), "{refusal}");
        }
    }

    /// A body of `parts`, after which it ends or never goes on.
    fn in_parts(parts: Vec<Bytes>, is_ended: bool) -> Body {
        let parts = parts.into_iter().map(|part| Ok::<_, io::Error>(http_body::Frame::data(part)));
        let parts = stream::iter(parts);
        if is_ended {
            Body::new(StreamBody::new(parts))
        } else {
            Body::new(StreamBody::new(parts.chain(stream::pending())))
        }
    }

    #[tokio::test]
    async fn messages_that_do_not_come_take_only_so_much_room() {
        let room = Room::new();
        let silent = || Box::pin(reading(in_parts(Vec::new(), false), &room));
        let mut waiting: Vec<_> = (0..MAX_AWAITED).map(|_| silent()).collect();
        assert!(waiting.iter_mut().all(|reading| reading.as_mut().now_or_never().is_none()));
        assert!(matches!(silent().await, Err(FrameError::NoRoom)));
        assert_eq!(reading(framed(0, 3, b"abc"), &room).await.unwrap().0, "abc");
        waiting.pop();
        assert!(silent().now_or_never().is_none());
    }

    #[tokio::test]
    async fn messages_in_pieces_take_only_so_many_bytes() {
        const MIB: usize = 1024 * 1024;
        let room = Room::new();
        let pieces = || vec![Bytes::from(vec![0; MIB / 2]), Bytes::from(vec![0; MIB / 2])];
        let slow = || Box::pin(reading(in_parts(pieces(), false), &room));
        let mut waiting: Vec<_> = (0..MAX_ROOM / 1024).map(|_| slow()).collect();
        assert!(waiting.iter_mut().all(|reading| reading.as_mut().now_or_never().is_none()));
        assert!(matches!(slow().await, Err(FrameError::NoRoom)));
        assert_eq!(reading(framed(0, 3, b"abc"), &room).await.unwrap().0, "abc");
        waiting.clear();
        assert_eq!(room.kib.available_permits(), MAX_ROOM);
        let message = vec![7; MIB];
        let prefix = [&[0], u32::try_from(MIB).unwrap().to_be_bytes().as_slice()].concat();
        let parts = vec![Bytes::from(prefix), Bytes::from(message.clone())];
        let (read, taken) = reading(in_parts(parts, true), &room).await.unwrap();
        assert!(read == message && room.kib.available_permits() < MAX_ROOM);
        drop(taken);
        assert_eq!(room.kib.available_permits(), MAX_ROOM);
    }

    #[test]
    fn reads_the_deadline() {
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            timeout(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value)]))
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("1S"), Some(Duration::from_secs(1)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for text in ["", "m", "1", "1x", "-1S", "123456789S"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
