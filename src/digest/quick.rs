//! BLAKE3.

use aws_lc_rs::rand;

use super::Digest;

/// A digest in the making.
#[derive(Default)]
pub struct Hasher(blake3::Hasher);

/// A secret of this process. A digest under it tells nothing of what it is of.
pub struct Key([u8; 32]);

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

impl Key {
    /// One that nobody knows; `None` if the system has no randomness.
    pub fn random() -> Option<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key).ok()?;
        Some(Self(key))
    }

    /// Begins a digest under this key.
    pub fn hasher(&self) -> Hasher {
        Hasher(blake3::Hasher::new_keyed(&self.0))
    }
}
