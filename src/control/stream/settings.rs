//! The settings of snapshots: `snapshots` in the settings of `placet-control`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::caller::Authority;
use crate::config::{Address, ListenerSettings};
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
    /// What says who they are.
    pub authority: Authority,
    /// Where their keys are served, if anywhere.
    pub jwks: Option<ListenerSettings>,
    /// Where snapshots come from, if not from the custom resources.
    pub directory: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(in crate::control) struct RawSnapshots {
    address: Option<String>,
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

impl RawSnapshots {
    /// The checked settings, whose paths are relative to `base`; what is wrong is added to `errors`.
    pub(in crate::control) fn check(
        &self,
        base: &Path,
        errors: &mut Vec<String>,
    ) -> Option<StreamSettings> {
        let before = errors.len();
        let address = self.address.as_deref().unwrap_or("0.0.0.0:9444");
        let address = address_of("snapshots.address", address, errors);
        let files = (self.certificate_file.as_deref(), self.key_file.as_deref());
        let tls = tls_of("snapshots", files, true, base, errors);
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
            tls: Some(TlsSettings { protocols: Protocols::Grpc, ..tls? }),
        };
        let directory = self.directory.as_ref().map(|directory| base.join(directory));
        let settings = StreamSettings { listener, authority: authority?, jwks, directory };
        (errors.len() == before).then_some(settings)
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
        (raw.check(Path::new("/etc/placet"), &mut errors), errors)
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

    use std::collections::BTreeSet;
}
