//! `io.jwt.*`: tokens read and verified by the policy itself.
//!
//! Tokens are taken apart as strictly as our own credentials are. Keys are a certificate or public
//! key in PEM, a JWK or a JWK set; each is tied to its algorithms, and a secret verifies HMAC only,
//! so a token can't choose how its key is used. As in OPA, what does not verify is `false`, and what
//! is no token, or asks for what does not exist, is undefined.

use aws_lc_rs::hmac;
use regorus::Value;
use serde_json::{Map, Value as Json, json};

use super::{hex, text};
use crate::clock::Timestamp;
use crate::identity::{Compact, KeySet};
use crate::keys::Algorithm;
use crate::policy::rego::input;

/// `[header, payload, signature]`, unverified.
pub(super) fn decode(arguments: &[Value], _: Timestamp) -> Option<Value> {
    let token = parse(text(arguments, 0)?)?;
    let signature = hex(&token.signature);
    Some(input::value(&json!([token.header, token.claims, signature])))
}

/// Whether the token's signature is of a key in the second argument.
pub(super) fn verify(algorithm: Algorithm, arguments: &[Value]) -> Option<Value> {
    let token = parse(text(arguments, 0)?)?;
    let keys = keys(text(arguments, 1)?)?;
    Some(Value::from(keys.verifies(kid(&token), algorithm, token.signed, &token.signature)))
}

/// Whether the token's authentication code is of the secret in the second argument.
pub(super) fn verify_secret(algorithm: hmac::Algorithm, arguments: &[Value]) -> Option<Value> {
    let token = parse(text(arguments, 0)?)?;
    Some(Value::from(is_authentic(&token, algorithm, text(arguments, 1)?)))
}

/// `[valid, header, payload]`: `[false, {}, {}]` unless the signature verifies and each constraint
/// is met.
pub(super) fn decode_verify(arguments: &[Value], now: Timestamp) -> Option<Value> {
    let constraints = Constraints::read(arguments.get(1)?, now)?;
    let token = parse(text(arguments, 0)?)?;
    let is_valid = constraints.verify(&token) && constraints.are_met(&token.claims)?;
    Some(input::value(&if is_valid {
        json!([true, token.header, token.claims])
    } else {
        json!([false, {}, {}])
    }))
}

/// A token within a token is not followed.
fn parse(token: &str) -> Option<Compact<'_>> {
    Compact::parse(token).ok().filter(|token| !token.header.contains_key("cty"))
}

fn kid<'a>(token: &'a Compact<'_>) -> Option<&'a str> {
    token.header.get("kid").and_then(Json::as_str).filter(|kid| !kid.is_empty())
}

/// A certificate or public key in PEM, a JWK, or a JWK set.
fn keys(text: &str) -> Option<KeySet> {
    if text.trim_start().starts_with("-----BEGIN ") {
        return KeySet::of_pem(text);
    }
    let single = || {
        let key = crate::json::object(text.as_bytes()).ok()?;
        KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).ok()
    };
    KeySet::parse(text.as_bytes()).ok().or_else(single)
}

fn is_authentic(token: &Compact<'_>, algorithm: hmac::Algorithm, secret: &str) -> bool {
    let key = hmac::Key::new(algorithm, secret.as_bytes());
    hmac::verify(&key, token.signed.as_bytes(), &token.signature).is_ok()
}

enum Trust {
    Keys(KeySet),
    Secret(String),
}

/// What a token has to fulfil.
struct Constraints {
    trust: Trust,
    algorithm: Option<String>,
    issuer: Option<String>,
    audience: Option<String>,
    /// Seconds since the epoch.
    time: f64,
}

