//! Every login against the real server, and how long a login lasts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::sync::Arc;

use jsonwebtoken::{EncodingKey, Header};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use rustls::pki_types::PrivateKeyDer;

use super::*;

#[tokio::test]
async fn a_jwt_file_is_read_at_each_login() {
    let Some(bao) = Bao::start(&[]).await else { return };
    bao.orders().await;
    let key = KeyPair::generate().unwrap();
    bao.put("sys/auth/tokens", json!({"type": "jwt"})).await;
    let keys = json!({"jwt_validation_pubkeys": [key.public_key_pem()]});
    bao.put("auth/tokens/config", keys).await;
    let role = json!({
        "role_type": "jwt", "bound_audiences": ["vault"], "user_claim": "sub",
        "token_policies": ["orders"],
    });
    bao.put("auth/tokens/role/placet", role).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwt");
    let claims = |audience: &str| {
        let (from, until) = (in_an_hour() - 3600, in_an_hour());
        json!({"sub": "placet", "aud": audience, "nbf": from, "exp": until})
    };
    fs::write(&file, jwt(&key, &claims("elsewhere"))).unwrap();
    let login = |role: &str| VaultAuth::Jwt {
        role: role.to_owned(),
        jwt: Source::File(file.clone()),
        mount: "tokens".to_owned(),
    };
    let stores = open(bao.settings(login("placet")));
    let store = stores.choose(None).unwrap();
    let error = store.read(&at("apps/orders", "orders")).await.unwrap_err();
    assert!(matches!(error, SecretError::LoginRefused { method: "jwt", .. }), "{error}");
    fs::write(&file, jwt(&key, &claims("vault"))).unwrap();
    store.read(&at("apps/orders", "orders")).await.expect("a new file is tried at once");
    let error = read(bao.settings(login("nobody")), "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::LoginRefused { .. }), "{error}");
}

#[tokio::test]
async fn a_pod_logs_in_with_its_projected_token() {
    let Some(bao) = Bao::start(&[]).await else { return };
    bao.orders().await;
    let key = KeyPair::generate().unwrap();
    let pod = |serial: u8| {
        let claims = json!({
            "iss": "kubernetes/serviceaccount", "aud": ["vault"],
            "nbf": in_an_hour() - 3600, "exp": in_an_hour(),
            "sub": "system:serviceaccount:shop:placet", "jti": serial.to_string(),
            "kubernetes.io": {
                "namespace": "shop", "serviceaccount": {"name": "placet", "uid": "u1"},
            },
        });
        jwt(&key, &claims)
    };
    let (first, second) = (pod(1), pod(2));
    let api = TokenReviews::start(vec![first.clone(), second.clone()]);
    bao.put("sys/auth/kubernetes", json!({"type": "kubernetes"})).await;
    let config = json!({
        "kubernetes_host": api.address, "kubernetes_ca_cert": api.ca,
        "token_reviewer_jwt": pod(9), "disable_local_ca_jwt": true,
    });
    bao.put("auth/kubernetes/config", config).await;
    let role = json!({
        "bound_service_account_names": ["placet"],
        "bound_service_account_namespaces": ["shop"],
        "token_policies": ["orders"],
    });
    bao.put("auth/kubernetes/role/placet", role).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, first).unwrap();
    let auth = VaultAuth::Kubernetes {
        role: "placet".to_owned(),
        token: Source::File(file.clone()),
        mount: "kubernetes".to_owned(),
    };
    let stores = open(bao.settings(auth));
    let store = stores.choose(None).unwrap();
    store.read(&at("apps/orders", "orders")).await.unwrap();
    bao.put("sys/leases/revoke-prefix/auth/kubernetes", Value::Null).await;
    fs::write(&file, pod(3)).unwrap();
    let error = store.read(&at("apps/orders", "orders")).await.unwrap_err();
    assert!(matches!(error, SecretError::LoginRefused { method: "kubernetes", .. }), "{error}");
    fs::write(&file, second).unwrap();
    store.read(&at("apps/orders", "orders")).await.expect("the new projected token is read");
}

