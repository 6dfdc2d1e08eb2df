//! The details of a Vault: where it is, and how to log in.

use std::path::Path;

use super::check_address;
use crate::config::check::credential::{credential, resolve};
use crate::config::check::{duration, joined, read_once, refuse_foreign, secs, texts};
use crate::config::raw::{self, AuthMethod};
use crate::config::report::Report;
use crate::secrets::{KvVersion, Source, VaultAuth, VaultSettings};

/// Where Kubernetes mounts a pod's token.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(super) fn settings(
    path: &str,
    details: &raw::Details,
    base: &Path,
    report: &mut Report,
) -> Option<VaultSettings> {
    let addresses = report.required(format_args!("{path}.address"), details.address.as_ref());
    let addresses: Vec<String> = addresses.map(texts).unwrap_or_default().to_vec();
    if addresses.is_empty() && details.address.is_some() {
        report.error(format_args!("{path}.address"), "lists no address");
    }
    let is_insecure_fine = details.insecure_http.unwrap_or(false);
    for address in &addresses {
        let checked = check_address(address, is_insecure_fine);
        report.keep(format_args!("{path}.address"), checked);
    }
    let kv_version = match details.kv_version {
        None | Some(2) => Some(KvVersion::V2),
        Some(1) => Some(KvVersion::V1),
        Some(other) => {
            report.error(format_args!("{path}.kvVersion"), format_args!("`{other}` is not 1 or 2"));
            None
        }
    };
    let auth = report.required(format_args!("{path}.auth"), details.auth.as_ref());
    let auth = auth.and_then(|auth| login(&format!("{path}.auth"), auth, base, report));
    let timeout =
        duration(format_args!("{path}.timeout"), details.timeout.as_deref(), secs(2), report);
    let refresh = details.refresh_interval.as_deref();
    let refresh = duration(format_args!("{path}.refreshInterval"), refresh, secs(30), report);
    let ca_file = details.tls.as_ref().and_then(|tls| tls.ca_file.as_deref());
    Some(VaultSettings {
        addresses,
        namespace: details.namespace.clone(),
        mount: details.mount.clone().unwrap_or_else(|| "secret".to_owned()),
        kv_version: kv_version?,
        default_path: details.default_path.clone(),
        auth: auth?,
        ca_file: ca_file.map(|file| read_once(base, file, report)),
        timeout: timeout?,
        refresh_interval: refresh?,
        transit_mount: details.transit_mount.clone().unwrap_or_else(|| "transit".to_owned()),
    })
}

fn login(path: &str, auth: &raw::Auth, base: &Path, report: &mut Report) -> Option<VaultAuth> {
    let method = report.required(format_args!("{path}.method"), auth.method)?;
    refuse_foreign(path, &foreign_auth(method, auth), "this login method", report);
    let mount = auth.mount.clone();
    match method {
        AuthMethod::Token => {
            let given = [
                ("token", auth.token.as_deref()),
                ("tokenFile", auth.token_file.as_deref()),
                ("tokenEnv", auth.token_env.as_deref()),
            ];
            credential(path, given, base, report).map(VaultAuth::Token)
        }
        AuthMethod::AppRole => {
            let role_id = role_id(path, auth, base, report);
            let given = [
                ("secretId", auth.secret_id.as_deref()),
                ("secretIdFile", auth.secret_id_file.as_deref()),
                ("secretIdEnv", auth.secret_id_env.as_deref()),
            ];
            let secret_id = credential(path, given, base, report);
            let wrapped_for = wrapped_for(path, auth, report);
            let mount = mount.unwrap_or_else(|| "approle".to_owned());
            let (role_id, secret_id) = (role_id?, secret_id?);
            Some(VaultAuth::AppRole { role_id, secret_id, wrapped_for: wrapped_for?, mount })
        }
        AuthMethod::Kubernetes => {
            let role = report.required(format_args!("{path}.role"), auth.role.clone());
            let file = auth.service_account_token_file.as_deref();
            let token = Source::File(joined(base, file.unwrap_or(SERVICE_ACCOUNT_TOKEN)));
            let mount = mount.unwrap_or_else(|| "kubernetes".to_owned());
            Some(VaultAuth::Kubernetes { role: role?, token, mount })
        }
        AuthMethod::Jwt => {
            let role = report.required(format_args!("{path}.role"), auth.role.clone());
            let file = report.required(format_args!("{path}.jwtFile"), auth.jwt_file.as_deref());
            let mount = mount.unwrap_or_else(|| "jwt".to_owned());
            Some(VaultAuth::Jwt { role: role?, jwt: Source::File(joined(base, file?)), mount })
        }
        AuthMethod::Cert => {
            let file = auth.certificate_file.as_deref();
            let certificate = report.required(format_args!("{path}.certificateFile"), file);
            let key = report.required(format_args!("{path}.keyFile"), auth.key_file.as_deref());
            Some(VaultAuth::Cert {
                role: auth.role.clone(),
                certificate_file: joined(base, certificate?),
                key_file: joined(base, key?),
                mount: mount.unwrap_or_else(|| "cert".to_owned()),
            })
        }
    }
}

/// The role that a wrapped secret id must be for: without it, whoever swaps the wrapping token
/// chooses who we are. The outer `None`: a fault was reported.
fn wrapped_for(path: &str, auth: &raw::Auth, report: &mut Report) -> Option<Option<String>> {
    match (auth.secret_id_wrapped.unwrap_or(false), &auth.role) {
        (false, None) => Some(None),
        (true, Some(role)) => Some(Some(role.clone())),
        (true, None) => {
            report.error(
                format_args!("{path}.role"),
                "is required with `secretIdWrapped`: the name of the role whose secret id it is",
            );
            None
        }
        (false, Some(_)) => {
            report.error(
                format_args!("{path}.role"),
                "only belongs to a wrapped secret id: remove it, or say `secretIdWrapped: true`",
            );
            None
        }
    }
}

