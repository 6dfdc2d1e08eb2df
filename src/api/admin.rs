//! The operator's edge: liveness, readiness, metrics and the effective settings. It changes nothing.
//!
//! - `GET /livez`: 200 while the process runs.
//! - `GET /readyz`: 200 or 503, and what is still waited for, as JSON.
//! - `GET /metrics`: Prometheus text.
//! - `GET /keys`: each scope's signing keys by life stage.
//! - `GET /config`: the settings in force, without credentials.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::readiness::Needs;

/// What the routes show.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Whether requests should be sent here.
    pub ready: watch::Receiver<bool>,
    /// What each scope needs.
    pub needs: Arc<ArcSwap<Vec<Needs>>>,
    /// The settings in force.
    pub settings: Arc<ArcSwap<Value>>,
    /// The metrics.
    pub metrics: Metrics,
}

/// The routes of the `admin` listener.
pub fn router(shown: Shown) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/keys", get(|State(shown): State<Shown>| async move {
            Json(super::keys::list(&shown.needs.load()))
        }))
        .route("/config", get(|State(shown): State<Shown>| async move {
            Json(Value::clone(&shown.settings.load()))
        }))
        .with_state(shown)
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let ready = *shown.ready.borrow();
    let waiting: Vec<Value> = shown
        .needs
        .load()
        .iter()
        .map(|needs| (needs, needs.missing()))
        .filter(|(_, missing)| !missing.is_empty())
        .map(|(needs, missing)| json!({ "scope": needs.client_id, "for": missing }))
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "waiting": waiting }))).into_response()
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let now = crate::clock::Clock::System.now();
    for needs in shown.needs.load().iter() {
        if let Some(ring) = needs.keys.ring() {
            if let Some(created) = ring.active().created() {
                shown.metrics.signing_key_age(&needs.client_id, now.since(created));
            }
            shown.metrics.shared_key_ids(&needs.client_id, ring.shared_kids().len());
        }
        if let Some(end) = needs.keys.valid_until() {
            shown.metrics.signing_key_left(&needs.client_id, end.since(now));
        }
    }
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], shown.metrics.exposition()).into_response()
}
