//! Workloads: the SPIFFE id in the client certificate, as the proxy verified it.
//!
//! The proxy's word is taken for the certificate (the settings refuse peers on a listener any local
//! process can reach); the id's form and its trust domain are checked here, byte for byte, so that
//! no two spellings stand for one workload.

use super::refusal::{BadToken, Excerpt};
use super::settings::PeerSettings;
use crate::request::Source;

/// The trust domains whose workloads count; none of them without `peer` settings.
#[derive(Debug)]
pub(super) struct Peers(Option<Vec<String>>);

impl Peers {
    pub(super) fn new(settings: Option<PeerSettings>) -> Self {
        Self(settings.map(|settings| settings.trust_domains))
    }

    /// The workload that connected; none without a certificate, or where peers don't count.
    pub(super) fn authenticate<'a>(
        &self,
        source: &'a Source,
    ) -> Result<Option<SpiffeId<'a>>, BadToken> {
        let Some(trusted) = &self.0 else { return Ok(None) };
        let Some(text) = source.principal.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let id = SpiffeId::parse(text)
            .ok_or_else(|| BadToken::PeerMalformed { id: Excerpt::new(text) })?;
        if !trusted.iter().any(|domain| domain == id.trust_domain) {
            return Err(BadToken::PeerForeign { domain: Excerpt::new(id.trust_domain) });
        }
        Ok(Some(id))
    }
}

/// `spiffe://<trust domain>/<path>`, in the form the SPIFFE-ID standard (section 2) allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SpiffeId<'a> {
    text: &'a str,
    trust_domain: &'a str,
}

impl<'a> SpiffeId<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (trust_domain, path) = text.strip_prefix("spiffe://")?.split_once('/')?;
        let sound = text.len() <= 2048
            && is_trust_domain(trust_domain)
            && path.split('/').all(is_path_segment);
        sound.then_some(Self { text, trust_domain })
    }

    pub(super) const fn as_str(self) -> &'a str {
        self.text
    }
}

/// Whether `name` is a trust domain: lower-case letters, digits, `.`, `-`, `_`; 255 bytes at most.
pub(super) fn is_trust_domain(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    (1..=255).contains(&name.len()) && name.bytes().all(allowed)
}

fn is_path_segment(segment: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticate(principal: Option<&str>) -> Result<Option<String>, BadToken> {
        let trust_domains = vec!["cluster.local".to_owned()];
        let peers = Peers::new(Some(PeerSettings { trust_domains }));
        let source = Source { principal: principal.map(str::to_owned), ..Source::default() };
        Ok(peers.authenticate(&source)?.map(|id| id.as_str().to_owned()))
    }

    #[test]
    fn a_workload_of_a_trusted_domain_is_known_by_its_id() {
        for id in [
            "spiffe://cluster.local/ns/prod/sa/frontend",
            "spiffe://cluster.local/A-z_0.9",
            "spiffe://cluster.local/...",
        ] {
            assert_eq!(authenticate(Some(id)), Ok(Some(id.to_owned())));
        }
        assert_eq!(authenticate(None), Ok(None));
        assert_eq!(authenticate(Some("")), Ok(None));
    }

    #[test]
    fn a_foreign_domain_is_refused() {
        for domain in [
            "example.org",
            "cluster.local.evil",
            "evil.cluster.local",
            "cluster-local",
            "cluster.locals",
        ] {
            let cause = BadToken::PeerForeign { domain: Excerpt::new(domain) };
            assert_eq!(authenticate(Some(&format!("spiffe://{domain}/ns/a"))), Err(cause));
        }
    }

    #[test]
    fn what_is_no_spiffe_id_is_refused() {
        let long = format!("spiffe://cluster.local/{}", "a".repeat(2048 - 23));
        assert_eq!(authenticate(Some(&long)), Ok(Some(long.clone())));
        let domain = format!("spiffe://{}/a", "a".repeat(256));
        for id in [
            "frontend.prod.svc",
            "CN=spiffe://cluster.local/a",
            "SPIFFE://cluster.local/a",
            "https://cluster.local/a",
            "spiffe:/cluster.local/a",
            "spiffe://cluster.local",
            "spiffe://cluster.local/",
            "spiffe:///a",
            "spiffe://Cluster.local/a",
            "spiffe://cluster.local:443/a",
            "spiffe://user@cluster.local/a",
            "spiffe://cluster.local/a?b",
            "spiffe://cluster.local/a#b",
            "spiffe://cluster.local/a/",
            "spiffe://cluster.local//a",
            "spiffe://cluster.local/a//b",
            "spiffe://cluster.local/./a",
            "spiffe://cluster.local/a/../b",
            "spiffe://cluster.local/a%2fb",
            "spiffe://cluster.local/é",
            "spiffe://cluster.local/a b",
            "spiffe://cluster.local/a,spiffe://cluster.local/b",
            " spiffe://cluster.local/a",
            "spiffe://cluster.local/a\n",
            &format!("{long}a"),
            &domain,
        ] {
            let cause = BadToken::PeerMalformed { id: Excerpt::new(id) };
            assert_eq!(authenticate(Some(id)), Err(cause), "{id}");
        }
    }

    #[test]
    fn without_peer_settings_no_peer_counts() {
        let principal = Some("spiffe://cluster.local/a".to_owned());
        let source = Source { principal, ..Source::default() };
        assert_eq!(Peers::new(None).authenticate(&source), Ok(None));
    }
}
