//! The last good snapshot, on disk.
//!
//! ```text
//! <directory>/<revision>/placet.yaml …   a snapshot, written beside and renamed into place
//! <directory>/current -> <revision>      the one that was put in force last
//! ```
//!
//! What is read is held to its own name: the digest of all that lies there. So a write that was torn, a disk that
//! forgot, or a hand that helped is found out, and so is a link that leads elsewhere; then it is as good as not
//! there.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{BadFileName, MAX_FILES, MAX_SNAPSHOT_BYTES, check_file_name, revision};

/// The link to the snapshot in force.
const CURRENT: &str = "current";

/// What is being written.
const NEW: &str = ".new";
const NEW_CURRENT: &str = ".current";

/// How deep directories are.
const MAX_DEPTH: usize = 16;

/// Where snapshots are kept.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

/// A snapshot on disk that is what its name says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// Its revision.
    pub revision: String,
    /// The directory of its files.
    pub path: PathBuf,
}

/// What is wrong with a snapshot, or where it is kept.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum DirectoryFault {
    #[error("can't {what} `{}`: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("`{}` is no link to a snapshot: remove it", .0.display())]
    NoLink(PathBuf),
    #[error("`{}` is damaged: its files have another digest than its name", .0.display())]
    Damaged(PathBuf),
    #[error("`{}` is damaged: it is no plain file", .0.display())]
    NotPlain(PathBuf),
    #[error("`{}` is damaged: {fault}", path.display())]
    Name { path: PathBuf, fault: BadFileName },
    #[error("a snapshot may have {MAX_FILES} files and {} MiB: this one has more", MAX_SNAPSHOT_BYTES / 1024 / 1024)]
    TooLarge,
    #[error("the snapshot's files have another digest than its revision `{}`", .0.escape_debug())]
    OtherDigest(String),
    #[error(transparent)]
    BadName(#[from] BadFileName),
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryFault {
    move |source| DirectoryFault::Io { what, path: path.to_owned(), source }
}

impl Directory {
    /// The directory at `path`, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The snapshot that was put in force last; none, if none ever was.
    ///
    /// # Errors
    /// If it can't be read, or is not what it was.
    pub fn current(&self) -> Result<Option<Stored>, DirectoryFault> {
        let link = self.0.join(CURRENT);
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(DirectoryFault::NoLink(link));
            }
            Err(error) => return Err(failed("read", &link)(error)),
        };
        let revision = target.to_str().filter(|name| is_revision(name));
        let revision = revision.ok_or(DirectoryFault::NoLink(link))?;
        let stored = Stored { revision: revision.to_owned(), path: self.0.join(revision) };
        stored.verify()?;
        Ok(Some(stored))
    }

    /// Writes a snapshot beside the last one.
    ///
    /// # Errors
    /// If it is not what its revision says, or can't be written; then nothing has changed.
    pub fn store(
        &self,
        revision: &str,
        files: &BTreeMap<String, Bytes>,
    ) -> Result<Stored, DirectoryFault> {
        let size: usize = files.values().map(Bytes::len).sum();
        if files.len() > MAX_FILES || size > MAX_SNAPSHOT_BYTES {
            return Err(DirectoryFault::TooLarge);
        }
        files.keys().try_for_each(|name| check_file_name(name))?;
        if !is_revision(revision) || super::revision(files) != revision {
            return Err(DirectoryFault::OtherDigest(revision.chars().take(100).collect()));
        }
        let stored = Stored { revision: revision.to_owned(), path: self.0.join(revision) };
        if stored.verify().is_ok() {
            return Ok(stored);
        }
        let new = self.0.join(NEW);
        remove(&new)?;
        make_directories(&new)?;
        for (name, contents) in files {
            write(&new, name, contents)?;
        }
        sync_directories(&new)?;
        remove(&stored.path)?;
        fs::rename(&new, &stored.path).map_err(failed("write", &stored.path))?;
        sync(&self.0)?;
        Ok(stored)
    }

    /// Makes `stored` the one that a restart begins with.
    ///
    /// # Errors
    /// If that can't be written; then it is still the last one.
    pub fn adopt(&self, stored: &Stored) -> Result<(), DirectoryFault> {
        let (link, new) = (self.0.join(CURRENT), self.0.join(NEW_CURRENT));
        if fs::read_link(&link).is_ok_and(|target| target == Path::new(&stored.revision)) {
            return Ok(());
        }
        remove(&new)?;
        symlink(&stored.revision, &new).map_err(failed("write", &new))?;
        if fs::symlink_metadata(&link).is_ok_and(|it| it.is_dir()) {
            remove(&link)?;
        }
        fs::rename(&new, &link).map_err(failed("write", &link))?;
        sync(&self.0)
    }

    /// Removes all snapshots but `kept`.
    pub fn tidy(&self, kept: &Stored) {
        let Ok(entries) = fs::read_dir(&self.0) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_old = name
                .to_str()
                .is_some_and(|name| name == NEW || (is_revision(name) && name != kept.revision));
            if is_old && let Err(error) = remove(&entry.path()) {
                tracing::warn!("an old snapshot is left: {error}");
            }
        }
    }
}

