//! From a store's bytes to a private key: PEM (PKCS#8, PKCS#1, SEC1) or a JWK.
//!
//! The outer ASN.1 is read here only to say what a key is; the key itself is parsed and checked by
//! the cryptographic library. Anything but exactly one private key is refused with its remedy.
//! Decoded buffers are overwritten when dropped, and no error quotes the input.

use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair,
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use x509_parser::asn1_rs::{Any, FromDer, Tag};
use zeroize::Zeroizing;

use super::private_key::PrivateKey;
use super::{Algorithm, KeyError, jwk};

/// A private key, and the algorithm it says it is for (a JWK's `alg`).
pub(super) struct Parsed {
    pub(super) key: PrivateKey,
    pub(super) declared: Option<Algorithm>,
}

/// Reads exactly one private key.
///
/// # Errors
/// If there is none, more than one, or one that is encrypted, weak, damaged or of an unsupported
/// kind.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, KeyError> {
    const DER_SEQUENCE: u8 = 0x30;
    let text = str::from_utf8(bytes).map_err(|_| match bytes.first() {
        Some(&DER_SEQUENCE) => KeyError::Der,
        _ => KeyError::Unrecognised,
    })?;
    let text = text.trim_ascii();
    if text.is_empty() {
        Err(KeyError::Empty)
    } else if text.starts_with('{') {
        jwk::parse(text)
    } else {
        pem(text).map(|key| Parsed { key, declared: None })
    }
}

struct Block {
    label: String,
    encrypted: bool,
    der: Zeroizing<Vec<u8>>,
}

impl Block {
    /// Reads the block that `text` begins with, after `-----BEGIN ` (RFC 7468 section 3, and the headers of
    /// RFC 1421 section 4.4). Readers of PEM at large leave copies of its text in memory.
    fn read(text: &str) -> Option<Self> {
        let (label, rest) = text.split_once("-----")?;
        let (inner, end) = rest.split_once("-----END ")?;
        end.strip_prefix(label)?.strip_prefix("-----")?;
        let inner = inner.trim_ascii_start();
        let has_headers = inner.lines().next().is_some_and(|line| line.contains(':'));
        let is_header = |line: &&str| has_headers && !line.trim_ascii().is_empty();
        let headers = inner.lines().take_while(is_header);
        let encrypted = headers
            .clone()
            .any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"));
        let mut base64 = Zeroizing::new(Vec::with_capacity(inner.len()));
        for line in inner.lines().skip(headers.count()) {
            base64.extend(line.bytes().filter(|byte| !byte.is_ascii_whitespace()));
        }
        let mut der = Zeroizing::new(Vec::with_capacity(base64.len()));
        BASE64_STANDARD.decode_vec(base64.as_slice(), &mut der).ok()?;
        Some(Self { label: quotable(label).to_owned(), encrypted, der })
    }
}

/// Labels are capitals. Anything else could be key text in the wrong place.
fn quotable(label: &str) -> &str {
    let is_label = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' ';
    if label.len() <= 40 && label.bytes().all(is_label) { label } else { "(no plain label)" }
}

fn pem(text: &str) -> Result<PrivateKey, KeyError> {
    let blocks: Option<Vec<Block>> = text.split("-----BEGIN ").skip(1).map(Block::read).collect();
    let mut blocks = blocks.ok_or(KeyError::DamagedPem)?;
    // `openssl ecparam -genkey` writes the curve in a block of its own; the key repeats it.
    blocks.retain(|block| block.label != "EC PARAMETERS");
    match blocks.as_slice() {
        [] => Err(KeyError::Unrecognised),
        [block] => private_key(block),
        several => {
            let labels: Vec<&str> = several.iter().map(|block| block.label.as_str()).collect();
            Err(KeyError::Several { found: labels.join(", ") })
        }
    }
}

fn private_key(block: &Block) -> Result<PrivateKey, KeyError> {
    let label = block.label.clone();
    if block.encrypted {
        return Err(KeyError::Encrypted { label });
    }
    match block.label.as_str() {
        "PRIVATE KEY" => pkcs8(&block.der),
        "RSA PRIVATE KEY" => pkcs1(&block.der),
        "EC PRIVATE KEY" => sec1(&block.der),
        "ENCRYPTED PRIVATE KEY" => Err(KeyError::Encrypted { label }),
        "PUBLIC KEY" | "RSA PUBLIC KEY" => Err(KeyError::PublicKey { label }),
        "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
            Err(KeyError::Certificate { label })
        }
        _ => Err(KeyError::UnknownLabel { label }),
    }
}

/// `PrivateKeyInfo` (RFC 5208 section 5): version, algorithm with its parameters, the key.
fn pkcs8(der: &[u8]) -> Result<PrivateKey, KeyError> {
    let damaged = || KeyError::Damaged { kind: "PKCS#8" };
    let fields = sequence(der).ok_or_else(damaged)?;
    let [_version, algorithm, inner, ..] = fields.as_slice() else { return Err(damaged()) };
    let algorithm = children(algorithm.data).ok_or_else(damaged)?;
    let kind = algorithm.first().and_then(object_identifier).ok_or_else(damaged)?;
    match kind.as_str() {
        "1.2.840.113549.1.1.1" => pkcs1(inner.data),
        "1.2.840.10045.2.1" => {
            let curve = algorithm.get(1).and_then(object_identifier);
            elliptic(Curve::named(curve)?, der, EcdsaKeyPair::from_pkcs8)
        }
        "1.3.101.112" => Ed25519KeyPair::from_pkcs8(der)
            .map(PrivateKey::Ed25519)
            .map_err(|_| KeyError::Damaged { kind: "Ed25519" }),
        other => Err(KeyError::UnsupportedKind { kind: kind_name(other).to_owned() }),
    }
}

