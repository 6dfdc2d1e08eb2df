//! The AuthZEN Authorization API 1.0 over HTTP, on the `http` listener.
//!
//! Off until a scope's settings switch it on. A denial is an answer like another: 200 and
//! `"decision": false`. Every other status says that a question was not answered: who asks can't be told
//! (401), may not (403), asks what can't be read (400, 413), or met a fault of ours (500, 503). The
//! metadata holds nothing but addresses, so that anyone may read it.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value, json};

use super::desk::{Answer, DEADLINE, Desk, Refusal};
use super::question::{self, Evaluations, Malformed};
use crate::authorizer::Reason;
use crate::json;
use crate::scope::{CallerError, Presented, PublicUrl, Scope};
use crate::search::{Found, Open};

/// A longer question is not read.
const MAX_BODY_BYTES: usize = 1024 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";
const SEARCH_SUBJECT: &str = "/access/v1/search/subject";
const SEARCH_RESOURCE: &str = "/access/v1/search/resource";
const SEARCH_ACTION: &str = "/access/v1/search/action";

/// The routes that AuthZEN adds to the `http` listener.
pub fn router(desk: Desk) -> Router {
    let at = |endpoint: Endpoint| {
        post(move |State(desk): State<Desk>, request: Request| serve(desk, endpoint, request))
    };
    Router::new()
        .route(EVALUATION, at(Endpoint::Evaluation))
        .route(EVALUATIONS, at(Endpoint::Evaluations))
        .route(SEARCH_SUBJECT, at(Endpoint::Search(Open::Subject)))
        .route(SEARCH_RESOURCE, at(Endpoint::Search(Open::Asset)))
        .route(SEARCH_ACTION, at(Endpoint::Search(Open::Action)))
        .route(PublicUrl::METADATA, get(metadata))
        .route(&format!("{}/{{*rest}}", PublicUrl::METADATA), get(metadata))
        .with_state(desk)
}

#[derive(Clone, Copy, Debug)]
enum Endpoint {
    Evaluation,
    Evaluations,
    Search(Open),
}

async fn serve(desk: Desk, endpoint: Endpoint, request: Request) -> Response {
    let id = request.headers().get(REQUEST_ID).cloned();
    let mut response = match answer(&desk, endpoint, request, id.as_ref()).await {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(refusal) => refused(&refusal),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(id) = id {
        headers.insert(REQUEST_ID, id);
    }
    response
}

async fn answer(
    desk: &Desk,
    endpoint: Endpoint,
    request: Request,
    id: Option<&HeaderValue>,
) -> Result<Value, Refusal> {
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let values = request.headers().get_all(header::AUTHORIZATION).iter();
    let workload = super::workload(request.extensions());
    let scope = desk.caller(Presented::new(values.map(HeaderValue::as_bytes), workload))?;
    let scope = scope.as_ref();
    desk.within(DEADLINE, scope, id, async {
        let body = body(request).await?;
        match endpoint {
            Endpoint::Evaluation => {
                Ok(written(desk.single(scope, id, &question::single(&body)?).await?))
            }
            Endpoint::Evaluations => match question::evaluations(&body)? {
                Evaluations::Single(single) => Ok(written(desk.single(scope, id, &single).await?)),
                Evaluations::Batch(batch) => {
                    let answers = desk.batch(scope, id, &batch).await;
                    let answers: Vec<_> = answers.into_iter().map(written).collect();
                    Ok(json!({"evaluations": answers}))
                }
            },
            Endpoint::Search(open) => {
                let searching = question::search(open, &body)?;
                let found = desk.search(scope, &searching).await?;
                let kind = match open {
                    Open::Subject => Some(searching.search.principal.entity_type.as_str()),
                    Open::Asset => Some(searching.search.target.asset_type.as_str()),
                    Open::Action => None,
                };
                Ok(listed(found, kind))
            }
        }
    })
    .await
}

async fn body(request: Request) -> Result<Map<String, Value>, Refusal> {
    let (parts, body) = request.into_parts();
    let mut types = parts.headers.get_all(header::CONTENT_TYPE).iter();
    let is_json = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        let media_type = text.split_once(';').map_or(text, |(media_type, _)| media_type);
        media_type.trim().eq_ignore_ascii_case("application/json")
    };
    if !types.next().is_some_and(is_json) || types.next().is_some() {
        return Err(Malformed::ContentType.into());
    }
    let bytes = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let bytes = bytes.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Refusal::TooLarge(MAX_BODY_BYTES),
        None => Malformed::Broken.into(),
    })?;
    Ok(json::object(&bytes.to_bytes()).map_err(Malformed::from)?)
}

fn written(answer: Answer) -> Value {
    let Answer { decision, context } = answer;
    if context.is_empty() {
        return json!({"decision": decision});
    }
    json!({"decision": decision, "context": context})
}

/// Entities of the type `kind`, or without one actions.
fn listed(found: Found, kind: Option<&str>) -> Value {
    let result = |id: &String| match kind {
        Some(kind) => json!({"type": kind, "id": id}),
        None => json!({"name": id}),
    };
    let results: Vec<Value> = found.ids.iter().map(result).collect();
    let next = found.next.map(|next| next.text()).unwrap_or_default();
    json!({"results": results, "page": {"next_token": next, "count": results.len()}})
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::Closed => StatusCode::NOT_FOUND,
        Refusal::Caller(CallerError::Missing | CallerError::Refused) => StatusCode::UNAUTHORIZED,
        Refusal::NotSwitchedOn => StatusCode::FORBIDDEN,
        Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
        Refusal::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Unsearchable => StatusCode::NOT_IMPLEMENTED,
        Refusal::Caller(CallerError::NotLoaded)
        | Refusal::Fault(
            Reason::Overload | Reason::LogFull | Reason::Deadline | Reason::KeyUnavailable,
        ) => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Fault(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = (status, format!("{refusal}\n")).into_response();
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static(r#"Basic realm="placet", charset="UTF-8""#);
        headers.insert(header::WWW_AUTHENTICATE, scheme);
    } else if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// What the scopes that are known by this address answer.
async fn metadata(State(desk): State<Desk>, request: Request) -> Response {
    let scopes = desk.scopes();
    let path = request.uri().path();
    let known = |scope: &&Scope| {
        let api = scope.api.as_ref().filter(|api| api.authzen);
        let url = api.and_then(|api| api.public_url.as_ref());
        url.is_some_and(|url| url.metadata_path() == path)
    };
    let scopes: Vec<&Scope> = scopes.iter().map(AsRef::as_ref).filter(known).collect();
    let url = scopes.first().and_then(|scope| scope.api.as_ref()?.public_url.as_ref());
    let Some(url) = url else { return refused(&Refusal::Closed) };
    let mut document = json!({
        "policy_decision_point": url.as_str(),
        "access_evaluation_endpoint": url.of(EVALUATION),
        "access_evaluations_endpoint": url.of(EVALUATIONS),
    });
    if scopes.iter().all(|scope| scope.authorizer.policy.known_actions().is_some())
        && let Some(members) = document.as_object_mut()
    {
        for (name, path) in [
            ("search_subject_endpoint", SEARCH_SUBJECT),
            ("search_resource_endpoint", SEARCH_RESOURCE),
            ("search_action_endpoint", SEARCH_ACTION),
        ] {
            members.insert(name.to_owned(), url.of(path).into());
        }
    }
    ([(header::CACHE_CONTROL, "public, max-age=3600")], axum::Json(document)).into_response()
}

#[cfg(test)]
mod tests;
