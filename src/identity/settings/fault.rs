//! What can be wrong with `identity` settings: everything that could never work, or would let one
//! caller pass for another.

use std::collections::BTreeSet;

use super::{
    ApiKeySettings, Audiences, CertificateSource, IdentitySettings, IssuerSettings,
    KeySourceSettings, PeerSettings, PeerSubject, Place, Require,
};
use crate::identity::{jwks, peer};
use crate::remote::KeyUrlFault;

/// What is wrong with `identity` settings.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum IdentityError {
    #[error("require `{require}` needs {missing} settings: add them, or change `require`")]
    Required { require: &'static str, missing: &'static str },
    #[error(
        "require `peer` never reads a token or API key: drop jwt and apiKeys, or change `require`"
    )]
    JwtUnused,
    #[error("an issuer is empty: write the `iss` of its tokens")]
    IssuerEmpty,
    #[error("issuer `{issuer}` is listed twice: list it once, with all its audiences and places")]
    IssuerTwice { issuer: String },
    #[error(
        "issuer `{issuer}` is the issuer of our own decision tokens, which are never credentials: \
         change one of the two"
    )]
    IssuerIsOwn { issuer: String },
    #[error("issuer `{issuer}` accepts no {what}: name at least one")]
    NoneOf { issuer: String, what: &'static str },
    #[error("issuer `{issuer}` has an empty claim path: name the claim, or leave the default")]
    ClaimPathEmpty { issuer: String },
    #[error(
        "issuer `{issuer}` has the principal type `{name}`, which stands for other principals: \
         choose another, such as `User`"
    )]
    PrincipalType { issuer: String, name: String },
    #[error("issuer `{issuer}` reads the {place}, which is no name of one: use letters and `-`")]
    PlaceName { issuer: String, place: Place },
    #[error(
        "issuer `{issuer}` has the prefix `{prefix}`: end it in a space or other separator, and \
         use no comma, for the token follows at once"
    )]
    Prefix { issuer: String, prefix: String },
    #[error("issuer `{issuer}` has its keys at `{url}`: {fault}")]
    KeyUrl { issuer: String, url: String, fault: KeyUrlFault },
    #[error(
        "issuers `{one}` and `{other}` would both be asked about a token in the {place}: give each \
         its own place or prefix"
    )]
    TwoAsked { one: String, other: String, place: Place },
    #[error(
        "issuer `{issuer}` can't have the claim `{name}` mapped, which is the token's own: choose \
         another name"
    )]
    ClaimName { issuer: String, name: String },
    #[error(
        "issuer `{issuer}` would be shown a token over plain http: use https, or drop `tokenFile`"
    )]
    TokenInTheClear { issuer: String },
    #[error("issuer `{issuer}` can't be asked at its `introspection.url`: {fault}")]
    AskUrl { issuer: String, fault: KeyUrlFault },
    #[error("the API keys' {place} is where a token of issuer `{issuer}` stands: choose another")]
    ApiKeyPlace { issuer: String, place: Place },
    #[error("the API keys' {place} is no name of one, or its prefix ends in a letter or digit")]
    ApiKeyPlaceName { place: Place },
    #[error(
        "the API keys have the principal type `{name}`, which stands for other principals: choose \
         another, such as `ApiKey`"
    )]
    ApiKeyType { name: String },
    #[error(
        "certificates in a header are anyone's word: list the `trustedHops` that set the header"
    )]
    NoTrustedHop,
    #[error("`trustedHops` only belongs to certificates in a header: remove it, or set `from`")]
    HopsUnused,
    #[error("`trustDomains` only belongs to the subject `spiffeId`: remove it")]
    TrustDomainsUnused,
    #[error("no trust domain is listed: name at least one, such as `cluster.local`")]
    NoTrustDomain,
    #[error(
        "`{domain}` is no trust domain: use lower-case letters, digits, `.`, `-` and `_`, without \
         `spiffe://`"
    )]
    TrustDomain { domain: String },
    #[error("there are {issuers} issuers and {keys} sets of keys: give one for each issuer")]
    KeysMissing { issuers: usize, keys: usize },
}

