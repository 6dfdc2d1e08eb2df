//! The other edges: what is served beside the proxy's checks.

pub mod admin;
pub mod authzen;
pub mod desk;
#[cfg(test)]
mod fixture;
pub mod jwks;
pub mod keys;
pub mod pdp;
pub mod question;
