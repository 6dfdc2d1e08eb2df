//! The logins: what is presented, and the token that comes of it.
//!
//! Credentials are read anew for each login, so that a rotated file is picked up. A response-wrapped
//! secret id is looked at before it is opened: it must have been made at the role's own path, since
//! whoever swaps the wrapping token can make us log in as someone else. It opens once; what was in
//! it is kept for later logins. One that doesn't open may have been opened by someone else: that
//! is an error of its own, to be alarmed on.
//!
//! `vaultrs` has no login by certificate that names its role (it sends another field), and its
//! functions for wrapped answers keep them in plain values; those requests are written out here.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::auth::oidc::requests::JWTLoginRequest;
use vaultrs::api::sys::requests::WrappingLookupRequest;
use vaultrs::api::token::requests::LookupTokenSelfRequest;
use zeroize::Zeroizing;

use super::cluster::{Answer, Caller, Cluster, Fault, Post, Refusal, is_of_the_server};
use crate::secrets::{Secret, SecretError, VaultAuth};

/// What a login presents, as it is now. Two are equal if they present the same.
pub(super) struct Credential(Vec<Secret<String>>);

impl Credential {
    /// Reads it from its sources.
    pub(super) async fn read(store: &str, auth: &VaultAuth) -> Result<Self, SecretError> {
        let parts = match auth {
            VaultAuth::Token(source) => vec![source.read(store, "token").await?],
            VaultAuth::AppRole { role_id, secret_id, wrapped_for: None, .. } => {
                vec![
                    role_id.read(store, "role id").await?,
                    secret_id.read(store, "secret id").await?,
                ]
            }
            VaultAuth::AppRole { role_id, secret_id, .. } => vec![
                role_id.read(store, "role id").await?,
                secret_id.read(store, "wrapped secret id").await?,
            ],
            VaultAuth::Kubernetes { token, .. } => {
                vec![token.read(store, "service account token").await?]
            }
            VaultAuth::Jwt { jwt, .. } => vec![jwt.read(store, "jwt").await?],
            VaultAuth::Cert { certificate_file, key_file, .. } => vec![
                pem(store, "client certificate", certificate_file).await?,
                pem(store, "client certificate's key", key_file).await?,
            ],
        };
        Ok(Self(parts))
    }

    /// The parts' texts, whole: a certificate and its key as one PEM.
    pub(super) fn joined(&self) -> Zeroizing<String> {
        let mut joined = Zeroizing::new(String::new());
        for part in &self.0 {
            joined.push_str(part.expose());
            joined.push('\n');
        }
        joined
    }

    fn part(&self, index: usize) -> &str {
        self.0.get(index).map_or("", |part| part.expose())
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(mine, its)| mine.expose() == its.expose())
    }
}

async fn pem(store: &str, what: &'static str, path: &Path) -> Result<Secret<String>, SecretError> {
    let text = tokio::fs::read_to_string(path).await.map(Secret::new);
    text.map_err(|error| SecretError::UnusableLogin {
        store: store.to_owned(),
        what,
        origin: format!("file `{}`", path.display()),
        problem: error.to_string(),
    })
}

/// A token, and for how long.
pub(super) struct Granted {
    pub(super) token: Secret<String>,
    /// Zero: for ever, or unknown.
    pub(super) lasts: Duration,
    pub(super) is_renewable: bool,
}

/// Why there is no token.
pub(super) enum NoLogin {
    /// Asking again with the same credential would be refused again.
    Refused(RefusedLogin),
    /// Not the credential's fault.
    Failed(Refusal),
}

impl From<Refusal> for NoLogin {
    fn from(refusal: Refusal) -> Self {
        match refusal.fault {
            Fault::Status(status, _) if !is_of_the_server(status) => {
                Self::Refused(RefusedLogin::Status(status))
            }
            _ => Self::Failed(refusal),
        }
    }
}

/// How a login was refused.
#[derive(Clone)]
pub(super) enum RefusedLogin {
    /// With this status.
    Status(u16),
    /// The wrapped secret id doesn't open (status).
    Unopened(u16),
    /// The wrapped secret id was made elsewhere.
    MadeElsewhere { found: String, expected: String },
}

/// A wrapping token, and the secret id that was in it.
pub(super) struct Unwrapped {
    wrapping_token: Secret<String>,
    secret_id: Secret<String>,
}

/// One login to one cluster.
pub(super) struct Login<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) namespace: Option<&'a str>,
    pub(super) credential: &'a Credential,
}

