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
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::audit::LogSettings;
use crate::authorizer::DryRun;
use crate::deny_list::DenyList;
use crate::digest::Hasher;
use crate::entitlement::Catalogue;
use crate::files::{Look, Stamp};
use crate::identity::IdentitySettings;
use crate::keys::{Backend, KeySettings, KeySource};
use crate::path::Allowances;
use crate::policy::{BundleTask, Policy};
use crate::route::Routes;
use crate::scope::{DecisionHeader, DenyResponse, Explain, PublicUrl};
use crate::secrets::{KeyLocation, SecretStore};
use crate::source::{ControlSettings, Stored};
use crate::telemetry::TelemetrySettings;
use crate::tls::{TlsSettings, UriSan};
use crate::token::ClaimSettings;
use load::Sent;
use report::Report;

pub use raw::schema;
#[cfg(feature = "control")]
pub(crate) use raw::{scope_schema, store_schema};

/// Checked settings.
#[derive(Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// The protected applications.
    pub scopes: Vec<ScopeConfig>,
    /// Where some of them come from.
    pub control_plane: Option<ControlPlane>,
    /// Where decision lines go, and what they show.
    pub decision_log: LogSettings,
    /// What is sent to a collector.
    pub telemetry: Option<TelemetrySettings>,
    /// How much memory kept answers take, in bytes.
    pub reuse_max_bytes: u64,
    /// How long start-up waits for every scope.
    pub startup_grace: Duration,
    /// After the order to end, how long requests are served on.
    pub drain_after: Duration,
    /// How long requests in progress may take at the end.
    pub shutdown_grace: Duration,
    /// How often to look whether a file has changed; none: never.
    pub reload: Option<Duration>,
    /// Callers who are refused whatever the policies say.
    pub deny_list: Option<DenyListFile>,
    /// Whether readiness always needs every scope.
    pub ready_needs_all: bool,
    /// What is allowed and worth a second look.
    pub warnings: Vec<String>,
    /// The settings in force, without credentials: for `/config`.
    pub effective: serde_json::Value,
    /// The files that all this was read from, as they were then.
    pub files: Look,
    /// Changes whenever the settings do, or what is in the files that they name. No credential has a
    /// part in it.
    pub revision: String,
}

/// The control plane, and what came from it.
#[derive(Debug)]
pub struct ControlPlane {
    /// Where it is.
    pub settings: ControlSettings,
    /// The snapshot that these settings have in them; none: none ever came.
    pub snapshot: Option<Stored>,
    /// What is wrong with the one on disk.
    pub damage: Option<String>,
    /// The client IDs of its scopes.
    pub client_ids: BTreeSet<String>,
}

/// A deny list, and its file.
#[derive(Debug)]
pub struct DenyListFile {
    /// The file.
    pub path: PathBuf,
    /// What it was when it was about to be read.
    pub stamp: Stamp,
    /// What it said; none where somebody keeps it up to date already.
    pub list: Option<DenyList>,
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
    /// How long its policies may go unconfirmed.
    pub max_policy_age: Option<Duration>,
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
    /// The stores that it reads.
    pub fn stores(&self) -> impl Iterator<Item = &Arc<SecretStore>> {
        let api_keys = self.identity.api_keys.iter().map(|keys| &keys.store);
        let secrets = self.api.iter().filter_map(|api| Some(&api.secrets.as_ref()?.0));
        [&self.store].into_iter().chain(api_keys).chain(secrets)
    }

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

