//! The builtins of OPA that regorus lacks and policies of a proxy need: tokens, digests, and the
//! time of the decision in place of the machine's.
//!
//! As in OPA, one that can't do what it is asked is undefined. None signs, and none asks anybody.

mod jwt;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use aws_lc_rs::{constant_time, hmac};
use regorus::{Engine, Value};

use crate::clock::Timestamp;
use crate::keys::Algorithm;

/// A builtin: its arguments, as many as it takes, and the time, to its value or none.
type Builtin = fn(&[Value], Timestamp) -> Option<Value>;

/// By name, with the number of arguments.
const BUILTINS: [(&str, u8, Builtin); 21] = [
    ("crypto.hmac.equal", 2, hmac_equal),
    ("crypto.hmac.sha1", 2, |a, _| mac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, a)),
    ("crypto.hmac.sha256", 2, |a, _| mac(hmac::HMAC_SHA256, a)),
    ("crypto.hmac.sha512", 2, |a, _| mac(hmac::HMAC_SHA512, a)),
    ("crypto.sha1", 1, |a, _| hash(&SHA1_FOR_LEGACY_USE_ONLY, a)),
    ("crypto.sha256", 1, |a, _| hash(&SHA256, a)),
    ("io.jwt.decode", 1, jwt::decode),
    ("io.jwt.decode_verify", 2, jwt::decode_verify),
    ("io.jwt.verify_eddsa", 2, |a, _| jwt::verify(Algorithm::EdDsa, a)),
    ("io.jwt.verify_es256", 2, |a, _| jwt::verify(Algorithm::ES256, a)),
    ("io.jwt.verify_es384", 2, |a, _| jwt::verify(Algorithm::ES384, a)),
    ("io.jwt.verify_hs256", 2, |a, _| jwt::verify_secret(hmac::HMAC_SHA256, a)),
    ("io.jwt.verify_hs384", 2, |a, _| jwt::verify_secret(hmac::HMAC_SHA384, a)),
    ("io.jwt.verify_hs512", 2, |a, _| jwt::verify_secret(hmac::HMAC_SHA512, a)),
    ("io.jwt.verify_ps256", 2, |a, _| jwt::verify(Algorithm::PS256, a)),
    ("io.jwt.verify_ps384", 2, |a, _| jwt::verify(Algorithm::PS384, a)),
    ("io.jwt.verify_ps512", 2, |a, _| jwt::verify(Algorithm::PS512, a)),
    ("io.jwt.verify_rs256", 2, |a, _| jwt::verify(Algorithm::RS256, a)),
    ("io.jwt.verify_rs384", 2, |a, _| jwt::verify(Algorithm::RS384, a)),
    ("io.jwt.verify_rs512", 2, |a, _| jwt::verify(Algorithm::RS512, a)),
    ("time.now_ns", 0, |_, now| Some(Value::from(now.millis().saturating_mul(1_000_000)))),
];

/// How many arguments the builtin `name` takes, if it is one of ours.
pub(super) fn arity(name: &str) -> Option<usize> {
    BUILTINS.iter().find(|(own, _, _)| *own == name).map(|(_, arity, _)| usize::from(*arity))
}

/// Adds all of them to `engine`; `now` holds the milliseconds since the epoch that they go by.
pub(super) fn provide(engine: &mut Engine, now: &Arc<AtomicU64>) -> anyhow::Result<()> {
    for (name, arity, builtin) in BUILTINS {
        let now = Arc::clone(now);
        let call = move |arguments: Vec<Value>| {
            let now = Timestamp::from_millis(now.load(Ordering::Relaxed));
            Ok(builtin(&arguments, now).unwrap_or(Value::Undefined))
        };
        engine.add_extension(name.to_owned(), arity, Box::new(call))?;
    }
    Ok(())
}

fn text(arguments: &[Value], index: usize) -> Option<&str> {
    Some(arguments.get(index)?.as_string().ok()?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(algorithm: &'static digest::Algorithm, arguments: &[Value]) -> Option<Value> {
    let digest = digest::digest(algorithm, text(arguments, 0)?.as_bytes());
    Some(Value::from(hex(digest.as_ref())))
}

fn mac(algorithm: hmac::Algorithm, arguments: &[Value]) -> Option<Value> {
    let (message, secret) = (text(arguments, 0)?, text(arguments, 1)?);
    let key = hmac::Key::new(algorithm, secret.as_bytes());
    Some(Value::from(hex(hmac::sign(&key, message.as_bytes()).as_ref())))
}

fn hmac_equal(arguments: &[Value], _: Timestamp) -> Option<Value> {
    let (one, other) = (text(arguments, 0)?, text(arguments, 1)?);
    let is_equal = constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes());
    Some(Value::from(is_equal.is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, arguments: &[&str]) -> Option<Value> {
        let (_, arity, builtin) = BUILTINS.iter().find(|(own, _, _)| *own == name).unwrap();
        assert_eq!(usize::from(*arity), arguments.len());
        let arguments: Vec<Value> = arguments.iter().copied().map(Value::from).collect();
        builtin(&arguments, Timestamp::from_seconds(1))
    }

    /// FIPS 180-2 appendix A and B, RFC 2202 case 2, RFC 4231 case 2.
    #[test]
    fn digests_are_the_standards() {
        let (message, secret) = ("what do ya want for nothing?", "Jefe");
        for (name, arguments, expected) in [
            ("crypto.sha1", vec!["abc"], "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                "crypto.sha256",
                vec!["abc"],
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            ("crypto.hmac.sha1", vec![message, secret], "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (
                "crypto.hmac.sha256",
                vec![message, secret],
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                "crypto.hmac.sha512",
                vec![message, secret],
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ] {
            assert_eq!(call(name, &arguments), Some(Value::from(expected)), "{name}");
        }
        assert_eq!(call("crypto.hmac.equal", &["a", "a"]), Some(Value::from(true)));
        assert_eq!(call("crypto.hmac.equal", &["a", "b"]), Some(Value::from(false)));
        assert_eq!(call("time.now_ns", &[]), Some(Value::from(1_000_000_000_u64)));
    }

    #[test]
    fn what_is_no_text_is_undefined() {
        for (name, arity, builtin) in BUILTINS.iter().filter(|(name, _, _)| *name != "time.now_ns")
        {
            for wrong in [Value::Null, Value::from(1_u64), Value::new_object(), Value::Undefined] {
                let arguments = vec![wrong; usize::from(*arity)];
                assert_eq!(builtin(&arguments, Timestamp::from_seconds(1)), None, "{name}");
            }
        }
    }
}
