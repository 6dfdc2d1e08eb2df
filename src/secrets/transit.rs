//! What a store that signs by itself says of a key: never the key, only its public halves.

use crate::clock::Timestamp;
use crate::keys::KeyKind;

/// A signing key that never leaves its store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TransitKey {
    /// Its kind.
    pub kind: KeyKind,
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
