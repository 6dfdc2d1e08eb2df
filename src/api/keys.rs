//! The key rings: shown to anyone who may see the admin listener, changed only on the control socket.
//!
//! - `GET /keys`: every scope's keys by life stage. Public halves and names only.
//! - `POST /keys/activate`, `POST /keys/withdraw`: `{"scope": CLIENT_ID, "key": KID_OR_THUMBPRINT}`; the
//!   answer is the scope's keys afterwards, or an error that says why nothing was changed.
//!
//! The control socket is mode 0600: whoever can open it could read the process's settings and
//! credentials too, so nothing more is asked of them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::keys::{Keys, OrderError, SigningKey};
use crate::readiness::Needs;

type Live = Arc<ArcSwap<Vec<Needs>>>;

/// The routes of the control socket.
pub fn control(needs: Live) -> Router {
    Router::new()
        .route("/keys", get(|State(needs): State<Live>| async move { Json(list(&needs.load())) }))
        .route("/keys/activate", post(activate))
        .route("/keys/withdraw", post(withdraw))
        .with_state(needs)
}

/// Every scope's keys.
pub fn list(needs: &[Needs]) -> Value {
    json!({ "scopes": needs.iter().map(scope).collect::<Vec<_>>() })
}

/// The key an order is about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    scope: String,
    key: String,
}

async fn activate(State(needs): State<Live>, Json(named): Json<Named>) -> Response {
    let Some(needs) = find(&needs, &named.scope) else { return no_scope(&named.scope) };
    answer(&needs, needs.keys.activate(&named.key).await)
}

async fn withdraw(State(needs): State<Live>, Json(named): Json<Named>) -> Response {
    let Some(needs) = find(&needs, &named.scope) else { return no_scope(&named.scope) };
    answer(&needs, needs.keys.withdraw(&named.key).await)
}

fn find(needs: &Live, client_id: &str) -> Option<Needs> {
    needs.load().iter().find(|needs| needs.client_id == client_id).cloned()
}

fn no_scope(client_id: &str) -> Response {
    let error = format!("there is no scope `{client_id}`");
    (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
}

fn answer(needs: &Needs, done: Result<(), OrderError>) -> Response {
    let Err(error) = done else { return Json(scope(needs)).into_response() };
    let status = match &error {
        OrderError::Unknown { .. } => StatusCode::NOT_FOUND,
        OrderError::Ambiguous { .. } | OrderError::NotNext { .. } => StatusCode::CONFLICT,
        OrderError::Ended => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(json!({ "error": error.to_string() }))).into_response()
}

fn scope(needs: &Needs) -> Value {
    let keys = &needs.keys;
    let mut shown = Vec::new();
    let ring = keys.ring();
    if let Some(ring) = &ring {
        shown.extend(ring.next().iter().map(|next| key(next, "next", keys)));
        shown.push(key(ring.active(), "active", keys));
        shown.extend(ring.retired().iter().map(|retired| key(retired, "retired", keys)));
    }
    json!({
        "clientId": needs.client_id,
        "signs": ring.is_some_and(|ring| ring.signer().is_some()),
        "problem": keys.problem(),
        "signsUntil": keys.valid_until().map(crate::clock::Timestamp::rfc3339),
        "keys": shown,
    })
}

fn key(key: &SigningKey, stage: &str, keys: &Keys) -> Value {
    let signs_from = keys.signs_from(key).filter(|_| stage == "next");
    json!({
        "stage": stage,
        "kid": key.kid(),
        "algorithm": key.algorithm().name(),
        "version": key.version(),
        "thumbprint": key.thumbprint(),
        "backend": if key.is_in_transit() { "transit" } else { "kv" },
        "hasCertificate": key.has_certificate(),
        "created": key.created().map(crate::clock::Timestamp::rfc3339),
        "signsFrom": signs_from.map(crate::clock::Timestamp::rfc3339),
    })
}
