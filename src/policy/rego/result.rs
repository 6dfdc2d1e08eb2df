//! What a policy answers, in the forms of OPA-Envoy, to what follows from it.
//!
//! A boolean, or an object with `allowed`. Members that OPA-Envoy does not know are passed over, as
//! it does; one that it knows and that has another form is a fault which names it: half of what a
//! policy wants is not what it wants. What concerns the other outcome (a `body` of an allow) is not
//! read.

use regorus::Value;
use serde_json::{Map, Value as Json};

use crate::policy::changes::{Answer, ChangeFault, Changes, CustomDenial, Mutations, Protected};
use crate::policy::verdict::Additions;
use crate::route::Target;

/// A result, understood.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) is_allowed: bool,
    pub(super) reasons: Vec<String>,
    /// Beside an allow.
    pub(super) additions: Additions,
    /// Beside a denial.
    pub(super) denial: Option<Box<CustomDenial>>,
}

/// Why a result can't be understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResultFault {
    #[error("the policy's result is neither a boolean nor an object")]
    Form,
    #[error("the policy's result has no `allowed`")]
    NoAllowed,
    #[error("the policy's result has a `{field}` that is not {expected}")]
    Field { field: &'static str, expected: &'static str },
    #[error("the policy's result wants what can't be done: {0}")]
    Change(#[from] ChangeFault),
}

/// Reads the value of the query; undefined is a denial.
pub(super) fn read(value: &Value, protected: &Protected) -> Result<Read, ResultFault> {
    let is_allowed = match value {
        Value::Undefined => false,
        Value::Bool(allowed) => *allowed,
        Value::Object(_) => return object(value, protected),
        _ => return Err(ResultFault::Form),
    };
    Ok(Read { is_allowed, ..Read::default() })
}

fn object(value: &Value, protected: &Protected) -> Result<Read, ResultFault> {
    let is_allowed = match member(value, "allowed") {
        Some(Value::Bool(allowed)) => *allowed,
        Some(_) => return Err(wrong("allowed", "a boolean")),
        None => return Err(ResultFault::NoAllowed),
    };
    let mut read = Read { is_allowed, reasons: reasons(value)?, ..Read::default() };
    if is_allowed {
        read.additions = additions(value, protected)?;
    } else {
        let answer = Answer {
            status: status(value)?,
            headers: headers(value, "headers")?,
            body: text(value, "body")?,
            metadata: metadata(value)?,
        };
        read.denial = Some(Box::new(CustomDenial::new(answer, protected)?));
    }
    Ok(read)
}

fn additions(value: &Value, protected: &Protected) -> Result<Additions, ResultFault> {
    let changes = Changes {
        headers: headers(value, "headers")?,
        remove_headers: texts(value, "request_headers_to_remove")?,
        response_headers: headers(value, "response_headers_to_add")?,
        query: query(value)?,
        remove_query: texts(value, "query_parameters_to_remove")?,
        metadata: metadata(value)?,
    };
    let subject = text(value, "subject")?;
    if subject.as_ref().is_some_and(String::is_empty) {
        return Err(wrong("subject", "a text with at least one character"));
    }
    Ok(Additions {
        subject,
        entitlements: entitlements(value)?,
        mutations: Mutations::new(changes, protected)?,
    })
}

/// A member that is there; an explicit null is as good as none.
fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let member = value.as_object().ok()?.get(&Value::from(name))?;
    (!matches!(member, Value::Null | Value::Undefined)).then_some(member)
}

fn wrong(field: &'static str, expected: &'static str) -> ResultFault {
    ResultFault::Field { field, expected }
}

fn text(value: &Value, field: &'static str) -> Result<Option<String>, ResultFault> {
    match member(value, field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.to_string())),
        Some(_) => Err(wrong(field, "a text")),
    }
}