/// `RSAPrivateKey` (RFC 8017 appendix A.1.2): version, modulus and the rest.
fn pkcs1(der: &[u8]) -> Result<PrivateKey, KeyError> {
    let damaged = || KeyError::Damaged { kind: "RSA" };
    let fields = sequence(der).ok_or_else(damaged)?;
    let modulus = fields.get(1).filter(|it| it.tag() == Tag::Integer).ok_or_else(damaged)?;
    check_rsa_size(modulus.data)?;
    RsaKeyPair::from_der(der).map(PrivateKey::Rsa).map_err(|_| damaged())
}

/// `ECPrivateKey` (RFC 5915): version, key, `[0]` the curve, `[1]` the public key.
fn sec1(der: &[u8]) -> Result<PrivateKey, KeyError> {
    let damaged = || KeyError::Damaged { kind: "EC" };
    let fields = sequence(der).ok_or_else(damaged)?;
    let parameters = fields.iter().find(|field| field.tag() == Tag(0)).ok_or_else(damaged)?;
    let parameters = children(parameters.data).ok_or_else(damaged)?;
    let curve = Curve::named(parameters.first().and_then(object_identifier))?;
    elliptic(curve, der, EcdsaKeyPair::from_private_key_der)
}

/// A curve we sign on.
#[derive(Clone, Copy)]
pub(super) enum Curve {
    P256,
    P384,
}

impl Curve {
    fn named(identifier: Option<String>) -> Result<Self, KeyError> {
        match identifier.as_deref() {
            Some("1.2.840.10045.3.1.7") => Ok(Self::P256),
            Some("1.3.132.0.34") => Ok(Self::P384),
            Some(other) => Err(KeyError::UnsupportedCurve { curve: curve_name(other).to_owned() }),
            None => Err(KeyError::UnsupportedCurve { curve: "explicit parameters".to_owned() }),
        }
    }
}

/// Builds the pair on `curve`, in whatever form `parser` reads.
fn elliptic(
    curve: Curve,
    der: &[u8],
    parser: fn(&'static EcdsaSigningAlgorithm, &[u8]) -> Result<EcdsaKeyPair, KeyRejected>,
) -> Result<PrivateKey, KeyError> {
    ec_pair(curve, |signing| parser(signing, der))
}

/// Wraps what `build` makes on `curve` into the private key of that kind.
pub(super) fn ec_pair(
    curve: Curve,
    build: impl FnOnce(&'static EcdsaSigningAlgorithm) -> Result<EcdsaKeyPair, KeyRejected>,
) -> Result<PrivateKey, KeyError> {
    match curve {
        Curve::P256 => build(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map(PrivateKey::P256)
            .map_err(|_| KeyError::Damaged { kind: "P-256" }),
        Curve::P384 => build(&ECDSA_P384_SHA384_FIXED_SIGNING)
            .map(PrivateKey::P384)
            .map_err(|_| KeyError::Damaged { kind: "P-384" }),
    }
}

/// Refuses moduli the contract calls weak, and those too large for the library.
pub(super) fn check_rsa_size(modulus: &[u8]) -> Result<(), KeyError> {
    let bits = modulus
        .iter()
        .position(|byte| *byte != 0)
        .and_then(|zeros| modulus.get(zeros..))
        .and_then(|digits| digits.first().map(|top| (digits.len(), top.leading_zeros())))
        .map_or(0, |(length, zeros)| length * 8 - zeros as usize);
    match bits {
        2048..=8192 => Ok(()),
        _ => Err(KeyError::RsaSize { bits }),
    }
}

/// The elements of the DER sequence that is all of `der`.
fn sequence(der: &[u8]) -> Option<Vec<Any<'_>>> {
    let (rest, outer) = Any::from_der(der).ok()?;
    (rest.is_empty() && outer.tag() == Tag::Sequence).then(|| children(outer.data))?
}

fn children(mut content: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut elements = Vec::new();
    while !content.is_empty() {
        let (rest, element) = Any::from_der(content).ok()?;
        elements.push(element);
        content = rest;
    }
    Some(elements)
}

/// An object identifier in dotted form. Anything else under that tag has no name here, so that no
/// bytes of a damaged key end up in a message.
fn object_identifier(element: &Any<'_>) -> Option<String> {
    let dotted = (element.tag() == Tag::Oid).then(|| element.as_oid().ok())??.to_id_string();
    let is_dotted = dotted.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (is_dotted && dotted.len() <= 64).then_some(dotted)
}

fn kind_name(identifier: &str) -> &str {
    match identifier {
        "1.2.840.113549.1.1.10" => "RSASSA-PSS",
        "1.2.840.10040.4.1" => "DSA",
        "1.3.101.110" => "X25519",
        "1.3.101.111" => "X448",
        "1.3.101.113" => "Ed448",
        other => other,
    }
}

fn curve_name(identifier: &str) -> &str {
    match identifier {
        "1.2.840.10045.3.1.1" => "P-192",
        "1.3.132.0.33" => "P-224",
        "1.3.132.0.35" => "P-521",
        "1.3.132.0.10" => "secp256k1",
        other => other,
    }
}

#[cfg(test)]
mod tests;
