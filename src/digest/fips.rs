//! SHA-256 and HMAC-SHA-256 of the FIPS module.

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

use super::{Digest, Fingerprint};

/// A digest in the making.
pub struct Hasher(Kind);

#[expect(clippy::large_enum_variant, reason = "each lives for a moment, on the stack")]
enum Kind {
    Plain(Context),
    Keyed(hmac::Context),
}

/// A secret of this process. A digest under it tells nothing of what it is of.
pub struct Key(hmac::Key);

impl Hasher {
    /// Goes on with `bytes`.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        match &mut self.0 {
            Kind::Plain(context) => context.update(bytes),
            Kind::Keyed(context) => context.update(bytes),
        }
        self
    }

    /// The digest of all there was.
    pub fn finish(self) -> Digest {
        match self.0 {
            Kind::Plain(context) => bytes(context.finish().as_ref()),
            Kind::Keyed(context) => bytes(context.sign().as_ref()),
        }
    }
}

impl Key {
    /// One that nobody knows; `None` if the system has no randomness.
    pub fn random() -> Option<Self> {
        hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok().map(Self)
    }

    /// Begins a digest under this key.
    pub fn hasher(&self) -> Hasher {
        Hasher(Kind::Keyed(hmac::Context::with_key(&self.0)))
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

impl Default for Hasher {
    fn default() -> Self {
        Self(Kind::Plain(Context::new(&SHA256)))
    }
}

/// Both algorithms end with 32 bytes.
fn bytes(ended: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.iter_mut().zip(ended).for_each(|(to, from)| *to = *from);
    digest
}
