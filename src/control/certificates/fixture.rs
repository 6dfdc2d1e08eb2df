//! An API server over HTTP, as far as Secrets, ConfigMaps and MutatingWebhookConfigurations go: versions,
//! conflicts, selectors of lists, merging by the names of webhooks. It can refuse to write, and remembers what was
//! published when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use kube::Client;
use serde_json::{Value, json};

use crate::clock::Timestamp;

pub(super) const SECRET: &str = "/api/v1/namespaces/placet/secrets/placet-control-certificates";
pub(super) const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/placet";

#[derive(Clone)]
pub(super) struct ApiServer(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Value>,
    version: u64,
    now: u64,
    published: Vec<(u64, String)>,
    /// What the next writes are answered, the last of these first; a success lets one through.
    refusals: Vec<StatusCode>,
    /// Published before the next patch, as if by another.
    meanwhile: Option<String>,
    writes: usize,
}

impl ApiServer {
    /// One with the webhook's configuration, and a client of it.
    pub(super) async fn start() -> (Self, Client) {
        let server = Self(Arc::default());
        server.put(CONFIGURATION, configuration());
        let kind = "/api/v1/namespaces/{namespace}/{kind}";
        let one = format!("{kind}/{{name}}");
        let configurations =
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}";
        let router = Router::new()
            .route(kind, post(create))
            .route("/api/v1/configmaps", get(list))
            .route(&one, get(read).put(replace))
            .route(configurations, get(read).patch(patch))
            .with_state(server.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        (server, Client::try_from(config).unwrap())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    pub(super) fn object(&self, path: &str) -> Option<Value> {
        self.kept().objects.get(path).cloned()
    }

    pub(super) fn put(&self, path: &str, object: Value) {
        self.kept().put(path, object);
    }

    pub(super) fn delete(&self, path: &str) -> Value {
        self.kept().objects.remove(path).unwrap()
    }

    pub(super) fn at(&self, now: Timestamp) {
        self.kept().now = now.seconds();
    }

    pub(super) fn refuse(&self, refusals: &[StatusCode]) {
        self.kept().refusals = refusals.to_vec();
    }

    /// Has another publish `bundle` between the next reading of the configuration and its patch.
    pub(super) fn publish_meanwhile(&self, bundle: String) {
        self.kept().meanwhile = Some(bundle);
    }

    pub(super) fn writes(&self) -> usize {
        self.kept().writes
    }

    /// What an API server trusts at `time`.
    pub(super) fn published(&self, time: Timestamp) -> Option<String> {
        let kept = self.kept();
        let known = kept.published.iter().rfind(|(since, _)| *since <= time.seconds());
        known.map(|(_, bundle)| bundle.clone())
    }

    /// A field of the Secret.
    pub(super) fn field(&self, name: &str) -> Option<String> {
        let secret = self.object(SECRET)?;
        let bytes = BASE64_STANDARD.decode(secret["data"].get(name)?.as_str().unwrap()).unwrap();
        Some(String::from_utf8(bytes).unwrap())
    }
}

impl Kept {
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if path == CONFIGURATION {
            let bundle = |webhook: &Value| {
                let text = webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default();
                String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap()
            };
            let bundles: Vec<_> =
                object["webhooks"].as_array().unwrap().iter().map(bundle).collect();
            assert!(bundles.iter().all(|it| it == &bundles[0]), "webhooks differ");
            self.published.push((self.now, bundles[0].clone()));
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// Why a write does not go through, if it doesn't.
    fn refusal(&mut self, path: &str, version: Option<&Value>) -> Option<Response> {
        self.writes += 1;
        if let Some(refusal) = self.refusals.pop().filter(|it| !it.is_success()) {
            return Some(failure(refusal, "refused"));
        }
        let Some(object) = self.objects.get(path) else {
            return Some(failure(StatusCode::NOT_FOUND, "NotFound"));
        };
        // Without a version, a write wins over whatever is there.
        let is_old = version.is_some_and(|it| *it != object["metadata"]["resourceVersion"]);
        is_old.then(|| failure(StatusCode::CONFLICT, "Conflict"))
    }

    fn publish(&mut self, bundle: &str) {
        let mut object = self.objects[CONFIGURATION].clone();
        for webhook in object["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"]["caBundle"] = json!(BASE64_STANDARD.encode(bundle));
        }
        self.put(CONFIGURATION, object);
    }
}

fn failure(code: StatusCode, reason: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "code": code.as_u16(), "reason": reason, "message": reason});
    (code, Json(status)).into_response()
}

