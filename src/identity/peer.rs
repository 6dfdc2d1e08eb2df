//! The client certificate's holder, as a proxy verified it: a workload by its SPIFFE id, or another
//! holder by one of the certificate's names.
//!
//! The proxy's word is taken for the certificate (the settings refuse peers on a listener any local
//! process can reach), and a header's only when the connection comes from a trusted hop: from
//! anywhere else it is refused, not passed over. The id's form and its trust domain are checked here,
//! byte for byte, so that no two spellings stand for one workload; a certificate with two names of
//! the kind that counts has none.

use super::certificate::{Names, Thumbprint};
use super::principal::{Principal, PrincipalKind};
use super::refusal::{BadToken, Excerpt};
use super::settings::{CertificateSource, PeerSettings, PeerSubject, Place};
use crate::request::{AddressRead, Reads, Request, Source};

/// Whose certificates count; nobody's without `peer` settings.
#[derive(Debug)]
pub(super) struct Peers(Option<PeerSettings>);

/// The verified holder of a client certificate.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Peer {
    /// A workload, by its SPIFFE id.
    Workload(String),
    /// Another holder, by a name in the certificate.
    Certificate(String),
}

impl Peers {
    pub(super) fn new(settings: Option<PeerSettings>) -> Self {
        Self(settings)
    }

    /// The holder of the certificate; none without one, or where peers don't count.
    pub(super) fn authenticate(&self, request: &Request) -> Result<Option<Peer>, BadToken> {
        let Some(settings) = &self.0 else { return Ok(None) };
        if let (CertificateSource::Proxy, PeerSubject::SpiffeId) = (settings.from, settings.subject)
        {
            let principal = request.source.principal.as_deref().filter(|text| !text.is_empty());
            return principal.map(|id| settings.workload(id)).transpose();
        }
        let Some(names) = settings.names(request)? else { return Ok(None) };
        let certificate = |name: &String| Peer::Certificate(name.clone());
        match settings.subject {
            PeerSubject::SpiffeId => settings.workload(one(&names.uris)?),
            PeerSubject::UriSan => one(&names.uris).map(certificate),
            PeerSubject::DnsSan => one(&names.dns).map(certificate),
            PeerSubject::CommonName => one(&names.common_names).map(certificate),
            PeerSubject::Sha256 => {
                let hex = names.thumbprint.map(Thumbprint::hex);
                hex.map(Peer::Certificate).ok_or(BadToken::CertificateNames { count: 0 })
            }
        }
        .map(Some)
    }

    /// Adds what of a request is read, beside the proxy's own word for the certificate.
    pub(super) fn add_reads(&self, reads: &mut Reads) {
        let Some(settings) = &self.0 else { return };
        let name = match settings.from {
            CertificateSource::Proxy => return,
            CertificateSource::ClientCert => CLIENT_CERT,
            CertificateSource::Forwarded => FORWARDED,
        };
        reads.headers.insert(name.to_owned());
        reads.source_ip = AddressRead::Ranges(settings.trusted_hops.clone());
    }

    /// The caller's certificate, for tokens that are bound to it. Where certificates come in a
    /// header, that of the connection is the hop's.
    pub(super) fn thumbprint(&self, request: &Request) -> Option<Thumbprint> {
        match &self.0 {
            Some(settings) if settings.from != CertificateSource::Proxy => {
                settings.names(request).ok()??.thumbprint
            }
            _ => Thumbprint::of_pem(request.source.certificate.as_deref()?),
        }
    }
}

impl Peer {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Workload(id) | Self::Certificate(id) => id,
        }
    }

    pub(super) fn principal(self) -> Principal {
        let (kind, entity_type, id) = match self {
            Self::Workload(id) => (PrincipalKind::Workload, "Workload", id),
            Self::Certificate(id) => (PrincipalKind::Certificate, "Certificate", id),
        };
        Principal {
            kind,
            entity_type: entity_type.to_owned(),
            subject: Some(id.clone()),
            peer: Some(id.clone()),
            id,
            ..Principal::anonymous()
        }
    }
}

impl PeerSettings {
    fn workload(&self, text: &str) -> Result<Peer, BadToken> {
        let id = SpiffeId::parse(text)
            .ok_or_else(|| BadToken::PeerMalformed { id: Excerpt::new(text) })?;
        if !self.trust_domains.iter().any(|domain| domain == id.trust_domain) {
            return Err(BadToken::PeerForeign { domain: Excerpt::new(id.trust_domain) });
        }
        Ok(Peer::Workload(id.text.to_owned()))
    }

