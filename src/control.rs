//! The control plane, `placet-control`: it brings Placet into pods.
//!
//! [`inject`] says what a pod lacks, and is pure; [`webhook`] answers the API server's admission reviews
//! with it, and the command `inject` writes it into manifests. Neither leaves a pod unprotected without a
//! word: what is asked for and can't be done is refused, with what to change. [`controller`] makes, of the
//! [`resources`] of each namespace, the [`snapshot`] that its sidecars are to have.
//! Sidecars outlive this process: with it away they keep what they have.

mod cli;
pub mod controller;
pub mod inject;
pub mod resources;
pub mod settings;
pub mod snapshot;
pub mod webhook;

pub use self::cli::Cli;
