//! The other edges: what is served over plain HTTP.

pub mod admin;
pub mod jwks;
pub mod keys;
