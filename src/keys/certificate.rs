//! The certificate chain published beside a key (`x5c`, `x5t#S256`).
//!
//! A certificate of another key would make verifiers refuse every token, so a leaf that doesn't
//! match is an error at load. One that is outside its validity is only a warning: the JWK stays
//! usable, and refusing it would take the whole scope down at midnight.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::KeyError;
use crate::clock::Timestamp;

/// A PEM chain, the key's own certificate first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    chain: Vec<Link>,
    /// The leaf's `SubjectPublicKeyInfo`, DER.
    public_key: Vec<u8>,
    thumbprint: String,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Link {
    der: Vec<u8>,
    subject: String,
    not_before: i64,
    not_after: i64,
}

impl Certificate {
    /// Reads `pem`.
    ///
    /// # Errors
    /// If it isn't a chain of certificates in order.
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        let blocks = blocks(pem)?;
        let parsed: Vec<X509Certificate<'_>> =
            blocks.iter().map(|der| certificate(der)).collect::<Result<_, _>>()?;
        let (leaf, leaf_der) =
            parsed.first().zip(blocks.first()).ok_or(KeyError::MalformedCertificate)?;
        check_order(&parsed)?;
        let public_key = leaf.tbs_certificate.subject_pki.raw.to_vec();
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, leaf_der));
        let chain = parsed
            .iter()
            .zip(&blocks)
            .map(|(certificate, der)| Link {
                der: der.clone(),
                subject: certificate.subject().to_string(),
                not_before: certificate.validity().not_before.timestamp(),
                not_after: certificate.validity().not_after.timestamp(),
            })
            .collect();
        Ok(Self { chain, public_key, thumbprint })
    }

    /// Holds the first certificate against the public key `key_info` (`SubjectPublicKeyInfo` DER).
    ///
    /// # Errors
    /// If it is for another key.
    pub(super) fn check_key(&self, key_info: &[u8]) -> Result<(), KeyError> {
        if self.public_key == key_info {
            return Ok(());
        }
        Err(KeyError::CertificateMismatch {
            certificate: fingerprint(&self.public_key),
            key: fingerprint(key_info),
        })
    }

    /// How many seconds the first of the chain to end still holds at `now`.
    pub(super) fn seconds_left(&self, now: Timestamp) -> i64 {
        let now = i64::try_from(now.seconds()).unwrap_or(i64::MAX);
        let ends = self.chain.iter().map(|link| link.not_after);
        ends.min().unwrap_or_default().saturating_sub(now)
    }

    /// `x5c`: each certificate in standard base64 (RFC 7517 section 4.7).
    pub(super) fn x5c(&self) -> Vec<String> {
        self.chain.iter().map(|link| STANDARD.encode(&link.der)).collect()
    }

    /// `x5t#S256`: SHA-256 of the leaf, base64url (RFC 7517 section 4.9).
    pub(super) fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// What an operator should hear about the validity of the chain at `now`, one line each.
    pub(super) fn warnings(&self, now: Timestamp) -> Vec<String> {
        let now = i64::try_from(now.seconds()).unwrap_or(i64::MAX);
        self.chain
            .iter()
            .filter_map(|link| {
                let problem = if now > link.not_after {
                    "has expired"
                } else if now < link.not_before {
                    "is not valid yet"
                } else {
                    return None;
                };
                Some(format!("the certificate of `{}` {problem}: renew it", link.subject))
            })
            .collect()
    }
}

/// The DER of every block, all of which must be certificates.
fn blocks(pem: &str) -> Result<Vec<Vec<u8>>, KeyError> {
    let blocks = pem::parse_many(pem).map_err(|_| KeyError::MalformedCertificate)?;
    let whole = blocks.len() == pem.matches("-----BEGIN ").count();
    if !whole || blocks.is_empty() || blocks.iter().any(|block| block.tag() != "CERTIFICATE") {
        return Err(KeyError::MalformedCertificate);
    }
    Ok(blocks.into_iter().map(pem::Pem::into_contents).collect())
}

fn certificate(der: &[u8]) -> Result<X509Certificate<'_>, KeyError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(KeyError::MalformedCertificate),
    }
}

/// Each certificate must certify the one before it (RFC 7517 section 4.7). Names are compared,
/// not signatures: verifiers build their own trust, this only catches a mixed-up file.
fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), KeyError> {
    for (certificate, next) in chain.iter().zip(chain.iter().skip(1)) {
        if certificate.issuer().as_raw() != next.subject().as_raw() {
            return Err(KeyError::CertificateOrder {
                subject: certificate.subject().to_string(),
                issuer: certificate.issuer().to_string(),
                next: next.subject().to_string(),
            });
        }
    }
    Ok(())
}

/// As `openssl pkey -pubout -outform DER | sha256sum` prints it.
fn fingerprint(public_key_info: &[u8]) -> String {
    digest(&SHA256, public_key_info).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
