//! Snapshots over real TLS and gRPC, with tokens reviewed over HTTP.

mod load;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use placet::clock::{Clock, Timestamp};
use placet::control::refusals::{Refusals, Standing};
use placet::control::settings::Settings;
use placet::control::snapshot::{Snapshot, Snapshots};
use placet::control::stream::{self, StreamSettings};
use placet::metrics::Metrics;
use placet::policy::Confirmed;
use placet::proto::control::{FromControl, FromSidecar, Hello, from_control, from_sidecar};
use placet::source::{ControlSettings, Outcome, Parts, Wanted};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::free_port;

/// What reviews tokens: one is `NAMESPACE/NAME/AUDIENCE`.
#[derive(Clone)]
pub(crate) struct Reviews {
    pub(crate) count: Arc<AtomicU64>,
    takes: Duration,
}

impl Reviews {
    /// Reviews at an address, each of which takes so long.
    pub(crate) async fn start(takes: Duration) -> (Self, String) {
        let reviews = Self { count: Arc::default(), takes };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let router = Router::new().route(path, post(Self::review)).with_state(reviews.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (reviews, url)
    }

    async fn review(State(reviews): State<Self>, Json(asked): Json<Value>) -> Json<Value> {
        reviews.count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(reviews.takes).await;
        let token = asked["spec"]["token"].as_str().unwrap();
        let parts: Vec<&str> = token.split('/').collect();
        let [namespace, name, audience] = parts[..] else {
            return Json(json!({"status": {"error": "no such token"}}));
        };
        if !asked["spec"]["audiences"].as_array().unwrap().contains(&audience.into()) {
            return Json(json!({"status": {"error": "another audience"}}));
        }
        let user = json!({"username": format!("system:serviceaccount:{namespace}:{name}")});
        Json(json!({"status": {"authenticated": true, "audiences": [audience], "user": user}}))
    }
}

/// Where a control plane is to be: its certificate, its addresses and its settings.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
    pub(crate) address: String,
    pub(crate) reviews: Reviews,
    pub(crate) settings_file: PathBuf,
}

impl Site {
    pub(crate) async fn new(takes: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        certify(folder.path());
        let (reviews, url) = Reviews::start(takes).await;
        let address = format!("127.0.0.1:{}", free_port());
        std::fs::write(folder.path().join("token"), "its own").unwrap();
        std::fs::create_dir(folder.path().join("namespaces")).unwrap();
        let review = json!({"url": url, "caFile": "ca.pem", "tokenFile": "token"});
        let snapshots = json!({
            "address": address, "certificateFile": "tls.crt", "keyFile": "tls.key",
            "tokenReview": review, "directory": "namespaces",
        });
        let settings_file = folder.path().join("control.yaml");
        let settings = json!({"version": 1, "snapshots": snapshots});
        std::fs::write(&settings_file, settings.to_string()).unwrap();
        Self { folder, address, reviews, settings_file }
    }

    fn settings(&self) -> StreamSettings {
        let settings = Settings::load(&self.settings_file).unwrap().snapshots.unwrap();
        StreamSettings { directory: None, ..settings }
    }

    /// Sends `snapshots` until the token is cancelled.
    fn serve(&self, snapshots: &Arc<Snapshots>) -> (CancellationToken, JoinHandle<()>) {
        self.serve_and_note(snapshots, &Arc::default())
    }

    /// The same, and what is refused is told to `refusals`.
    fn serve_and_note(
        &self,
        snapshots: &Arc<Snapshots>,
        refusals: &Arc<Refusals>,
    ) -> (CancellationToken, JoinHandle<()>) {
        let (settings, snapshots) = (self.settings(), Arc::clone(snapshots));
        let refusals = Arc::clone(refusals);
        let shutdown = CancellationToken::new();
        let until = shutdown.clone();
        let serving = async move {
            stream::serve(&settings, None, snapshots, refusals, &until).await.unwrap()
        };
        (shutdown, tokio::spawn(serving))
    }

