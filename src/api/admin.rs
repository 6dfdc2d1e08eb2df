//! The operator's edge: liveness, readiness, metrics and the effective settings. It changes nothing.
//!
//! - `GET /livez`: 200 while the process runs.
//! - `GET /readyz`: 200 or 503, and as JSON what is still waited for, which settings are in force since when,
//!   and what is wrong with those that were to follow, and with the deny list.
//! - `GET /metrics`: Prometheus text.
//! - `GET /keys`: each scope's signing keys by life stage.
//! - `GET /config`: the settings in force, without credentials.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock::{Clock, Timestamp};
use crate::deny_list::DenyList;
use crate::metrics::Metrics;
use crate::readiness::Needs;
use crate::secrets::Kept;

/// What the routes show.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Whether requests should be sent here.
    pub ready: watch::Receiver<bool>,
    /// What each scope needs.
    pub needs: Arc<ArcSwap<Vec<Needs>>>,
    /// The settings in force.
    pub in_force: Arc<ArcSwap<InForce>>,
    /// What was wrong with those that were to follow.
    pub failure: Arc<ArcSwapOption<Failure>>,
    /// The metrics.
    pub metrics: Metrics,
    /// Tells ages.
    pub clock: Clock,
}

/// Settings in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Without credentials.
    pub settings: Value,
    /// Changes whenever they do, or what they name.
    pub revision: String,
    /// Since when.
    pub since: Timestamp,
    /// The deny list, as it is kept up to date.
    pub deny_list: Option<Kept<DenyList>>,
}

/// Why settings were not put in force.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When they were tried last.
    pub time: Timestamp,
    /// Every error, a line each.
    pub error: String,
}

/// The routes of the `admin` listener.
pub fn router(shown: Shown) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route(
            "/keys",
            get(|State(shown): State<Shown>| async move {
                Json(super::keys::list(&shown.needs.load()))
            }),
        )
        .route(
            "/config",
            get(|State(shown): State<Shown>| async move {
                Json(shown.in_force.load().settings.clone())
            }),
        )
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
    let mut page = json!({ "ready": ready, "waiting": waiting, "settings": shown.settings() });
    if let Some(list) = &shown.in_force.load().deny_list
        && let Some(page) = page.as_object_mut()
    {
        let entries = list.current().map(|list| list.len());
        page.insert("denyList".to_owned(), json!({"entries": entries, "error": list.problem()}));
    }
    (status, Json(page)).into_response()
}

impl Shown {
    fn settings(&self) -> Value {
        let in_force = self.in_force.load();
        let failure = self.failure.load();
        json!({
            "revision": in_force.revision,
            "since": in_force.since.rfc3339(),
            "ageSeconds": self.clock.now().since(in_force.since).as_secs(),
            "failure": failure.as_ref().map(|failure| json!({
                "time": failure.time.rfc3339(),
                "error": failure.error,
            })),
        })
    }
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let now = shown.clock.now();
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