impl Constraints {
    /// `None` when one is not known, is of another form, or does not say which key to trust.
    fn read(value: &Value, now: Timestamp) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of many millennia fit")]
        let mut time = now.millis() as f64 / 1e3;
        let [mut certificate, mut secret, mut algorithm, mut issuer, mut audience] =
            [const { None }; 5];
        for (name, value) in value.as_object().ok()?.iter() {
            let place = match name.as_string().ok()?.as_ref() {
                "time" => {
                    time = value.as_f64().ok().filter(|nanos| *nanos >= 0.0)? / 1e9;
                    continue;
                }
                "cert" => &mut certificate,
                "secret" => &mut secret,
                "alg" => &mut algorithm,
                "iss" => &mut issuer,
                "aud" => &mut audience,
                _ => return None,
            };
            *place = Some(value.as_string().ok()?.to_string());
        }
        let trust = match (certificate, secret) {
            (Some(text), None) => Trust::Keys(keys(&text)?),
            (None, Some(secret)) if !secret.is_empty() => Trust::Secret(secret),
            _ => return None,
        };
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (algorithm, issuer) = (given(algorithm), given(issuer));
        Some(Self { trust, algorithm, issuer, audience: given(audience), time })
    }

    /// Whether the signature is of the key that is trusted.
    fn verify(&self, token: &Compact<'_>) -> bool {
        let Some(named) = token.header.get("alg").and_then(Json::as_str) else { return false };
        // Extensions that must be understood, and are not.
        if token.header.contains_key("crit")
            || self.algorithm.as_ref().is_some_and(|wanted| wanted != named)
        {
            return false;
        }
        match &self.trust {
            Trust::Keys(keys) => named.parse().is_ok_and(|algorithm| {
                keys.verifies(kid(token), algorithm, token.signed, &token.signature)
            }),
            Trust::Secret(secret) => {
                let algorithm = match named {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => return false,
                };
                is_authentic(token, algorithm, secret)
            }
        }
    }

    /// Whether the claims fulfil the rest; `None` when a time is no number. A token for somebody is
    /// for nobody who does not say who he is.
    fn are_met(&self, claims: &Map<String, Json>) -> Option<bool> {
        let time = |name| match claims.get(name) {
            None => Some(None),
            Some(value) => value.as_f64().map(Some),
        };
        let (expiry, start) = (time("exp")?, time("nbf")?);
        let is_issued = self.issuer.is_none()
            || claims.get("iss").and_then(Json::as_str) == self.issuer.as_deref();
        let is_mine = |audience: &Json| audience.as_str() == self.audience.as_deref();
        let is_for_us = match claims.get("aud") {
            None => self.audience.is_none(),
            Some(Json::Array(list)) => self.audience.is_some() && list.iter().any(is_mine),
            Some(one) => self.audience.is_some() && is_mine(one),
        };
        let is_current = expiry.is_none_or(|expiry| self.time < expiry)
            && start.is_none_or(|start| self.time >= start);
        Some(is_issued && is_for_us && is_current)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_000);

    fn signed_part(header: &Json, claims: &Json) -> String {
        let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
        format!("{}.{}", part(header), part(claims))
    }

    fn with_secret(secret: &str, header: &Json, claims: &Json) -> String {
        let signed = signed_part(header, claims);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let code = hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(code))
    }

    fn is_valid(token: &str, constraints: Json) -> Option<bool> {
        let arguments = [Value::from(token), input::value(&constraints)];
        let answer = decode_verify(&arguments, NOW)?;
        let valid = answer.as_array().unwrap().first().unwrap().clone();
        Some(*valid.as_bool().unwrap())
    }

    #[test]
    fn keys_come_as_certificate_public_key_or_jwk_and_verify_their_own_algorithm_only() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&pair).unwrap().pem();
        let signing =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der());
        let signing = signing.unwrap();
        let point = pair.public_key_raw();
        let coordinate = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "1", "x": coordinate(1..33), "y": coordinate(33..65)});
        let claims = json!({"sub": "alice"});
        let sign = |header: Json| {
            let signed = signed_part(&header, &claims);
            let signature = signing.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        let token = sign(json!({"alg": "ES256", "kid": "2"}));
        for key in [
            certificate.clone(),
            pair.public_key_pem(),
            jwk.to_string(),
            json!({"keys": [jwk]}).to_string(),
        ] {
            let verified = |token: &str, algorithm| {
                verify(algorithm, &[Value::from(token), Value::from(key.as_str())])
            };
            assert_eq!(verified(&token, Algorithm::ES256), Some(Value::from(true)), "{key}");
            assert_eq!(verified(&token, Algorithm::ES384), Some(Value::from(false)), "{key}");
            assert_eq!(is_valid(&token, json!({"cert": key})), Some(true), "{key}");
            assert_eq!(is_valid(&token, json!({"cert": key, "alg": "RS256"})), Some(false));
            // The public key is no secret, and an algorithm of the token's choice is none of the key's.
            let confused = with_secret(&key, &json!({"alg": "HS256"}), &claims);
            assert_eq!(is_valid(&confused, json!({"cert": key})), Some(false), "{key}");
            for header in
                [json!({"alg": "none"}), json!({}), json!({"alg": "ES256", "crit": ["x"]})]
            {
                assert_eq!(is_valid(&sign(header), json!({"cert": key})), Some(false), "{key}");
            }
        }
        assert_eq!(is_valid(&token, json!({"cert": "no key"})), None);
        assert_eq!(is_valid(&token, json!({"secret": certificate})), Some(false));
    }

    #[test]
    fn each_constraint_counts() {
        let token = |claims: Json| with_secret("s", &json!({"alg": "HS256"}), &claims);
        let valid = |claims: Json, constraints: Json| is_valid(&token(claims), constraints);
        let secret = json!({"secret": "s"});
        for (claims, more, expected) in [
            (json!({}), json!({}), Some(true)),
            (json!({}), json!({"secret": "other"}), Some(false)),
            (json!({}), json!({"secret": ""}), None),
            (json!({}), json!({"cert": "x"}), None),
            (json!({}), json!({"alg": "HS256"}), Some(true)),
            (json!({}), json!({"alg": "HS512"}), Some(false)),
            (json!({}), json!({"unknown": "x"}), None),
            (json!({}), json!({"iss": 1}), None),
            (json!({"iss": "a"}), json!({"iss": "a"}), Some(true)),
            (json!({"iss": "a"}), json!({"iss": "b"}), Some(false)),
            (json!({}), json!({"iss": "b"}), Some(false)),
            (json!({"aud": "a"}), json!({}), Some(false)),
            (json!({"aud": "a"}), json!({"aud": "a"}), Some(true)),
            (json!({"aud": ["b", "a"]}), json!({"aud": "a"}), Some(true)),
            (json!({"aud": ["b"]}), json!({"aud": "a"}), Some(false)),
            (json!({"aud": [null]}), json!({}), Some(false)),
            (json!({}), json!({"aud": "a"}), Some(false)),
            (json!({"exp": 1_001}), json!({}), Some(true)),
            (json!({"exp": 1_000}), json!({}), Some(false)),
            (json!({"exp": "1001"}), json!({}), None),
            (json!({"nbf": 1_000}), json!({}), Some(true)),
            (json!({"nbf": 1_001}), json!({}), Some(false)),
            (json!({"nbf": 1_001}), json!({"time": 1_001_000_000_000_u64}), Some(true)),
            (json!({"exp": 1_001}), json!({"time": 1_001_000_000_000_u64}), Some(false)),
            (json!({}), json!({"time": -1}), None),
        ] {
            let mut constraints = secret.clone();
            let fields = more.as_object().unwrap().clone();
            constraints.as_object_mut().unwrap().extend(fields);
            assert_eq!(valid(claims.clone(), constraints), expected, "{claims} {more}");
        }
        assert_eq!(is_valid(&token(json!({})), json!({})), None, "no key is trusted");
        for broken in ["", "a", "a.b", "a.b.c", "a.b.c.d"] {
            assert_eq!(is_valid(broken, secret.clone()), None, "{broken}");
            assert_eq!(decode(&[Value::from(broken)], NOW), None, "{broken}");
        }
    }
}
