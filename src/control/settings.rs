//! The settings of `placet-control`: a serde mirror of the file, and what it means.
//!
//! Unknown keys are errors, and all errors are told at once, each with its path. What a pod's annotations
//! may change is checked by the same code that checks it here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde::Deserialize;

use super::certificates::Names;
use super::controller::Reach;
use super::inject::{Field, Injection, object_name};
use super::stream::{RawSnapshots, StreamSettings};
use crate::config::{Address, ListenerSettings};
use crate::tls::{Protocols, TlsSettings};

/// Checked settings.
#[derive(Debug, Default)]
pub struct Settings {
    /// The webhook.
    pub webhook: Option<Webhook>,
    /// What is put into pods.
    pub injection: Injection,
    /// How snapshots reach sidecars.
    pub snapshots: Option<StreamSettings>,
    /// Which custom resources count.
    pub controller: ControllerSettings,
}

/// Settings of the controller.
#[derive(Debug)]
pub struct ControllerSettings {
    /// Where `/livez` and `/readyz` are.
    pub probes: ListenerSettings,
    /// Which part of the cluster.
    pub reach: Reach,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        let address = Address::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9446)));
        let probes = ListenerSettings { address, tls: None };
        Self { probes, reach: Reach::default() }
    }
}

/// How the webhook is served.
#[derive(Debug)]
pub struct Webhook {
    /// Where it listens: with a certificate in files, which somebody else renews (cert-manager, say), or
    /// without any.
    pub listener: ListenerSettings,
    /// The certificate that `placet-control` itself keeps in the cluster, and renews.
    pub kept: Option<Kept>,
}

/// Certificates of `placet-control`'s own for the webhook.
#[derive(Debug, Eq, PartialEq)]
pub struct Kept {
    /// What they are called.
    pub names: Names,
    /// The MutatingWebhookConfiguration whose `caBundle` is kept.
    pub configuration: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Raw {
    version: Option<u64>,
    webhook: Option<RawWebhook>,
    injection: RawInjection,
    snapshots: Option<RawSnapshots>,
    controller: RawController,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawController {
    namespaces: Vec<String>,
    lease_namespace: Option<String>,
    probes: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawWebhook {
    address: Option<String>,
    certificates: Option<RawCertificates>,
    certificate_file: Option<String>,
    key_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawCertificates {
    secret: Option<String>,
    service: Option<String>,
    configuration: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawInjection {
    image: Option<String>,
    config_map: Option<String>,
    proxies: Option<Vec<String>>,
    vault_audience: Option<String>,
    admin_port: Option<u16>,
    cpu_request: Option<String>,
    cpu_limit: Option<String>,
    memory_request: Option<String>,
    memory_limit: Option<String>,
    log: Option<String>,
    user: Option<u32>,
    group: Option<u32>,
    native_sidecar: Option<bool>,
}

impl Settings {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// All that is wrong with it, a line each.
    pub fn load(path: &Path) -> Result<Self, Vec<String>> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| vec![format!("can't read `{}`: {error}", path.display())])?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("")))
    }

    /// Checks `text`, whose paths are relative to `base`.
    ///
    /// # Errors
    /// All that is wrong with it, a line each.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Vec<String>> {
        let yaml = yaml_serde::Deserializer::from_str(text);
        // Its text has the path.
        let raw = Raw::deserialize(yaml).map_err(|error| vec![error.to_string()])?;
        let mut errors = Vec::new();
        if raw.version != Some(1) {
            errors.push("version: write `version: 1`".to_owned());
        }
        let webhook = raw.webhook.and_then(|webhook| served(&webhook, base, &mut errors));
        let injection = injection(&raw.injection, &mut errors);
        let snapshots =
            raw.snapshots.and_then(|snapshots| snapshots.check(base, &injection, &mut errors));
        let controller = controller(&raw.controller, &mut errors);
        let settings = Self { webhook, injection, snapshots, controller };
        if errors.is_empty() { Ok(settings) } else { Err(errors) }
    }
}

