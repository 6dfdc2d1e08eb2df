//! The Transit secrets engine: public keys, and signatures as a JWS wants them.
//!
//! `vaultrs` can neither sign a batch nor set the salt length, and without it a PSS signature is
//! none that RFC 7518 knows; its reading of a key leaves out which version is the newest. So the
//! signing request and what is read of a key are written out here. The version is pinned, since
//! the signed header already names it: a signature of any other version is an error.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};
use vaultrs::api::transit::requests::ReadKeyRequest;

use super::VaultStore;
use super::cluster::Post;
use super::kv::timestamp;
use crate::keys::{Algorithm, KeyKind};
use crate::secrets::SecretError;
use crate::secrets::transit::{PublicKey, TransitKey, TransitVersion};

/// How much of what Vault says of a refused signature is shown.
const LONGEST_REASON: usize = 200;

impl VaultStore {
    /// Whether a Transit key can have that name.
    pub(in crate::secrets) fn check_transit(&self, name: &str) -> Result<(), SecretError> {
        self.transit_path("keys", name).map(drop)
    }

    /// Reads the public side of the Transit key `name`.
    pub(in crate::secrets) async fn transit_key(
        &self,
        name: &str,
    ) -> Result<TransitKey, SecretError> {
        let path = self.transit_path("keys", name)?;
        let question = ReadKeyRequest { mount: self.transit_mount(), name: name.to_owned() };
        let answer = self.ask(&path, &question).await.map_err(|error| match error {
            SecretError::NothingThere { .. } => self.transit_fault(
                &path,
                "there is none: create it, or correct `keyName`, `transitMount` or `namespace`",
            ),
            error => error,
        })?;
        let answer: Option<ReadKey> = answer.data().ok();
        answer
            .ok_or("the answer is not a Transit key: check `transitMount` and `address`")
            .and_then(ReadKey::checked)
            .map_err(|problem| self.transit_fault(&path, problem))
    }

    /// Adds a version to the Transit key `name`.
    pub(in crate::secrets) async fn transit_rotate(&self, name: &str) -> Result<(), SecretError> {
        // A key that is not there would be made, of some type.
        self.transit_key(name).await?;
        let path = format!("{}/rotate", self.transit_path("keys", name)?);
        self.ask(&path, &Post { path: path.clone(), body: json!({}) }).await.map(drop)
    }

    /// The signatures of `messages`, in their order, by one version of the Transit key `name`.
    ///
    /// The outer error is for all of them, an inner one for that message alone.
    pub(in crate::secrets) async fn transit_sign(
        &self,
        name: &str,
        version: u64,
        algorithm: Algorithm,
        messages: &[&[u8]],
    ) -> Result<Vec<Result<Vec<u8>, SecretError>>, SecretError> {
        #[derive(Deserialize)]
        struct Batch {
            batch_results: Vec<Signed>,
        }
        let mut path = self.transit_path("sign", name)?;
        let inputs: Vec<Value> =
            messages.iter().map(|message| json!({"input": STANDARD.encode(message)})).collect();
        let mut body = json!({
            "key_version": version,
            "marshaling_algorithm": "jws",
            "batch_input": inputs,
        });
        let Recipe { hash, padding } = Recipe::of(algorithm);
        if let Some(hash) = hash {
            path = format!("{path}/{hash}");
        }
        if let (Some(padding), Value::Object(body)) = (padding, &mut body) {
            body.insert("signature_algorithm".to_owned(), padding.into());
            body.insert("salt_length".to_owned(), "hash".into());
        }
        let answer = self.ask(&path, &Post { path: path.clone(), body }).await?;
        let batch = answer.data::<Batch>().ok().map(|batch| batch.batch_results);
        let batch = batch.filter(|batch| batch.len() == messages.len()).ok_or_else(|| {
            self.transit_fault(&path, "the answer is not one signature a message: check `address`")
        })?;
        let signature = |signed: Signed| {
            signed.checked(version, algorithm).map_err(|problem| self.transit_fault(&path, problem))
        };
        Ok(batch.into_iter().map(signature).collect())
    }

    fn transit_mount(&self) -> String {
        self.settings.transit_mount.trim_matches('/').to_owned()
    }

    /// `<mount>/<what>/<name>`, if that is a name Transit can have.
    fn transit_path(&self, what: &str, name: &str) -> Result<String, SecretError> {
        let path = format!("{}/{what}/{name}", self.transit_mount());
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_plain) {
            let problem = "is not the name of a Transit key: use letters, digits, `_`, `-`, `.`";
            return Err(self.transit_fault(&path, problem));
        }
        Ok(path)
    }

    fn transit_fault(&self, path: &str, problem: impl Into<String>) -> SecretError {
        let (store, path) = (self.id.clone(), path.to_owned());
        SecretError::Transit { store, path, problem: problem.into() }
    }
}

/// How Vault is told of a JWS algorithm (RFC 7518 section 3).
struct Recipe {
    hash: Option<&'static str>,
    padding: Option<&'static str>,
}

