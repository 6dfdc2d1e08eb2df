//! From a listener's files to what it serves.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::{default_provider, sign};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::{NamedClients, TlsSettings};
use crate::clock::Timestamp;
use crate::digest::{Digest, Hasher, digest};
use crate::fips;
use crate::secrets::Secret;

/// A certificate that ends sooner is warned of.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the files of a listener held at one look.
#[derive(Debug)]
pub struct Files {
    certificate: io::Result<Vec<u8>>,
    key: io::Result<Zeroizing<Vec<u8>>>,
    client_ca: Option<io::Result<Vec<u8>>>,
}

/// What a listener serves TLS with.
#[derive(Clone, Debug)]
pub struct Served {
    /// The configuration of its connections.
    pub config: Arc<ServerConfig>,
    /// When the first certificate of its chain ends, in seconds of Unix time.
    pub ends: i64,
    begins: i64,
}

/// What is wrong with a listener's files.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum TlsFault {
    #[error("can't read `{}`: {detail}", path.display())]
    Unreadable { setting: &'static str, path: PathBuf, detail: String },
    #[error("`{}` holds no certificate in PEM", path.display())]
    NoCertificate { setting: &'static str, path: PathBuf },
    #[error("`{}` holds a certificate that can't be used: {detail}", path.display())]
    Certificate { setting: &'static str, path: PathBuf, detail: String },
    #[error("`{}` holds no private key in PEM: write one that is not encrypted", path.display())]
    NoKey { path: PathBuf },
    #[error("`{}` holds a key that can't be used: write an EC, RSA (2048 bits or more) or Ed25519 key", path.display())]
    Key { path: PathBuf },
    #[error("the key in `{}` is not that of the certificate in `{}`", key.display(), certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
    #[error(transparent)]
    NotFips(#[from] fips::NotInForce),
}

impl TlsFault {
    /// The setting that names the file.
    pub fn setting(&self) -> Option<&'static str> {
        match self {
            Self::Unreadable { setting, .. }
            | Self::NoCertificate { setting, .. }
            | Self::Certificate { setting, .. } => Some(setting),
            Self::NoKey { .. } | Self::Key { .. } | Self::Mismatch { .. } => Some(KEY),
            Self::Setup(_) | Self::NotFips(_) => None,
        }
    }
}

const CERTIFICATE: &str = "certificateFile";
const KEY: &str = "keyFile";
const CLIENT_CA: &str = "clientCaFile";

impl Files {
    /// Reads the files that `settings` name; what can't be read is told when they are compiled.
    pub fn read(settings: &TlsSettings) -> Self {
        Self {
            certificate: std::fs::read(&settings.certificate_file),
            key: std::fs::read(&settings.key_file).map(Zeroizing::new),
            client_ca: settings.client_ca_file.as_ref().map(std::fs::read),
        }
    }

    /// As if a certificate chain and its key, PEM, had been read; clients show none.
    pub fn held(certificate: &str, key: &Secret<String>) -> Self {
        Self {
            certificate: Ok(certificate.as_bytes().to_vec()),
            key: Ok(Zeroizing::new(key.expose().as_bytes().to_vec())),
            client_ca: None,
        }
    }

    /// A digest of all that they hold, and of what could not be read.
    pub fn fingerprint(&self) -> Digest {
        let mut hasher = Hasher::default();
        let key = self.key.as_ref().map(|key| key.as_slice());
        let all = [
            Some(self.certificate.as_ref().map(Vec::as_slice)),
            Some(key),
            self.client_ca.as_ref().map(|file| file.as_ref().map(Vec::as_slice)),
        ];
        for held in all {
            let (kind, bytes) = match held {
                None => (0, Vec::new().into()),
                Some(Ok(bytes)) => (1, std::borrow::Cow::Borrowed(bytes)),
                Some(Err(error)) => (2, error.to_string().into_bytes().into()),
            };
            hasher.update(&[kind]);
            hasher.update(&digest(&bytes));
        }
        hasher.finish()
    }
}

impl Served {
    /// Reads the files and compiles them.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn read(settings: &TlsSettings) -> Result<Self, Vec<TlsFault>> {
        Self::compile(settings, &Files::read(settings))
    }

    /// What `files` are served as.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn compile(settings: &TlsSettings, files: &Files) -> Result<Self, Vec<TlsFault>> {
        let mut faults = Vec::new();
        let mut keep = |fault: TlsFault| faults.push(fault);
        let chain = chain(CERTIFICATE, &settings.certificate_file, &files.certificate);
        let chain = chain.map_err(&mut keep).ok();
        let key = key(&settings.key_file, &files.key).map_err(&mut keep).ok();
        let clients = match (&settings.client_ca_file, &files.client_ca) {
            (Some(path), Some(file)) => {
                clients(settings, path, file).map(Some).map_err(&mut keep).ok()
            }
            _ => Some(None),
        };
        let (Some(chain), Some(key), Some(clients)) = (chain, key, clients) else {
            return Err(faults);
        };
        let Chain { certificates, begins, ends } = chain;
        let certified = CertifiedKey::new(certificates, key);
        certified.keys_match().map_err(|error| vec![mismatch(settings, error)])?;
        let config = config(settings, certified, clients).map_err(|fault| vec![fault])?;
        Ok(Self { config: Arc::new(config), ends, begins })
    }

    /// How long the certificate still holds, in seconds; less than none once it has ended.
    pub fn seconds_left(&self, now: Timestamp) -> i64 {
        self.ends.saturating_sub(seconds(now))
    }

    /// What is wrong with the time that the certificate holds, if something is.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        let left = self.seconds_left(now);
        if left <= 0 {
            return Some("the certificate has expired: clients refuse it".to_owned());
        }
        if self.begins > seconds(now) {
            return Some("the certificate is not valid yet: clients refuse it".to_owned());
        }
        let left = Duration::from_secs(left.unsigned_abs());
        let hours = Duration::from_secs(left.as_secs() / 3600 * 3600);
        (left < SOON).then(|| {
            format!("the certificate expires in {}: renew it", humantime::format_duration(hours))
        })
    }
}

