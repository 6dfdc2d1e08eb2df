//! Snapshots as they are sent: encoded once, and shared by all who get them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Deserialize;

use crate::control::snapshot::Snapshot;
use crate::envoy::framing;
use crate::proto::control::{self, FromControl, from_control};
use crate::source::{MAX_FILES, MAX_SNAPSHOT_BYTES, check_file_name, revision};

/// A snapshot to be sent.
#[derive(Debug)]
pub(super) struct Frame {
    /// What sidecars call it.
    pub(super) revision: String,
    /// The message with its length. None: sidecars would refuse it.
    pub(super) message: Option<Bytes>,
    /// The scopes that are in it.
    pub(super) client_ids: BTreeSet<String>,
}

/// The last one of each namespace.
#[derive(Debug, Default)]
pub(super) struct Frames(Mutex<HashMap<String, Encoded>>);

#[derive(Debug)]
struct Encoded {
    snapshot: Arc<Snapshot>,
    frame: Arc<Frame>,
}

impl Frames {
    /// The namespace's `snapshot`, as it is sent.
    pub(super) fn of(&self, namespace: &str, snapshot: &Arc<Snapshot>) -> Arc<Frame> {
        let mut frames = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoded) = frames.get(namespace)
            && Arc::ptr_eq(&encoded.snapshot, snapshot)
        {
            return Arc::clone(&encoded.frame);
        }
        let frame = Arc::new(Frame::new(namespace, snapshot));
        let encoded = Encoded { snapshot: Arc::clone(snapshot), frame: Arc::clone(&frame) };
        frames.insert(namespace.to_owned(), encoded);
        frame
    }
}

/// As much of `placet.yaml` as is looked at here.
#[derive(Default, Deserialize)]
struct Settings {
    #[serde(default)]
    scopes: Vec<Scope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scope {
    client_id: Option<String>,
}

impl Frame {
    fn new(namespace: &str, snapshot: &Snapshot) -> Self {
        let settings = snapshot.files.get("placet.yaml");
        let settings = settings.and_then(|text| yaml_serde::from_slice::<Settings>(text).ok());
        let scopes = settings.unwrap_or_default().scopes;
        let size: usize = snapshot.files.values().map(Bytes::len).sum();
        let fault = snapshot.files.keys().find_map(|name| check_file_name(name).err());
        let message = match fault {
            Some(fault) => {
                tracing::error!(namespace, "the snapshot is not sent: {fault}");
                None
            }
            None if size > MAX_SNAPSHOT_BYTES || snapshot.files.len() > MAX_FILES => {
                let (files, most) = (snapshot.files.len(), MAX_SNAPSHOT_BYTES / 1024 / 1024);
                tracing::error!(
                    namespace,
                    files,
                    size,
                    "the snapshot is not sent: a sidecar takes {MAX_FILES} files and {most} MiB"
                );
                None
            }
            None => Some(encoded(snapshot)),
        };
        Self {
            revision: revision(&snapshot.files),
            message,
            client_ids: scopes.into_iter().filter_map(|scope| scope.client_id).collect(),
        }
    }
}

fn encoded(snapshot: &Snapshot) -> Bytes {
    let files = snapshot.files.iter();
    let files = files
        .map(|(name, contents)| control::File { name: name.clone(), contents: contents.clone() });
    let revision = revision(&snapshot.files);
    let snapshot = control::Snapshot { revision, files: files.collect() };
    framing::framed(&FromControl { message: Some(from_control::Message::Snapshot(snapshot)) })
}

/// That what a sidecar has is what it should have.
pub(super) fn current(revision: &str) -> Bytes {
    let current = control::Current { revision: revision.to_owned() };
    framing::framed(&FromControl { message: Some(from_control::Message::Current(current)) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;

    use super::*;

    fn snapshot(files: &[(&str, &str)]) -> Arc<Snapshot> {
        let files =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned().into()));
        Arc::new(Snapshot::new(files.collect()))
    }

    #[test]
    fn a_snapshot_is_encoded_once() {
        let frames = Frames::default();
        let one = snapshot(&[("placet.yaml", "scopes: [{clientId: orders}, {clientId: bills}]")]);
        let (first, second) = (frames.of("shop", &one), frames.of("shop", &one));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.client_ids, BTreeSet::from(["orders".to_owned(), "bills".to_owned()]));
        let message = framing::message(first.message.clone().unwrap()).unwrap();
        let Some(from_control::Message::Snapshot(sent)) =
            FromControl::decode(message).unwrap().message
        else {
            panic!("no snapshot");
        };
        let files: BTreeMap<_, _> =
            sent.files.into_iter().map(|it| (it.name, it.contents)).collect();
        assert_eq!((&files, &sent.revision), (&one.files, &one.revision));
        let two = snapshot(&[("placet.yaml", "no settings")]);
        assert!(frames.of("shop", &two).client_ids.is_empty());
    }

    #[test]
    fn what_sidecars_would_refuse_is_not_sent() {
        let frames = Frames::default();
        assert!(frames.of("shop", &snapshot(&[("../a", "")])).message.is_none());
        let large = "a".repeat(MAX_SNAPSHOT_BYTES + 1);
        assert!(frames.of("shop", &snapshot(&[("a", &large)])).message.is_none());
    }
}
