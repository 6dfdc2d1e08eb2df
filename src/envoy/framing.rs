//! gRPC framing of one request and one response message
//! ([PROTOCOL-HTTP2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).
//!
//! Ready-made codecs answer a message they can't read with a gRPC error, which Envoy may be
//! configured to treat as an allow. Here it is a [`FrameError`], for the caller to deny.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body_util::{BodyExt, Full};
use hyper::body;
use prost::Message;
use tonic::body::Body;

/// A larger message is refused. Its rest is read and dropped, so that the answer still arrives.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

const PREFIX_BYTES: usize = 5;

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
}

/// Reads the one message of a unary call.
pub(crate) async fn read_message(
    mut body: impl body::Body<Data = Bytes> + Unpin,
) -> Result<Bytes, FrameError> {
    // Most messages come in one piece, which is not copied.
    let mut read = Bytes::new();
    let mut is_too_large = false;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| FrameError::Broken)?.into_data() else { continue };
        is_too_large = is_too_large || read.len() + data.len() > PREFIX_BYTES + MAX_MESSAGE_BYTES;
        if is_too_large {
            read.clear();
        } else if read.is_empty() {
            read = data;
        } else {
            let mut longer = read.try_into_mut().unwrap_or_else(|read| BytesMut::from(&read[..]));
            longer.extend_from_slice(&data);
            read = longer.freeze();
        }
    }
    if is_too_large { Err(FrameError::TooLarge) } else { message(read) }
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

/// A successful call with the message `framed` as its answer.
pub(crate) fn response(framed: Bytes) -> http::Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    let body = Full::new(framed).with_trailers(std::future::ready(Some(Ok(trailers))));
    with_grpc_type(http::Response::new(Body::new(body)))
}

/// The answer to a method that does not exist.
pub(crate) fn unimplemented() -> http::Response<Body> {
    let mut response = http::Response::new(Body::empty());
    response.headers_mut().insert(GRPC_STATUS, HeaderValue::from_static("12"));
    with_grpc_type(response)
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

fn with_grpc_type(mut response: http::Response<Body>) -> http::Response<Body> {
    let value = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(flag: u8, length: u32, message: &[u8]) -> Body {
        let mut bytes = vec![flag];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(message);
        Body::new(Full::new(Bytes::from(bytes)))
    }

    #[tokio::test]
    async fn reads_exactly_one_message() {
        assert_eq!(read_message(framed(0, 3, b"abc")).await.unwrap(), "abc");
        assert_eq!(read_message(framed(0, 0, b"")).await.unwrap(), "");
        for (body, error) in [
            (framed(0, 4, b"abc"), "exactly one"),
            (framed(0, 2, b"abc"), "exactly one"),
            (framed(0, u32::MAX, b"abc"), "exactly one"),
            (framed(1, 3, b"abc"), "compressed"),
            (Body::empty(), "exactly one"),
            (framed(0, 0, &vec![0; MAX_MESSAGE_BYTES + 1]), "larger"),
        ] {
            let refusal = read_message(body).await.unwrap_err().to_string();
            assert!(refusal.contains(error), "{refusal}");
        }
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
