//! The control plane, `placet-control`: it brings Placet into pods, and scopes and policies to Placet.
//!
//! [`inject`] says what a pod lacks, and is pure; [`webhook`] answers the API server's admission reviews
//! with it, over TLS with [`certificates`] of its own, and the command `inject` writes it into manifests.
//! Neither leaves a pod unprotected without a word: what is asked for and can't be done is refused, with what to
//! change. [`controller`] makes, of the [`resources`] of each namespace, the [`snapshot`] that its sidecars are to
//! have, and [`stream`] sends it to them; what of it they can't put in force, their [`refusals`], the status of the
//! resources says. They keep the last good one: they need this process for what is new and for nothing else, so
//! they outlive it.

pub mod certificates;
mod cli;
pub mod controller;
pub mod inject;
pub mod refusals;
pub mod resources;
pub mod settings;
pub mod snapshot;
pub mod stream;
pub mod webhook;

pub use self::cli::Cli;
