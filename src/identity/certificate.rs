//! The names in a client certificate, whichever way it reached us: as PEM from the proxy, in the
//! header of RFC 9440, or in Envoy's `x-forwarded-client-cert`.
//!
//! Nothing is verified here: whoever hands a certificate over has verified it, and [`super::peer`]
//! says whose word is taken. But a text that can be read in two ways is no certificate.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;

/// The SHA-256 of a certificate's DER form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Thumbprint([u8; 32]);

impl Thumbprint {
    fn of(der: &[u8]) -> Option<Self> {
        digest::digest(&digest::SHA256, der).as_ref().try_into().ok().map(Self)
    }

    /// The thumbprint of the first certificate in `pem`.
    pub(super) fn of_pem(pem: &str) -> Option<Self> {
        Self::of(&der_of_pem(pem)?)
    }

    /// As in `x5t#S256` (RFC 8705 section 3.1).
    pub(super) fn base64url(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// In lower-case hexadecimal digits.
    pub(super) fn hex(self) -> String {
        hex::encode(self.0)
    }
}

/// What a certificate calls its holder.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Names {
    /// The URIs among the alternative names.
    pub(super) uris: Vec<String>,
    /// The DNS names among them.
    pub(super) dns: Vec<String>,
    /// The common names in the subject.
    pub(super) common_names: Vec<String>,
    /// None where only names were forwarded.
    pub(super) thumbprint: Option<Thumbprint>,
}

impl Names {
    /// Of the first certificate in `pem`.
    pub(super) fn of_pem(pem: &str) -> Option<Self> {
        Self::of_der(&der_of_pem(pem)?)
    }

    /// Of a `Client-Cert` field (RFC 9440 section 2.1): the DER form between colons, in base64.
    pub(super) fn of_client_cert(field: &str) -> Option<Self> {
        let encoded = field.strip_prefix(':')?.strip_suffix(':')?;
        Self::of_der(&STANDARD.decode(encoded).ok()?)
    }

    /// Of an `x-forwarded-client-cert` field that speaks of one certificate. With `Cert` in it the
    /// names are the certificate's own, and `Hash` must be its digest.
    pub(super) fn of_forwarded(field: &str) -> Option<Self> {
        let (mut names, mut certificate) = (Self::default(), None);
        for (key, value) in pairs(field)? {
            match key.to_ascii_lowercase().as_str() {
                "uri" if !value.is_empty() => names.uris.push(value),
                "dns" if !value.is_empty() => names.dns.push(value),
                "hash" => {
                    let mut digest = [0; 32];
                    hex::decode_to_slice(&value, &mut digest).ok()?;
                    if names.thumbprint.replace(Thumbprint(digest)).is_some() {
                        return None;
                    }
                }
                "cert" => {
                    let pem = percent_decode_str(&value).decode_utf8().ok()?.into_owned();
                    if certificate.replace(pem).is_some() {
                        return None;
                    }
                }
                _ => {}
            }
        }
        let Some(pem) = certificate else { return Some(names) };
        let whole = Self::of_pem(&pem)?;
        let agree = names.thumbprint.is_none() || names.thumbprint == whole.thumbprint;
        agree.then_some(whole)
    }

    fn of_der(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let mut names = Self { thumbprint: Thumbprint::of(der), ..Self::default() };
        let alternative = certificate.subject_alternative_name().ok()?;
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
                _ => {}
            }
        }
        for name in certificate.subject().iter_common_name() {
            names.common_names.push(name.as_str().ok()?.to_owned());
        }
        Some(names)
    }
}

fn der_of_pem(pem: &str) -> Option<Vec<u8>> {
    let (_, block) = parse_x509_pem(pem.as_bytes()).ok()?;
    (block.label == "CERTIFICATE").then_some(block.contents)
}

