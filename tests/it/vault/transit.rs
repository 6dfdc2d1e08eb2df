//! Transit keys of the real server: signatures that a JWS holds, by the version asked for.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use placet::keys::KeyKind;
use placet::secrets::{PublicKey, SecretStore, TransitKey};

use super::*;

#[tokio::test]
async fn transit_signs_what_a_jws_holds() {
    let Some(bao) = Bao::start(&[]).await else { return };
    bao.put("sys/mounts/transit", json!({"type": "transit"})).await;
    let stores = open(bao.settings(root()));
    let store = stores.choose(None).unwrap();
    let kinds: [(&str, KeyKind, Algorithm, &'static dyn VerificationAlgorithm); 5] = [
        ("ecdsa-p256", KeyKind::P256, Algorithm::ES256, &ECDSA_P256_SHA256_FIXED),
        ("ecdsa-p384", KeyKind::P384, Algorithm::ES384, &ECDSA_P384_SHA384_FIXED),
        ("ed25519", KeyKind::Ed25519, Algorithm::EdDsa, &ED25519),
        ("rsa-2048", KeyKind::Rsa, Algorithm::RS256, &RSA_PKCS1_2048_8192_SHA256),
        ("rsa-2048", KeyKind::Rsa, Algorithm::PS256, &RSA_PSS_2048_8192_SHA256),
    ];
    for (kind, expected, algorithm, verifier) in kinds {
        bao.put(&format!("transit/keys/{kind}"), json!({"type": kind})).await;
        let key = store.transit_key(kind).await.unwrap();
        assert_eq!(key.kind, expected);
        assert!(key.kind.fits(algorithm) && !key.kind.fits(other_than(algorithm)));
        let messages: [&[u8]; 3] = [b"header.payload", b"", b"header.other"];
        let signatures = store.transit_sign(kind, key.latest, algorithm, &messages).await.unwrap();
        for (message, signature) in messages.iter().zip(&signatures) {
            let signature = signature.as_ref().unwrap();
            verify(&key, key.latest, verifier, message, signature).expect(kind);
            verify(&key, key.latest, verifier, b"forged", signature).unwrap_err();
        }
    }
    a_rotation_leaves_the_pinned_version(&bao, store).await;
    what_does_not_sign_is_named(&bao, store).await;
}

async fn a_rotation_leaves_the_pinned_version(bao: &Bao, store: &SecretStore) {
    for _ in 0..10 {
        bao.put("transit/keys/ecdsa-p256/rotate", Value::Null).await;
    }
    let key = store.transit_key("ecdsa-p256").await.unwrap();
    assert_eq!(key.latest, 11);
    let numbers: Vec<u64> = key.versions.iter().map(|version| version.number).collect();
    assert_eq!(numbers, (1..=11).collect::<Vec<_>>());
    assert!(key.versions.is_sorted_by_key(|version| version.created));
    for version in [1, 10, 11] {
        let algorithm = Algorithm::ES256;
        let signed = store.transit_sign("ecdsa-p256", version, algorithm, &[b"message"]).await;
        let signature = signed.unwrap().remove(0).unwrap();
        verify(&key, version, &ECDSA_P256_SHA256_FIXED, b"message", &signature).unwrap();
        let other = if version == 1 { 2 } else { 1 };
        verify(&key, other, &ECDSA_P256_SHA256_FIXED, b"message", &signature).unwrap_err();
    }
    let oldest = json!({"min_encryption_version": 5, "min_decryption_version": 3});
    bao.put("transit/keys/ecdsa-p256/config", oldest).await;
    let key = store.transit_key("ecdsa-p256").await.unwrap();
    assert_eq!(key.versions.first().unwrap().number, 3);
    for version in [4, 12] {
        let signed = store.transit_sign("ecdsa-p256", version, Algorithm::ES256, &[b"m"]).await;
        let is_refused = signed.is_err() || signed.unwrap().remove(0).is_err();
        assert!(is_refused, "version {version} may not sign");
    }
}

async fn what_does_not_sign_is_named(bao: &Bao, store: &SecretStore) {
    bao.put("transit/keys/symmetric", json!({"type": "aes256-gcm96"})).await;
    bao.put("transit/keys/derived", json!({"type": "ed25519", "derived": true})).await;
    for (name, said) in [
        ("symmetric", "create one of type ecdsa-p256"),
        ("derived", "not derived"),
        ("none", "create it, or correct `keyName`"),
        ("../keys/ed25519", "is not the name"),
        ("", "is not the name"),
    ] {
        let error = store.transit_key(name).await.unwrap_err();
        assert!(matches!(error, SecretError::Transit { .. }), "{name}: {error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    let signed = store.transit_sign("ed25519", 1, Algorithm::RS256, &[b"message"]).await;
    assert!(signed.is_err() || signed.unwrap().remove(0).is_err(), "the type doesn't fit");

    let files = StoreKind::File { directory: "keys".into() };
    let files = StoreSettings { id: "files".to_owned(), default: true, kind: files };
    let files = SecretStores::open(vec![files]).unwrap();
    let error = files.choose(None).unwrap().transit_key("orders").await.unwrap_err();
    assert!(matches!(error, SecretError::NoTransit { .. }), "{error}");
}

const fn other_than(algorithm: Algorithm) -> Algorithm {
    match algorithm {
        Algorithm::ES256 => Algorithm::ES384,
        _ => Algorithm::ES256,
    }
}

fn verify(
    key: &TransitKey,
    version: u64,
    algorithm: &'static dyn VerificationAlgorithm,
    message: &[u8],
    signature: &[u8],
) -> Result<(), aws_lc_rs::error::Unspecified> {
    let version = key.versions.iter().find(|known| known.number == version).expect("the version");
    let bytes = match &version.public_key {
        PublicKey::Pem(text) => pem::parse(text).unwrap().into_contents(),
        PublicKey::Ed25519(point) => point.to_vec(),
    };
    UnparsedPublicKey::new(algorithm, bytes).verify(message, signature)
}
