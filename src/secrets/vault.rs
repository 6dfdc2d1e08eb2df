//! Keys in Vault or OpenBao: the field `<keyName>` of a KV secret, version 1 or 2.
//!
//! The HTTP client and the login are made at the first read and kept. A 403 logs in once more (a
//! token may have expired) before it counts; a cluster that no node answers for is begun anew at
//! the next look, so that a replaced CA file or credential is picked up. Nodes are tried in order.
//!
//! The connection is made from the settings alone: no `VAULT_*` variable, no proxy from the
//! environment, no redirect followed with our token, and with a CA file no other authority.
//! The HTTP library's own buffers are beyond us: what passes through them is not overwritten.

mod node;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::redirect::Policy;
use rustify::clients::reqwest::Client as HttpClient;
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber as _;
use vaultrs::api::EndpointMiddleware;
use vaultrs::client::{VaultClient, VaultClientSettings};
use zeroize::Zeroize as _;

use super::{
    KeyLocation, KeyMaterial, KvVersion, Secret, SecretError, VaultAuth, VaultSettings, Version,
};
use node::{Fault, Fetched, app_role_login, deleted_version, list_v2, read_v1, read_v2};

/// One Vault cluster, one KV mount.
pub struct VaultStore {
    id: String,
    settings: VaultSettings,
    nodes: Vec<Url>,
    session: Mutex<Option<Arc<Session>>>,
    /// The paths whose metadata we may not see; each was warned of.
    hidden: Mutex<HashSet<String>>,
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
        Ok(Self { id, settings, nodes, session: Mutex::default(), hidden: Mutex::default() })
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

    /// Reads the key at a location, logging in when needed.
    pub(super) async fn read(&self, at: &KeyLocation) -> Result<KeyMaterial, SecretError> {
        let path = self.path(at)?;
        self.material(self.fetched(path, None).await?, path, &at.name)
    }

    /// Reads one version of the key at a location.
    pub(super) async fn read_version(
        &self,
        at: &KeyLocation,
        number: u64,
    ) -> Result<KeyMaterial, SecretError> {
        let path = self.path(at)?;
        if self.settings.kv_version == KvVersion::V1 {
            return Err(SecretError::NoHistory { store: self.id.clone() });
        }
        let fetched = self.fetched(path, Some(number)).await?;
        if fetched.version != Some(number) {
            let (store, path) = (self.id.clone(), self.full_path(path));
            return Err(SecretError::UnreadableAnswer { store, path });
        }
        self.material(fetched, path, &at.name)
    }

