//! The fields of a secret that is a JSON object: the key, and the certificate beside it. They are
//! overwritten when dropped.

use serde_json::{Map, Value};
use zeroize::Zeroize as _;

use super::{NewKey, Secret, SecretError};

/// A secret's fields.
#[derive(Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// `None` if it is no object.
    pub(super) fn new(secret: Value) -> Option<Self> {
        match secret {
            Value::Object(fields) => Some(Self(fields)),
            mut other => {
                overwrite(&mut other);
                None
            }
        }
    }

    /// Takes the field `name`, and the text of `<name>.crt` if there is one. `path` is what errors
    /// call the secret.
    pub(super) fn take(
        mut self,
        name: &str,
        store: &str,
        path: &str,
    ) -> Result<(Secret<Vec<u8>>, Option<String>), SecretError> {
        let (store, path) = (store.to_owned(), path.to_owned());
        let certificate = match self.0.get(&format!("{name}.crt")) {
            None => None,
            Some(Value::String(pem)) => Some(pem.clone()),
            Some(_) => {
                let field = format!("{name}.crt");
                return Err(SecretError::FieldNotText { store, path, field });
            }
        };
        let field = name.to_owned();
        match self.0.get_mut(name).map(Value::take) {
            Some(Value::String(text)) => Ok((Secret::new(text.into_bytes()), certificate)),
            Some(_) => Err(SecretError::FieldNotText { store, path, field }),
            None => {
                let present = self.0.keys().cloned().collect();
                Err(SecretError::MissingField { store, path, field, present })
            }
        }
    }

    /// The fields with `key` in the place of `name`, and its certificate where there was one.
    pub(super) fn with(mut self, name: &str, key: &NewKey<'_>) -> Value {
        let certificate = format!("{name}.crt");
        if self.0.contains_key(&certificate) {
            self.0.insert(certificate, key.certificate.into());
        }
        self.0.insert(name.to_owned(), key.pem.expose().as_str().into());
        Value::Object(std::mem::take(&mut self.0))
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        self.0.values_mut().for_each(overwrite);
    }
}

fn overwrite(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(overwrite),
        Value::Object(fields) => fields.values_mut().for_each(overwrite),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