impl Recipe {
    const fn of(algorithm: Algorithm) -> Self {
        let hash = match algorithm {
            Algorithm::ES256 | Algorithm::RS256 | Algorithm::PS256 => Some("sha2-256"),
            Algorithm::ES384 | Algorithm::RS384 | Algorithm::PS384 => Some("sha2-384"),
            Algorithm::RS512 | Algorithm::PS512 => Some("sha2-512"),
            // It hashes by itself.
            Algorithm::EdDsa => None,
        };
        let padding = match algorithm {
            Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => Some("pkcs1v15"),
            Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512 => Some("pss"),
            Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDsa => None,
        };
        Self { hash, padding }
    }
}

/// One entry of a batch's answer.
#[derive(Deserialize)]
struct Signed {
    signature: Option<String>,
    error: Option<String>,
}

impl Signed {
    /// The signature's bytes, if `version` made it and it can be one of `algorithm`.
    fn checked(self, version: u64, algorithm: Algorithm) -> Result<Vec<u8>, String> {
        let Some(signature) = self.signature.filter(|signature| !signature.is_empty()) else {
            let reason: String =
                self.error.unwrap_or_default().chars().take(LONGEST_REASON).collect();
            return Err(format!(
                "signing was refused ({}): check that version {version} may sign and fits \
                 `algorithm`",
                reason.escape_debug()
            ));
        };
        let signature = signature
            .strip_prefix(&format!("vault:v{version}:"))
            .ok_or_else(|| format!("the signature is not of version {version}: look into Vault"))?;
        let is_whole = |bytes: &Vec<u8>| match algorithm {
            Algorithm::ES256 | Algorithm::EdDsa => bytes.len() == 64,
            Algorithm::ES384 => bytes.len() == 96,
            _ => bytes.len() >= 256,
        };
        URL_SAFE_NO_PAD.decode(signature).ok().filter(is_whole).ok_or_else(|| {
            format!("the answer is no signature of {algorithm}: check that the key's type fits")
        })
    }
}

/// What is read of a Transit key.
#[derive(Deserialize)]
struct ReadKey {
    #[serde(rename = "type")]
    kind: String,
    latest_version: u64,
    keys: HashMap<String, Value>,
}

impl ReadKey {
    fn checked(self) -> Result<TransitKey, &'static str> {
        let kind = match self.kind.as_str() {
            "ecdsa-p256" => KeyKind::P256,
            "ecdsa-p384" => KeyKind::P384,
            "ed25519" => KeyKind::Ed25519,
            "rsa-2048" | "rsa-3072" | "rsa-4096" => KeyKind::Rsa,
            _ => {
                return Err("its type signs no JWS: create one of type ecdsa-p256, ecdsa-p384, \
                            ed25519, rsa-2048, rsa-3072 or rsa-4096");
            }
        };
        let versions = self.keys.iter().map(|(number, entry)| version(kind, number, entry));
        let mut versions: Vec<TransitVersion> = versions
            .collect::<Option<_>>()
            .ok_or("a version has no public key: create one that is not derived")?;
        versions.sort_unstable_by_key(|version| version.number);
        if versions.last().map(|version| version.number) != Some(self.latest_version) {
            return Err("its newest version is not among its versions: look into Vault");
        }
        Ok(TransitKey { kind, latest: self.latest_version, versions })
    }
}

fn version(kind: KeyKind, number: &str, entry: &Value) -> Option<TransitVersion> {
    let text = |name: &str| entry.get(name)?.as_str();
    let public_key = match kind {
        KeyKind::Ed25519 => {
            PublicKey::Ed25519(STANDARD.decode(text("public_key")?).ok()?.try_into().ok()?)
        }
        _ => PublicKey::Pem(
            text("public_key").filter(|pem| pem.contains("BEGIN PUBLIC KEY"))?.to_owned(),
        ),
    };
    let created = timestamp(text("creation_time")?)?;
    Some(TransitVersion { number: number.parse().ok()?, created, public_key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(signature: &str) -> Signed {
        Signed { signature: Some(signature.to_owned()), error: None }
    }

    #[test]
    fn a_signature_of_another_version_or_shape_is_none() {
        let bytes = URL_SAFE_NO_PAD.encode([7; 64]);
        let good = signed(&format!("vault:v3:{bytes}")).checked(3, Algorithm::ES256);
        assert_eq!(good.unwrap(), [7; 64]);
        for (text, version, algorithm) in [
            (format!("vault:v3:{bytes}"), 2, Algorithm::ES256),
            (format!("vault:v31:{bytes}"), 3, Algorithm::ES256),
            (bytes.clone(), 3, Algorithm::ES256),
            (format!("vault:v3:{bytes}"), 3, Algorithm::ES384),
            (format!("vault:v3:{bytes}"), 3, Algorithm::RS256),
            (format!("vault:v3:{}", STANDARD.encode([255; 64])), 3, Algorithm::ES256),
            (String::new(), 3, Algorithm::ES256),
        ] {
            assert!(signed(&text).checked(version, algorithm).is_err(), "{text} {algorithm}");
        }
    }

    #[test]
    fn a_refusal_is_quoted_in_part_and_on_one_line() {
        let error = Some(format!("no\n{}", "x".repeat(999)));
        let problem = Signed { signature: None, error }.checked(1, Algorithm::ES256).unwrap_err();
        assert!(problem.contains("no\\nxxx") && problem.len() < 400, "{problem}");
    }
}
