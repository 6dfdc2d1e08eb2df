//! The snapshots that sidecars are to have: one writer, and a reader for each sidecar.
//!
//! A namespace without a snapshot is one of which nothing is known: its sidecars keep what they have. That it
//! has no scopes is a snapshot too, an empty one. It comes about only where somebody says so: by withdrawing
//! what was there, or, once every namespace is known, by [`Snapshots::complete`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use tokio::sync::watch;

/// All that the sidecars of one namespace need: files as they would lie on disk, `placet.yaml` (only `scopes`
/// and `secretStores`) and the files that it names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// The SHA-256 over names and contents, in hexadecimal digits; changes whenever they do.
    pub revision: String,
    /// Contents by name: relative, with `/` between directories.
    pub files: BTreeMap<String, Bytes>,
}

impl Snapshot {
    /// A snapshot of `files`.
    pub fn new(files: BTreeMap<String, Bytes>) -> Self {
        let revision = revision(&files);
        Self { revision, files }
    }

    /// That there are no scopes.
    pub fn empty() -> Self {
        let settings = Bytes::from_static(b"scopes: []\n");
        Self::new(BTreeMap::from([("placet.yaml".to_owned(), settings)]))
    }
}

/// The current snapshot of each namespace: what the controller publishes and the streams watch.
#[derive(Debug, Default)]
pub struct Snapshots(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    namespaces: HashMap<String, watch::Sender<Option<Arc<Snapshot>>>>,
    is_complete: bool,
}

impl Snapshots {
    /// Puts `snapshot` in the place of the namespace's last one. One of the same revision wakes nobody up.
    pub fn publish(&self, namespace: &str, snapshot: Snapshot) {
        self.lock().sender(namespace).send_if_modified(|current| {
            let is_news = current.as_ref().is_none_or(|it| it.revision != snapshot.revision);
            if is_news {
                *current = Some(Arc::new(snapshot));
            }
            is_news
        });
    }

    /// The namespace has no scopes any more: an empty snapshot takes the place of its last one. Where there was
    /// none, nothing was withdrawn.
    pub fn withdraw(&self, namespace: &str) {
        let mut state = self.lock();
        let is_known = state.sender(namespace).borrow().is_some();
        drop(state);
        if is_known {
            self.publish(namespace, Snapshot::empty());
        }
    }

    /// Every namespace that has scopes was published: the others have none, and their sidecars are told so. Never
    /// said, sidecars of a namespace whose scopes went while nobody looked keep what they have.
    pub fn complete(&self) {
        let mut state = self.lock();
        state.is_complete = true;
        for sender in state.namespaces.values() {
            sender.send_if_modified(|current| {
                let is_unknown = current.is_none();
                if is_unknown {
                    *current = Some(Arc::new(Snapshot::empty()));
                }
                is_unknown
            });
        }
    }

    /// The namespace's snapshot, and what follows it. None: nothing is known.
    pub fn watch(&self, namespace: &str) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.lock().sender(namespace).subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sender(&mut self, namespace: &str) -> &watch::Sender<Option<Arc<Snapshot>>> {
        let is_complete = self.is_complete;
        self.namespaces
            .entry(namespace.to_owned())
            .or_insert_with(|| watch::Sender::new(is_complete.then(|| Arc::new(Snapshot::empty()))))
    }
}

/// Of names and contents, each with its length before it.
fn revision(files: &BTreeMap<String, Bytes>) -> String {
    let mut digest = Context::new(&SHA256);
    for part in files.iter().flat_map(|(name, content)| [name.as_bytes(), content]) {
        digest.update(&part.len().to_be_bytes());
        digest.update(part);
    }
    hex::encode(digest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        Snapshot::new(BTreeMap::from([("placet.yaml".to_owned(), text.to_owned().into())]))
    }

    #[test]
    fn the_same_revision_wakes_nobody_up() {
        let snapshots = Snapshots::default();
        let mut watch = snapshots.watch("shop");
        assert!(watch.borrow_and_update().is_none());
        snapshots.publish("shop", snapshot("a"));
        assert!(watch.has_changed().unwrap());
        assert_eq!(watch.borrow_and_update().as_deref(), Some(&snapshot("a")));
        snapshots.publish("shop", snapshot("a"));
        snapshots.publish("other", snapshot("b"));
        assert!(!watch.has_changed().unwrap());
        snapshots.publish("shop", snapshot("b"));
        assert!(watch.has_changed().unwrap());
    }

    #[test]
    fn only_what_is_known_to_be_gone_is_empty() {
        let snapshots = Snapshots::default();
        let (shop, mut other) = (snapshots.watch("shop"), snapshots.watch("other"));
        snapshots.publish("shop", snapshot("a"));
        snapshots.withdraw("other");
        assert!(!other.has_changed().unwrap(), "it was never there");
        snapshots.withdraw("shop");
        assert_eq!(shop.borrow().as_deref(), Some(&Snapshot::empty()));
        snapshots.complete();
        assert_eq!(other.borrow_and_update().as_deref(), Some(&Snapshot::empty()));
        assert!(snapshots.watch("third").borrow().is_some());
        snapshots.publish("third", snapshot("c"));
        assert_eq!(snapshots.watch("third").borrow().as_deref(), Some(&snapshot("c")));
    }
}
