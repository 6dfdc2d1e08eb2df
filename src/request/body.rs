//! A request's body: how much of it there is, and what it says where its content type tells how.
//!
//! Only a whole body is read: a part of one is never taken for the whole. What the content type
//! promises and the body does not keep is a [`BodyFault`]; so is a body that the application may read
//! differently than we do, such as JSON that names a member twice.

mod form;
mod grpc;
mod multipart;
mod parameters;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

pub use self::grpc::{Descriptors, DescriptorsError, GrpcFault};
pub use self::multipart::MultipartFault;
use self::parameters::Parameters;
use super::Request;
use crate::json::{self, JsonFault};
use crate::path::CanonicalPath;

/// A request's body, as far as the proxy sent it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Body {
    /// Not a byte of it: the request has none, or the proxy is not told to send it.
    #[default]
    Unsent,
    /// All of it.
    Whole(Bytes),
    /// Its beginning.
    Partial(Bytes),
}

impl Body {
    /// `unsent`, `whole` or `partial`.
    pub const fn state(&self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::Whole(_) => "whole",
            Self::Partial(_) => "partial",
        }
    }
}

/// What a whole body says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// There is none, there is not all of it, or its type is none that we read.
    Opaque,
    /// `application/json` or `…+json`, and the protobuf JSON of a gRPC message.
    Json(Value),
    /// `application/x-www-form-urlencoded` or `multipart/form-data`.
    Form(Fields),
}

/// The fields of a form: each name with its values, in order. A value is text, what a part in JSON
/// says, or null for a file that is no text.
pub type Fields = BTreeMap<String, Vec<Value>>;

/// Why a body is not what its content type says.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyFault {
    /// There is more than one content type, so that it can be read in more than one way.
    #[error("there is more than one content-type")]
    ContentTypes,
    /// The content type has parameters that can't be read.
    #[error("the parameters of its content-type can't be read")]
    Parameters,
    /// JSON, or a part of a form, in another character set than UTF-8 (RFC 8259 section 8.1).
    #[error("its character set is not utf-8")]
    Charset,
    /// No JSON, or ambiguous JSON.
    #[error("it {0}")]
    Json(JsonFault),
    /// A form whose names or values are not UTF-8.
    #[error("a name or value of the form is not utf-8")]
    Form,
    /// A form in parts that are none, or ambiguous.
    #[error(transparent)]
    Multipart(#[from] MultipartFault),
    /// Not the message that a gRPC method takes.
    #[error(transparent)]
    Grpc(#[from] GrpcFault),
}

impl Request {
    /// Reads the body as its content type says. `path` is the request's own, which names the method
    /// of a gRPC call; `descriptors` say what the method takes.
    pub fn content(
        &self,
        path: &CanonicalPath,
        descriptors: Option<&Descriptors>,
    ) -> Result<Content, BodyFault> {
        let Body::Whole(bytes) = &self.body else { return Ok(Content::Opaque) };
        let mut types = self.headers.all("content-type");
        let Some(kind) = types.next() else { return Ok(Content::Opaque) };
        if types.next().is_some() || kind.contains(&b',') {
            return Err(BodyFault::ContentTypes);
        }
        let kind = String::from_utf8_lossy(kind);
        let (media_type, parameters) = kind.split_once(';').unwrap_or((&kind, ""));
        let parameters = || Parameters::parse(parameters).ok_or(BodyFault::Parameters);
        match media_type.trim().to_ascii_lowercase().as_str() {
            "application/x-www-form-urlencoded" => form::read(bytes).map(Content::Form),
            "multipart/form-data" => multipart::read(bytes, &parameters()?).map(Content::Form),
            "application/grpc" | "application/grpc+proto" => {
                // Of a message that came as text, some bytes may be lost.
                let descriptors = descriptors.filter(|_| !self.is_text_body);
                let message = descriptors.map(|known| known.read(path.as_str(), bytes));
                Ok(message.transpose()?.flatten().map_or(Content::Opaque, Content::Json))
            }
            name if name.starts_with("application/grpc+") => Ok(Content::Opaque),
            name if is_json(name) => {
                if !parameters()?.is_utf8() {
                    return Err(BodyFault::Charset);
                }
                json::value(bytes).map(Content::Json).map_err(BodyFault::Json)
            }
            _ => Ok(Content::Opaque),
        }
    }
}

/// Whether a media type in lower case is JSON.
fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || media_type.ends_with("+json")
}

#[cfg(test)]
mod tests;
