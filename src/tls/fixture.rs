//! Authorities and what they certify, in a directory of the test's own.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use time::{Duration, OffsetDateTime};

use super::{Protocols, TlsPeer, TlsSettings, UriSan};
use crate::fixture::NOW;

impl TlsPeer {
    /// As if a certificate with this name had been verified.
    pub(crate) fn named(uri: &str) -> Self {
        Self(Some(UriSan::parse(uri).unwrap()))
    }
}

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// An identity with these URIs, valid now.
    pub(crate) fn identity(&self, uris: &[&str]) -> Identity {
        self.identity_until(uris, OffsetDateTime::now_utc() + Duration::days(30))
    }

    pub(crate) fn identity_until(&self, uris: &[&str], end: OffsetDateTime) -> Identity {
        let mut params = CertificateParams::new(vec!["placet.example".to_owned()]).unwrap();
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.not_before = end - Duration::days(60);
        params.not_after = end;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

impl Identity {
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

/// Writes what a listener is served from, and returns settings that name it.
pub(crate) fn settings(
    folder: &Path,
    server: &Identity,
    clients: Option<&Authority>,
    allowed: Option<&[&str]>,
) -> TlsSettings {
    write(folder, server);
    let client_ca_file = clients.map(|authority| {
        let file = folder.join("ca.pem");
        std::fs::write(&file, authority.pem()).unwrap();
        file
    });
    let id = |text: &&str| UriSan::parse(text).unwrap();
    TlsSettings {
        certificate_file: folder.join("tls.crt"),
        key_file: folder.join("tls.key"),
        client_ca_file,
        allowed: allowed.map(|allowed| allowed.iter().map(id).collect()),
        protocols: Protocols::Http,
    }
}

pub(crate) fn write(folder: &Path, server: &Identity) {
    std::fs::write(folder.join("tls.crt"), &server.certificate).unwrap();
    std::fs::write(folder.join("tls.key"), &server.key).unwrap();
}

/// A client that shows `identity` and does not look at the server's.
pub(crate) fn client(identity: Option<&Identity>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![identity.der()], key).unwrap()
        }
    })
}

/// `NOW` and some days.
pub(crate) fn days_from_now(days: i64) -> OffsetDateTime {
    let now = i64::try_from(NOW.seconds()).unwrap();
    OffsetDateTime::from_unix_timestamp(now).unwrap() + Duration::days(days)
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
