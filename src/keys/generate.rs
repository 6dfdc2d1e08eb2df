//! Making a key and a certificate for it, for the command line and for tests.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SignatureAlgorithm};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::{Algorithm, KeyError};
use crate::clock::Timestamp;
use crate::secrets::Secret;

/// A new private key and a self-signed certificate for it.
#[derive(Debug)]
pub struct GeneratedKey {
    /// PKCS#8 PEM (`BEGIN PRIVATE KEY`), with Unix line ends.
    pub private_key_pem: Secret<String>,
    /// The certificate, PEM: common name as given, valid one year.
    pub certificate_pem: String,
}

/// Makes a key for `algorithm` (RSA with 2048 bits) and its certificate for `name`, valid for one
/// year from `now`.
///
/// # Errors
/// If `name` could not be a file name (1 to 128 of `A-Z a-z 0-9 . _ -`, beginning with a letter or
/// digit), or the cryptographic library fails.
pub fn generate(
    algorithm: Algorithm,
    name: &str,
    now: Timestamp,
) -> Result<GeneratedKey, KeyError> {
    if !is_usable(name) {
        return Err(KeyError::UnusableName { name: name.to_owned() });
    }
    let failed = || KeyError::Generate { algorithm };
    let der = private_key(algorithm).map_err(|_| failed())?;
    let certificate_pem = certificate(&der, algorithm, name, now).ok_or_else(failed)?;
    let pem = pem::Pem::new("PRIVATE KEY", der.as_slice());
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let private_key_pem = Secret::new(pem::encode_config(&pem, lines));
    drop(Zeroizing::new(pem.into_contents()));
    Ok(GeneratedKey { private_key_pem, certificate_pem })
}

fn is_usable(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= 128
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// PKCS#8 version 1, which every tool reads; version 2 (with the public key) some refuse.
fn private_key(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    let der = match algorithm {
        Algorithm::ES256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
            pair.to_pkcs8v1()?.as_ref().to_vec()
        }
        Algorithm::ES384 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?;
            pair.to_pkcs8v1()?.as_ref().to_vec()
        }
        Algorithm::EdDsa => Ed25519KeyPair::generate()?.to_pkcs8v1()?.as_ref().to_vec(),
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
            AsDer::<Pkcs8V1Der<'_>>::as_der(&pair)?.as_ref().to_vec()
        }
    };
    Ok(Zeroizing::new(der))
}

fn certificate(
    private_key: &[u8],
    algorithm: Algorithm,
    name: &str,
    now: Timestamp,
) -> Option<String> {
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(
        &private_key.into(),
        certificate_algorithm(algorithm),
    )
    .ok()?;
    let seconds = i64::try_from(now.seconds()).ok()?;
    let not_before = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = not_before;
    parameters.not_after = not_before.checked_add(Duration::days(365))?;
    Some(parameters.self_signed(&pair).ok()?.pem().replace("\r\n", "\n"))
}

/// A certificate says only what kind of key it holds, so all RSA algorithms share one.
fn certificate_algorithm(algorithm: Algorithm) -> &'static SignatureAlgorithm {
    match algorithm {
        Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Algorithm::ES384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        Algorithm::EdDsa => &rcgen::PKCS_ED25519,
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => &rcgen::PKCS_RSA_SHA256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{KeySettings, SigningKey};
    use crate::secrets::KeyMaterial;

    const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

    #[test]
    fn every_algorithm_makes_a_key_that_loads_with_its_certificate() {
        for algorithm in Algorithm::ALL {
            let made = generate(algorithm, "orders", NOW).unwrap();
            let material = KeyMaterial {
                bytes: Secret::new(made.private_key_pem.expose().clone().into_bytes()),
                certificate: Some(made.certificate_pem),
                version: None,
                created: None,
            };
            let settings = KeySettings {
                client_id: "orders".to_owned(),
                algorithm: Some(algorithm),
                key_id: None,
                certificate: None,
                token_type: "JWT".to_owned(),
            };
            let key = SigningKey::load(&material, &settings).unwrap();
            assert!(key.jwk().contains_key("x5c"), "{algorithm}");
            assert!(key.warnings(NOW).is_empty(), "{algorithm}");
            let in_a_year = Timestamp::from_seconds(NOW.seconds() + 365 * 86_400 + 1);
            assert_eq!(
                key.warnings(in_a_year),
                ["the certificate of `CN=orders` has expired: renew it"]
            );
        }
    }

    #[test]
    fn the_pem_is_pkcs8_with_unix_line_ends() {
        let made = generate(Algorithm::EdDsa, "orders", NOW).unwrap();
        let pem = made.private_key_pem.expose();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert!(!pem.contains('\r') && !made.certificate_pem.contains('\r'));
        assert!(!format!("{made:?}").contains("BEGIN PRIVATE"), "Debug shows no key");
    }

    #[test]
    fn a_name_that_is_no_file_name_is_refused() {
        for name in ["", ".", "..", ".hidden", "-x", "a/b", "a\0", "a b", "é", &"a".repeat(129)] {
            let made = generate(Algorithm::ES256, name, NOW);
            assert!(matches!(made, Err(KeyError::UnusableName { .. })), "{name:?}");
        }
        assert!(generate(Algorithm::ES256, &"a".repeat(128), NOW).is_ok());
    }
}