async fn read(State(server): State<ApiServer>, uri: Uri) -> Response {
    match server.object(uri.path()) {
        Some(object) => Json(object).into_response(),
        None => failure(StatusCode::NOT_FOUND, "NotFound"),
    }
}

/// The ConfigMaps of all namespaces that have the name, and the label, that is asked for.
async fn list(
    State(server): State<ApiServer>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Response {
    let name = asked["fieldSelector"].strip_prefix("metadata.name=").unwrap();
    let label = asked.get("labelSelector").and_then(|it| it.split_once('='));
    let is_asked_for = |map: &Value| {
        let metadata = &map["metadata"];
        metadata["name"] == name
            && label.is_none_or(|(key, value)| metadata["labels"][key] == value)
    };
    let kept = server.kept();
    let maps = kept.objects.iter().filter(|(path, _)| path.contains("/configmaps/"));
    let items: Vec<&Value> = maps.map(|(_, map)| map).filter(|it| is_asked_for(it)).collect();
    Json(json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {}, "items": items}))
        .into_response()
}

async fn create(
    State(server): State<ApiServer>,
    Path((namespace, _)): Path<(String, String)>,
    uri: Uri,
    Json(mut object): Json<Value>,
) -> Response {
    object["metadata"]["namespace"] = json!(namespace);
    let path = format!("{}/{}", uri.path(), object["metadata"]["name"].as_str().unwrap());
    let mut kept = server.kept();
    kept.writes += 1;
    if kept.objects.contains_key(&path) {
        return failure(StatusCode::CONFLICT, "AlreadyExists");
    }
    if let Some(refusal) = kept.refusals.pop().filter(|it| !it.is_success()) {
        return failure(refusal, "refused");
    }
    (StatusCode::CREATED, Json(kept.put(&path, object))).into_response()
}

async fn replace(State(server): State<ApiServer>, uri: Uri, Json(object): Json<Value>) -> Response {
    let mut kept = server.kept();
    let version = object["metadata"].get("resourceVersion");
    if let Some(refusal) = kept.refusal(uri.path(), version) {
        return refusal;
    }
    Json(kept.put(uri.path(), object)).into_response()
}

/// A strategic merge, whose lists of webhooks are merged by name.
async fn patch(State(server): State<ApiServer>, uri: Uri, Json(patch): Json<Value>) -> Response {
    let mut kept = server.kept();
    if let Some(bundle) = kept.meanwhile.take() {
        kept.publish(&bundle);
    }
    if let Some(refusal) = kept.refusal(uri.path(), patch["metadata"].get("resourceVersion")) {
        return refusal;
    }
    let mut object = kept.objects[uri.path()].clone();
    for change in patch["webhooks"].as_array().unwrap() {
        let webhooks = object["webhooks"].as_array_mut().unwrap();
        let webhook = webhooks.iter_mut().find(|it| it["name"] == change["name"]).unwrap();
        for (key, value) in change["clientConfig"].as_object().unwrap() {
            webhook["clientConfig"][key] = value.clone();
        }
    }
    Json(kept.put(uri.path(), object)).into_response()
}

/// As it is applied: nobody is trusted yet.
pub(super) fn configuration() -> Value {
    let webhook = |name: &str| {
        let service = json!({"name": "placet-control", "namespace": "placet", "path": "/mutate"});
        json!({"name": name, "clientConfig": {"service": service}, "failurePolicy": "Fail",
               "sideEffects": "None", "admissionReviewVersions": ["v1"]})
    };
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
           "metadata": {"name": "placet", "labels": {"a": "b"}},
           "webhooks": [webhook("namespace.placet.dev"), webhook("pod.placet.dev")]})
}
