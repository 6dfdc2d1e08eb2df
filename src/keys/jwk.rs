//! JSON Web Keys (RFC 7517, RFC 7518 section 6, RFC 8037): private ones read, public ones written.
//!
//! Reading keeps key members in buffers that are overwritten when dropped, and never repeats the
//! JSON parser's own messages, which quote what they met. Writing starts from the public key alone.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, IgnoredAny, Visitor};
use serde_json::{Map, Value};
use x509_parser::asn1_rs::FromDer;
use x509_parser::public_key::RSAPublicKey;
use zeroize::Zeroizing;

use super::parse::{Curve, Parsed, check_rsa_size, ec_pair};
use super::private_key::PrivateKey;
use super::public_key::PublicKey;
use super::{Algorithm, KeyError, KeyKind};

/// Reads one private JWK. Members we don't know are ignored (RFC 7517 section 4); `kid` is too,
/// since the settings name the key.
pub(super) fn parse(json: &str) -> Result<Parsed, KeyError> {
    let jwk: Raw = serde_json::from_str(json)
        .map_err(|error| KeyError::MalformedJwk { line: error.line(), column: error.column() })?;
    if jwk.keys.is_some() {
        return Err(KeyError::Several { found: "JWK set".to_owned() });
    }
    let declared = jwk.checked_use()?;
    let key = match jwk.kty.as_deref() {
        Some("EC") => jwk.elliptic()?,
        Some("RSA") => jwk.rsa()?,
        Some("OKP") => jwk.ed25519()?,
        Some(other) => return Err(KeyError::UnsupportedKind { kind: name(other) }),
        None => return Err(KeyError::JwkMember { member: "kty", problem: "is missing: add it" }),
    };
    Ok(Parsed { key, declared })
}

/// The members that make the public key, in the order they are published.
pub(super) fn public_members(key: &PublicKey) -> Result<Vec<(&'static str, String)>, KeyError> {
    let text = |text: &str| text.to_owned();
    match key.kind() {
        KeyKind::P256 => point_members("P-256", key.bits(), 32),
        KeyKind::P384 => point_members("P-384", key.bits(), 48),
        KeyKind::Rsa => {
            let (_, public) = RSAPublicKey::from_der(key.bits())
                .map_err(|_| KeyError::Damaged { kind: "RSA" })?;
            let n = URL_SAFE_NO_PAD.encode(without_leading_zeros(public.modulus));
            let e = URL_SAFE_NO_PAD.encode(without_leading_zeros(public.exponent));
            Ok(vec![("kty", text("RSA")), ("n", n), ("e", e)])
        }
        KeyKind::Ed25519 => {
            let x = URL_SAFE_NO_PAD.encode(key.bits());
            Ok(vec![("kty", text("OKP")), ("crv", text("Ed25519")), ("x", x)])
        }
    }
}

/// The thumbprint of a public key (RFC 7638 section 3): SHA-256 over its required members in
/// lexicographic order, base64url.
pub(super) fn thumbprint(members: &[(&'static str, String)]) -> String {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    let canonical: Map<String, Value> = sorted
        .into_iter()
        .map(|(name, value)| ((*name).to_owned(), Value::String(value.clone())))
        .collect();
    let canonical = Value::Object(canonical).to_string();
    URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()))
}

fn point_members(
    curve: &str,
    point: &[u8],
    width: usize,
) -> Result<Vec<(&'static str, String)>, KeyError> {
    const UNCOMPRESSED: u8 = 4;
    let damaged = || KeyError::Damaged { kind: "EC" };
    let (form, point) = point.split_first().ok_or_else(damaged)?;
    let (x, y) = point.split_at_checked(width).ok_or_else(damaged)?;
    if *form != UNCOMPRESSED || y.len() != width {
        return Err(damaged());
    }
    Ok(vec![
        ("kty", "EC".to_owned()),
        ("crv", curve.to_owned()),
        ("x", URL_SAFE_NO_PAD.encode(x)),
        ("y", URL_SAFE_NO_PAD.encode(y)),
    ])
}

fn without_leading_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    digits.get(zeros..).unwrap_or_default()
}

/// A JWK as it stands in the JSON.
#[derive(serde::Deserialize)]
struct Raw {
    keys: Option<IgnoredAny>,
    kty: Option<String>,
    crv: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    oth: Option<IgnoredAny>,
    x: Option<Octets>,
    y: Option<Octets>,
    n: Option<Octets>,
    e: Option<Octets>,
    d: Option<Octets>,
    p: Option<Octets>,
    q: Option<Octets>,
    dp: Option<Octets>,
    dq: Option<Octets>,
    qi: Option<Octets>,
}

