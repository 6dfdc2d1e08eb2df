//! Where scopes come from beside the settings file: the control plane, which sends snapshots of settings and
//! policies.
//!
//! [`Follower`] holds the stream, [`Directory`] the last good snapshot on disk. A snapshot is written beside the
//! last one, compiled as changed settings are, and only then takes its place: what is on disk is what was in
//! force, and a restart needs nobody else. Losing the control plane changes nothing; a snapshot that can't be put
//! in force changes nothing either, and the control plane is told why.

mod directory;
mod follower;

use std::collections::BTreeMap;
use std::path::PathBuf;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use tokio::sync::watch;

pub use self::directory::{Directory, DirectoryFault, Stored};
pub use self::follower::{Follower, Parts};

/// The largest snapshot, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 16 * 1024 * 1024;

/// How many files a snapshot may have.
pub const MAX_FILES: usize = 4096;

/// Where the control plane is, and where its last good snapshot is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ControlSettings {
    /// `HOST:PORT`.
    pub address: String,
    /// The name that its certificate is for.
    pub server_name: String,
    /// The authorities that are trusted to say so, PEM.
    pub ca_file: PathBuf,
    /// The token to present, read at each connection.
    pub token_file: PathBuf,
    /// Where snapshots are kept.
    pub directory: PathBuf,
}

/// A snapshot as it was sent.
#[derive(Debug)]
pub struct Wanted {
    /// What it is called; not yet compared with what it holds.
    pub revision: String,
    /// Contents by name.
    pub files: BTreeMap<String, Bytes>,
}

/// What became of snapshots.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// The revision that is in force, and on disk.
    pub in_force: Option<String>,
    /// The last one that could not be put in force, and why.
    pub refused: Option<(String, String)>,
}

/// What is known of the control plane, for readers.
#[derive(Clone, Debug)]
pub struct Following {
    /// What is wrong with the connection; none: it stands.
    pub problem: watch::Receiver<Option<String>>,
    /// What became of snapshots.
    pub outcome: watch::Receiver<Outcome>,
}

/// The revision of `files`: the SHA-256 over each one's name and contents, both with their lengths.
pub fn revision(files: &BTreeMap<String, Bytes>) -> String {
    let mut context = Context::new(&SHA256);
    for (name, contents) in files {
        for part in [name.as_bytes(), contents] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    hex::encode(context.finish())
}

/// What is wrong with the name of a file.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`{}` is no name for a file of a snapshot: write a relative path of plain names, none beginning with a dot",
    .0.escape_debug()
)]
pub struct BadFileName(pub String);

/// Whether a file of a snapshot may be called `name`, so that it lies below the snapshot's directory and nowhere
/// else.
///
/// # Errors
/// If not.
pub fn check_file_name(name: &str) -> Result<(), BadFileName> {
    let is_plain = |part: &str| {
        let is_short = !part.is_empty() && part.len() <= 255;
        is_short && !part.starts_with('.') && !part.contains(|c: char| c.is_control() || c == '\\')
    };
    let is_good =
        name.len() <= 1024 && name.split('/').count() <= 16 && name.split('/').all(is_plain);
    if is_good { Ok(()) } else { Err(BadFileName(name.chars().take(100).collect())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(files: &[(&str, &str)]) -> BTreeMap<String, Bytes> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned().into())).collect()
    }

    #[test]
    fn the_revision_is_the_one_that_the_protocol_describes() {
        // printf '\0\0\0\0\0\0\0\1a\0\0\0\0\0\0\0\2bc' | sha256sum
        let found = revision(&files(&[("a", "bc")]));
        assert_eq!(found, "3fafa1cf2f19a7c1129beb20cf0983f73a489a221fc0dd2f16d1be292d089205");
        assert_ne!(found, revision(&files(&[("ab", "c")])));
        assert_ne!(found, revision(&files(&[("a", ""), ("bc", "")])));
    }

    #[test]
    fn names_lead_nowhere_else() {
        for name in ["placet.yaml", "policies/orders.cedar", "a b", "ü"] {
            assert_eq!(check_file_name(name), Ok(()), "{name}");
        }
        for name in [
            "", "/a", "a/", "a//b", "..", "../a", "a/../b", ".", "./a", ".a", "a/.b", "a\\b",
            "a\0", "a\n",
        ] {
            assert!(check_file_name(name).is_err(), "{name:?}");
        }
        assert!(check_file_name(&"a/".repeat(16)).is_err());
        assert!(check_file_name(&"a".repeat(256)).is_err());
    }

    proptest! {
        #[test]
        fn a_name_that_is_accepted_stays_below(name in "[a./\\\\\u{0}-\u{20}]{0,12}") {
            if check_file_name(&name).is_ok() {
                let path = std::path::Path::new(&name);
                let is_normal = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(path.components().all(is_normal), "{name:?}");
                prop_assert_eq!(path.to_str(), Some(name.as_str()));
            }
        }
    }
}