    /// A sidecar that presents `token`, and has the snapshot of that revision.
    pub(crate) fn sidecar(&self, token: &str, has: Option<&str>, metrics: &Metrics) -> Parts {
        let token_file = self.folder.path().join(token.replace('/', "_"));
        std::fs::write(&token_file, token).unwrap();
        let settings = ControlSettings {
            address: self.address.clone(),
            server_name: "127.0.0.1".to_owned(),
            ca_file: self.folder.path().join("ca.pem"),
            token_file,
            directory: PathBuf::new(),
        };
        let confirmed = Confirmed::new(Timestamp::from_seconds(0));
        Parts::new(settings, has.map(str::to_owned), confirmed, Clock::System, metrics.clone())
    }
}

/// An authority, and a certificate of it for this machine.
fn certify(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
}

pub(crate) fn snapshot(text: &str) -> Snapshot {
    let settings = Bytes::from(text.to_owned());
    Snapshot::new(BTreeMap::from([("placet.yaml".to_owned(), settings)]))
}

/// Waits for something, and fails when it does not come.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it does not come")
}

/// A sidecar that runs.
struct Running {
    wanted: watch::Receiver<Option<Arc<Wanted>>>,
    outcome: watch::Sender<Outcome>,
    problem: watch::Receiver<Option<String>>,
    shutdown: CancellationToken,
}

impl Running {
    fn start(parts: Parts) -> Self {
        let Parts { follower, wanted, outcome, following } = parts;
        let shutdown = CancellationToken::new();
        let until = shutdown.clone();
        tokio::spawn(async move { follower.run(Vec::new, until).await });
        Self { wanted, outcome, problem: following.problem, shutdown }
    }

    /// The revision of the next snapshot that comes.
    async fn comes(&mut self) -> String {
        soon(self.wanted.changed()).await.unwrap();
        self.wanted.borrow_and_update().as_ref().unwrap().revision.clone()
    }

    async fn connected(&mut self, is_connected: bool) {
        let problem = &mut self.problem;
        soon(problem.wait_for(|problem| problem.is_none() == is_connected)).await.unwrap();
    }

