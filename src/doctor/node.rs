//! A value in a document, with its place; looked up by name, absent where it is of another type.

use std::time::Duration;

use serde_json::Value;

use super::Place;

/// A value that is there, and where.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) place: Place,
}

impl<'a> Node<'a> {
    /// The member `name`, written in `snake_case` as here or in camelCase; `null` is absent.
    pub(super) fn get(&self, name: &str) -> Option<Self> {
        let members = self.value.as_object()?;
        let (key, value) =
            members.get_key_value(name).or_else(|| members.get_key_value(&camel_case(name)))?;
        (!value.is_null()).then(|| Node { value, place: self.place.below(key) })
    }

    /// [`Self::get`], one name after the other.
    pub(super) fn at(&self, names: &[&str]) -> Option<Self> {
        names.iter().try_fold(self.clone(), |node, name| node.get(name))
    }

    /// The items of the list `name`; none where it is no list.
    pub(super) fn items(&self, name: &str) -> Vec<Self> {
        self.get(name).map(|list| list.all()).unwrap_or_default()
    }

    /// The items of this list.
    pub(super) fn all(&self) -> Vec<Self> {
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        let item = |(index, value)| Node { value, place: self.place.below(&format!("[{index}]")) };
        items.iter().enumerate().map(item).collect()
    }

    /// The members of the map `name`, by key.
    pub(super) fn entries(&self, name: &str) -> Vec<(&'a str, Self)> {
        let Some(map) = self.get(name) else { return Vec::new() };
        let entry = |(key, value): (&'a String, &'a Value)| {
            (key.as_str(), Node { value, place: map.place.below(&format!("[\"{key}\"]")) })
        };
        map.value.as_object().into_iter().flatten().map(entry).collect()
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.value.as_str()
    }

    pub(super) fn texts(&self, name: &str) -> Vec<&'a str> {
        self.items(name).iter().filter_map(|item| item.value.as_str()).collect()
    }

    /// Absent is false, as in protobuf.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.maybe_flag(name) == Some(true)
    }

    pub(super) fn maybe_flag(&self, name: &str) -> Option<bool> {
        self.get(name)?.value.as_bool()
    }

    /// A number; protobuf's JSON and manifests also write numbers as texts.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let node = self.get(name)?;
        node.value.as_u64().or_else(|| node.value.as_str()?.parse().ok())
    }

    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        duration(self.text(name)?)
    }

    /// What stands in this extension (`typed_config`), and the last word of its type. A typed struct
    /// is unwrapped.
    pub(super) fn typed(&self) -> Option<(&'a str, Self)> {
        let config = self.get("typed_config").or_else(|| self.get("config"))?;
        config.typed_value()
    }

    /// The same for a value that carries its own `@type`.
    pub(super) fn typed_value(&self) -> Option<(&'a str, Self)> {
        let kind = last_word(self.text("@type")?);
        if kind != "TypedStruct" {
            return Some((kind, self.clone()));
        }
        Some((last_word(self.text("type_url")?), self.get("value")?))
    }

    /// The same value, as part of another resource.
    pub(super) fn of(mut self, resource: &str) -> Self {
        resource.clone_into(&mut self.place.resource);
        self
    }
}

fn last_word(type_url: &str) -> &str {
    type_url.rsplit(['.', '/']).next().unwrap_or(type_url)
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

/// A duration as protobuf's JSON (`0.25s`) and the Gateway API (`1m30s`, `250ms`) write it.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end_of_number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(end_of_number)?;
        let end_of_unit = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end_of_unit)?;
        let seconds = match unit {
            "ns" => 1e-9,
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    Some(total)
}
