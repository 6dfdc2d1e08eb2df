//! An issuer's public keys, parsed once and ready to verify.
//!
//! A key is tied to its algorithms when it is read: a curve has one, an RSA key the one it declares
//! or else the six of its kind. So a token's `alg` only ever selects among fitting keys, and can't
//! have one used as something else (RFC 8725 section 3.1). Keys we can't or should not use are
//! left out, each with its reason; a set without any usable key is refused.

use std::fmt;

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::refusal::{BadToken, Excerpt};
use crate::json::{self, JsonFault};
use crate::keys::Algorithm;

/// How many keys of a set are read at most.
const KEY_LIMIT: usize = 256;

/// How many keys of one id are tried at most.
const TRIES: usize = 4;

/// The usable keys of one issuer.
pub struct KeySet {
    keys: Vec<Key>,
    unused: Vec<UnusedKey>,
}

/// A key that was left out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnusedKey {
    /// Its id, shortened and escaped; empty when it has none.
    pub kid: Excerpt,
    /// Why, in words.
    pub reason: &'static str,
}

/// Why a text is no key set.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum KeySetError {
    #[error("the key set {0}")]
    Json(JsonFault),
    #[error("the key set has no list of `keys`")]
    NoKeys,
    #[error("the key set has {count} keys, and {KEY_LIMIT} are allowed")]
    TooMany { count: usize },
    #[error("none of the key set's {count} keys can verify a signature of an accepted algorithm")]
    NoneUsable { count: usize },
}

/// One key, parsed for each algorithm it may verify.
struct Key {
    kid: Option<String>,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// The members of a JWK that matter (RFC 7517 section 4, RFC 7518 section 6).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl KeySet {
    /// Reads a JWK set (RFC 7517 section 5).
    ///
    /// # Errors
    /// When it is not one, or no key in it can be used.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let set = json::object(text).map_err(KeySetError::Json)?;
        let list = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeys)?;
        if list.len() > KEY_LIMIT {
            return Err(KeySetError::TooMany { count: list.len() });
        }
        let (mut keys, mut unused) = (Vec::new(), Vec::new());
        for jwk in list {
            match Key::read(jwk) {
                Ok(key) => keys.push(key),
                Err(reason) => {
                    let kid = jwk.get("kid").and_then(Value::as_str).unwrap_or_default();
                    unused.push(UnusedKey { kid: Excerpt::new(kid), reason });
                }
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoneUsable { count: list.len() });
        }
        Ok(Self { keys, unused })
    }

    /// Reads a certificate or a public key in PEM (RFC 7468), as the one key of a set; nothing
    /// else of the certificate is looked at.
    pub(crate) fn of_pem(text: &str) -> Option<Self> {
        let block = pem::parse(text).ok()?;
        let verifiers = match block.tag() {
            "CERTIFICATE" => {
                let (_, certificate) = X509Certificate::from_der(block.contents()).ok()?;
                of_info(&certificate.tbs_certificate.subject_pki)
            }
            "PUBLIC KEY" => {
                let (rest, info) = SubjectPublicKeyInfo::from_der(block.contents()).ok()?;
                if rest.is_empty() { of_info(&info) } else { Vec::new() }
            }
            _ => Vec::new(),
        };
        let key = Key { kid: None, verifiers };
        (!key.verifiers.is_empty()).then(|| Self { keys: vec![key], unused: Vec::new() })
    }

    /// Whether `signature` over `signed` is the key's that is called `kid`, or where the set has
    /// none of that name, any key's that fits.
    pub(crate) fn verifies(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        signed: &str,
        signature: &[u8],
    ) -> bool {
        let is_named = |key: &&Key| kid.is_some() && key.kid.as_deref() == kid;
        let named = self.keys.iter().find(is_named);
        let keys = named.map_or(self.keys.as_slice(), std::slice::from_ref);
        keys.iter()
            .filter_map(|key| key.verifier(algorithm))
            .any(|key| key.verify_sig(signed.as_bytes(), signature).is_ok())
    }

    /// How many usable keys there are: at least one.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// The keys that were left out.
    pub fn unused(&self) -> &[UnusedKey] {
        &self.unused
    }

    /// Verifies `signature` over `signed` with the key `kid`, or with the only one for `algorithm`
    /// when the token names none.
    pub(super) fn verify(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        signed: &str,
        signature: &[u8],
    ) -> Result<(), BadToken> {
        let alg = algorithm;
        let named = self.keys.iter().filter(|key| kid.is_none() || key.kid.as_deref() == kid);
        let fitting: Vec<_> =
            named.clone().filter_map(|key| key.verifier(alg)).take(TRIES).collect();
        match (kid, fitting.len()) {
            (None, 1) | (Some(_), 1..) => {}
            (None, fitting) => return Err(BadToken::NoKeyId { alg, fitting }),
            (Some(kid), 0) if named.count() == 0 => {
                return Err(BadToken::UnknownKey { kid: Excerpt::new(kid) });
            }
            (Some(kid), 0) => return Err(BadToken::KeyUnfit { kid: Excerpt::new(kid), alg }),
        }
        let verifies =
            |key: &&ParsedPublicKey| key.verify_sig(signed.as_bytes(), signature).is_ok();
        match fitting.into_iter().find(verifies) {
            Some(_) => Ok(()),
            None => Err(BadToken::Signature { alg, kid: Excerpt::new(kid.unwrap_or_default()) }),
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids = self.keys.iter().map(|key| key.kid.as_deref());
        f.debug_list().entries(kids).finish()
    }
}

