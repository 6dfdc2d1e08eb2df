//! What a policy sees of a request: `context` and the principal's attributes.
//!
//! Values are built as Cedar values, never as Cedar text, so nothing a client sends is parsed as
//! policy. What Cedar can't hold (a fraction, `null`, an integer beyond 64 bits) is left out.

use std::collections::BTreeMap;

use cedar_policy::{Context, ContextCreationError, RestrictedExpression as Value};
use serde_json::{Map, Value as Json};

use super::Question;
/// `{http: {method, host, path, query, headers}, source: {ip, principal}, time}`.
///
/// `query` maps a name to the set of its values. `headers` maps a name in lower case to its value;
/// several are joined with a comma and bytes that are not UTF-8 are `!`, both as Envoy itself does
/// it, so that a policy sees the same whichever form Envoy sends.
pub(super) fn context(question: &Question<'_>) -> Result<Context, Box<ContextCreationError>> {
    let http = [
        ("method", text(&question.request.method)),
        ("host", text(question.request.host.name())),
        ("path", text(question.path.as_str())),
        ("query", record(query(question.request.raw_query()))?),
        ("headers", record(headers(question))?),
    ];
    let source = [
        ("ip", question.request.source.ip.map(|ip| Value::new_ip(ip.to_string()))),
        ("principal", question.principal.peer.as_deref().map(text)),
    ];
    let source = source.into_iter().filter_map(|(name, value)| Some((name, value?)));
    Context::from_pairs([
        ("http".to_owned(), record(owned(http))?),
        ("source".to_owned(), record(owned(source))?),
        ("time".to_owned(), Value::new_datetime(question.now.rfc3339())),
    ])
    .map_err(Box::new)
}

/// The attributes that a request gives its principal: `issuer`, when there is one, and `claims`.
pub(super) fn principal_attributes(
    question: &Question<'_>,
) -> Result<Vec<(String, Value)>, Box<ContextCreationError>> {
    let claims = claims_record(&question.principal.claims)?;
    let mut attributes = vec![("claims".to_owned(), claims)];
    if let Some(issuer) = &question.principal.issuer {
        attributes.push(("issuer".to_owned(), text(issuer)));
    }
    Ok(attributes)
}

fn claims_record(claims: &Map<String, Json>) -> Result<Value, Box<ContextCreationError>> {
    let mut fields = Vec::with_capacity(claims.len());
    for (name, json) in claims {
        if let Some(value) = claim(json)? {
            fields.push((name.clone(), value));
        }
    }
    record(fields)
}

fn claim(json: &Json) -> Result<Option<Value>, Box<ContextCreationError>> {
    Ok(match json {
        Json::Null => None,
        Json::Bool(value) => Some(Value::new_bool(*value)),
        Json::Number(number) => number.as_i64().map(Value::new_long),
        Json::String(value) => Some(text(value)),
        Json::Array(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(claim).collect();
            Some(Value::new_set(items?.into_iter().flatten()))
        }
        Json::Object(fields) => Some(claims_record(fields)?),
    })
}

fn query(raw: &str) -> Vec<(String, Value)> {
    let mut values: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(raw.as_bytes()) {
        values.entry(name.into_owned()).or_default().push(Value::new_string(value.into_owned()));
    }
    values.into_iter().map(|(name, values)| (name, Value::new_set(values))).collect()
}

fn headers(question: &Question<'_>) -> Vec<(String, Value)> {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in question.request.headers.iter() {
        let text = joined.entry(name).and_modify(|text| text.push(',')).or_default();
        for chunk in value.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| '!'));
        }
    }
    joined.into_iter().map(|(name, text)| (name.to_owned(), Value::new_string(text))).collect()
}

fn record(
    fields: impl IntoIterator<Item = (String, Value)>,
) -> Result<Value, Box<ContextCreationError>> {
    Value::new_record(fields).map_err(|error| Box::new(error.into()))
}

fn owned<'a>(
    fields: impl IntoIterator<Item = (&'a str, Value)>,
) -> impl Iterator<Item = (String, Value)> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value))
}

fn text(value: &str) -> Value {
    Value::new_string(value.to_owned())
}
