//! What is told of one decision, and its JSON.
//!
//! The fields are those of `placet.v1.DecisionRecord`, which has their meanings. Texts are borrowed from where they
//! are, and the JSON is written member by member as it comes: making a line is part of every decision. What can't be
//! written is an error, and never a part of a line.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::Serialize;

use crate::json;
use crate::trace::Trace;

/// Borrowed, as long as nothing is masked in it.
type Text<'a> = Cow<'a, str>;
type Texts<'a> = Cow<'a, [String]>;

/// One decision, as it was made. A field without a value is empty.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "proto/placet/v1/decision.proto has the documentation")]
pub struct Record<'a> {
    pub time: Text<'a>,
    pub token_id: Text<'a>,
    pub request_id: Text<'a>,
    pub scope: Text<'a>,
    pub outcome: &'static str,
    pub reason: &'static str,
    pub detail: Text<'a>,
    pub status: u32,
    pub http: Option<Http<'a>>,
    pub principal: Option<Principal<'a>>,
    pub target: Option<Target<'a>>,
    pub policy: Option<Policy<'a>>,
    pub key_id: Text<'a>,
    pub duration_us: u64,
    pub id: Text<'a>,
    pub dry_run: bool,
    pub reused: bool,
    pub trace_id: Text<'a>,
    pub span_id: Text<'a>,
    pub request_type: &'static str,
    pub organization: Text<'a>,
    pub instance_name: Text<'a>,
    pub credential_hash: Text<'a>,
    pub sample_rate: f64,
}

/// What was asked, of whom and from where.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "as above")]
pub struct Http<'a> {
    pub method: Text<'a>,
    pub host: Text<'a>,
    pub path: Text<'a>,
    pub source_ip: Text<'a>,
    pub source_principal: Text<'a>,
}

/// Who asked.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "as above")]
pub struct Principal<'a> {
    pub entity_type: Text<'a>,
    pub id: Text<'a>,
    pub issuer: Text<'a>,
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "as above")]
pub struct Target<'a> {
    pub asset_type: Text<'a>,
    pub asset_id: Text<'a>,
    pub action: Text<'a>,
}

/// What the decision rests on.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "as above")]
pub struct Policy<'a> {
    pub determining: Texts<'a>,
    pub revision: Text<'a>,
    pub errors: Texts<'a>,
    pub reasons: Texts<'a>,
}