    /// Reads and checks the settings at `path`, and everything they name but keys. The control plane's last good
    /// snapshot is no longer good where this version, or the rest of the settings, has other ideas: then a
    /// warning says so, and it is as if there were none.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let read = |sent| Self::read(Report::default(), path, None, sent, Report::for_a_listener);
        read(Sent::Last).or_else(|errors| {
            let without = read(Sent::Nothing);
            without.map(|config| config.without_snapshot(&errors)).map_err(|_| errors)
        })
    }

    fn without_snapshot(mut self, errors: &ConfigErrors) -> Self {
        let what = "the snapshot is not used, and asked for anew";
        let told = errors.iter().map(|error| format!("controlPlane.directory: {what}: {error}"));
        self.warnings.extend(told);
        if let Some(control_plane) = &mut self.control_plane {
            control_plane.damage = Some(errors.to_string());
        }
        self
    }

    /// [`Self::load`] for who will not bind the listeners: a command that only decides, perhaps on a machine
    /// that has none of their files. What is wrong with what only listeners need is a warning.
    pub fn load_without_listening(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(Report::default(), path, None, Sent::Last, Report::for_nobody_listening)
    }

    /// [`Self::load_without_listening`] for settings that another machine will have beside its own: neither
    /// this one's environment nor any file outside the settings' folder is read, and the listeners are
    /// taken for what scopes ask of them.
    #[cfg(feature = "control")]
    pub(crate) fn load_for_another_machine(path: &Path) -> Result<Self, ConfigErrors> {
        let report = Report::of_another_machine();
        Self::read(report, path, None, Sent::Nothing, Report::for_nobody_listening)
    }

    /// [`Self::load_without_listening`] for a process that listens already, until no file was changed
    /// meanwhile: what is half old and half new is nothing that anybody wrote. A deny list at
    /// `kept_deny_list` is kept up to date already, and not read. Of the control plane it has `snapshot`; none:
    /// the last good one on disk.
    pub fn reload(
        path: &Path,
        kept_deny_list: Option<&Path>,
        snapshot: Option<&Stored>,
    ) -> Result<Self, ConfigErrors> {
        let mut files = Look::default();
        let sent = snapshot.map_or(Sent::Last, Sent::This);
        for _ in 0..MAX_READINGS {
            let report = Report::default();
            let settle = Report::for_nobody_listening;
            let read = Self::read(report, path, kept_deny_list, sent, settle);
            files = match &read {
                Ok(config) => config.files.clone(),
                Err(errors) => errors.files.clone(),
            };
            if files.again() == files {
                return read;
            }
        }
        let text = "the settings, or what they name, change while they are read: write a file beside and rename it";
        Err(ConfigErrors { lines: vec![text.to_owned()], files })
    }

    fn read(
        mut report: Report,
        path: &Path,
        kept_deny_list: Option<&Path>,
        sent: Sent<'_>,
        settle: fn(&mut Report),
    ) -> Result<Self, ConfigErrors> {
        let config = load::load(path, sent, &mut report)
            .and_then(|loaded| check::check(loaded, kept_deny_list, &mut report));
        settle(&mut report);
        let Report { errors, warnings, files, named, .. } = report;
        match config {
            Some(config) if errors.is_empty() => {
                let revision = revision(&config.effective, named);
                Ok(Self { warnings, files, revision, ..config })
            }
            _ => Err(ConfigErrors { lines: errors, files }),
        }
    }
}

/// More attempts at a moving target help nobody.
const MAX_READINGS: usize = 4;

/// Of the settings as they are shown, and the contents of the files in `named`. Directories are in the
/// settings already, by the revisions of their policies.
fn revision(effective: &serde_json::Value, mut named: Vec<PathBuf>) -> String {
    let mut hasher = Hasher::default();
    hasher.update(effective.to_string().as_bytes());
    named.sort_unstable();
    named.dedup();
    for file in named {
        let mut content = Hasher::default();
        // One that can't be read is said elsewhere, or is read only when it is needed.
        let read = File::open(&file).and_then(|mut file| io::copy(&mut file, &mut content));
        if read.is_ok() {
            hasher.update(&content.finish());
        }
    }
    hex::encode(hasher.finish()).chars().take(16).collect()
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug)]
pub struct ConfigErrors {
    lines: Vec<String>,
    files: Look,
}

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    /// The errors.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// The files that were read, as they were then: when one changes it may be another story.
    pub fn files(&self) -> &Look {
        &self.files
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}
