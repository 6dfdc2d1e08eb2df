//! The Envoy edge over plain HTTP: ext_authz's `http_service`, under `/check`.
//!
//! Any process may reach this listener, so the proxy says who it is: `x-placet-caller`, which Envoy
//! sets itself and in place of a client's own (`headers_to_add`), holds the Basic credentials of a scope,
//! or its client certificate names one of a scope's callers; and that scope decides. Method, host and target are those of the call. Nothing else is believed:
//! no `x-forwarded-*`, no header that names a peer; the scheme is a setting. To Envoy a 5xx is no
//! answer, and would pass with `failure_mode_allow`: so what is a 503 over gRPC is a 403 here.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request as Call, State};
use axum::routing::any;
use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::{
    CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpResponse, OkHttpResponse,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use super::CheckService;
use super::decode::{self, BadRequest};
use super::seen::DEFAULT_DEADLINE;
use crate::api::workload;
use crate::authorizer::{Decision, Denial, Grant, Reason};
use crate::request::{Headers, Host, Request};
use crate::scope::{CallerError, Presented, SCOPE_EXTENSION, Scopes};

/// Who asks.
const CALLER: &str = "x-placet-caller";

/// What of an allow must not travel upstream: Envoy's own name for it.
const REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// What is before the target.
const PREFIX: &str = "/check";

/// Longer bodies are refused, as over gRPC.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Fields of the call itself and not of the request that it is about.
const OF_THE_CALL: [&str; 7] = [
    CALLER,
    "host",
    "content-length",
    "connection",
    "transfer-encoding",
    "x-envoy-internal",
    "x-envoy-expected-rq-timeout-ms",
];

/// The routes of the `http` listener.
pub fn router(service: CheckService) -> Router {
    Router::new()
        .route("/check", any(check))
        .route("/check/", any(check))
        .route("/check/{*target}", any(check))
        .with_state(service)
}

async fn check(State(service): State<CheckService>, call: Call) -> Response<Body> {
    let scopes = service.0.scopes.load_full();
    if !scopes.iter().any(|scope| scope.api.as_ref().is_some_and(|api| api.check)) {
        return refused(StatusCode::NOT_FOUND);
    }
    let (parts, body) = call.into_parts();
    let deadline = time_left(&parts.headers).unwrap_or(DEFAULT_DEADLINE).min(DEFAULT_DEADLINE);
    let decoding = async {
        let (client_id, scheme) = caller(&scopes, &parts)?;
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
        let body = body.map_err(|error| {
            let detail =
                format!("the body can't be read, or has over {MAX_BODY_BYTES} bytes: {error}");
            Denial::new(Reason::BadRequest, detail)
        })?;
        request(&parts, body.to_bytes(), scheme, &client_id)
            .map_err(|error| Denial::new(Reason::BadRequest, error))
    };
    answer(service.0.decide_over_http(decoding, deadline).await)
}

/// The scope that the caller may ask, and the scheme of its requests.
fn caller(scopes: &Scopes, call: &Parts) -> Result<(String, &'static str), Denial> {
    let values = call.headers.get_all(CALLER).iter().map(HeaderValue::as_bytes);
    let presented = Presented::new(values, workload(&call.extensions));
    let refused = |error: CallerError| {
        let reason = match error {
            CallerError::Missing | CallerError::Refused => Reason::NoScope,
            CallerError::NotLoaded => Reason::KeyUnavailable,
        };
        Denial::new(reason, error)
    };
    let (scope, api) = scopes.of_caller(presented).map_err(refused)?;
    if api.check {
        Ok((scope.client_id.clone(), api.scheme))
    } else {
        Err(refused(CallerError::Refused))
    }
}

/// The request that a call is about.
pub fn request(
    call: &Parts,
    body: Bytes,
    scheme: &str,
    client_id: &str,
) -> Result<Request, BadRequest> {
    let target = call.uri.path_and_query().and_then(|target| target.as_str().strip_prefix(PREFIX));
    let mut headers = Headers::default();
    let fields = call.headers.iter().filter(|(name, _)| !OF_THE_CALL.contains(&name.as_str()));
    fields.for_each(|(name, value)| headers.push(name.as_str(), value.as_bytes()));
    // How long the whole body is, is not said: Envoy's own header tells whether this is all of it.
    let body = decode::body(body, -1, &headers);
    Ok(Request {
        id: decode::request_id(&headers, ""),
        method: call.method.to_string(),
        scheme: scheme.to_owned(),
        host: host(call)?,
        target: target.unwrap_or_default().to_owned(),
        headers,
        body,
        extensions: [(SCOPE_EXTENSION.to_owned(), client_id.to_owned())].into(),
        ..Request::default()
    })
}

/// The host of the call; where it is said twice, it must be the same.
fn host(call: &Parts) -> Result<Host, BadRequest> {
    let of_headers = call.headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let of_uri = call.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut said = of_headers.chain(of_uri);
    let first = said.next().unwrap_or_default();
    if said.any(|other| other != first) {
        return Err(BadRequest::Hosts);
    }
    Ok(Host::parse(&String::from_utf8_lossy(first))?)
}

/// What an answer over HTTP can't do is denied: it has no way to change the query.
pub(super) fn carried(decision: Decision) -> Decision {
    let is_carried = match &decision.outcome {
        Ok(Grant::Signed { permit, .. }) => {
            let changes = permit.additions().mutations.changes();
            changes.query.is_empty() && changes.remove_query.is_empty()
        }
        _ => true,
    };
    if is_carried {
        return decision;
    }
    let detail = "the policy changes the query, which a proxy that asks over HTTP can't do";
    Decision { outcome: Err(Denial::new(Reason::PolicyError, detail)), ..decision }
}

/// The time that Envoy waits for the answer.
fn time_left(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("x-envoy-expected-rq-timeout-ms")?.to_str().ok()?;
    text.parse().ok().map(Duration::from_millis)
}

/// The same answer over HTTP. A default-built response would be an allow: this begins with a denial.
fn answer(response: CheckResponse) -> Response<Body> {
    let is_allow = response.status.is_some_and(|status| status.code == 0);
    let answer = match response.http_response {
        Some(HttpResponse::OkResponse(ok)) if is_allow => allow(ok),
        Some(HttpResponse::DeniedResponse(denied)) if !is_allow => deny(denied),
        _ => None,
    };
    answer.unwrap_or_else(|| refused(StatusCode::FORBIDDEN))
}

fn allow(ok: OkHttpResponse) -> Option<Response<Body>> {
    let mut answer = refused(StatusCode::FORBIDDEN);
    append(answer.headers_mut(), ok.headers)?;
    append(answer.headers_mut(), ok.response_headers_to_add)?;
    if !ok.headers_to_remove.is_empty() {
        let remove = HeaderValue::try_from(ok.headers_to_remove.join(",")).ok()?;
        answer.headers_mut().insert(REMOVE, remove);
    }
    *answer.status_mut() = StatusCode::OK;
    Some(answer)
}

fn deny(denied: DeniedHttpResponse) -> Option<Response<Body>> {
    let code = u16::try_from(denied.status?.code).ok()?;
    let status = StatusCode::from_u16(code).ok().filter(StatusCode::is_client_error);
    let mut answer = refused(status.unwrap_or(StatusCode::FORBIDDEN));
    append(answer.headers_mut(), denied.headers)?;
    *answer.body_mut() = denied.body.into();
    Some(answer)
}

fn append(headers: &mut HeaderMap, options: Vec<HeaderValueOption>) -> Option<()> {
    for field in options.into_iter().filter_map(|option| option.header) {
        let name = HeaderName::try_from(field.key).ok()?;
        headers.append(name, HeaderValue::try_from(field.value).ok()?);
    }
    Some(())
}

fn refused(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests;
