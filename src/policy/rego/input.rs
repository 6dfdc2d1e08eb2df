//! The input document: what OPA-Envoy gives a policy of a `CheckRequest`, value by value.
//!
//! `attributes` has the names of the message's JSON form, and what is absent in the message is
//! absent here. One thing is ours on purpose: paths are the canonical ones (in `path`, `:path` and
//! `parsed_path`), so that a policy never sees a path that two readers could read differently, and
//! no segment is dropped. Policies that say `input.placet` find there who was authenticated and
//! what the routes made of the request.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use percent_encoding::percent_decode_str;
use regorus::Value;
use serde_json::{Map, Value as Json};

use crate::path::CanonicalPath;
use crate::policy::{Question, Stated};
use crate::request::{Body, BodyFault, Content, Descriptors, Request, Source};

/// Which parts of the document there are.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// `parsed_body` and `truncated_body`.
    pub(super) parse_body: bool,
    /// What gRPC methods take, for `parsed_body`.
    pub(super) descriptors: Option<Arc<Descriptors>>,
    /// `placet`.
    pub(super) placet: bool,
}

impl Shape {
    /// The document of an HTTP request.
    pub(super) fn http(
        &self,
        question: &Question<'_>,
        request: &Request,
        path: &CanonicalPath,
    ) -> Result<Value, BodyFault> {
        let mut input = Fields::default();
        input.set("attributes", attributes(request, path));
        input.set("parsed_path", list(path.segments().map(decoded)));
        input.set("parsed_query", query(request.raw_query()));
        if self.parse_body {
            let content = request.content(path, self.descriptors.as_deref())?;
            input.set("parsed_body", parsed_body(content));
            input.set("truncated_body", matches!(request.body, Body::Partial(_)));
        }
        let mut version = Fields::default();
        version.set("ext_authz", "v3");
        version.set("encoding", "protojson");
        input.set("version", version);
        if self.placet {
            input.set("placet", placet(question));
        }
        Ok(input.into())
    }
}

/// The document of a question that comes without a request.
pub(super) fn stated(question: &Question<'_>, stated: &Stated) -> Value {
    let mut placet = placet(question);
    for (name, fields) in
        [("context", &stated.context), ("action", &stated.action), ("asset", &stated.asset)]
    {
        placet.set(name, object(fields));
    }
    let mut input = Fields::default();
    input.set("placet", placet);
    input.into()
}

/// `{principal: {type, id, issuer, groups, claims, peer}, target: {type, id, action}}`.
fn placet(question: &Question<'_>) -> Fields {
    let principal = question.principal;
    let mut who = Fields::default();
    who.set("type", principal.entity_type.as_str());
    who.set("id", principal.id.as_str());
    who.set("groups", list(principal.groups.iter().map(String::as_str)));
    who.set("claims", object(&principal.claims));
    who.some("issuer", principal.issuer.as_deref());
    who.some("peer", principal.peer.as_deref());
    let mut target = Fields::default();
    target.set("type", question.target.asset_type.as_str());
    target.set("id", question.target.asset_id.as_str());
    target.set("action", question.target.action.as_str());
    let mut placet = Fields::default();
    placet.set("principal", who);
    placet.set("target", target);
    placet
}

fn attributes(request: &Request, path: &CanonicalPath) -> Value {
    let mut attributes = Fields::default();
    attributes.set("source", end(&request.source));
    attributes.set("destination", end(&request.destination));
    let mut part = Fields::default();
    part.some("time", request.time.map(|time| time.rfc3339()).as_deref());
    part.set("http", http(request, path));
    attributes.set("request", part);
    if !request.extensions.is_empty() {
        let pairs = request.extensions.iter();
        let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_str()));
        attributes.set("contextExtensions", Fields::of(pairs));
    }
    attributes.set("metadataContext", metadata(&request.metadata));
    if !request.route_metadata.is_empty() {
        attributes.set("routeMetadataContext", metadata(&request.route_metadata));
    }
    if let Some(name) = &request.server_name {
        attributes.set("tlsSession", Fields::of([("sni", name.as_str())]));
    }
    attributes.into()
}

