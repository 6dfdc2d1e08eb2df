use proptest::prelude::*;

use super::*;
use crate::keys::test_keys::*;

fn refusal(text: &str) -> KeyError {
    parse(text.as_bytes()).err().expect("the key should be refused")
}

fn thumbprint(text: &str) -> String {
    let parsed = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    jwk::thumbprint(&jwk::public_members(&parsed.key.public_key().unwrap()).unwrap())
}

#[test]
fn every_form_of_a_key_is_the_same_key() {
    for form in [P256_PKCS8, P256_SEC1, P256_SEC1_WITH_PARAMETERS, P256_JWK] {
        assert_eq!(thumbprint(form), P256_THUMBPRINT);
    }
    for form in [P384_PKCS8, P384_SEC1, P384_JWK] {
        assert_eq!(thumbprint(form), P384_THUMBPRINT);
    }
    for form in [RSA_PKCS8, RSA_PKCS1, RSA_JWK] {
        assert_eq!(thumbprint(form), RSA_THUMBPRINT);
    }
    for form in [ED25519_PKCS8, ED25519_JWK] {
        assert_eq!(thumbprint(form), ED25519_THUMBPRINT);
    }
}

#[test]
fn white_space_line_ends_and_text_around_the_block_do_not_matter() {
    let dos = P256_PKCS8.replace('\n', "\r\n");
    for form in [dos, format!("\n\n  {P256_PKCS8}\n"), format!("Key of orders\n{P256_PKCS8}")] {
        assert_eq!(thumbprint(&form), P256_THUMBPRINT);
    }
}

#[test]
fn encrypted_keys_are_refused_with_the_way_to_decrypt() {
    for encrypted in [P256_ENCRYPTED, P256_ENCRYPTED_SEC1] {
        let error = refusal(encrypted);
        assert!(matches!(error, KeyError::Encrypted { .. }), "{error}");
        assert!(error.to_string().contains("openssl pkey -in FILE -out key.pem"), "{error}");
    }
}

#[test]
fn what_is_not_a_private_key_is_named() {
    assert!(matches!(refusal(P256_PUBLIC), KeyError::PublicKey { label } if label == "PUBLIC KEY"));
    let error = refusal(P256_CERTIFICATE);
    assert!(matches!(error, KeyError::Certificate { .. }), "{error}");
    let openssh = P256_PKCS8.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY");
    let error = refusal(&openssh);
    assert!(matches!(&error, KeyError::UnknownLabel { label } if label == "OPENSSH PRIVATE KEY"));
    assert!(error.to_string().contains("ssh-keygen -p -m PKCS8"), "{error}");
}

#[test]
fn a_label_that_is_none_is_not_quoted() {
    let error = refusal("-----BEGIN s3cr3t-----\nAAAA\n-----END s3cr3t-----\n");
    assert!(
        matches!(&error, KeyError::UnknownLabel { .. }) && !error.to_string().contains("s3cr3t")
    );
}

#[test]
fn one_file_holds_one_key() {
    for (text, labels) in [
        (format!("{P256_PKCS8}{P384_PKCS8}"), "PRIVATE KEY, PRIVATE KEY"),
        (format!("{P256_PKCS8}{P256_CERTIFICATE}"), "PRIVATE KEY, CERTIFICATE"),
        (format!("{P256_PUBLIC}{P256_PKCS8}"), "PUBLIC KEY, PRIVATE KEY"),
    ] {
        assert!(matches!(refusal(&text), KeyError::Several { found } if found == labels));
    }
    // The second block never ends: it must not be overlooked.
    let cut = format!("{P256_PKCS8}{}", P384_PKCS8.replace("-----END PRIVATE KEY-----", ""));
    assert!(matches!(refusal(&cut), KeyError::DamagedPem));
}

#[test]
fn weak_and_foreign_keys_are_refused() {
    assert!(matches!(refusal(RSA_1024_PKCS8), KeyError::RsaSize { bits: 1024 }));
    let kind = |text| match refusal(text) {
        KeyError::UnsupportedKind { kind } => kind,
        other => panic!("{other}"),
    };
    assert_eq!(kind(X25519_PKCS8), "X25519");
    assert_eq!(kind(RSA_PSS_PKCS8), "RSASSA-PSS");
    let curve = |text| match refusal(text) {
        KeyError::UnsupportedCurve { curve } => curve,
        other => panic!("{other}"),
    };
    assert_eq!(curve(P521_PKCS8), "P-521");
    assert_eq!(curve(SECP256K1_SEC1), "secp256k1");
    assert_eq!(curve(P256_EXPLICIT), "explicit parameters");
}

#[test]
fn a_label_does_not_make_a_key() {
    for (text, kind) in [
        (P256_SEC1.replace("EC PRIVATE", "RSA PRIVATE"), "RSA"),
        (RSA_PKCS1.replace("RSA PRIVATE", "EC PRIVATE"), "EC"),
        (P256_SEC1.replace("EC PRIVATE", "PRIVATE"), "PKCS#8"),
    ] {
        assert!(matches!(refusal(&text), KeyError::Damaged { kind: found } if found == kind));
    }
}

