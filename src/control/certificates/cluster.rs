//! Where the certificates are kept and published: one Secret, and the `caBundle` of one
//! MutatingWebhookConfiguration. Both are written with the version that was read, so that of two replicas
//! that write at once one is told to look again.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::ring::{Authority, Certificate, Next, Retired, Ring, RingError, Serving};
use super::{CertificateError, Names};
use crate::clock::Timestamp;
use crate::secrets::Secret;

/// Who writes, as the API keeps it of each field.
const MANAGER: &str = "placet-control";

/// The API, as far as certificates go.
pub(super) struct Cluster {
    secrets: Api<KubeSecret>,
    configurations: Api<MutatingWebhookConfiguration>,
    names: Names,
}

/// What is kept, and with which version.
pub(super) struct Kept {
    secret: Option<KubeSecret>,
    /// None where there is no Secret, or an empty one, as a manifest may have it.
    pub(super) ring: Option<Ring>,
}

/// What API servers are told.
pub(super) struct Published {
    version: Option<String>,
    /// The names of the configuration's webhooks.
    webhooks: Vec<String>,
    bundles: Vec<String>,
}

/// Whether something was written, or somebody else was first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Write {
    Done,
    Conflict,
}

impl Cluster {
    pub(super) fn new(client: Client, namespace: &str, names: Names) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            configurations: Api::all(client),
            names,
        }
    }

    /// What is kept in the Secret.
    pub(super) async fn kept(&self) -> Result<Kept, CertificateError> {
        let name = &self.names.secret;
        let secret = self.secrets.get_opt(name).await;
        let secret = secret.map_err(|error| api("read the Secret", name, error))?;
        let ring = secret.as_ref().map_or(Ok(None), ring);
        let ring =
            ring.map_err(|source| CertificateError::Kept { secret: name.clone(), source })?;
        Ok(Kept { secret, ring })
    }

    /// Keeps `ring` in the place of what was `kept`.
    pub(super) async fn keep(&self, kept: &Kept, ring: &Ring) -> Result<Write, CertificateError> {
        let name = &self.names.secret;
        let mut secret = kept.secret.clone().unwrap_or_default();
        secret.data = Some(fields(ring));
        secret.metadata.name = Some(name.clone());
        let manager = Some(MANAGER.to_owned());
        let params = PostParams { field_manager: manager, ..PostParams::default() };
        let (what, written) = match kept.secret {
            None => ("create the Secret", self.secrets.create(&params, &secret).await),
            Some(_) => ("update the Secret", self.secrets.replace(name, &params, &secret).await),
        };
        outcome(written, what, name)
    }

    /// What API servers are told now; `None` without a configuration.
    pub(super) async fn published(&self) -> Result<Option<Published>, CertificateError> {
        let name = &self.names.configuration;
        let read = self.configurations.get_opt(name).await;
        let read =
            read.map_err(|error| api("read the MutatingWebhookConfiguration", name, error))?;
        Ok(read.map(|configuration| {
            let webhooks = configuration.webhooks.unwrap_or_default();
            let bundle = |bytes: Option<ByteString>| {
                bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
            };
            Published {
                version: configuration.metadata.resource_version,
                webhooks: webhooks.iter().map(|webhook| webhook.name.clone()).collect(),
                bundles: webhooks
                    .into_iter()
                    .map(|webhook| bundle(webhook.client_config.ca_bundle).unwrap_or_default())
                    .collect(),
            }
        }))
    }

    /// Tells API servers to trust `bundle`, unless the configuration is another than was `seen`.
    pub(super) async fn publish(
        &self,
        seen: &Published,
        bundle: &str,
    ) -> Result<Write, CertificateError> {
        let name = &self.names.configuration;
        let bundle = ByteString(bundle.as_bytes().to_vec());
        let webhooks: Vec<_> = seen
            .webhooks
            .iter()
            .map(|name| json!({"name": name, "clientConfig": {"caBundle": bundle}}))
            .collect();
        // Lists of webhooks are merged by their names; a version makes it a conflict if another was read.
        let patch = json!({"metadata": {"resourceVersion": seen.version}, "webhooks": webhooks});
        let patch = Patch::Strategic(&patch);
        let manager = Some(MANAGER.to_owned());
        let params = PatchParams { field_manager: manager, ..PatchParams::default() };
        let patched = self.configurations.patch(name, &params, &patch).await;
        outcome(patched, "patch the MutatingWebhookConfiguration", name)
    }
}

