//! The vault store against a real OpenBao, whose path is in `PLACET_TEST_BAO`.
//!
//! One test, step by step, since every step shares one server; the last one seals it. The logins,
//! Transit, and faults that a real server can't be made to show are in rooms of their own.

mod faults;
mod logins;
mod transit;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use placet::clock::Timestamp;
use placet::keys::{Algorithm, generate};
use placet::secrets::{
    KeyLocation, KeyMaterial, KvVersion, Secret, SecretError, SecretStores, Source, StoreKind,
    StoreSettings, VaultAuth, VaultSettings,
};
use serde_json::{Value, json};

use crate::free_port;

const ROOT: &str = "root-token-for-tests";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nnot a real one\n-----END PRIVATE KEY-----\n";

#[tokio::test]
async fn the_vault_store_against_a_real_server() {
    let Some(bao) = Bao::start(&[]).await else { return };
    kv_v2_has_versions(&bao).await;
    kv_v1_has_none(&bao).await;
    the_certificate_stands_beside_the_key(&bao).await;
    what_is_missing_is_named(&bao).await;
    deleted_and_destroyed_versions(&bao).await;
    versions_are_listed_oldest_first(&bao).await;
    hidden_metadata_is_no_history(&bao).await;
    a_token_file_is_read_again(&bao).await;
    an_app_role_logs_in_again(&bao).await;
    refused_logins(&bao).await;
    namespaces_are_apart(&bao).await;
    nodes_are_tried_in_order(&bao).await;
    a_sealed_server_says_so_until_it_is_unsealed(&bao).await;
}

