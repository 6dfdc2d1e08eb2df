//! Snapshots from a directory, where there is no Kubernetes: each directory in it is a namespace, and holds
//! `placet.yaml` and the files that it names.
//!
//! A namespace's files are read once two looks agree that they have changed. One whose directory is gone has no
//! scopes any more. Where the directory of all can't be read, or is empty, as one is that was not mounted, nothing
//! is known and nothing changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::caller::is_namespace;
use crate::control::snapshot::{Snapshot, Snapshots};
use crate::files::Stamp;
use crate::source::{MAX_FILES, MAX_SNAPSHOT_BYTES, check_file_name};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// How deep directories are looked into.
const MAX_DEPTH: usize = 16;

/// Keeps snapshots up to date with a directory.
pub(super) struct Namespaces {
    root: PathBuf,
    snapshots: Arc<Snapshots>,
    read: BTreeMap<String, Stamp>,
    seen: BTreeMap<String, Stamp>,
    published: BTreeSet<String>,
    is_complete: bool,
    problem: Option<String>,
}

/// The snapshots in `root`.
pub(super) fn read(root: &Path, snapshots: &Arc<Snapshots>) -> Namespaces {
    Namespaces {
        root: root.to_owned(),
        snapshots: Arc::clone(snapshots),
        read: BTreeMap::new(),
        seen: BTreeMap::new(),
        published: BTreeSet::new(),
        is_complete: false,
        problem: None,
    }
}

impl Namespaces {
    /// Looks again and again, until `shutdown`.
    pub(super) async fn run(mut self, shutdown: &CancellationToken) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let looked = tokio::task::spawn_blocking(move || {
                let looked = self.look();
                (self, looked)
            });
            let Ok((namespaces, looked)) = looked.await else { return };
            self = namespaces;
            let problem = looked.err().map(|error| format!("`{}`: {error}", self.root.display()));
            if let Some(text) = problem.as_ref().filter(|_| self.problem != problem) {
                tracing::error!("namespaces can't be read, and stay as they were: {text}");
            }
            self.problem = problem;
        }
    }

    fn look(&mut self) -> io::Result<()> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_namespace(&name) && fs::metadata(entry.path()).is_ok_and(|it| it.is_dir()) {
                names.insert(name);
            }
        }
        if names.is_empty() {
            return Err(io::Error::other("it holds no namespaces"));
        }
        let gone: Vec<String> =
            self.read.keys().filter(|it| !names.contains(*it)).cloned().collect();
        for name in gone {
            self.read.remove(&name);
            tracing::info!(namespace = name, "the namespace is gone, and has no scopes any more");
            self.snapshots.withdraw(&name);
        }
        for name in &names {
            self.look_at(name);
        }
        if !self.is_complete && names.iter().all(|name| self.published.contains(name)) {
            self.is_complete = true;
            self.snapshots.complete();
        }
        Ok(())
    }

    /// Reads the namespace, if it has changed and come to rest.
    fn look_at(&mut self, name: &str) {
        let path = self.root.join(name);
        let stamp = Stamp::of(&path);
        if self.read.get(name) == Some(&stamp) {
            return;
        }
        if self.seen.insert(name.to_owned(), stamp) != Some(stamp) {
            return;
        }
        let read = files(&path);
        if Stamp::of(&path) != stamp {
            return;
        }
        self.read.insert(name.to_owned(), stamp);
        match read {
            Ok(files) => {
                let snapshot = Snapshot::new(files);
                tracing::info!(namespace = name, revision = snapshot.revision, "a snapshot");
                self.snapshots.publish(name, snapshot);
                self.published.insert(name.to_owned());
            }
            Err(error) => {
                tracing::error!(namespace = name, "the snapshot stays as it was: {error}");
            }
        }
    }
}

/// The files below `path`, but those whose names begin with a dot.
fn files(path: &Path) -> io::Result<BTreeMap<String, Bytes>> {
    let mut files = BTreeMap::new();
    let mut left = MAX_SNAPSHOT_BYTES;
    add(path, "", 0, &mut left, &mut files)?;
    if !files.contains_key("placet.yaml") {
        return Err(io::Error::other(format!("`{}` holds no placet.yaml", path.display())));
    }
    Ok(files)
}

fn add(
    path: &Path,
    prefix: &str,
    depth: usize,
    left: &mut usize,
    files: &mut BTreeMap<String, Bytes>,
) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let name = format!("{prefix}{}", name.to_string_lossy());
        check_file_name(&name).map_err(io::Error::other)?;
        // Links are followed: a volume of Kubernetes is made of them.
        if fs::metadata(entry.path())?.is_dir() {
            if depth < MAX_DEPTH {
                add(&entry.path(), &format!("{name}/"), depth + 1, left, files)?;
            }
            continue;
        }
        let mut contents = Vec::new();
        fs::File::open(entry.path())?.take(*left as u64 + 1).read_to_end(&mut contents)?;
        let too_large = || io::Error::other(format!("more than {MAX_FILES} files or 16 MiB"));
        *left = left.checked_sub(contents.len()).ok_or_else(too_large)?;
        if files.len() >= MAX_FILES {
            return Err(too_large());
        }
        files.insert(name, contents.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_read_when_it_has_settled_and_withdrawn_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Arc::new(Snapshots::default());
        let shop = folder.path().join("shop");
        let mut namespaces = read(folder.path(), &snapshots);
        assert!(namespaces.look().is_err(), "an empty directory says nothing");
        fs::create_dir_all(shop.join("policies")).unwrap();
        fs::create_dir(folder.path().join("broken")).unwrap();
        fs::write(shop.join("placet.yaml"), "scopes: []").unwrap();
        fs::write(shop.join("policies/a.cedar"), "").unwrap();
        fs::write(shop.join(".hidden"), "").unwrap();
        let watch = snapshots.watch("shop");
        let names = || {
            let snapshot = watch.borrow().clone();
            snapshot.map(|it| it.files.keys().cloned().collect::<Vec<_>>())
        };
        namespaces.look().unwrap();
        assert_eq!(names(), None, "one look is not enough");
        assert!(snapshots.watch("other").borrow().is_none());
        namespaces.look().unwrap();
        assert_eq!(names().unwrap(), ["placet.yaml", "policies/a.cedar"]);
        assert!(snapshots.watch("other").borrow().is_none(), "one could not be read");
        fs::write(folder.path().join("broken/placet.yaml"), "scopes: []").unwrap();
        (0..2).for_each(|_| namespaces.look().unwrap());
        assert!(snapshots.watch("other").borrow().is_some(), "all are known");
        fs::remove_file(shop.join("placet.yaml")).unwrap();
        (0..3).for_each(|_| namespaces.look().unwrap());
        assert_eq!(names().unwrap().len(), 2, "without settings it is no snapshot");
        fs::rename(folder.path(), folder.path().with_extension("away")).unwrap();
        assert!(namespaces.look().is_err());
        assert_eq!(names().unwrap().len(), 2, "nothing is known");
        fs::rename(folder.path().with_extension("away"), folder.path()).unwrap();
        fs::remove_dir_all(&shop).unwrap();
        namespaces.look().unwrap();
        assert_eq!(watch.borrow().as_deref(), Some(&Snapshot::empty()));
    }
}
