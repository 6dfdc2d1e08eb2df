//! Digests by which the process knows again what it has seen: files, and by [`Fingerprint`]s, which are quicker
//! still, tokens and requests.
//!
//! They are BLAKE3's, and fingerprints are GHASH's; with the feature `fips` they are SHA-256 and HMAC-SHA-256 of the
//! FIPS module, since a token or a decision that is used again is found by one. None leaves the process
//! but for the settings' revision, which names them and proves nothing.

#[cfg(feature = "fips")]
mod fips;
#[cfg(not(feature = "fips"))]
mod quick;

use std::io;

#[cfg(feature = "fips")]
pub use fips::{Fingerprints, Hasher};
#[cfg(not(feature = "fips"))]
pub use quick::{Fingerprints, Hasher};

/// What a [`Hasher`] ends with.
pub type Digest = [u8; 32];

/// What two texts have in common only if they are the same one, under one [`Fingerprints`].
pub type Fingerprint = [u8; 16];

/// The digest of `bytes`.
pub fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_is_the_one_that_is_said() {
        let of_abc = hex::encode(digest(b"abc"));
        if cfg!(feature = "fips") {
            // FIPS 180-4, by NIST's examples.
            assert_eq!(of_abc, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        } else {
            assert_eq!(of_abc, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        }
    }

    #[test]
    fn what_comes_in_parts_has_the_same_digest() {
        let mut hasher = Hasher::default();
        hasher.update(b"a").update(b"").update(b"bc");
        assert_eq!(hasher.finish(), digest(b"abc"));
        let mut hasher = Hasher::default();
        std::io::copy(&mut b"abc".as_slice(), &mut hasher).unwrap();
        assert_eq!(hasher.finish(), digest(b"abc"));
    }

    #[test]
    fn a_fingerprint_is_of_the_whole_text_and_of_one_secret() {
        let (one, other) = (Fingerprints::random().unwrap(), Fingerprints::random().unwrap());
        let text: Vec<u8> = (0..=255).cycle().take(1500).collect();
        let found = one.of(&text).unwrap();
        assert_eq!(one.of(&text).unwrap(), found);
        assert_ne!(other.of(&text).unwrap(), found);
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert_ne!(one.of(&changed).unwrap(), found, "{at}");
        }
        for length in [0, 1, 15, 16, 17, 1499] {
            assert_ne!(one.of(&text[..length]).unwrap(), found, "{length}");
        }
        let zeros = |length| one.of(&vec![0; length]).unwrap();
        assert_ne!(zeros(16), zeros(17));
    }
}
