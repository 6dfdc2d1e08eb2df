//! The settings of snapshots: `snapshots` in the settings of `placet-control`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::caller::Authority;
use super::template::{self, Template};
use crate::config::{Address, ListenerSettings};
use crate::control::certificates::Names;
use crate::control::inject::Injection;
use crate::control::settings::name_of;
use crate::remote::acceptable;
use crate::tls::{Protocols, TlsSettings};

/// The audience of sidecars' tokens, unless the settings say otherwise; injected pods have one for it.
pub const AUDIENCE: &str = "placet-control";

/// Where a pod finds its own ServiceAccount.
const OWN_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the API server is called inside a cluster.
const IN_CLUSTER: &str = "https://kubernetes.default.svc";

/// Where sidecars connect, and how they are known.
#[derive(Debug)]
pub struct StreamSettings {
    /// Where sidecars connect.
    pub listener: ListenerSettings,
    /// The certificate of both listeners, where `placet-control` keeps it itself.
    pub kept: Option<Kept>,
    /// What says who they are.
    pub authority: Authority,
    /// Where their keys are served, if anywhere.
    pub jwks: Option<ListenerSettings>,
    /// Where snapshots come from, if not from the custom resources.
    pub directory: Option<PathBuf>,
}

/// Certificates of `placet-control`'s own, and how sidecars learn whom to trust.
#[derive(Debug)]
pub struct Kept {
    /// What they are called.
    pub names: Names,
    /// The ConfigMap that pods start with.
    pub config_map: String,
    /// The settings in it.
    pub sidecar: Template,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::control) struct RawSnapshots {
    address: Option<String>,
    certificates: Option<RawCertificates>,
    sidecar: Option<Map<String, Value>>,
    certificate_file: Option<String>,
    key_file: Option<String>,
    audience: Option<String>,
    token_review: Option<RawTokenReview>,
    tokens_file: Option<String>,
    directory: Option<String>,
    jwks: Option<RawListener>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawCertificates {
    secret: Option<String>,
    service: Option<String>,
    config_map: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawTokenReview {
    url: Option<String>,
    ca_file: Option<String>,
    token_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawListener {
    address: Option<String>,
    certificate_file: Option<String>,
    key_file: Option<String>,
}

impl StreamSettings {
    /// Judges the settings that pods start with, before they do.
    ///
    /// # Errors
    /// All that is wrong with them, a line each.
    pub fn check_sidecar(&self) -> Result<(), Vec<String>> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let host = kept.names.host("placet");
        template::check(&kept.sidecar.text(&host, &self.listener.address))
    }
}

impl RawSnapshots {
    /// The checked settings, whose paths are relative to `base`, for pods that are injected as `injection` says;
    /// what is wrong is added to `errors`.
    pub(in crate::control) fn check(
        &self,
        base: &Path,
        injection: &Injection,
        errors: &mut Vec<String>,
    ) -> Option<StreamSettings> {
        let before = errors.len();
        let address = self.address.as_deref().unwrap_or("0.0.0.0:9444");
        let address = address_of("snapshots.address", address, errors);
        let files = (self.certificate_file.as_deref(), self.key_file.as_deref());
        let kept = self.kept(injection, errors);
        let tls = tls_of("snapshots", files, kept.is_none(), base, errors);
        let jwks = self.jwks.as_ref().and_then(|jwks| {
            let address = jwks.address.as_deref().unwrap_or("0.0.0.0:9445");
            let address = address_of("snapshots.jwks.address", address, errors);
            let files = (jwks.certificate_file.as_deref(), jwks.key_file.as_deref());
            let tls = tls_of("snapshots.jwks", files, false, base, errors);
            Some(ListenerSettings { address: address?, tls })
        });
        let authority = self.authority(base, errors);
        let listener = ListenerSettings {
            address: address?,
            tls: tls.map(|tls| TlsSettings { protocols: Protocols::Grpc, ..tls }),
        };
        let directory = self.directory.as_ref().map(|directory| base.join(directory));
        let settings = StreamSettings { listener, kept, authority: authority?, jwks, directory };
        (errors.len() == before).then_some(settings)
    }

    /// The certificates of its own, unless there are files; without Kubernetes there must be.
    fn kept(&self, injection: &Injection, errors: &mut Vec<String>) -> Option<Kept> {
        if self.certificate_file.is_some() || self.key_file.is_some() || self.directory.is_some() {
            for (name, is_set) in
                [("certificates", self.certificates.is_some()), ("sidecar", self.sidecar.is_some())]
            {
                if is_set {
                    errors.push(format!(
                        "snapshots.{name}: goes without certificateFile, keyFile and directory: remove it, or them"
                    ));
                }
            }
            return None;
        }
        let none = RawCertificates::default();
        let raw = self.certificates.as_ref().unwrap_or(&none);
        let mut name = |field: &str, kind: &str, given: &Option<String>, default: &str| {
            let path = format!("snapshots.certificates.{field}");
            name_of(&path, kind, given.as_deref().unwrap_or(default), errors)
        };
        let names = Names {
            secret: name("secret", "Secret", &raw.secret, "placet-controller-certificates"),
            service: name("service", "Service", &raw.service, "placet-controller"),
        };
        let config_map = name("configMap", "ConfigMap", &raw.config_map, &injection.config_map);
        let none = Map::new();
        match Template::new(injection, self.sidecar.as_ref().unwrap_or(&none)) {
            Ok(sidecar) => Some(Kept { names, config_map, sidecar }),
            Err(faults) => {
                errors.extend(faults.iter().map(|fault| format!("snapshots.sidecar.{fault}")));
                None
            }
        }
    }

    fn authority(&self, base: &Path, errors: &mut Vec<String>) -> Option<Authority> {
        if let Some(file) = &self.tokens_file {
            for (name, is_set) in [
                ("tokenReview", self.token_review.is_some()),
                ("audience", self.audience.is_some()),
            ] {
                if is_set {
                    errors.push(format!(
                        "snapshots.{name}: is not asked about beside tokensFile: remove one"
                    ));
                }
            }
            return Some(Authority::Digests(base.join(file)));
        }
        let none = RawTokenReview::default();
        let review = self.token_review.as_ref().unwrap_or(&none);
        let url = review.url.as_deref().unwrap_or(IN_CLUSTER);
        let path = "apis/authentication.k8s.io/v1/tokenreviews";
        let url = match acceptable(&format!("{}/{path}", url.trim_end_matches('/')), false, true) {
            Ok(url) => Some(url),
            Err(fault) => {
                errors.push(format!("snapshots.tokenReview.url: `{url}`: {fault}"));
                None
            }
        };
        let file = |file: &Option<String>, own: &str| match file {
            Some(file) => base.join(file),
            None => Path::new(OWN_ACCOUNT).join(own),
        };
        Some(Authority::ApiServer {
            url: url?,
            ca_file: file(&review.ca_file, "ca.crt"),
            token_file: file(&review.token_file, "token"),
            audience: self.audience.clone().unwrap_or_else(|| AUDIENCE.to_owned()),
        })
    }
}

fn address_of(path: &str, text: &str, errors: &mut Vec<String>) -> Option<Address> {
    match text.parse() {
        Ok(address) => Some(Address::Tcp(address)),
        Err(_) => {
            errors.push(format!("{path}: `{text}` is no address: write IP:PORT"));
            None
        }
    }
}

fn tls_of(
    path: &str,
    files: (Option<&str>, Option<&str>),
    is_required: bool,
    base: &Path,
    errors: &mut Vec<String>,
) -> Option<TlsSettings> {
    let named = [("certificateFile", files.0), ("keyFile", files.1)];
    let is_any = files.0.is_some() || files.1.is_some();
    for (name, _) in named.iter().filter(|(_, file)| file.is_none() && (is_required || is_any)) {
        errors.push(format!("{path}.{name}: is required: tokens and keys are for TLS"));
    }
    Some(TlsSettings {
        certificate_file: base.join(files.0?),
        key_file: base.join(files.1?),
        client_ca_file: None,
        allowed: None,
        protocols: Protocols::Http,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (Option<StreamSettings>, Vec<String>) {
        let raw: RawSnapshots = yaml_serde::from_str(text).unwrap();
        let mut errors = Vec::new();
        (raw.check(Path::new("/etc/placet"), &Injection::default(), &mut errors), errors)
    }

    #[test]
    fn inside_a_cluster_its_api_server_is_asked() {
        let (settings, errors) = check("{certificateFile: tls.crt, keyFile: tls.key}");
        assert!(errors.is_empty(), "{errors:?}");
        let settings = settings.unwrap();
        assert_eq!(settings.listener.address.to_string(), "0.0.0.0:9444");
        let Authority::ApiServer { url, ca_file, token_file, audience } = settings.authority else {
            panic!("another authority");
        };
        assert_eq!(
            url.as_str(),
            "https://kubernetes.default.svc/apis/authentication.k8s.io/v1/tokenreviews"
        );
        assert_eq!(ca_file, Path::new("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"));
        assert_eq!(token_file, Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token"));
        assert_eq!(audience, "placet-control");
        assert!(settings.jwks.is_none() && settings.directory.is_none());
    }

    #[test]
    fn every_error_is_told_with_its_path() {
        let (settings, errors) = check(
            "{address: nowhere, keyFile: k, tokensFile: t, audience: a, tokenReview: {url: x}, jwks: {address: y, certificateFile: c}}",
        );
        assert!(settings.is_none());
        let paths: BTreeSet<&str> =
            errors.iter().map(|it| it.split(": ").next().unwrap()).collect();
        let expected = [
            "snapshots.address",
            "snapshots.audience",
            "snapshots.certificateFile",
            "snapshots.jwks.address",
            "snapshots.jwks.keyFile",
            "snapshots.tokenReview",
        ];
        assert_eq!(paths.into_iter().collect::<Vec<_>>(), expected, "{errors:#?}");
        let (_, errors) =
            check("{certificateFile: c, keyFile: k, tokenReview: {url: 'http://elsewhere'}}");
        assert!(errors[0].starts_with("snapshots.tokenReview.url: "), "{errors:?}");
    }

    #[test]
    fn without_files_the_certificate_is_its_own() {
        let (settings, errors) =
            check("{certificates: {service: control}, sidecar: {drainAfter: 5s}}");
        assert!(errors.is_empty(), "{errors:?}");
        let settings = settings.unwrap();
        assert!(settings.listener.tls.is_none());
        let kept = settings.kept.unwrap();
        assert_eq!(kept.names.service, "control");
        assert_eq!(kept.names.secret, "placet-controller-certificates");
        assert_eq!(kept.config_map, "placet");
        let (_, errors) = check("{directory: d, sidecar: {}}");
        let paths: Vec<&str> = errors.iter().map(|it| it.split(": ").next().unwrap()).collect();
        let expected = ["snapshots.sidecar", "snapshots.certificateFile", "snapshots.keyFile"];
        assert_eq!(paths, expected, "{errors:#?}");
    }

    use std::collections::BTreeSet;
}