    /// The versions at a location, oldest first; `None` where there are none to see.
    ///
    /// A policy may allow the secret and not its metadata. That is no reason to stop signing, so
    /// it is warned of once and taken for no history. Logging in again on such a 403, at every
    /// look, would use up a secret id: reading the secret itself tells an old token from a policy.
    pub(super) async fn versions(
        &self,
        at: &KeyLocation,
    ) -> Result<Option<Vec<Version>>, SecretError> {
        let path = self.path(at)?;
        if self.settings.kv_version == KvVersion::V1 {
            return Ok(None);
        }
        let mut answer = self.list(path).await;
        if matches!(answer, Err(SecretError::PermissionDenied { .. })) {
            if self.hidden.lock().await.contains(path) {
                return Ok(None);
            }
            self.fetched(path, None).await?;
            answer = self.list(path).await;
        }
        match answer {
            Ok(versions) => {
                self.hidden.lock().await.remove(path);
                Ok(Some(versions))
            }
            Err(SecretError::PermissionDenied { .. }) => {
                self.hidden.lock().await.insert(path.to_owned());
                let metadata = format!("{}/metadata/{path}", self.mount());
                tracing::warn!(
                    store = self.id,
                    "the versions of `{path}` can't be seen, so a restart in mid-rotation loses \
                     the earlier key: add `path \"{metadata}\" {{ capabilities = [\"read\"] }}` \
                     to the policy"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn list(&self, path: &str) -> Result<Vec<Version>, SecretError> {
        let session = self.session(None).await?;
        let answer = self.ask(&session, |node| list_v2(node, self.mount(), path)).await;
        answer.map_err(|(fault, address)| self.read_refused(fault, address, path))
    }

    /// A secret as it is, or as it was in `version`; a 403 is asked again after a new login.
    async fn fetched(&self, path: &str, version: Option<u64>) -> Result<Fetched, SecretError> {
        let session = self.session(None).await?;
        match self.fetch(&session, path, version).await {
            Err(SecretError::PermissionDenied { .. }) => {
                let session = self.session(Some(&session)).await?;
                self.fetch(&session, path, version).await
            }
            Err(error @ SecretError::Unreachable { .. }) => {
                *self.session.lock().await = None;
                Err(error)
            }
            answer => answer,
        }
    }

    /// The session to use; a new one if there is none or it is the `refused` one. Readers that
    /// were refused together log in once.
    async fn session(&self, refused: Option<&Arc<Session>>) -> Result<Arc<Session>, SecretError> {
        let mut current = self.session.lock().await;
        if let Some(session) = &*current
            && !refused.is_some_and(|refused| Arc::ptr_eq(refused, session))
        {
            return Ok(Arc::clone(session));
        }
        *current = None;
        let session = Arc::new(self.log_in().await?);
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    async fn log_in(&self) -> Result<Session, SecretError> {
        let http = self.http_client().await?;
        let mut session = Session {
            nodes: self.nodes.iter().map(|node| self.client(node, http.clone())).collect(),
        };
        let token = match &self.settings.auth {
            VaultAuth::Token(source) => source.read(&self.id, "token").await?,
            VaultAuth::AppRole { role_id, secret_id, mount } => {
                let role_id = role_id.read(&self.id, "role id").await?;
                let secret_id = secret_id.read(&self.id, "secret id").await?;
                let (role_id, secret_id) = (role_id.expose(), secret_id.expose());
                let mount = mount.trim_matches('/');
                self.ask(&session, |node| app_role_login(node, mount, role_id, secret_id))
                    .await
                    .map_err(|(fault, address)| self.login_refused(fault, address))?
            }
        };
        if !is_header_text(token.expose()) {
            return Err(self.login_refused(Fault::Unreadable, String::new()));
        }
        for client in &mut session.nodes {
            client.middle.token.clone_from(token.expose());
        }
        Ok(session)
    }

    async fn http_client(&self) -> Result<reqwest::Client, SecretError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_rustls()
            .timeout(self.settings.timeout)
            .no_proxy()
            .redirect(Policy::none());
        if let Some(path) = &self.settings.ca_file {
            let unusable = |problem: String| SecretError::UnusableCaFile {
                store: self.id.clone(),
                path: path.clone(),
                problem,
            };
            let pem = tokio::fs::read(path).await.map_err(|error| unusable(error.to_string()))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|authorities| !authorities.is_empty())
                .ok_or_else(|| unusable("no certificate in it can be read".to_owned()))?;
            builder = builder.tls_certs_only(authorities);
        } else if self.nodes.iter().all(|node| node.scheme() == "http") {
            // Loading the platform's authorities fails where there are none, needed or not.
            builder = builder.tls_certs_only([]);
        }
        builder.build().map_err(|error| SecretError::UnusableSetting {
            store: self.id.clone(),
            problem: format!(
                "no TLS client can be made ({}): set `tls.caFile`, or install the system's \
                 certificate authorities",
                root_cause(&error)
            ),
        })
    }

    fn client(&self, node: &Url, http: reqwest::Client) -> VaultClient {
        VaultClient {
            http: HttpClient::new(node.as_str(), http),
            middle: EndpointMiddleware {
                token: String::new(),
                version: "v1".to_owned(),
                wrap: None,
                namespace: self.settings.namespace.clone(),
            },
            // Not used by the requests themselves; written out so that nothing is taken from the
            // environment. The token stays out of it, since its `Debug` prints it.
            settings: VaultClientSettings {
                address: node.clone(),
                ca_certs: Vec::new(),
                identity: None,
                timeout: Some(self.settings.timeout),
                token: String::new(),
                verify: true,
                version: 1,
                wrapping: false,
                namespace: self.settings.namespace.clone(),
                proxy: None,
            },
        }
    }

    async fn fetch(
        &self,
        session: &Session,
        path: &str,
        version: Option<u64>,
    ) -> Result<Fetched, SecretError> {
        let mount = self.mount();
        let answer = match self.settings.kv_version {
            KvVersion::V1 => self.ask(session, |node| read_v1(node, mount, path)).await,
            KvVersion::V2 => self.ask(session, |node| read_v2(node, mount, path, version)).await,
        };
        answer.map_err(|(fault, address)| self.read_refused(fault, address, path))
    }

    /// The answer of the first node that has one, or the last fault and the node it is of.
    ///
    /// The library logs every refusal as an error by itself; ours are typed, and logged once by
    /// whoever handles them.
    async fn ask<'s, T, F>(
        &self,
        session: &'s Session,
        question: impl Fn(&'s VaultClient) -> F,
    ) -> Result<T, (Fault, String)>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut worst = (Fault::Unreachable("no node".to_owned()), String::new());
        for client in &session.nodes {
            match question(client).with_subscriber(Dispatch::none()).await {
                Err(fault) if fault.is_of_the_node() => {
                    if !matches!(worst.0, Fault::Status(503, _)) {
                        worst = (fault, client.http.base.clone());
                    }
                }
                Err(fault) => return Err((fault, client.http.base.clone())),
                Ok(answer) => return Ok(answer),
            }
        }
        Err(worst)
    }

    fn login_refused(&self, fault: Fault, address: String) -> SecretError {
        let store = self.id.clone();
        let method = self.settings.auth.method();
        match fault {
            Fault::Status(503, _) => SecretError::Sealed { store, address },
            Fault::Status(status, _) => SecretError::LoginRefused { store, method, status },
            Fault::Unreachable(reason) => self.unreachable(reason),
            Fault::Unreadable => {
                SecretError::UnreadableAnswer { store, path: format!("the {method} login") }
            }
        }
    }

    fn read_refused(&self, fault: Fault, address: String, path: &str) -> SecretError {
        let store = self.id.clone();
        let path = self.full_path(path);
        match fault {
            Fault::Status(403, _) => SecretError::PermissionDenied { store, path },
            Fault::Status(404, body) => match body.as_deref().and_then(deleted_version) {
                Some((version, destroyed)) => {
                    SecretError::VersionDeleted { store, path, version, destroyed }
                }
                None => SecretError::NothingThere { store, path },
            },
            Fault::Status(503, _) => SecretError::Sealed { store, address },
            Fault::Status(status, _) => SecretError::UnexpectedStatus { store, path, status },
            Fault::Unreachable(reason) => self.unreachable(reason),
            Fault::Unreadable => SecretError::UnreadableAnswer { store, path },
        }
    }

    fn unreachable(&self, reason: String) -> SecretError {
        let addresses = self.settings.addresses.clone();
        SecretError::Unreachable { store: self.id.clone(), addresses, reason }
    }

    fn full_path(&self, path: &str) -> String {
        format!("{}/{path}", self.mount())
    }

    fn mount(&self) -> &str {
        self.settings.mount.trim_matches('/')
    }

    fn material(
        &self,
        mut fetched: Fetched,
        path: &str,
        name: &str,
    ) -> Result<KeyMaterial, SecretError> {
        let (store, path) = (self.id.clone(), self.full_path(path));
        let Value::Object(fields) = &mut fetched.data else {
            return Err(SecretError::UnreadableAnswer { store, path });
        };
        let certificate = match fields.get(&format!("{name}.crt")) {
            None => None,
            Some(Value::String(pem)) => Some(pem.clone()),
            Some(_) => {
                let field = format!("{name}.crt");
                return Err(SecretError::FieldNotText { store, path, field });
            }
        };
        let bytes = match fields.get_mut(name).map(Value::take) {
            Some(Value::String(text)) => Secret::new(text.into_bytes()),
            Some(_) => {
                let field = name.to_owned();
                return Err(SecretError::FieldNotText { store, path, field });
            }
            None => {
                let present = fields.keys().cloned().collect();
                let field = name.to_owned();
                return Err(SecretError::MissingField { store, path, field, present });
            }
        };
        Ok(KeyMaterial { bytes, certificate, version: fetched.version, created: fetched.created })
    }
}

/// A login: one client a node, all with its token.
struct Session {
    nodes: Vec<VaultClient>,
}

impl Drop for Session {
    fn drop(&mut self) {
        for client in &mut self.nodes {
            client.middle.token.zeroize();
        }
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
    use crate::secrets::Source;

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
        KeyLocation { path: path.map(str::to_owned), name: "orders".to_owned() }
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
