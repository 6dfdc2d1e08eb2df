//! Signing keys.

mod algorithm;

pub use algorithm::Algorithm;
