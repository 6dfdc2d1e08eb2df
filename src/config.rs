//! Settings: from `placet.yaml` to checked values.
//!
//! Two steps. `raw` mirrors what is written and its JSON Schema; `check` turns it into types in
//! which an invalid value can't exist, reading policies on the way. All errors are reported at
//! once, each with the path of its setting; with one error there is no [`Config`] at all.

mod check;
mod effective;
mod load;
mod raw;
mod report;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::audit::Sink;
use crate::authorizer::DryRun;
use crate::entitlement::Catalogue;
use crate::identity::IdentitySettings;
use crate::keys::{Backend, KeySettings, KeySource};
use crate::path::Allowances;
use crate::policy::{BundleTask, Policy};
use crate::route::Routes;
use crate::scope::{DecisionHeader, DenyResponse, Explain, PublicUrl};
use crate::secrets::{KeyLocation, SecretStore};
use crate::tls::{TlsSettings, UriSan};
use crate::token::ClaimSettings;
use report::Report;

pub use raw::schema;

/// Checked settings.
#[derive(Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// The protected applications.
    pub scopes: Vec<ScopeConfig>,
    /// Where decision lines go.
    pub decision_log: Sink,
    /// How much memory kept answers take, in bytes.
    pub reuse_max_bytes: u64,
    /// How long start-up waits for every scope.
    pub startup_grace: Duration,
    /// Whether readiness always needs every scope.
    pub ready_needs_all: bool,
    /// What is allowed and worth a second look.
    pub warnings: Vec<String>,
    /// The settings in force, without credentials: for `/config`.
    pub effective: serde_json::Value,
}

/// Where to listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listen {
    /// ext_authz, health and reflection.
    pub grpc: ListenerSettings,
    /// JWKS.
    pub http: ListenerSettings,
    /// Liveness, readiness, metrics and settings.
    pub admin: ListenerSettings,
    /// Orders of the operator: a Unix socket that only the process's own user can open, or none.
    pub control: Option<PathBuf>,
}

/// One listener.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListenerSettings {
    /// Where.
    pub address: Address,
    /// Its TLS; only over TCP.
    pub tls: Option<TlsSettings>,
}

impl ListenerSettings {
    /// Whether only those can connect whom the operator named: by a socket's permissions, or by the
    /// SPIFFE IDs of their certificates.
    pub fn names_its_clients(&self) -> bool {
        let by_socket = matches!(self.address, Address::Unix(..));
        by_socket || self.tls.as_ref().is_some_and(TlsSettings::names_its_clients)
    }

    /// Whether clients must show a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some())
    }
}

impl fmt::Display for ListenerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// The address of a listener.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket, and who may open it.
    Unix(PathBuf, SocketAccess),
}

/// Who may open a Unix socket, where the settings say it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SocketAccess {
    /// The permissions.
    pub mode: Option<u32>,
    /// The id of the group that owns it.
    pub group: Option<u32>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path, _) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One scope's checked settings, its policies compiled.
#[derive(Debug)]
pub struct ScopeConfig {
    /// The client ID.
    pub client_id: String,
    /// Whether it takes what no other scope does.
    pub default: bool,
    /// Its hosts, in lower case.
    pub hosts: Vec<String>,
    /// What its paths may hold.
    pub paths: Allowances,
    /// Request to target.
    pub routes: Routes,
    /// Who may ask.
    pub identity: IdentitySettings,
    /// Who may do what.
    pub policy: Policy,
    /// The policies that are only compared.
    pub shadow: Option<Policy>,
    /// What fetches its policies, where they are in a bundle elsewhere.
    pub bundle: Option<BundleTask>,
    /// Whether a decision is used again.
    pub reuse: bool,
    /// Set while its denials pass.
    pub dry_run: Option<DryRun>,
    /// What its answers tell beside themselves.
    pub explain: Explain,
    /// The candidates for `items: entitlements`.
    pub catalogue: Option<Catalogue>,
    /// The store that holds its key.
    pub store: Arc<SecretStore>,
    /// Where in the store.
    pub location: KeyLocation,
    /// What signs with it.
    pub backend: Backend,
    /// What its key must be.
    pub key: KeySettings,
    /// A new key is published this long before it signs.
    pub publish_before: Duration,
    /// With the store away longer than this, nothing is signed.
    pub max_key_age: Duration,
    /// What its tokens say.
    pub claims: ClaimSettings,
    /// The header that carries them.
    pub header: DecisionHeader,
    /// Request headers that must not travel upstream.
    pub remove_headers: Vec<String>,
    /// What a refused client sees.
    pub deny: DenyResponse,
    /// What it answers beside its proxy's checks.
    pub api: Option<ApiConfig>,
}

/// What a scope answers beside its proxy's checks, and where the digests of its callers' secrets are.
#[derive(Debug)]
pub struct ApiConfig {
    /// Questions in the words of AuthZEN.
    pub authzen: bool,
    /// The checks of a proxy that asks over HTTP.
    pub check: bool,
    /// The scheme of the requests that such a proxy asks about.
    pub scheme: &'static str,
    /// The address that AuthZEN's callers know it by.
    pub public_url: Option<PublicUrl>,
    /// The callers that are known by their certificate.
    pub workloads: BTreeSet<UriSan>,
    /// Where the digests are; `None`: no caller is known by a secret.
    pub secrets: Option<(Arc<SecretStore>, KeyLocation)>,
}

impl ScopeConfig {
    /// What the scope's key is loaded by.
    pub fn key_source(&self) -> KeySource {
        KeySource {
            store: Arc::clone(&self.store),
            location: self.location.clone(),
            backend: self.backend,
            settings: self.key.clone(),
            publish_before: self.publish_before,
            max_key_age: self.max_key_age,
            token_lifetime: Duration::from_secs(self.claims.lifetime),
        }
    }
}

impl Config {
    /// The `iss` of every token that these settings mint.
    pub fn own_issuers(&self) -> Arc<BTreeSet<String>> {
        Arc::new(self.scopes.iter().map(|scope| scope.claims.issuer.clone()).collect())
    }

    /// Reads and checks the settings at `path`, and everything they name but keys.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, |report| report.errors.append(&mut report.for_listeners))
    }

    /// [`Self::load`] for who will not bind the listeners: a process that listens already and keeps its last
    /// good certificate files, or a command that only decides, perhaps on a machine that has none of them.
    /// What is wrong with what only listeners need is a warning.
    pub fn load_without_listening(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, |report| report.warnings.append(&mut report.for_listeners))
    }

    fn read(path: &Path, settle: fn(&mut Report)) -> Result<Self, ConfigErrors> {
        let mut report = Report::default();
        let config =
            load::load(path, &mut report).and_then(|loaded| check::check(loaded, &mut report));
        settle(&mut report);
        match config {
            Some(config) if report.errors.is_empty() => {
                Ok(Self { warnings: report.warnings, ..config })
            }
            _ => Err(ConfigErrors(report.errors)),
        }
    }
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug)]
pub struct ConfigErrors(Vec<String>);

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    /// The errors.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}
