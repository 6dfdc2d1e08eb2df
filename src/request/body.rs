//! A request's body: how much of it there is, and what it says where its content type tells how.
//!
//! Only a whole body is read: a part of one is never taken for the whole. What the content type
//! promises and the body does not keep is a [`BodyFault`]; so is JSON that names a member twice or in
//! another character set, for the application may read it differently than we do.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::percent_decode;
use serde_json::Value;

use super::Request;
use crate::json::{self, JsonFault};

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
    /// `application/json` or `…+json`.
    Json(Value),
    /// `application/x-www-form-urlencoded`: each name with its values, in order.
    Form(BTreeMap<String, Vec<String>>),
}

/// Why a body is not what its content type says.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyFault {
    /// There is more than one content type, so that it can be read in more than one way.
    #[error("there is more than one content-type")]
    ContentTypes,
    /// JSON in another character set than UTF-8 (RFC 8259 section 8.1).
    #[error("its character set is not utf-8")]
    Charset,
    /// No JSON, or ambiguous JSON.
    #[error("it {0}")]
    Json(JsonFault),
    /// A form whose names or values are not UTF-8.
    #[error("a name or value of the form is not utf-8")]
    Form,
}

impl Request {
    /// Reads the body as its content type says.
    pub fn content(&self) -> Result<Content, BodyFault> {
        let Body::Whole(bytes) = &self.body else { return Ok(Content::Opaque) };
        let mut types = self.headers.all("content-type");
        let Some(kind) = types.next() else { return Ok(Content::Opaque) };
        if types.next().is_some() || kind.contains(&b',') {
            return Err(BodyFault::ContentTypes);
        }
        let kind = String::from_utf8_lossy(kind).to_ascii_lowercase();
        let (media_type, parameters) = kind.split_once(';').unwrap_or((&kind, ""));
        match media_type.trim() {
            "application/x-www-form-urlencoded" => form(bytes).map(Content::Form),
            name if name == "application/json" || name.ends_with("+json") => {
                if !is_utf8(parameters) {
                    return Err(BodyFault::Charset);
                }
                json::value(bytes).map(Content::Json).map_err(BodyFault::Json)
            }
            _ => Ok(Content::Opaque),
        }
    }
}

fn is_utf8(parameters: &str) -> bool {
    let pairs = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let mut charsets = pairs.filter(|(name, _)| name.trim() == "charset");
    charsets.all(|(_, value)| matches!(value.trim().trim_matches('"'), "utf-8" | "utf8"))
}

/// The WHATWG form, refused where it would replace bytes that are no text.
fn form(bytes: &[u8]) -> Result<BTreeMap<String, Vec<String>>, BodyFault> {
    if percent_decode(bytes).decode_utf8().is_err() {
        return Err(BodyFault::Form);
    }
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(bytes) {
        fields.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn content(kind: &str, body: &str) -> Result<Content, BodyFault> {
        let mut request =
            Request { body: Body::Whole(body.to_owned().into()), ..Request::default() };
        request.headers.push("Content-Type", kind);
        request.content()
    }

    #[test]
    fn a_body_is_read_as_its_type_says() {
        let json = || Ok(Content::Json(json!({"a": [1, null]})));
        for kind in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
            "application/problem+json",
        ] {
            assert_eq!(content(kind, r#"{"a": [1, null]}"#), json(), "{kind}");
        }
        let form = BTreeMap::from([
            ("a".to_owned(), vec!["1".to_owned(), "é ".to_owned()]),
            ("b".to_owned(), vec![String::new()]),
        ]);
        let kind = "application/x-www-form-urlencoded";
        assert_eq!(content(kind, "a=1&b&a=%c3%a9+"), Ok(Content::Form(form)));
        for kind in ["text/plain", "application/jsonx", "", "multipart/form-data; boundary=x"] {
            assert_eq!(content(kind, "{"), Ok(Content::Opaque), "{kind}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let of_json = |body| content("application/json", body).unwrap_err();
        assert_eq!(of_json("{"), BodyFault::Json(JsonFault::Syntax));
        assert_eq!(of_json(""), BodyFault::Json(JsonFault::Syntax));
        assert_eq!(of_json(r#"{"a":1,"a":2}"#), BodyFault::Json(JsonFault::Duplicate));
        assert_eq!(of_json(&"[".repeat(10_000)), BodyFault::Json(JsonFault::TooDeep));
        let other = content("application/json; charset=utf-16", "{}").unwrap_err();
        assert_eq!(other, BodyFault::Charset);
        let two = content("application/json, text/plain", "{}").unwrap_err();
        assert_eq!(two, BodyFault::ContentTypes);
        let form = content("application/x-www-form-urlencoded", "a=%ff").unwrap_err();
        assert_eq!(form, BodyFault::Form);
    }

    #[test]
    fn a_part_is_not_the_whole() {
        for body in [Body::Unsent, Body::Partial("{".to_owned().into())] {
            let mut request = Request { body, ..Request::default() };
            request.headers.push("content-type", "application/json");
            assert_eq!(request.content(), Ok(Content::Opaque));
        }
    }
}
