//! Who may ask for a scope's decisions without being its proxy.
//!
//! Off unless the settings switch it on. A caller presents the scope's client ID and a secret, as HTTP
//! Basic credentials (RFC 7617); the store holds only the secrets' SHA-256, one a line, so that a new
//! secret can be let in before the old one is taken out. Secrets are random, so a plain digest keeps
//! them; they are compared in constant time. Or it is known by the SPIFFE ID of the certificate that its
//! connection was made with, which is of one scope; no header says that. Credentials that do not hold are
//! never passed over for a certificate.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Scope, Scopes};
use crate::secrets::Kept;
use crate::tls::UriSan;

/// What a scope answers beside its proxy's checks, and to whom.
#[derive(Clone, Debug)]
pub struct Api {
    /// Questions in the words of AuthZEN.
    pub authzen: bool,
    /// The checks of a proxy that asks over HTTP.
    pub check: bool,
    /// The scheme of the requests that such a proxy asks about: `http` or `https`.
    pub scheme: &'static str,
    /// Who presents one of these; `None`: nobody is known by a secret.
    pub secrets: Option<Kept<CallerSecrets>>,
    /// Who shows a certificate with one of these names.
    pub workloads: BTreeSet<UriSan>,
    /// Where they find it.
    pub public_url: Option<PublicUrl>,
}

/// The address that callers know a decision point by: `https`, and nothing behind the path. They compare
/// it letter by letter, so it is kept as it was written.
#[derive(Clone, Debug)]
pub struct PublicUrl {
    text: String,
    path: String,
}

/// A text that is no such address.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not an address such as https://pdp.example.com: https, without user, query, fragment, and `/` at the end"
)]
pub struct BadPublicUrl(String);

impl PublicUrl {
    /// Where metadata is found, before the path of the address (RFC 8615).
    pub const METADATA: &str = "/.well-known/authzen-configuration";

    /// Reads an address.
    ///
    /// # Errors
    /// [`BadPublicUrl`], if the specification or a comparison would stumble over it.
    pub fn parse(text: &str) -> Result<Self, BadPublicUrl> {
        let bad = || BadPublicUrl(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| bad())?;
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        if uri.scheme_str() != Some("https") || !has_host || text.contains(['?', '#', '@']) {
            return Err(bad());
        }
        if text.ends_with('/') {
            return Err(bad());
        }
        Ok(Self { text: text.to_owned(), path: uri.path().trim_end_matches('/').to_owned() })
    }

    /// The address as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where on its host the metadata is.
    pub fn metadata_path(&self) -> String {
        format!("{}{}", Self::METADATA, self.path)
    }

    /// The address of what is at `path` below it.
    pub fn of(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }
}

/// The digests of the secrets that callers may present.
#[derive(Debug)]
pub struct CallerSecrets(Vec<[u8; 32]>);

/// What a caller presents.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    credentials: Option<&'a [u8]>,
    workload: Option<&'a UriSan>,
}

impl<'a> Presented<'a> {
    /// The values of the header that holds Basic credentials, and whom the connection's certificate names.
    pub fn new(mut values: impl Iterator<Item = &'a [u8]>, workload: Option<&'a UriSan>) -> Self {
        let first = values.next();
        // Of two, neither holds.
        let credentials = first.map(|first| if values.next().is_some() { b"" } else { first });
        Self { credentials, workload }
    }
}

/// Why a caller is sent away.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallerError {
    /// No credentials, or not of the form they must have.
    #[error("the caller presents no Basic credentials, and no client certificate")]
    Missing,
    /// They hold for no scope that may be asked.
    #[error("the caller's credentials are not those of a scope that may be asked")]
    Refused,
    /// The secrets were not read yet.
    #[error("the secrets of the scope's callers are not loaded yet")]
    NotLoaded,
}

