//! Keys in a directory: `<keyName>`, `<keyName>.pem` or `<keyName>.jwk`, the first that is there;
//! the certificate in `<keyName>.crt`.
//!
//! There is no history: after a restart in mid-rotation only the file's present content is known,
//! and tokens signed with the one before no longer verify. Replace files by renaming a whole new
//! one into place (as Kubernetes does for mounted secrets), since a half-written one may be read.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt as _;

use super::{KeyMaterial, NewKey, Secret, SecretError};

/// A directory of key files.
#[derive(Debug)]
pub(super) struct FileStore {
    id: String,
    directory: PathBuf,
}

impl FileStore {
    pub(super) const fn new(id: String, directory: PathBuf) -> Self {
        Self { id, directory }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Reads the key called `name`.
    pub(super) async fn read(&self, name: &str) -> Result<KeyMaterial, SecretError> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            let name = name.to_owned();
            return Err(SecretError::UnusableName { store: self.id.clone(), name });
        }
        let tried = ["", ".pem", ".jwk"].map(|ending| self.path(name, ending));
        for path in &tried {
            if let Some(bytes) = self.read_file(path).await? {
                let certificate = self.certificate(name).await?;
                return Ok(KeyMaterial { bytes, certificate, version: None, created: None });
            }
        }
        Err(SecretError::NoSuchFile { store: self.id.clone(), tried: tried.to_vec() })
    }

    /// Replaces the key called `name` in one step, or makes `<name>.pem`.
    pub(super) async fn write(&self, name: &str, key: &NewKey<'_>) -> Result<(), SecretError> {
        let present = match self.read(name).await {
            Ok(present) => Some(present),
            Err(SecretError::NoSuchFile { .. }) => None,
            Err(error) => return Err(error),
        };
        let mut path = self.path(name, ".pem");
        for ending in ["", ".pem", ".jwk"] {
            if self.read_file(&self.path(name, ending)).await?.is_some() {
                path = self.path(name, ending);
                break;
            }
        }
        // The certificate first: an old key beside a new certificate is refused and read again, and
        // for as long the loaded one goes on signing.
        if present.is_some_and(|present| present.certificate.is_some()) {
            self.replace(&self.path(name, ".crt"), key.certificate, 0o644).await?;
        }
        self.replace(&path, key.pem.expose(), 0o600).await
    }

    async fn replace(&self, path: &Path, text: &str, mode: u32) -> Result<(), SecretError> {
        let unwritable = |reason| {
            let (store, path) = (self.id.clone(), path.to_owned());
            SecretError::UnwritableFile { store, path, reason }
        };
        let beside = path.with_added_extension("new");
        let written = async {
            let mut options = tokio::fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(mode).open(&beside).await?;
            file.write_all(text.as_bytes()).await?;
            file.sync_all().await?;
            tokio::fs::rename(&beside, path).await
        };
        written.await.map_err(unwritable)
    }

    async fn certificate(&self, name: &str) -> Result<Option<String>, SecretError> {
        let path = self.path(name, ".crt");
        let Some(bytes) = self.read_file(&path).await? else { return Ok(None) };
        String::from_utf8(bytes.expose().clone()).map(Some).map_err(|_| SecretError::NotUtf8 {
            store: self.id.clone(),
            place: format!("file `{}`", path.display()),
        })
    }

    /// The file's bytes; `None` if there is no such file.
    async fn read_file(&self, path: &Path) -> Result<Option<Secret<Vec<u8>>>, SecretError> {
        match tokio::fs::read(path).await {
            Ok(bytes) => Ok(Some(Secret::new(bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(reason) => Err(SecretError::UnreadableFile {
                store: self.id.clone(),
                path: path.to_owned(),
                reason,
            }),
        }
    }

    fn path(&self, name: &str, ending: &str) -> PathBuf {
        self.directory.join(format!("{name}{ending}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn read(directory: &Path, name: &str) -> Result<KeyMaterial, SecretError> {
        FileStore::new("files".to_owned(), directory.to_owned()).read(name).await
    }

    #[tokio::test]
    async fn the_exact_name_wins_then_pem_then_jwk() {
        let directory = tempfile::tempdir().unwrap();
        for (file, expected) in [("orders.jwk", "jwk"), ("orders.pem", "pem"), ("orders", "exact")]
        {
            fs::write(directory.path().join(file), expected).unwrap();
            let material = read(directory.path(), "orders").await.unwrap();
            assert_eq!(material.bytes.expose(), expected.as_bytes());
            assert!(material.certificate.is_none() && material.version.is_none());
        }
    }

    #[tokio::test]
    async fn the_certificate_stands_beside_the_key() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("orders.pem"), "key").unwrap();
        fs::write(directory.path().join("orders.crt"), "certificate").unwrap();
        let material = read(directory.path(), "orders").await.unwrap();
        assert_eq!(material.certificate.as_deref(), Some("certificate"));
        fs::write(directory.path().join("orders.crt"), [0xff]).unwrap();
        let error = read(directory.path(), "orders").await.unwrap_err();
        assert!(matches!(error, SecretError::NotUtf8 { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_missing_key_names_every_path_tried() {
        let directory = tempfile::tempdir().unwrap();
        let text = read(directory.path(), "orders").await.unwrap_err().to_string();
        for file in ["orders`", "orders.pem`", "orders.jwk`"] {
            assert!(text.contains(file), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_does_not_leave_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("key"), "outside").unwrap();
        let directory = outside.path().join("keys");
        fs::create_dir(&directory).unwrap();
        let absolute = outside.path().join("key");
        for name in ["../key", "..", ".", "", "a/b", "key\0", absolute.to_str().unwrap()] {
            let error = read(&directory, name).await.unwrap_err();
            assert!(matches!(error, SecretError::UnusableName { .. }), "{name:?}: {error}");
        }
        fs::write(directory.join("..key"), "inside").unwrap();
        assert_eq!(read(&directory, "..key").await.unwrap().bytes.expose(), b"inside");
    }

    #[tokio::test]
    async fn what_is_there_but_unreadable_is_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("orders")).unwrap();
        fs::write(directory.path().join("orders.pem"), "key").unwrap();
        let error = read(directory.path(), "orders").await.unwrap_err();
        assert!(matches!(error, SecretError::UnreadableFile { .. }), "{error}");
    }
}
