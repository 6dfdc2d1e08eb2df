//! `multipart/form-data` (RFC 7578), read in the one way that no reader can differ from.
//!
//! The usual readers forgive: of two headers of one name they take the last, a `name=` within a
//! quoted file name is a name to them, lines may end in a bare LF, and text may stand before the
//! first boundary. Each of them forgives something else, so here nothing is forgiven: what is not
//! written as browsers and client libraries write it is a [`MultipartFault`]. The boundary stands
//! nowhere but where a part begins or ends.

use std::collections::BTreeMap;

use memchr::memmem::{self, Finder};
use serde_json::Value;

use super::parameters::Parameters;
use super::{BodyFault, Fields, is_json};
use crate::json;

/// How many parts a form has at most.
const PART_LIMIT: usize = 1_000;

/// How many bytes the headers of a part have at most.
const HEADER_LIMIT: usize = 4_096;

/// Why a form in parts is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MultipartFault {
    /// No boundary, more than one, or one that RFC 2046 section 5.1.1 does not allow.
    #[error("its content-type does not name one valid boundary")]
    Boundary,
    /// The boundaries do not enclose the parts, or the last one is missing.
    #[error(
        "its parts do not each stand between two boundaries, the last of which closes the form"
    )]
    Frame,
    /// Too many parts.
    #[error("it has more than {PART_LIMIT} parts")]
    Parts,
    /// The headers of a part are too long, are none, or name one twice.
    #[error(
        "the headers of a part can't be read, have one twice, or have more than {HEADER_LIMIT} bytes"
    )]
    Headers,
    /// A part without one name.
    #[error("a part is no form-data with one name")]
    Name,
    /// A part whose content is encoded once more, or is parts itself.
    #[error("the content of a part is encoded, or in parts itself")]
    Encoding,
}

/// Reads `bytes` as parts, of the type that has `parameters`.
///
/// A part in JSON is what it says, and one of a file that is no text is null.
pub(super) fn read(bytes: &[u8], parameters: &Parameters) -> Result<Fields, BodyFault> {
    let boundary = parameters.one("boundary").ok().flatten().filter(|text| is_boundary(text));
    let delimiter = format!("--{}", boundary.ok_or(MultipartFault::Boundary)?);
    let mut fields = Fields::new();
    let mut parts = Parts { rest: bytes, delimiter: Finder::new(&delimiter), count: 0 };
    parts.begin()?;
    while let Some(part) = parts.next()? {
        let Part { name, value } = Part::read(part)?;
        fields.entry(name).or_default().push(value);
    }
    Ok(fields)
}

fn is_boundary(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    (1..=70).contains(&text.len()) && text.bytes().all(is_allowed) && !text.ends_with(' ')
}

/// Takes one part after the other.
struct Parts<'a> {
    /// What follows the last delimiter.
    rest: &'a [u8],
    delimiter: Finder<'a>,
    count: usize,
}

impl<'a> Parts<'a> {
    fn begin(&mut self) -> Result<(), MultipartFault> {
        self.rest = self.after_delimiter(self.rest)?;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<&'a [u8]>, MultipartFault> {
        if matches!(self.rest, b"--" | b"--\r\n") {
            return Ok(None);
        }
        self.count += 1;
        if self.count > PART_LIMIT {
            return Err(MultipartFault::Parts);
        }
        let begun = self.rest.strip_prefix(b"\r\n").ok_or(MultipartFault::Frame)?;
        let end = self.delimiter.find(begun).ok_or(MultipartFault::Frame)?;
        let (part, rest) = begun.split_at_checked(end).ok_or(MultipartFault::Frame)?;
        self.rest = self.after_delimiter(rest)?;
        part.strip_suffix(b"\r\n").map(Some).ok_or(MultipartFault::Frame)
    }

    fn after_delimiter(&self, bytes: &'a [u8]) -> Result<&'a [u8], MultipartFault> {
        bytes.strip_prefix(self.delimiter.needle()).ok_or(MultipartFault::Frame)
    }
}

struct Part {
    name: String,
    value: Value,
}

impl Part {
    fn read(bytes: &[u8]) -> Result<Self, BodyFault> {
        let end = memmem::find(bytes, b"\r\n\r\n").filter(|end| *end <= HEADER_LIMIT);
        let (head, content) =
            end.and_then(|end| bytes.split_at_checked(end)).ok_or(MultipartFault::Headers)?;
        let content = content.strip_prefix(b"\r\n\r\n").ok_or(MultipartFault::Headers)?;
        let headers = headers(head).ok_or(MultipartFault::Headers)?;
        let disposition = headers.get("content-disposition").ok_or(MultipartFault::Name)?;
        let Disposition { name, is_file } =
            Disposition::parse(disposition).ok_or(MultipartFault::Name)?;
        let encoding =
            headers.get("content-transfer-encoding").map(|name| name.to_ascii_lowercase());
        if !matches!(encoding.as_deref(), None | Some("7bit" | "8bit" | "binary")) {
            return Err(MultipartFault::Encoding.into());
        }
        let kind = headers.get("content-type").copied().unwrap_or("text/plain");
        let value = value(kind, content, is_file)?;
        if name == "_charset_"
            && !value.as_str().is_some_and(|name| name.eq_ignore_ascii_case("utf-8"))
        {
            return Err(BodyFault::Charset);
        }
        Ok(Self { name, value })
    }
}

/// The headers by their names in lower case; `None` when a line is none or a name stands twice.
fn headers(head: &[u8]) -> Option<BTreeMap<String, &str>> {
    let mut headers = BTreeMap::new();
    for line in str::from_utf8(head).ok()?.split("\r\n") {
        let (name, value) = line.split_once(':')?;
        let name = http::HeaderName::from_bytes(name.as_bytes()).ok()?.as_str().to_owned();
        let value = value.trim_matches([' ', '\t']);
        if value.contains(char::is_control) || headers.insert(name, value).is_some() {
            return None;
        }
    }
    Some(headers)
}

/// What a part is called, and whether it is the content of a file.
struct Disposition {
    name: String,
    is_file: bool,
}

impl Disposition {
    fn parse(text: &str) -> Option<Self> {
        let (kind, parameters) = text.split_once(';')?;
        let parameters = Parameters::parse(parameters)?;
        let one = |name| parameters.one(name).ok();
        let name = one("name")?.filter(|name| !name.is_empty())?;
        let is_file = one("filename")?.is_some() | one("filename*")?.is_some();
        let is_form_data = kind.trim().eq_ignore_ascii_case("form-data");
        (is_form_data && one("name*")?.is_none()).then(|| Self { name: name.to_owned(), is_file })
    }
}

fn value(kind: &str, content: &[u8], is_file: bool) -> Result<Value, BodyFault> {
    let (media_type, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    let media_type = media_type.trim().to_ascii_lowercase();
    let parameters = Parameters::parse(parameters).filter(|_| !kind.contains(','));
    let parameters = parameters.ok_or(MultipartFault::Headers)?;
    if media_type.starts_with("multipart/") {
        return Err(MultipartFault::Encoding.into());
    }
    let is_json = is_json(&media_type);
    if !parameters.is_utf8() {
        return if is_file && !is_json { Ok(Value::Null) } else { Err(BodyFault::Charset) };
    }
    if is_json {
        return json::value(content).map_err(BodyFault::Json);
    }
    match str::from_utf8(content) {
        Ok(text) => Ok(text.into()),
        Err(_) if is_file => Ok(Value::Null),
        Err(_) => Err(BodyFault::Form),
    }
}

#[cfg(test)]
mod tests;