impl IdentitySettings {
    /// Everything wrong with these settings, given the `iss` of every decision token we mint.
    pub fn faults(&self, own_issuers: &BTreeSet<String>) -> Vec<IdentityError> {
        let mut faults = self.requirement_faults();
        for (index, settings) in self.issuers.iter().enumerate() {
            let issuer = || settings.issuer.clone();
            if self.issuers.iter().take(index).any(|other| other.issuer == settings.issuer) {
                faults.push(IdentityError::IssuerTwice { issuer: issuer() });
            }
            if own_issuers.contains(&settings.issuer) {
                faults.push(IdentityError::IssuerIsOwn { issuer: issuer() });
            }
            settings.faults(&mut faults);
        }
        faults.extend(self.twice_asked());
        if let Some(keys) = &self.api_keys {
            self.api_key_faults(keys, &mut faults);
        }
        if let Some(peer) = &self.peer {
            peer.faults(&mut faults);
        }
        faults
    }

    /// A token that names no issuer could be of either of two that are asked.
    fn twice_asked(&self) -> Vec<IdentityError> {
        let is_asked = |settings: &&IssuerSettings| {
            matches!(settings.keys, KeySourceSettings::Introspection(_))
        };
        let asked: Vec<_> = self.issuers.iter().filter(is_asked).collect();
        let mut faults = Vec::new();
        for (index, issuer) in asked.iter().enumerate() {
            for other in asked.iter().take(index) {
                let is_shared = |place: &&Place| other.from.iter().any(|its| its.is_also(place));
                if let Some(place) = issuer.from.iter().find(is_shared) {
                    let (one, other) = (other.issuer.clone(), issuer.issuer.clone());
                    faults.push(IdentityError::TwoAsked { one, other, place: place.clone() });
                }
            }
        }
        faults
    }

    fn api_key_faults(&self, keys: &ApiKeySettings, faults: &mut Vec<IdentityError>) {
        let place = keys.place.clone();
        if !place.is_sound() {
            faults.push(IdentityError::ApiKeyPlaceName { place: place.clone() });
        }
        let reads = |issuer: &&IssuerSettings| issuer.from.iter().any(|its| its.is_also(&place));
        if let Some(issuer) = self.issuers.iter().find(reads) {
            let issuer = issuer.issuer.clone();
            faults.push(IdentityError::ApiKeyPlace { issuer, place: place.clone() });
        }
        if is_taken(&keys.principal_type) {
            faults.push(IdentityError::ApiKeyType { name: keys.principal_type.clone() });
        }
    }

    /// With neither jwt nor peer nobody can authenticate: strict, and no error.
    fn requirement_faults(&self) -> Vec<IdentityError> {
        let jwt = !self.issuers.is_empty() || self.api_keys.is_some();
        let peer = self.peer.is_some();
        if !jwt && !peer {
            return Vec::new();
        }
        let missing = |missing| {
            let require = self.require.name();
            vec![IdentityError::Required { require, missing }]
        };
        match self.require {
            Require::Jwt | Require::Both | Require::Either if !jwt => missing("jwt or apiKeys"),
            Require::Peer | Require::Both | Require::Either if !peer => missing("peer"),
            Require::Peer if jwt => vec![IdentityError::JwtUnused],
            _ => Vec::new(),
        }
    }
}

impl Require {
    const fn name(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Peer => "peer",
            Self::Both => "both",
            Self::Either => "either",
        }
    }
}

