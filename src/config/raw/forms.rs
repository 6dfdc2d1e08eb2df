//! Settings that may be written in more than one form.
//!
//! They are read with visitors and not as untagged enums: those would lose the path of an error
//! within them.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{FileSink, Listener, Scope, Sink};

/// One text, or a list of them.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(untagged)]
pub(in crate::config) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// An address, or a map with one.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(untagged)]
pub(in crate::config) enum ListenerForm {
    Address(String),
    Listener(Listener),
}

/// A named sink, or a map with another.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(untagged)]
pub(in crate::config) enum SinkForm {
    Name(String),
    Sink(Box<Sink>),
}

/// A path, or a map with one.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(untagged)]
pub(in crate::config) enum FileForm {
    Path(String),
    File(FileSink),
}

/// The schema of what [`name_or_number`] reads.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum NameOrNumber {
    Name(String),
    Number(u32),
}

/// A text, or a whole number as a text.
pub(super) fn name_or_number<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    struct Form;
    impl<'de> Visitor<'de> for Form {
        type Value = Option<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a name or a number")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Some(number.to_string()))
        }
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Form)
}

/// The schema of `scopes`: the loader has replaced a directory by its files' scopes before serde
/// sees it.
pub(super) struct ScopesForm;

impl JsonSchema for ScopesForm {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scopes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let list = generator.subschema_for::<Vec<Scope>>();
        json_schema!({"anyOf": [list, {
            "type": "object",
            "properties": {"directory": {"type": "string"}},
            "required": ["directory"],
            "additionalProperties": false,
        }]})
    }
}

/// Tells `null` (`Some(None)`) from an absent field (`None`).
pub(super) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<OneOrMany, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(OneOrMany::Many)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl<'de> Deserialize<'de> for ListenerForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = ListenerForm;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a map with one")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ListenerForm, E> {
                Ok(ListenerForm::Address(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListenerForm, A::Error> {
                Listener::deserialize(MapAccessDeserializer::new(map)).map(ListenerForm::Listener)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl<'de> Deserialize<'de> for SinkForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = SinkForm;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`stdout`, `none` or a map with file, http or otlp")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SinkForm, E> {
                Ok(SinkForm::Name(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SinkForm, A::Error> {
                Box::deserialize(MapAccessDeserializer::new(map)).map(SinkForm::Sink)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl<'de> Deserialize<'de> for FileForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = FileForm;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path or a map with one")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<FileForm, E> {
                Ok(FileForm::Path(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FileForm, A::Error> {
                FileSink::deserialize(MapAccessDeserializer::new(map)).map(FileForm::File)
            }
        }
        deserializer.deserialize_any(Form)
    }
}
