//! The mutating webhook: `POST /mutate`, asked by the API server (`admission.k8s.io/v1`).
//!
//! Which pods it is asked about is the webhook configuration's to say, by the labels of namespaces and pods:
//! those it is asked about get Placet unless they opt out. It keeps nothing and changes nothing elsewhere,
//! so a dry run is like any other. A pod that can't have what it asks for is refused, with all that is to
//! be changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use json_patch::Patch;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::certificates::{self, Configuration, Keeper};
use super::inject::{Injection, Outcome, inject};
use super::settings::{Kept, Webhook};
use crate::app::https;
use crate::clock::Clock;

/// Objects have at most 1.5 MiB in etcd; a review may hold two.
const MAX_BODY: usize = 8 << 20;

/// What the listener is called in the log.
const NAME: &str = "webhook";

/// The version that is spoken.
const VERSION: &str = "admission.k8s.io/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Kind,
    #[serde(default)]
    sub_resource: String,
    operation: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    kind: String,
}

/// Serves the webhook as `settings` say until `shutdown`.
///
/// # Errors
/// If it can't listen, there is no cluster to keep its certificates in, or a part ends by itself.
pub async fn serve(
    settings: Webhook,
    injection: Injection,
    shutdown: &CancellationToken,
) -> Result<()> {
    let Webhook { listener, kept } = settings;
    let Some(Kept { names, configuration }) = kept else {
        let router = router(injection, Arc::new(AtomicBool::new(true)));
        return https::serve(&listener, None, NAME, router, Clock::System, shutdown).await;
    };
    let client = certificates::client().await?;
    let namespace = client.default_namespace().to_owned();
    let configuration = Configuration::new(client.clone(), &configuration);
    let mut keeper = Keeper::new(client, &namespace, names, configuration);
    let router = router(injection, keeper.is_published());
    let Some(current) = keeper.first(Clock::System, shutdown).await else { return Ok(()) };
    let keeping = keeper.run(Clock::System, shutdown.clone());
    let serving = https::serve(&listener, Some(current), NAME, router, Clock::System, shutdown);
    tokio::try_join!(serving, async {
        tokio::spawn(keeping).await.context("the certificates are kept no more")
    })?;
    Ok(())
}

/// The webhook, with `/livez` and `/readyz`: ready once API servers were told whom to trust.
fn router(injection: Injection, is_published: Arc<AtomicBool>) -> Router {
    let ready = async move || {
        if is_published.load(Ordering::Relaxed) {
            (StatusCode::OK, "ok")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the caBundle is not published yet: see the log")
        }
    };
    Router::new()
        .route("/mutate", post(mutate))
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(ready))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(injection))
}

async fn mutate(State(injection): State<Arc<Injection>>, body: Bytes) -> Response {
    let review: Review = match serde_json::from_slice(&body) {
        Ok(review) => review,
        Err(error) => return unreadable(&error.to_string()),
    };
    if (review.api_version.as_str(), review.kind.as_str()) != (VERSION, "AdmissionReview") {
        let found = (review.api_version, review.kind);
        return unreadable(&format!(
            "`{} {}` is no AdmissionReview of {VERSION}",
            found.0, found.1
        ));
    }
    let response = answer(&review.request, &injection);
    axum::Json(json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response}))
        .into_response()
}

fn unreadable(problem: &str) -> Response {
    tracing::warn!("an admission review can't be read: {problem}");
    (StatusCode::BAD_REQUEST, format!("can't read the admission review: {problem}\n"))
        .into_response()
}

fn answer(request: &Request, injection: &Injection) -> Value {
    let is_pod = request.kind.group.is_empty() && request.kind.kind == "Pod";
    let is_new = request.operation == "CREATE" && request.sub_resource.is_empty();
    let allowed = json!({"uid": request.uid, "allowed": true});
    if !is_pod || !is_new {
        return allowed;
    }
    let text = |pointer| request.object.pointer(pointer).and_then(Value::as_str);
    let pod = text("/metadata/name").or(text("/metadata/generateName")).unwrap_or_default();
    let namespace = request.namespace.as_str();
    match inject(&request.object, injection) {
        Ok(Outcome::Skipped(why)) => {
            tracing::info!(namespace, pod, why, "left as it is");
            allowed
        }
        Ok(Outcome::Patched { patch, .. }) if patch.is_empty() => allowed,
        Ok(Outcome::Patched { patch, warnings }) => {
            tracing::info!(namespace, pod, additions = patch.len(), "injected");
            patched(&request.uid, &patch, &warnings)
        }
        Err(errors) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let message = errors.join("; ");
            tracing::warn!(namespace, pod, "refused: {message}");
            refusal(&request.uid, &message)
        }
    }
}

fn patched(uid: &str, patch: &Patch, warnings: &[String]) -> Value {
    match serde_json::to_vec(patch) {
        Ok(patch) => json!({
            "uid": uid,
            "allowed": true,
            "patchType": "JSONPatch",
            "patch": BASE64_STANDARD.encode(patch),
            "warnings": warnings,
        }),
        Err(error) => refusal(uid, &format!("the patch can't be written: {error}")),
    }
}

fn refusal(uid: &str, message: &str) -> Value {
    let status = json!({"code": 422, "reason": "Invalid", "message": format!("placet: {message}")});
    json!({"uid": uid, "allowed": false, "status": status})
}
