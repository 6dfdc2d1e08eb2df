//! What a policy sees of a request: `context` and the principal's attributes.
//!
//! Values are built as Cedar values, never as Cedar text, so nothing a client sends is parsed as
//! policy. What Cedar can't hold (a fraction, `null`, an integer beyond 64 bits) is left out, and so
//! is what no policy looks at ([`Wants`]): building it would cost more than deciding.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy_core::ast::{Context, Name, PartialValue, Value};
use cedar_policy_core::extensions::Extensions;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::EvaluationError;
use super::footprint::{Fields, Wants};
use crate::identity::Principal;
use crate::path::CanonicalPath;
use crate::policy::{self, Question};
use crate::request::{Content, Descriptors, Request};

/// The names of Cedar's constructors, parsed once.
#[derive(Debug)]
pub(super) struct Constructors {
    ip: Name,
    datetime: Name,
}

impl Constructors {
    pub(super) fn new() -> Option<Self> {
        let name = |text| Name::parse_unqualified_name(text).ok();
        Some(Self { ip: name("ip")?, datetime: name("datetime")? })
    }
}

/// `{http: {method, host, path, query, headers, body}, source: {ip, principal}, time}`.
///
/// `query` maps a name to the set of its values. `headers` maps a name in lower case to its value;
/// several are joined with a comma and bytes that are not UTF-8 are `!`, both as Envoy itself does
/// it, so that a policy sees the same whichever form Envoy sends.
pub(super) fn context(
    question: &Question<'_>,
    wants: &Wants,
    constructors: &Constructors,
    descriptors: Option<&Descriptors>,
) -> Result<Context, EvaluationError> {
    let (request, path) = match question.context {
        policy::Context::Http { request, path } => (request, path),
        policy::Context::Stated(stated) => {
            return of_statement(&stated.context, question, wants, constructors);
        }
    };
    let mut source = Vec::new();
    if let Some(ip) = request.source.ip.filter(|_| wants.ip) {
        source.push(("ip", call(&constructors.ip, ip.to_string())?));
    }
    if let Some(peer) = question.principal.peer.as_deref().filter(|_| wants.peer) {
        source.push(("principal", peer.into()));
    }
    let mut fields = vec![
        ("http", http(request, path, wants, descriptors)?),
        ("source", Value::record(source, None)),
    ];
    if wants.time {
        fields.push(("time", call(&constructors.datetime, question.now.rfc3339())?));
    }
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
    Ok(Context::Value(std::sync::Arc::new(fields)))
}

/// What an application states in place of a request. Two names are not its to state: `time` is told
/// by our clock, and `source`, the peer, is what a proxy has verified.
fn of_statement(
    context: &Map<String, Json>,
    question: &Question<'_>,
    wants: &Wants,
    constructors: &Constructors,
) -> Result<Context, EvaluationError> {
    let stated = context.iter().filter(|(name, _)| !matches!(name.as_str(), "time" | "source"));
    let mut fields: BTreeMap<_, _> =
        stated.filter_map(|(name, json)| Some((name.as_str().into(), claim(json)?))).collect();
    if wants.time {
        let time = call(&constructors.datetime, question.now.rfc3339())?;
        fields.insert("time".into(), time);
    }
    Ok(Context::Value(std::sync::Arc::new(fields)))
}

/// What an application states of an entity, as far as some condition names it.
pub(super) fn stated_attributes(
    stated: &Map<String, Json>,
    names: &BTreeSet<String>,
) -> Vec<(String, Value)> {
    let named = stated.iter().filter(|(name, _)| names.contains(name.as_str()));
    named.filter_map(|(name, json)| Some((name.clone(), claim(json)?))).collect()
}

/// The attributes that a request gives its principal: `issuer`, when there is one, and `claims`.
pub(super) fn principal_attributes(
    question: &Question<'_>,
    wants: &Wants,
) -> Vec<(&'static str, Value)> {
    let mut attributes = Vec::new();
    if wants.claims.is_seen() {
        attributes.push(("claims", claims(&question.principal.claims, &wants.claims)));
    }
    if let Some(issuer) = question.principal.issuer.as_deref().filter(|_| wants.issuer) {
        attributes.push(("issuer", issuer.into()));
    }
    attributes
}