impl Raw {
    /// The declared algorithm, with `use` and `alg` checked.
    fn checked_use(&self) -> Result<Option<Algorithm>, KeyError> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            let problem = "is not `sig`: use a signing key";
            return Err(KeyError::JwkMember { member: "use", problem });
        }
        self.alg.as_deref().map(str::parse).transpose().map_err(|_| KeyError::JwkMember {
            member: "alg",
            problem: "is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA: \
                      use a key for one of them",
        })
    }

    fn elliptic(&self) -> Result<PrivateKey, KeyError> {
        let (curve, width) = match self.crv.as_deref() {
            Some("P-256") => (Curve::P256, 32),
            Some("P-384") => (Curve::P384, 48),
            other => return Err(unsupported_curve(other)),
        };
        let d = fixed("d", self.private()?, width)?;
        let x = fixed("x", required("x", self.x.as_ref())?, width)?;
        let y = fixed("y", required("y", self.y.as_ref())?, width)?;
        let point = [&[4], x, y].concat();
        ec_pair(curve, |signing| EcdsaKeyPair::from_private_key_and_public_key(signing, d, &point))
    }

    fn rsa(&self) -> Result<PrivateKey, KeyError> {
        if self.oth.is_some() {
            let problem = "means more than two primes, which is not supported: make a new key";
            return Err(KeyError::JwkMember { member: "oth", problem });
        }
        let n = required("n", self.n.as_ref())?;
        check_rsa_size(n)?;
        let components = KeyPairComponents {
            public_key: PublicKeyComponents { n, e: required("e", self.e.as_ref())? },
            d: self.private()?,
            p: required("p", self.p.as_ref())?,
            q: required("q", self.q.as_ref())?,
            dP: required("dp", self.dp.as_ref())?,
            dQ: required("dq", self.dq.as_ref())?,
            qInv: required("qi", self.qi.as_ref())?,
        };
        RsaKeyPair::from_components(&components)
            .map(PrivateKey::Rsa)
            .map_err(|_| KeyError::Damaged { kind: "RSA" })
    }

    fn ed25519(&self) -> Result<PrivateKey, KeyError> {
        match self.crv.as_deref() {
            Some("Ed25519") => {}
            Some(other) => return Err(KeyError::UnsupportedKind { kind: name(other) }),
            None => return Err(unsupported_curve(None)),
        }
        let d = fixed("d", self.private()?, 32)?;
        let x = fixed("x", required("x", self.x.as_ref())?, 32)?;
        Ed25519KeyPair::from_seed_and_public_key(d, x)
            .map(PrivateKey::Ed25519)
            .map_err(|_| KeyError::Damaged { kind: "Ed25519" })
    }

    /// The member `d`, which only a private key has.
    fn private(&self) -> Result<&[u8], KeyError> {
        let public = || KeyError::PublicKey { label: "JWK".to_owned() };
        self.d.as_ref().map(Octets::as_slice).ok_or_else(public)
    }
}

fn required<'a>(member: &'static str, value: Option<&'a Octets>) -> Result<&'a [u8], KeyError> {
    let problem = "is missing: store the whole private key";
    value.map(Octets::as_slice).ok_or(KeyError::JwkMember { member, problem })
}

/// Coordinates and EC scalars have the width of the curve, zeros included (RFC 7518 section 6.2).
fn fixed<'a>(member: &'static str, value: &'a [u8], width: usize) -> Result<&'a [u8], KeyError> {
    let problem = "does not have the length of its curve: keep leading zero bytes";
    (value.len() == width).then_some(value).ok_or(KeyError::JwkMember { member, problem })
}

fn unsupported_curve(name: Option<&str>) -> KeyError {
    name.map_or(KeyError::JwkMember { member: "crv", problem: "is missing: add it" }, |curve| {
        KeyError::UnsupportedCurve { curve: self::name(curve) }
    })
}

/// What may be quoted of a JWK: a short plain name. Anything else could be key text in the wrong
/// place.
fn name(text: &str) -> String {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !text.is_empty() && text.len() <= 16 && text.bytes().all(is_name) {
        text.to_owned()
    } else {
        "(no plain name)".to_owned()
    }
}

/// A base64url member, decoded as it is read so that no copy of its text is kept.
struct Octets(Zeroizing<Vec<u8>>);

impl Octets {
    fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(OctetsVisitor)
    }
}

struct OctetsVisitor;

impl Visitor<'_> for OctetsVisitor {
    type Value = Octets;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64url without padding")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Octets, E> {
        URL_SAFE_NO_PAD
            .decode(text)
            .map(|octets| Octets(Zeroizing::new(octets)))
            .map_err(|_| E::custom("not base64url"))
    }
}

#[cfg(test)]
mod tests;
