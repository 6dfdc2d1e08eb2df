//! Questions in the words of AuthZEN 1.0, read from JSON.
//!
//! What must be there and is not, or is of another kind, is [`Malformed`]; what is not known is passed
//! over, as the specification has it. One request can hold many questions: there a malformed one is an
//! answer of its own (no), and the others are still answered.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::authorizer::Statement;
use crate::identity::{Principal, UnfitSubject};
use crate::json::JsonFault;
use crate::policy::Stated;
use crate::route::Target;
use crate::search::{Cursor, Open, Search, SearchError};

/// Questions in one request at most.
const MAX_QUESTIONS: usize = 1_000;

/// Results on a page when the caller does not say how many, and at most.
const PAGE: (usize, usize) = (100, 1_000);

/// One question.
#[derive(Debug)]
pub struct Single {
    /// What is asked.
    pub statement: Statement,
    /// Whether a yes is to be signed (`options.token`).
    pub signed: bool,
}

/// Many questions.
#[derive(Debug)]
pub struct Batch {
    /// What is asked, in order.
    pub items: Vec<Result<Statement, Malformed>>,
    /// Which of them are answered.
    pub semantic: Semantic,
    /// Whether each yes is to be signed.
    pub signed: bool,
}

/// What `/access/v1/evaluations` is asked.
#[derive(Debug)]
pub enum Evaluations {
    /// Without a list, or with an empty one, it is asked one question.
    Single(Box<Single>),
    /// All of the list.
    Batch(Batch),
}

/// Which questions of a batch are answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Semantic {
    /// Every one.
    ExecuteAll,
    /// Up to the first no.
    DenyOnFirstDeny,
    /// Up to the first yes.
    PermitOnFirstPermit,
}

/// A search, and which page of it.
#[derive(Debug)]
pub struct Searching {
    /// What is searched for.
    pub search: Search,
    /// Where the page begins; the first one without.
    pub from: Option<Cursor>,
    /// How many results it may have.
    pub limit: usize,
}

/// Why a request is no question.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// No JSON that we read.
    #[error("the body {0}")]
    Json(#[from] JsonFault),
    /// The body did not arrive.
    #[error("the body could not be read")]
    Broken,
    /// Not marked as JSON.
    #[error("the content-type is not application/json")]
    ContentType,
    /// Something that must be there is not.
    #[error("`{0}` is missing")]
    Missing(String),
    /// Something is of another kind.
    #[error("`{0}` is not {1}")]
    Kind(String, &'static str),
    /// No one that can be asked about.
    #[error(transparent)]
    Subject(#[from] UnfitSubject),
    /// More questions than one request may hold.
    #[error("`evaluations` holds more than {MAX_QUESTIONS} questions")]
    TooMany,
    /// No page of this search.
    #[error(transparent)]
    Page(#[from] SearchError),
}

/// The body of `/access/v1/evaluation`.
pub fn single(body: &Map<String, Value>) -> Result<Single, Malformed> {
    Ok(Single { statement: statement(body, None)?, signed: options(body)?.1 })
}

/// The body of `/access/v1/evaluations`.
pub fn evaluations(body: &Map<String, Value>) -> Result<Evaluations, Malformed> {
    let items = match body.get("evaluations") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(items)) => items.as_slice(),
        Some(_) => return Err(kind("evaluations", "a list")),
    };
    if items.is_empty() {
        return Ok(Evaluations::Single(Box::new(single(body)?)));
    }
    if items.len() > MAX_QUESTIONS {
        return Err(Malformed::TooMany);
    }
    let (semantic, signed) = options(body)?;
    let item = |item: &Value| statement(object("evaluations[]", item)?, Some(body));
    Ok(Evaluations::Batch(Batch { items: items.iter().map(item).collect(), semantic, signed }))
}

/// The body of a search for what stands in the place `open`.
pub fn search(open: Open, body: &Map<String, Value>) -> Result<Searching, Malformed> {
    let id = |entity: &Entity<'_>, place: Open| {
        if open == place { Ok(String::new()) } else { entity.text("id") }
    };
    let subject = Entity::read("subject", body, None)?;
    let resource = Entity::read("resource", body, None)?;
    let (action, action_properties) = if open == Open::Action {
        (String::new(), Map::new())
    } else {
        let action = Entity::read("action", body, None)?;
        (action.text("name")?, action.properties()?)
    };
    let subject_id = id(&subject, Open::Subject)?;
    let principal = Principal::stated(&subject.text("type")?, &subject_id, subject.properties()?)?;
    let target = Target {
        asset_type: resource.text("type")?,
        asset_id: id(&resource, Open::Asset)?,
        action,
    };
    let stated = Stated {
        context: optional(body, "context")?,
        action: action_properties,
        asset: resource.properties()?,
    };
    let (from, limit) = page(&optional(body, "page")?)?;
    Ok(Searching { search: Search { open, principal, target, stated }, from, limit })
}