impl Published {
    /// Whether every webhook is trusted by `certificate`.
    pub(super) fn has(&self, certificate: &Certificate) -> bool {
        !self.bundles.is_empty()
            && self.bundles.iter().all(|bundle| bundle.contains(certificate.pem.trim()))
    }

    /// Whether API servers are told of `bundle` and nothing else.
    pub(super) fn is(&self, bundle: &str) -> bool {
        self.bundles.iter().all(|told| told == bundle)
    }
}

fn outcome<T>(
    result: kube::Result<T>,
    what: &'static str,
    name: &str,
) -> Result<Write, CertificateError> {
    match result {
        Ok(_) => Ok(Write::Done),
        // Also where it is there already, or no more.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Write::Conflict),
        Err(error) => Err(api(what, name, error)),
    }
}

fn api(what: &'static str, name: &str, source: kube::Error) -> CertificateError {
    CertificateError::Api { what, name: name.to_owned(), source: Box::new(source) }
}

fn fields(ring: &Ring) -> BTreeMap<String, ByteString> {
    let mut fields = BTreeMap::new();
    let mut set = |name: &str, text: &str| {
        fields.insert(name.to_owned(), ByteString(text.as_bytes().to_vec()));
    };
    set("tls.crt", &ring.serving.certificate.pem);
    set("tls.key", ring.serving.key.expose());
    set("ca.crt", &ring.active.certificate.pem);
    set("ca.key", ring.active.key.expose());
    if let Some(next) = &ring.next {
        set("next-ca.crt", &next.authority.certificate.pem);
        set("next-ca.key", next.authority.key.expose());
        if let Some(published) = next.published {
            set("next-ca.published", &published.seconds().to_string());
        }
    }
    if let Some(retired) = &ring.retired {
        set("retired-ca.crt", &retired.certificate.pem);
        set("retired-ca.until", &retired.until.seconds().to_string());
    }
    fields
}

/// What `secret` holds.
fn ring(secret: &KubeSecret) -> Result<Option<Ring>, RingError> {
    let Some(data) = secret.data.as_ref().filter(|data| !data.is_empty()) else { return Ok(None) };
    let text = |name: &'static str| match data.get(name).map(|bytes| str::from_utf8(&bytes.0)) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(error)) => Err(RingError::Unusable { field: name, problem: error.to_string() }),
    };
    let needed = |name| text(name)?.ok_or(RingError::Missing(name));
    let key = |name| needed(name).map(|text| Secret::new(text.to_owned()));
    let time = |name, text: &str| match text.parse() {
        Ok(seconds) => Ok(Timestamp::from_seconds(seconds)),
        Err(_) => Err(RingError::Unusable { field: name, problem: "is no time".to_owned() }),
    };
    let authority = |certificate, key_name| {
        Authority::parse((certificate, key_name), needed(certificate)?, &key(key_name)?)
    };
    let next = match text("next-ca.crt")? {
        None => None,
        Some(_) => Some(Next {
            authority: authority("next-ca.crt", "next-ca.key")?,
            published: text("next-ca.published")?
                .map(|text| time("next-ca.published", text))
                .transpose()?,
        }),
    };
    let retired = match text("retired-ca.crt")? {
        None => None,
        Some(pem) => Some(Retired {
            certificate: Certificate::parse("retired-ca.crt", pem)?,
            until: time("retired-ca.until", needed("retired-ca.until")?)?,
        }),
    };
    Ok(Some(Ring {
        active: authority("ca.crt", "ca.key")?,
        next,
        retired,
        serving: Serving::parse(needed("tls.crt")?, &key("tls.key")?)?,
    }))
}
