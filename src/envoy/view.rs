//! A `CheckRequest` as it lies in its message, nothing copied.
//!
//! [`View::of`] reads the one shape that Envoy writes, each field at most once, and knows only the fields
//! it reads: at anything else it gives up, and the message goes to the general decoder
//! ([`View::over`]). So what it reads, the general decoder would have read the same.

mod wire;

use std::borrow::Cow;

use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Metadata, address};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, attribute_context};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use self::wire::{Field, Fields};
use super::decode::REQUEST_ID;
use crate::audit::Circumstances;
use crate::request::Asked;

/// A request, as far as we read it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View<'a> {
    pub(super) id: &'a str,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) host: &'a str,
    pub(super) scheme: &'a str,
    pub(super) protocol: &'a str,
    pub(super) size: i64,
    pub(super) body: &'a [u8],
    /// Whether the body came in the field of text.
    pub(super) is_text_body: bool,
    /// Without pseudo headers, names in lower case. Those of the map, which may be in any order, come last.
    pub(super) headers: Vec<(&'a [u8], &'a [u8])>,
    /// Seconds and nanoseconds.
    pub(super) time: Option<(i64, i32)>,
    pub(super) source: Peer<'a>,
    pub(super) destination: Peer<'a>,
    pub(super) server_name: &'a str,
    pub(super) extensions: Vec<(&'a str, &'a str)>,
    pub(super) metadata: Option<Cow<'a, Metadata>>,
    pub(super) route_metadata: Option<Cow<'a, Metadata>>,
}

/// One end of the connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Peer<'a> {
    /// The address of a socket; none of a pipe.
    pub(super) address: Option<&'a str>,
    pub(super) port: Option<u32>,
    pub(super) principal: &'a str,
    pub(super) certificate: &'a str,
}

impl<'a> View<'a> {
    /// Reads what Envoy writes; `None` of any other message, valid or not, and of one without
    /// `attributes.request.http`.
    pub(super) fn of(message: &'a [u8]) -> Option<Self> {
        let mut view = Self { headers: Vec::with_capacity(32), ..Self::default() };
        let mut attributes = None;
        let mut fields = Fields(message);
        while !fields.is_empty() {
            match fields.next()? {
                (1, Field::Bytes(bytes)) => once(&mut attributes, bytes)?,
                _ => return None,
            }
        }
        view.read_attributes(attributes?)?;
        Some(view)
    }

    fn read_attributes(&mut self, message: &'a [u8]) -> Option<()> {
        let (mut source, mut destination, mut request, mut tls) = (None, None, None, None);
        let mut fields = Fields(message);
        while !fields.is_empty() {
            match fields.next()? {
                (1, Field::Bytes(bytes)) => once(&mut source, bytes)?,
                (2, Field::Bytes(bytes)) => once(&mut destination, bytes)?,
                (4, Field::Bytes(bytes)) => once(&mut request, bytes)?,
                (10, Field::Bytes(entry)) => {
                    let (key, value) = map_entry(entry)?;
                    self.extensions.push((text(key)?, text(value)?));
                }
                (11, Field::Bytes(bytes)) => {
                    let of = |attributes: AttributeContext| attributes.metadata_context;
                    once(&mut self.metadata, metadata(11, bytes, of)?)?;
                }
                (12, Field::Bytes(bytes)) => once(&mut tls, bytes)?,
                (13, Field::Bytes(bytes)) => {
                    let of = |attributes: AttributeContext| attributes.route_metadata_context;
                    once(&mut self.route_metadata, metadata(13, bytes, of)?)?;
                }
                _ => return None,
            }
        }
        self.source = source.map_or(Some(Peer::default()), peer)?;
        self.destination = destination.map_or(Some(Peer::default()), peer)?;
        self.server_name = tls.map_or(Some(""), server_name)?;
        self.read_request(request?)
    }

    fn read_request(&mut self, message: &'a [u8]) -> Option<()> {
        let (mut time, mut http) = (None, None);
        let mut fields = Fields(message);
        while !fields.is_empty() {
            match fields.next()? {
                (1, Field::Bytes(bytes)) => once(&mut time, timestamp(bytes)?)?,
                (2, Field::Bytes(bytes)) => once(&mut http, bytes)?,
                _ => return None,
            }
        }
        self.time = time;
        self.read_http(http?)
    }

