//! A signing key as a store holds it: PEM, DER or JWK. A key that loads signs, and publishes a JWK
//! without private members that an issuer's reader accepts; one that does not load says so in one
//! line, which quotes no long piece of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use placet::identity::KeySet;
use placet::keys::{KeySettings, SigningKey};
use placet::secrets::{KeyMaterial, Secret};
use serde_json::json;
use tokio::runtime::Builder;

/// RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Longer than any name of a kind, a label or an algorithm, and shorter than any key.
const LONGEST_QUOTE: usize = 24;

fuzz_target!(|data: &[u8]| {
    let material = KeyMaterial {
        bytes: Secret::new(data.to_vec()),
        certificate: None,
        version: None,
        created: None,
    };
    let settings = KeySettings {
        client_id: "orders".to_owned(),
        algorithm: None,
        key_id: None,
        certificate: None,
        token_type: "JWT".to_owned(),
    };
    match SigningKey::load(&material, &settings) {
        Ok(key) => check(&key),
        Err(error) => check_prose(&error.to_string(), data),
    }
});

fn check(key: &SigningKey) {
    // RSA signs on another thread.
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let signature = runtime.block_on(key.sign(b"message")).expect("a loaded key signs");
    assert!(!signature.is_empty());
    assert!(PRIVATE_MEMBERS.iter().all(|member| !key.jwk().contains_key(*member)));
    let set = json!({"keys": [key.jwk()]}).to_string();
    KeySet::parse(set.as_bytes()).expect("what we publish can be read");
}

fn check_prose(error: &str, data: &[u8]) {
    assert!(!error.contains(char::is_control), "{error:?}");
    let is_in_error =
        |piece: &&[u8]| error.as_bytes().windows(LONGEST_QUOTE).any(|it| it == *piece);
    let is_key_text = |piece: &&[u8]| piece.iter().all(|byte| is_base64(*byte));
    let quoted = data.windows(LONGEST_QUOTE).filter(is_key_text).find(is_in_error);
    assert!(quoted.is_none(), "the text is quoted in {error:?}");
}

/// What key material is written in; the dashes and spaces of a PEM label are not.
fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=_".contains(&byte)
}