fn served(raw: &RawWebhook, base: &Path, errors: &mut Vec<String>) -> Option<Webhook> {
    let text = raw.address.as_deref().unwrap_or("0.0.0.0:9443");
    let address = text.parse().map_err(|_| {
        errors.push(format!("webhook.address: `{text}` is no address: write IP:PORT"));
    });
    if raw.certificate_file.is_none() && raw.key_file.is_none() {
        let kept = kept(raw.certificates.as_ref(), errors);
        let listener = ListenerSettings { address: Address::Tcp(address.ok()?), tls: None };
        return Some(Webhook { listener, kept: Some(kept) });
    }
    if raw.certificates.is_some() {
        let what = "goes without certificateFile and keyFile: remove it, or them";
        errors.push(format!("webhook.certificates: {what}"));
    }
    let mut file = |name: &str, value: &Option<String>| {
        if value.is_none() {
            let what = "is required with the other: write both, or neither";
            errors.push(format!("webhook.{name}: {what}"));
        }
        value.as_ref().map(|value| base.join(value))
    };
    let certificate = file("certificateFile", &raw.certificate_file);
    let key = file("keyFile", &raw.key_file);
    let tls = TlsSettings {
        certificate_file: certificate?,
        key_file: key?,
        client_ca_file: None,
        allowed: None,
        protocols: Protocols::Http,
    };
    let listener = ListenerSettings { address: Address::Tcp(address.ok()?), tls: Some(tls) };
    Some(Webhook { listener, kept: None })
}

fn kept(raw: Option<&RawCertificates>, errors: &mut Vec<String>) -> Kept {
    let none = RawCertificates::default();
    let raw = raw.unwrap_or(&none);
    let mut name = |field: &str, kind: &str, given: &Option<String>, default: &str| {
        let path = format!("webhook.certificates.{field}");
        name_of(&path, kind, given.as_deref().unwrap_or(default), errors)
    };
    let names = Names {
        secret: name("secret", "Secret", &raw.secret, "placet-control-certificates"),
        service: name("service", "Service", &raw.service, "placet-control"),
    };
    let kind = "MutatingWebhookConfiguration";
    Kept { names, configuration: name("configuration", kind, &raw.configuration, "placet") }
}

/// `text`, which is to be the name of an object of a `kind`.
pub(super) fn name_of(path: &str, kind: &str, text: &str, errors: &mut Vec<String>) -> String {
    match object_name(text, kind) {
        Ok(name) => return name,
        Err(problem) => errors.push(format!("{path}: {problem}")),
    }
    text.to_owned()
}

fn controller(raw: &RawController, errors: &mut Vec<String>) -> ControllerSettings {
    let mut settings = ControllerSettings::default();
    if let Some(text) = &raw.probes {
        match text.parse() {
            Ok(address) => settings.probes.address = Address::Tcp(address),
            Err(_) => {
                errors.push(format!("controller.probes: `{text}` is no address: write IP:PORT"))
            }
        }
    }
    let is_label = |name: &str| {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&name.len()) && name.bytes().all(is_plain)
    };
    let lists = [
        ("namespaces", raw.namespaces.as_slice()),
        ("leaseNamespace", raw.lease_namespace.as_slice()),
    ];
    for (name, namespaces) in lists {
        for text in namespaces.iter().filter(|text| !is_label(text)) {
            errors.push(format!("controller.{name}: `{text}` is no name of a namespace"));
        }
    }
    settings.reach = Reach {
        namespaces: raw.namespaces.iter().cloned().collect(),
        lease_namespace: raw.lease_namespace.clone(),
    };
    settings
}

