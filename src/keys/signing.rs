//! A loaded key: everything a request and the JWKS need of it, made once.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::certificate::Certificate;
use super::parse::{self, Parsed};
use super::private_key::PrivateKey;
use super::{Algorithm, KeyError, KeyIdTemplate, SignError, generate, jwk};
use crate::clock::Timestamp;
use crate::secrets::{KeyMaterial, Secret};

/// What a scope says about its key.
#[derive(Clone, Debug)]
pub struct KeySettings {
    /// The scope's client ID; also the key id when there is no template.
    pub client_id: String,
    /// The signature algorithm; `None`: the JWK's own `alg`, or the default of the key's kind.
    pub algorithm: Option<Algorithm>,
    /// The template of `kid`; `None`: the client ID.
    pub key_id: Option<KeyIdTemplate>,
    /// A PEM chain for the key, leaf first (`x509Certificate`).
    pub certificate: Option<Certificate>,
    /// The JWS header's `typ`.
    pub token_type: String,
}

/// One version of a scope's private key, ready to sign.
pub struct SigningKey {
    key: PrivateKey,
    algorithm: Algorithm,
    kid: String,
    thumbprint: String,
    version: String,
    created: Option<Timestamp>,
    certificate: Option<Certificate>,
    jwk: Map<String, Value>,
    jws_header: String,
}

impl SigningKey {
    /// Parses and checks what the store holds. The settings' certificate wins over the one the
    /// store has beside the key.
    ///
    /// # Errors
    /// If the key is not exactly one supported private key, or the algorithm or the certificate
    /// doesn't fit it.
    pub fn load(material: &KeyMaterial, settings: &KeySettings) -> Result<Self, KeyError> {
        let parsed = parse::parse(material.bytes.expose())?;
        let algorithm = choose_algorithm(&parsed, settings.algorithm)?;
        let key = parsed.key;
        let certificate = match (&settings.certificate, &material.certificate) {
            (Some(certificate), _) => Some(certificate.clone()),
            (None, Some(pem)) => Some(Certificate::parse(pem)?),
            (None, None) => None,
        };
        if let Some(certificate) = &certificate {
            certificate.check_key(&public_key_info(&key)?)?;
        }
        let members = jwk::public_members(&key)?;
        let thumbprint = jwk::thumbprint(&members);
        let version = version(material.version, &thumbprint);
        let kid = settings.key_id.as_ref().map_or_else(
            || settings.client_id.clone(),
            |template| template.render(&settings.client_id, &version, &thumbprint),
        );
        let jwk = public_jwk(members, algorithm, &kid, certificate.as_ref());
        let jws_header = jws_header(algorithm, &kid, &settings.token_type);
        Ok(Self {
            key,
            algorithm,
            kid,
            thumbprint,
            version,
            created: material.created,
            certificate,
            jwk,
            jws_header,
        })
    }

    /// A new key that no store holds and nobody trusts: to try settings out.
    ///
    /// # Errors
    /// If the system can't make one.
    pub fn throw_away(settings: &KeySettings, now: Timestamp) -> Result<Self, KeyError> {
        let algorithm = settings.algorithm.unwrap_or(Algorithm::ES256);
        let generated = generate(algorithm, "throw-away", now)?;
        let material = KeyMaterial {
            bytes: Secret::new(generated.private_key_pem.expose().as_bytes().to_vec()),
            certificate: None,
            version: None,
            created: None,
        };
        Self::load(&material, &KeySettings { certificate: None, ..settings.clone() })
    }

    /// Whether a certificate is published with it.
    pub fn has_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    /// The key id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// What it signs with.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key's SHA-256 thumbprint, base64url (RFC 7638).
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// The store's version number; for stores without versions, the first 8 characters of the
    /// thumbprint.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// When the store says this version was made.
    pub const fn created(&self) -> Option<Timestamp> {
        self.created
    }

    /// The public JWK (RFC 7517): never a private member.
    pub const fn jwk(&self) -> &Map<String, Value> {
        &self.jwk
    }

    /// The encoded JWS header `{alg, kid, typ}`, without the dot.
    pub fn jws_header(&self) -> &str {
        &self.jws_header
    }

    /// What is amiss with the certificate at `now` without stopping the key: one line each.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        self.certificate.as_ref().map_or_else(Vec::new, |certificate| certificate.warnings(now))
    }

    /// The JWS signature over `message`, raw bytes (RFC 7518 section 3, RFC 8037 section 3.1).
    ///
    /// # Errors
    /// If the cryptographic library fails; there is no retry that would help.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.key
            .sign(self.algorithm, message)
            .map_err(|_| SignError { kid: self.kid.clone(), algorithm: self.algorithm })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .field("alg", &self.algorithm)
            .finish_non_exhaustive()
    }
}

fn choose_algorithm(parsed: &Parsed, configured: Option<Algorithm>) -> Result<Algorithm, KeyError> {
    if let (Some(configured), Some(declared)) = (configured, parsed.declared)
        && configured != declared
    {
        return Err(KeyError::AlgorithmConflict { configured, declared });
    }
    let key = &parsed.key;
    let algorithm = configured.or(parsed.declared).unwrap_or_else(|| key.default_algorithm());
    if key.fits(algorithm) {
        return Ok(algorithm);
    }
    let fitting: Vec<String> = Algorithm::ALL
        .into_iter()
        .filter(|fitting| key.fits(*fitting))
        .map(|fitting| format!("`{fitting}`"))
        .collect();
    Err(KeyError::AlgorithmMismatch { algorithm, key: key.kind(), fitting: fitting.join(" or ") })
}

fn public_key_info(key: &PrivateKey) -> Result<Vec<u8>, KeyError> {
    key.public_key_info().map_err(|_| KeyError::Damaged { kind: key.kind() })
}

fn version(stored: Option<u64>, thumbprint: &str) -> String {
    stored.map_or_else(|| thumbprint.chars().take(8).collect(), |version| version.to_string())
}

fn public_jwk(
    members: Vec<(&'static str, String)>,
    algorithm: Algorithm,
    kid: &str,
    certificate: Option<&Certificate>,
) -> Map<String, Value> {
    let mut jwk: Map<String, Value> =
        members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    jwk.insert("use".to_owned(), "sig".into());
    jwk.insert("alg".to_owned(), algorithm.name().into());
    jwk.insert("kid".to_owned(), kid.into());
    if let Some(certificate) = certificate {
        jwk.insert("x5c".to_owned(), certificate.x5c().into());
        jwk.insert("x5t#S256".to_owned(), certificate.thumbprint().into());
    }
    jwk
}

fn jws_header(algorithm: Algorithm, kid: &str, token_type: &str) -> String {
    let header = serde_json::json!({"alg": algorithm.name(), "kid": kid, "typ": token_type});
    URL_SAFE_NO_PAD.encode(header.to_string())
}

#[cfg(test)]
mod tests;
