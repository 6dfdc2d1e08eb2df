//! What the stores are told. Checked settings, but for what only a store can judge.

use std::path::PathBuf;
use std::time::Duration;

use super::{Secret, SecretError};

/// One entry of `secretStores`.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// What scopes call it.
    pub id: String,
    /// Whether scopes that name no store use this one.
    pub default: bool,
    /// Its type and the type's own settings.
    pub kind: StoreKind,
}

/// The types of store.
#[expect(clippy::large_enum_variant, reason = "a handful of values, made once at start")]
#[derive(Clone, Debug)]
pub enum StoreKind {
    /// Vault or OpenBao.
    Vault(VaultSettings),
    /// `<directory>/<keyName>[.pem|.jwk]`.
    File {
        /// The directory.
        directory: PathBuf,
    },
    /// `<prefix><keyName upper-cased, non-alphanumerics to _>`.
    Env {
        /// The prefix.
        prefix: String,
    },
    /// AWS Secrets Manager.
    Aws(AwsSettings),
    /// Azure Key Vault.
    Azure(AzureSettings),
}

/// Which Secrets Manager. Credentials are what AWS's default chain finds.
#[derive(Clone, Debug)]
pub struct AwsSettings {
    /// The region.
    pub region: String,
    /// The endpoint, in place of the region's own; also the environment may name one.
    pub address: Option<String>,
    /// Whether an endpoint beyond loopback may be plain http.
    pub is_insecure_fine: bool,
    /// The longest wait for one answer, connecting included.
    pub timeout: Duration,
    /// How often to look for a new version.
    pub refresh_interval: Duration,
}

/// Which Key Vault. Credentials are the identity that the environment or the machine gives us.
#[derive(Clone, Debug)]
pub struct AzureSettings {
    /// `https://NAME.vault.azure.net`.
    pub vault_url: String,
    /// The longest wait for one answer, connecting included.
    pub timeout: Duration,
    /// How often to look for a new version.
    pub refresh_interval: Duration,
}

/// How to reach Vault, and where keys are in it.
#[derive(Clone, Debug)]
pub struct VaultSettings {
    /// The nodes of one cluster, `https://host:port`, in the order to try them.
    pub addresses: Vec<String>,
    /// The namespace to log in to and read from.
    pub namespace: Option<String>,
    /// Where the KV secrets engine is mounted.
    pub mount: String,
    /// Which KV secrets engine it is.
    pub kv_version: KvVersion,
    /// The path for keys that name none.
    pub default_path: Option<String>,
    /// How to log in.
    pub auth: VaultAuth,
    /// The certificate authorities to trust, PEM; *only* these. `None`: the platform's.
    pub ca_file: Option<PathBuf>,
    /// The longest wait for one answer of one node, connecting included.
    pub timeout: Duration,
    /// How often to look for a new key version.
    pub refresh_interval: Duration,
    /// Where the Transit secrets engine is mounted.
    pub transit_mount: String,
}

/// The two KV secrets engines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KvVersion {
    /// Without history.
    V1,
    /// With versions and their creation times.
    V2,
}

/// The ways to log in; each is re-done from its sources at every login.
#[derive(Clone, Debug)]
pub enum VaultAuth {
    /// A token made elsewhere.
    Token(Source),
    /// The `AppRole` method.
    AppRole {
        /// The role's id.
        role_id: Source,
        /// The secret id that goes with it; or, where that is response-wrapped, the wrapping token.
        secret_id: Source,
        /// The name of the role, if the secret id is response-wrapped: it must have been made at
        /// `auth/<mount>/role/<role>/secret-id`.
        wrapped_for: Option<String>,
        /// Where the method is mounted, by default `approle`.
        mount: String,
    },
    /// The Kubernetes method: a pod's projected service account token.
    Kubernetes {
        /// The role to log in as.
        role: String,
        /// The token.
        token: Source,
        /// Where the method is mounted, by default `kubernetes`.
        mount: String,
    },
    /// The JWT method.
    Jwt {
        /// The role to log in as.
        role: String,
        /// The token.
        jwt: Source,
        /// Where the method is mounted, by default `jwt`.
        mount: String,
    },
    /// The TLS certificate method.
    Cert {
        /// The role to log in as. `None`: any that takes the certificate.
        role: Option<String>,
        /// The client certificate, leaf first, PEM.
        certificate_file: PathBuf,
        /// Its private key, PEM.
        key_file: PathBuf,
        /// Where the method is mounted, by default `cert`.
        mount: String,
    },
}

impl VaultAuth {
    /// The method, as the settings spell it.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::AppRole { .. } => "appRole",
            Self::Kubernetes { .. } => "kubernetes",
            Self::Jwt { .. } => "jwt",
            Self::Cert { .. } => "cert",
        }
    }
}

/// Where a credential comes from. Files and variables are read anew at every login, so that a
/// replaced file is picked up.
#[derive(Clone, Debug)]
pub enum Source {
    /// The text of a file, white space around it removed.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// The value itself.
    Literal(Secret<String>),
}

/// Why a credential can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the {origin} {problem}")]
pub struct Unreadable {
    /// The file, the variable or the settings.
    pub origin: String,
    /// Why, quoting nothing of it.
    pub problem: String,
}

impl Source {
    /// Reads the credential.
    ///
    /// # Errors
    /// If the file or variable can't be read, is empty, or holds what no credential has: anything
    /// but visible ASCII.
    pub async fn text(&self) -> Result<Secret<String>, Unreadable> {
        self.made_of(|byte| byte.is_ascii_graphic()).await
    }

    /// [`Self::text`], but with spaces within: the value of a header field such as `Bearer …`.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub async fn field_value(&self) -> Result<Secret<String>, Unreadable> {
        self.made_of(|byte| byte.is_ascii_graphic() || byte == b' ').await
    }

    async fn made_of(&self, is_allowed: fn(u8) -> bool) -> Result<Secret<String>, Unreadable> {
        let unusable = |origin: String, problem: String| Unreadable { origin, problem };
        let (text, origin) = match self {
            Self::File(path) => {
                let origin = format!("file `{}`", path.display());
                let text = tokio::fs::read_to_string(path).await.map(Secret::new);
                (text.map_err(|error| unusable(origin.clone(), error.to_string()))?, origin)
            }
            Self::Env(name) => {
                let origin = format!("variable `{name}`");
                let text = std::env::var(name).map(Secret::new);
                // The library's own message for a value that isn't Unicode quotes the value.
                let problem = || "is not set, or not UTF-8".to_owned();
                (text.map_err(|_| unusable(origin.clone(), problem()))?, origin)
            }
            Self::Literal(text) => (text.clone(), "settings".to_owned()),
        };
        let credential = text.expose().trim_ascii();
        if credential.is_empty() {
            Err(unusable(origin, "is empty".to_owned()))
        } else if !credential.bytes().all(is_allowed) {
            Err(unusable(origin, "holds characters that no credential has".to_owned()))
        } else {
            Ok(Secret::new(credential.to_owned()))
        }
    }

    /// Reads the credential `what` of `store`.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub(super) async fn read(
        &self,
        store: &str,
        what: &'static str,
    ) -> Result<Secret<String>, SecretError> {
        self.text().await.map_err(|Unreadable { origin, problem }| SecretError::UnusableLogin {
            store: store.to_owned(),
            what,
            origin,
            problem,
        })
    }
}
