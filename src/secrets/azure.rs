//! Keys in Azure Key Vault: a secret, whole.
//!
//! The client and the credentials are Microsoft's own crates; the credential is chosen by the
//! environment, as their other languages do: a client secret if AZURE_CLIENT_SECRET is set, else a
//! workload identity if AZURE_FEDERATED_TOKEN_FILE is, else the machine's managed identity. All is
//! made at the first question, over an HTTP client of ours, for its timeout. Nothing is asked twice
//! within a look: the next look does.
//!
//! A version counts while it is enabled and its time has come and not passed. Before `nbf` it is not
//! looked at, and its age counts from there, so that it is published for as long as any other. Not
//! here: Key Vault's `sign`, which keeps the key there as Vault's Transit does, and its certificates.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, RetryOptions, Transport};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use azure_security_keyvault_secrets::models::{
    SecretAttributes, SecretClientGetSecretOptions, SecretProperties,
};
use azure_security_keyvault_secrets::{ResourceExt as _, SecretClient, SecretClientOptions};
use futures_util::StreamExt as _;
use time::OffsetDateTime;

use super::history::{Entry, Histories, unlisted};
use super::reason::{one_line, root_cause};
use super::{
    AzureSettings, Cloud, CloudError, KeyLocation, KeyMaterial, Secret, SecretError, Version,
};
use crate::clock::{Clock, Timestamp};

const GET: &str = "get";
const LIST: &str = "list";

/// One vault.
pub(super) struct AzureStore {
    id: String,
    settings: AzureSettings,
    client: ArcSwapOption<SecretClient>,
    histories: Histories,
}

impl std::fmt::Debug for AzureStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AzureStore").field("id", &self.id).finish_non_exhaustive()
    }
}

impl AzureStore {
    /// No I/O.
    pub(super) fn new(id: String, settings: AzureSettings) -> Self {
        let client = ArcSwapOption::empty();
        Self { id, settings, client, histories: Histories::default() }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) const fn refresh_interval(&self) -> Duration {
        self.settings.refresh_interval
    }

    /// The library puts the name into an address as it is.
    pub(super) fn check(&self, at: &KeyLocation) -> Result<(), SecretError> {
        let is_fine = (1..=127).contains(&at.name.len())
            && at.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if is_fine {
            return Ok(());
        }
        Err(self.fault(CloudError::UnusableName { name: at.name.clone() }))
    }

    /// Reads the newest version.
    pub(super) async fn read(&self, at: &KeyLocation) -> Result<KeyMaterial, SecretError> {
        self.fetch(at, None).await
    }

    /// Reads a version that was listed.
    pub(super) async fn read_version(
        &self,
        at: &KeyLocation,
        number: u64,
    ) -> Result<KeyMaterial, SecretError> {
        let id = self.histories.id_of(&at.name, number).ok_or_else(|| unlisted(&self.id))?;
        let material = self.fetch(at, Some(id)).await?;
        Ok(KeyMaterial { version: Some(number), ..material })
    }

    /// The versions of a secret, oldest first; `None` if we may not see them.
    pub(super) async fn versions(
        &self,
        at: &KeyLocation,
    ) -> Result<Option<Vec<Version>>, SecretError> {
        self.check(at)?;
        match self.list(&at.name).await {
            Err(CloudError::Denied { .. }) => {
                if self.histories.is_hidden(&at.name) {
                    return Ok(None);
                }
                // Reading it tells a policy for part of the secret from one that is gone.
                self.fetch(at, None).await?;
                let remedy = "give the identity the role `Key Vault Secrets User`, or `list` in \
                              the access policy";
                self.histories.hide(&self.id, &at.name, remedy);
                Ok(None)
            }
            listed => listed.map(Some).map_err(|problem| self.fault(problem)),
        }
    }