impl Key {
    fn verifier(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.verifiers.iter().find(|(alg, _)| *alg == algorithm).map(|(_, key)| key)
    }

    /// Reads one key, or says why it is left out.
    fn read(jwk: &Value) -> Result<Self, &'static str> {
        let jwk = Jwk::deserialize(jwk).map_err(|_| "it is malformed")?;
        if jwk.usage.as_ref().is_some_and(|usage| usage != "sig") {
            return Err("its `use` is not `sig`");
        }
        if jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("its `key_ops` lack `verify`");
        }
        let declared: Option<Algorithm> = match &jwk.alg {
            None => None,
            Some(alg) => Some(alg.parse().map_err(|_| "its `alg` is not one we verify")?),
        };
        let mut verifiers = jwk.verifiers()?;
        verifiers.retain(|(algorithm, _)| declared.is_none_or(|declared| declared == *algorithm));
        if verifiers.is_empty() {
            return Err("its `alg` does not fit its type");
        }
        Ok(Self { kid: jwk.kid, verifiers })
    }
}

/// The key of a certificate, parsed for every algorithm of its type.
fn of_info(info: &SubjectPublicKeyInfo<'_>) -> Vec<(Algorithm, ParsedPublicKey)> {
    let bits = &info.subject_public_key.data;
    let parse = |name, algorithm: &'static dyn VerificationAlgorithm| {
        Some((name, ParsedPublicKey::new(algorithm, bits.as_ref()).ok()?))
    };
    match info.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => {
            RSA.iter().filter_map(|(name, parameters)| parse(*name, *parameters)).collect()
        }
        // A point of one curve is none of the other.
        "1.2.840.10045.2.1" => [
            parse(Algorithm::ES256, &signature::ECDSA_P256_SHA256_FIXED),
            parse(Algorithm::ES384, &signature::ECDSA_P384_SHA384_FIXED),
        ]
        .into_iter()
        .flatten()
        .collect(),
        "1.3.101.112" => parse(Algorithm::EdDsa, &signature::ED25519).into_iter().collect(),
        _ => Vec::new(),
    }
}