#[test]
fn damage_is_noticed() {
    assert!(matches!(refusal(""), KeyError::Empty));
    assert!(matches!(refusal(" \n\t"), KeyError::Empty));
    assert!(matches!(refusal("hunter2"), KeyError::Unrecognised));
    assert!(matches!(parse(&[0x30, 0x82, 0xff]), Err(KeyError::Der)));
    assert!(matches!(parse(&[0xff, 0xfe]), Err(KeyError::Unrecognised)));
    let cut = P256_PKCS8.replace("-----END PRIVATE KEY-----", "");
    assert!(matches!(refusal(&cut), KeyError::DamagedPem));
    let other_end = P256_PKCS8.replace("END PRIVATE", "END PUBLIC");
    assert!(matches!(refusal(&other_end), KeyError::DamagedPem));
    let on_one_line = P256_PKCS8.replace('\n', " ");
    let _ = parse(on_one_line.as_bytes());
}

#[test]
fn a_key_whose_halves_do_not_match_is_refused() {
    // The last bytes of an RSA key are a CRT member, those of an EC key its public point.
    for pem in [P256_PKCS8, P256_SEC1, P384_PKCS8, RSA_PKCS8, RSA_PKCS1] {
        let block = pem::parse(pem).unwrap();
        let (tag, mut der) = (block.tag().to_owned(), block.into_contents());
        *der.last_mut().unwrap() ^= 1;
        let tampered = pem::encode(&pem::Pem::new(tag, der));
        let error = refusal(&tampered);
        assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
    }
}

#[test]
fn rsa_sizes_are_counted_in_bits() {
    let bits = |modulus: &[u8]| match check_rsa_size(modulus) {
        Err(KeyError::RsaSize { bits }) => bits,
        other => panic!("{other:?}"),
    };
    assert_eq!(bits(&[]), 0);
    assert_eq!(bits(&[0, 0]), 0);
    assert_eq!(bits(&[0, 1]), 1);
    let mut modulus = vec![0xff; 256];
    assert!(check_rsa_size(&modulus).is_ok());
    modulus[0] = 0x7f;
    assert_eq!(bits(&modulus), 2047);
    modulus.resize(1025, 0xff);
    assert_eq!(bits(&modulus), 8199);
}

#[test]
fn no_error_quotes_the_key() {
    let line = P256_PKCS8.lines().nth(1).unwrap();
    let secret = line.get(20..50).unwrap();
    for text in [
        line.to_owned(),
        P256_PKCS8.replace("-----END PRIVATE KEY-----", ""),
        P256_PKCS8.replacen('\n', &format!("\n{secret}\n\n"), 1),
        P256_PKCS8.replace(secret, &format!("{secret}*")),
        format!("{{\"kty\":\"EC\",\"d\":\"{secret}*\"}}"),
        format!("{{\"kty\":\"EC\",\"d\":{{\"{secret}\":1}}}}"),
        format!("{{\"kty\":[\"{secret}\"]}}"),
    ] {
        let error = refusal(&text);
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
}

proptest! {
    #[test]
    fn a_block_is_what_a_well_kept_library_reads(
        der in proptest::collection::vec(any::<u8>(), 1..300),
        label in "[A-Z][A-Z ]{0,20}[A-Z]",
        encrypted in any::<bool>(),
        crlf in any::<bool>(),
        width in 4..90_usize,
    ) {
        let mut block = pem::Pem::new(label, der);
        if encrypted {
            block.headers_mut().add("Proc-Type", "4,ENCRYPTED").unwrap();
        }
        let end = if crlf { pem::LineEnding::CRLF } else { pem::LineEnding::LF };
        let config = pem::EncodeConfig::new().set_line_ending(end).set_line_wrap(width / 4 * 4);
        let text = pem::encode_config(&block, config);
        let read = Block::read(text.strip_prefix("-----BEGIN ").unwrap()).unwrap();
        prop_assert_eq!(read.label, block.tag());
        prop_assert_eq!(read.encrypted, encrypted);
        prop_assert_eq!(read.der.as_slice(), block.contents());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn no_der_panics(
        label in prop::sample::select(vec!["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"]),
        der in proptest::collection::vec(any::<u8>(), 0..256),
    ) {
        prop_assert!(parse(pem::encode(&pem::Pem::new(label, der)).as_bytes()).is_err());
    }

    #[test]
    fn no_damage_to_a_real_key_panics(
        form in prop::sample::select(vec![
            P256_PKCS8, P256_SEC1, P256_JWK, RSA_PKCS8, RSA_PKCS1, RSA_JWK, ED25519_PKCS8,
            ED25519_JWK,
        ]),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = form.as_bytes().to_vec();
        *at.get_mut(&mut bytes) = byte;
        let _ = parse(&bytes);
    }
}
