//! Keys in Vault or OpenBao: the field `<keyName>` of a KV secret, version 1 or 2, or a Transit key.
//!
//! The HTTP client and the login are made at the first question and kept; the login is renewed by
//! the questions themselves, which come at every look. A 403 logs in once more (a token may have
//! been revoked) before it counts, and again only after a growing wait: secret ids may be good for
//! few logins. When no node can be reached the HTTP client is made anew for the next question, so
//! that a replaced CA file is picked up.
//!
//! The connection is made from the settings alone: no `VAULT_*` variable, no proxy from the
//! environment, and with a CA file no other authority. Answers and tokens are overwritten when
//! dropped; the own buffers of the HTTP library and of the JSON parser are beyond us, and the text of
//! a key was seen to outlast it there.

mod cluster;
mod kv;
mod lease;
mod login;
mod session;
mod transit;

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use reqwest::Url;
use rustify::Endpoint;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{KeyLocation, SecretError, VaultSettings};
use cluster::{Answer, Fault, Refusal, is_of_the_server};
use lease::Backoff;
use session::{Door, Session};

/// One Vault cluster: one KV mount, one Transit mount.
pub(super) struct VaultStore {
    id: String,
    settings: VaultSettings,
    nodes: Vec<Url>,
    session: ArcSwapOption<Session>,
    /// Whether no node could be reached with the present session's HTTP client.
    is_cut_off: AtomicBool,
    /// Whoever holds it logs in; the others wait, or go on with the session there is.
    door: Mutex<Door>,
    /// What stays forbidden also after a new login.
    forbidden: std::sync::Mutex<HashMap<String, Backoff>>,
    /// The paths whose metadata we may not see; each was warned of.
    hidden: std::sync::Mutex<HashSet<String>>,
}

impl std::fmt::Debug for VaultStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VaultStore").field("id", &self.id).finish_non_exhaustive()
    }
}