impl CallerSecrets {
    /// Reads the digests: `sha256:` and 64 hexadecimal digits, one a line; empty lines and lines that
    /// begin with `#` do not count.
    ///
    /// # Errors
    /// If a line is not of that form, or there is none; nothing of it is quoted.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
        let mut digests = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let read = line.strip_prefix("sha256:").and_then(sha256_of_hex);
            digests.push(read.ok_or_else(|| {
                format!("line {number} is not `sha256:` and the 64 hexadecimal digits of a digest")
            })?);
        }
        if digests.is_empty() {
            return Err("it holds no digest: write `sha256:` and 64 hexadecimal digits".to_owned());
        }
        Ok(Self(digests))
    }

    /// Whether `secret` is one of them.
    pub fn admit(&self, secret: &[u8]) -> bool {
        let presented = digest(&SHA256, secret);
        // Every one is compared, so that the time tells nothing.
        let equal = |known: &[u8; 32]| verify_slices_are_equal(known, presented.as_ref()).is_ok();
        self.0.iter().filter(|known| equal(known)).count() > 0
    }
}

impl Scopes {
    /// The scope that a caller may ask.
    ///
    /// # Errors
    /// [`CallerError`], if what it presents does not hold, or not yet.
    pub fn of_caller(&self, presented: Presented<'_>) -> Result<(&Arc<Scope>, &Api), CallerError> {
        match (presented.credentials, presented.workload) {
            (Some(credentials), _) => self.of_secret(credentials),
            (None, Some(workload)) => self.of_workload(workload),
            (None, None) => Err(CallerError::Missing),
        }
    }

    fn of_secret(&self, credentials: &[u8]) -> Result<(&Arc<Scope>, &Api), CallerError> {
        let (client_id, secret) = basic(credentials).ok_or(CallerError::Missing)?;
        let scope = self.with_client_id(&client_id).ok_or(CallerError::Refused)?;
        let api = scope.api.as_ref().ok_or(CallerError::Refused)?;
        let secrets = api.secrets.as_ref().ok_or(CallerError::Refused)?;
        let secrets = secrets.current().ok_or(CallerError::NotLoaded)?;
        if secrets.admit(&secret) { Ok((scope, api)) } else { Err(CallerError::Refused) }
    }

    fn of_workload(&self, workload: &UriSan) -> Result<(&Arc<Scope>, &Api), CallerError> {
        let scope = self.with_workload(workload).ok_or(CallerError::Refused)?;
        let api = scope.api.as_ref().filter(|api| api.workloads.contains(workload));
        Ok((scope, api.ok_or(CallerError::Refused)?))
    }
}

/// The user and password of Basic credentials (RFC 7617 section 2).
fn basic(credentials: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = credentials.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut decoded = STANDARD.decode(encoded).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let secret = decoded.split_off(colon + 1);
    decoded.truncate(colon);
    (!secret.is_empty()).then_some(())?;
    Some((String::from_utf8(decoded).ok()?, secret))
}

