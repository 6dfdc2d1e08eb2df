//! A request as far as one can be told from another.

use std::collections::BTreeSet;

use ipnet::IpNet;

/// What is told apart in a request: its parts as the proxy sent them, nothing decoded.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a str,
    /// The scheme.
    pub scheme: &'a str,
    /// The authority.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The header fields, names in lower case.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// Whether it comes with a body, or a part of one.
    pub has_body: bool,
    /// The address of whoever connected to the proxy.
    pub source_ip: &'a str,
    /// The identity in its certificate.
    pub source_principal: &'a str,
    /// Its certificate.
    pub source_certificate: &'a str,
}

/// What of a request, beside method, scheme, host, path and the peer's certificate, is read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reads {
    /// Header fields, by name in lower case.
    pub headers: BTreeSet<String>,
    /// The query.
    pub query: bool,
    /// The body: requests that come with one are not told apart.
    pub body: bool,
    /// The address of whoever connected to the proxy.
    pub source_ip: AddressRead,
}

/// How an address is read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum AddressRead {
    /// Not at all.
    #[default]
    Unread,
    /// Only whether there is one, and which of these ranges it is within.
    Ranges(Vec<IpNet>),
    /// Itself.
    Whole,
}

impl AddressRead {
    /// Among more ranges than this an address is told apart by itself.
    const MAX_RANGES: usize = 64;

    /// Which of `ranges` it is within.
    pub fn within(ranges: &BTreeSet<IpNet>) -> Self {
        if ranges.len() > Self::MAX_RANGES {
            return Self::Whole;
        }
        Self::Ranges(ranges.iter().copied().collect())
    }

    fn and(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Whole, _) | (_, Self::Whole) => Self::Whole,
            (Self::Ranges(mut ranges), Self::Ranges(others)) => {
                ranges.extend(others);
                Self::Ranges(ranges)
            }
            (Self::Unread, other) => other.clone(),
            (read, Self::Unread) => read,
        }
    }
}

impl Reads {
    /// What two readers read.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.headers.extend(other.headers.iter().cloned());
        self.query |= other.query;
        self.body |= other.body;
        self.source_ip = self.source_ip.and(&other.source_ip);
        self
    }
}
