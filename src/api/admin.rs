//! The operator's edge: liveness, readiness, metrics and the effective settings. It changes nothing.
//!
//! - `GET /livez`: 200 while the process runs.
//! - `GET /readyz`: 200 or 503, and as JSON what is still waited for, which settings are in force since when,
//!   and what is wrong with those that were to follow, and with the deny list.
//! - `GET /metrics`: Prometheus text, or its protobuf, with native histograms, for who prefers that.
//! - `GET /keys`: each scope's signing keys by life stage.
//! - `GET /config`: the settings in force, without credentials.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::gauges::Gauges;
use crate::clock::{Clock, Timestamp};
use crate::deny_list::DenyList;
use crate::metrics::{Metrics, PROTOBUF};
use crate::readiness::Needs;
use crate::secrets::Kept;
use crate::source::Following;

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
    /// What is known of the control plane, where there is one.
    pub following: Option<Following>,
    /// The metrics.
    pub gauges: Gauges,
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
    /// The client IDs of the scopes that are the control plane's.
    pub controlled: Arc<BTreeSet<String>>,
    /// What no scope brings, and requests can't come without.
    pub waits_for: Option<&'static str>,
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
    let in_force = shown.in_force.load();
    let waited_for = in_force.waits_for.map(|what| json!({ "for": [what] }));
    let waiting: Vec<Value> = shown
        .needs
        .load()
        .iter()
        .map(|needs| (needs, needs.missing()))
        .filter(|(_, missing)| !missing.is_empty())
        .map(|(needs, missing)| json!({ "scope": needs.client_id, "for": missing }))
        .chain(waited_for)
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut page = json!({ "ready": ready, "waiting": waiting, "settings": shown.settings() });
    if let Some(page) = page.as_object_mut() {
        if let Some(list) = &in_force.deny_list {
            let entries = list.current().map(|list| list.len());
            let list = json!({"entries": entries, "error": list.problem()});
            page.insert("denyList".to_owned(), list);
        }
        if let Some(following) = &shown.following {
            page.insert("controlPlane".to_owned(), control_plane(following));
        }
    }
    (status, Json(page)).into_response()
}

fn control_plane(following: &Following) -> Value {
    let problem = following.problem.borrow().clone();
    let outcome = following.outcome.borrow().clone();
    let refused =
        outcome.refused.map(|(revision, error)| json!({"revision": revision, "error": error}));
    json!({
        "connected": problem.is_none(),
        "problem": problem,
        "revision": outcome.in_force,
        "refused": refused,
    })
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

async fn metrics(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    if prefers_protobuf(&headers) {
        let body = shown.gauges.look(Metrics::protobuf);
        return ([(header::CONTENT_TYPE, PROTOBUF)], body).into_response();
    }
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], shown.gauges.look(Metrics::exposition)).into_response()
}

/// Whether the protobuf form weighs more than any other one does (RFC 9110 section 12.5.1).
fn prefers_protobuf(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut protobuf, mut other) = (0.0, 0.0);
    for range in accepted.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let is_protobuf = parts.next() == Some("application/vnd.google.protobuf");
        let weight = parts.clone().find_map(|part| part.strip_prefix("q=")?.parse().ok());
        let weight: f64 = weight.unwrap_or(1.0);
        let is_ours = parts.clone().any(|part| part == "proto=io.prometheus.client.MetricFamily")
            && parts.any(|part| part == "encoding=delimited");
        match is_protobuf {
            true if is_ours => protobuf = weight.max(protobuf),
            true => {}
            false => other = weight.max(other),
        }
    }
    protobuf > other
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn protobuf_is_for_who_prefers_it() {
        const OURS: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, expected) in [
            (String::new(), false),
            ("*/*".to_owned(), false),
            (OURS.to_owned(), true),
            (format!("{OURS};q=0.5, text/plain;version=0.0.4;q=0.4, */*;q=0.1"), true),
            (format!("application/openmetrics-text;q=0.6,{OURS};q=0.5"), false),
            (format!("{OURS};q=0"), false),
            ("application/vnd.google.protobuf;proto=other;encoding=delimited".to_owned(), false),
        ] {
            let accepted = HeaderValue::from_str(&accept).unwrap();
            let headers = HeaderMap::from_iter([(header::ACCEPT, accepted)]);
            assert_eq!(prefers_protobuf(&headers), expected, "{accept}");
        }
    }
}
