//! The checked form of a scope's `identity` settings, and what can still be wrong with it.
//!
//! These come from the settings file with their defaults filled in. [`IdentitySettings::faults`]
//! names everything in them that could never work, or would let one caller pass for another.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::claims::ClaimPath;
use super::jwks::{self, KeyUrlFault};
use super::peer;
use crate::keys::Algorithm;

/// How a scope tells who asks.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// Which credentials there must be.
    pub require: Require,
    /// Whose tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// Which client certificates are.
    pub peer: Option<PeerSettings>,
    /// Whether a request without any credentials is the anonymous principal.
    pub anonymous: bool,
}

/// Which credentials there must be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Require {
    /// A token; a peer is noted when there is a valid one.
    Jwt,
    /// A peer.
    Peer,
    /// A token and a peer; the principal is the token's.
    Both,
    /// A token, or in its absence a peer.
    Either,
}

/// One issuer of incoming tokens.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// The exact `iss`.
    pub issuer: String,
    /// Of which a token must name one.
    pub audiences: Audiences,
    /// Where its keys are.
    pub keys: KeySourceSettings,
    /// Whether its keys may be fetched over plain http from another machine.
    pub insecure_http: bool,
    /// The accepted `alg`.
    pub algorithms: Vec<Algorithm>,
    /// The accepted `typ`.
    pub types: Vec<TokenType>,
    /// Where its tokens stand, in the order they are looked for.
    pub from: Vec<Place>,
    /// The claim that names the caller.
    pub subject: ClaimPath,
    /// The claim that lists the caller's groups.
    pub groups: ClaimPath,
    /// The Cedar entity type of its callers.
    pub principal_type: String,
    /// What stands before each of its groups.
    pub group_prefix: String,
    /// How far its clock may be off, for `nbf` and `iat`; never for `exp`.
    pub clock_skew: Duration,
}

/// The accepted `aud`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Audiences {
    /// Any, and none at all.
    Any,
    /// One of these.
    OneOf(Vec<String>),
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeySourceSettings {
    /// A JWK set at this address.
    Url(String),
    /// A JWK set in this file.
    File(PathBuf),
    /// Named by the issuer's OpenID configuration.
    Discovery,
}

/// An accepted `typ`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenType {
    /// A token without `typ`.
    Absent,
    /// This one, in lower case and without `application/`.
    Named(String),
}

impl TokenType {
    /// Reads a `types` entry or a token's `typ`: case does not matter, nor does `application/`
    /// (RFC 7515 section 4.1.9).
    pub fn named(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        Self::Named(name.strip_prefix("application/").unwrap_or(&name).to_owned())
    }
}

/// Where a token may stand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// In this header field, behind this prefix (case does not matter in either).
    Header {
        /// The field's name.
        name: String,
        /// What stands before the token, its space included; may be empty.
        prefix: String,
    },
    /// In this cookie.
    Cookie {
        /// The cookie's name, case-sensitive.
        name: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, .. } => write!(f, "header `{name}`"),
            Self::Cookie { name } => write!(f, "cookie `{name}`"),
        }
    }
}

/// Which client certificates are accepted.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// The SPIFFE trust domains, without `spiffe://`.
    pub trust_domains: Vec<String>,
}

