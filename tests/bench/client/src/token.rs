//! Reads and verifies decision tokens.

use std::fs;
use std::path::Path;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

use crate::Fault;

/// What a token must say of its request.
#[derive(Debug, Deserialize)]
pub(crate) struct Claims {
    pub(crate) jti: String,
    pub(crate) sub: Option<String>,
    pub(crate) htm: String,
    pub(crate) htu: String,
    pub(crate) entitlements: String,
    pub(crate) nbf: u64,
    pub(crate) exp: u64,
}

impl Claims {
    pub(crate) fn read(token: &str) -> Result<Self, Fault> {
        let payload = token.split('.').nth(1).ok_or("a token has no payload")?;
        Ok(serde_json::from_slice(&BASE64.decode(payload)?)?)
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// The keys of one scope.
#[derive(Deserialize)]
pub(crate) struct Keys {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    alg: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

impl Keys {
    pub(crate) fn read(path: &Path) -> Result<Self, Fault> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// Whether one of the keys signed `token`, by the algorithm that the key is for.
    pub(crate) fn verify(&self, token: &str) -> Result<(), Fault> {
        let (signed, signature) = token.rsplit_once('.').ok_or("a token has no signature")?;
        let header = signed.split('.').next().ok_or("a token has no header")?;
        let header: Header = serde_json::from_slice(&BASE64.decode(header)?)?;
        let key = self.keys.iter().find(|key| key.kid == header.kid && key.alg == header.alg);
        let key = key.ok_or_else(|| format!("no key `{}` for {}", header.kid, header.alg))?;
        key.verify(signed.as_bytes(), &BASE64.decode(signature)?)
    }
}

impl Jwk {
    fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), Fault> {
        let number = |text: &str| BASE64.decode(text);
        let verified = match self.alg.as_str() {
            "ES256" => {
                let point = [vec![4], number(&self.x)?, number(&self.y)?].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature)
            }
            "EdDSA" => UnparsedPublicKey::new(&ED25519, number(&self.x)?).verify(signed, signature),
            "RS256" | "PS256" => {
                let (n, e) = (number(&self.n)?, number(&self.e)?);
                let scheme = match self.alg.as_str() {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    _ => &RSA_PSS_2048_8192_SHA256,
                };
                RsaPublicKeyComponents { n, e }.verify(scheme, signed, signature)
            }
            other => return Err(format!("tokens of {other} can't be verified here").into()),
        };
        verified.map_err(|_| format!("a token's signature does not hold ({})", self.alg).into())
    }
}
