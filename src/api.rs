//! The other edges: what is served beside the proxy's checks.

pub mod admin;
pub mod authzen;
pub mod capture;
pub mod desk;
#[cfg(test)]
mod fixture;
pub mod gauges;
pub mod jwks;
pub mod keys;
pub mod pdp;
pub mod question;

use crate::tls::{TlsPeer, UriSan};

/// Whom the certificate names that a call's connection was made with.
pub(crate) fn workload(extensions: &http::Extensions) -> Option<&UriSan> {
    extensions.get::<TlsPeer>()?.uri()
}
