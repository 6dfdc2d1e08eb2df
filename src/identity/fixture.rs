//! Issuers and tokens for the tests: keys made on the spot, tokens built by hand, so that they can
//! be wrong in every way.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, RsaPublicKeyComponents,
    RsaSignatureEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::keys::Algorithm;

pub(super) const ISSUER: &str = "https://idp.example/";
pub(super) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

pub(super) static P256: LazyLock<TestKey> = LazyLock::new(fresh_p256);
pub(super) static P384: LazyLock<TestKey> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING);
    TestKey::Ec(pair.unwrap())
});
pub(super) static ED: LazyLock<TestKey> =
    LazyLock::new(|| TestKey::Ed(Ed25519KeyPair::generate().unwrap()));
pub(super) static RSA: LazyLock<TestKey> =
    LazyLock::new(|| TestKey::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));

/// A key pair of an issuer.
pub(super) enum TestKey {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl TestKey {
    /// The test key for `algorithm`.
    pub(super) fn of(algorithm: Algorithm) -> &'static Self {
        match algorithm {
            Algorithm::ES256 => &P256,
            Algorithm::ES384 => &P384,
            Algorithm::EdDsa => &ED,
            _ => &RSA,
        }
    }

    /// The public half, as an issuer would publish it.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Ec(pair) => {
                let (_, point) = pair.public_key().as_ref().split_first().unwrap();
                let (x, y) = point.split_at(point.len() / 2);
                let crv = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": crv, "x": b64(x), "y": b64(y), "kid": kid})
            }
            Self::Ed(pair) => {
                let x = b64(pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid})
            }
            Self::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": b64(&public.n), "e": b64(&public.e), "kid": kid})
            }
        }
    }

    pub(super) fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let encoding: &'static RsaSignatureEncoding = match algorithm {
                    Algorithm::RS384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::RS512 => &signature::RSA_PKCS1_SHA512,
                    Algorithm::PS256 => &signature::RSA_PSS_SHA256,
                    Algorithm::PS384 => &signature::RSA_PSS_SHA384,
                    Algorithm::PS512 => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signed).unwrap();
                signed
            }
        }
    }
}

/// A new P-256 key.
pub(super) fn fresh_p256() -> TestKey {
    let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING);
    TestKey::Ec(pair.unwrap())
}

pub(super) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key set of `keys`.
pub(super) fn key_set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

/// One issuer, `ISSUER`, for the audience `orders`, with the token behind `authorization: Bearer`.
pub(super) fn settings() -> IdentitySettings {
    IdentitySettings {
        require: Require::Jwt,
        issuers: vec![issuer(ISSUER)],
        api_keys: None,
        peer: None,
        anonymous: false,
    }
}

pub(super) fn issuer(issuer: &str) -> IssuerSettings {
    IssuerSettings {
        issuer: issuer.to_owned(),
        audiences: Audiences::OneOf(vec!["orders".to_owned()]),
        keys: KeySourceSettings::Url("https://idp.example/keys".to_owned()),
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
    }
}

/// Peers of these SPIFFE trust domains.
pub(super) fn peer(domains: &[&str]) -> PeerSettings {
    PeerSettings {
        trust_domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
        from: CertificateSource::Proxy,
        trusted_hops: Vec::new(),
        subject: PeerSubject::SpiffeId,
    }
}

/// API keys in the header `x-api-key`, kept in no store that is ever asked.
pub(super) fn api_key_settings() -> ApiKeySettings {
    use crate::secrets::{KeyLocation, SecretStores, StoreKind, StoreSettings};
    let kind = StoreKind::File { directory: "/nowhere".into() };
    let settings = StoreSettings { id: "files".to_owned(), default: true, kind };
    let stores = SecretStores::open(vec![settings]).unwrap();
    ApiKeySettings {
        place: Place::Header { name: "x-api-key".to_owned(), prefix: String::new() },
        principal_type: "ApiKey".to_owned(),
        store: stores.choose(None).unwrap().clone(),
        location: KeyLocation { path: None, name: "keys".to_owned(), is_named: true },
    }
}

/// How an issuer is asked that nobody has to answer for.
pub(super) fn introspection() -> IntrospectionSettings {
    IntrospectionSettings {
        url: "https://idp.example/introspect".to_owned(),
        insecure_http: false,
        ca_file: None,
        client_id: "placet".to_owned(),
        client_secret: crate::secrets::Source::Literal(crate::secrets::Secret::new("s".to_owned())),
        cache_ttl: Duration::from_secs(30),
        cache_size: 100,
        timeout: Duration::from_millis(200),
    }
}

/// An identity whose issuers all have the keys `rsa`, `p256`, `p384` and `ed`.
pub(super) fn identity(settings: IdentitySettings) -> Identity {
    let set = || {
        let keys = [RSA.jwk("rsa"), P256.jwk("p256"), P384.jwk("p384"), ED.jwk("ed")];
        Proof::Keys(jwks::IssuerKeys::fixed(key_set(&keys)))
    };
    let proofs = settings.issuers.iter().map(|_| set()).collect();
    Identity::new(settings, proofs, None, Arc::new(["placet".to_owned()].into()))
        .unwrap()
        .remembering()
}

/// A good header for a token signed with ES256.
pub(super) fn header() -> Value {
    json!({"alg": "ES256", "kid": "p256", "typ": "JWT"})
}

/// Good claims.
pub(super) fn claims() -> Value {
    let now = NOW.seconds();
    json!({
        "iss": ISSUER, "sub": "alice", "aud": "orders", "iat": now, "exp": now + 300,
        "groups": ["eng", "oncall"],
    })
}

/// `base` with the members of `change` on top; null takes one away.
pub(super) fn with(mut base: Value, change: Value) -> Value {
    for (name, value) in change.as_object().unwrap() {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(name);
        } else {
            base[name] = value.clone();
        }
    }
    base
}

/// A token of exactly these parts, signed with `key` as `algorithm`.
pub(super) fn token_of(
    header: impl AsRef<[u8]>,
    payload: impl AsRef<[u8]>,
    key: &TestKey,
    algorithm: Algorithm,
) -> String {
    let signed = format!("{}.{}", b64(header), b64(payload));
    let signature = key.sign(algorithm, signed.as_bytes());
    format!("{signed}.{}", b64(signature))
}

/// A token signed with ES256.
pub(super) fn token(header: &Value, claims: &Value) -> String {
    token_of(header.to_string(), claims.to_string(), &P256, Algorithm::ES256)
}

/// A request with this `authorization`.
pub(super) fn request(authorization: impl AsRef<[u8]>) -> Request {
    let mut request = Request::default();
    request.headers.push("authorization", authorization.as_ref());
    request
}

/// A request with `token` as its bearer token.
pub(super) fn bearing(token: &str) -> Request {
    request(format!("Bearer {token}"))
}