/// What is wrong with `identity` settings.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum IdentityError {
    #[error("require `{require}` needs {missing} settings: add them, or change `require`")]
    Required { require: &'static str, missing: &'static str },
    #[error("require `peer` never reads a token: drop the jwt settings, or change `require`")]
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
    pub fn faults(&self, own_issuers: &[String]) -> Vec<IdentityError> {
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
        if let Some(peer) = &self.peer {
            if peer.trust_domains.is_empty() {
                faults.push(IdentityError::NoTrustDomain);
            }
            let bad = peer.trust_domains.iter().filter(|domain| !peer::is_trust_domain(domain));
            faults.extend(bad.map(|domain| IdentityError::TrustDomain { domain: domain.clone() }));
        }
        faults
    }

    /// With neither jwt nor peer nobody can authenticate: strict, and no error.
    fn requirement_faults(&self) -> Vec<IdentityError> {
        let (jwt, peer) = (!self.issuers.is_empty(), self.peer.is_some());
        if !jwt && !peer {
            return Vec::new();
        }
        let missing = |missing| {
            let require = self.require.name();
            vec![IdentityError::Required { require, missing }]
        };
        match self.require {
            Require::Jwt | Require::Both | Require::Either if !jwt => missing("jwt"),
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
        // A subject is the issuer's free choice: with one of these types it could name a workload.
        if ["Workload", "Anonymous", "Group", ""].contains(&self.principal_type.as_str()) {
            let name = self.principal_type.clone();
            faults.push(IdentityError::PrincipalType { issuer: issuer(), name });
        }
        for place in &self.from {
            let (Place::Header { name, .. } | Place::Cookie { name }) = place;
            if !is_field_name(name) {
                faults.push(IdentityError::PlaceName { issuer: issuer(), place: place.clone() });
            }
            if let Place::Header { prefix, .. } = place
                && !is_prefix(prefix)
            {
                faults.push(IdentityError::Prefix { issuer: issuer(), prefix: prefix.clone() });
            }
        }
        if let Err((url, fault)) = jwks::check_source(self) {
            faults.push(IdentityError::KeyUrl { issuer: issuer(), url, fault });
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fixture;

    /// The faults of the usual settings after `change`.
    fn faults(change: impl FnOnce(&mut IdentitySettings)) -> Vec<String> {
        let mut settings = fixture::settings();
        change(&mut settings);
        let own = ["placet".to_owned()];
        settings.faults(&own).iter().map(ToString::to_string).collect()
    }

    fn first(settings: &mut IdentitySettings) -> &mut IssuerSettings {
        &mut settings.issuers[0]
    }

    #[test]
    fn the_usual_settings_have_no_fault() {
        assert_eq!(faults(|_| {}), [""; 0]);
        assert_eq!(faults(|s| s.issuers.push(fixture::issuer("https://other.example"))), [""; 0]);
    }

    #[test]
    fn an_issuer_of_our_own_tokens_is_refused() {
        assert_eq!(
            faults(|s| first(s).issuer = "placet".to_owned()),
            ["issuer `placet` is the issuer of our own decision tokens, which are never \
              credentials: change one of the two"]
        );
        assert_eq!(faults(|s| first(s).issuer = "Placet".to_owned()), [""; 0]);
    }

    #[test]
    fn what_is_required_must_be_configured() {
        let peer = || Some(PeerSettings { trust_domains: vec!["cluster.local".to_owned()] });
        for (require, jwt, peered, sound) in [
            (Require::Jwt, true, false, true),
            (Require::Jwt, true, true, true),
            (Require::Jwt, false, true, false),
            (Require::Peer, false, true, true),
            (Require::Peer, true, true, false),
            (Require::Peer, true, false, false),
            (Require::Both, true, true, true),
            (Require::Both, true, false, false),
            (Require::Both, false, true, false),
            (Require::Either, true, true, true),
            (Require::Either, true, false, false),
            (Require::Either, false, true, false),
            (Require::Both, false, false, true),
        ] {
            let found = faults(|s| {
                s.require = require;
                s.peer = peered.then(peer).flatten();
                if !jwt {
                    s.issuers.clear();
                }
            });
            assert_eq!(found.is_empty(), sound, "{require:?} {jwt} {peered}: {found:?}");
        }
    }

    #[test]
    fn what_could_never_work_is_refused() {
        let header = |name: &str, prefix: &str| {
            vec![Place::Header { name: name.to_owned(), prefix: prefix.to_owned() }]
        };
        type Change = Box<dyn Fn(&mut IssuerSettings)>;
        let changes: Vec<(&str, Change)> = vec![
            ("an issuer is empty", Box::new(|i| i.issuer = String::new())),
            ("no audience", Box::new(|i| i.audiences = Audiences::OneOf(vec![]))),
            ("no algorithm", Box::new(|i| i.algorithms.clear())),
            ("no type", Box::new(|i| i.types.clear())),
            ("no place", Box::new(|i| i.from.clear())),
            ("empty claim path", Box::new(|i| i.subject = ClaimPath::new(""))),
            ("empty claim path", Box::new(|i| i.groups = ClaimPath::new(""))),
            ("principal type `Workload`", Box::new(|i| i.principal_type = "Workload".to_owned())),
            ("principal type `Anonymous`", Box::new(|i| i.principal_type = "Anonymous".to_owned())),
            ("principal type `Group`", Box::new(|i| i.principal_type = "Group".to_owned())),
            ("principal type ``", Box::new(|i| i.principal_type = String::new())),
            ("no name of one", Box::new(move |i| i.from = header(":path", ""))),
            ("no name of one", Box::new(move |i| i.from = header("", ""))),
            ("no name of one", Box::new(move |i| i.from = header("a b", ""))),
            ("the prefix `Bearer`", Box::new(move |i| i.from = header("a", "Bearer"))),
            ("the prefix `a, `", Box::new(move |i| i.from = header("a", "a, "))),
            ("the prefix `é `", Box::new(move |i| i.from = header("a", "é "))),
        ];
        for (text, change) in changes {
            let found = faults(|s| change(first(s)));
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains(text), "{text}: {found:?}");
        }
        let twice = faults(|s| s.issuers.push(fixture::issuer(fixture::ISSUER)));
        assert!(twice[0].contains("listed twice"), "{twice:?}");
    }

    #[test]
    fn trust_domains_are_names() {
        let peer = |domains: &[&str]| {
            faults(|s| {
                let trust_domains = domains.iter().map(|&d| d.to_owned()).collect();
                s.peer = Some(PeerSettings { trust_domains });
            })
        };
        assert_eq!(peer(&["cluster.local", "a_b-c.1"]), [""; 0]);
        assert_eq!(peer(&[]).len(), 1);
        assert_eq!(peer(&["Cluster.local", "", "a/b", "spiffe://a", "a:1", "*"]).len(), 6);
    }
}
