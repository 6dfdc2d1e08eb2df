//! Keys in AWS Secrets Manager: a whole secret, or a field of one that is JSON.
//!
//! The client and the credentials are AWS's own crates, without their TLS defaults of old: the
//! default chain (environment, profile, web identity, ECS and EKS, instance role) is what operators
//! expect, and not to be written twice. Both are made at the first question. An endpoint that the
//! environment names is taken, but not plain http beyond loopback.
//!
//! A look is one DescribeSecret; only where that shows other labels than before are the versions
//! listed. [`versions`] says which of them count. Not here: AWS KMS, which signs without giving the
//! key away, as Vault's Transit does.

mod versions;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::config::{
    ConfigBag, Intercept, ProvideCredentials as _, RuntimeComponents, SharedCredentialsProvider,
};
use aws_sdk_secretsmanager::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use serde_json::Value;

use super::fields::Fields;
use super::history::{Histories, unlisted};
use super::reason::root_cause;
use super::{
    AwsSettings, Cloud, CloudError, KeyLocation, KeyMaterial, Secret, SecretError, Version,
};

/// The longest wait for credentials when they are asked for alone, to say what is wrong with them.
const LONGEST_DIAGNOSIS: Duration = Duration::from_secs(10);

const GET: &str = "secretsmanager:GetSecretValue";
const DESCRIBE: &str = "secretsmanager:DescribeSecret";
const LIST: &str = "secretsmanager:ListSecretVersionIds";

/// The Secrets Manager of one region.
pub(super) struct AwsStore {
    id: String,
    settings: AwsSettings,
    session: ArcSwapOption<Session>,
    histories: Histories,
    /// The labels that the remembered versions of a secret had.
    labels: Mutex<HashMap<String, Labelled>>,
}

struct Session {
    client: Client,
    credentials: Option<SharedCredentialsProvider>,
}

struct Labelled {
    labels: BTreeMap<String, Vec<String>>,
    versions: Vec<Version>,
}

impl std::fmt::Debug for AwsStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsStore").field("id", &self.id).finish_non_exhaustive()
    }
}

