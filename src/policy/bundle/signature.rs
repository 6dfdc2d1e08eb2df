//! A bundle's signature (`.signatures.json`), as `opa sign` makes it: a JWT that lists every file with
//! its digest.
//!
//! A bundle that must be signed is used only when the JWT verifies with the configured key and
//! algorithm, its scope is the configured one, and it lists exactly the files there are, each with its
//! digest: one more, one less or one changed, and none of the bundle is used.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{self, Context as Digest};
use serde_json::{Map, Value};

use crate::identity::{Compact, KeySet};
use crate::json;
use crate::keys::Algorithm;

/// The file that holds the signature.
pub(super) const SIGNATURES: &str = ".signatures.json";

/// A signature lists every file: some 150 bytes each.
const TOKEN_LIMIT: usize = 4 * 1024 * 1024;

/// How a bundle's signature is judged.
#[derive(Debug)]
pub struct Verification {
    /// The keys of those who may sign.
    pub keys: KeySet,
    /// What they sign with; never chosen by the token.
    pub algorithm: Algorithm,
    /// The key's id, which the signature must name; `None`: whichever it names.
    pub key_id: Option<String>,
    /// The signature's `scope`; empty: it has none.
    pub scope: String,
}

/// Why a bundle is not taken for signed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error("it has no {SIGNATURES}, and must be signed: sign it with `opa sign`")]
    Missing,
    /// Not one signature.
    #[error("its {SIGNATURES} does not hold exactly one signature")]
    NotOne,
    /// A signature of another kind.
    #[error("its {SIGNATURES} names a plugin, which is not known here")]
    Plugin,
    /// The token is none, or has what no signature has.
    #[error("its signature is not a JWT that lists files")]
    Malformed,
    /// Another key id than the configured one.
    #[error("its signature is by another key than `{0}`")]
    KeyId(String),
    /// It does not verify.
    #[error("its signature does not verify as {0} with the configured key")]
    Unverified(Algorithm),
    /// Another scope than the configured one.
    #[error("its signature has another scope than the configured `{0}`")]
    Scope(String),
    /// A digest by an algorithm that proves nothing, or that is unknown.
    #[error("the digest of `{0}` is by none of SHA-256, SHA-384, SHA-512")]
    Digest(String),
    /// A file that is not what was signed.
    #[error("the file `{0}` is not what was signed")]
    Changed(String),
    /// A file that was not signed.
    #[error("the file `{0}` is not in the signature")]
    Unsigned(String),
    /// A file that was signed and is gone.
    #[error("the file `{0}` is in the signature and not in the bundle")]
    Gone(String),
}

impl Verification {
    /// Judges the files of a bundle, the manifest and the signature among them.
    pub(super) fn check(&self, files: &BTreeMap<String, Vec<u8>>) -> Result<(), SignatureError> {
        let token = token(files.get(SIGNATURES).ok_or(SignatureError::Missing)?)?;
        let mut listed = self.verified(&token)?;
        for (name, content) in files.iter().filter(|(name, _)| *name != SIGNATURES) {
            let signed = listed.remove(name);
            let signed = signed.ok_or_else(|| SignatureError::Unsigned(shown(name)))?;
            if !signed.is_of(name, content)? {
                return Err(SignatureError::Changed(shown(name)));
            }
        }
        match listed.into_keys().next() {
            Some(name) => Err(SignatureError::Gone(shown(&name))),
            None => Ok(()),
        }
    }

    /// What the token lists, once it is known to be ours.
    fn verified(&self, token: &str) -> Result<BTreeMap<String, Listed>, SignatureError> {
        let Compact { header, claims, signed, signature } =
            Compact::parse_within(token, TOKEN_LIMIT).map_err(|_| SignatureError::Malformed)?;
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(SignatureError::Malformed);
        }
        let text = |fields: &Map<String, Value>, name| {
            fields.get(name).and_then(Value::as_str).map(str::to_owned)
        };
        // `keyid` is where the id stood before `kid`.
        let named = text(&header, "kid").or_else(|| text(&claims, "keyid"));
        if let Some(expected) = &self.key_id
            && named.as_ref().is_some_and(|named| named != expected)
        {
            return Err(SignatureError::KeyId(expected.clone()));
        }
        let algorithm = self.algorithm;
        let is_declared = text(&header, "alg").is_some_and(|alg| alg == algorithm.name());
        let kid = self.key_id.as_deref().or(named.as_deref());
        if !is_declared || !self.keys.verifies(kid, algorithm, signed, &signature) {
            return Err(SignatureError::Unverified(algorithm));
        }
        if text(&claims, "scope").unwrap_or_default() != self.scope {
            return Err(SignatureError::Scope(self.scope.clone()));
        }
        let list = claims.get("files").and_then(Value::as_array);
        let mut listed = BTreeMap::new();
        for file in list.ok_or(SignatureError::Malformed)? {
            let file = file.as_object().ok_or(SignatureError::Malformed)?;
            let field = |name| text(file, name).ok_or(SignatureError::Malformed);
            let name = field("name")?.trim_start_matches('/').to_owned();
            let entry = Listed { hash: field("hash")?, algorithm: field("algorithm")? };
            if listed.insert(name, entry).is_some() {
                return Err(SignatureError::Malformed);
            }
        }
        Ok(listed)
    }
}

