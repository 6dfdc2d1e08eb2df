//! The message of a unary gRPC call, as its protobuf JSON.
//!
//! What a method takes is told by a `FileDescriptorSet` of the operator's, which is read with the
//! settings. The body is one whole frame
//! ([PROTOCOL-HTTP2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)) of exactly such
//! a message, or a [`GrpcFault`]; fields that the descriptors don't name are not shown. A method that
//! they don't name, one whose client sends a stream, and a compressed message are not read.

use std::collections::HashMap;

use prost_reflect::{
    DescriptorError, DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage,
    SerializeOptions, Value as Field,
};
use serde_json::Value;

use super::BodyFault;
use crate::json;

/// How deep messages nest at most, those that are packed in an `Any` counted.
const DEPTH: usize = 32;

/// What the methods of gRPC services take.
#[derive(Debug)]
pub struct Descriptors {
    /// By `/package.Service/Method`.
    inputs: HashMap<String, MessageDescriptor>,
    bytes: Vec<u8>,
}

/// Why a file does not tell what methods take.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorsError {
    /// It is no `FileDescriptorSet`, or lacks what it refers to.
    #[error(
        "is not a whole FileDescriptorSet: write it with `protoc --include_imports --descriptor_set_out`: {0}"
    )]
    Set(#[from] DescriptorError),
    /// Nothing could ever be read with it.
    #[error("has no service with a method that takes one message")]
    NoMethod,
}

/// Why the body of a call is not what its method takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GrpcFault {
    /// More or less than one frame.
    #[error("it is not exactly one grpc message")]
    Frame,
    /// Not a message of that type.
    #[error("it is not the message that the method takes")]
    Message,
    /// Messages nest too deep.
    #[error("its messages nest deeper than {DEPTH} levels")]
    TooDeep,
}

impl Descriptors {
    /// Reads a serialised `FileDescriptorSet`.
    ///
    /// # Errors
    /// When it is none, is not whole, or names no method.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, DescriptorsError> {
        let pool = DescriptorPool::decode(bytes.as_slice())?;
        let mut inputs = HashMap::new();
        for service in pool.services() {
            for method in service.methods().filter(|method| !method.is_client_streaming()) {
                let path = format!("/{}/{}", service.full_name(), method.name());
                inputs.insert(path, method.input());
            }
        }
        if inputs.is_empty() {
            return Err(DescriptorsError::NoMethod);
        }
        Ok(Self { inputs, bytes })
    }

    /// What it was read from, for the revision of policies that see by it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads `body`, of a call of the method at `path`; `None` when it is not one that we read.
    pub(super) fn read(&self, path: &str, body: &[u8]) -> Result<Option<Value>, BodyFault> {
        let Some(input) = self.inputs.get(path) else { return Ok(None) };
        let Some(message) = unframed(body)? else { return Ok(None) };
        let message =
            DynamicMessage::decode(input.clone(), message).map_err(|_| GrpcFault::Message)?;
        if !is_shallow(&message, DEPTH)? {
            return Err(GrpcFault::TooDeep.into());
        }
        let mut text = serde_json::Serializer::new(Vec::new());
        message
            .serialize_with_options(&mut text, &SerializeOptions::new())
            .map_err(|_| GrpcFault::Message)?;
        json::value(&text.into_inner()).map(Some).map_err(BodyFault::Json)
    }
}

/// The one message of a body; `None` when it is compressed.
fn unframed(body: &[u8]) -> Result<Option<&[u8]>, GrpcFault> {
    let Some((head, message)) = body.split_first_chunk::<5>() else { return Err(GrpcFault::Frame) };
    let [is_compressed, length @ ..] = *head;
    if usize::try_from(u32::from_be_bytes(length)) != Ok(message.len()) {
        return Err(GrpcFault::Frame);
    }
    match is_compressed {
        0 => Ok(Some(message)),
        1 => Ok(None),
        _ => Err(GrpcFault::Frame),
    }
}

/// Whether messages nest at most `left` levels. Each `Any` is a message of its own to whoever writes
/// JSON, who would follow them down as far as there are bytes.
fn is_shallow(message: &DynamicMessage, left: usize) -> Result<bool, GrpcFault> {
    let Some(left) = left.checked_sub(1) else { return Ok(false) };
    if message.descriptor().full_name() == "google.protobuf.Any" {
        return is_shallow(&unpacked(message).ok_or(GrpcFault::Message)?, left);
    }
    let of_extensions = message.extensions().map(|(_, value)| value);
    let mut values: Vec<&Field> =
        message.fields().map(|(_, value)| value).chain(of_extensions).collect();
    while let Some(value) = values.pop() {
        match value {
            Field::Message(inner) if !is_shallow(inner, left)? => return Ok(false),
            Field::List(items) => values.extend(items),
            Field::Map(entries) => values.extend(entries.values()),
            _ => {}
        }
    }
    Ok(true)
}

/// The message in an `Any`, when the descriptors name its type.
fn unpacked(any: &DynamicMessage) -> Option<DynamicMessage> {
    let url = any.get_field_by_number(1)?;
    let (_, name) = url.as_str()?.rsplit_once('/')?;
    let packed = any.descriptor().parent_pool().get_message_by_name(name)?;
    let bytes = any.get_field_by_number(2)?;
    DynamicMessage::decode(packed, bytes.as_bytes()?.clone()).ok()
}

#[cfg(test)]
mod tests;