#[tokio::test]
async fn a_server_is_trusted_by_the_ca_file_alone() {
    let certificates = tempfile::tempdir().unwrap();
    let path = certificates.path().to_str().unwrap();
    let flags = ["-dev-tls".to_owned(), format!("-dev-tls-cert-dir={path}")];
    let Some(bao) = Bao::start(&flags).await else { return };
    let ca_file = authority(certificates.path());
    bao.put("secret/data/orders", json!({"data": {"orders": KEY}})).await;
    let trusting = VaultSettings { ca_file: Some(ca_file), ..bao.settings(root()) };
    read(trusting.clone(), "orders", "orders").await.unwrap();
    let error = read(bao.settings(root()), "orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    let other = certificates.path().join("other.crt");
    let now = Timestamp::from_seconds(1_700_000_000);
    fs::write(&other, generate(Algorithm::ES256, "other", now).unwrap().certificate_pem).unwrap();
    let mistrusting = VaultSettings { ca_file: Some(other), ..bao.settings(root()) };
    let error = read(mistrusting, "orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::Unreachable { .. }), "{error}");
}

/// Runs the tests above again, in an environment that would break every one of them.
#[test]
fn the_environment_does_not_leak_in() {
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["vault::", "--skip", "the_environment_does_not_leak_in"])
        .env("HTTP_PROXY", &nowhere)
        .env("HTTPS_PROXY", &nowhere)
        .env("ALL_PROXY", &nowhere)
        .env("VAULT_ADDR", &nowhere)
        .env("VAULT_TOKEN", "s.wrong")
        .env("VAULT_NAMESPACE", "wrong")
        .env("VAULT_SKIP_VERIFY", "true")
        .env("VAULT_CACERT", "/nowhere")
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
}

async fn kv_v2_has_versions(bao: &Bao) {
    bao.put("secret/data/apps/orders", json!({"data": {"orders": "old"}})).await;
    bao.put("secret/data/apps/orders", json!({"data": {"orders": KEY}})).await;
    let material = read(bao.settings(root()), "apps/orders", "orders").await.unwrap();
    assert_eq!(material.bytes.expose(), KEY.as_bytes());
    assert_eq!(material.version, Some(2));
    let created = material.created.expect("a creation time");
    assert!(created.seconds() > 1_700_000_000, "{created:?}");
    let default_path = Some("apps/orders".to_owned());
    let settings = VaultSettings { default_path, ..bao.settings(root()) };
    let at = KeyLocation { path: None, name: "orders".to_owned(), is_named: true };
    assert!(read_at(settings, &at).await.is_ok(), "the default path stands in");
    assert!(read(bao.settings(root()), "/apps/orders/", "orders").await.is_ok());
}

async fn kv_v1_has_none(bao: &Bao) {
    bao.put("sys/mounts/kv1", json!({"type": "kv", "options": {"version": "1"}})).await;
    bao.put("kv1/apps/orders", json!({"orders": KEY})).await;
    let v1 = VaultSettings {
        mount: "kv1".to_owned(),
        kv_version: KvVersion::V1,
        ..bao.settings(root())
    };
    let material = read(v1.clone(), "apps/orders", "orders").await.unwrap();
    assert_eq!(material.bytes.expose(), KEY.as_bytes());
    assert_eq!((material.version, material.created), (None, None));

    let error = read(v1.clone(), "apps/none", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::NothingThere { .. }), "{error}");
    let v2 = VaultSettings { kv_version: KvVersion::V2, ..v1 };
    let error = read(v2, "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::NothingThere { .. }), "{error}");
    let v1_on_v2 = VaultSettings { kv_version: KvVersion::V1, ..bao.settings(root()) };
    let error = read(v1_on_v2, "apps/orders", "orders").await.unwrap_err();
    assert!(error.to_string().contains("kvVersion"), "{error}");
}

async fn the_certificate_stands_beside_the_key(bao: &Bao) {
    let fields = json!({"data": {"orders": KEY, "orders.crt": "certificate", "number": 7}});
    bao.put("secret/data/certified", fields).await;
    let material = read(bao.settings(root()), "certified", "orders").await.unwrap();
    assert_eq!(material.certificate.as_deref(), Some("certificate"));
    let error = read(bao.settings(root()), "certified", "number").await.unwrap_err();
    assert!(matches!(error, SecretError::FieldNotText { .. }), "{error}");
}

async fn what_is_missing_is_named(bao: &Bao) {
    let error = read(bao.settings(root()), "apps/none", "orders").await.unwrap_err();
    assert!(matches!(&error, SecretError::NothingThere { path, .. } if path == "secret/apps/none"));
    let no_mount = VaultSettings { mount: "none".to_owned(), ..bao.settings(root()) };
    let error = read(no_mount, "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::NothingThere { .. }), "{error}");
    let error = read(bao.settings(root()), "certified", "payments").await.unwrap_err();
    let SecretError::MissingField { field, present, .. } = &error else { panic!("{error}") };
    assert_eq!(field, "payments");
    assert_eq!(present, &["number", "orders", "orders.crt"]);
}

async fn deleted_and_destroyed_versions(bao: &Bao) {
    bao.put("secret/data/gone", json!({"data": {"orders": KEY}})).await;
    bao.ask("DELETE", "secret/data/gone", Value::Null).await;
    let error = read(bao.settings(root()), "gone", "orders").await.unwrap_err();
    assert!(
        matches!(error, SecretError::VersionDeleted { version: 1, destroyed: false, .. }),
        "{error}"
    );
    bao.put("secret/destroy/gone", json!({"versions": [1]})).await;
    let error = read(bao.settings(root()), "gone", "orders").await.unwrap_err();
    assert!(
        matches!(error, SecretError::VersionDeleted { version: 1, destroyed: true, .. }),
        "{error}"
    );
}

async fn versions_are_listed_oldest_first(bao: &Bao) {
    let stores = open(bao.settings(root()));
    let store = stores.choose(None).unwrap();
    let here = at("listed", "orders");
    let error = store.versions(&here).await.unwrap_err();
    assert!(matches!(error, SecretError::NothingThere { .. }), "{error}");
    for number in 1..=11 {
        bao.put("secret/data/listed", json!({"data": {"orders": number.to_string()}})).await;
    }
    bao.put("secret/delete/listed", json!({"versions": [3, 11]})).await;
    bao.put("secret/destroy/listed", json!({"versions": [4]})).await;
    let versions = store.versions(&here).await.unwrap().expect("a history");
    // KV v2 keeps ten.
    assert_eq!(versions.iter().map(|v| v.number).collect::<Vec<_>>(), (2..=11).collect::<Vec<_>>());
    let dead: Vec<u64> = versions.iter().filter(|v| !v.is_live).map(|v| v.number).collect();
    assert_eq!(dead, [3, 4, 11]);
    assert!(versions.is_sorted_by_key(|version| version.created));

    let material = store.read_version(&here, 2).await.unwrap();
    assert_eq!((material.bytes.expose().as_slice(), material.version), (&b"2"[..], Some(2)));
    assert_eq!(material.created, versions.first().map(|version| version.created));
    let error = store.read_version(&here, 3).await.unwrap_err();
    assert!(matches!(error, SecretError::VersionDeleted { version: 3, .. }), "{error}");
    let error = store.read_version(&here, 4).await.unwrap_err();
    assert!(matches!(error, SecretError::VersionDeleted { destroyed: true, .. }), "{error}");
    let error = store.read_version(&here, 99).await.unwrap_err();
    assert!(matches!(error, SecretError::NothingThere { .. }), "{error}");
    let error = store.read_version(&here, 0).await.unwrap_err();
    assert!(!error.to_string().is_empty(), "0 would mean the newest");

    bao.put("secret/metadata/later", json!({"delete_version_after": "1h"})).await;
    bao.put("secret/data/later", json!({"data": {"orders": KEY}})).await;
    let versions = store.versions(&at("later", "orders")).await.unwrap().unwrap();
    assert!(matches!(versions.as_slice(), [version] if version.is_live), "{versions:?}");

    let v1 =
        VaultSettings { kv_version: KvVersion::V1, mount: "kv1".into(), ..bao.settings(root()) };
    let stores = open(v1);
    let store = stores.choose(None).unwrap();
    assert!(store.versions(&at("apps/orders", "orders")).await.unwrap().is_none());
    let error = store.read_version(&at("apps/orders", "orders"), 1).await.unwrap_err();
    assert!(matches!(error, SecretError::NoHistory { .. }), "{error}");
}

async fn hidden_metadata_is_no_history(bao: &Bao) {
    bao.policy("orders", "secret/data/apps/*").await;
    let stores = open(bao.settings(token(&bao.token("orders").await)));
    let store = stores.choose(None).unwrap();
    let here = at("apps/orders", "orders");
    for _ in 0..2 {
        assert!(store.versions(&here).await.unwrap().is_none());
    }
    let error = store.versions(&at("certified", "orders")).await.unwrap_err();
    assert!(matches!(error, SecretError::PermissionDenied { .. }), "{error}");
    bao.policy("orders", "secret/+/apps/*").await;
    assert_eq!(store.versions(&here).await.unwrap().map(|versions| versions.len()), Some(2));
}

async fn a_token_file_is_read_again(bao: &Bao) {
    bao.policy("orders", "secret/data/apps/*").await;
    let first = bao.token("orders").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, format!("{first}\n")).unwrap();
    let stores = open(bao.settings(VaultAuth::Token(Source::File(file.clone()))));
    let store = stores.choose(None).unwrap();
    store.read(&at("apps/orders", "orders")).await.unwrap();

    let error = store.read(&at("certified", "orders")).await.unwrap_err();
    assert!(matches!(error, SecretError::PermissionDenied { .. }), "{error}");
    store.read(&at("apps/orders", "orders")).await.unwrap();

    bao.put("auth/token/revoke", json!({"token": first})).await;
    let error = store.read(&at("apps/orders", "orders")).await.unwrap_err();
    assert!(matches!(error, SecretError::PermissionDenied { .. }), "{error}");
    fs::write(&file, bao.token("orders").await).unwrap();
    store.read(&at("apps/orders", "orders")).await.unwrap();

    fs::remove_file(&file).unwrap();
    store.read(&at("apps/orders", "orders")).await.expect("the login is kept");
    let stores = open(bao.settings(VaultAuth::Token(Source::File(file.clone()))));
    let error = stores.choose(None).unwrap().read(&at("a", "b")).await.unwrap_err();
    assert!(matches!(error, SecretError::UnusableLogin { .. }), "{error}");
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    let auth = VaultAuth::Token(Source::Env("PLACET_TEST_UNSET".to_owned()));
    let error = read(bao.settings(auth), "apps/orders", "orders").await.unwrap_err();
    assert!(error.to_string().contains("`PLACET_TEST_UNSET` can't be used"), "{error}");
}

async fn an_app_role_logs_in_again(bao: &Bao) {
    bao.put("sys/auth/approle", json!({"type": "approle"})).await;
    bao.put("auth/approle/role/placet", json!({"token_policies": ["orders"]})).await;
    let stores = open(bao.settings(app_role(&bao.role("placet").await)));
    let store = stores.choose(None).unwrap();
    store.read(&at("apps/orders", "orders")).await.unwrap();
    bao.put("sys/leases/revoke-prefix/auth/approle", Value::Null).await;
    store.read(&at("apps/orders", "orders")).await.expect("a revoked token is replaced");
}

async fn refused_logins(bao: &Bao) {
    let (role_id, _) = bao.role("placet").await;
    let wrong = "11111111-2222-3333-4444-555555555555".to_owned();
    let refused = app_role(&(role_id.clone(), wrong.clone()));
    let error = read(bao.settings(refused), "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::LoginRefused { status: 400, .. }), "{error}");
    assert!(!error.to_string().contains(&wrong), "{error}");
    let VaultAuth::AppRole { role_id, secret_id, .. } = app_role(&bao.role("placet").await) else {
        panic!("an AppRole login")
    };
    let mount = "none".to_owned();
    let elsewhere = VaultAuth::AppRole { role_id, secret_id, wrapped_for: None, mount };
    let error = read(bao.settings(elsewhere), "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::LoginRefused { .. }), "{error}");
    let error = read(bao.settings(token("s.nobody")), "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::PermissionDenied { .. }), "{error}");
    assert!(!error.to_string().contains("s.nobody"), "{error}");
}

async fn namespaces_are_apart(bao: &Bao) {
    bao.put("sys/namespaces/team-a", Value::Null).await;
    bao.put("team-a/sys/mounts/secret", json!({"type": "kv-v2"})).await;
    // A KV v2 mount upgrades itself for a moment after it is made, and refuses meanwhile.
    let written = || {
        bao.try_ask("POST", "team-a/secret/data/orders", json!({"data": {"orders": "of team a"}}))
    };
    until("the namespace's mount takes writes", async || written().await.0 == 200).await;
    let namespace =
        |name: &str| VaultSettings { namespace: Some(name.to_owned()), ..bao.settings(root()) };
    let material = read(namespace("team-a"), "orders", "orders").await.unwrap();
    assert_eq!(material.bytes.expose(), b"of team a");
    let error = read(bao.settings(root()), "orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::NothingThere { .. }), "{error}");
    let error = read(namespace("team-b"), "orders", "orders").await.unwrap_err();
    assert!(error.to_string().contains("namespace"), "{error}");
}

async fn nodes_are_tried_in_order(bao: &Bao) {
    let closed = format!("http://127.0.0.1:{}", free_port());
    let nodes = |addresses: &[&str]| VaultSettings {
        addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        ..bao.settings(root())
    };
    read(nodes(&[&closed, &bao.address]), "apps/orders", "orders").await.unwrap();
    let error = read(nodes(&[&closed]), "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&closed), "{error}");

    // One that accepts and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let timeout = Duration::from_millis(200);
    let settings = VaultSettings { timeout, ..nodes(&[&silent]) };
    let error = read(settings, "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::Unreachable { .. }), "{error}");
}

async fn a_sealed_server_says_so_until_it_is_unsealed(bao: &Bao) {
    let once = json!({"secret_id_num_uses": 1, "token_policies": ["orders"]});
    bao.put("auth/approle/role/once", once).await;
    let stores = open(bao.settings(app_role(&bao.role("once").await)));
    let logged_in = stores.choose(None).unwrap();
    logged_in.read(&at("apps/orders", "orders")).await.unwrap();
    let role = bao.role("placet").await;
    bao.put("sys/seal", Value::Null).await;
    let error = logged_in.read(&at("apps/orders", "orders")).await.unwrap_err();
    assert!(matches!(error, SecretError::Sealed { .. }), "{error}");
    let error = read(bao.settings(app_role(&role)), "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::Sealed { .. }), "{error}");
    assert!(error.to_string().contains(&bao.address), "{error}");

    let key = json!({"key": bao.unseal_key()});
    bao.put("sys/unseal", key).await;
    let here = at("apps/orders", "orders");
    let is_read = async || logged_in.read(&here).await.is_ok();
    until("the key is read again, with the same login", is_read).await;
}

fn open(settings: VaultSettings) -> SecretStores {
    let kind = StoreKind::Vault(settings);
    SecretStores::open(vec![StoreSettings { id: "vault".to_owned(), default: true, kind }]).unwrap()
}

async fn read(settings: VaultSettings, path: &str, name: &str) -> Result<KeyMaterial, SecretError> {
    read_at(settings, &at(path, name)).await
}

/// Reads, and holds every error against what no error may say.
async fn read_at(settings: VaultSettings, at: &KeyLocation) -> Result<KeyMaterial, SecretError> {
    let answer = open(settings).choose(None)?.read(at).await;
    if let Err(error) = &answer {
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(ROOT) && !shown.contains("BEGIN"), "{shown}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    answer
}

fn at(path: &str, name: &str) -> KeyLocation {
    KeyLocation { path: Some(path.to_owned()), name: name.to_owned(), is_named: true }
}

fn literal(text: &str) -> Source {
    Source::Literal(Secret::new(text.to_owned()))
}

fn token(text: &str) -> VaultAuth {
    VaultAuth::Token(literal(text))
}

fn root() -> VaultAuth {
    token(ROOT)
}

fn app_role((role_id, secret_id): &(String, String)) -> VaultAuth {
    let mount = "approle".to_owned();
    let (role_id, secret_id) = (literal(role_id), literal(secret_id));
    VaultAuth::AppRole { role_id, secret_id, wrapped_for: None, mount }
}

/// The authority among the certificates a `-dev-tls` server writes.
fn authority(directory: &Path) -> PathBuf {
    let mut files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.to_string_lossy().ends_with("-ca.pem")).expect("a CA file")
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !check().await {
        assert!(started.elapsed() < Duration::from_secs(20), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A development server of our own, ended when dropped.
struct Bao {
    server: Child,
    address: String,
    http: reqwest::Client,
    home: tempfile::TempDir,
}

impl Bao {
    /// Starts a server; `None`, with the reason printed, where there is no program to start.
    async fn start(flags: &[String]) -> Option<Self> {
        let Some(program) = std::env::var_os("PLACET_TEST_BAO") else {
            eprintln!("skipped: PLACET_TEST_BAO is not set to the path of a `bao` program");
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        let port = free_port();
        let server = Command::new(program)
            .args(["server", "-dev", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={ROOT}"))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .args(flags)
            .env_clear()
            .env("HOME", home.path())
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(fs::File::create(home.path().join("out")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .expect("PLACET_TEST_BAO should be a program");
        let scheme = if flags.is_empty() { "http" } else { "https" };
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .build()
            .unwrap();
        let address = format!("{scheme}://127.0.0.1:{port}");
        let mut bao = Self { server, address, http, home };
        let started = Instant::now();
        loop {
            assert!(bao.server.try_wait().unwrap().is_none(), "the server ended by itself");
            assert!(started.elapsed() < Duration::from_secs(20), "the server is not up in time");
            let (status, _) = bao.try_ask("GET", "secret/config", Value::Null).await;
            if status == 200 {
                return Some(bao);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn settings(&self, auth: VaultAuth) -> VaultSettings {
        VaultSettings {
            addresses: vec![self.address.clone()],
            namespace: None,
            mount: "secret".to_owned(),
            kv_version: KvVersion::V2,
            default_path: None,
            auth,
            ca_file: None,
            timeout: Duration::from_secs(5),
            refresh_interval: Duration::from_secs(30),
            transit_mount: "transit".to_owned(),
        }
    }

    fn unseal_key(&self) -> String {
        let said = fs::read_to_string(self.home.path().join("out")).unwrap();
        let key = said.lines().find_map(|line| line.strip_prefix("Unseal Key: "));
        key.expect("the server says its unseal key").to_owned()
    }

    async fn put(&self, path: &str, body: Value) -> Value {
        self.ask("POST", path, body).await
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.try_ask(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// The status (0: no answer) and body of a request with the root token.
    async fn try_ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method = method.parse().unwrap();
        let request = self.http.request(method, format!("{}/v1/{path}", self.address));
        Self::send(request.header("X-Vault-Token", ROOT), body).await
    }

    async fn send(request: reqwest::RequestBuilder, body: Value) -> (u16, Value) {
        let request = request.body(if body.is_null() { "{}".to_owned() } else { body.to_string() });
        let Ok(response) = request.send().await else { return (0, Value::Null) };
        let status = response.status().as_u16();
        let body = response.bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn policy(&self, name: &str, path: &str) {
        let policy = format!("path \"{path}\" {{ capabilities = [\"read\"] }}");
        self.put(&format!("sys/policies/acl/{name}"), json!({"policy": policy})).await;
    }

    async fn token(&self, policy: &str) -> String {
        let made = self.put("auth/token/create", json!({"policies": [policy]})).await;
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// What `try_ask` answers, in a wrapping token.
    async fn wrapped(&self, path: &str, body: Value) -> String {
        let request = self.http.post(format!("{}/v1/{path}", self.address));
        let request = request.header("X-Vault-Token", ROOT).header("X-Vault-Wrap-TTL", "60s");
        let (status, answer) = Self::send(request, body).await;
        assert_eq!(status, 200, "{answer}");
        answer["wrap_info"]["token"].as_str().unwrap().to_owned()
    }

    async fn role(&self, name: &str) -> (String, String) {
        let role = format!("auth/approle/role/{name}");
        let role_id = self.ask("GET", &format!("{role}/role-id"), Value::Null).await;
        let secret_id = self.put(&format!("{role}/secret-id"), Value::Null).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&role_id["data"]["role_id"]), text(&secret_id["data"]["secret_id"]))
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
