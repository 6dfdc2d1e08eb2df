//! What of a record is shown: the fields that are listed, and masks in place of what they hold.
//!
//! A mask covers its field, and the same text wherever else a record repeats what came from outside: a
//! masked asset id is masked in the path too. Masks come first, then the list of fields. What a decision
//! was, when and by which policies is never masked, so that no caller can hide its denials.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::hmac;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::record::{self, Http, Policy, Principal, Record, Target};
use crate::proto::{Opinion, ShadowRecord};

/// The fields that can be masked: those that came from outside.
pub const MASKABLE: [&str; 14] = [
    "requestId",
    "detail",
    "credentialHash",
    "http.method",
    "http.host",
    "http.path",
    SOURCE_IP,
    "http.sourcePrincipal",
    "principal.id",
    "principal.issuer",
    "target.assetId",
    "target.action",
    "policy.errors",
    "policy.reasons",
];

/// Those of them that differ between requests that are decided the same.
const VARYING: [&str; 3] = ["requestId", SOURCE_IP, "http.sourcePrincipal"];

/// The field that can be masked by its network.
pub const SOURCE_IP: &str = "http.sourceIp";

/// What stands for a text that is not to be seen.
const REDACTED: &str = "[redacted]";

/// How much of a hash is shown: 32 hexadecimal digits.
const HASH_BYTES: usize = 16;

/// A line that is no longer takes one allocation.
const USUAL_BYTES: usize = 1_536;

/// What a canonical path escapes of a value in one segment.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What of a record is shown.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// `None`: every field.
    fields: Option<BTreeSet<String>>,
    masks: Vec<Mask>,
}

/// What stands in place of a field's text.
#[derive(Clone, Debug)]
pub struct Mask {
    /// One of [`MASKABLE`].
    pub field: &'static str,
    /// What is put there.
    pub with: Masking,
}

/// What is put in place of a text.
#[derive(Clone, Debug)]
pub enum Masking {
    /// The same for every text.
    Redact,
    /// A hash with the operator's key, so that equal texts are seen to be equal.
    Hash(HashKey),
    /// The network of an address: its first 24 bits, of IPv6 its first 48.
    Network,
}

/// The key of hashes.
#[derive(Clone)]
pub struct HashKey(Arc<hmac::Key>);

impl HashKey {
    /// From a text that is hard to guess.
    pub fn new(text: &str) -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())))
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

/// The first digits of `digest`, with the name of what made it.
pub(super) fn digits(algorithm: &str, digest: &[u8]) -> String {
    let shown = digest.get(..HASH_BYTES).unwrap_or(digest);
    [algorithm, ":", &hex::encode(shown)].concat()
}

/// Texts that are not to be seen, and what stands for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Covered(Vec<(String, String)>);

impl Shape {
    /// A shape that shows `fields` (all, if there is no list) and masks what `masks` say.
    pub fn new(fields: Option<BTreeSet<String>>, masks: Vec<Mask>) -> Self {
        Self { fields, masks }
    }

    /// The names of all fields of a record.
    pub fn names() -> Vec<String> {
        let full = Record {
            http: Some(Http::default()),
            principal: Some(Principal::default()),
            target: Some(Target::default()),
            policy: Some(Policy::default()),
            ..Record::default()
        };
        let full = full.json().and_then(|json| serde_json::from_slice::<Value>(&json));
        let mut names = Vec::new();
        for (name, value) in full.iter().filter_map(Value::as_object).flatten() {
            match value.as_object() {
                Some(inner) => names.extend(inner.keys().map(|inner| format!("{name}.{inner}"))),
                None => names.push(name.clone()),
            }
        }
        names
    }

    /// Whether the field `name`, or anything in it, is shown.
    pub fn shows(&self, name: &str) -> bool {
        record::shows(self.fields.as_ref(), name)
    }

    /// Whether it masks what differs between requests that are decided the same.
    pub(super) fn masks_varying(&self) -> bool {
        self.masks.iter().any(|mask| VARYING.contains(&mask.field))
    }

    /// The line of a record, its end included.
    pub(super) fn line(&self, mut record: Record<'_>) -> serde_json::Result<Vec<u8>> {
        self.mask(&mut record);
        self.written(&record)
    }

    /// The line of a record that is masked.
    pub(super) fn written(&self, record: &Record<'_>) -> serde_json::Result<Vec<u8>> {
        let mut line = Vec::with_capacity(USUAL_BYTES);
        record.write(&mut line, self.fields.as_ref())?;
        ended(line)
    }

