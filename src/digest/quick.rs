//! BLAKE3, and the authentication of AES-256-GCM.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand;

use super::{Digest, Fingerprint};

/// A digest in the making.
#[derive(Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Goes on with `bytes`.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// The digest of all there was.
    pub fn finish(self) -> Digest {
        *self.0.finalize().as_bytes()
    }
}

/// A secret of this process, under which no two texts have the same fingerprint, whoever chose them.
///
/// It is GHASH (NIST SP 800-38D), of which that is proven as long as nobody sees what comes of it: two texts of
/// up to a MiB are taken for the same with a probability of 2^-112. That the nonce is always the same would be a
/// fault where something is enciphered, or a tag is shown.
pub struct Fingerprints(LessSafeKey);

impl Fingerprints {
    /// Under a new secret; `None` if the system has no randomness.
    pub fn random() -> Option<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key).ok()?;
        Some(Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?)))
    }

    /// The fingerprint of `text`; it must not leave the process. `None` if it is longer than can be.
    pub fn of(&self, text: &[u8]) -> Option<Fingerprint> {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(text), &mut []).ok()?;
        tag.as_ref().try_into().ok()
    }
}
