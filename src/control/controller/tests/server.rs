//! An API server for tests, over real HTTP: lists, watches (bookmarks, 410), merge patches, `status`, Leases,
//! versions and conflicts, for whatever kind is asked for. It checks no schema and grants everything; what was
//! asked is noted.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::stream;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Resource, namespace, name.
type Place = (String, String, String);

/// What was asked.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Asked {
    pub(super) verb: &'static str,
    pub(super) group: String,
    /// `scopes`, `scopes/status`.
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Default)]
struct Inner {
    version: u64,
    /// Watches from before this version are told that it is gone.
    oldest: u64,
    objects: BTreeMap<Place, Value>,
    events: Vec<(u64, String, &'static str, Value)>,
    asked: Vec<Asked>,
    is_down: bool,
    /// Watches of earlier epochs end.
    epoch: u64,
    /// So many writes of a status come too late: the object has changed just before.
    conflicts: u32,
}

#[derive(Clone)]
pub(super) struct Server {
    inner: Arc<Mutex<Inner>>,
    news: watch::Sender<()>,
    address: String,
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let inner = Inner { version: 100, ..Inner::default() };
        let server =
            Self { inner: Arc::new(Mutex::new(inner)), news: watch::Sender::new(()), address };
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        server
    }

    pub(super) fn client(&self) -> Client {
        let mut config = kube::Config::new(self.address.parse().unwrap());
        config.default_namespace = "placet".to_owned();
        Client::try_from(config).unwrap()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Creates the object or replaces its spec.
    pub(super) fn put(&self, resource: &str, namespace: &str, name: &str, spec: &Value) {
        let place = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut inner = self.lock();
        let mut object = inner
            .objects
            .get(&place)
            .cloned()
            .unwrap_or_else(|| json!({"metadata": {"name": name, "namespace": namespace}}));
        object["spec"] = spec.clone();
        inner.store(place, object);
        drop(inner);
        self.news.send_replace(());
    }

    /// Changes nothing that counts.
    pub(super) fn touch(&self, resource: &str, namespace: &str, name: &str, label: &str) {
        let place = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut inner = self.lock();
        let mut object = inner.objects[&place].clone();
        object["metadata"]["labels"] = json!({ "touched": label });
        inner.store(place, object);
        drop(inner);
        self.news.send_replace(());
    }

    pub(super) fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let place = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut inner = self.lock();
        let mut object = inner.objects.remove(&place).unwrap();
        inner.version += 1;
        object["metadata"]["resourceVersion"] = inner.version.to_string().into();
        let event = (inner.version, place.0, "DELETED", object);
        inner.events.push(event);
        drop(inner);
        self.news.send_replace(());
    }

    pub(super) fn get(&self, resource: &str, namespace: &str, name: &str) -> Value {
        let place = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.lock().objects.get(&place).cloned().unwrap_or_default()
    }

    /// The condition `Ready`: status, reason, message; of the object as it is now.
    pub(super) fn ready(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> (String, String, String) {
        let object = self.get(resource, namespace, name);
        let condition = &object["status"]["conditions"][0];
        if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
            return Default::default();
        }
        let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("type"), "Ready");
        (text("status"), text("reason"), text("message"))
    }

    /// Ends all watches; with `forget`, they can't go on from where they were.
    pub(super) fn cut_watches(&self, forget: bool) {
        let mut inner = self.lock();
        inner.epoch += 1;
        if forget {
            inner.oldest = inner.version + 1;
            inner.version += 1;
            inner.events.clear();
        }
        drop(inner);
        self.news.send_replace(());
    }

    pub(super) fn set_down(&self, is_down: bool) {
        let mut inner = self.lock();
        inner.is_down = is_down;
        inner.epoch += 1;
        drop(inner);
        self.news.send_replace(());
    }

    pub(super) fn conflict(&self, times: u32) {
        self.lock().conflicts = times;
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    /// How often a status was written, or tried to be.
    pub(super) fn status_writes(&self) -> usize {
        self.asked().iter().filter(|asked| asked.resource.ends_with("/status")).count()
    }
}

impl Inner {
    /// As the API server does it: what does not change is not written.
    fn store(&mut self, place: Place, mut object: Value) -> Value {
        let before = self.objects.get(&place).cloned();
        if before.as_ref() == Some(&object) {
            return object;
        }
        self.version += 1;
        let number = self.version;
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("resourceVersion".to_owned(), number.to_string().into());
        metadata.entry("uid").or_insert_with(|| format!("uid-{number}").into());
        metadata.entry("creationTimestamp").or_insert_with(|| {
            format!("2026-01-01T00:{:02}:{:02}Z", number / 60 % 60, number % 60).into()
        });
        let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(0);
        if before.as_ref().is_none_or(|before| before["spec"] != object["spec"]) {
            object["metadata"]["generation"] = (generation + 1).into();
        }
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.events.push((number, place.0.clone(), kind, object.clone()));
        self.objects.insert(place, object.clone());
        object
    }
}

#[derive(Debug)]
struct Path {
    group: String,
    version: String,
    resource: String,
    namespace: String,
    name: String,
    is_status: bool,
}

impl Path {
    fn parse(uri: &Uri) -> Self {
        let mut parts: Vec<&str> = uri.path().trim_matches('/').split('/').skip(1).collect();
        let mut take = |count| parts.drain(..count).map(str::to_owned).collect::<Vec<_>>();
        let head = take(2);
        let namespace = if uri.path().contains("/namespaces/") { take(2).pop() } else { None };
        let mut rest = parts.into_iter().map(str::to_owned);
        Self {
            group: head[0].clone(),
            version: head[1].clone(),
            namespace: namespace.unwrap_or_default(),
            resource: rest.next().unwrap(),
            name: rest.next().unwrap_or_default(),
            is_status: rest.next().is_some_and(|it| it == "status"),
        }
    }
}