    async fn list(&self, name: &str) -> Result<Vec<Version>, CloudError> {
        let client = self.client()?;
        let problem = |error| self.problem(&error, name, LIST);
        let mut pages =
            client.list_secret_properties_versions(name, None).map_err(problem)?.into_pages();
        let now = Clock::System.now();
        let mut entries = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(problem)?.into_model().map_err(problem)?;
            for version in &page.value {
                entries.push(entry(version, now).ok_or_else(|| unreadable(name))?);
            }
            // The library would ask there, with our token.
            if let Some(next) = page.next_link.filter(|next| !next.is_empty()) {
                self.check_page(&client, &next, name)?;
            }
        }
        if entries.is_empty() {
            // A secret that isn't there has no versions, and may be answered so.
            return Err(self.not_found(name));
        }
        Ok(self.histories.keep(name, entries))
    }

    fn check_page(&self, client: &SecretClient, next: &str, name: &str) -> Result<(), CloudError> {
        let next = client.endpoint().join(next).map_err(|_| unreadable(name))?;
        if next.origin() == client.endpoint().origin() {
            return Ok(());
        }
        Err(CloudError::ForeignPage { host: next.origin().ascii_serialization() })
    }

    async fn fetch(
        &self,
        at: &KeyLocation,
        version: Option<String>,
    ) -> Result<KeyMaterial, SecretError> {
        self.check(at)?;
        let client = self.client().map_err(|problem| self.fault(problem))?;
        let options =
            SecretClientGetSecretOptions { secret_version: version, ..Default::default() };
        let answer = match client.get_secret(&at.name, Some(options)).await {
            Ok(answer) => answer.into_model(),
            Err(error) => Err(error),
        };
        let secret = answer.map_err(|error| self.fault(self.problem(&error, &at.name, GET)))?;
        let (Some(value), Some(attributes)) = (secret.value, secret.attributes) else {
            return Err(self.fault(unreadable(&at.name)));
        };
        let created = attributes.created.and_then(timestamp);
        let bytes = Secret::new(value.into_bytes());
        let version = created.map(|created| created.millis());
        Ok(KeyMaterial { bytes, certificate: None, version, created })
    }

    fn fault(&self, problem: CloudError) -> SecretError {
        SecretError::Cloud { store: self.id.clone(), problem }
    }

    fn not_found(&self, name: &str) -> CloudError {
        let place = format!("`{}`", self.settings.vault_url);
        CloudError::NotFound { cloud: Cloud::Azure, secret: name.to_owned(), place }
    }

    /// The client; made anew after credentials that were no good.
    fn client(&self) -> Result<Arc<SecretClient>, CloudError> {
        if let Some(client) = self.client.load_full() {
            return Ok(client);
        }
        let http = reqwest::Client::builder()
            .timeout(self.settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| self.unreachable(root_cause(&error)))?;
        let client_options = ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(http))),
            ..Default::default()
        };
        let no_credential = |error| no_credentials(&error);
        let credential = credential(&client_options).map_err(no_credential)?;
        let options = SecretClientOptions { client_options, ..Default::default() };
        let client = SecretClient::new(&self.settings.vault_url, credential, Some(options));
        let client = Arc::new(client.map_err(no_credential)?);
        self.client.store(Some(Arc::clone(&client)));
        Ok(client)
    }

    /// What is wrong, where `name` was asked for and `action` is what that needs.
    fn problem(
        &self,
        error: &azure_core::error::Error,
        name: &str,
        action: &'static str,
    ) -> CloudError {
        let (cloud, secret) = (Cloud::Azure, name.to_owned());
        match error.kind() {
            ErrorKind::Credential => {
                self.client.store(None);
                no_credentials(error)
            }
            ErrorKind::HttpResponse { status, .. } => match u16::from(*status) {
                401 => {
                    self.client.store(None);
                    CloudError::RefusedCredentials { cloud, code: "401".to_owned() }
                }
                403 => CloudError::Denied { cloud, action, secret },
                404 => self.not_found(name),
                status @ (429 | 500..) => CloudError::Failing { cloud, code: status.to_string() },
                status => CloudError::Unexpected { cloud, secret, code: status.to_string() },
            },
            ErrorKind::Connection | ErrorKind::Io => self.unreachable(root_cause(error)),
            ErrorKind::DataConversion => unreadable(name),
            _ => CloudError::Unexpected { cloud, secret, code: one_line(&error.to_string()) },
        }
    }

    fn unreachable(&self, reason: String) -> CloudError {
        let address = format!("`{}`", self.settings.vault_url);
        CloudError::Unreachable { address, reason, setting: "vaultUrl" }
    }
}

/// Who we are, by the environment; each kind is tried alone, so that what fails is what was meant.
fn credential(options: &ClientOptions) -> azure_core::Result<Arc<dyn TokenCredential>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let client_options = options.clone();
    let client_id = variable("AZURE_CLIENT_ID");
    if let Some(secret) = variable("AZURE_CLIENT_SECRET") {
        return Ok(ClientSecretCredential::new(
            &variable("AZURE_TENANT_ID").unwrap_or_default(),
            client_id.unwrap_or_default(),
            secret.into(),
            Some(ClientSecretCredentialOptions { client_options }),
        )?);
    }
    if variable("AZURE_FEDERATED_TOKEN_FILE").is_some() {
        let credential_options = ClientAssertionCredentialOptions { client_options };
        let options =
            WorkloadIdentityCredentialOptions { credential_options, ..Default::default() };
        return Ok(WorkloadIdentityCredential::new(Some(options))?);
    }
    let user_assigned_id = client_id.map(UserAssignedId::ClientId);
    let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options };
    Ok(ManagedIdentityCredential::new(Some(options))?)
}

fn no_credentials(error: &azure_core::error::Error) -> CloudError {
    CloudError::NoCredentials { cloud: Cloud::Azure, reason: one_line(&error.to_string()) }
}

fn unreadable(name: &str) -> CloudError {
    CloudError::Unreadable { cloud: Cloud::Azure, secret: name.to_owned() }
}

/// A listed version as of `now`; `None` if it lacks what every version has.
fn entry(version: &SecretProperties, now: Timestamp) -> Option<Entry> {
    let id = version.resource_id().ok()?.version?;
    let attributes: &SecretAttributes = version.attributes.as_ref()?;
    let created = attributes.created.and_then(timestamp)?;
    let from = attributes.not_before.and_then(timestamp);
    let until = attributes.expires.and_then(timestamp);
    let is_live = attributes.enabled.unwrap_or(true)
        && from.is_none_or(|from| from <= now)
        && until.is_none_or(|until| now < until);
    let counts_from = from.map_or(created, |from| from.max(created));
    Some(Entry { id, created, counts_from, is_live })
}

fn timestamp(time: OffsetDateTime) -> Option<Timestamp> {
    u64::try_from(time.unix_timestamp()).ok().map(Timestamp::from_seconds)
}

#[cfg(test)]
mod tests;