    /// The names in the caller's certificate; none when there is no certificate.
    fn names(&self, request: &Request) -> Result<Option<Names>, BadToken> {
        let (name, read): (_, fn(&str) -> Option<Names>) = match self.from {
            CertificateSource::Proxy => return connected(&request.source),
            CertificateSource::ClientCert => (CLIENT_CERT, Names::of_client_cert),
            CertificateSource::Forwarded => (FORWARDED, Names::of_forwarded),
        };
        let mut fields = request.headers.all(name);
        let Some(field) = fields.next() else { return Ok(None) };
        let place = header(name);
        if !self.trusts(&request.source) {
            let from = request.source.ip.map_or_else(|| "nowhere".to_owned(), |ip| ip.to_string());
            return Err(BadToken::UntrustedHop { place, from: Excerpt::new(&from) });
        }
        if fields.next().is_some() {
            return Err(BadToken::Repeated { place });
        }
        let names = str::from_utf8(field).ok().and_then(read);
        names.map(Some).ok_or(BadToken::CertificateMalformed { place })
    }

    fn trusts(&self, source: &Source) -> bool {
        // A dual-stack socket shows IPv4 peers inside IPv6.
        let ip = source.ip.map(|ip| ip.to_canonical());
        ip.is_some_and(|ip| self.trusted_hops.iter().any(|hop| hop.contains(&ip)))
    }
}

/// RFC 9440 section 2.2.
const CLIENT_CERT: &str = "client-cert";

/// Envoy's own header for client certificates.
const FORWARDED: &str = "x-forwarded-client-cert";

fn header(name: &str) -> Place {
    Place::Header { name: name.to_owned(), prefix: String::new() }
}

/// The names in the certificate of whoever connected to the proxy that asks us.
fn connected(source: &Source) -> Result<Option<Names>, BadToken> {
    let malformed = || BadToken::CertificateMalformed { place: header("source.certificate") };
    match (&source.certificate, &source.principal) {
        (Some(pem), _) => Names::of_pem(pem).map(Some).ok_or_else(malformed),
        (None, Some(_)) => Err(BadToken::CertificateUnsent),
        (None, None) => Ok(None),
    }
}

/// The single one of a certificate's names of one kind.
fn one(names: &[String]) -> Result<&String, BadToken> {
    match names {
        [name] if !name.is_empty() => Ok(name),
        _ => Err(BadToken::CertificateNames { count: names.len() }),
    }
}

/// `spiffe://<trust domain>/<path>`, in the form the SPIFFE-ID standard (section 2) allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct SpiffeId<'a> {
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
}

