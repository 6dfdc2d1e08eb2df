//! Incoming tokens. An input with a line end is a header and a payload, which the issuer's own key
//! signs: so the judgement of claims is reached, and what it accepts must be good. Any other input
//! is the token itself, which nobody signed: it must never be accepted.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use placet::clock::Timestamp;
use placet::identity::jwks::IssuerKeys;
use placet::identity::{
    Audiences, ClaimPath, Identity, IdentitySettings, IssuerSettings, KeySet, KeySourceSettings,
    Place, Principal, Proof, Refusal, Require, TokenType,
};
use placet::keys::{Algorithm, KeySettings, SigningKey, generate};
use placet::request::Request;
use placet::secrets::{KeyMaterial, Secret};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const ISSUER: &str = "https://idp.example/";
const AUDIENCE: &str = "orders";

static KEY: LazyLock<SigningKey> = LazyLock::new(issuer_key);
static IDENTITY: LazyLock<Identity> = LazyLock::new(identity);

fuzz_target!(|data: &[u8]| {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let (header, payload) = (&data[..end], &data[end + 1..]);
            if let Ok(principal) = authenticate(&signed(header, payload)) {
                check(&principal, header, payload);
            }
        }
        None => assert!(authenticate(data).is_err(), "a token that nobody signed was accepted"),
    }
});

fn check(principal: &Principal, header: &[u8], payload: &[u8]) {
    let header: Value = serde_json::from_slice(header).expect("an accepted header is JSON");
    assert_eq!(header["alg"], "EdDSA");
    assert!(header.get("crit").is_none(), "no critical extension is understood");
    let claims: Value = serde_json::from_slice(payload).expect("accepted claims are JSON");
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(claims["sub"].as_str(), principal.subject.as_deref());
    assert!(principal.subject.as_ref().is_some_and(|subject| !subject.is_empty()));
    let audiences =
        claims["aud"].as_array().map_or_else(|| vec![claims["aud"].clone()], Clone::clone);
    assert!(audiences.contains(&json!(AUDIENCE)));
    assert!(claims["exp"].as_f64().is_some_and(|expires| expires > NOW.seconds() as f64));
    assert!(principal.expires.is_some_and(|expires| expires.seconds() >= NOW.seconds()));
    assert!(claims.get("cnf").is_none(), "bound to a certificate that was not presented");
}

fn authenticate(token: &[u8]) -> Result<Arc<Principal>, Refusal> {
    let mut request = Request::default();
    request.headers.push("authorization", [b"Bearer ", token].concat());
    let outcome = IDENTITY.authenticate(&request, NOW).now_or_never().expect("at once");
    if let Err(refusal) = &outcome {
        let text = refusal.to_string();
        assert!(!text.contains(char::is_control) && text.len() < 1024, "{text:?}");
    }
    outcome
}

fn signed(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let text = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature =
        KEY.sign(text.as_bytes()).now_or_never().expect("at once").expect("a signature");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()
}

fn issuer_key() -> SigningKey {
    let generated = generate(Algorithm::EdDsa, "idp", NOW).expect("a key");
    let material = KeyMaterial {
        bytes: Secret::new(generated.private_key_pem.expose().clone().into_bytes()),
        certificate: None,
        version: None,
        created: None,
    };
    let settings = KeySettings {
        client_id: "idp".to_owned(),
        algorithm: None,
        key_id: None,
        certificate: None,
        token_type: "JWT".to_owned(),
    };
    SigningKey::load(&material, &settings).expect("the key loads")
}

fn identity() -> Identity {
    let set = json!({"keys": [KEY.jwk()]}).to_string();
    let keys = IssuerKeys::fixed(KeySet::parse(set.as_bytes()).expect("a key set"));
    let issuer = IssuerSettings {
        issuer: ISSUER.to_owned(),
        audiences: Audiences::OneOf(vec![AUDIENCE.to_owned()]),
        keys: KeySourceSettings::Discovery,
        insecure_http: false,
        ca_file: None,
        token_file: None,
        algorithms: Algorithm::ALL.to_vec(),
        types: vec![TokenType::named("JWT"), TokenType::named("at+jwt"), TokenType::Absent],
        from: vec![Place::Header {
            name: "authorization".to_owned(),
            prefix: "Bearer ".to_owned(),
        }],
        subject: ClaimPath::new("sub"),
        groups: ClaimPath::new("groups"),
        claims: Vec::new(),
        principal_type: "User".to_owned(),
        group_prefix: String::new(),
        clock_skew: Duration::from_secs(30),
    };
    let settings = IdentitySettings {
        require: Require::Jwt,
        issuers: vec![issuer],
        api_keys: None,
        peer: None,
        anonymous: true,
    };
    Identity::new(settings, vec![Proof::Keys(keys)], None, Arc::new(["placet".to_owned()].into()))
        .expect("an identity")
}
