//! What a store that signs by itself says of a key: never the key, only its public halves.

use crate::clock::Timestamp;
use crate::keys::Algorithm;

/// A signing key that never leaves its store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TransitKey {
    /// Its type.
    pub kind: TransitKind,
    /// The number of the newest version.
    pub latest: u64,
    /// The versions the store still verifies with, oldest first.
    pub versions: Vec<TransitVersion>,
}

/// One version of a [`TransitKey`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TransitVersion {
    /// Its number.
    pub number: u64,
    /// When the store says it was made.
    pub created: Timestamp,
    /// What verifies its signatures.
    pub public_key: PublicKey,
}

/// The public half of a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PublicKey {
    /// A `SubjectPublicKeyInfo` in PEM: RSA, P-256, P-384.
    Pem(String),
    /// The point itself (RFC 8032).
    Ed25519([u8; 32]),
}

/// The types of key that can sign a JWS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TransitKind {
    /// `ecdsa-p256`.
    EcdsaP256,
    /// `ecdsa-p384`.
    EcdsaP384,
    /// `ed25519`.
    Ed25519,
    /// `rsa-2048`, `rsa-3072`, `rsa-4096`.
    Rsa,
}

impl TransitKind {
    /// Whether a key of this type makes signatures of `algorithm`.
    pub const fn can(self, algorithm: Algorithm) -> bool {
        matches!(
            (self, algorithm),
            (Self::EcdsaP256, Algorithm::ES256)
                | (Self::EcdsaP384, Algorithm::ES384)
                | (Self::Ed25519, Algorithm::EdDsa)
                | (
                    Self::Rsa,
                    Algorithm::RS256
                        | Algorithm::RS384
                        | Algorithm::RS512
                        | Algorithm::PS256
                        | Algorithm::PS384
                        | Algorithm::PS512
                )
        )
    }
}
