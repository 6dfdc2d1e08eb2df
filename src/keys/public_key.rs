//! The public half of a signing key, wherever the private half is.
//!
//! It is what the JWKS shows and what a certificate is held against. Of a key in memory it is
//! derived; of a key in Vault's Transit it is read, and refused unless it is what it claims to be.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    VerificationAlgorithm,
};
use x509_parser::asn1_rs::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{Algorithm, KeyError};
use crate::secrets::{self, TransitVersion};

/// The kinds of key we sign with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA, 2048 to 8192 bits.
    Rsa,
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    /// What it is called in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::Rsa => "RSA",
            Self::Ed25519 => "Ed25519",
        }
    }

    /// What it signs with when nothing is configured.
    pub const fn default_algorithm(self) -> Algorithm {
        match self {
            Self::P256 => Algorithm::ES256,
            Self::P384 => Algorithm::ES384,
            Self::Rsa => Algorithm::RS256,
            Self::Ed25519 => Algorithm::EdDsa,
        }
    }

    /// Whether a key of this kind can sign with `algorithm`.
    pub const fn fits(self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::ES256 => matches!(self, Self::P256),
            Algorithm::ES384 => matches!(self, Self::P384),
            Algorithm::EdDsa => matches!(self, Self::Ed25519),
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => matches!(self, Self::Rsa),
        }
    }
}

/// A public key.
#[derive(Debug)]
pub(super) struct PublicKey {
    kind: KeyKind,
    bits: Vec<u8>,
    info: Vec<u8>,
}

impl PublicKey {
    /// From what the cryptographic library says of a pair: the content of the bit string, and the
    /// `SubjectPublicKeyInfo` it stands in.
    pub(super) const fn new(kind: KeyKind, bits: Vec<u8>, info: Vec<u8>) -> Self {
        Self { kind, bits, info }
    }

    /// Reads what Transit says of a key of `kind`: a PEM `SubjectPublicKeyInfo`, or Ed25519's point.
    ///
    /// # Errors
    /// If it is no public key of that kind.
    pub(super) fn of_transit(kind: KeyKind, version: &TransitVersion) -> Result<Self, KeyError> {
        let damaged = || KeyError::DamagedPublic { kind: kind.name(), version: version.number };
        let bits = match &version.public_key {
            secrets::PublicKey::Pem(text) => bits_of(text).ok_or_else(damaged)?,
            secrets::PublicKey::Ed25519(point) => point.to_vec(),
        };
        let parsed = ParsedPublicKey::new(verifier(kind.default_algorithm()), &bits);
        let info = parsed.ok().and_then(|key| Some(AsDer::as_der(&key).ok()?.as_ref().to_vec()));
        Ok(Self { kind, bits, info: info.ok_or_else(damaged)? })
    }

    pub(super) const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The content of the bit string: an EC point (SEC 1 section 2.3.3), an `RSAPublicKey`
    /// (RFC 8017 appendix A.1.1) or 32 bytes (RFC 8032).
    pub(super) fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// The `SubjectPublicKeyInfo` DER (RFC 5280 section 4.1).
    pub(super) fn info(&self) -> &[u8] {
        &self.info
    }

    /// Whether `signature` over `message` is this key's.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        ParsedPublicKey::new(verifier(algorithm), &self.bits)
            .is_ok_and(|key| key.verify_sig(message, signature).is_ok())
    }
}

fn bits_of(text: &str) -> Option<Vec<u8>> {
    let block = pem::parse(text).ok()?;
    let (rest, info) = SubjectPublicKeyInfo::from_der(block.contents()).ok()?;
    rest.is_empty().then(|| info.subject_public_key.data.to_vec())
}

fn verifier(algorithm: Algorithm) -> &'static dyn VerificationAlgorithm {
    match algorithm {
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDsa => &ED25519,
    }
}