/// A file's digest, as the signature has it.
struct Listed {
    hash: String,
    algorithm: String,
}

impl Listed {
    /// Whether `content` is what was signed. Of JSON and YAML documents the digest is over their
    /// values, not their spelling.
    fn is_of(&self, name: &str, content: &[u8]) -> Result<bool, SignatureError> {
        let mut digest = Digest::new(match self.algorithm.as_str() {
            "SHA-256" => &digest::SHA256,
            "SHA-384" => &digest::SHA384,
            "SHA-512" => &digest::SHA512,
            _ => return Err(SignatureError::Digest(shown(name))),
        });
        let document = match name.rsplit('/').next().unwrap_or(name) {
            "data.json" | ".manifest" => Some(json::value(content).ok()),
            "data.yaml" | "data.yml" => Some(yaml_serde::from_slice(content).ok()),
            _ => None,
        };
        match document {
            None => digest.update(content),
            Some(Some(value)) => walk(&value, &mut digest),
            Some(None) => return Ok(false),
        }
        Ok(hex::decode(&self.hash).is_ok_and(|hash| hash == digest.finish().as_ref()))
    }
}

/// Objects with their names in order, lists and what is in them, with nothing between.
fn walk(value: &Value, digest: &mut Digest) {
    match value {
        Value::Object(fields) => {
            let ordered: BTreeMap<&String, &Value> = fields.iter().collect();
            digest.update(b"{");
            for (place, (name, value)) in ordered.into_iter().enumerate() {
                if place > 0 {
                    digest.update(b",");
                }
                scalar(&Value::String(name.clone()), digest);
                digest.update(b":");
                walk(value, digest);
            }
            digest.update(b"}");
        }
        Value::Array(items) => {
            digest.update(b"[");
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    digest.update(b",");
                }
                walk(item, digest);
            }
            digest.update(b"]");
        }
        other => scalar(other, digest),
    }
}

/// As Go writes it, which escapes two characters more than JSON must. A number that is spelled in a
/// way of its own (`1e3`) has another digest there, and its bundle is refused.
fn scalar(value: &Value, digest: &mut Digest) {
    let text = value.to_string().replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    digest.update(text.as_bytes());
}

fn token(file: &[u8]) -> Result<String, SignatureError> {
    let mut members = json::object(file).map_err(|_| SignatureError::NotOne)?;
    if members.get("plugin").is_some_and(|plugin| plugin.as_str() != Some("")) {
        return Err(SignatureError::Plugin);
    }
    match members.remove("signatures") {
        Some(Value::Array(list)) => match list.as_slice() {
            [Value::String(token)] => Ok(token.clone()),
            _ => Err(SignatureError::NotOne),
        },
        _ => Err(SignatureError::NotOne),
    }
}

