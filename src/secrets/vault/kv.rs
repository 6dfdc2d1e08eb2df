//! The KV secrets engines: a key in a secret's field, and what KV v2 remembers of it.

use std::sync::PoisonError;

use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vaultrs::api::kv1::requests::GetSecretRequest;
use vaultrs::api::kv2::requests::{ReadSecretMetadataRequest, ReadSecretRequest};
use vaultrs::api::kv2::responses::{
    ReadSecretMetadataResponse, ReadSecretResponse, SecretMetadata,
};

use super::VaultStore;
use super::cluster::{Fault, Post, Refusal};
use crate::clock::{Clock, Timestamp};
use crate::secrets::fields::Fields;
use crate::secrets::{KeyLocation, KeyMaterial, KvVersion, NewKey, SecretError, Version};

impl VaultStore {
    /// Reads the key at a location.
    pub(in crate::secrets) async fn read(
        &self,
        at: &KeyLocation,
    ) -> Result<KeyMaterial, SecretError> {
        let path = self.path(at)?;
        self.material(self.fetch(path, None).await?, path, &at.name)
    }

    /// Reads one version of the key at a location.
    pub(in crate::secrets) async fn read_version(
        &self,
        at: &KeyLocation,
        number: u64,
    ) -> Result<KeyMaterial, SecretError> {
        let path = self.path(at)?;
        if self.settings.kv_version == KvVersion::V1 {
            return Err(SecretError::NoHistory { store: self.id.clone() });
        }
        let fetched = self.fetch(path, Some(number)).await?;
        // Number 0 stands for the newest.
        if fetched.version != Some(number) {
            return Err(self.refused(unreadable(), &self.full_path(path)));
        }
        self.material(fetched, path, &at.name)
    }

