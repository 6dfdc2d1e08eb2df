//! The four kinds of private key we sign with, parsed and checked by the cryptographic library.
//!
//! The library owns the key bytes and overwrites them when the pair is dropped.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};

use super::Algorithm;

/// A private key, by kind.
pub(super) enum PrivateKey {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl PrivateKey {
    /// What the key is called in messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::P256(_) => "P-256",
            Self::P384(_) => "P-384",
            Self::Rsa(_) => "RSA",
            Self::Ed25519(_) => "Ed25519",
        }
    }

    /// What it signs with when nothing is configured.
    pub(super) const fn default_algorithm(&self) -> Algorithm {
        match self {
            Self::P256(_) => Algorithm::ES256,
            Self::P384(_) => Algorithm::ES384,
            Self::Rsa(_) => Algorithm::RS256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Whether it can sign with `algorithm`.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::P256(_) => algorithm == Algorithm::ES256,
            Self::P384(_) => algorithm == Algorithm::ES384,
            Self::Rsa(_) => rsa_encoding(algorithm).is_some(),
            Self::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }

    /// The public key as `SubjectPublicKeyInfo` DER (RFC 5280 section 4.1).
    pub(super) fn public_key_info(&self) -> Result<Vec<u8>, Unspecified> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::P256(pair) | Self::P384(pair) => pair.public_key().as_der(),
            Self::Rsa(pair) => pair.public_key().as_der(),
            Self::Ed25519(pair) => pair.public_key().as_der(),
        }?;
        Ok(der.as_ref().to_vec())
    }

    /// The JWS signature over `message`: fixed-width `r || s` for ECDSA (RFC 7518 section 3.4), a
    /// salt as long as the hash for PSS (section 3.5).
    ///
    /// # Errors
    /// If `algorithm` doesn't fit the key, or the library fails.
    pub(super) fn sign(
        &self,
        algorithm: Algorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, Unspecified> {
        if !self.fits(algorithm) {
            return Err(Unspecified);
        }
        match self {
            Self::P256(pair) | Self::P384(pair) => {
                Ok(pair.sign(&SystemRandom::new(), message)?.as_ref().to_vec())
            }
            Self::Rsa(pair) => {
                let encoding = rsa_encoding(algorithm).ok_or(Unspecified)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), message, &mut signature)?;
                Ok(signature)
            }
            Self::Ed25519(pair) => Ok(pair.try_sign(message)?.as_ref().to_vec()),
        }
    }
}

fn rsa_encoding(algorithm: Algorithm) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        Algorithm::RS256 => Some(&RSA_PKCS1_SHA256),
        Algorithm::RS384 => Some(&RSA_PKCS1_SHA384),
        Algorithm::RS512 => Some(&RSA_PKCS1_SHA512),
        Algorithm::PS256 => Some(&RSA_PSS_SHA256),
        Algorithm::PS384 => Some(&RSA_PSS_SHA384),
        Algorithm::PS512 => Some(&RSA_PSS_SHA512),
        Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDsa => None,
    }
}