impl Stored {
    /// Whether its files are still what its name says.
    ///
    /// # Errors
    /// If not, or if that can't be told.
    pub fn verify(&self) -> Result<(), DirectoryFault> {
        let mut read = Reading { files: BTreeMap::new(), left: MAX_SNAPSHOT_BYTES };
        read.directory(&self.path, "", 0)?;
        if revision(&read.files) == self.revision {
            Ok(())
        } else {
            Err(DirectoryFault::Damaged(self.path.clone()))
        }
    }
}

fn is_revision(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads a snapshot back.
struct Reading {
    files: BTreeMap<String, Bytes>,
    /// How many bytes it may still have.
    left: usize,
}

impl Reading {
    fn directory(&mut self, path: &Path, prefix: &str, depth: usize) -> Result<(), DirectoryFault> {
        let metadata = fs::symlink_metadata(path).map_err(failed("read", path))?;
        if !metadata.is_dir() || depth >= MAX_DEPTH {
            return Err(DirectoryFault::NotPlain(path.to_owned()));
        }
        for entry in fs::read_dir(path).map_err(failed("read", path))? {
            let entry = entry.map_err(failed("read", path))?;
            let path = entry.path();
            let name = entry.file_name();
            let name = format!("{prefix}{}", name.to_string_lossy());
            let named = |fault| DirectoryFault::Name { path: path.clone(), fault };
            check_file_name(&name).map_err(named)?;
            let kind = entry.file_type().map_err(failed("read", &path))?;
            if kind.is_dir() {
                self.directory(&path, &format!("{name}/"), depth + 1)?;
            } else if kind.is_file() {
                self.file(&path, name)?;
            } else {
                return Err(DirectoryFault::NotPlain(path));
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: String) -> Result<(), DirectoryFault> {
        let file = File::open(path).map_err(failed("read", path))?;
        let mut contents = Vec::new();
        let most = self.left as u64 + 1;
        file.take(most).read_to_end(&mut contents).map_err(failed("read", path))?;
        let left = self.left.checked_sub(contents.len());
        self.left = left.ok_or(DirectoryFault::TooLarge)?;
        if self.files.len() >= MAX_FILES {
            return Err(DirectoryFault::TooLarge);
        }
        self.files.insert(name, contents.into());
        Ok(())
    }
}

fn write(root: &Path, name: &str, contents: &[u8]) -> Result<(), DirectoryFault> {
    let path = root.join(name);
    if let Some(parent) = path.parent() {
        make_directories(parent)?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()
    });
    written.map_err(failed("write", &path))
}

/// For the process's own user.
fn make_directories(path: &Path) -> Result<(), DirectoryFault> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed("make", path))
}

/// Has `path` and the directories in it on disk.
fn sync_directories(path: &Path) -> Result<(), DirectoryFault> {
    for entry in fs::read_dir(path).map_err(failed("read", path))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sync_directories(&entry.path())?;
        }
    }
    sync(path)
}

fn sync(directory: &Path) -> Result<(), DirectoryFault> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(failed("sync", directory))
}