fn foreign_auth(method: AuthMethod, auth: &raw::Auth) -> Vec<(&'static str, bool)> {
    use AuthMethod::{AppRole, Cert, Jwt, Kubernetes, Token};
    let fields: [(&str, &[AuthMethod], bool); 15] = [
        ("mount", &[AppRole, Kubernetes, Jwt, Cert], auth.mount.is_some()),
        ("role", &[AppRole, Kubernetes, Jwt, Cert], auth.role.is_some()),
        ("token", &[Token], auth.token.is_some()),
        ("tokenFile", &[Token], auth.token_file.is_some()),
        ("tokenEnv", &[Token], auth.token_env.is_some()),
        ("roleId", &[AppRole], auth.role_id.is_some()),
        ("roleIdFile", &[AppRole], auth.role_id_file.is_some()),
        ("secretId", &[AppRole], auth.secret_id.is_some()),
        ("secretIdFile", &[AppRole], auth.secret_id_file.is_some()),
        ("secretIdEnv", &[AppRole], auth.secret_id_env.is_some()),
        ("secretIdWrapped", &[AppRole], auth.secret_id_wrapped.is_some()),
        ("serviceAccountTokenFile", &[Kubernetes], auth.service_account_token_file.is_some()),
        ("jwtFile", &[Jwt], auth.jwt_file.is_some()),
        ("certificateFile", &[Cert], auth.certificate_file.is_some()),
        ("keyFile", &[Cert], auth.key_file.is_some()),
    ];
    fields
        .into_iter()
        .filter(|(_, owners, _)| !owners.contains(&method))
        .map(|(name, _, is_set)| (name, is_set))
        .collect()
}

/// A role id is no secret: it may also stand in the settings.
fn role_id(path: &str, auth: &raw::Auth, base: &Path, report: &mut Report) -> Option<Source> {
    match (&auth.role_id, &auth.role_id_file) {
        (Some(text), None) => {
            let resolved = resolve(text, report);
            report.keep(format_args!("{path}.roleId"), resolved).map(Source::Literal)
        }
        (None, Some(file)) => Some(Source::File(joined(base, file))),
        _ => {
            report.error(path, "needs exactly one of roleId and roleIdFile");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(auth: Value) -> Result<VaultAuth, Vec<String>> {
        let auth: raw::Auth = serde_json::from_value(auth).unwrap();
        let mut report = Report::default();
        let login = login("auth", &auth, Path::new("/etc/placet"), &mut report);
        if report.errors.is_empty() { Ok(login.unwrap()) } else { Err(report.errors) }
    }

    #[test]
    fn every_login_method_is_understood() {
        let kubernetes = checked(json!({"method": "kubernetes", "role": "placet"})).unwrap();
        let VaultAuth::Kubernetes { token: Source::File(file), mount, .. } = kubernetes else {
            panic!("{kubernetes:?}")
        };
        assert_eq!((file.to_str(), mount.as_str()), (Some(SERVICE_ACCOUNT_TOKEN), "kubernetes"));
        let jwt = checked(json!({"method": "jwt", "role": "r", "jwtFile": "t", "mount": "m"}));
        let Ok(VaultAuth::Jwt { jwt: Source::File(file), mount, .. }) = jwt else {
            panic!("{jwt:?}")
        };
        assert_eq!((file.to_str(), mount.as_str()), (Some("/etc/placet/t"), "m"));
        let cert = json!({"method": "cert", "certificateFile": "c", "keyFile": "k"});
        assert!(matches!(checked(cert), Ok(VaultAuth::Cert { role: None, .. })));
        let wrapped = json!({
            "method": "appRole", "roleId": "id", "secretIdFile": "s", "secretIdWrapped": true,
            "role": "placet",
        });
        let wrapped = checked(wrapped).unwrap();
        let VaultAuth::AppRole { wrapped_for, .. } = wrapped else { panic!("{wrapped:?}") };
        assert_eq!(wrapped_for.as_deref(), Some("placet"));
    }

    #[test]
    fn what_a_login_lacks_or_should_not_have_is_named() {
        let app_role = json!({"method": "appRole", "roleId": "id", "secretIdFile": "s"});
        let with = |name: &str, value: Value| {
            let mut auth = app_role.clone();
            auth[name] = value;
            auth
        };
        for (auth, expected) in [
            (json!({"method": "kubernetes"}), vec!["auth.role: is required"]),
            (json!({"method": "jwt"}), vec!["auth.role: is required", "auth.jwtFile: is required"]),
            (
                json!({"method": "cert"}),
                vec!["auth.certificateFile: is required", "auth.keyFile: is required"],
            ),
            (
                json!({"method": "jwt", "role": "r", "jwtFile": "t", "keyFile": "k"}),
                vec!["auth.keyFile: does not belong"],
            ),
            (
                json!({"method": "kubernetes", "role": "r", "secretIdWrapped": false}),
                vec!["auth.secretIdWrapped: does not belong"],
            ),
            (with("secretIdWrapped", true.into()), vec!["auth.role: is required with"]),
            (with("role", "r".into()), vec!["auth.role: only belongs to a wrapped"]),
        ] {
            let errors = checked(auth.clone()).unwrap_err();
            assert_eq!(errors.len(), expected.len(), "{auth}: {errors:?}");
            for (error, expected) in errors.iter().zip(expected) {
                assert!(error.starts_with(expected), "{auth}: {error}");
            }
        }
    }
}