impl Login<'_> {
    /// Logs in by the method of `auth`.
    pub(super) async fn by(
        &self,
        auth: &VaultAuth,
        unwrapped: &mut Option<Unwrapped>,
    ) -> Result<Granted, NoLogin> {
        let nobody = Caller::new("", self.namespace);
        let answer = match auth {
            VaultAuth::Token(_) => return self.token().await,
            VaultAuth::AppRole { wrapped_for, mount, .. } => {
                let secret_id = match wrapped_for {
                    None => Secret::new(self.credential.part(1).to_owned()),
                    Some(role) => self.unwrapped(mount, role, unwrapped).await?,
                };
                let login = LoginWithApproleRequest {
                    mount: trimmed(mount),
                    role_id: self.credential.part(0).to_owned(),
                    secret_id: secret_id.expose().clone(),
                };
                self.cluster.ask(&nobody, &login).await
            }
            VaultAuth::Kubernetes { role, mount, .. } => {
                let jwt = self.credential.part(0).to_owned();
                let login =
                    LoginWithKubernetesRequest { mount: trimmed(mount), role: role.clone(), jwt };
                self.cluster.ask(&nobody, &login).await
            }
            VaultAuth::Jwt { role, mount, .. } => {
                let jwt = self.credential.part(0).to_owned();
                let role = Some(role.clone());
                self.cluster
                    .ask(&nobody, &JWTLoginRequest { mount: trimmed(mount), jwt, role })
                    .await
            }
            VaultAuth::Cert { role, mount, .. } => {
                let path = format!("auth/{}/login", trimmed(mount));
                let body = role.as_ref().map_or_else(|| json!({}), |role| json!({"name": role}));
                self.cluster.ask(&nobody, &Post { path, body }).await
            }
        };
        granted(&answer?).map_err(|fault| self.unreadable(fault))
    }

    /// A token needs no login, but has a lease like any other. One that may not look at itself
    /// is taken for lasting: if it doesn't, reading says so.
    async fn token(&self) -> Result<Granted, NoLogin> {
        #[derive(Deserialize)]
        struct Itself {
            ttl: u64,
            #[serde(default)]
            renewable: bool,
        }
        let token = Secret::new(self.credential.part(0).to_owned());
        let caller = Caller::new(token.expose(), self.namespace);
        let (ttl, is_renewable) = match self.cluster.ask(&caller, &LookupTokenSelfRequest {}).await
        {
            Ok(answer) => {
                let itself: Itself = answer.data().map_err(|fault| self.unreadable(fault))?;
                (itself.ttl, itself.renewable)
            }
            Err(Refusal { fault: Fault::Status(status, _), .. }) if !is_of_the_server(status) => {
                (0, false)
            }
            Err(refusal) => return Err(NoLogin::Failed(refusal)),
        };
        Ok(Granted { token, lasts: Duration::from_secs(ttl), is_renewable })
    }

    /// The secret id in the wrapping token we were given.
    async fn unwrapped(
        &self,
        mount: &str,
        role: &str,
        kept: &mut Option<Unwrapped>,
    ) -> Result<Secret<String>, NoLogin> {
        #[derive(Deserialize)]
        struct Origin {
            creation_path: String,
        }
        #[derive(Deserialize)]
        struct Content {
            secret_id: Secret<String>,
        }
        let wrapping_token = Secret::new(self.credential.part(1).to_owned());
        if let Some(kept) = kept
            && kept.wrapping_token.expose() == wrapping_token.expose()
        {
            return Ok(kept.secret_id.clone());
        }
        let unopened = |refusal: Refusal| match NoLogin::from(refusal) {
            NoLogin::Refused(RefusedLogin::Status(status)) => {
                NoLogin::Refused(RefusedLogin::Unopened(status))
            }
            other => other,
        };
        let lookup = WrappingLookupRequest { token: wrapping_token.expose().clone() };
        let nobody = Caller::new("", self.namespace);
        let answer = self.cluster.ask(&nobody, &lookup).await.map_err(unopened)?;
        let origin: Origin = answer.data().map_err(|fault| self.unreadable(fault))?;
        let expected = format!("auth/{}/role/{role}/secret-id", trimmed(mount));
        if origin.creation_path != expected {
            let found = origin.creation_path;
            return Err(NoLogin::Refused(RefusedLogin::MadeElsewhere { found, expected }));
        }
        let unwrap = Post { path: "sys/wrapping/unwrap".to_owned(), body: json!({}) };
        let holder = Caller::new(wrapping_token.expose(), self.namespace);
        let answer = self.cluster.ask_once(&holder, &unwrap).await.map_err(unopened)?;
        let content: Content = answer.data().map_err(|fault| self.unreadable(fault))?;
        *kept = Some(Unwrapped { wrapping_token, secret_id: content.secret_id.clone() });
        Ok(content.secret_id)
    }

    fn unreadable(&self, fault: Fault) -> NoLogin {
        NoLogin::Failed(Refusal { fault, address: String::new() })
    }
}

/// Asks for more time for the caller's token; `None`: it gets none.
pub(super) async fn renew(cluster: &Cluster, caller: &Caller) -> Result<Option<Duration>, Refusal> {
    // The path of the library's own request begins with a tab.
    let renewal = Post { path: "auth/token/renew-self".to_owned(), body: json!({}) };
    let answer = match cluster.ask(caller, &renewal).await {
        Ok(answer) => answer,
        Err(Refusal { fault: Fault::Status(status, _), .. }) if !is_of_the_server(status) => {
            return Ok(None);
        }
        Err(refusal) => return Err(refusal),
    };
    let granted = granted(&answer).map_err(|fault| Refusal { fault, address: String::new() })?;
    Ok(Some(granted.lasts))
}

fn granted(answer: &Answer) -> Result<Granted, Fault> {
    let auth = answer.auth()?;
    if !super::is_header_text(auth.client_token.expose()) {
        return Err(Fault::Unreadable);
    }
    let lasts = Duration::from_secs(auth.lease_duration);
    Ok(Granted { token: auth.client_token, lasts, is_renewable: auth.renewable })
}

fn trimmed(mount: &str) -> String {
    mount.trim_matches('/').to_owned()
}