impl Jwk {
    /// The key, parsed for every algorithm of its type.
    fn verifiers(&self) -> Result<Vec<(Algorithm, ParsedPublicKey)>, &'static str> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("EC", Some("P-256")) => {
                let key = self.ec_key(&signature::ECDSA_P256_SHA256_FIXED, 32)?;
                Ok(vec![(Algorithm::ES256, key)])
            }
            ("EC", Some("P-384")) => {
                let key = self.ec_key(&signature::ECDSA_P384_SHA384_FIXED, 48)?;
                Ok(vec![(Algorithm::ES384, key)])
            }
            ("OKP", Some("Ed25519")) => {
                let x = coordinate(self.x.as_deref(), 32)?;
                let key = ParsedPublicKey::new(&signature::ED25519, x);
                Ok(vec![(Algorithm::EdDsa, key.map_err(|_| "it is not a point of its curve")?)])
            }
            ("EC" | "OKP", _) => Err("its curve is not one we verify with"),
            ("RSA", _) => self.rsa_keys(),
            _ => Err("its type is not one we verify with"),
        }
    }

    fn ec_key(
        &self,
        algorithm: &'static EcdsaVerificationAlgorithm,
        width: usize,
    ) -> Result<ParsedPublicKey, &'static str> {
        let uncompressed = [4];
        let x = coordinate(self.x.as_deref(), width)?;
        let y = coordinate(self.y.as_deref(), width)?;
        let point = [uncompressed.as_slice(), &x, &y].concat();
        ParsedPublicKey::new(algorithm, point).map_err(|_| "it is not a point of its curve")
    }

    fn rsa_keys(&self) -> Result<Vec<(Algorithm, ParsedPublicKey)>, &'static str> {
        let n = decode(self.n.as_deref())?;
        let e = decode(self.e.as_deref())?;
        let leading = n.first().filter(|byte| **byte != 0).ok_or("its modulus is malformed")?;
        let bits = n.len().saturating_mul(8).saturating_sub(leading.leading_zeros() as usize);
        if bits < 2048 {
            return Err("it has fewer than 2048 bits");
        }
        let public = RsaPublicKeyComponents { n, e };
        RSA.iter()
            .map(|(algorithm, parameters)| {
                Ok((*algorithm, public.to_parsed_public_key(parameters)?))
            })
            .collect::<Result<_, aws_lc_rs::error::KeyRejected>>()
            .map_err(|_| "it is no rsa public key")
    }
}

/// The algorithms an RSA key may serve; PSS salts are as long as the hash (RFC 7518 section 3.5).
static RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::RS256, &signature::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::RS384, &signature::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::RS512, &signature::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::PS256, &signature::RSA_PSS_2048_8192_SHA256),
    (Algorithm::PS384, &signature::RSA_PSS_2048_8192_SHA384),
    (Algorithm::PS512, &signature::RSA_PSS_2048_8192_SHA512),
];

fn coordinate(text: Option<&str>, width: usize) -> Result<Vec<u8>, &'static str> {
    let bytes = decode(text)?;
    if bytes.len() == width { Ok(bytes) } else { Err("a coordinate is not of its curve's width") }
}