    /// The versions at a location, oldest first; `None` where there are none to see.
    ///
    /// A policy may allow the secret and not its metadata. That is no reason to stop signing, so
    /// it is warned of once and taken for no history. Logging in again on such a 403, at every
    /// look, would use up a secret id: reading the secret itself tells an old token from a policy.
    pub(in crate::secrets) async fn versions(
        &self,
        at: &KeyLocation,
    ) -> Result<Option<Vec<Version>>, SecretError> {
        let path = self.path(at)?;
        if self.settings.kv_version == KvVersion::V1 {
            return Ok(None);
        }
        let mut answer = self.list(path).await;
        if matches!(answer, Err(SecretError::PermissionDenied { .. })) {
            if self.hidden().contains(path) {
                return Ok(None);
            }
            self.fetch(path, None).await.map(drop)?;
            answer = self.list(path).await;
        }
        match answer {
            Ok(versions) => {
                self.hidden().remove(path);
                Ok(Some(versions))
            }
            Err(SecretError::PermissionDenied { .. }) => {
                self.hidden().insert(path.to_owned());
                let metadata = format!("{}/metadata/{path}", self.mount());
                tracing::warn!(
                    store = self.id,
                    "the versions of `{path}` can't be seen, so a restart in mid-rotation loses \
                     the earlier key: add `path \"{metadata}\" {{ capabilities = [\"read\"] }}` \
                     to the policy"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the key at a location; the secret's other fields stay. With KV version 2, what another
    /// wrote in between is not overwritten but an error.
    pub(in crate::secrets) async fn write(
        &self,
        at: &KeyLocation,
        key: &NewKey<'_>,
    ) -> Result<(), SecretError> {
        let path = self.path(at)?;
        let (fields, version) = match self.fetch(path, None).await {
            Ok(fetched) => (fetched.fields.unwrap_or_default(), fetched.version),
            Err(SecretError::NothingThere { .. }) => (Fields::default(), Some(0)),
            Err(SecretError::VersionDeleted { version, .. }) => (Fields::default(), Some(version)),
            Err(error) => return Err(error),
        };
        let fields = fields.with(&at.name, key);
        let (path, body) = match self.settings.kv_version {
            KvVersion::V1 => (self.full_path(path), fields),
            KvVersion::V2 => (
                format!("{}/data/{path}", self.mount()),
                json!({"options": {"cas": version}, "data": fields}),
            ),
        };
        self.ask(&path, &Post { path: path.clone(), body }).await.map(drop)
    }

    async fn list(&self, path: &str) -> Result<Vec<Version>, SecretError> {
        let question =
            ReadSecretMetadataRequest { mount: self.mount().to_owned(), path: path.to_owned() };
        let session = self.session().await?;
        let answer = session.ask(&question).await;
        let list = |answer: super::Answer| {
            let metadata: ReadSecretMetadataResponse = answer.data()?;
            versions(&metadata, Clock::System.now()).ok_or(Fault::Unreadable)
        };
        let list = answer.and_then(|answer| list(answer).map_err(|_| unreadable()));
        list.map_err(|refusal| self.refused(refusal, &self.full_path(path)))
    }

    async fn fetch(&self, path: &str, version: Option<u64>) -> Result<Fetched, SecretError> {
        let (full_path, mount) = (self.full_path(path), self.mount().to_owned());
        let path = path.to_owned();
        let fetched = match self.settings.kv_version {
            KvVersion::V1 => {
                let answer = self.ask(&full_path, &GetSecretRequest { mount, path }).await?;
                answer.data().map(|data| Fetched {
                    fields: Fields::new(data),
                    version: None,
                    created: None,
                })
            }
            KvVersion::V2 => {
                let question = ReadSecretRequest { mount, path, version };
                let answer = self.ask(&full_path, &question).await?;
                answer.data().map(|secret: ReadSecretResponse| Fetched {
                    fields: Fields::new(secret.data),
                    version: Some(secret.metadata.version),
                    created: timestamp(&secret.metadata.created_time),
                })
            }
        };
        fetched.map_err(|_| self.refused(unreadable(), &full_path))
    }

    fn mount(&self) -> &str {
        self.settings.mount.trim_matches('/')
    }

    fn full_path(&self, path: &str) -> String {
        format!("{}/{path}", self.mount())
    }

    fn hidden(&self) -> std::sync::MutexGuard<'_, std::collections::HashSet<String>> {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn material(
        &self,
        fetched: Fetched,
        path: &str,
        name: &str,
    ) -> Result<KeyMaterial, SecretError> {
        let path = self.full_path(path);
        let Some(fields) = fetched.fields else {
            return Err(SecretError::UnreadableAnswer { store: self.id.clone(), path });
        };
        let (bytes, certificate) = fields.take(name, &self.id, &path)?;
        Ok(KeyMaterial { bytes, certificate, version: fetched.version, created: fetched.created })
    }
}

/// A KV secret as it was answered.
struct Fetched {
    /// `None`: it is no object.
    fields: Option<Fields>,
    version: Option<u64>,
    created: Option<Timestamp>,
}

/// The versions, oldest first, as of `now`; `None` if that is no KV v2 metadata.
fn versions(metadata: &ReadSecretMetadataResponse, now: Timestamp) -> Option<Vec<Version>> {
    let version = |(number, metadata): (&String, &SecretMetadata)| {
        let number = number.parse().ok()?;
        let created = timestamp(&metadata.created_time)?;
        // `delete_version_after` sets a time that has yet to come.
        let is_deleted = match metadata.deletion_time.as_str() {
            "" => false,
            time => timestamp(time)? <= now,
        };
        Some(Version { number, created, is_live: !metadata.destroyed && !is_deleted })
    };
    let mut versions: Vec<Version> =
        metadata.versions.iter().map(version).collect::<Option<_>>()?;
    versions.sort_unstable_by_key(|version| version.number);
    Some(versions)
}

/// The version and whether it was destroyed, if this is what KV v2 says of a deleted one.
pub(super) fn deleted_version(body: &str) -> Option<(u64, bool)> {
    #[derive(Deserialize)]
    struct Envelope {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        version: u64,
        #[serde(default)]
        destroyed: bool,
    }
    let Metadata { version, destroyed } =
        serde_json::from_str::<Envelope>(body).ok()?.data.metadata;
    Some((version, destroyed))
}

/// An RFC 3339 time, to the millisecond.
pub(super) fn timestamp(rfc3339: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(rfc3339, &Rfc3339).ok()?;
    let millis = time.unix_timestamp_nanos() / 1_000_000;
    u64::try_from(millis).ok().map(Timestamp::from_millis)
}

const fn unreadable() -> Refusal {
    Refusal { fault: Fault::Unreadable, address: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creation_times_are_read_to_the_millisecond() {
        let read = timestamp("2026-11-22T09:24:15.123456789Z").unwrap();
        assert_eq!(read.millis(), 1_795_339_455_123);
        assert_eq!(timestamp("2026-11-22T10:24:15.123+01:00").unwrap(), read);
        assert!(timestamp("").is_none() && timestamp("1969-12-31T00:00:00Z").is_none());
    }

    #[test]
    fn only_a_deleted_version_is_a_deleted_version() {
        let deleted = r#"{"data":{"data":null,"metadata":{"version":3,"destroyed":false}}}"#;
        assert_eq!(deleted_version(deleted), Some((3, false)));
        let destroyed = r#"{"data":{"data":null,"metadata":{"version":4,"destroyed":true}}}"#;
        assert_eq!(deleted_version(destroyed), Some((4, true)));
        for other in ["", "{}", r#"{"errors":[]}"#, r#"{"data":null}"#] {
            assert_eq!(deleted_version(other), None);
        }
    }
}
