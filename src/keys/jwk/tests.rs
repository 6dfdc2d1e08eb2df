use super::*;
use crate::keys::test_keys::*;

fn refusal(jwk: &Value) -> KeyError {
    parse(&jwk.to_string()).err().expect("the key should be refused")
}

/// `jwk` with `member` set to `value`, or taken out.
fn with(jwk: &str, member: &str, value: Option<&str>) -> Value {
    let mut jwk: Value = serde_json::from_str(jwk).unwrap();
    let members = jwk.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(member.to_owned(), value.into()),
        None => members.shift_remove(member),
    };
    jwk
}

#[test]
fn the_thumbprint_of_rfc_7638() {
    // RFC 7638 section 3.1.
    let members = [
        ("kty", "RSA".to_owned()),
        (
            "n",
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_\
             BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0\
             _FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTW\
             hAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
                .to_owned(),
        ),
        ("e", "AQAB".to_owned()),
    ];
    assert_eq!(thumbprint(&members), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

#[test]
fn the_key_of_rfc_8037() {
    // RFC 8037 appendices A.1 to A.4.
    let jwk = r#"{"kty":"OKP","crv":"Ed25519",
        "d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let parsed = parse(jwk).unwrap();
    let members = public_members(&parsed.key.public_key().unwrap()).unwrap();
    assert_eq!(thumbprint(&members), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = parsed.key.sign(Algorithm::EdDsa, message).unwrap();
    assert_eq!(
        URL_SAFE_NO_PAD.encode(signature),
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
}

#[test]
fn the_ec_key_of_rfc_7517() {
    // RFC 7517 appendix A.2.
    let jwk = r#"{"kty":"EC","crv":"P-256",
        "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        "d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE",
        "use":"enc","kid":"1"}"#;
    // It is marked for encryption: only the mark stands in the way.
    assert!(matches!(parse(jwk), Err(KeyError::JwkMember { member: "use", .. })));
    let parsed = parse(&jwk.replace("enc", "sig")).unwrap();
    let members = public_members(&parsed.key.public_key().unwrap()).unwrap();
    assert_eq!(
        members,
        [
            ("kty", "EC".to_owned()),
            ("crv", "P-256".to_owned()),
            ("x", "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4".to_owned()),
            ("y", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM".to_owned()),
        ]
    );
}

#[test]
fn a_public_jwk_is_named_as_such() {
    for jwk in [P256_JWK, RSA_JWK, ED25519_JWK] {
        let error = refusal(&with(jwk, "d", None));
        assert!(matches!(&error, KeyError::PublicKey { label } if label == "JWK"), "{error}");
    }
}

#[test]
fn every_member_is_required() {
    let required: [(&str, &[&str]); 3] = [
        (P256_JWK, &["kty", "crv", "x", "y"]),
        (RSA_JWK, &["kty", "n", "e", "p", "q", "dp", "dq", "qi"]),
        (ED25519_JWK, &["kty", "crv", "x"]),
    ];
    for (jwk, members) in required {
        for missing in members {
            let error = refusal(&with(jwk, missing, None));
            assert!(
                matches!(error, KeyError::JwkMember { member, .. } if member == *missing),
                "{missing}: {error}"
            );
        }
    }
}

#[test]
fn members_that_do_not_belong_together_are_refused() {
    let other: Value = serde_json::from_str(P384_JWK).unwrap();
    let same_width = URL_SAFE_NO_PAD.encode([7; 32]);
    for (jwk, member, value) in [
        (P256_JWK, "d", same_width.as_str()),
        (P256_JWK, "x", same_width.as_str()),
        (ED25519_JWK, "x", same_width.as_str()),
        (RSA_JWK, "d", same_width.as_str()),
        (RSA_JWK, "qi", same_width.as_str()),
    ] {
        let error = refusal(&with(jwk, member, Some(value)));
        assert!(matches!(error, KeyError::Damaged { .. }), "{member}: {error}");
    }
    let error = refusal(&with(P256_JWK, "x", other["x"].as_str()));
    assert!(matches!(error, KeyError::JwkMember { member: "x", .. }), "{error}");
    // A scalar without its leading zeros, or longer than its curve.
    for d in [URL_SAFE_NO_PAD.encode([7; 31]), URL_SAFE_NO_PAD.encode([7; 33])] {
        for jwk in [P256_JWK, ED25519_JWK] {
            let error = refusal(&with(jwk, "d", Some(&d)));
            assert!(matches!(error, KeyError::JwkMember { member: "d", .. }), "{error}");
        }
    }
}

#[test]
fn foreign_kinds_and_curves_are_named() {
    assert!(matches!(
        refusal(&with(P256_JWK, "crv", Some("P-521"))),
        KeyError::UnsupportedCurve { curve } if curve == "P-521"
    ));
    assert!(matches!(
        refusal(&with(ED25519_JWK, "crv", Some("X25519"))),
        KeyError::UnsupportedKind { kind } if kind == "X25519"
    ));
    assert!(matches!(
        refusal(&serde_json::json!({"kty": "oct", "k": "AAAA"})),
        KeyError::UnsupportedKind { kind } if kind == "oct"
    ));
    assert!(matches!(parse(RSA_1024_JWK), Err(KeyError::RsaSize { bits: 1024 })));
    assert!(matches!(
        refusal(&with(RSA_JWK, "oth", Some("x"))),
        KeyError::JwkMember { member: "oth", .. }
    ));
}

#[test]
fn json_is_read_strictly() {
    for broken in [
        "{",
        "{}x",
        r#"{"kty":"EC","kty":"EC"}"#,
        r#"{"kty":"EC","d":"AA=="}"#,
        r#"{"kty":"EC","d":"A+/A"}"#,
        r#"{"kty":"EC","d":"AAB"}"#,
        r#"{"kty":"EC","d":1}"#,
    ] {
        assert!(matches!(parse(broken), Err(KeyError::MalformedJwk { .. })), "{broken}");
    }
    assert!(matches!(parse(r#"{"keys":[]}"#), Err(KeyError::Several { .. })));
    assert!(matches!(parse("{}"), Err(KeyError::JwkMember { member: "kty", .. })));
}

#[test]
fn the_declared_algorithm_is_kept() {
    assert_eq!(parse(RSA_JWK).unwrap().declared, None);
    let declared = with(RSA_JWK, "alg", Some("PS384")).to_string();
    assert_eq!(parse(&declared).unwrap().declared, Some(Algorithm::PS384));
    for alg in ["none", "HS256", "RSA-OAEP", "ps384"] {
        let error = refusal(&with(RSA_JWK, "alg", Some(alg)));
        assert!(matches!(error, KeyError::JwkMember { member: "alg", .. }), "{alg}: {error}");
    }
}