fn seconds(now: Timestamp) -> i64 {
    i64::try_from(now.seconds()).unwrap_or(i64::MAX)
}

/// The certificates in a file, and from when until when all of them hold, in seconds of Unix time.
struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    begins: i64,
    ends: i64,
}

fn chain(
    setting: &'static str,
    path: &Path,
    file: &io::Result<Vec<u8>>,
) -> Result<Chain, TlsFault> {
    let pem = file.as_ref().map_err(|error| unreadable(setting, path, error))?;
    let unusable = |detail: String| unusable(setting, path, detail);
    let mut chain = Chain { certificates: Vec::new(), begins: i64::MIN, ends: i64::MAX };
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let der = certificate.map_err(|error| unusable(error.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|_| unusable("it is no X.509 certificate".to_owned()))?;
        chain.begins = chain.begins.max(parsed.validity().not_before.timestamp());
        chain.ends = chain.ends.min(parsed.validity().not_after.timestamp());
        chain.certificates.push(der);
    }
    if chain.certificates.is_empty() {
        return Err(TlsFault::NoCertificate { setting, path: path.to_owned() });
    }
    Ok(chain)
}

fn key(
    path: &Path,
    file: &io::Result<Zeroizing<Vec<u8>>>,
) -> Result<Arc<dyn SigningKey>, TlsFault> {
    let pem = file.as_ref().map_err(|error| unreadable(KEY, path, error))?;
    let mut der = PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| TlsFault::NoKey { path: path.to_owned() })?;
    let key = sign::any_supported_type(&der);
    der.zeroize();
    key.map_err(|_| TlsFault::Key { path: path.to_owned() })
}

/// What verifies the certificates of clients.
fn clients(
    settings: &TlsSettings,
    path: &Path,
    file: &io::Result<Vec<u8>>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsFault> {
    let unusable = |detail: String| unusable(CLIENT_CA, path, detail);
    let mut roots = RootCertStore::empty();
    for authority in chain(CLIENT_CA, path, file)?.certificates {
        roots.add(authority).map_err(|error| unusable(error.to_string()))?;
    }
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let chain = verifier.map_err(|error| unusable(error.to_string()))?;
    Ok(match &settings.allowed {
        Some(allowed) => Arc::new(NamedClients { chain, allowed: allowed.clone() }),
        None => chain,
    })
}

fn config(
    settings: &TlsSettings,
    certified: CertifiedKey,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, TlsFault> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?;
    let certificate = Arc::new(SingleCertAndKey::from(certified));
    let mut config = match clients {
        None => builder.with_no_client_auth().with_cert_resolver(certificate),
        Some(clients) => {
            let mut config =
                builder.with_client_cert_verifier(clients).with_cert_resolver(certificate);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols = settings.protocols.names();
    fips::require_of(config.fips(), "a listener's TLS")?;
    Ok(config)
}

fn mismatch(settings: &TlsSettings, error: rustls::Error) -> TlsFault {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsFault::Mismatch {
            key: settings.key_file.clone(),
            certificate: settings.certificate_file.clone(),
        },
        error => unusable(CERTIFICATE, &settings.certificate_file, error.to_string()),
    }
}

fn unreadable(setting: &'static str, path: &Path, error: &io::Error) -> TlsFault {
    TlsFault::Unreadable { setting, path: path.to_owned(), detail: error.to_string() }
}

fn unusable(setting: &'static str, path: &Path, detail: String) -> TlsFault {
    TlsFault::Certificate { setting, path: path.to_owned(), detail }
}
