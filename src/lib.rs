//! Placet: the sidecar that Envoy asks about every request, and that signs its answer.

pub mod clock;
pub mod identity;
pub mod keys;
pub mod request;
pub mod secrets;
