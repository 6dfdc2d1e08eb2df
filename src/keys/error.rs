//! Why a key can't be used. Every text says what was found and what to do, and quotes no key.

use std::sync::Arc;

use super::Algorithm;
use crate::secrets::SecretError;

/// Why a private key, its certificate or its settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Nothing but white space.
    #[error("the private key is empty: store a PEM or JWK private key there")]
    Empty,
    /// Neither PEM nor JWK.
    #[error(
        "the private key is neither PEM nor a JWK: store the text that begins with \
         `-----BEGIN PRIVATE KEY-----`, or a JWK private key"
    )]
    Unrecognised,
    /// Binary DER.
    #[error(
        "the private key is binary DER: convert it with \
         `openssl pkey -inform DER -in FILE -out key.pem`"
    )]
    Der,
    /// PEM armour that doesn't close, or doesn't hold base64.
    #[error(
        "the private key's PEM is damaged: check that it was stored whole, with its line breaks \
         and both the BEGIN and the END line"
    )]
    DamagedPem,
    /// A password-protected key.
    #[error(
        "the private key is encrypted (`{label}`): decrypt it with \
         `openssl pkey -in FILE -out key.pem`; the secret store protects it"
    )]
    Encrypted {
        /// The PEM label.
        label: String,
    },
    /// Only the public half.
    #[error("a public key was given (`{label}`): store the private key it belongs to")]
    PublicKey {
        /// The PEM label, or `JWK`.
        label: String,
    },
    /// A certificate where the key should be.
    #[error(
        "a certificate was given (`{label}`) where the private key should be: store the private \
         key, and put the certificate in `x509Certificate` or beside the key as `<keyName>.crt`"
    )]
    Certificate {
        /// The PEM label.
        label: String,
    },
    /// More than one PEM block, or a JWK set.
    #[error(
        "several keys were given (`{found}`): keep exactly one private key there; a certificate \
         belongs in `x509Certificate` or beside the key as `<keyName>.crt`"
    )]
    Several {
        /// The PEM labels, or `JWK set`.
        found: String,
    },
    /// A PEM block that is no private key we know.
    #[error(
        "`{label}` is not a private key format we read: convert it with \
         `openssl pkey -in FILE -out key.pem` (an OpenSSH key with \
         `ssh-keygen -p -m PKCS8 -f FILE`)"
    )]
    UnknownLabel {
        /// The PEM label.
        label: String,
    },
    /// A key of a kind we don't sign with.
    #[error(
        "`{kind}` keys are not supported: make a P-256, P-384, RSA or Ed25519 key, for example \
         with `placet keygen`"
    )]
    UnsupportedKind {
        /// What it is, by name or object identifier.
        kind: String,
    },
    /// An elliptic curve we don't sign with.
    #[error(
        "the curve `{curve}` is not supported: make a P-256 or P-384 key, for example with \
         `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem`"
    )]
    UnsupportedCurve {
        /// The curve, by name or object identifier.
        curve: String,
    },
    /// An RSA modulus outside 2048 to 8192 bits.
    #[error(
        "an RSA key of {bits} bits was given; 2048 to 8192 are allowed: make one with \
         `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out key.pem`"
    )]
    RsaSize {
        /// The modulus length.
        bits: usize,
    },
    /// The right format around numbers that are not a key.
    #[error(
        "the {kind} private key is damaged or inconsistent: check it with \
         `openssl pkey -check -in FILE`, or make a new one"
    )]
    Damaged {
        /// What it claims to be.
        kind: &'static str,
    },
    /// A public key of Transit that is none.
    #[error(
        "version {version} of the Transit key has no {kind} public key that can be read: rotate \
         the key, or look into Vault"
    )]
    DamagedPublic {
        /// What it should be.
        kind: &'static str,
        /// The version.
        version: u64,
    },
    /// Not a JWK at all.
    #[error(
        "the JWK private key can't be read (line {line}, column {column}): check its JSON, that \
         no member occurs twice and that key members are base64url without padding"
    )]
    MalformedJwk {
        /// Where reading stopped.
        line: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// A JWK that lacks a member, or has one that can't be.
    #[error("the JWK private key's member `{member}` {problem}")]
    JwkMember {
        /// The member.
        member: &'static str,
        /// What is wrong and what to do.
        problem: &'static str,
    },
    /// An algorithm for another kind of key.
    #[error("the algorithm `{algorithm}` does not fit a {key} key: use {fitting}, or another key")]
    AlgorithmMismatch {
        /// As configured.
        algorithm: Algorithm,
        /// The kind of key.
        key: &'static str,
        /// What would fit, for reading.
        fitting: String,
    },
    /// The settings and the JWK name different algorithms.
    #[error(
        "the algorithm `{configured}` is configured, but the JWK private key is for `{declared}`: \
         make them the same, or leave `algorithm` out"
    )]
    AlgorithmConflict {
        /// As configured.
        configured: Algorithm,
        /// The JWK's `alg`.
        declared: Algorithm,
    },
    /// Not a chain of certificates in PEM.
    #[error(
        "the certificate can't be read: give PEM blocks labelled `CERTIFICATE` and nothing else, \
         the key's own certificate first"
    )]
    MalformedCertificate,
    /// The leaf is for another key.
    #[error(
        "the certificate is for another key: its public key has SHA-256 fingerprint \
         `{certificate}`, the private key's is `{key}`; renew the certificate for this key"
    )]
    CertificateMismatch {
        /// Hex SHA-256 of the certificate's public key (SPKI DER).
        certificate: String,
        /// Hex SHA-256 of the key's public key (SPKI DER).
        key: String,
    },
    /// A chain whose members don't follow from each other.
    #[error(
        "the certificate chain is out of order: `{subject}` is issued by `{issuer}`, but the next \
         certificate is `{next}`; put the key's own certificate first and each issuer after it"
    )]
    CertificateOrder {
        /// Whose issuer was looked for.
        subject: String,
        /// The issuer it names.
        issuer: String,
        /// What stands there instead.
        next: String,
    },
    /// A `keyId` that is empty.
    #[error("the key id is empty: leave `keyId` out to use the client ID")]
    EmptyKeyId,
    /// A placeholder we don't know.
    #[error(
        "`{name}` is no placeholder of a key id: use `{{{{client_id}}}}`, `{{{{key_version}}}}` or \
         `{{{{thumbprint}}}}`, without spaces"
    )]
    KeyIdPlaceholder {
        /// What stands between the braces.
        name: String,
    },
    /// Braces that don't pair up.
    #[error(
        "the key id `{template}` has a brace that is not part of a placeholder such as \
         `{{{{client_id}}}}`: close it or take it out"
    )]
    KeyIdBraces {
        /// The whole template.
        template: String,
    },
    /// Characters that don't belong in an identifier.
    #[error("the key id `{}` has control characters: take them out", template.escape_debug())]
    KeyIdCharacters {
        /// The whole template.
        template: String,
    },
    /// A name for a generated key that can't be a file name.
    #[error(
        "the name `{}` is not 1 to 128 of A-Z a-z 0-9 . _ -, beginning with a letter or digit: \
         choose another",
        name.escape_debug()
    )]
    UnusableName {
        /// As given.
        name: String,
    },
    /// Making a key failed.
    #[error("making the {algorithm} key failed: try again, and report it if it stays so")]
    Generate {
        /// What was asked for.
        algorithm: Algorithm,
    },
}

/// A loaded key that did not sign.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Too many signatures of the key are under way.
    #[error("too much waits to be signed with the key `{kid}`")]
    Busy {
        /// The key's id.
        kid: String,
    },
    /// The cryptographic library failed.
    #[error("signing with key `{kid}` ({algorithm}) failed: load the key again, or replace it")]
    Failed {
        /// The key's id.
        kid: String,
        /// What it signs with.
        algorithm: Algorithm,
    },
    /// The store that signs did not.
    #[error("the key `{kid}` did not sign: {source}")]
    Store {
        /// The key's id.
        kid: String,
        /// What the store said.
        source: Arc<SecretError>,
    },
    /// What was signed does not verify.
    #[error(
        "a signature of the key `{kid}` does not verify with the public key its store gave: look \
         into Vault"
    )]
    Mismatch {
        /// The key's id.
        kid: String,
    },
}
