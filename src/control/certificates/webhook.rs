//! For API servers: the `caBundle` of every webhook of one MutatingWebhookConfiguration.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::CertificateError;
use super::publication::{self, MANAGER, Publication, Write, api, outcome};

/// The configuration.
pub struct Configuration {
    configurations: Api<MutatingWebhookConfiguration>,
    name: String,
}

/// What API servers are told; nothing without a configuration.
pub struct Seen {
    version: Option<String>,
    /// The names of the configuration's webhooks.
    webhooks: Vec<String>,
    bundles: Vec<String>,
}

impl Configuration {
    /// The one called `name`.
    pub fn new(client: Client, name: &str) -> Self {
        Self { configurations: Api::all(client), name: name.to_owned() }
    }
}

impl Publication for Configuration {
    type Seen = Seen;

    async fn seen(&self) -> Result<Seen, CertificateError> {
        let name = &self.name;
        let read = self.configurations.get_opt(name).await;
        let read =
            read.map_err(|error| api("read the MutatingWebhookConfiguration", name, error))?;
        let configuration = read.unwrap_or_default();
        let webhooks = configuration.webhooks.unwrap_or_default();
        let bundle = |bytes: Option<ByteString>| {
            bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
        };
        Ok(Seen {
            version: configuration.metadata.resource_version,
            webhooks: webhooks.iter().map(|webhook| webhook.name.clone()).collect(),
            bundles: webhooks
                .into_iter()
                .map(|webhook| bundle(webhook.client_config.ca_bundle).unwrap_or_default())
                .collect(),
        })
    }

    async fn publish(&self, seen: &Seen, bundle: &str) -> Result<Write, CertificateError> {
        let name = &self.name;
        if seen.version.is_none() {
            return Err(CertificateError::NoConfiguration(name.clone()));
        }
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

impl publication::Seen for Seen {
    fn has(&self, authority: &str) -> bool {
        !self.bundles.is_empty()
            && self.bundles.iter().all(|bundle| bundle.contains(authority.trim()))
    }

    fn is(&self, bundle: &str) -> bool {
        self.version.is_some() && self.bundles.iter().all(|told| told == bundle)
    }
}
