//! A loaded key: everything a request and the JWKS need of it, made once.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::backlog::{self, Backlog};
use super::certificate::Certificate;
use super::parse::{self, Parsed};
use super::private_key::PrivateKey;
use super::public_key::PublicKey;
use super::transit::TransitSigner;
use super::{Algorithm, KeyError, KeyIdTemplate, KeyKind, SignError, generate, jwk};
use crate::clock::Timestamp;
use crate::secrets::{KeyMaterial, Secret, SecretStore, TransitVersion};

/// The `typ` of tokens that are asked for over an API.
pub(super) const API_TOKEN_TYPE: &str = "pdp-decision+jwt";

/// What a scope says about its key.
#[derive(Clone, Debug, Eq, PartialEq)]
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
    signer: Signer,
    backlog: Backlog,
    public: PublicKey,
    algorithm: Algorithm,
    kid: String,
    thumbprint: String,
    version: String,
    created: Option<Timestamp>,
    certificate: Option<Certificate>,
    jwk: Map<String, Value>,
    jws_header: String,
    api_jws_header: String,
}

/// Where the private half is.
enum Signer {
    /// In memory.
    Local(Arc<PrivateKey>),
    /// In Vault.
    Transit(TransitSigner),
}

/// What is known of a version beside its key.
struct Origin<'a> {
    number: Option<u64>,
    created: Option<Timestamp>,
    certificate: Option<&'a str>,
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
        let public = parsed.key.public_key()?;
        let origin = Origin {
            number: material.version,
            created: material.created,
            certificate: material.certificate.as_deref(),
        };
        Self::assemble(Signer::Local(Arc::new(parsed.key)), public, algorithm, &origin, settings)
    }

    /// Makes of one version of a Transit key, which stays where it is, a key that signs.
    ///
    /// # Errors
    /// If its public half can't be read, or the algorithm or the certificate doesn't fit it.
    pub fn in_transit(
        store: &Arc<SecretStore>,
        name: &str,
        kind: KeyKind,
        version: &TransitVersion,
        settings: &KeySettings,
    ) -> Result<Self, KeyError> {
        let algorithm = settings.algorithm.unwrap_or_else(|| kind.default_algorithm());
        check_fits(kind, algorithm)?;
        let public = PublicKey::of_transit(kind, version)?;
        let (number, created) = (version.number, version.created);
        let signer = TransitSigner::new(Arc::clone(store), name.to_owned(), number, algorithm);
        let origin = Origin { number: Some(number), created: Some(created), certificate: None };
        Self::assemble(Signer::Transit(signer), public, algorithm, &origin, settings)
    }

    fn assemble(
        signer: Signer,
        public: PublicKey,
        algorithm: Algorithm,
        origin: &Origin<'_>,
        settings: &KeySettings,
    ) -> Result<Self, KeyError> {
        let certificate = match (&settings.certificate, origin.certificate) {
            (Some(certificate), _) => Some(certificate.clone()),
            (None, Some(pem)) => Some(Certificate::parse(pem)?),
            (None, None) => None,
        };
        if let Some(certificate) = &certificate {
            certificate.check_key(public.info())?;
        }
        let members = jwk::public_members(&public)?;
        let thumbprint = jwk::thumbprint(&members);
        let version = version(origin.number, &thumbprint);
        let kid = settings.key_id.as_ref().map_or_else(
            || settings.client_id.clone(),
            |template| template.render(&settings.client_id, &version, &thumbprint),
        );
        let jwk = public_jwk(members, algorithm, &kid, certificate.as_ref());
        let header = jws_header(algorithm, &kid, &settings.token_type);
        let api_jws_header = jws_header(algorithm, &kid, API_TOKEN_TYPE);
        let created = origin.created;
        Ok(Self {
            signer,
            backlog: Backlog::new(),
            public,
            algorithm,
            kid,
            thumbprint,
            version,
            created,
            certificate,
            jwk,
            jws_header: header,
            api_jws_header,
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

    /// Whether the private half is in Vault's Transit, and not in memory.
    pub const fn is_in_transit(&self) -> bool {
        matches!(self.signer, Signer::Transit(_))
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

    /// The same for a token that was asked for over an API.
    pub fn api_jws_header(&self) -> &str {
        &self.api_jws_header
    }

    /// How many signatures are under way or wait: by RSA, or in Transit; others take no time.
    pub fn in_progress(&self) -> usize {
        self.backlog.len()
    }

    /// How many seconds the certificate that is published with it still holds at `now`; less than none
    /// once it has ended.
    pub fn certificate_left(&self, now: Timestamp) -> Option<i64> {
        self.certificate.as_ref().map(|certificate| certificate.seconds_left(now))
    }

    /// What is amiss with the certificate at `now` without stopping the key: one line each.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        self.certificate.as_ref().map_or_else(Vec::new, |certificate| certificate.warnings(now))
    }

    /// The JWS signature over `message`, raw bytes (RFC 7518 section 3, RFC 8037 section 3.1). Only
    /// RSA, which takes long, and a key in Transit await anything; a signature of Transit's is verified
    /// before it is returned.
    ///
    /// # Errors
    /// If too much waits to be signed; if the cryptographic library fails, in which case there is no retry
    /// that would help; or the store does.
    pub async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let kid = || self.kid.clone();
        let failed = |_| SignError::Failed { kid: kid(), algorithm: self.algorithm };
        let admitted = || self.backlog.admit().ok_or_else(|| SignError::Busy { kid: kid() });
        match &self.signer {
            Signer::Local(key) if key.kind() == KeyKind::Rsa => {
                let _permit = admitted()?;
                Box::pin(backlog::sign_aside(key, self.algorithm, message)).await.map_err(failed)
            }
            Signer::Local(key) => key.sign(self.algorithm, message).map_err(failed),
            Signer::Transit(signer) => {
                let _permit = admitted()?;
                let signed = Box::pin(signer.sign(message)).await;
                let signature = signed.map_err(|source| SignError::Store { kid: kid(), source })?;
                if !self.public.verifies(self.algorithm, message, &signature) {
                    return Err(SignError::Mismatch { kid: kid() });
                }
                Ok(signature)
            }
        }
    }

    /// Signs something that is no token: whether it can is known before the first request asks.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub async fn prove(&self) -> Result<(), SignError> {
        self.sign(b"placet").await.map(drop)
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
    let kind = parsed.key.kind();
    let algorithm = configured.or(parsed.declared).unwrap_or_else(|| kind.default_algorithm());
    check_fits(kind, algorithm)?;
    Ok(algorithm)
}

fn check_fits(kind: KeyKind, algorithm: Algorithm) -> Result<(), KeyError> {
    if kind.fits(algorithm) {
        return Ok(());
    }
    let fitting: Vec<String> = Algorithm::ALL
        .into_iter()
        .filter(|fitting| kind.fits(*fitting))
        .map(|fitting| format!("`{fitting}`"))
        .collect();
    let (key, fitting) = (kind.name(), fitting.join(" or "));
    Err(KeyError::AlgorithmMismatch { algorithm, key, fitting })
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
