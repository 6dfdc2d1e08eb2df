//! The control plane, `placet-control`: it brings Placet into pods.
//!
//! [`inject`] says what a pod lacks, and is pure; [`webhook`] answers the API server's admission reviews
//! with it, over TLS with [`certificates`] of its own, and the command `inject` writes it into manifests. Neither leaves a pod unprotected without a
//! word: what is asked for and can't be done is refused, with what to change. Sidecars never ask this
//! process for anything, so they outlive it.

pub mod certificates;
mod cli;
pub mod inject;
pub mod settings;
pub mod webhook;

pub use self::cli::Cli;