/// One question; what it does not hold is taken from `defaults`.
fn statement(
    body: &Map<String, Value>,
    defaults: Option<&Map<String, Value>>,
) -> Result<Statement, Malformed> {
    let subject = Entity::read("subject", body, defaults)?;
    let action = Entity::read("action", body, defaults)?;
    let resource = Entity::read("resource", body, defaults)?;
    let principal =
        Principal::stated(&subject.text("type")?, &subject.text("id")?, subject.properties()?)?;
    let context = match (body.get("context"), defaults) {
        (None, Some(defaults)) => optional(defaults, "context")?,
        _ => optional(body, "context")?,
    };
    Ok(Statement {
        principal: Arc::new(principal),
        target: Target {
            asset_type: resource.text("type")?,
            asset_id: resource.text("id")?,
            action: action.text("name")?,
        },
        stated: Stated { context, action: action.properties()?, asset: resource.properties()? },
    })
}

/// A subject, an action or a resource. One that a question names replaces the default one; only what
/// names it (`type`, `id`, `name`) is taken from there when it is missing.
struct Entity<'a> {
    name: &'static str,
    own: &'a Map<String, Value>,
    default: Option<&'a Map<String, Value>>,
}

impl<'a> Entity<'a> {
    fn read(
        name: &'static str,
        body: &'a Map<String, Value>,
        defaults: Option<&'a Map<String, Value>>,
    ) -> Result<Self, Malformed> {
        let read = |value: &'a Value| object(name, value);
        let own = body.get(name).map(read).transpose()?;
        let default = defaults.and_then(|body| body.get(name)).map(read).transpose()?;
        let own = own.or(default).ok_or_else(|| Malformed::Missing(name.to_owned()))?;
        Ok(Self { name, own, default })
    }

    fn text(&self, member: &str) -> Result<String, Malformed> {
        let path = || format!("{}.{member}", self.name);
        let value = self.own.get(member).or_else(|| self.default?.get(member));
        match value.ok_or_else(|| Malformed::Missing(path()))?.as_str() {
            Some("") => Err(Malformed::Missing(path())),
            Some(text) => Ok(text.to_owned()),
            None => Err(Malformed::Kind(path(), "a string")),
        }
    }

    fn properties(&self) -> Result<Map<String, Value>, Malformed> {
        let path = || format!("{}.properties", self.name);
        match self.own.get("properties") {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(value) => object(&path(), value).cloned(),
        }
    }
}

/// `options`: the semantic, and whether a yes is to be signed.
fn options(body: &Map<String, Value>) -> Result<(Semantic, bool), Malformed> {
    let options = optional(body, "options")?;
    let semantic = match options.get("evaluations_semantic") {
        None | Some(Value::Null) => Semantic::ExecuteAll,
        Some(name) => match name.as_str() {
            Some("execute_all") => Semantic::ExecuteAll,
            Some("deny_on_first_deny") => Semantic::DenyOnFirstDeny,
            Some("permit_on_first_permit") => Semantic::PermitOnFirstPermit,
            _ => {
                let names = "execute_all, deny_on_first_deny or permit_on_first_permit";
                return Err(kind("options.evaluations_semantic", names));
            }
        },
    };
    let signed = match options.get("token") {
        None | Some(Value::Null) => false,
        Some(signed) => signed.as_bool().ok_or_else(|| kind("options.token", "true or false"))?,
    };
    Ok((semantic, signed))
}

/// Where the page begins, and how many results it may have.
fn page(page: &Map<String, Value>) -> Result<(Option<Cursor>, usize), Malformed> {
    let (default, most) = PAGE;
    let limit = match page.get("limit") {
        None | Some(Value::Null) => default,
        Some(limit) => match limit.as_u64() {
            None | Some(0) => return Err(kind("page.limit", "a number from 1 on")),
            Some(limit) => usize::try_from(limit).unwrap_or(most).min(most),
        },
    };
    // The specification's text has the name of the answer, its certification the shorter one.
    let given = ["token", "next_token"].iter().filter_map(|name| page.get(*name));
    let mut given = given.filter(|token| !matches!(token, Value::Null));
    let token = given.next();
    if given.any(|other| token != Some(other)) {
        return Err(SearchError::Cursor.into());
    }
    match token.map(Value::as_str) {
        None | Some(Some("")) => Ok((None, limit)),
        Some(Some(text)) => Ok((Some(Cursor::parse(text)?), limit)),
        Some(None) => Err(kind("page.token", "a string")),
    }
}

/// The members of an object that need not be there.
fn optional(body: &Map<String, Value>, name: &str) -> Result<Map<String, Value>, Malformed> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(value) => object(name, value).cloned(),
    }
}

fn object<'a>(name: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Malformed> {
    value.as_object().ok_or_else(|| kind(name, "an object"))
}

fn kind(path: &str, wanted: &'static str) -> Malformed {
    Malformed::Kind(path.to_owned(), wanted)
}

#[cfg(test)]
mod tests;