fn decode(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let text = text.ok_or("a member of its type is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member of its type is malformed")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::fixture::{ED, P256, P384, RSA, b64, key_set, with};

    /// Why a set of `jwk` and one good key leaves `jwk` out; none when it does not.
    fn unused(jwk: Value) -> Option<&'static str> {
        let set = key_set(&[jwk, P256.jwk("good")]);
        assert_eq!(set.count() + set.unused().len(), 2);
        set.unused().first().map(|unused| unused.reason)
    }

    #[test]
    fn keys_of_every_type_are_used() {
        for key in [&P256, &P384, &ED, &RSA] {
            let jwk = key.jwk("k");
            assert_eq!(unused(jwk.clone()), None);
            assert_eq!(
                unused(with(jwk.clone(), json!({"use": "sig", "key_ops": ["verify"]}))),
                None
            );
            assert_eq!(
                unused(with(jwk, json!({"kid": null, "x5t": "x", "other": {"a": 1}}))),
                None
            );
        }
        for (key, alg) in
            [(&P256, "ES256"), (&P384, "ES384"), (&ED, "EdDSA"), (&ED, "Ed25519"), (&RSA, "PS512")]
        {
            assert_eq!(unused(with(key.jwk("k"), json!({"alg": alg}))), None, "{alg}");
        }
    }

    #[test]
    fn keys_that_are_not_for_this_are_left_out() {
        let small = json!({"kty": "RSA", "n": b64([0xff; 255]), "e": "AQAB"});
        let almost = json!({"kty": "RSA", "n": b64([[0x7f].as_slice(), &[0xff; 255]].concat()), "e": "AQAB"});
        let padded =
            json!({"kty": "RSA", "n": b64([[0].as_slice(), &[0xff; 256]].concat()), "e": "AQAB"});
        let secret = json!({"kty": "oct", "k": b64([7; 32]), "alg": "HS256"});
        for (jwk, reason) in [
            (small, "2048"),
            (almost, "2048"),
            (padded, "modulus"),
            (secret, "`alg`"),
            (json!({"kty": "oct", "k": b64([7; 32])}), "type"),
            (json!({"kty": "AKP", "alg": "ML-DSA-44"}), "`alg`"),
            (json!({"kty": "Unknown"}), "type"),
            (json!({"kty": "EC", "crv": "P-521"}), "curve"),
            (json!({"kty": "EC", "crv": "secp256k1"}), "curve"),
            (json!({"kty": "OKP", "crv": "X25519", "x": b64([9; 32])}), "curve"),
            (json!({"kty": "EC"}), "curve"),
            (with(P256.jwk("k"), json!({"use": "enc"})), "`use`"),
            (with(P256.jwk("k"), json!({"use": "jwt-svid"})), "`use`"),
            (with(P256.jwk("k"), json!({"key_ops": ["sign"]})), "`key_ops`"),
            (with(P256.jwk("k"), json!({"key_ops": []})), "`key_ops`"),
            (with(P256.jwk("k"), json!({"alg": "ECDH-ES"})), "`alg`"),
            (with(P256.jwk("k"), json!({"alg": "ES384"})), "`alg`"),
            (with(P256.jwk("k"), json!({"alg": "none"})), "`alg`"),
            (with(RSA.jwk("k"), json!({"alg": "ES256"})), "`alg`"),
            (with(RSA.jwk("k"), json!({"alg": "RSA-OAEP-256"})), "`alg`"),
            (with(P256.jwk("k"), json!({"kid": 1})), "malformed"),
            (with(P256.jwk("k"), json!({"kty": 1})), "malformed"),
            (with(P256.jwk("k"), json!({"x": null})), "missing"),
            (with(RSA.jwk("k"), json!({"e": null})), "missing"),
            (with(P256.jwk("k"), json!({"x": "AA=="})), "malformed"),
            (with(P256.jwk("k"), json!({"y": b64([1; 31])})), "width"),
            (with(P256.jwk("k"), json!({"y": b64([1; 33])})), "width"),
            (with(P256.jwk("k"), json!({"y": b64([1; 32])})), "point"),
            (with(P256.jwk("k"), json!({"crv": "P-384"})), "width"),
            (with(ED.jwk("k"), json!({"x": b64([1; 31])})), "width"),
            (json!("key"), "malformed"),
            (json!(null), "malformed"),
        ] {
            let found = unused(jwk.clone());
            assert!(found.is_some_and(|found| found.contains(reason)), "{jwk}: {found:?}");
        }
    }

    #[test]
    fn what_is_no_set_of_usable_keys_is_refused() {
        let parse = |text: &str| KeySet::parse(text.as_bytes()).map(|set| set.count());
        let jwk = P256.jwk("k").to_string();
        assert_eq!(parse(&format!(r#"{{"keys":[{jwk}],"more":1}}"#)), Ok(1));
        assert_eq!(parse("<html>"), Err(KeySetError::Json(JsonFault::Syntax)));
        assert_eq!(parse(&format!("[{jwk}]")), Err(KeySetError::Json(JsonFault::NotObject)));
        let doubled = format!(r#"{{"keys":[],"keys":[{jwk}]}}"#);
        assert_eq!(parse(&doubled), Err(KeySetError::Json(JsonFault::Duplicate)));
        assert_eq!(parse("{}"), Err(KeySetError::NoKeys));
        assert_eq!(parse(r#"{"keys":{}}"#), Err(KeySetError::NoKeys));
        assert_eq!(parse(r#"{"keys":[]}"#), Err(KeySetError::NoneUsable { count: 0 }));
        assert_eq!(
            parse(r#"{"keys":[{"kty":"oct","k":"AA"}]}"#),
            Err(KeySetError::NoneUsable { count: 1 })
        );
        let many = |count| format!(r#"{{"keys":[{}]}}"#, vec![jwk.as_str(); count].join(","));
        assert_eq!(parse(&many(KEY_LIMIT)), Ok(KEY_LIMIT));
        assert_eq!(parse(&many(KEY_LIMIT + 1)), Err(KeySetError::TooMany { count: KEY_LIMIT + 1 }));
    }

    #[test]
    fn a_declared_algorithm_is_the_only_one() {
        let set = key_set(&[with(RSA.jwk("k"), json!({"alg": "RS256"}))]);
        let verify = |alg| set.verify(Some("k"), alg, "signed", &[0; 256]);
        let kid = || Excerpt::new("k");
        let alg = Algorithm::RS256;
        assert_eq!(verify(alg), Err(BadToken::Signature { alg, kid: kid() }));
        let alg = Algorithm::PS256;
        assert_eq!(verify(alg), Err(BadToken::KeyUnfit { alg, kid: kid() }));
    }

    /// What `set` says to a good signature with ES256, by this `kid`.
    fn verify(set: &KeySet, kid: Option<&str>) -> Result<(), BadToken> {
        let alg = Algorithm::ES256;
        set.verify(kid, alg, "signed", &P256.sign(alg, b"signed"))
    }

    #[test]
    fn without_a_key_id_exactly_one_key_must_fit() {
        let alg = Algorithm::ES256;
        let one = key_set(&[RSA.jwk("a"), P256.jwk("b"), P384.jwk("c")]);
        assert_eq!(verify(&one, None), Ok(()));
        let two = key_set(&[P256.jwk("a"), P256.jwk("b")]);
        assert_eq!(verify(&two, None), Err(BadToken::NoKeyId { alg, fitting: 2 }));
        let none = key_set(&[RSA.jwk("a")]);
        assert_eq!(verify(&none, None), Err(BadToken::NoKeyId { alg, fitting: 0 }));
        // A key without an id is not every id's.
        let nameless = key_set(&[with(P256.jwk("a"), json!({"kid": null}))]);
        assert_eq!(verify(&nameless, None), Ok(()));
        let kid = Excerpt::new("a");
        assert_eq!(verify(&nameless, Some("a")), Err(BadToken::UnknownKey { kid }));
    }

    #[test]
    fn keys_of_one_id_are_tried_in_order_up_to_four() {
        let other = || crate::identity::fixture::fresh_p256().jwk("k");
        let mut keys = vec![RSA.jwk("k"), other(), other(), other(), P256.jwk("k")];
        assert_eq!(verify(&key_set(&keys), Some("k")), Ok(()));
        keys.insert(0, other());
        let (alg, kid) = (Algorithm::ES256, Excerpt::new("k"));
        assert_eq!(verify(&key_set(&keys), Some("k")), Err(BadToken::Signature { alg, kid }));
    }
}