impl Record<'_> {
    /// Sets the trace that the request belongs to.
    pub(super) fn trace(&mut self, trace: Option<Trace>) {
        let span = trace.and_then(|trace| trace.span);
        self.trace_id = trace.map(|trace| trace.id.to_string()).unwrap_or_default().into();
        self.span_id = span.map(|span| span.to_string()).unwrap_or_default().into();
    }

    /// The whole of it as JSON.
    pub fn json(&self) -> serde_json::Result<Vec<u8>> {
        let mut json = Vec::new();
        self.write(&mut json, None)?;
        Ok(json)
    }

    /// Writes it as JSON, of its fields only those that are `listed`, if there is a list.
    pub(super) fn write(
        &self,
        json: &mut Vec<u8>,
        listed: Option<&BTreeSet<String>>,
    ) -> serde_json::Result<()> {
        let mut members = Members::begin(json, listed, "");
        members.text("time", &self.time)?;
        members.text("tokenId", &self.token_id)?;
        members.text("requestId", &self.request_id)?;
        members.text("scope", &self.scope)?;
        members.text("outcome", self.outcome)?;
        members.text("reason", self.reason)?;
        members.text("detail", &self.detail)?;
        members.value("status", &self.status)?;
        members.object("http", self.http.as_ref(), |http, members| {
            members.text("method", &http.method)?;
            members.text("host", &http.host)?;
            members.text("path", &http.path)?;
            members.text("sourceIp", &http.source_ip)?;
            members.text("sourcePrincipal", &http.source_principal)
        })?;
        members.object("principal", self.principal.as_ref(), |principal, members| {
            members.text("type", &principal.entity_type)?;
            members.text("id", &principal.id)?;
            members.text("issuer", &principal.issuer)
        })?;
        members.object("target", self.target.as_ref(), |target, members| {
            members.text("assetType", &target.asset_type)?;
            members.text("assetId", &target.asset_id)?;
            members.text("action", &target.action)
        })?;
        members.object("policy", self.policy.as_ref(), |policy, members| {
            members.value("determining", &policy.determining)?;
            members.text("revision", &policy.revision)?;
            members.value("errors", &policy.errors)?;
            members.value("reasons", &policy.reasons)
        })?;
        members.text("keyId", &self.key_id)?;
        members.value("durationUs", &self.duration_us)?;
        members.text("id", &self.id)?;
        members.value("dryRun", &self.dry_run)?;
        members.value("reused", &self.reused)?;
        members.text("traceId", &self.trace_id)?;
        members.text("spanId", &self.span_id)?;
        members.text("requestType", self.request_type)?;
        members.text("organization", &self.organization)?;
        members.text("instanceName", &self.instance_name)?;
        members.text("credentialHash", &self.credential_hash)?;
        members.value("sampleRate", &self.sample_rate)?;
        members.end();
        Ok(())
    }

    /// The same, with texts of its own.
    pub(super) fn into_owned(self) -> Record<'static> {
        let text = |text: Text<'_>| Cow::Owned(text.into_owned());
        let texts = |texts: Texts<'_>| Cow::Owned(texts.into_owned());
        Record {
            time: text(self.time),
            token_id: text(self.token_id),
            request_id: text(self.request_id),
            scope: text(self.scope),
            detail: text(self.detail),
            http: self.http.map(|http| Http {
                method: text(http.method),
                host: text(http.host),
                path: text(http.path),
                source_ip: text(http.source_ip),
                source_principal: text(http.source_principal),
            }),
            principal: self.principal.map(|principal| Principal {
                entity_type: text(principal.entity_type),
                id: text(principal.id),
                issuer: text(principal.issuer),
            }),
            target: self.target.map(|target| Target {
                asset_type: text(target.asset_type),
                asset_id: text(target.asset_id),
                action: text(target.action),
            }),
            policy: self.policy.map(|policy| Policy {
                determining: texts(policy.determining),
                revision: text(policy.revision),
                errors: texts(policy.errors),
                reasons: texts(policy.reasons),
            }),
            key_id: text(self.key_id),
            id: text(self.id),
            trace_id: text(self.trace_id),
            span_id: text(self.span_id),
            organization: text(self.organization),
            instance_name: text(self.instance_name),
            credential_hash: text(self.credential_hash),
            outcome: self.outcome,
            reason: self.reason,
            status: self.status,
            duration_us: self.duration_us,
            dry_run: self.dry_run,
            reused: self.reused,
            request_type: self.request_type,
            sample_rate: self.sample_rate,
        }
    }
}

/// Whether the field `name`, or anything in it, is `listed`.
pub(super) fn shows(listed: Option<&BTreeSet<String>>, name: &str) -> bool {
    let is_within = |field: &String| {
        field.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    listed.is_none_or(|fields| fields.iter().any(is_within))
}

/// The members of a JSON object, as far as they are listed. Their names have nothing to escape.
struct Members<'a> {
    json: &'a mut Vec<u8>,
    listed: Option<&'a BTreeSet<String>>,
    /// The name of the object; empty for the outermost.
    within: &'static str,
}

impl<'a> Members<'a> {
    fn begin(
        json: &'a mut Vec<u8>,
        listed: Option<&'a BTreeSet<String>>,
        within: &'static str,
    ) -> Self {
        json.push(b'{');
        Self { json, listed, within }
    }

    fn end(self) {
        self.json.push(b'}');
    }

