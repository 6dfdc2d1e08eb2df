//! A Kubernetes API server's keys: behind TLS of its own authority, and only for who presents a
//! token.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;

use super::*;

/// A certificate authority and what it has issued to a server at 127.0.0.1.
struct Authority {
    pem: String,
    config: Arc<rustls::ServerConfig>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Self { pem, config: Arc::new(config) }
    }
}

/// Serves `pages` to whoever presents `token`.
struct ApiServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl ApiServer {
    fn start(
        authority: &Authority,
        token: &'static str,
        pages: impl FnOnce(SocketAddr) -> HashMap<&'static str, String>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (pages, config) = (pages(address), Arc::clone(&authority.config));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(SeqCst) {
                    return;
                }
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let stream = rustls::StreamOwned::new(connection, stream.unwrap());
                // A client that doesn't trust us breaks off, which is what is tested.
                let _ = serve(stream, token, &pages);
            }
        });
        Self { address, stop }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = std::net::TcpStream::connect(self.address);
    }
}

fn serve(
    stream: rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>,
    token: &str,
    pages: &HashMap<&'static str, String>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let is_known = lines.iter().any(|line| *line == format!("authorization: Bearer {token}"));
    let (status, body) = match pages.get(path) {
        _ if !is_known => (401, ""),
        Some(page) => (200, page.as_str()),
        None => (404, ""),
    };
    let length = body.len();
    let stream = reader.get_mut();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// The keys of an issuer, fetched with these files.
fn keys(issuer: &str, from: KeySourceSettings, ca: Option<&Path>, token: Option<&Path>) -> Subject {
    Subject::with(issuer, from, EAGER, |settings| {
        settings.ca_file = ca.map(Path::to_owned);
        settings.token_file = token.map(Path::to_owned);
    })
}

#[tokio::test]
async fn keys_are_fetched_with_an_authority_and_a_token_of_our_own() {
    let (authority, other, key) = (Authority::new(), Authority::new(), Key::new("a"));
    let set = set(&[&key]);
    let server =
        ApiServer::start(&authority, "t0k3n", |_| HashMap::from([("/openid/v1/jwks", set)]));
    let folder = tempfile::tempdir().unwrap();
    let (ca, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
    std::fs::write(&ca, &other.pem).unwrap();
    std::fs::write(&token, "old-t0k3n").unwrap();
    let url = || KeySourceSettings::Url(server.url("/openid/v1/jwks"));
    let issuer = "https://kubernetes.default.svc.cluster.local";

    let subject = keys(issuer, url(), Some(&ca), Some(&token));
    let error = subject.error().await;
    assert!(error.contains("did not answer"), "another authority: {error}");
    // Both files are read anew: a cluster replaces them.
    std::fs::write(&ca, &authority.pem).unwrap();
    until(|| subject.keys.last_error().is_some_and(|error| error.contains("401"))).await;
    std::fs::remove_file(&token).unwrap();
    until(|| subject.keys.last_error().is_some_and(|error| error.contains("No such file"))).await;
    let error = subject.keys.last_error().unwrap();
    assert!(!error.contains("t0k3n"), "{error}");
    std::fs::write(&token, "t0k3n\n").unwrap();
    subject.loaded().await;
    assert!(subject.knows(&key));

    let error = keys(issuer, url(), Some(&ca), None).error().await;
    assert!(error.contains("answered 401"), "{error}");
    let error = keys(issuer, url(), None, Some(&token)).error().await;
    assert!(error.contains("did not answer"), "the system's authorities: {error}");
}

#[tokio::test]
async fn a_token_is_shown_to_the_host_of_the_settings_only() {
    let (authority, key, elsewhere) = (Authority::new(), Key::new("a"), Server::start().await);
    elsewhere.says("/keys", Answer::Text(set(&[&key])));
    let keys_at = elsewhere.url("/keys");
    let server = ApiServer::start(&authority, "t0k3n", |address| {
        let issuer = format!("https://{address}");
        let configuration = json!({"issuer": issuer, "jwks_uri": keys_at}).to_string();
        HashMap::from([("/.well-known/openid-configuration", configuration)])
    });
    let folder = tempfile::tempdir().unwrap();
    let (ca, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
    std::fs::write(&ca, &authority.pem).unwrap();
    std::fs::write(&token, "t0k3n").unwrap();
    let subject = keys(&server.url(""), KeySourceSettings::Discovery, Some(&ca), Some(&token));
    subject.loaded().await;
    assert!(subject.knows(&key));
    let seen = elsewhere.served.seen.lock().unwrap().clone();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
}
