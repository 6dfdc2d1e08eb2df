//! SHA-256 and HMAC-SHA-256 of the FIPS module.

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

use super::{Digest, Fingerprint};

/// A digest in the making.
pub struct Hasher(Context);

impl Hasher {
    /// Goes on with `bytes`.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// The digest of all there was.
    pub fn finish(self) -> Digest {
        let mut digest = Digest::default();
        digest.iter_mut().zip(self.0.finish().as_ref()).for_each(|(to, from)| *to = *from);
        digest
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

/// A secret of this process, under which no two texts have the same fingerprint, whoever chose them: HMAC-SHA-256,
/// truncated to 128 bits (NIST SP 800-107 section 5.3).
pub struct Fingerprints(hmac::Key);

impl Fingerprints {
    /// Under a new secret; `None` if the system has no randomness.
    pub fn random() -> Option<Self> {
        hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok().map(Self)
    }

    /// The fingerprint of `text`; it must not leave the process.
    pub fn of(&self, text: &[u8]) -> Option<Fingerprint> {
        hmac::sign(&self.0, text).as_ref().first_chunk().copied()
    }
}
