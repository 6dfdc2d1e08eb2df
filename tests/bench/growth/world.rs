//! Settings of any size, and an issuer whose tokens they accept.

use std::fs;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use placet::app::{GivenKeys, Offline};
use placet::clock::Timestamp;
use placet::config::Config;
use placet::request::{Host, Request};
use placet::scope::Scope;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const NOW: u64 = 1_800_000_000;

/// A folder with settings, policies and the issuer's keys.
pub(crate) struct World {
    folder: TempDir,
    issuer: EcdsaKeyPair,
}

impl World {
    pub(crate) fn new() -> Self {
        let issuer = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let world = Self { folder: tempfile::tempdir().unwrap(), issuer };
        world.write("idp.jwks.json", &world.jwks().to_string());
        world.write("policies.cedar", "permit(principal, action, resource);");
        world.write("entities.json", "[]");
        world
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// The one scope of settings in which it has `more`.
    pub(crate) fn scope(&self, more: Value) -> Arc<Scope> {
        let mut scope = json!({
            "clientId": "orders",
            "identity": {"anonymous": true},
            "routes": [{
                "match": {"path": "/orders/{id}"},
                "asset": {"type": "Order", "id": "{id}"},
                "action": "read",
            }],
            "policy": {"files": ["policies.cedar"], "entities": "entities.json"},
            "jwtResponse": {"tokenLifetimeSeconds": 60},
        });
        if let (Some(scope), Value::Object(more)) = (scope.as_object_mut(), more) {
            scope.extend(more);
        }
        let settings = json!({
            "version": 1,
            "secretStores": [
                {"id": "files", "type": "file", "default": true, "details": {"directory": "keys"}},
            ],
            "scopes": [scope],
        });
        self.write("placet.yaml", &settings.to_string());
        let config = Config::load(&self.folder.path().join("placet.yaml")).unwrap();
        let now = Timestamp::from_seconds(NOW);
        let offline = Offline::new(config, &GivenKeys::None, now).unwrap();
        Arc::clone(offline.scopes.with_client_id("orders").unwrap())
    }

    /// The n-th issuer of many, all with the same key.
    pub(crate) fn issuer(number: usize) -> Value {
        json!({
            "issuer": format!("https://idp-{number}.example/"),
            "audiences": ["orders"],
            "jwksFile": "idp.jwks.json",
        })
    }

    /// A token of the n-th issuer, with a claim of so many bytes.
    pub(crate) fn token(&self, issuer: usize, claim: usize) -> String {
        let header = json!({"alg": "ES256", "kid": "idp", "typ": "JWT"});
        let claims = json!({
            "iss": format!("https://idp-{issuer}.example/"), "sub": "alice", "aud": "orders",
            "iat": NOW, "exp": NOW + 600, "note": "n".repeat(claim),
        });
        let [header, claims] = [header, claims].map(|part| BASE64.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.issuer.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64.encode(signature))
    }

    fn jwks(&self) -> Value {
        let (_, point) = self.issuer.public_key().as_ref().split_first().unwrap();
        let (x, y) = point.split_at(32);
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "idp",
            "x": BASE64.encode(x), "y": BASE64.encode(y),
        }]})
    }
}

/// A GET.
pub(crate) fn request(host: &str, path: &str) -> Request {
    Request {
        method: "GET".to_owned(),
        scheme: "https".to_owned(),
        host: Host::parse(host).unwrap(),
        target: path.to_owned(),
        ..Request::default()
    }
}