async fn answer(
    State(server): State<Server>,
    method: Method,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Response {
    let path = Path::parse(&uri);
    let is_watch = query.get("watch").is_some_and(|it| it == "true");
    let verb = match (method.as_str(), path.name.is_empty(), is_watch) {
        ("GET", true, true) => "watch",
        ("GET", true, false) => "list",
        ("GET", false, _) => "get",
        ("POST", ..) => "create",
        ("PUT", ..) => "update",
        ("PATCH", ..) => "patch",
        _ => panic!("{method} {uri}"),
    };
    let mut inner = server.lock();
    if inner.is_down {
        return failure(503, "ServiceUnavailable");
    }
    let resource = path.resource.clone() + if path.is_status { "/status" } else { "" };
    let Path { group, namespace, name, .. } = &path;
    inner.asked.push(Asked {
        verb,
        resource,
        group: group.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
    });
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = match verb {
        "list" => inner.list(&path),
        "get" => inner.read(&path),
        "watch" => {
            let epoch = inner.epoch;
            drop(inner);
            return watch(&server, path, &query, epoch);
        }
        _ => inner.write(&path, verb, body),
    };
    drop(inner);
    server.news.send_replace(());
    answer
}

impl Inner {
    fn list(&self, path: &Path) -> Response {
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(place, _)| place.0 == path.resource)
            .filter(|(place, _)| path.namespace.is_empty() || place.1 == path.namespace)
            .map(|(_, object)| object)
            .collect();
        Json(json!({
            "apiVersion": format!("{}/{}", path.group, path.version),
            "kind": "List",
            "metadata": {"resourceVersion": self.version.to_string()},
            "items": items,
        }))
        .into_response()
    }

    fn read(&self, path: &Path) -> Response {
        match self.objects.get(&path.place()) {
            Some(object) => Json(object.clone()).into_response(),
            None => failure(404, "NotFound"),
        }
    }

    fn write(&mut self, path: &Path, verb: &str, body: Value) -> Response {
        let mut place = path.place();
        if verb == "create" {
            place.2 = body["metadata"]["name"].as_str().unwrap().to_owned();
        }
        let current = self.objects.get(&place).cloned();
        let mut object = match (verb, current) {
            ("create", Some(_)) => return failure(409, "AlreadyExists"),
            ("create", None) => {
                let mut object = body;
                object["metadata"]["namespace"] = place.1.clone().into();
                return (StatusCode::CREATED, Json(self.store(place, object))).into_response();
            }
            (_, None) => return failure(404, "NotFound"),
            (_, Some(current)) => current,
        };
        if path.is_status && self.conflicts > 0 {
            self.conflicts -= 1;
            object["metadata"]["labels"] = json!({"conflict": self.conflicts.to_string()});
            object = self.store(place.clone(), object);
        }
        let version = &body["metadata"]["resourceVersion"];
        if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
            return failure(409, "Conflict");
        }
        match (verb, path.is_status) {
            ("patch", true) => merge(&mut object["status"], &body["status"]),
            ("patch", false) => merge(&mut object["spec"], &body["spec"]),
            _ => object["spec"] = body["spec"].clone(),
        }
        Json(self.store(place, object)).into_response()
    }
}

impl Path {
    fn place(&self) -> Place {
        (self.resource.clone(), self.namespace.clone(), self.name.clone())
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().shift_remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn watch(server: &Server, path: Path, query: &BTreeMap<String, String>, epoch: u64) -> Response {
    let from: u64 = query["resourceVersion"].parse().unwrap();
    let bookmarks = query.get("allowWatchBookmarks").is_some_and(|it| it == "true");
    assert!(query.contains_key("timeoutSeconds"), "a watch must end some time");
    let (server, news) = (server.clone(), server.news.subscribe());
    let state = (server, news, path, from, false);
    let lines = stream::unfold(
        state,
        move |(server, mut news, path, mut from, is_over)| async move {
            if is_over {
                return None;
            }
            loop {
                news.mark_unchanged();
                let mut is_over = false;
                let mut lines = String::new();
                {
                    let inner = server.lock();
                    if inner.epoch != epoch || inner.is_down {
                        return None;
                    }
                    if from < inner.oldest {
                        let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "message": "too old resource version", "reason": "Expired", "code": 410});
                        lines = line("ERROR", &gone);
                        is_over = true;
                    } else {
                        for (version, resource, kind, object) in &inner.events {
                            let is_there = path.namespace.is_empty()
                                || object["metadata"]["namespace"] == path.namespace.as_str();
                            if *version > from && *resource == path.resource && is_there {
                                lines += &line(kind, object);
                            }
                        }
                        if bookmarks && from < inner.version {
                            let version = inner.version.to_string();
                            lines += &line(
                                "BOOKMARK",
                                &json!({"kind": "Bookmark", "apiVersion": "placet.dev/v1alpha1",
                            "metadata": {"resourceVersion": version}}),
                            );
                        }
                        from = inner.version;
                    }
                }
                if !lines.is_empty() {
                    let state = (server, news, path, from, is_over);
                    return Some((Ok::<_, Infallible>(lines), state));
                }
                news.changed().await.ok()?;
            }
        },
    );
    Body::from_stream(lines).into_response()
}

fn line(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string() + "\n"
}

fn failure(code: u16, reason: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code});
    (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
}