/// Whether `text` is the SPIFFE ID of a workload, in that form.
pub fn is_spiffe_id(text: &str) -> bool {
    SpiffeId::parse(text).is_some()
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

    fn settings(from: CertificateSource, subject: PeerSubject) -> PeerSettings {
        PeerSettings {
            trust_domains: vec!["cluster.local".to_owned()],
            from,
            trusted_hops: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            subject,
        }
    }

    fn authenticate(principal: Option<&str>) -> Result<Option<String>, BadToken> {
        let peers = Peers::new(Some(settings(CertificateSource::Proxy, PeerSubject::SpiffeId)));
        let source = Source { principal: principal.map(str::to_owned), ..Source::default() };
        let request = Request { source, ..Request::default() };
        Ok(peers.authenticate(&request)?.map(|peer| peer.id().to_owned()))
    }

    /// Who the fields `x-forwarded-client-cert` from `ip` are, by `subject`.
    fn forwarded(
        subject: PeerSubject,
        ip: Option<&str>,
        fields: &[&str],
    ) -> Result<Option<Peer>, BadToken> {
        let peers = Peers::new(Some(settings(CertificateSource::Forwarded, subject)));
        let mut request = Request::default();
        request.source.ip = ip.map(|ip| ip.parse().unwrap());
        for field in fields {
            request.headers.push(FORWARDED, *field);
        }
        peers.authenticate(&request)
    }

    #[test]
    fn a_header_counts_from_a_trusted_hop_and_is_refused_from_elsewhere() {
        let field = ["URI=spiffe://cluster.local/a;DNS=a.example"];
        let workload = || Ok(Some(Peer::Workload("spiffe://cluster.local/a".to_owned())));
        for ip in ["10.0.0.1", "10.255.0.9", "::ffff:10.1.2.3", "fd00::1"] {
            assert_eq!(forwarded(PeerSubject::SpiffeId, Some(ip), &field), workload(), "{ip}");
            assert_eq!(forwarded(PeerSubject::SpiffeId, Some(ip), &[]), Ok(None), "{ip}");
        }
        for ip in [Some("11.0.0.1"), Some("127.0.0.1"), Some("::1"), Some("::ffff:11.0.0.1"), None]
        {
            let refused = forwarded(PeerSubject::SpiffeId, ip, &field);
            assert!(matches!(refused, Err(BadToken::UntrustedHop { .. })), "{ip:?}: {refused:?}");
            assert_eq!(forwarded(PeerSubject::SpiffeId, ip, &[]), Ok(None), "{ip:?}");
        }
    }

    #[test]
    fn a_header_speaks_of_one_certificate_with_one_name() {
        let ask = |subject, fields: &[&str]| forwarded(subject, Some("10.0.0.1"), fields);
        let certificate = |name: &str| Ok(Some(Peer::Certificate(name.to_owned())));
        let hash = "ab".repeat(32);
        assert_eq!(ask(PeerSubject::UriSan, &["URI=https://a"]), certificate("https://a"));
        assert_eq!(ask(PeerSubject::DnsSan, &["DNS=a"]), certificate("a"));
        assert_eq!(ask(PeerSubject::Sha256, &[&format!("Hash={hash}")]), certificate(&hash));
        let none = Err(BadToken::CertificateNames { count: 0 });
        for subject in [PeerSubject::SpiffeId, PeerSubject::UriSan, PeerSubject::CommonName] {
            assert_eq!(ask(subject, &["DNS=a;Subject=\"CN=a\""]), none, "{subject:?}");
        }
        assert_eq!(ask(PeerSubject::Sha256, &["DNS=a"]), none);
        let two = Err(BadToken::CertificateNames { count: 2 });
        assert_eq!(ask(PeerSubject::DnsSan, &["DNS=a;DNS=b"]), two);
        let two_ids = "URI=spiffe://cluster.local/a;URI=spiffe://cluster.local/b";
        assert_eq!(ask(PeerSubject::SpiffeId, &[two_ids]), two);
        let foreign = ask(PeerSubject::SpiffeId, &["URI=spiffe://evil.example/a"]);
        assert!(matches!(foreign, Err(BadToken::PeerForeign { .. })), "{foreign:?}");
        for fields in [&["DNS=a", "DNS=b"][..], &["DNS=a", "DNS=a"]] {
            let refused = ask(PeerSubject::DnsSan, fields);
            assert!(matches!(refused, Err(BadToken::Repeated { .. })), "{refused:?}");
        }
        for field in ["DNS=a,DNS=b", "DNS=evil,By=proxy;DNS=a", "", "\"", "\u{fffd}"] {
            let refused = ask(PeerSubject::DnsSan, &[field]);
            assert!(
                matches!(refused, Err(BadToken::CertificateMalformed { .. })),
                "{field}: {refused:?}"
            );
        }
    }

    #[test]
    fn the_proxy_s_own_certificate_needs_to_be_sent() {
        let peers = Peers::new(Some(settings(CertificateSource::Proxy, PeerSubject::DnsSan)));
        let ask = |principal: Option<&str>, certificate: Option<&str>| {
            let (principal, certificate) =
                (principal.map(str::to_owned), certificate.map(str::to_owned));
            let source = Source { principal, certificate, ..Source::default() };
            peers.authenticate(&Request { source, ..Request::default() })
        };
        assert_eq!(ask(None, None), Ok(None));
        assert_eq!(ask(Some("a.example"), None), Err(BadToken::CertificateUnsent));
        assert!(matches!(ask(None, Some("x")), Err(BadToken::CertificateMalformed { .. })));
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
        let mut request = Request { source, ..Request::default() };
        request.headers.push(FORWARDED, "URI=spiffe://cluster.local/a");
        assert_eq!(Peers::new(None).authenticate(&request), Ok(None));
    }
}
