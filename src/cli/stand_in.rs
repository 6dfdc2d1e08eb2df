//! An issuer that stands in for all of the settings' own, offline: its key is made for the run and trusted
//! by nobody else. So credentials are verified for real, and no issuer is asked.

use anyhow::Result;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Map, Value, json};

use crate::app::GivenKeys;
use crate::clock::Timestamp;
use crate::identity::KeySet;
use crate::identity::jwks::IssuerKeys;
use crate::keys::{KeySettings, SigningKey};

/// The issuer.
pub(super) struct StandIn {
    key: SigningKey,
    keys: IssuerKeys,
}

impl StandIn {
    pub(super) fn new(now: Timestamp) -> Result<Self> {
        let settings = KeySettings {
            client_id: "issuer".to_owned(),
            algorithm: None,
            key_id: None,
            certificate: None,
            token_type: "JWT".to_owned(),
        };
        let key = SigningKey::throw_away(&settings, now)?;
        let set = json!({ "keys": [key.jwk()] }).to_string();
        let keys = IssuerKeys::fixed(KeySet::parse(set.as_bytes())?);
        Ok(Self { key, keys })
    }

    /// By which its tokens are verified, whichever issuer they name.
    pub(super) fn keys(&self) -> GivenKeys {
        GivenKeys::Every(self.keys.clone())
    }

    pub(super) async fn sign(&self, claims: &Map<String, Value>) -> Result<String> {
        self.sign_payload(&BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims)?)).await
    }

    /// Signs claims as they are encoded.
    pub(super) async fn sign_payload(&self, payload: &str) -> Result<String> {
        let message = format!("{}.{payload}", self.key.jws_header());
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes()).await?);
        Ok(format!("{message}.{signature}"))
    }
}
