//! The identity provider: its key, and tokens of it.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING as ALGORITHM, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::Fault;

const KEY_ID: &str = "idp-1";

/// Long enough for any run.
const TOKEN_SECONDS: u64 = 6 * 3600;

/// Signs as an identity provider.
pub(crate) struct Issuer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    header: String,
}

impl Issuer {
    /// A new private key, PKCS#8.
    pub(crate) fn generate() -> Result<Vec<u8>, Fault> {
        let key = EcdsaKeyPair::generate_pkcs8(&ALGORITHM, &SystemRandom::new())?;
        Ok(key.as_ref().to_vec())
    }

    pub(crate) fn new(key: &[u8]) -> Result<Self, Fault> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ALGORITHM, key, &random)?;
        let header = json!({"alg": "ES256", "kid": KEY_ID, "typ": "JWT"}).to_string();
        Ok(Self { key, random, header: BASE64.encode(header) })
    }

    pub(crate) fn jwks(&self) -> Value {
        // An uncompressed point: a byte that says so, and the two coordinates.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
            "x": BASE64.encode(x), "y": BASE64.encode(y),
        }]})
    }

    /// A token for `subject`; `id` tells it from all others.
    pub(crate) fn token(&self, subject: &str, id: u64, now: u64) -> Result<String, Fault> {
        let claims = json!({
            "iss": "https://idp.example/", "sub": subject, "aud": ["orders-api"],
            "iat": now, "exp": now + TOKEN_SECONDS, "scope": "orders:read orders:write",
            "groups": ["eng", "oncall"], "email": subject, "jti": format!("{id:016x}"),
        });
        let mut token = format!("{}.{}", self.header, BASE64.encode(claims.to_string()));
        let signature = self.key.sign(&self.random, token.as_bytes())?;
        token.push('.');
        BASE64.encode_string(signature, &mut token);
        Ok(token)
    }
}
