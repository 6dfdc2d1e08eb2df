use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::engine::general_purpose::STANDARD;

use futures_util::FutureExt;

use super::*;
use crate::keys::test_keys::*;
use crate::secrets::Secret;

const MESSAGE: &[u8] = b"header.payload";

fn material(text: &str) -> KeyMaterial {
    KeyMaterial {
        bytes: Secret::new(text.as_bytes().to_vec()),
        certificate: None,
        version: None,
        created: None,
    }
}

fn settings() -> KeySettings {
    KeySettings {
        client_id: "orders".to_owned(),
        algorithm: None,
        key_id: None,
        certificate: None,
        token_type: "JWT".to_owned(),
    }
}

fn with_algorithm(algorithm: Algorithm) -> KeySettings {
    KeySettings { algorithm: Some(algorithm), ..settings() }
}

fn key_for(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::ES256 => P256_PKCS8,
        Algorithm::ES384 => P384_PKCS8,
        Algorithm::EdDsa => ED25519_PKCS8,
        _ => RSA_PKCS8,
    }
}

fn load(algorithm: Algorithm) -> SigningKey {
    SigningKey::load(&material(key_for(algorithm)), &with_algorithm(algorithm)).unwrap()
}

fn verifier(algorithm: Algorithm) -> &'static dyn VerificationAlgorithm {
    match algorithm {
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDsa => &ED25519,
    }
}

#[tokio::test]
async fn every_algorithm_signs_what_the_library_verifies() {
    for algorithm in Algorithm::ALL {
        let key = load(algorithm);
        let signature = key.sign(MESSAGE).await.unwrap();
        let public = UnparsedPublicKey::new(verifier(algorithm), key.public.bits());
        assert!(public.verify(MESSAGE, &signature).is_ok(), "{algorithm}");
        assert!(public.verify(b"header.other", &signature).is_err(), "{algorithm}");
    }
}

#[tokio::test]
async fn every_algorithm_verifies_with_the_published_jwk() {
    for algorithm in Algorithm::ALL {
        let key = load(algorithm);
        let signature = URL_SAFE_NO_PAD.encode(key.sign(MESSAGE).await.unwrap());
        let jwk: jsonwebtoken::jwk::Jwk =
            serde_json::from_value(Value::Object(key.jwk().clone())).unwrap();
        let public = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        let name = algorithm.name().parse().unwrap();
        let verify = |message| jsonwebtoken::crypto::verify(&signature, message, &public, name);
        assert!(verify(MESSAGE).unwrap(), "{algorithm}");
        assert!(!verify(b"header.other").unwrap(), "{algorithm}");
    }
}

#[tokio::test]
async fn ecdsa_signatures_have_the_fixed_width() {
    for (algorithm, width) in [(Algorithm::ES256, 64), (Algorithm::ES384, 96)] {
        let key = load(algorithm);
        // One signature in 256 or so has a leading zero, which must not be dropped.
        for _ in 0..300 {
            assert_eq!(key.sign(MESSAGE).await.unwrap().len(), width);
        }
    }
}

#[test]
fn the_kind_of_key_has_a_default_algorithm() {
    for (text, algorithm) in [
        (P256_PKCS8, Algorithm::ES256),
        (P384_PKCS8, Algorithm::ES384),
        (RSA_PKCS8, Algorithm::RS256),
        (ED25519_PKCS8, Algorithm::EdDsa),
    ] {
        assert_eq!(SigningKey::load(&material(text), &settings()).unwrap().algorithm(), algorithm);
    }
}

#[test]
fn an_algorithm_for_another_kind_of_key_is_refused() {
    let keys = [P256_PKCS8, P384_PKCS8, RSA_PKCS8, ED25519_PKCS8];
    for algorithm in Algorithm::ALL {
        for text in keys.into_iter().filter(|text| *text != key_for(algorithm)) {
            let error = SigningKey::load(&material(text), &with_algorithm(algorithm)).unwrap_err();
            assert!(matches!(error, KeyError::AlgorithmMismatch { .. }), "{algorithm}: {error}");
        }
    }
    let error =
        SigningKey::load(&material(P256_PKCS8), &with_algorithm(Algorithm::RS256)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the algorithm `RS256` does not fit a P-256 key: use `ES256`, or another key"
    );
}