fn sha256_of_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok().map(|()| digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::scope::Selectable;

    /// The digest of `secret`.
    const DIGEST: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn api(text: &str) -> Api {
        let callers = Kept::fixed(CallerSecrets::parse(text.as_bytes()).unwrap());
        Api {
            authzen: true,
            check: true,
            scheme: "http",
            secrets: Some(callers),
            workloads: [id("orders-client")].into(),
            public_url: None,
        }
    }

    fn id(name: &str) -> UriSan {
        UriSan::parse(&format!("spiffe://example.org/{name}")).unwrap()
    }

    fn scopes() -> Scopes {
        let other = "sha256:".to_owned() + &"0".repeat(64);
        let with = |client_id: &str, api| {
            let scope = Arc::new(Scope { api, ..fixture::scope(client_id) });
            Selectable { scope, hosts: Vec::new(), default: false }
        };
        let orders = api(&format!(
            "# now and next\n{other}\n\n{}\n",
            DIGEST.to_uppercase().replace("SHA256", "sha256")
        ));
        Scopes::new(vec![with("orders", Some(orders)), with("closed", None)])
    }

    fn asked(credentials: &str) -> Result<String, CallerError> {
        presented(&[credentials], None)
    }

    fn presented(credentials: &[&str], workload: Option<&str>) -> Result<String, CallerError> {
        let workload = workload.map(id);
        let values = credentials.iter().map(|value| value.as_bytes());
        let scopes = scopes();
        let found = scopes.of_caller(Presented::new(values, workload.as_ref()));
        found.map(|(scope, _)| scope.client_id.clone())
    }

    #[test]
    fn a_certificate_counts_where_no_credentials_are_presented() {
        let (good, wrong) = (basic_of("orders:secret"), basic_of("orders:wrong"));
        let known = Some("orders-client");
        for (credentials, workload, expected) in [
            (&[][..], known, Ok("orders".to_owned())),
            (&[], Some("orders-client/x"), Err(CallerError::Refused)),
            (&[], None, Err(CallerError::Missing)),
            (&[good.as_str()], Some("stranger"), Ok("orders".to_owned())),
            (&[wrong.as_str()], known, Err(CallerError::Refused)),
            (&[good.as_str(), good.as_str()], known, Err(CallerError::Missing)),
            (&[""], known, Err(CallerError::Missing)),
        ] {
            assert_eq!(presented(credentials, workload), expected, "{credentials:?} {workload:?}");
        }
    }

    #[test]
    fn without_secrets_none_holds() {
        let api = Api { secrets: None, ..api(DIGEST) };
        let scope = Arc::new(Scope { api: Some(api), ..fixture::scope("orders") });
        let scopes = Scopes::new(vec![Selectable { scope, hosts: Vec::new(), default: true }]);
        let credentials = basic_of("orders:secret");
        let asked = Presented::new([credentials.as_bytes()].into_iter(), None);
        assert_eq!(scopes.of_caller(asked).map(drop), Err(CallerError::Refused));
    }

    fn basic_of(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[test]
    fn the_client_id_and_a_secret_of_its_own_are_asked_for() {
        assert_eq!(asked(&basic_of("orders:secret")), Ok("orders".to_owned()));
        assert_eq!(
            asked(&basic_of("orders:secret").replace("Basic", "bASIC")),
            Ok("orders".into())
        );
        for wrong in
            ["orders:Secret", "orders:secret ", "closed:secret", "Orders:secret", ":secret"]
        {
            assert_eq!(asked(&basic_of(wrong)), Err(CallerError::Refused), "{wrong}");
        }
        for missing in [
            String::new(),
            "Bearer x".to_owned(),
            "Basic".to_owned(),
            "Basic !".to_owned(),
            basic_of("orders"),
            basic_of("orders:"),
            format!("{},x", basic_of("orders:secret")),
        ] {
            assert_eq!(asked(&missing), Err(CallerError::Missing), "{missing}");
        }
        assert_eq!(presented(&[], None), Err(CallerError::Missing));
    }

    #[test]
    fn a_public_address_is_kept_as_it_was_written() {
        for (text, metadata) in [
            ("https://pdp.example.com", "/.well-known/authzen-configuration"),
            ("https://PDP.example.com:8443", "/.well-known/authzen-configuration"),
            ("https://a/orders/v1", "/.well-known/authzen-configuration/orders/v1"),
        ] {
            let url = PublicUrl::parse(text).unwrap();
            assert_eq!((url.as_str(), url.metadata_path().as_str()), (text, metadata));
            assert_eq!(url.of("/access"), format!("{text}/access"));
        }
        for text in [
            "",
            "pdp.example.com",
            "http://a",
            "https://",
            "https:///a",
            "https://a/",
            "https://a?b",
            "https://a#b",
            "https://u@a",
            "https://u:p@a",
            "https://a b",
            "/a",
        ] {
            assert!(PublicUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_holds_no_digest_is_refused_without_being_quoted() {
        for text in ["", "# none", "plain-secret", "sha256:", "sha256:00", &format!("{DIGEST}0")] {
            let error = CallerSecrets::parse(text.as_bytes()).unwrap_err();
            assert!(!error.contains("plain-secret"), "{error}");
        }
        assert!(CallerSecrets::parse(b"\xff").is_err());
    }
}
