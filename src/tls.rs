//! TLS of a listener: the files it is served from, and whose client certificates count.
//!
//! [`Served::compile`] makes of [`Files`] what a listener serves, or says everything that is wrong with
//! them; nothing is half compiled. TLS 1.2 and 1.3 are spoken, with the suites that rustls holds safe. Where
//! clients must show a certificate, its chain is verified at every handshake, and it must have exactly one
//! URI name, one of those allowed: no session is resumed, since what was verified then may not hold now.

mod files;
#[cfg(test)]
pub(crate) mod fixture;
mod names;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

pub use self::files::{Files, Served, TlsFault};
pub use self::names::{NotASpiffeId, UriSan};

/// How a listener serves TLS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsSettings {
    /// The certificate chain, PEM, the listener's own first.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// The authorities of the certificates that clients must show; `None`: they need none.
    pub client_ca_file: Option<PathBuf>,
    /// The names of which a client's certificate must have one; `None`: any.
    pub allowed: Option<BTreeSet<UriSan>>,
    /// What is spoken inside.
    pub protocols: Protocols,
}

impl TlsSettings {
    /// Whether it is known, by name, who may connect.
    pub fn names_its_clients(&self) -> bool {
        self.client_ca_file.is_some() && self.allowed.is_some()
    }
}

/// What a listener speaks inside TLS (RFC 7301).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocols {
    /// HTTP/2.
    Grpc,
    /// HTTP/2 and HTTP/1.1.
    Http,
}

impl Protocols {
    fn names(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Self::Grpc => &[b"h2"],
            Self::Http => &[b"h2", b"http/1.1"],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }
}

/// Who is at the other end of a connection, by a certificate that was verified.
#[derive(Clone, Debug, Default)]
pub struct TlsPeer(Option<UriSan>);

impl TlsPeer {
    /// Whom the certificate `chain` speaks of, once it was verified.
    pub fn of_verified(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let leaf = chain.and_then(<[_]>::first);
        Self(leaf.and_then(|leaf| UriSan::only_one_of(leaf).ok()))
    }

    /// The one URI name of its certificate, if that is a SPIFFE ID.
    pub fn uri(&self) -> Option<&UriSan> {
        self.0.as_ref()
    }
}

/// Verifies a client's chain, and then its name.
#[derive(Debug)]
struct NamedClients {
    chain: Arc<dyn ClientCertVerifier>,
    allowed: BTreeSet<UriSan>,
}

/// Why a client with a good chain is refused.
#[derive(Debug, thiserror::Error)]
enum NotAllowed {
    #[error("its certificate has {0} URI names, and must have exactly one")]
    Count(usize),
    #[error(transparent)]
    NotASpiffeId(#[from] NotASpiffeId),
    #[error("`{0}` is not among allowedUriSans")]
    Stranger(UriSan),
    #[error("its certificate can't be read")]
    Unreadable,
}

impl NamedClients {
    fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), NotAllowed> {
        let name = UriSan::only_one_of(certificate)?;
        if self.allowed.contains(&name) { Ok(()) } else { Err(NotAllowed::Stranger(name)) }
    }
}

impl ClientCertVerifier for NamedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match self.judge(end_entity) {
            Ok(()) => Ok(verified),
            Err(why) => {
                let why = CertificateError::Other(OtherError(Arc::new(why)));
                Err(Error::InvalidCertificate(why))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.chain.requires_raw_public_keys()
    }
}

/// Why a handshake failed, in words.
pub fn why(error: &io::Error) -> String {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => {
            format!("invalid peer certificate: {why}")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