fn shown(name: &str) -> String {
    name.escape_debug().take(200).collect()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    type Files = BTreeMap<String, Vec<u8>>;

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
        }

        fn keys(&self) -> KeySet {
            let point = self.0.public_key().as_ref();
            let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
            let set = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "ci",
                "x": part(1..33), "y": part(33..65)}]});
            KeySet::parse(set.to_string().as_bytes()).unwrap()
        }

        fn token(&self, header: &Value, claims: &Value) -> String {
            let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
            let message = format!("{}.{}", encoded(header), encoded(claims));
            let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn sha256(content: &str) -> String {
        hex::encode(digest::digest(&digest::SHA256, content.as_bytes()))
    }

    fn header() -> Value {
        json!({"alg": "ES256", "kid": "ci"})
    }

    /// The digests are of the texts that the format's description gives for these documents.
    fn claims() -> Value {
        let file = |name: &str, text: &str| json!({"name": name, "hash": sha256(text), "algorithm": "SHA-256"});
        json!({"scope": "write", "files": [
            file(".manifest", r#"{"revision":"7","roots":["a"]}"#),
            file("a/p.rego", "package a\n"),
            file("a/data.json", r#"{"b":[1,"<\u2028>"],"é":{"x":null,"y":false}}"#),
            file("b/data.yaml", r#"{"n":1,"t":"x"}"#),
        ]})
    }

    fn files(token: &str) -> Files {
        let signatures = json!({"signatures": [token]}).to_string();
        [
            (".manifest", "{ \"roots\": [\"a\"],\n \"revision\": \"7\"}"),
            ("a/p.rego", "package a\n"),
            ("a/data.json", "{\"é\": {\"y\": false, \"x\": null},\n  \"b\": [1, \"<\u{2028}>\"]}"),
            ("b/data.yaml", "t: x\nn: 1\n"),
            (SIGNATURES, &signatures),
        ]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
        .collect()
    }

    fn verification(keys: KeySet) -> Verification {
        let scope = "write".to_owned();
        Verification { keys, algorithm: Algorithm::ES256, key_id: None, scope }
    }

    #[test]
    fn what_was_signed_is_taken_and_its_spelling_does_not_matter() {
        let signer = Signer::new();
        let token = signer.token(&header(), &claims());
        assert_eq!(verification(signer.keys()).check(&files(&token)), Ok(()));
        let mut named = verification(signer.keys());
        named.key_id = Some("ci".to_owned());
        assert_eq!(named.check(&files(&token)), Ok(()));
        let mut unnamed = claims();
        unnamed["keyid"] = "ci".into();
        let token = signer.token(&json!({"alg": "ES256"}), &unnamed);
        assert_eq!(named.check(&files(&token)), Ok(()));
    }

    #[test]
    fn one_file_more_less_or_changed_and_nothing_is_taken() {
        let signer = Signer::new();
        let checked = |change: &dyn Fn(&mut Files)| {
            let mut files = files(&signer.token(&header(), &claims()));
            change(&mut files);
            verification(signer.keys()).check(&files).unwrap_err()
        };
        let put = |name: &str, text: &str| {
            let (name, text) = (name.to_owned(), text.as_bytes().to_vec());
            move |files: &mut Files| drop(files.insert(name.clone(), text.clone()))
        };
        let changed = |name: &str| SignatureError::Changed(name.to_owned());
        assert_eq!(checked(&put("a/p.rego", "package a")), changed("a/p.rego"));
        assert_eq!(checked(&put("a/data.json", r#"{"b":[2],"é":{}}"#)), changed("a/data.json"));
        assert_eq!(checked(&put("a/data.json", "{")), changed("a/data.json"));
        assert_eq!(checked(&put(".manifest", r#"{"revision":"8"}"#)), changed(".manifest"));
        let unsigned = SignatureError::Unsigned("a/q.rego".to_owned());
        assert_eq!(checked(&put("a/q.rego", "package q")), unsigned);
        let gone = checked(&|files| drop(files.remove("a/p.rego")));
        assert_eq!(gone, SignatureError::Gone("a/p.rego".to_owned()));
        assert_eq!(checked(&|files| drop(files.remove(SIGNATURES))), SignatureError::Missing);
        for text in ["[]", "{}", r#"{"signatures":[]}"#, r#"{"signatures":["a","b"]}"#] {
            assert_eq!(checked(&put(SIGNATURES, text)), SignatureError::NotOne, "{text}");
        }
        let plugin = r#"{"signatures":["a"],"plugin":"other"}"#;
        assert_eq!(checked(&put(SIGNATURES, plugin)), SignatureError::Plugin);
    }

    #[test]
    fn only_the_configured_key_algorithm_and_scope_sign() {
        let (signer, other) = (Signer::new(), Signer::new());
        let checked = |token: &str| verification(signer.keys()).check(&files(token)).unwrap_err();
        let unverified = SignatureError::Unverified(Algorithm::ES256);
        assert_eq!(checked(&other.token(&header(), &claims())), unverified);
        for alg in ["none", "HS256", "ES384", "es256"] {
            let header = json!({"alg": alg, "kid": "ci"});
            assert_eq!(checked(&signer.token(&header, &claims())), unverified, "{alg}");
        }
        let critical = json!({"alg": "ES256", "crit": ["x"], "x": 1});
        assert_eq!(checked(&signer.token(&critical, &claims())), SignatureError::Malformed);
        assert_eq!(checked("a.b"), SignatureError::Malformed);
        let mut read = claims();
        read["scope"] = "read".into();
        let scope = SignatureError::Scope("write".to_owned());
        assert_eq!(checked(&signer.token(&header(), &read)), scope);
        let mut weak = claims();
        weak["files"][1]["algorithm"] = "MD5".into();
        let digest = SignatureError::Digest("a/p.rego".to_owned());
        assert_eq!(checked(&signer.token(&header(), &weak)), digest);
        let mut twice = claims();
        twice["files"][0] = twice["files"][1].clone();
        assert_eq!(checked(&signer.token(&header(), &twice)), SignatureError::Malformed);
        let mut named = verification(signer.keys());
        named.key_id = Some("release".to_owned());
        let refused = named.check(&files(&signer.token(&header(), &claims())));
        assert_eq!(refused, Err(SignatureError::KeyId("release".to_owned())));
    }
}
