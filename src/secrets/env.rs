//! Keys in environment variables: `<prefix><keyName>`, the name in upper case and everything but
//! letters and digits turned into `_`.
//!
//! The environment of a process doesn't change, so there is no rotation: a new key needs a new
//! process, and tokens signed with the one before no longer verify.

use std::ffi::OsString;

use super::{KeyMaterial, Secret, SecretError};

/// Environment variables with a common prefix.
#[derive(Debug)]
pub(super) struct EnvStore {
    id: String,
    prefix: String,
}

impl EnvStore {
    pub(super) const fn new(id: String, prefix: String) -> Self {
        Self { id, prefix }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Reads the key called `name`.
    pub(super) fn read(&self, name: &str) -> Result<KeyMaterial, SecretError> {
        self.read_from(name, |variable| std::env::var_os(variable))
    }

    fn read_from(
        &self,
        name: &str,
        environment: impl FnOnce(&str) -> Option<OsString>,
    ) -> Result<KeyMaterial, SecretError> {
        let variable = self.variable(name);
        let Some(value) = environment(&variable) else {
            return Err(SecretError::UnsetVariable { store: self.id.clone(), variable });
        };
        let text = value.into_string().map_err(|_| SecretError::NotUtf8 {
            store: self.id.clone(),
            place: format!("variable `{variable}`"),
        })?;
        let bytes = Secret::new(text.into_bytes());
        Ok(KeyMaterial { bytes, certificate: None, version: None, created: None })
    }

    fn variable(&self, name: &str) -> String {
        let name = name.chars().map(|character| match character {
            letter if letter.is_ascii_alphanumeric() => letter.to_ascii_uppercase(),
            _ => '_',
        });
        self.prefix.chars().chain(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn store() -> EnvStore {
        EnvStore::new("environment".to_owned(), "PLACET_KEY_".to_owned())
    }

    #[test]
    fn the_name_becomes_a_variable() {
        let material = store()
            .read_from("orders-v1.eu", |variable| {
                assert_eq!(variable, "PLACET_KEY_ORDERS_V1_EU");
                Some("key".into())
            })
            .unwrap();
        assert_eq!(material.bytes.expose(), b"key");
    }

    #[test]
    fn the_process_environment_is_what_is_read() {
        let store = EnvStore::new("environment".to_owned(), "CARGO_PKG_".to_owned());
        assert_eq!(store.read("name").unwrap().bytes.expose(), b"placet");
    }

    #[test]
    fn unset_and_not_text_are_errors_of_their_own() {
        let error = store().read_from("orders", |_| None).unwrap_err();
        assert!(matches!(error, SecretError::UnsetVariable { .. }), "{error}");
        let error = store()
            .read_from("orders", |_| Some(OsString::from_vec(vec![b'k', 0xff])))
            .unwrap_err();
        assert!(matches!(error, SecretError::NotUtf8 { .. }), "{error}");
        assert!(error.to_string().contains("`PLACET_KEY_ORDERS`"), "{error}");
    }
}
