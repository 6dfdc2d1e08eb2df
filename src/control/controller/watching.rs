//! What the API server says there is: the three kinds, listed and watched.
//!
//! `kube` does the protocol: bookmarks, a new list when the old version is gone (410), waiting longer after
//! each failure. Here it is only noted that something changed, whatever it was.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{SelectAll, Stream, StreamExt as _};
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use tokio::sync::Notify;

use super::object::{Key, Kind, Object, Objects};

type Events = Pin<Box<dyn Stream<Item = watcher::Result<Event<DynamicObject>>> + Send>>;

/// The watches.
pub(super) struct Watching {
    events: SelectAll<Events>,
    stores: Stores,
    changed: Arc<Notify>,
}

/// What was told so far.
#[derive(Clone, Debug)]
pub(super) struct Stores(Vec<(Kind, Store<DynamicObject>)>);

impl Watching {
    /// Of all namespaces, or of those that are named.
    pub(super) fn new(client: &Client, namespaces: &BTreeSet<String>) -> Self {
        let (mut events, mut stores) = (SelectAll::new(), Vec::new());
        for kind in Kind::ALL {
            let resource = kind.resource();
            let apis: Vec<Api<DynamicObject>> = match namespaces.is_empty() {
                true => vec![Api::all_with(client.clone(), &resource)],
                false => namespaces
                    .iter()
                    .map(|it| Api::namespaced_with(client.clone(), it, &resource))
                    .collect(),
            };
            for api in apis {
                let writer = Writer::new(resource.clone());
                stores.push((kind, writer.as_reader()));
                let watched = watcher(api, watcher::Config::default());
                let lean = watched.default_backoff().modify(|it| it.managed_fields_mut().clear());
                let stream: Events = Box::pin(lean.reflect(writer));
                events.push(stream);
            }
        }
        Self { events, stores: Stores(stores), changed: Arc::default() }
    }

    pub(super) fn stores(&self) -> Stores {
        self.stores.clone()
    }

    /// Notified whenever something has changed.
    pub(super) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    pub(super) async fn run(mut self) {
        while let Some(event) = self.events.next().await {
            match event {
                Ok(Event::Init | Event::InitApply(_)) => {}
                Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                    self.changed.notify_one()
                }
                Err(error) => tracing::warn!("{}{}", chain(&error), remedy(&error)),
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

fn remedy(error: &watcher::Error) -> &'static str {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return "";
    };
    match status.code {
        403 => ": grant it, as deploy/kubernetes/controller.yaml does",
        404 => ": apply what `placet-control crds` prints",
        _ => "",
    }
}

impl Stores {
    /// Waits until every list was read once.
    pub(super) async fn wait_until_listed(&self) {
        for (_, store) in &self.0 {
            // An error: the watches have ended, and so does all else.
            let _ = store.wait_until_ready().await;
        }
    }

    /// The objects, by namespace.
    pub(super) fn objects(&self) -> BTreeMap<String, Objects> {
        let mut all: BTreeMap<String, Objects> = BTreeMap::new();
        for (kind, store) in &self.0 {
            for object in store.state() {
                let namespace = object.namespace().unwrap_or_default();
                let key = Key::new(*kind, &object.name_any());
                all.entry(namespace).or_default().insert(key, Object::new(object));
            }
        }
        all
    }
}
