//! JSON read strictly: a member named twice, or nesting past `DEPTH`, is a fault.
//!
//! Two readers of a doubled member may each take another one, so that what we checked is not what
//! the next one sees (RFC 7515 section 4, RFC 7519 section 4). Names are compared after their
//! escapes are decoded. Size is bounded by whoever holds the text.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep objects and lists may nest, the outermost counted.
const DEPTH: usize = 32;

/// Why a text is not an object we read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JsonFault {
    /// Not JSON, or a number beyond what a double holds.
    #[error("is not json")]
    Syntax,
    /// JSON, but not an object.
    #[error("is not a json object")]
    NotObject,
    /// A member is named twice in one object.
    #[error("names a json member twice")]
    Duplicate,
    /// Objects and lists nest too deep.
    #[error("nests deeper than {DEPTH} levels")]
    TooDeep,
}

/// Reads `text` as one object.
pub(crate) fn object(text: &[u8]) -> Result<Map<String, Value>, JsonFault> {
    match value(text)? {
        Value::Object(members) => Ok(members),
        _ => Err(JsonFault::NotObject),
    }
}

/// Reads `text` as one value.
pub(crate) fn value(text: &[u8]) -> Result<Value, JsonFault> {
    let fault = Cell::new(JsonFault::Syntax);
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = Strict { left: DEPTH, fault: &fault }
        .deserialize(&mut json)
        .and_then(|value| json.end().map(|()| value));
    value.map_err(|_| fault.get())
}

/// Writes `text` as JSON. Most texts have nothing to escape, which is seen for many bytes at a time.
pub(crate) fn write_text(json: &mut Vec<u8>, text: &str) -> serde_json::Result<()> {
    let is_escaped = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    // No way out at the first one: that would take a byte at a time.
    if text.as_bytes().iter().fold(false, |found, byte| found | is_escaped(byte)) {
        return serde_json::to_writer(json, text);
    }
    json.push(b'"');
    json.extend_from_slice(text.as_bytes());
    json.push(b'"');
    Ok(())
}

/// Reads one value that may nest `left` levels; notes in `fault` why it is not to be had.
#[derive(Clone, Copy)]
struct Strict<'a> {
    left: usize,
    fault: &'a Cell<JsonFault>,
}

impl Strict<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.left.checked_sub(1) {
            Some(left) => Ok(Self { left, ..self }),
            None => Err(self.refuse(JsonFault::TooDeep)),
        }
    }

    fn refuse<E: Error>(self, fault: JsonFault) -> E {
        self.fault.set(fault);
        E::custom(fault)
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("json")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| self.refuse(JsonFault::Syntax))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(self.refuse(JsonFault::Duplicate));
            }
            members.insert(name, object.next_value_seed(inner)?);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_object_is_read_as_serde_json_reads_it() {
        let text = br#"{"a":[1,-2,2.5,true,null,"x\u0041"],"b":{"c":{}},"":0,"1e3":1e3}"#;
        let plain: Map<String, Value> = serde_json::from_slice(text).unwrap();
        assert_eq!(object(text).unwrap(), plain);
    }

    #[test]
    fn what_is_no_single_object_is_refused() {
        for (text, fault) in [
            ("", JsonFault::Syntax),
            ("{", JsonFault::Syntax),
            ("{} {}", JsonFault::Syntax),
            ("{},", JsonFault::Syntax),
            (r#"{"a":1,}"#, JsonFault::Syntax),
            (r#"{"a":1e400}"#, JsonFault::Syntax),
            (r#"{"a":NaN}"#, JsonFault::Syntax),
            (r#"{"a":"\ud800"}"#, JsonFault::Syntax),
            ("\u{feff}{}", JsonFault::Syntax),
            ("[]", JsonFault::NotObject),
            ("null", JsonFault::NotObject),
            ("\"{}\"", JsonFault::NotObject),
        ] {
            assert_eq!(object(text.as_bytes()), Err(fault), "{text}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(JsonFault::Syntax));
        assert!(object(b" {} \n").is_ok());
    }

    #[test]
    fn a_member_named_twice_is_refused_at_every_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":2,"a":3}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[0,{"y":[{"a":1,"a":2}]}]}"#,
        ] {
            assert_eq!(object(text.as_bytes()), Err(JsonFault::Duplicate), "{text}");
        }
        assert!(object(br#"{"a":1,"A":2,"x":{"a":3},"y":[{"a":4},{"a":5}]}"#).is_ok());
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| {
            let lists = depth - 1;
            format!("{{\"a\":{}{}}}", "[".repeat(lists), "]".repeat(lists))
        };
        assert!(object(nested(DEPTH).as_bytes()).is_ok());
        assert_eq!(object(nested(DEPTH + 1).as_bytes()), Err(JsonFault::TooDeep));
        assert_eq!(object("{\"a\":".repeat(100_000).as_bytes()), Err(JsonFault::TooDeep));
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_comes_back(names in proptest::collection::hash_set(".{0,8}", 0..8), number in any::<f64>()) {
            let members: Map<String, Value> =
                names.into_iter().map(|name| (name.clone(), serde_json::json!([name, {"n": number}]))).collect();
            let text = serde_json::to_vec(&members).unwrap();
            let plain: Map<String, Value> = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(object(&text), Ok(plain));
        }

        #[test]
        fn a_text_is_written_as_serde_json_writes_it(text in r#"[ -~]{0,40}["\\\\\x00-\x1f\x7fé\u{2028}]?[ -~]{0,9}"#) {
            let mut written = Vec::new();
            write_text(&mut written, &text).unwrap();
            prop_assert_eq!(written, serde_json::to_vec(&text).unwrap());
        }

        #[test]
        fn no_text_panics(text in any::<Vec<u8>>()) {
            let _ = object(&text);
        }
    }
}
