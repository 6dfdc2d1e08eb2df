//! Files that are looked at again and again: whether they are still what they were.
//!
//! A [`Stamp`] is what the file system says of a file: which one it is, its length, its times. Links are
//! followed, so the swapped `..data` of a Kubernetes volume is another file, and so is one that was renamed
//! into place. A look takes a few microseconds a file, and sees what another machine wrote on a network
//! volume, of which the kernel's own notifications say nothing. What a look can't see is half a file: whoever
//! acts on a change waits until two looks agree.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Hasher};

/// How deep directories are looked into, as bundles of policies are.
const DEPTH_LIMIT: usize = 32;

/// How many files of one directory are looked at.
const ENTRY_LIMIT: usize = 10_000;

/// What a file was, or all files of a directory were, at one look; that there was none is a stamp too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp(Digest);

impl Stamp {
    /// Looks at `path`. Of a directory, names that begin with a dot are passed over.
    pub fn of(path: &Path) -> Self {
        let mut hasher = Hasher::default();
        let mut left = ENTRY_LIMIT;
        add(path, 0, &mut left, &mut hasher);
        Self(hasher.finish())
    }
}

fn add(path: &Path, depth: usize, left: &mut usize, hasher: &mut Hasher) {
    if let Err(error) = try_add(path, depth, left, hasher) {
        let code = error.raw_os_error().unwrap_or_default();
        hasher.update(b"error").update(&code.to_le_bytes());
    }
}

fn try_add(path: &Path, depth: usize, left: &mut usize, hasher: &mut Hasher) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
    for number in [metadata.dev(), metadata.ino(), metadata.len()] {
        hasher.update(&number.to_le_bytes());
    }
    for number in times {
        hasher.update(&number.to_le_bytes());
    }
    if !metadata.is_dir() || depth == DEPTH_LIMIT {
        return Ok(());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort_unstable();
    for name in names {
        let Some(fewer) = left.checked_sub(1) else { return Ok(()) };
        *left = fewer;
        let bytes = name.as_encoded_bytes();
        hasher.update(&bytes.len().to_le_bytes()).update(bytes);
        add(&path.join(&name), depth.saturating_add(1), left, hasher);
    }
    Ok(())
}

/// Files and directories, and what each was when it was looked at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Look(BTreeMap<PathBuf, Stamp>);

impl Look {
    /// Looks at `path`, which is about to be read. Of two looks at one path the first counts: whatever
    /// changes after it has not surely been read.
    pub fn note(&mut self, path: &Path) {
        if !self.0.contains_key(path) {
            self.0.insert(path.to_owned(), Stamp::of(path));
        }
    }

    /// The same files as they are now.
    #[must_use]
    pub fn again(&self) -> Self {
        Self(self.0.keys().map(|path| (path.clone(), Stamp::of(path))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_another_when_it_is_written_replaced_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let mut look = Look::default();
        look.note(&file);
        let absent = look.clone();
        fs::write(&file, "one").unwrap();
        let mut seen = vec![look.again()];
        assert_eq!(look.again(), seen[0], "nothing happened");
        fs::write(&file, "three").unwrap();
        seen.push(look.again());
        fs::write(folder.path().join("b"), "three").unwrap();
        fs::rename(folder.path().join("b"), &file).unwrap();
        seen.push(look.again());
        for (at, one) in seen.iter().enumerate() {
            assert!(seen.iter().skip(at + 1).all(|other| other != one) && *one != absent);
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(look.again(), absent);
    }

    /// As the kubelet does it: a new directory, a new link beside, and the link renamed into place.
    #[test]
    fn the_swap_of_a_volume_s_link_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("placet.yaml"), "same").unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/placet.yaml", at("placet.yaml")).unwrap();
        let before = [Stamp::of(&at("placet.yaml")), Stamp::of(folder.path())];
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        let after = [Stamp::of(&at("placet.yaml")), Stamp::of(folder.path())];
        assert!(before[0] != after[0] && before[1] != after[1]);
    }

    #[test]
    fn a_directory_is_all_that_is_in_it_but_for_dots() {
        let folder = tempfile::tempdir().unwrap();
        let within = folder.path().join("a/b");
        fs::create_dir_all(&within).unwrap();
        fs::write(within.join("c"), "1").unwrap();
        fs::write(within.join(".d"), "1").unwrap();
        let before = Stamp::of(folder.path());
        fs::write(within.join(".d"), "12").unwrap();
        assert_eq!(Stamp::of(folder.path()), before);
        fs::write(within.join("c"), "12").unwrap();
        assert_ne!(Stamp::of(folder.path()), before);
    }

    #[test]
    fn a_directory_that_holds_itself_ends() {
        let folder = tempfile::tempdir().unwrap();
        symlink(folder.path(), folder.path().join("again")).unwrap();
        assert_eq!(Stamp::of(folder.path()), Stamp::of(folder.path()));
    }
}