    async fn refused(&mut self, said: &str) {
        let problem = &mut self.problem;
        let told = |it: &Option<String>| it.as_ref().is_some_and(|it| it.contains(said));
        soon(problem.wait_for(told)).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_gets_what_is_its_namespace_s_and_only_what_is_new() {
    let site = Site::new(Duration::ZERO).await;
    let snapshots = Arc::new(Snapshots::default());
    let (_serving, _) = site.serve(&snapshots);
    let metrics = Metrics::new();
    let sidecar = |token, has| Running::start(site.sidecar(token, has, &metrics));
    let mut shop = sidecar("shop/a/placet-control", None);
    let mut bank = sidecar("bank/a/placet-control", None);
    shop.connected(true).await;
    assert!(!shop.wanted.has_changed().unwrap(), "nothing is known");
    let [one, two, three] = ["one", "two", "three"].map(snapshot);
    snapshots.publish("shop", one.clone());
    assert_eq!(shop.comes().await, one.revision);
    snapshots.publish("bank", two.clone());
    assert_eq!(bank.comes().await, two.revision);
    // One that has it is not sent it again, but what follows.
    let mut other = sidecar("shop/b/placet-control", Some(&one.revision));
    other.connected(true).await;
    snapshots.publish("shop", three.clone());
    assert_eq!(other.comes().await, three.revision);
    assert_eq!(shop.comes().await, three.revision);
    assert!(!bank.wanted.has_changed().unwrap());
    snapshots.withdraw("shop");
    assert_eq!(shop.comes().await, Snapshot::empty().revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_known_until_the_sidecar_takes_a_snapshot_or_went() {
    let site = Site::new(Duration::ZERO).await;
    let (snapshots, refusals) = (Arc::new(Snapshots::default()), Arc::new(Refusals::default()));
    let (_serving, _) = site.serve_and_note(&snapshots, &refusals);
    let parts = site.sidecar("shop/a/placet-control", None, &Metrics::new());
    let mut sidecar = Running::start(parts);
    let began = tokio::time::Instant::now();
    let standing =
        |revision: &str| refusals.standing("shop", revision, began, tokio::time::Instant::now());
    let stands = async |revision: &str, is_so: fn(&Standing) -> bool| {
        soon(async {
            while !is_so(&standing(revision)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    };
    let is_refused = |standing: &Standing| match standing {
        Standing::Refused(it) => it.pods == 1 && it.causes[0].error == "snapshot.scopes[0]: no",
        Standing::Open | Standing::Quiet => false,
    };
    for text in ["one", "two"] {
        snapshots.publish("shop", snapshot(text));
        let revision = sidecar.comes().await;
        let refused = Some((revision.clone(), "snapshot.scopes[0]: no".to_owned()));
        sidecar.outcome.send_modify(|outcome| outcome.refused = refused);
        stands(&revision, is_refused).await;
    }
    let last = snapshot("three").revision;
    assert_eq!(standing(&last), Standing::Open);
    snapshots.publish("shop", snapshot("three"));
    assert_eq!(sidecar.comes().await, last);
    sidecar.outcome.send_replace(Outcome { in_force: Some(last.clone()), refused: None });
    stands(&last, |it| *it == Standing::Quiet).await;
    snapshots.publish("shop", snapshot("four"));
    let revision = sidecar.comes().await;
    let refused = Some((revision.clone(), "snapshot.scopes[0]: no".to_owned()));
    sidecar.outcome.send_modify(|outcome| outcome.refused = refused);
    stands(&revision, is_refused).await;
    drop(sidecar);
    stands(&revision, |it| *it == Standing::Open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_that_is_meant_for_us_opens_and_is_reviewed_once() {
    let site = Site::new(Duration::from_millis(50)).await;
    let snapshots = Arc::new(Snapshots::default());
    let (serving, ended) = site.serve(&snapshots);
    let metrics = Metrics::new();
    let sidecar = |token| Running::start(site.sidecar(token, None, &metrics));
    let mut all: Vec<Running> = (0..5).map(|_| sidecar("shop/a/placet-control")).collect();
    for one in &mut all {
        one.connected(true).await;
    }
    assert_eq!(site.reviews.count.load(Ordering::Relaxed), 1);
    // Another process knows nothing of it.
    serving.cancel();
    soon(ended).await.unwrap();
    for one in &mut all {
        one.connected(false).await;
    }
    let (_serving, _) = site.serve(&snapshots);
    for one in &mut all {
        one.connected(true).await;
    }
    assert_eq!(site.reviews.count.load(Ordering::Relaxed), 2);
    // Last, since they try again and again.
    sidecar("shop/a/vault").refused("Unauthenticated").await;
    sidecar("garbage").refused("Unauthenticated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_asked_for_anew() {
    let site = Site::new(Duration::ZERO).await;
    let snapshots = Arc::new(Snapshots::default());
    let (_serving, _) = site.serve(&snapshots);
    let one = snapshot("one");
    snapshots.publish("shop", one.clone());
    let parts = site.sidecar("shop/a/placet-control", Some(&one.revision), &Metrics::new());
    let mut sidecar = Running::start(parts);
    sidecar.connected(true).await;
    assert!(!sidecar.wanted.has_changed().unwrap());
    sidecar.outcome.send_replace(Outcome::default());
    assert_eq!(sidecar.comes().await, one.revision);
}

/// A stream by hand: its messages, as they are taken.
async fn raw(site: &Site, token: &str, said: Vec<FromSidecar>) -> hyper::body::Incoming {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.folder.path().join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = async || loop {
        match tokio::net::TcpStream::connect(&site.address).await {
            Ok(tcp) => return tcp,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let tcp = soon(connect()).await;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let io = TokioIo::new(connector.connect(name, tcp).await.unwrap());
    let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(64 * 1024);
    let (mut sender, connection) = client.handshake(io).await.unwrap();
    tokio::spawn(connection);
    let frames = said.into_iter().map(|message| {
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0], length.as_slice(), &message].concat();
        Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from(framed)))
    });
    let body =
        StreamBody::new(futures_util::stream::iter(frames).chain(futures_util::stream::pending()));
    let request =
        http::Request::post(format!("https://{}/placet.control.v1.Snapshots/Follow", site.address))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
    sender.send_request(request).await.unwrap().into_body()
}

fn hello() -> FromSidecar {
    let hello = Hello { revision: String::new(), version: String::new(), instance: String::new() };
    FromSidecar { message: Some(from_sidecar::Message::Hello(hello)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_gets_the_newest_and_none_between() {
    let site = Site::new(Duration::ZERO).await;
    let snapshots = Arc::new(Snapshots::default());
    let (_serving, _) = site.serve(&snapshots);
    let large = |text: &str| snapshot(&text.repeat(1024 * 1024));
    snapshots.publish("shop", large("a"));
    let mut slow = raw(&site, "shop/slow/placet-control", vec![hello()]).await;
    let first = soon(slow.frame()).await.unwrap().unwrap().into_data().unwrap();
    let mut quick =
        Running::start(site.sidecar("shop/quick/placet-control", None, &Metrics::new()));
    quick.comes().await;
    for text in ["b", "c", "d", "e", "f", "g", "h", "i"] {
        let next = large(text);
        let revision = next.revision.clone();
        snapshots.publish("shop", next);
        assert_eq!(quick.comes().await, revision);
    }
    let last = large("i").revision;
    let (mut read, mut revisions) = (first.to_vec(), Vec::new());
    while revisions.last() != Some(&last) {
        let frame = soon(slow.frame()).await.unwrap().unwrap();
        read.extend_from_slice(&frame.into_data().unwrap());
        while let Some(length) = read.get(1..5).map(|it| u32::from_be_bytes(it.try_into().unwrap()))
            && read.len() >= 5 + length as usize
        {
            let rest = read.split_off(5 + length as usize);
            let message = FromControl::decode(&read[5..]).unwrap().message;
            let Some(from_control::Message::Snapshot(sent)) = message else {
                panic!("{message:?}")
            };
            revisions.push(sent.revision);
            read = rest;
        }
    }
    // The one that was under way, one that waited here and one in HTTP/2, and the newest.
    assert!(revisions.len() <= 4, "{}", revisions.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_with_one_hello() {
    let site = Site::new(Duration::ZERO).await;
    let (_serving, _) = site.serve(&Arc::default());
    let empty = FromSidecar { message: None };
    for said in [vec![empty], vec![hello(), hello()]] {
        let body = raw(&site, "shop/a/placet-control", said).await;
        let collected = soon(body.collect()).await.unwrap();
        let status = collected.trailers().unwrap()["grpc-status"].to_str().unwrap().to_owned();
        assert_eq!(status, "3", "INVALID_ARGUMENT");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kubernetes_a_file_of_digests_says_whose_a_token_is() {
    let site = Site::new(Duration::ZERO).await;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"of the shop");
    let tokens = format!("shop: [\"sha256:{}\"]\n", hex::encode(digest));
    std::fs::write(site.folder.path().join("tokens.yaml"), tokens).unwrap();
    let text = std::fs::read_to_string(&site.settings_file).unwrap();
    let mut settings: Value = serde_json::from_str(&text).unwrap();
    let snapshots = settings["snapshots"].as_object_mut().unwrap();
    snapshots.remove("tokenReview");
    snapshots.insert("tokensFile".to_owned(), "tokens.yaml".into());
    std::fs::write(&site.settings_file, settings.to_string()).unwrap();
    let snapshots = Arc::new(Snapshots::default());
    let (_serving, _) = site.serve(&snapshots);
    snapshots.publish("shop", snapshot("one"));
    let sidecar = |token| Running::start(site.sidecar(token, None, &Metrics::new()));
    assert_eq!(sidecar("of the shop").comes().await, snapshot("one").revision);
    sidecar("of others").refused("Unauthenticated").await;
    assert_eq!(site.reviews.count.load(Ordering::Relaxed), 0);
}