    fn read_http(&mut self, message: &'a [u8]) -> Option<()> {
        let (mut raw_body, mut raw_headers) = (&[][..], None);
        let mut names = Names::default();
        let mut fields = Fields(message);
        while !fields.is_empty() {
            match fields.next()? {
                (1, Field::Bytes(bytes)) => self.id = text(bytes)?,
                (2, Field::Bytes(bytes)) => self.method = text(bytes)?,
                (3, Field::Bytes(entry)) => {
                    let (name, value) = map_entry(entry)?;
                    names.add(name, &self.headers)?;
                    if !name.starts_with(b":") {
                        self.headers.push((name, value));
                    }
                }
                (4, Field::Bytes(bytes)) => self.path = text(bytes)?,
                (5, Field::Bytes(bytes)) => self.host = text(bytes)?,
                (6, Field::Bytes(bytes)) => self.scheme = text(bytes)?,
                (9, Field::Number(number)) => self.size = number.cast_signed(),
                (10, Field::Bytes(bytes)) => self.protocol = text(bytes)?,
                (11, Field::Bytes(bytes)) => self.body = text(bytes)?.as_bytes(),
                (12, Field::Bytes(bytes)) => raw_body = bytes,
                (13, Field::Bytes(bytes)) => once(&mut raw_headers, bytes)?,
                _ => return None,
            }
        }
        self.is_text_body = raw_body.is_empty();
        if !self.is_text_body {
            self.body = raw_body;
        }
        match raw_headers {
            Some(_) if !self.headers.is_empty() => None,
            Some(bytes) => self.read_header_map(bytes),
            None => Some(()),
        }
    }

    fn read_header_map(&mut self, message: &'a [u8]) -> Option<()> {
        let mut fields = Fields(message);
        while !fields.is_empty() {
            let (1, Field::Bytes(bytes)) = fields.next()? else { return None };
            let (name, value) = header(bytes)?;
            if !is_name(name) {
                return None;
            }
            if !name.starts_with(b":") {
                self.headers.push((name, value));
            }
        }
        Some(())
    }

    /// What tells it from others.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            method: self.method,
            scheme: self.scheme,
            host: self.host,
            target: self.path,
            headers: &self.headers,
            has_body: !self.body.is_empty(),
            source_ip: self.source.address.unwrap_or_default(),
            source_principal: self.source.principal,
            source_certificate: self.source.certificate,
        }
    }

    /// What of it is recorded, whatever was decided.
    pub(super) fn circumstances(&self) -> Circumstances<'_> {
        let sent = self.headers.iter().find(|(name, _)| *name == REQUEST_ID.as_bytes());
        Circumstances {
            request_id: sent.and_then(|(_, id)| text(id)).unwrap_or(self.id),
            source_ip: self.source.address.unwrap_or_default(),
            source_principal: self.source.principal,
            trace: None,
        }
    }

    /// What the general decoder has read; `None` without `attributes.request.http`.
    pub(super) fn over(check: &'a CheckRequest) -> Option<Self> {
        let attributes = check.attributes.as_ref()?;
        let request = attributes.request.as_ref()?;
        let http = request.http.as_ref()?;
        let raw = http.header_map.iter().flat_map(|map| &map.headers).map(|field| {
            let is_raw = !field.raw_value.is_empty();
            let value = if is_raw { &field.raw_value } else { field.value.as_bytes() };
            (field.key.as_bytes(), value)
        });
        let joined = http.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let extensions = attributes.context_extensions.iter();
        Some(Self {
            id: &http.id,
            method: &http.method,
            path: &http.path,
            host: &http.host,
            scheme: &http.scheme,
            protocol: &http.protocol,
            size: http.size,
            body: if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body },
            is_text_body: http.raw_body.is_empty(),
            headers: raw.chain(joined).filter(|(name, _)| !name.starts_with(b":")).collect(),
            time: request.time.map(|time| (time.seconds, time.nanos)),
            source: attributes.source.as_ref().map(Peer::over).unwrap_or_default(),
            destination: attributes.destination.as_ref().map(Peer::over).unwrap_or_default(),
            server_name: attributes.tls_session.as_ref().map_or("", |session| &session.sni),
            extensions: extensions.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            metadata: attributes.metadata_context.as_ref().map(Cow::Borrowed),
            route_metadata: attributes.route_metadata_context.as_ref().map(Cow::Borrowed),
        })
    }
}

impl<'a> Peer<'a> {
    fn over(peer: &'a attribute_context::Peer) -> Self {
        let socket = peer.address.as_ref().and_then(|address| match address.address.as_ref()? {
            address::Address::SocketAddress(socket) => Some(socket),
            _ => None,
        });
        let port = socket.and_then(|socket| match socket.port_specifier.as_ref()? {
            PortSpecifier::PortValue(port) => Some(*port),
            PortSpecifier::NamedPort(_) => None,
        });
        Self {
            address: socket.map(|socket| socket.address.as_str()),
            port,
            principal: &peer.principal,
            certificate: &peer.certificate,
        }
    }
}

/// Keeps a message that may be there once: two would have to be merged.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

fn text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok()
}

/// Key and value of a `map<string, string>`, in this order. The key is short, and may be any bytes; the
/// value is UTF-8.
fn map_entry(message: &[u8]) -> Option<(&[u8], &[u8])> {
    const KEY: u8 = 1 << 3 | 2;
    const VALUE: u8 = 2 << 3 | 2;
    let ([KEY, length @ ..0x80], rest) = message.split_first_chunk()? else { return None };
    let (key, rest) = rest.split_at_checked(usize::from(*length))?;
    let (&VALUE, rest) = rest.split_first()? else { return None };
    let mut fields = Fields(rest);
    let value = fields.bytes()?;
    (fields.is_empty() && is_text(value)).then_some((key, value))
}

/// That something is ASCII is known in fewer steps than that it is UTF-8.
fn is_text(bytes: &[u8]) -> bool {
    bytes.is_ascii() || text(bytes).is_some()
}