impl AwsStore {
    /// No I/O.
    pub(super) fn new(id: String, settings: AwsSettings) -> Self {
        Self {
            id,
            settings,
            session: ArcSwapOption::empty(),
            histories: Histories::default(),
            labels: Mutex::default(),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) const fn refresh_interval(&self) -> Duration {
        self.settings.refresh_interval
    }

    pub(super) fn check(&self, at: &KeyLocation) -> Result<(), SecretError> {
        self.secret(at).map(drop)
    }

    /// Reads the version that is `AWSCURRENT`.
    pub(super) async fn read(&self, at: &KeyLocation) -> Result<KeyMaterial, SecretError> {
        self.fetch(at, None).await
    }

    /// Reads a version that was listed.
    pub(super) async fn read_version(
        &self,
        at: &KeyLocation,
        number: u64,
    ) -> Result<KeyMaterial, SecretError> {
        let id = self.histories.id_of(self.secret(at)?, number);
        let id = id.ok_or_else(|| unlisted(&self.id))?;
        let material = self.fetch(at, Some(id)).await?;
        Ok(KeyMaterial { version: Some(number), ..material })
    }

    /// The versions of a secret, oldest first; `None` if we may not see them.
    pub(super) async fn versions(
        &self,
        at: &KeyLocation,
    ) -> Result<Option<Vec<Version>>, SecretError> {
        let secret = self.secret(at)?;
        match self.list(secret).await {
            Err(CloudError::Denied { action, .. }) => {
                if self.histories.is_hidden(secret) {
                    return Ok(None);
                }
                // Reading it tells a policy for part of the secret from one that is gone.
                self.fetch(at, None).await?;
                let remedy = format!("allow `{DESCRIBE}` and `{LIST}` (denied was `{action}`)");
                self.histories.hide(&self.id, secret, &remedy);
                self.labels().remove(secret);
                Ok(None)
            }
            listed => listed.map(Some).map_err(|problem| self.fault(problem)),
        }
    }

    async fn list(&self, secret: &str) -> Result<Vec<Version>, CloudError> {
        let session = self.session().await;
        let described = session.client.describe_secret().secret_id(secret).send().await;
        let described = match described {
            Ok(described) => described,
            Err(error) => return Err(self.problem(&session, error, secret, DESCRIBE).await),
        };
        if described.deleted_date().is_some() {
            return Err(CloudError::Deleted { secret: secret.to_owned() });
        }
        let labels = versions::labels(described.version_ids_to_stages());
        if let Some(known) = self.labels().get(secret).filter(|known| known.labels == labels) {
            return Ok(known.versions.clone());
        }
        let mut pages = session
            .client
            .list_secret_version_ids()
            .secret_id(secret)
            .include_deprecated(true)
            .into_paginator()
            .send();
        let mut entries = Vec::new();
        while let Some(page) = pages.next().await {
            match page {
                Ok(page) => entries.extend_from_slice(page.versions()),
                Err(error) => return Err(self.problem(&session, error, secret, LIST).await),
            }
        }
        let unreadable = || unreadable(secret);
        let entries = versions::judged(&entries).ok_or_else(unreadable)?;
        let versions = self.histories.keep(secret, entries);
        let labelled = Labelled { labels, versions: versions.clone() };
        self.labels().insert(secret.to_owned(), labelled);
        Ok(versions)
    }

    async fn fetch(
        &self,
        at: &KeyLocation,
        version_id: Option<String>,
    ) -> Result<KeyMaterial, SecretError> {
        let secret = self.secret(at)?;
        let session = self.session().await;
        let question = session.client.get_secret_value().secret_id(secret);
        match question.set_version_id(version_id).send().await {
            Ok(answer) => self.material(answer, at, secret),
            Err(error) => Err(self.fault(self.problem(&session, error, secret, GET).await)),
        }
    }

    fn material(
        &self,
        mut answer: GetSecretValueOutput,
        at: &KeyLocation,
        secret: &str,
    ) -> Result<KeyMaterial, SecretError> {
        let created = answer.created_date().and_then(versions::timestamp);
        let text = answer.secret_string.take().map(String::into_bytes);
        let bytes = text.or_else(|| answer.secret_binary.take().map(|blob| blob.into_inner()));
        let whole = Secret::new(bytes.ok_or_else(|| self.fault(unreadable(secret)))?);
        let (bytes, certificate) = if at.is_named {
            let fields = serde_json::from_slice::<Value>(whole.expose()).ok().and_then(Fields::new);
            let not_json =
                || CloudError::NotJson { secret: secret.to_owned(), field: at.name.clone() };
            let fields = fields.ok_or_else(|| self.fault(not_json()))?;
            fields.take(&at.name, &self.id, secret)?
        } else {
            (whole, None)
        };
        let version = created.map(|created| created.millis());
        Ok(KeyMaterial { bytes, certificate, version, created })
    }

    fn secret<'a>(&self, at: &'a KeyLocation) -> Result<&'a str, SecretError> {
        let named = at.path.as_deref().filter(|secret| !secret.is_empty());
        named.ok_or_else(|| self.fault(CloudError::NoSecretName { name: at.name.clone() }))
    }

    fn fault(&self, problem: CloudError) -> SecretError {
        SecretError::Cloud { store: self.id.clone(), problem }
    }

    fn labels(&self) -> std::sync::MutexGuard<'_, HashMap<String, Labelled>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client; made anew after credentials that were no good, so that a mended profile is seen.
    async fn session(&self) -> Arc<Session> {
        if let Some(session) = self.session.load_full() {
            return session;
        }
        let timeout = self.settings.timeout;
        let timeouts =
            TimeoutConfig::builder().connect_timeout(timeout).operation_attempt_timeout(timeout);
        let retries = RetryConfig::standard().with_initial_backoff(Duration::from_millis(50));
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(self.settings.region.clone()))
            .timeout_config(timeouts.build())
            .retry_config(retries);
        if let Some(address) = &self.settings.address {
            loader = loader.endpoint_url(address);
        }
        let config = loader.load().await;
        let credentials = config.credentials_provider();
        let mut config = aws_sdk_secretsmanager::config::Builder::from(&config);
        if let Some(address) = &self.settings.address {
            // Also before an endpoint of the environment.
            config.set_endpoint_url(Some(address.clone()));
        }
        if !self.settings.is_insecure_fine {
            config = config.interceptor(OnlyTls);
        }
        let session = Arc::new(Session { client: Client::from_conf(config.build()), credentials });
        self.session.store(Some(Arc::clone(&session)));
        session
    }

    /// What is wrong, where `secret` was asked for and `action` is what that needs.
    async fn problem<E>(
        &self,
        session: &Session,
        error: SdkError<E>,
        secret: &str,
        action: &'static str,
    ) -> CloudError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let secret = secret.to_owned();
        let Some(service) = error.as_service_error() else {
            return self.no_answer(session, error, secret).await;
        };
        let status = error.raw_response().map_or(0, |answer| answer.status().as_u16());
        let code = service.code().map_or_else(|| status.to_string(), code);
        let cloud = Cloud::Aws;
        match code.as_str() {
            "ResourceNotFoundException" => {
                let place = format!("region `{}`", self.settings.region);
                CloudError::NotFound { cloud, secret, place }
            }
            "AccessDeniedException" | "AccessDenied" | "DecryptionFailure" => {
                CloudError::Denied { cloud, action, secret }
            }
            "InvalidRequestException" if service.message().is_some_and(|m| m.contains("delet")) => {
                CloudError::Deleted { secret }
            }
            "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "ExpiredToken"
            | "ExpiredTokenException" => {
                self.session.store(None);
                CloudError::RefusedCredentials { cloud, code }
            }
            _ if status == 429 || status >= 500 || code.contains("Throttl") => {
                CloudError::Failing { cloud, code }
            }
            _ => CloudError::Unexpected { cloud, secret, code },
        }
    }

    async fn no_answer<E>(
        &self,
        session: &Session,
        error: SdkError<E>,
        secret: String,
    ) -> CloudError
    where
        E: std::error::Error + 'static,
    {
        if matches!(error, SdkError::ResponseError(_)) {
            return unreadable(&secret);
        }
        let causes = || {
            let first: &(dyn std::error::Error + 'static) = &error;
            std::iter::successors(Some(first), |error| error.source())
        };
        if let Some(refused) = causes().find_map(|cause| cause.downcast_ref::<InTheClear>()) {
            return CloudError::PlainHttp { address: refused.0.clone() };
        }
        // The error of a request does not tell missing credentials from a missing server.
        if let Some(credentials) = &session.credentials {
            let asked = credentials.provide_credentials();
            if let Ok(Err(missing)) = tokio::time::timeout(LONGEST_DIAGNOSIS, asked).await {
                self.session.store(None);
                let reason = root_cause(&missing);
                return CloudError::NoCredentials { cloud: Cloud::Aws, reason };
            }
        }
        let reason = match error {
            SdkError::TimeoutError(_) => format!("no answer within {:?}", self.settings.timeout),
            error => root_cause(&error),
        };
        let region = &self.settings.region;
        let named = self.settings.address.as_ref().map(|address| format!("`{address}`"));
        let address = named.unwrap_or_else(|| format!("Secrets Manager in region `{region}`"));
        let setting = if self.settings.address.is_some() { "address" } else { "region" };
        CloudError::Unreachable { address, reason, setting }
    }
}

fn unreadable(secret: &str) -> CloudError {
    CloudError::Unreadable { cloud: Cloud::Aws, secret: secret.to_owned() }
}

/// A code as AWS writes them; whoever answers might write anything.
fn code(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(60).collect()
}

/// Sends nothing in the clear beyond loopback. Here, since the environment may name the endpoint.
#[derive(Debug)]
struct OnlyTls;

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is plain http")]
struct InTheClear(String);

impl Intercept for OnlyTls {
    fn name(&self) -> &'static str {
        "only TLS"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let address = context.request().uri();
        let url = reqwest::Url::parse(address)?;
        let host = url.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let is_loopback = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
        if url.scheme() == "https" || is_loopback {
            return Ok(());
        }
        Err(InTheClear(url.origin().ascii_serialization()).into())
    }
}

#[cfg(test)]
mod tests;
