//! The name that a client certificate is known by.

use std::fmt;
use std::sync::Arc;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::NotAllowed;
use crate::identity::is_spiffe_id;

/// A SPIFFE ID, as the URI among a certificate's alternative names. Two are the same only byte by byte.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UriSan(Arc<str>);

/// A text that is no SPIFFE ID of a workload.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`{}` is no SPIFFE ID: write each in full, such as spiffe://example.org/envoy", .0.escape_debug()
)]
pub struct NotASpiffeId(String);

impl UriSan {
    /// Reads a SPIFFE ID with a path (SPIFFE-ID section 2).
    ///
    /// # Errors
    /// [`NotASpiffeId`]: nothing is a pattern, and nothing is trimmed or folded.
    pub fn parse(text: &str) -> Result<Self, NotASpiffeId> {
        if is_spiffe_id(text) {
            Ok(Self(text.into()))
        } else {
            Err(NotASpiffeId(text.chars().take(256).collect()))
        }
    }

    /// The ID.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one URI of the certificate `der`: an X.509-SVID has exactly one (X509-SVID section 2).
    pub(super) fn only_one_of(der: &[u8]) -> Result<Self, NotAllowed> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| NotAllowed::Unreadable)?;
        let names = certificate.subject_alternative_name().map_err(|_| NotAllowed::Unreadable)?;
        let names = names.iter().flat_map(|extension| &extension.value.general_names);
        let uris: Vec<&str> = names
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        match uris.as_slice() {
            [uri] => Ok(Self::parse(uri)?),
            others => Err(NotAllowed::Count(others.len())),
        }
    }
}

impl fmt::Display for UriSan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