impl IssuerSettings {
    fn faults(&self, faults: &mut Vec<IdentityError>) {
        let issuer = || self.issuer.clone();
        if self.issuer.is_empty() {
            faults.push(IdentityError::IssuerEmpty);
        }
        let none = [
            (self.audiences == Audiences::OneOf(Vec::new()), "audience"),
            (self.algorithms.is_empty(), "algorithm"),
            (self.types.is_empty(), "type"),
            (self.from.is_empty(), "place for its tokens"),
        ];
        for (_, what) in none.into_iter().filter(|(none, _)| *none) {
            faults.push(IdentityError::NoneOf { issuer: issuer(), what });
        }
        if self.subject.is_empty() || self.groups.is_empty() {
            faults.push(IdentityError::ClaimPathEmpty { issuer: issuer() });
        }
        for (name, path) in &self.claims {
            if path.is_empty() {
                faults.push(IdentityError::ClaimPathEmpty { issuer: issuer() });
            }
            if name.is_empty() || JUDGED.contains(&name.as_str()) {
                faults.push(IdentityError::ClaimName { issuer: issuer(), name: name.clone() });
            }
        }
        if is_taken(&self.principal_type) {
            let name = self.principal_type.clone();
            faults.push(IdentityError::PrincipalType { issuer: issuer(), name });
        }
        for place in &self.from {
            if !is_field_name(place.name()) {
                faults.push(IdentityError::PlaceName { issuer: issuer(), place: place.clone() });
            }
            if let Place::Header { prefix, .. } = place
                && !is_prefix(prefix)
            {
                faults.push(IdentityError::Prefix { issuer: issuer(), prefix: prefix.clone() });
            }
        }
        if self.token_file.is_some() && self.insecure_http {
            faults.push(IdentityError::TokenInTheClear { issuer: issuer() });
        }
        if let KeySourceSettings::Introspection(asking) = &self.keys {
            if let Err(fault) = asking.endpoint() {
                faults.push(IdentityError::AskUrl { issuer: issuer(), fault });
            }
        } else if let Err((url, fault)) = jwks::check_source(self) {
            faults.push(IdentityError::KeyUrl { issuer: issuer(), url, fault });
        }
    }
}

impl PeerSettings {
    fn faults(&self, faults: &mut Vec<IdentityError>) {
        match (self.subject, self.trust_domains.is_empty()) {
            (PeerSubject::SpiffeId, true) => faults.push(IdentityError::NoTrustDomain),
            (PeerSubject::SpiffeId, false) | (_, true) => {}
            (_, false) => faults.push(IdentityError::TrustDomainsUnused),
        }
        match (self.from, self.trusted_hops.is_empty()) {
            (CertificateSource::Proxy, true) => {}
            (CertificateSource::Proxy, false) => faults.push(IdentityError::HopsUnused),
            (_, true) => faults.push(IdentityError::NoTrustedHop),
            (_, false) => {}
        }
        let bad = self.trust_domains.iter().filter(|domain| !peer::is_trust_domain(domain));
        faults.extend(bad.map(|domain| IdentityError::TrustDomain { domain: domain.clone() }));
    }
}

impl Place {
    /// Whether a credential here could be `other`'s as well.
    fn is_also(&self, other: &Self) -> bool {
        let ((place, prefix), (other, other_prefix)) = (self.bare(), other.bare());
        place == other && prefix.eq_ignore_ascii_case(other_prefix)
    }

    fn is_sound(&self) -> bool {
        is_field_name(self.name()) && is_prefix(self.bare().1)
    }

    fn name(&self) -> &str {
        let (Self::Header { name, .. } | Self::Cookie { name } | Self::Query { name }) = self;
        name
    }
}

/// Claims that were judged, or go into our token, as the issuer wrote them.
const JUDGED: [&str; 9] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "cnf", "act"];

/// Whether the entity type `name` stands for principals that no issuer or list may name: a subject is
/// its free choice, and could be that of a workload.
fn is_taken(name: &str) -> bool {
    ["Workload", "Certificate", "Anonymous", "Group", ""].contains(&name)
}

/// Whether `name` is an RFC 9110 token: the syntax of header field and cookie names.
fn is_field_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn is_prefix(prefix: &str) -> bool {
    let visible = prefix.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b',');
    visible && !prefix.ends_with(|c: char| c.is_ascii_alphanumeric())
}
