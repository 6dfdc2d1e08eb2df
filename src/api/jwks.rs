//! The JWKS: the public keys that verify our tokens (RFC 7517).
//!
//! `/scopes/{clientId}/jwks.json` is what a verifier of one application should use;
//! `/.well-known/jwks.json` has every scope's keys. The signing key stands first. A scope whose key
//! is not loaded yet answers 503 and not an empty set, which a verifier would cache; one whose every key
//! was withdrawn answers the empty set, so that verifiers forget them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::scope::{Scope, Scopes};

/// The routes of the `http` listener.
pub fn router(scopes: Arc<ArcSwap<Scopes>>) -> Router {
    Router::new()
        .route("/.well-known/jwks.json", get(every_scope))
        .route("/scopes/{client_id}/jwks.json", get(one_scope))
        .with_state(scopes)
}

/// The key set of these scopes: each one's signing key first.
pub fn key_set<'a>(scopes: impl Iterator<Item = &'a Scope>) -> Value {
    let rings: Vec<_> = scopes.filter_map(|scope| scope.authorizer.minter.ring()).collect();
    let keys: Vec<&Map<String, Value>> =
        rings.iter().flat_map(|ring| ring.published()).map(|key| key.jwk()).collect();
    json!({ "keys": keys })
}

async fn every_scope(State(scopes): State<Arc<ArcSwap<Scopes>>>, headers: HeaderMap) -> Response {
    let scopes = scopes.load_full();
    let mut all: Vec<&Scope> = scopes.iter().map(AsRef::as_ref).collect();
    all.sort_by(|a, b| a.client_id.cmp(&b.client_id));
    if !all.iter().any(|scope| scope.authorizer.minter.had_keys()) {
        return unavailable(1, "no signing key is loaded yet\n");
    }
    let max_age = all.iter().map(|scope| scope.jwks_max_age).min().unwrap_or_default();
    answer(&key_set(all.into_iter()), max_age.as_secs(), &headers)
}

async fn one_scope(
    State(scopes): State<Arc<ArcSwap<Scopes>>>,
    Path(client_id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let scopes = scopes.load_full();
    let Some(scope) = scopes.with_client_id(&client_id) else {
        return (StatusCode::NOT_FOUND, "there is no such scope\n").into_response();
    };
    if !scope.authorizer.minter.had_keys() {
        return unavailable(1, "no signing key is loaded yet\n");
    }
    let set = key_set(std::iter::once(scope.as_ref()));
    answer(&set, scope.jwks_max_age.as_secs(), &headers)
}

/// The answer where there is no key set yet; it may be worth asking again in so many seconds.
pub(crate) fn unavailable(retry_after: u64, why: &'static str) -> Response {
    let retry = [
        (header::RETRY_AFTER, HeaderValue::from(retry_after)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, retry, why).into_response()
}

/// The answer to `request`: a key set that may be kept for `max_age` seconds.
pub(crate) fn answer(set: &Value, max_age: u64, request: &HeaderMap) -> Response {
    let body = set.to_string();
    let etag = format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, body.as_bytes())));
    let is_known = request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == etag || tag == "*");
    let headers = [
        (header::CONTENT_TYPE, "application/jwk-set+json".to_owned()),
        (header::CACHE_CONTROL, format!("public, max-age={max_age}")),
        (header::ETAG, etag),
    ];
    if is_known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, body).into_response()
}