fn end(source: &Source) -> Fields {
    let mut end = Fields::default();
    if let Some(ip) = source.ip {
        let mut socket = Fields::default();
        socket.set("address", ip.to_string());
        if let Some(port) = source.port {
            socket.set("portValue", u64::from(port));
        }
        let mut address = Fields::default();
        address.set("socketAddress", socket);
        end.set("address", address);
    }
    end.some("principal", source.principal.as_deref());
    end.some("certificate", source.certificate.as_deref());
    end
}

fn metadata(namespaces: &Map<String, Json>) -> Fields {
    let mut metadata = Fields::default();
    if !namespaces.is_empty() {
        metadata.set("filterMetadata", object(namespaces));
    }
    metadata
}

fn http(request: &Request, path: &CanonicalPath) -> Fields {
    let host = request.host.authority("");
    let target = match request.target.split_once('?') {
        Some((_, query)) => format!("{path}?{query}"),
        None => path.to_string(),
    };
    let mut http = Fields::default();
    http.set("headers", headers(request, &host, &target));
    http.some("id", Some(request.id.as_str()).filter(|id| !id.is_empty()));
    http.set("method", request.method.as_str());
    http.set("scheme", request.scheme.as_str());
    http.set("host", host);
    http.set("path", target);
    http.some("protocol", Some(request.protocol.as_str()).filter(|text| !text.is_empty()));
    if let Some(size) = request.size {
        http.set("size", size);
    }
    if let Body::Whole(bytes) | Body::Partial(bytes) = &request.body {
        match str::from_utf8(bytes) {
            Ok(text) => http.set("body", text),
            Err(_) => http.set("rawBody", BASE64_STANDARD.encode(bytes)),
        }
    }
    http
}

/// By name in lower case: several values are joined with a comma and a byte that is no UTF-8 is
/// `!`, both as Envoy itself does it, so that a policy sees the same whichever form Envoy sends.
fn headers(request: &Request, host: &str, target: &str) -> Fields {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in request.headers.iter() {
        let text = joined.entry(name).and_modify(|text| text.push(',')).or_default();
        for chunk in value.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| '!'));
        }
    }
    let mut fields = Fields::of(joined);
    fields.set(":authority", host);
    fields.set(":method", request.method.as_str());
    fields.set(":path", target);
    fields.set(":scheme", request.scheme.as_str());
    fields
}

/// A canonical path's escapes are all good.
fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

fn query(raw: &str) -> Fields {
    let mut values: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(raw.as_bytes()) {
        values.entry(name.into_owned()).or_default().push(Value::from(&*value));
    }
    Fields::of(values)
}

/// What a whole body of a type that we read says; null for any other.
fn parsed_body(content: Content) -> Value {
    match content {
        Content::Opaque => Value::Null,
        Content::Json(json) => value(&json),
        Content::Form(fields) => {
            let values = |values: Vec<Json>| list(values.iter().map(value));
            Fields::of(fields.into_iter().map(|(name, each)| (name, values(each)))).into()
        }
    }
}

fn object(fields: &Map<String, Json>) -> Fields {
    Fields::of(fields.iter().map(|(name, json)| (name.as_str(), value(json))))
}

/// JSON as a value of Rego.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => {
            if let Some(number) = number.as_u64() {
                Value::from(number)
            } else if let Some(number) = number.as_i64() {
                Value::from(number)
            } else {
                number.as_f64().map_or(Value::Null, Value::from)
            }
        }
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Json::Object(fields) => object(fields).into(),
    }
}

fn list<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Value {
    Value::from(items.into_iter().map(Into::into).collect::<Vec<Value>>())
}

/// An object in the making.
#[derive(Default)]
struct Fields(BTreeMap<Value, Value>);

impl Fields {
    fn of<N: Into<Value>, V: Into<Value>>(fields: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(Value::from(name), value.into());
    }

    fn some(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }
}

impl From<Fields> for Value {
    fn from(fields: Fields) -> Self {
        Self::from(fields.0)
    }
}
