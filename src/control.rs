//! The control plane, `placet-control`: it brings Placet into pods, and scopes and policies to Placet.
//!
//! [`inject`] says what a pod lacks, and is pure; [`webhook`] answers the API server's admission reviews
//! with it, and the command `inject` writes it into manifests. Neither leaves a pod unprotected without a
//! word: what is asked for and can't be done is refused, with what to change. [`stream`] sends the [`snapshot`]
//! of a namespace to its sidecars, which keep the last good one: they need this process for what is new and
//! for nothing else, so they outlive it.

mod cli;
pub mod inject;
pub mod settings;
pub mod snapshot;
pub mod stream;
pub mod webhook;

pub use self::cli::Cli;