/// Whether `bytes` are ASCII without capital letters; eight at a time.
fn is_name(bytes: &[u8]) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    // To an ASCII byte nothing is added that would carry: its high bit is then set from `A`, or after `Z`.
    let is_plain = |eight: u64| {
        let from_a = (eight & !HIGH) + (0x80 - u64::from(b'A')) * EACH;
        let after_z = (eight & !HIGH) + (0x7f - u64::from(b'Z')) * EACH;
        (eight | from_a & !after_z) & HIGH == 0
    };
    let (eights, rest) = bytes.as_chunks();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
    eights.iter().chain([&last]).all(|eight| is_plain(u64::from_ne_bytes(*eight)))
}

/// A `HeaderValue`: the raw value where there is one.
fn header(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut key, mut value, mut raw) = ("", "", &[][..]);
    let mut fields = Fields(message);
    while !fields.is_empty() {
        match fields.next()? {
            (1, Field::Bytes(bytes)) => key = text(bytes)?,
            (2, Field::Bytes(bytes)) => value = text(bytes)?,
            (3, Field::Bytes(bytes)) => raw = bytes,
            _ => return None,
        }
    }
    Some((key.as_bytes(), if raw.is_empty() { value.as_bytes() } else { raw }))
}

fn timestamp(message: &[u8]) -> Option<(i64, i32)> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Fields(message);
    while !fields.is_empty() {
        match fields.next()? {
            (1, Field::Number(number)) => seconds = number.cast_signed(),
            (2, Field::Number(number)) => nanos = i32::try_from(number).ok()?,
            _ => return None,
        }
    }
    Some((seconds, nanos))
}

fn peer(message: &[u8]) -> Option<Peer<'_>> {
    let mut peer = Peer::default();
    let mut address = None;
    let mut fields = Fields(message);
    while !fields.is_empty() {
        match fields.next()? {
            (1, Field::Bytes(bytes)) => once(&mut address, bytes)?,
            (2, Field::Bytes(service)) => drop(text(service)?),
            (3, Field::Bytes(label)) => drop(text(map_entry(label)?.0)?),
            (4, Field::Bytes(bytes)) => peer.principal = text(bytes)?,
            (5, Field::Bytes(bytes)) => peer.certificate = text(bytes)?,
            _ => return None,
        }
    }
    if let Some(address) = address {
        let mut fields = Fields(address);
        let (1, Field::Bytes(socket)) = fields.next()? else { return None };
        if !fields.is_empty() {
            return None;
        }
        peer.read_socket(socket)?;
    }
    Some(peer)
}

impl<'a> Peer<'a> {
    fn read_socket(&mut self, message: &'a [u8]) -> Option<()> {
        let mut address = "";
        let mut fields = Fields(message);
        while !fields.is_empty() {
            match fields.next()? {
                (2, Field::Bytes(bytes)) => address = text(bytes)?,
                (3, Field::Number(number)) => self.port = Some(u32::try_from(number).ok()?),
                _ => return None,
            }
        }
        self.address = Some(address);
        Some(())
    }
}

fn server_name(message: &[u8]) -> Option<&str> {
    let mut name = "";
    let mut fields = Fields(message);
    while !fields.is_empty() {
        let (1, Field::Bytes(bytes)) = fields.next()? else { return None };
        name = text(bytes)?;
    }
    Some(name)
}

/// Open structures, which Envoy is rarely told to send, are the general decoder's, at the depth they are
/// at: it bounds how deep they go.
fn metadata<'a>(
    number: u32,
    message: &[u8],
    of: fn(AttributeContext) -> Option<Metadata>,
) -> Option<Cow<'a, Metadata>> {
    if message.is_empty() {
        return Some(Cow::Owned(Metadata::default()));
    }
    let mut attributes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut attributes);
    encode_varint(message.len().try_into().ok()?, &mut attributes);
    attributes.extend_from_slice(message);
    let mut check = Vec::new();
    encode_key(1, WireType::LengthDelimited, &mut check);
    encode_varint(attributes.len().try_into().ok()?, &mut check);
    check.append(&mut attributes);
    let check = CheckRequest::decode(check.as_slice()).ok()?;
    of(check.attributes?).map(Cow::Owned)
}

/// So many headers of a map are compared with each other; with more of them the general decoder is faster.
const MANY: usize = 128;

/// The names of a map's headers so far: of two alike the last would count.
#[derive(Default)]
struct Names(u64);

impl Names {
    /// Adds `name`, which none of `headers` has, in lower case.
    fn add(&mut self, name: &[u8], headers: &[(&[u8], &[u8])]) -> Option<()> {
        let (first, last) = (name.first()?, name.last()?);
        if !is_name(name) || headers.len() >= MANY {
            return None;
        }
        let bit = 1 << ((name.len() ^ usize::from(*first) ^ usize::from(*last) << 2) & 63);
        let is_known = self.0 & bit != 0 && headers.iter().any(|(known, _)| *known == name);
        self.0 |= bit;
        (!is_known).then_some(())
    }
}

#[cfg(test)]
mod tests;