/// What the policies see of a principal, as text: two principals of one sight are one to them, under
/// whatever circumstances.
#[derive(Debug, Serialize)]
pub(in crate::policy) struct Sight<'a> {
    entity_type: &'a str,
    id: &'a str,
    groups: &'a [String],
    issuer: Option<&'a str>,
    peer: Option<&'a str>,
    claims: Vec<(&'a str, &'a Json)>,
}

impl<'a> Sight<'a> {
    pub(super) fn new(principal: &'a Principal, wants: &Wants) -> Self {
        let claims = principal.claims.iter().filter(|(name, _)| wants.claims.has(name));
        Self {
            entity_type: &principal.entity_type,
            id: &principal.id,
            groups: &principal.groups,
            issuer: principal.issuer.as_deref().filter(|_| wants.issuer),
            peer: principal.peer.as_deref().filter(|_| wants.peer),
            claims: claims.map(|(name, json)| (name.as_str(), json)).collect(),
        }
    }
}

fn http(
    request: &Request,
    path: &CanonicalPath,
    wants: &Wants,
    descriptors: Option<&Descriptors>,
) -> Result<Value, EvaluationError> {
    let mut http: Vec<(&str, Value)> = Vec::new();
    if wants.method {
        http.push(("method", request.method.as_str().into()));
    }
    if wants.host {
        http.push(("host", request.host.name().into()));
    }
    if wants.path {
        http.push(("path", path.as_str().into()));
    }
    if wants.query.is_seen() {
        http.push(("query", query(request.raw_query(), &wants.query)));
    }
    if wants.headers.is_seen() {
        http.push(("headers", headers(request, &wants.headers)));
    }
    if wants.body {
        http.push(("body", body(request, path, descriptors)?));
    }
    Ok(Value::record(http, None))
}

/// `{state, json, form}`: `json` and `form` are there when the whole body is of that type. `form`
/// maps a name to the set of its values, in which an empty record stands for each that Cedar can't
/// hold: so a set that equals another has nothing besides.
fn body(
    request: &Request,
    path: &CanonicalPath,
    descriptors: Option<&Descriptors>,
) -> Result<Value, EvaluationError> {
    let mut body = vec![("state", Value::from(request.body.state()))];
    match request.content(path, descriptors)? {
        Content::Opaque => {}
        Content::Json(json) => body.extend(claim(&json).map(|json| ("json", json))),
        Content::Form(fields) => {
            let nothing = || Value::empty_record(None);
            let value = |value: &Json| claim(value).unwrap_or_else(nothing);
            let set = |values: Vec<Json>| Value::set(values.iter().map(value), None);
            let fields = fields.into_iter().map(|(name, values)| (name, set(values)));
            body.push(("form", Value::record(fields, None)));
        }
    }
    Ok(Value::record(body, None))
}

fn claims(claims: &Map<String, Json>, wanted: &Fields) -> Value {
    let claims = claims.iter().filter(|(name, _)| wanted.has(name));
    Value::record(claims.filter_map(|(name, json)| Some((name.as_str(), claim(json)?))), None)
}

/// A claim's value, if Cedar can hold it.
pub(super) fn claim(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => number.as_i64()?.into(),
        Json::String(value) => value.as_str().into(),
        Json::Array(items) => Value::set(items.iter().filter_map(claim), None),
        Json::Object(fields) => claims(fields, &Fields::All),
    })
}

fn query(raw: &str, wanted: &Fields) -> Value {
    let mut values: BTreeMap<_, Vec<Value>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(raw.as_bytes()) {
        if wanted.has(&name) {
            values.entry(name.into_owned()).or_default().push(value.into_owned().into());
        }
    }
    Value::record(values.into_iter().map(|(name, values)| (name, Value::set(values, None))), None)
}

fn headers(request: &Request, wanted: &Fields) -> Value {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in request.headers.iter().filter(|(name, _)| wanted.has(name)) {
        let text = joined.entry(name).and_modify(|text| text.push(',')).or_default();
        for chunk in value.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| '!'));
        }
    }
    Value::record(joined, None)
}

fn call(constructor: &Name, argument: String) -> Result<Value, EvaluationError> {
    let function = Extensions::all_available().func(constructor);
    let function = function.map_err(|error| EvaluationError::Question(error.to_string()))?;
    match function.call(&[argument.into()]) {
        Ok(PartialValue::Value(value)) => Ok(value),
        Ok(PartialValue::Residual(_)) => Err(EvaluationError::Question(constructor.to_string())),
        Err(error) => Err(EvaluationError::Question(error.to_string())),
    }
}