/// The elements of a list; of a set too, which OPA turns into a list.
fn elements(value: &Value) -> Option<Vec<&Value>> {
    match value {
        Value::Array(list) => Some(list.iter().collect()),
        Value::Set(set) => Some(set.iter_sorted().collect()),
        _ => None,
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    let strings = elements(value)?.into_iter();
    strings.map(|element| Some(element.as_string().ok()?.to_string())).collect()
}

fn texts(value: &Value, field: &'static str) -> Result<Vec<String>, ResultFault> {
    let Some(list) = member(value, field) else { return Ok(Vec::new()) };
    strings(list).ok_or(wrong(field, "a list of texts"))
}

/// A text, or a list of texts.
fn one_or_more(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.to_string()]),
        other => strings(other),
    }
}

fn reasons(value: &Value) -> Result<Vec<String>, ResultFault> {
    let Some(reason) = member(value, "reason") else { return Ok(Vec::new()) };
    one_or_more(reason).ok_or(wrong("reason", "a text or a list of texts"))
}

/// Each name with its value, or with each of several.
fn pairs(value: &Value) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for (name, value) in value.as_object().ok()?.iter_sorted() {
        let name = name.as_string().ok()?;
        pairs.extend(one_or_more(value)?.into_iter().map(|value| (name.to_string(), value)));
    }
    Some(pairs)
}

/// An object, or a list of them.
fn headers(value: &Value, field: &'static str) -> Result<Vec<(String, String)>, ResultFault> {
    let Some(headers) = member(value, field) else { return Ok(Vec::new()) };
    let found = match elements(headers) {
        None => pairs(headers),
        Some(list) => list
            .into_iter()
            .map(pairs)
            .collect::<Option<Vec<_>>>()
            .map(|lists| lists.into_iter().flatten().collect()),
    };
    found.ok_or(wrong(field, "an object of texts and lists of texts, or a list of such objects"))
}

fn query(value: &Value) -> Result<Vec<(String, String)>, ResultFault> {
    let field = "query_parameters_to_set";
    let Some(parameters) = member(value, field) else { return Ok(Vec::new()) };
    pairs(parameters).ok_or(wrong(field, "an object of texts and lists of texts"))
}

fn status(value: &Value) -> Result<Option<u16>, ResultFault> {
    let Some(status) = member(value, "http_status") else { return Ok(None) };
    status.as_u16().map(Some).map_err(|_| wrong("http_status", "a whole number"))
}

fn metadata(value: &Value) -> Result<Map<String, Json>, ResultFault> {
    let field = "dynamic_metadata";
    let Some(metadata) = member(value, field) else { return Ok(Map::new()) };
    match json(metadata) {
        Some(Json::Object(fields)) => Ok(fields),
        _ => Err(wrong(field, "an object with texts for names")),
    }
}

/// A value as JSON; a set is a list. `None` when it has a name that is no text.
fn json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Null | Value::Undefined => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64()?.into(),
        },
        Value::String(text) => Json::String(text.to_string()),
        Value::Object(fields) => {
            let fields = fields.iter_sorted();
            let fields = fields
                .map(|(name, value)| Some((name.as_string().ok()?.to_string(), json(value)?)));
            Json::Object(fields.collect::<Option<_>>()?)
        }
        list => Json::Array(elements(list)?.into_iter().map(json).collect::<Option<_>>()?),
    })
}

fn entitlements(value: &Value) -> Result<Option<Vec<Target>>, ResultFault> {
    let field = "entitlements";
    let Some(list) = member(value, field) else { return Ok(None) };
    let targets = elements(list).and_then(|list| list.into_iter().map(target).collect());
    targets.map(Some).ok_or(wrong(field, "a list of objects with `type`, `id` and `action`"))
}

fn target(value: &Value) -> Option<Target> {
    let text = |name| Some(member(value, name)?.as_string().ok()?.to_string());
    Some(Target { asset_type: text("type")?, asset_id: text("id")?, action: text("action")? })
}