    /// Writes the name, unless the member is not listed.
    fn name(&mut self, name: &str) -> bool {
        let is_shown = self.listed.is_none()
            || match self.within {
                "" => shows(self.listed, name),
                within => shows(self.listed, &[within, ".", name].concat()),
            };
        if is_shown {
            if self.json.last() != Some(&b'{') {
                self.json.push(b',');
            }
            self.json.push(b'"');
            self.json.extend_from_slice(name.as_bytes());
            self.json.extend_from_slice(b"\":");
        }
        is_shown
    }

    fn text(&mut self, name: &str, text: &str) -> serde_json::Result<()> {
        if self.name(name) { json::write_text(self.json, text) } else { Ok(()) }
    }

    fn value(&mut self, name: &str, value: &impl Serialize) -> serde_json::Result<()> {
        if self.name(name) { serde_json::to_writer(&mut *self.json, value) } else { Ok(()) }
    }

    fn object<T>(
        &mut self,
        name: &'static str,
        object: Option<&T>,
        write: impl FnOnce(&T, &mut Members<'_>) -> serde_json::Result<()>,
    ) -> serde_json::Result<()> {
        if !self.name(name) {
            return Ok(());
        }
        let Some(object) = object else { return serde_json::to_writer(&mut *self.json, &()) };
        let mut members = Members::begin(self.json, self.listed, name);
        write(object, &mut members)?;
        members.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{DescriptorProto, FileDescriptorSet};
    use serde_json::Value;

    use super::*;
    use crate::audit::Shape;
    use crate::proto::DESCRIPTORS;

    #[test]
    fn every_text_is_under_its_own_name() {
        let one = |name: &str| Cow::Owned(vec![name.to_owned()]);
        let record = Record {
            time: "time".into(),
            token_id: "tokenId".into(),
            request_id: "requestId".into(),
            scope: "scope".into(),
            outcome: "outcome",
            reason: "reason",
            detail: "detail".into(),
            http: Some(Http {
                method: "http.method".into(),
                host: "http.host".into(),
                path: "http.path".into(),
                source_ip: "http.sourceIp".into(),
                source_principal: "http.sourcePrincipal".into(),
            }),
            principal: Some(Principal {
                entity_type: "principal.type".into(),
                id: "principal.id".into(),
                issuer: "principal.issuer".into(),
            }),
            target: Some(Target {
                asset_type: "target.assetType".into(),
                asset_id: "target.assetId".into(),
                action: "target.action".into(),
            }),
            policy: Some(Policy {
                determining: one("policy.determining"),
                revision: "policy.revision".into(),
                errors: one("policy.errors"),
                reasons: one("policy.reasons"),
            }),
            key_id: "keyId".into(),
            id: "id".into(),
            trace_id: "traceId".into(),
            span_id: "spanId".into(),
            request_type: "requestType",
            organization: "organization".into(),
            instance_name: "instanceName".into(),
            credential_hash: "credentialHash".into(),
            ..Record::default()
        };
        let json: Value = serde_json::from_slice(&record.json().unwrap()).unwrap();
        let mut texts = 0;
        for name in Shape::names() {
            let found = json.pointer(&format!("/{}", name.replace('.', "/"))).unwrap();
            let text = found.get(0).unwrap_or(found).as_str();
            assert!(text.is_none_or(|text| text == name), "{name}: {found}");
            texts += usize::from(text.is_some());
        }
        assert_eq!(texts, 30);
        assert_eq!(record.json().unwrap(), record.clone().into_owned().json().unwrap());
    }

    #[test]
    fn its_fields_are_those_of_the_message() {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let messages: Vec<_> = files.file.iter().flat_map(|file| &file.message_type).collect();
        let named = |name: &str| -> &DescriptorProto {
            messages.iter().find(|message| message.name() == name).unwrap()
        };
        let mut expected = Vec::new();
        for field in &named("DecisionRecord").field {
            match field.type_name().rsplit_once('.') {
                Some((_, inner)) => expected.extend(
                    named(inner)
                        .field
                        .iter()
                        .map(|it| [field.json_name(), ".", it.json_name()].concat()),
                ),
                None => expected.push(field.json_name().to_owned()),
            }
        }
        let mut found = Shape::names();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }
}