fn injection(raw: &RawInjection, errors: &mut Vec<String>) -> Injection {
    let mut injection = Injection::default();
    let proxies = raw.proxies.as_ref().map(|names| names.join(","));
    let port = raw.admin_port.map(|port| port.to_string());
    let fields = [
        (Field::Image, raw.image.as_deref()),
        (Field::ConfigMap, raw.config_map.as_deref()),
        (Field::Proxies, proxies.as_deref()),
        (Field::VaultAudience, raw.vault_audience.as_deref()),
        (Field::AdminPort, port.as_deref()),
        (Field::CpuRequest, raw.cpu_request.as_deref()),
        (Field::CpuLimit, raw.cpu_limit.as_deref()),
        (Field::MemoryRequest, raw.memory_request.as_deref()),
        (Field::MemoryLimit, raw.memory_limit.as_deref()),
        (Field::Log, raw.log.as_deref()),
    ];
    for (field, text) in fields {
        if let Some(Err(problem)) = text.map(|text| injection.set(field, text)) {
            errors.push(format!("injection.{}: {problem}", field.setting()));
        }
    }
    if let Err((field, problem)) = injection.check_together() {
        errors.push(format!("injection.{}: {problem}", field.setting()));
    }
    let ids = [("user", raw.user, &mut injection.user), ("group", raw.group, &mut injection.group)];
    for (name, value, place) in ids {
        match value {
            Some(0) => errors.push(format!("injection.{name}: is root's: write another than 0")),
            Some(id) if i32::try_from(id).is_err() => {
                errors.push(format!(
                    "injection.{name}: is beyond what Kubernetes takes (2147483647)"
                ));
            }
            Some(id) => *place = id,
            None => {}
        }
    }
    injection.is_native = raw.native_sidecar.unwrap_or(injection.is_native);
    injection
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_told_with_its_path() {
        let text = r#"
version: 2
webhook: {address: nowhere, keyFile: tls.key}
injection: {image: "a b", configMap: Placet, proxies: [envoy, placet], cpuRequest: "1x", memoryRequest: 1Gi,
  memoryLimit: 1Mi, user: 0, group: 4294967295, adminPort: 80, log: "placet=loud"}
controller: {namespaces: [shop, Shop], leaseNamespace: "", probes: "9446"}
"#;
        let errors = Settings::parse(text, Path::new("")).unwrap_err();
        let mut paths: Vec<&str> =
            errors.iter().map(|line| line.split(": ").next().unwrap()).collect();
        paths.sort_unstable();
        let expected = [
            "controller.leaseNamespace",
            "controller.namespaces",
            "controller.probes",
            "injection.adminPort",
            "injection.configMap",
            "injection.cpuRequest",
            "injection.group",
            "injection.image",
            "injection.log",
            "injection.memoryLimit",
            "injection.proxies",
            "injection.user",
            "version",
            "webhook.address",
            "webhook.certificateFile",
        ];
        assert_eq!(paths, expected, "{errors:#?}");
        let unknown =
            Settings::parse("version: 1\ninjection: {imag: x}", Path::new("")).unwrap_err();
        assert!(unknown[0].starts_with("injection: unknown field `imag`"), "{unknown:?}");
        let text = "version: 1\nwebhook: {certificates: {secret: A}, certificateFile: tls.crt}";
        let errors = Settings::parse(text, Path::new("")).unwrap_err();
        assert!(errors[0].starts_with("webhook.certificates: goes without"), "{errors:?}");
        assert!(errors[1].starts_with("webhook.keyFile: is required"), "{errors:?}");
        let text = "version: 1\nwebhook: {certificates: {secret: A}}";
        let errors = Settings::parse(text, Path::new("")).unwrap_err();
        assert!(errors[0].contains("`A` is no name of a Secret"), "{errors:?}");
        let good = Settings::parse("version: 1\nwebhook: {}", Path::new("")).unwrap();
        let kept = good.webhook.unwrap().kept.unwrap();
        assert_eq!(kept.configuration, "placet");
        assert_eq!(kept.names.service, "placet-control");
        assert_eq!(kept.names.secret, "placet-control-certificates");
        let good = Settings::parse("version: 1\ninjection: {user: 7}", Path::new("")).unwrap();
        assert_eq!(good.injection.user, 7);
    }
}