#[tokio::test]
async fn a_certificate_is_presented_in_the_handshake() {
    let certificates = tempfile::tempdir().unwrap();
    let path = certificates.path().to_str().unwrap();
    let flags = ["-dev-tls".to_owned(), format!("-dev-tls-cert-dir={path}")];
    let Some(bao) = Bao::start(&flags).await else { return };
    bao.orders().await;
    let (certificate_file, key_file) =
        (certificates.path().join("client.crt"), certificates.path().join("client.key"));
    let write = || {
        let (certificate, key) = client_certificate();
        fs::write(&certificate_file, &certificate).unwrap();
        fs::write(&key_file, key).unwrap();
        certificate
    };
    bao.put("sys/auth/cert", json!({"type": "cert"})).await;
    let role = json!({"certificate": write(), "token_policies": ["orders"]});
    bao.put("auth/cert/certs/placet", role).await;
    let login = |role: Option<&str>| VaultAuth::Cert {
        role: role.map(str::to_owned),
        certificate_file: certificate_file.clone(),
        key_file: key_file.clone(),
        mount: "cert".to_owned(),
    };
    let settings = |role| VaultSettings {
        ca_file: Some(authority(certificates.path())),
        ..bao.settings(login(role))
    };
    for role in [None, Some("placet")] {
        read(settings(role), "apps/orders", "orders").await.unwrap();
    }
    let error = read(settings(Some("nobody")), "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::LoginRefused { method: "cert", .. }), "{error}");
    write();
    let error = read(settings(None), "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::LoginRefused { .. }), "{error}");
    fs::write(&key_file, "no key").unwrap();
    let error = read(settings(None), "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::UnusableLogin { .. }), "{error}");
    assert!(error.to_string().contains("client.key"), "{error}");
}

#[tokio::test]
async fn a_wrapped_secret_id_is_looked_at_and_opened_once() {
    let Some(bao) = Bao::start(&[]).await else { return };
    bao.orders().await;
    bao.put("sys/auth/approle", json!({"type": "approle"})).await;
    let policies = json!({"token_policies": ["orders"]});
    bao.put("auth/approle/role/placet", policies.clone()).await;
    bao.put("auth/approle/role/other", policies).await;
    let (role_id, _) = bao.role("placet").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wrapped");
    let login = || VaultAuth::AppRole {
        role_id: literal(&role_id),
        secret_id: Source::File(file.clone()),
        wrapped_for: Some("placet".to_owned()),
        mount: "approle".to_owned(),
    };
    let wrapped = || bao.wrapped("auth/approle/role/placet/secret-id", Value::Null);
    let stores = open(bao.settings(login()));
    let store = stores.choose(None).unwrap();

    let other = bao.wrapped("auth/approle/role/other/secret-id", Value::Null).await;
    fs::write(&file, &other).unwrap();
    let error = store.read(&at("apps/orders", "orders")).await.unwrap_err();
    let SecretError::ForeignSecretId { found, expected, .. } = &error else { panic!("{error}") };
    assert_eq!(found, "auth/approle/role/other/secret-id");
    assert_eq!(expected, "auth/approle/role/placet/secret-id");
    assert!(!format!("{error} {error:?}").contains(&other));
    let forged = bao.wrapped("sys/wrapping/wrap", json!({"secret_id": "forged"})).await;
    fs::write(&file, &forged).unwrap();
    let error = store.read(&at("apps/orders", "orders")).await.unwrap_err();
    assert!(matches!(error, SecretError::ForeignSecretId { .. }), "{error}");
    let lookup = json!({"token": other});
    bao.put("sys/wrapping/lookup", lookup).await; // and so it was not opened

    fs::write(&file, wrapped().await).unwrap();
    store.read(&at("apps/orders", "orders")).await.unwrap();
    bao.put("sys/leases/revoke-prefix/auth/approle", Value::Null).await;
    store.read(&at("apps/orders", "orders")).await.expect("what was in it is kept");

    let error = read(bao.settings(login()), "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::WrappedSecretId { .. }), "a used one: {error}");
    assert!(error.to_string().contains("ALARM"), "{error}");
    a_namespace_is_no_part_of_the_creation_path(&bao).await;
}

async fn a_namespace_is_no_part_of_the_creation_path(bao: &Bao) {
    bao.put("sys/namespaces/team", Value::Null).await;
    bao.put("team/sys/auth/approle", json!({"type": "approle"})).await;
    bao.put("team/auth/approle/role/placet", json!({"token_policies": ["default"]})).await;
    let role_id = bao.ask("GET", "team/auth/approle/role/placet/role-id", Value::Null).await;
    let wrapped = bao.wrapped("team/auth/approle/role/placet/secret-id", Value::Null).await;
    let auth = VaultAuth::AppRole {
        role_id: literal(role_id["data"]["role_id"].as_str().unwrap()),
        secret_id: literal(&wrapped),
        wrapped_for: Some("placet".to_owned()),
        mount: "approle".to_owned(),
    };
    let settings = VaultSettings { namespace: Some("team".to_owned()), ..bao.settings(auth) };
    let error = read(settings, "apps/orders", "orders").await.unwrap_err();
    assert!(matches!(error, SecretError::PermissionDenied { .. }), "logged in: {error}");
}

#[tokio::test]
async fn a_login_is_renewed_and_replaced_at_the_end_of_its_greatest_life() {
    let Some(bao) = Bao::start(&[]).await else { return };
    bao.orders().await;
    bao.put("sys/auth/approle", json!({"type": "approle"})).await;
    // A login lives 4 seconds at most. Without renewal, nine seconds would take five of them.
    let role = json!({
        "token_policies": ["orders"], "token_ttl": "2s", "token_max_ttl": "4s",
        "secret_id_num_uses": 4,
    });
    bao.put("auth/approle/role/short", role).await;
    let settings = VaultSettings {
        refresh_interval: Duration::from_millis(100),
        ..bao.settings(app_role(&bao.role("short").await))
    };
    let stores = open(settings);
    let store = stores.choose(None).unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(8500) {
        store.read(&at("apps/orders", "orders")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_token_is_renewed_too() {
    let Some(bao) = Bao::start(&[]).await else { return };
    bao.orders().await;
    let periodic = json!({"policies": ["orders"], "period": "6s"});
    let made = bao.put("auth/token/create", periodic).await;
    let settings = VaultSettings {
        refresh_interval: Duration::from_millis(100),
        ..bao.settings(token(made["auth"]["client_token"].as_str().unwrap()))
    };
    let stores = open(settings);
    let store = stores.choose(None).unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(13) {
        store.read(&at("apps/orders", "orders")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_stays_forbidden_does_not_use_up_the_secret_id() {
    let Some(bao) = Bao::start(&[]).await else { return };
    bao.orders().await;
    bao.put("sys/auth/approle", json!({"type": "approle"})).await;
    let role = json!({"token_policies": ["orders"], "secret_id_num_uses": 3});
    bao.put("auth/approle/role/placet", role).await;
    let (role_id, secret_id) = bao.role("placet").await;
    let stores = open(bao.settings(app_role(&(role_id, secret_id.clone()))));
    let store = stores.choose(None).unwrap();
    for _ in 0..5 {
        let error = store.read(&at("forbidden", "orders")).await.unwrap_err();
        assert!(matches!(error, SecretError::PermissionDenied { .. }), "{error}");
        store.read(&at("apps/orders", "orders")).await.unwrap();
    }
    let lookup = json!({"secret_id": secret_id});
    let left = bao.put("auth/approle/role/placet/secret-id/lookup", lookup).await;
    assert_eq!(left["data"]["secret_id_num_uses"], 1, "the login and one more: {left}");
}

impl Bao {
    /// A key at `secret/apps/orders`, and the policy `orders` that may read it.
    async fn orders(&self) {
        self.put("secret/data/apps/orders", json!({"data": {"orders": KEY}})).await;
        self.policy("orders", "secret/data/apps/*").await;
    }
}

fn in_an_hour() -> u64 {
    placet::clock::Clock::System.now().seconds() + 3600
}

fn jwt(key: &KeyPair, claims: &Value) -> String {
    let header = Header::new(jsonwebtoken::Algorithm::ES256);
    let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap();
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

fn client_certificate() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["placet".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// What of Kubernetes' API the login needs: whether a token is a service account's.
struct TokenReviews {
    address: String,
    ca: String,
}

impl TokenReviews {
    /// Knows these tokens, for as long as the process lives.
    fn start(known: Vec<String>) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let config = Arc::new(config);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let stream = rustls::StreamOwned::new(connection, stream.unwrap());
                let _ = Self::review(stream, &known);
            }
        });
        Self { address, ca: certificate.pem() }
    }

    fn review(
        stream: rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>,
        known: &[String],
    ) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let review: Value = serde_json::from_slice(&body)?;
        let is_known = known.iter().any(|token| review["spec"]["token"] == token.as_str());
        let user = json!({"username": "system:serviceaccount:shop:placet", "uid": "u1"});
        let answer = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "status": {"authenticated": is_known, "user": user, "audiences": ["vault"]},
        })
        .to_string();
        let mut stream = reader.into_inner();
        write!(
            stream,
            "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{answer}",
            answer.len()
        )?;
        stream.conn.send_close_notify();
        stream.flush()
    }
}
