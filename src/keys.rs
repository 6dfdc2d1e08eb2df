//! Signing keys: from a store's bytes to signatures and a public JWK.
//!
//! A key is parsed once, at load, into a [`SigningKey`] that holds everything a request needs:
//! the parsed pair, the encoded JWS header and the public JWK. A key that is weak, encrypted, of
//! a kind we don't sign with, or that doesn't fit its algorithm or certificate fails at load with
//! a [`KeyError`] saying what was found and what to do. A loaded key can still fail to sign,
//! which is a [`SignError`] and never a token.
//!
//! Private members never leave this room: `Debug` shows `kid` and `alg`, and the only way to use
//! a private key is [`SigningKey::sign`].

mod algorithm;
mod backlog;
mod certificate;
mod error;
mod generate;
mod jwk;
mod key_id;
mod parse;
mod private_key;
mod public_key;
mod ring;
mod rotation;
mod signing;
#[cfg(test)]
mod test_keys;
mod transit;

pub use algorithm::{Algorithm, UnknownAlgorithm};
pub use certificate::Certificate;
pub use error::{KeyError, SignError};
pub use generate::{GeneratedKey, generate};
pub use key_id::KeyIdTemplate;
pub use public_key::KeyKind;
pub use ring::KeyRing;
pub use rotation::{Backend, KeySource, KeyTask, Keys, LoadError, OrderError};
pub use signing::{KeySettings, SigningKey};