/// Removes what is at `path`, whatever it is.
fn remove(path: &Path) -> Result<(), DirectoryFault> {
    let removed = match fs::symlink_metadata(path) {
        Ok(it) if it.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(failed("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> BTreeMap<String, Bytes> {
        let mut files = BTreeMap::new();
        files.insert("placet.yaml".to_owned(), text.to_owned().into());
        files.insert("policies/a/orders.cedar".to_owned(), Bytes::from_static(b"permit"));
        files
    }

    fn stored(directory: &Directory, text: &str) -> Stored {
        let files = files(text);
        directory.store(&revision(&files), &files).unwrap()
    }

    #[test]
    fn what_was_adopted_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(folder.path().join("made/on/the/way"));
        assert_eq!(directory.current().unwrap(), None);
        let first = stored(&directory, "one");
        assert_eq!(directory.current().unwrap(), None, "it was not put in force");
        directory.adopt(&first).unwrap();
        assert_eq!(directory.current().unwrap(), Some(first.clone()));
        let second = stored(&directory, "two");
        assert_eq!(directory.current().unwrap(), Some(first.clone()));
        directory.adopt(&second).unwrap();
        directory.adopt(&second).unwrap();
        directory.tidy(&second);
        assert_eq!(directory.current().unwrap(), Some(second.clone()));
        assert!(!first.path.exists());
        assert_eq!(stored(&directory, "two"), second, "what is there is not written again");
    }

    #[test]
    fn what_is_not_what_its_name_says_is_refused_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(folder.path().to_owned());
        let good = stored(&directory, "one");
        directory.adopt(&good).unwrap();
        let policy = good.path.join("policies/a/orders.cedar");
        let damages: [(&str, &dyn Fn()); 8] = [
            ("another digest", &|| fs::write(&policy, "perm").unwrap()),
            ("another digest", &|| fs::write(good.path.join("more"), "").unwrap()),
            ("another digest", &|| fs::remove_file(&policy).unwrap()),
            ("no plain file", &|| {
                fs::write(folder.path().join("elsewhere"), "permit").unwrap();
                fs::remove_file(&policy).unwrap();
                symlink(folder.path().join("elsewhere"), &policy).unwrap();
            }),
            ("no plain file", &|| {
                fs::rename(good.path.join("policies"), folder.path().join("moved")).unwrap();
                symlink("../moved", good.path.join("policies")).unwrap();
            }),
            ("no plain file", &|| {
                fs::rename(&good.path, folder.path().join("whole")).unwrap();
                symlink("whole", &good.path).unwrap();
            }),
            ("beginning with a dot", &|| fs::write(good.path.join(".more"), "").unwrap()),
            ("can't read", &|| fs::remove_dir_all(&good.path).unwrap()),
        ];
        for (said, damage) in damages {
            damage();
            let fault = directory.current().unwrap_err().to_string();
            assert!(fault.contains(said), "{fault}");
            assert_eq!(stored(&directory, "one"), good);
            assert_eq!(directory.current().unwrap(), Some(good.clone()));
            let _ = fs::remove_dir_all(folder.path().join("moved"));
            let _ = fs::remove_dir_all(folder.path().join("whole"));
        }
    }

    #[test]
    fn a_link_leads_to_a_snapshot_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(folder.path().to_owned());
        let good = stored(&directory, "one");
        let link = folder.path().join("current");
        for target in
            ["/etc", "..", &format!("./{}", good.revision), good.revision.get(..63).unwrap()]
        {
            symlink(target, &link).unwrap();
            assert!(
                directory.current().unwrap_err().to_string().contains("is no link"),
                "{target}"
            );
            directory.adopt(&good).unwrap();
            assert_eq!(directory.current().unwrap(), Some(good.clone()));
            fs::remove_file(&link).unwrap();
        }
        for other in [true, false] {
            if other {
                fs::create_dir(&link).unwrap()
            } else {
                fs::write(&link, "").unwrap()
            }
            assert!(directory.current().unwrap_err().to_string().contains("is no link"));
            directory.adopt(&good).unwrap();
            assert_eq!(directory.current().unwrap(), Some(good.clone()));
            fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_torn_write_leaves_the_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(folder.path().to_owned());
        let good = stored(&directory, "one");
        directory.adopt(&good).unwrap();
        fs::create_dir_all(folder.path().join(".new/policies")).unwrap();
        fs::write(folder.path().join(".new/policies/half"), "per").unwrap();
        symlink("nowhere", folder.path().join(".current")).unwrap();
        assert_eq!(directory.current().unwrap(), Some(good));
        let next = stored(&directory, "two");
        directory.adopt(&next).unwrap();
        directory.tidy(&next);
        assert_eq!(directory.current().unwrap(), Some(next));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_sent_is_held_to_its_revision_and_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(folder.path().join("snapshots"));
        let mut files = files("one");
        for revision in ["", "0123", &"0".repeat(64), &revision(&files).to_uppercase()] {
            let fault = directory.store(revision, &files).unwrap_err().to_string();
            assert!(fault.contains("another digest"), "{fault}");
        }
        for name in ["../escaped", "/tmp/escaped", "policies", ".hidden"] {
            let mut files = files.clone();
            files.insert(name.to_owned(), Bytes::new());
            // The third is a directory already.
            assert!(directory.store(&revision(&files), &files).is_err(), "{name}");
        }
        files.insert("large".to_owned(), vec![0; MAX_SNAPSHOT_BYTES].into());
        let fault = directory.store(&revision(&files), &files).unwrap_err();
        assert!(matches!(fault, DirectoryFault::TooLarge));
        assert!(directory.current().unwrap().is_none());
        assert!(!folder.path().join("escaped").exists());
    }
}
