//! Everything that needs more than one room, or a real server.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test may panic, and says on stderr why it is skipped"
)]

mod authzen;
#[cfg(feature = "control")]
mod control;
mod identity;
mod monitoring;
mod pdp;
mod settings;
mod vault;
mod walls;
