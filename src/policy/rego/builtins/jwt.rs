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