/// The `key=value` pairs of the only element in `field`. A value may be quoted, with `\` before a
/// quote in it. A comma outside quotes begins another element: another proxy's word, or a client's
/// own that a proxy appended to.
fn pairs(field: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut chars = field.chars().peekable();
    loop {
        let mut key = String::new();
        loop {
            match chars.next()? {
                '=' => break,
                c if c.is_ascii_alphanumeric() => key.push(c),
                _ => return None,
            }
        }
        let mut value = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => value.push(chars.next()?),
                    c => value.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| !matches!(c, ';' | ',' | '"' | '\\' | ' ')) {
                value.push(c);
            }
        }
        pairs.push((key, value));
        match chars.next() {
            None => return Some(pairs),
            Some(';') => {}
            Some(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    const URI: &str = "spiffe://cluster.local/ns/prod/sa/a";

    /// A certificate, PEM and DER.
    fn certificate() -> (String, Vec<u8>) {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(URI.try_into().unwrap()));
        params.distinguished_name.push(DnType::CommonName, "robot, 1");
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        (made.pem(), made.der().to_vec())
    }

    fn expected(der: &[u8]) -> Names {
        Names {
            uris: vec![URI.to_owned()],
            dns: vec!["a.example".to_owned()],
            common_names: vec!["robot, 1".to_owned()],
            thumbprint: Thumbprint::of(der),
        }
    }

    #[test]
    fn every_form_of_a_certificate_has_the_same_names() {
        let (pem, der) = certificate();
        let encoded = utf8_percent_encode(&pem, NON_ALPHANUMERIC);
        let hash = Thumbprint::of(&der).unwrap().hex();
        assert_eq!(Names::of_pem(&pem), Some(expected(&der)));
        assert_eq!(
            Names::of_client_cert(&format!(":{}:", STANDARD.encode(&der))),
            Some(expected(&der))
        );
        for field in [
            format!("Cert=\"{encoded}\""),
            format!(
                "By=spiffe://b;Hash={hash};Cert=\"{encoded}\";Subject=\"CN=\\\"x\\\",O=y\";URI=other"
            ),
            format!("cert={encoded};HASH={}", hash.to_uppercase()),
        ] {
            assert_eq!(Names::of_forwarded(&field), Some(expected(&der)), "{field}");
        }
    }

    #[test]
    fn without_a_certificate_the_forwarded_names_count() {
        let hash = "ab".repeat(32);
        let field =
            format!("By=spiffe://x/y;Hash={hash};Subject=\"CN=a, b\";URI={URI};DNS=a;DNS=b;URI=");
        let names = Names::of_forwarded(&field).unwrap();
        assert_eq!((names.uris, names.dns), (vec![URI.to_owned()], vec!["a".into(), "b".into()]));
        assert_eq!(names.thumbprint.map(Thumbprint::hex), Some(hash));
        assert!(names.common_names.is_empty());
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_no_certificate() {
        let (pem, der) = certificate();
        let encoded = utf8_percent_encode(&pem, NON_ALPHANUMERIC).to_string();
        let (good, other) = ("ab".repeat(32), "cd".repeat(32));
        for field in [
            String::new(),
            "URI".to_owned(),
            "URI=a,URI=b".to_owned(),
            format!("Hash={good},By=x;URI={URI}"),
            format!("Hash={good};Hash={other}"),
            format!("Hash={good}0"),
            format!("Cert={encoded};Cert={encoded}"),
            format!("Cert={encoded};Hash={good}"),
            "Cert=nonsense".to_owned(),
            "Subject=\"CN=a".to_owned(),
            "Subject=\"CN=a\"x;URI=b".to_owned(),
            "Subject=CN=\"a;URI=b".to_owned(),
            "U RI=b".to_owned(),
            "URI=a ;DNS=b".to_owned(),
            "URI=a;".to_owned(),
            ";URI=a".to_owned(),
        ] {
            assert_eq!(Names::of_forwarded(&field), None, "{field}");
        }
        let encoded = STANDARD.encode(&der);
        for field in [
            encoded.clone(),
            format!(":{encoded}"),
            format!(": {encoded}:"),
            format!(":{encoded}:;a=1"),
            format!(":{}:", STANDARD.encode([der.as_slice(), &[0]].concat())),
            "::".to_owned(),
            ":".to_owned(),
        ] {
            assert_eq!(Names::of_client_cert(&field), None, "{field}");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_value_is_read_back_and_adds_no_name(value in "\\PC{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let field = format!("Subject=\"{quoted}\";URI=a");
            prop_assert_eq!(
                pairs(&field),
                Some(vec![("Subject".into(), value), ("URI".into(), "a".into())])
            );
            prop_assert_eq!(Names::of_forwarded(&field).unwrap().uris, vec!["a".to_owned()]);
        }

        #[test]
        fn no_text_panics(text in "[A-Za-z=;,\"\\\\: ]{0,60}") {
            let _ = Names::of_forwarded(&text);
            let _ = Names::of_client_cert(&text);
        }
    }
}