impl VaultStore {
    /// Checks what the libraries below would otherwise panic on; no I/O.
    pub(super) fn open(id: String, settings: VaultSettings) -> Result<Self, SecretError> {
        let unusable = |problem| SecretError::UnusableSetting { store: id.clone(), problem };
        let nodes: Vec<Url> = settings
            .addresses
            .iter()
            .map(|address| node(address).map_err(unusable))
            .collect::<Result<_, _>>()?;
        if nodes.is_empty() {
            return Err(unusable("there is no `address`: set one".to_owned()));
        }
        if settings.mount.trim_matches('/').is_empty() {
            return Err(unusable("`mount` is empty: name the KV secrets engine".to_owned()));
        }
        if let Some(namespace) = &settings.namespace
            && !is_header_text(namespace)
        {
            let problem = "`namespace` is empty or holds characters that no namespace has: \
                           correct it, or leave it out";
            return Err(unusable(problem.to_owned()));
        }
        Ok(Self {
            id,
            settings,
            nodes,
            session: ArcSwapOption::empty(),
            is_cut_off: AtomicBool::new(false),
            door: Mutex::default(),
            forbidden: std::sync::Mutex::default(),
            hidden: std::sync::Mutex::default(),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) const fn refresh_interval(&self) -> Duration {
        self.settings.refresh_interval
    }

    /// The location's own path, else the store's.
    pub(super) fn path<'a>(&'a self, at: &'a KeyLocation) -> Result<&'a str, SecretError> {
        let path = at.path.as_ref().or(self.settings.default_path.as_ref());
        let none = || SecretError::NoPath { store: self.id.clone(), name: at.name.clone() };
        Ok(path.ok_or_else(none)?.trim_matches('/'))
    }

    /// The answer to a question about `path`, logging in when needed.
    async fn ask<E: Endpoint>(&self, path: &str, question: &E) -> Result<Answer, SecretError> {
        let session = self.session().await?;
        let answer = session.ask(question).await;
        if !matches!(&answer, Err(Refusal { fault: Fault::Status(403, _), .. })) {
            if answer.is_ok() {
                self.forbidden().remove(path);
            }
            return answer.map_err(|refusal| self.refused(refusal, path));
        }
        let Some(session) = self.session_instead_of(&session, path).await? else {
            return Err(self.forbidden_at(path));
        };
        let answer = session.ask(question).await;
        if matches!(&answer, Err(Refusal { fault: Fault::Status(403, _), .. })) {
            let mut forbidden = self.forbidden();
            let backoff = Backoff::after(forbidden.get(path).copied(), Instant::now());
            forbidden.insert(path.to_owned(), backoff);
        } else if answer.is_ok() {
            self.forbidden().remove(path);
        }
        answer.map_err(|refusal| self.refused(refusal, path))
    }

    fn refused(&self, Refusal { fault, address }: Refusal, path: &str) -> SecretError {
        let (store, path) = (self.id.clone(), path.to_owned());
        match fault {
            Fault::Status(403, _) => self.forbidden_at(&path),
            Fault::Status(404, body) => match body.as_deref().and_then(kv::deleted_version) {
                Some((version, destroyed)) => {
                    SecretError::VersionDeleted { store, path, version, destroyed }
                }
                None => SecretError::NothingThere { store, path },
            },
            Fault::Status(status, _) if !is_of_the_server(status) => {
                SecretError::UnexpectedStatus { store, path, status }
            }
            Fault::Unreadable => SecretError::UnreadableAnswer { store, path },
            fault => self.away(fault, address),
        }
    }

    /// The error for a fault that is no answer to the question.
    fn away(&self, fault: Fault, address: String) -> SecretError {
        let store = self.id.clone();
        match fault {
            Fault::Status(503, _) => SecretError::Sealed { store, address },
            Fault::Status(status, _) => SecretError::Failing { store, address, status },
            Fault::Redirected { to, is_known } => {
                SecretError::Redirected { store, from: address, to, is_known }
            }
            Fault::Unreachable { reason, .. } => {
                self.is_cut_off.store(true, Ordering::Relaxed);
                let addresses = self.settings.addresses.clone();
                SecretError::Unreachable { store, addresses, reason }
            }
            Fault::Unreadable => {
                let path = format!("the {} login", self.settings.auth.method());
                SecretError::UnreadableAnswer { store, path }
            }
        }
    }

    fn forbidden_at(&self, path: &str) -> SecretError {
        SecretError::PermissionDenied { store: self.id.clone(), path: path.to_owned() }
    }

    fn forbidden(&self) -> std::sync::MutexGuard<'_, HashMap<String, Backoff>> {
        self.forbidden.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address that is one node and nothing more.
fn node(address: &str) -> Result<Url, String> {
    let problem = |what: &str| format!("the address `{address}` {what}: write `https://host:port`");
    let url = Url::parse(address).map_err(|_| problem("is not a URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        // Not shown: it holds a password.
        return Err("an address holds credentials: take them out, and use `auth`".to_owned());
    }
    if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
        return Err(problem("is not that of an HTTP server"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(problem("has a path"));
    }
    Ok(url)
}

fn is_header_text(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn root_cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::{KvVersion, Secret, Source, VaultAuth};

    fn settings(addresses: &[&str]) -> VaultSettings {
        VaultSettings {
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            namespace: None,
            mount: "secret".to_owned(),
            kv_version: KvVersion::V2,
            default_path: None,
            auth: VaultAuth::Token(Source::Literal(Secret::new("s3cr3t".to_owned()))),
            ca_file: None,
            timeout: Duration::from_millis(200),
            refresh_interval: Duration::from_secs(30),
            transit_mount: "transit".to_owned(),
        }
    }

    fn open(settings: VaultSettings) -> Result<VaultStore, SecretError> {
        VaultStore::open("vault".to_owned(), settings)
    }

    fn at(path: Option<&str>) -> KeyLocation {
        KeyLocation { path: path.map(str::to_owned), name: "orders".to_owned(), is_named: true }
    }

    #[test]
    fn an_address_is_a_node_and_nothing_more() {
        for good in ["https://vault:8200", "http://127.0.0.1:8200/", "https://[::1]:8200"] {
            assert!(open(settings(&[good])).is_ok(), "{good}");
        }
        for bad in
            ["", "vault:8200", "ftp://vault", "https://vault/v1", "https://vault?x", "unix:///s"]
        {
            let error = open(settings(&[bad])).unwrap_err();
            assert!(matches!(error, SecretError::UnusableSetting { .. }), "{bad}");
        }
        assert!(open(settings(&[])).is_err());
        let error = open(settings(&["https://user:hunter2@vault"])).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn what_would_not_fit_a_header_is_refused() {
        for namespace in ["", "team\na", "té"] {
            let namespace = Some(namespace.to_owned());
            let settings = VaultSettings { namespace, ..settings(&["https://vault"]) };
            assert!(matches!(open(settings), Err(SecretError::UnusableSetting { .. })));
        }
        let settings = VaultSettings { mount: "/".to_owned(), ..settings(&["https://vault"]) };
        assert!(open(settings).is_err());
    }

    #[tokio::test]
    async fn a_key_needs_a_path() {
        let store = open(settings(&["http://127.0.0.1:1"])).unwrap();
        let error = store.read(&at(None)).await.unwrap_err();
        assert!(matches!(error, SecretError::NoPath { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_token_that_would_not_fit_a_header_is_refused_unseen() {
        for token in ["", " \n", "two words", "bell\u{7}", "é"] {
            let token = Secret::new(token.to_owned());
            let auth = VaultAuth::Token(Source::Literal(token));
            let settings = VaultSettings { auth, ..settings(&["http://127.0.0.1:1"]) };
            let error = open(settings).unwrap().read(&at(Some("a"))).await.unwrap_err();
            assert!(matches!(error, SecretError::UnusableLogin { .. }), "{error}");
            assert!(!error.to_string().contains("two words"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_ca_file_must_be_there_and_hold_certificates() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        for content in [None, Some(""), Some("no certificate")] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let ca_file = Some(path.clone());
            let settings = VaultSettings { ca_file, ..settings(&["https://127.0.0.1:1"]) };
            let error = open(settings).unwrap().read(&at(Some("a"))).await.unwrap_err();
            assert!(matches!(error, SecretError::UnusableCaFile { .. }), "{content:?}: {error}");
        }
    }

    #[test]
    fn a_read_can_run_on_any_thread_and_debug_shows_no_credential() {
        fn assert_send<T: Send>(_: &T) {}
        let store = open(settings(&["https://vault"])).unwrap();
        assert_send(&store.read(&at(None)));
        assert!(!format!("{store:?} {:?}", store.settings).contains("s3cr3t"));
    }
}