#[test]
fn a_jwks_own_algorithm_counts() {
    let text = RSA_JWK.replacen('{', r#"{"alg":"PS256","#, 1);
    let key = SigningKey::load(&material(&text), &settings()).unwrap();
    assert_eq!(key.algorithm(), Algorithm::PS256);
    assert!(SigningKey::load(&material(&text), &with_algorithm(Algorithm::PS256)).is_ok());
    let error = SigningKey::load(&material(&text), &with_algorithm(Algorithm::RS256)).unwrap_err();
    assert!(matches!(error, KeyError::AlgorithmConflict { .. }), "{error}");
    let unfit = P256_JWK.replacen('{', r#"{"alg":"RS256","#, 1);
    let error = SigningKey::load(&material(&unfit), &settings()).unwrap_err();
    assert!(matches!(error, KeyError::AlgorithmMismatch { .. }), "{error}");
}

#[test]
fn the_jwk_is_public_and_complete() {
    let with_certificate = |text: &str, certificate: Option<&str>| {
        let settings = KeySettings {
            certificate: certificate.map(|pem| Certificate::parse(pem).unwrap()),
            ..settings()
        };
        let key = SigningKey::load(&material(text), &settings).unwrap();
        key.jwk().keys().map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(with_certificate(P256_JWK, None), "kty crv x y use alg kid");
    assert_eq!(with_certificate(RSA_JWK, None), "kty n e use alg kid");
    assert_eq!(with_certificate(ED25519_JWK, None), "kty crv x use alg kid");
    assert_eq!(
        with_certificate(P256_JWK, Some(P256_CERTIFICATE)),
        "kty crv x y use alg kid x5c x5t#S256"
    );
    let key = SigningKey::load(&material(P256_PKCS8), &settings()).unwrap();
    assert_eq!(key.jwk()["use"], "sig");
    assert_eq!(key.jwk()["alg"], "ES256");
    assert_eq!(key.jwk()["kid"], "orders");
    assert_eq!(key.thumbprint(), P256_THUMBPRINT);
}

#[test]
fn coordinates_keep_their_leading_zeros() {
    // A P-256 key whose x begins with a zero byte turns up in a few hundred tries.
    let pair = std::iter::repeat_with(|| {
        aws_lc_rs::signature::EcdsaKeyPair::generate(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        )
        .unwrap()
    })
    .find(|pair| aws_lc_rs::signature::KeyPair::public_key(pair).as_ref()[1] == 0)
    .unwrap();
    let members = jwk::public_members(&PrivateKey::P256(pair).public_key().unwrap()).unwrap();
    for (_, coordinate) in &members[2..] {
        assert_eq!(URL_SAFE_NO_PAD.decode(coordinate).unwrap().len(), 32);
    }
}

#[test]
fn a_certificate_must_be_for_the_key() {
    let settings = KeySettings {
        certificate: Some(Certificate::parse(P256_CERTIFICATE).unwrap()),
        ..settings()
    };
    let key = SigningKey::load(&material(P256_PKCS8), &settings).unwrap();
    let x5c = key.jwk()["x5c"].as_array().unwrap();
    assert_eq!(x5c.len(), 1);
    let der = STANDARD.decode(x5c[0].as_str().unwrap()).unwrap();
    assert_eq!(der, pem::parse(P256_CERTIFICATE).unwrap().into_contents());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    assert_eq!(key.jwk()["x5t#S256"], URL_SAFE_NO_PAD.encode(digest));

    let error = SigningKey::load(&material(P384_PKCS8), &settings).unwrap_err();
    let KeyError::CertificateMismatch { certificate, key } = &error else { panic!("{error}") };
    assert_ne!(certificate, key);
    assert!(certificate.len() == 64 && error.to_string().contains(key.as_str()));
}

#[test]
fn the_certificate_in_the_settings_wins_over_the_stores() {
    let beside = |certificate: &str| KeyMaterial {
        certificate: Some(certificate.to_owned()),
        ..material(P256_PKCS8)
    };
    let stored = SigningKey::load(&beside(P256_CERTIFICATE), &settings()).unwrap();
    assert!(stored.jwk().contains_key("x5c"));
    let configured = KeySettings {
        certificate: Some(Certificate::parse(P256_CERTIFICATE).unwrap()),
        ..settings()
    };
    assert!(SigningKey::load(&beside("not looked at"), &configured).is_ok());
}

#[test]
fn what_is_not_a_chain_of_certificates_is_refused() {
    for pem in [
        "",
        "hunter2",
        P256_PUBLIC,
        &format!("{P256_CERTIFICATE}{P256_PKCS8}"),
        &P256_CERTIFICATE.replace("-----END CERTIFICATE-----", ""),
        &format!("{P256_CERTIFICATE}-----BEGIN CERTIFICATE-----\n"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let error = Certificate::parse(pem).unwrap_err();
        assert!(matches!(error, KeyError::MalformedCertificate), "{pem}: {error}");
    }
}

#[test]
fn a_chain_follows_from_its_leaf() {
    let now = Timestamp::from_seconds(1_700_000_000);
    let other = super::super::generate(Algorithm::ES256, "other", now).unwrap().certificate_pem;
    let twice = format!("{P256_CERTIFICATE}{P256_CERTIFICATE}");
    let chain = |pem: String| {
        let settings = KeySettings { certificate: Some(Certificate::parse(&pem)?), ..settings() };
        SigningKey::load(&material(P256_PKCS8), &settings)
    };
    // The test certificate issued itself, so it is its own next.
    assert_eq!(chain(twice).unwrap().jwk()["x5c"].as_array().unwrap().len(), 2);
    let error = chain(format!("{P256_CERTIFICATE}{other}")).unwrap_err();
    assert!(matches!(&error, KeyError::CertificateOrder { next, .. } if next == "CN=other"));
    let error = chain(other).unwrap_err();
    assert!(matches!(error, KeyError::CertificateMismatch { .. }), "{error}");
}

#[test]
fn a_certificate_outside_its_validity_is_a_warning() {
    let settings = KeySettings {
        certificate: Some(Certificate::parse(P256_CERTIFICATE).unwrap()),
        ..settings()
    };
    let key = SigningKey::load(&material(P256_PKCS8), &settings).unwrap();
    let warnings = |seconds| key.warnings(Timestamp::from_seconds(seconds));
    assert_eq!(
        warnings(1_000_000_000),
        ["the certificate of `CN=orders` is not valid yet: renew it"]
    );
    assert_eq!(warnings(10_000_000_000), ["the certificate of `CN=orders` has expired: renew it"]);
    assert!(warnings(1_800_000_000).is_empty());
}

#[test]
fn the_version_is_the_stores_or_the_thumbprints() {
    let versioned = KeyMaterial { version: Some(7), ..material(P256_PKCS8) };
    let template = KeyIdTemplate::parse("{{client_id}}-{{key_version}}").unwrap();
    let settings = KeySettings { key_id: Some(template), ..settings() };
    assert_eq!(SigningKey::load(&versioned, &settings).unwrap().kid(), "orders-7");
    let key = SigningKey::load(&material(P256_PKCS8), &settings).unwrap();
    let version = P256_THUMBPRINT.get(..8).unwrap();
    assert_eq!(key.version(), version);
    assert_eq!(key.kid(), format!("orders-{version}"));
}

#[test]
fn the_jws_header_is_ready_made() {
    let settings = KeySettings { token_type: "decision+jwt".to_owned(), ..settings() };
    let key = SigningKey::load(&material(P256_PKCS8), &settings).unwrap();
    let header = URL_SAFE_NO_PAD.decode(key.jws_header()).unwrap();
    assert_eq!(header, br#"{"alg":"ES256","kid":"orders","typ":"decision+jwt"}"#);
}

#[test]
fn debug_shows_kid_and_alg_alone() {
    let key = SigningKey::load(&material(P256_PKCS8), &settings()).unwrap();
    assert_eq!(format!("{key:?}"), r#"SigningKey { kid: "orders", alg: ES256, .. }"#);
    let ring = super::super::KeyRing::single(std::sync::Arc::new(key));
    assert!(format!("{ring:?}").contains(r#"SigningKey { kid: "orders", alg: ES256, .. }"#));
    assert_eq!(ring.published().count(), 1);
    assert_eq!(ring.published().next().unwrap().kid(), ring.active().kid());
}

#[tokio::test]
async fn more_rsa_than_there_is_room_for_is_refused_at_once() {
    let key = load(Algorithm::RS256);
    let mut signing: Vec<_> = (0..200).map(|_| Box::pin(key.sign(MESSAGE))).collect();
    let begun: Vec<_> = signing.iter_mut().map(FutureExt::now_or_never).collect();
    let busy = |signed: &&Option<_>| matches!(signed, Some(Err(SignError::Busy { .. })));
    let done = begun.iter().filter(|signed| matches!(signed, Some(Ok(_)))).count();
    // One that is done at once leaves its place to another.
    assert_eq!(begun.iter().filter(busy).count(), 200 - 128 - done);
    for (signing, begun) in signing.into_iter().zip(begun) {
        if begun.is_none() {
            signing.await.unwrap();
        }
    }
    assert!(key.sign(MESSAGE).await.is_ok(), "there is room again");
}
