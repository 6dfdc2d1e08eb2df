//! One question to one node, and what can go wrong with it.

use rustify::errors::ClientError as RestError;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vaultrs::api::kv2::requests::ReadSecretRequest;
use vaultrs::api::kv2::responses::SecretMetadata;
use vaultrs::client::VaultClient;
use vaultrs::error::ClientError;
use zeroize::Zeroize as _;

use crate::clock::{Clock, Timestamp};
use crate::secrets::{Secret, Version};

/// The token of an `AppRole` login.
pub(super) async fn app_role_login(
    client: &VaultClient,
    mount: &str,
    role_id: &str,
    secret_id: &str,
) -> Result<Secret<String>, Fault> {
    let login = vaultrs::auth::approle::login(client, mount, role_id, secret_id).await?;
    Ok(Secret::new(login.client_token))
}

/// A KV secret as it was answered; its fields are overwritten when dropped.
pub(super) struct Fetched {
    pub(super) data: Value,
    pub(super) version: Option<u64>,
    pub(super) created: Option<Timestamp>,
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if let Value::Object(fields) = &mut self.data {
            for field in fields.values_mut() {
                if let Value::String(text) = field {
                    text.zeroize();
                }
            }
        }
    }
}

pub(super) async fn read_v1(
    client: &VaultClient,
    mount: &str,
    path: &str,
) -> Result<Fetched, Fault> {
    let secret = vaultrs::kv1::get_raw(client, mount, path).await?;
    Ok(Fetched { data: secret.data, version: None, created: None })
}

pub(super) async fn read_v2(
    client: &VaultClient,
    mount: &str,
    path: &str,
    version: Option<u64>,
) -> Result<Fetched, Fault> {
    // The library's own reading function drops the metadata.
    let mut request = ReadSecretRequest::builder();
    request.mount(mount).path(path);
    if let Some(version) = version {
        request.version(version);
    }
    let request = request.build().map_err(|_| Fault::Unreadable)?;
    let secret = vaultrs::api::exec_with_result(client, request).await?;
    Ok(Fetched {
        data: secret.data,
        version: Some(secret.metadata.version),
        created: timestamp(&secret.metadata.created_time),
    })
}

/// The versions of a KV v2 secret, oldest first.
pub(super) async fn list_v2(
    client: &VaultClient,
    mount: &str,
    path: &str,
) -> Result<Vec<Version>, Fault> {
    let metadata = vaultrs::kv2::read_metadata(client, mount, path).await?;
    let now = Clock::System.now();
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
    let versions: Option<Vec<_>> = metadata.versions.iter().map(version).collect();
    let mut versions = versions.ok_or(Fault::Unreadable)?;
    versions.sort_unstable_by_key(|version| version.number);
    Ok(versions)
}

/// What went wrong with one question to one node. Holds no more of an answer than its status and,
/// for refusals that aren't plain errors, its body: a deleted version's metadata.
pub(super) enum Fault {
    Status(u16, Option<String>),
    Unreachable(String),
    Unreadable,
}

impl Fault {
    /// Whether another node of the cluster may do better.
    pub(super) const fn is_of_the_node(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Status(503, _))
    }
}

impl From<ClientError> for Fault {
    /// Keeps no source: the library's errors carry whole answers in their `Debug`.
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::APIError { code, .. } => Self::status(code, None),
            ClientError::RestClientError { source } => match source {
                RestError::ServerResponseError { code, content } => Self::status(code, content),
                RestError::RequestError { source, .. } | RestError::ResponseError { source } => {
                    Self::Unreachable(source.root_cause().to_string())
                }
                _ => Self::Unreadable,
            },
            _ => Self::Unreadable,
        }
    }
}

impl Fault {
    fn status(code: u16, body: Option<String>) -> Self {
        match code {
            300..=399 => Self::Unreachable(
                "the node redirects elsewhere, which is not followed: list each node's own address"
                    .to_owned(),
            ),
            _ => Self::Status(code, body),
        }
    }
}

/// The version and whether it was destroyed, if this is what KV v2 says of a deleted one.
pub(super) fn deleted_version(body: &str) -> Option<(u64, bool)> {
    let body: Value = serde_json::from_str(body).ok()?;
    let metadata = body.get("data")?.get("metadata")?;
    let destroyed = metadata.get("destroyed").and_then(Value::as_bool).unwrap_or(false);
    Some((metadata.get("version")?.as_u64()?, destroyed))
}

fn timestamp(rfc3339: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(rfc3339, &Rfc3339).ok()?;
    let millis = time.unix_timestamp_nanos() / 1_000_000;
    u64::try_from(millis).ok().map(Timestamp::from_millis)
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