    /// The line of what shadow policies say. It has the decision's fields where it has the same; where anything is
    /// masked it has no free text, since it has not what that could repeat.
    pub(super) fn shadow_line(&self, mut record: ShadowRecord) -> serde_json::Result<Vec<u8>> {
        if !self.masks.is_empty() {
            [&mut record.enforced, &mut record.shadow]
                .into_iter()
                .flatten()
                .for_each(without_texts);
        }
        if self.fields.is_none() {
            return ended(serde_json::to_vec(&record)?);
        }
        let mut value = serde_json::to_value(&record)?;
        if let Some(members) = value.as_object_mut() {
            members.retain(|name, _| match name.as_str() {
                "shadowOf" => self.shows("id"),
                "enforced" | "shadow" => true,
                name => self.shows(name),
            });
            for name in ["enforced", "shadow"] {
                members
                    .get_mut(name)
                    .and_then(Value::as_object_mut)
                    .into_iter()
                    .for_each(|said| self.prune("", said));
            }
        }
        ended(serde_json::to_vec(&value)?)
    }

    fn prune(&self, path: &str, members: &mut Map<String, Value>) {
        members.retain(|name, value| {
            let name = format!("{path}{name}");
            if let Value::Object(inner) = value {
                self.prune(&format!("{name}."), inner);
            }
            self.shows(&name)
        });
    }

    /// Masks `record`; what is covered by that.
    pub(super) fn mask(&self, record: &mut Record<'_>) -> Covered {
        let mut covered = Covered::default();
        if self.masks.is_empty() {
            return covered;
        }
        for mask in &self.masks {
            each_text(record, |name, text| {
                if name == mask.field && !text.is_empty() {
                    covered.add(text, mask.with.of(text));
                }
            });
        }
        covered.0.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        each_text(record, |name, text| {
            let mask = self.masks.iter().find(|mask| mask.field == name && !text.is_empty());
            let shown = mask.map_or_else(|| covered.cover(text), |mask| mask.with.of(text));
            *text = shown.into();
        });
        covered
    }
}

impl Covered {
    fn add(&mut self, text: &str, mask: String) {
        let escaped = utf8_percent_encode(text, ESCAPED).to_string();
        if escaped != text {
            self.0.push((escaped, mask.clone()));
        }
        self.0.push((text.to_owned(), mask));
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `text`, with masks where it repeats what is covered. A mask is not looked into again.
    pub(super) fn cover(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        'text: while let Some(first) = rest.chars().next() {
            for (covered, mask) in &self.0 {
                if let Some(after) = rest.strip_prefix(covered.as_str()) {
                    result.push_str(mask);
                    rest = after;
                    continue 'text;
                }
            }
            result.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        }
        result
    }
}

impl Masking {
    fn of(&self, text: &str) -> String {
        match self {
            Self::Redact => REDACTED.to_owned(),
            Self::Hash(HashKey(key)) => {
                digits("hmac-sha256", hmac::sign(key, text.as_bytes()).as_ref())
            }
            Self::Network => match text.parse() {
                Ok(IpAddr::V4(ip)) => {
                    let network = Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << 8));
                    format!("{network}/24")
                }
                Ok(IpAddr::V6(ip)) => {
                    let network = Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 80));
                    format!("{network}/48")
                }
                Err(_) => REDACTED.to_owned(),
            },
        }
    }
}

/// Shows `each` the texts of `record` that came from outside, by the names of their fields.
fn each_text<'a>(record: &mut Record<'a>, mut each: impl FnMut(&'static str, &mut Cow<'a, str>)) {
    each("requestId", &mut record.request_id);
    each("detail", &mut record.detail);
    each("credentialHash", &mut record.credential_hash);
    if let Some(http) = &mut record.http {
        each("http.method", &mut http.method);
        each("http.host", &mut http.host);
        each("http.path", &mut http.path);
        each(SOURCE_IP, &mut http.source_ip);
        each("http.sourcePrincipal", &mut http.source_principal);
    }
    if let Some(principal) = &mut record.principal {
        each("principal.id", &mut principal.id);
        each("principal.issuer", &mut principal.issuer);
    }
    if let Some(target) = &mut record.target {
        each("target.assetId", &mut target.asset_id);
        each("target.action", &mut target.action);
    }
    if let Some(policy) = &mut record.policy {
        let lists =
            [("policy.errors", &mut policy.errors), ("policy.reasons", &mut policy.reasons)];
        for (name, list) in lists {
            for text in list.to_mut() {
                let mut shown = Cow::Owned(mem::take(text));
                each(name, &mut shown);
                *text = shown.into_owned();
            }
        }
    }
}

fn without_texts(opinion: &mut Opinion) {
    opinion.detail.clear();
    if let Some(policy) = &mut opinion.policy {
        policy.errors.clear();
        policy.reasons.clear();
    }
}

fn ended(mut line: Vec<u8>) -> serde_json::Result<Vec<u8>> {
    line.push(b'\n');
    // It may be kept for long.
    line.shrink_to_fit();
    Ok(line)
}

#[cfg(test)]
mod tests;
