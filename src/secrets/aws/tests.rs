use std::time::Duration;

use super::*;

fn store(address: Option<&str>) -> AwsStore {
    let settings = AwsSettings {
        region: "eu-west-1".to_owned(),
        address: address.map(str::to_owned),
        is_insecure_fine: false,
        timeout: Duration::from_millis(500),
        refresh_interval: Duration::from_secs(30),
    };
    AwsStore::new("aws".to_owned(), settings)
}

fn at(path: Option<&str>, field: Option<&str>) -> KeyLocation {
    KeyLocation {
        path: path.map(str::to_owned),
        name: field.unwrap_or("orders").to_owned(),
        is_named: field.is_some(),
    }
}

fn material(secret: &str, field: Option<&str>) -> Result<KeyMaterial, SecretError> {
    let answer = GetSecretValueOutput::builder().secret_string(secret).build();
    store(None).material(answer, &at(Some("placet/orders"), field), "placet/orders")
}

#[test]
fn a_secret_needs_a_name() {
    assert!(store(None).check(&at(Some("placet/orders"), None)).is_ok());
    for path in [None, Some("")] {
        let error = store(None).check(&at(path, None)).unwrap_err();
        let expected =
            "secret store `aws`: no secret for key `orders`: set the scope's `pathToKey`";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[test]
fn the_whole_secret_or_its_field_is_the_key() {
    assert_eq!(material("canary", None).unwrap().bytes.expose(), b"canary");
    let json = r#"{"key": "one", "key.crt": "chain", "other": 2}"#;
    assert_eq!(material(json, None).unwrap().bytes.expose(), json.as_bytes());
    let field = material(json, Some("key")).unwrap();
    assert_eq!(field.bytes.expose(), b"one");
    assert_eq!(field.certificate.as_deref(), Some("chain"));
    let blob = aws_sdk_secretsmanager::primitives::Blob::new(*b"binary");
    let answer = GetSecretValueOutput::builder().secret_binary(blob).build();
    let read = store(None).material(answer, &at(Some("s"), None), "s").unwrap();
    assert_eq!(read.bytes.expose(), b"binary");
}

#[test]
fn what_is_wrong_with_a_secret_is_said_without_quoting_it() {
    for (secret, field, expected) in [
        ("canary", "key", "is no JSON object and so has no field `key`"),
        (r#"["canary"]"#, "key", "is no JSON object"),
        (r#"{"a": "canary", "b": "canary"}"#, "key", "has no field `key`, only `a`, `b`"),
        (r#"{"key": {"canary": "canary"}}"#, "key", "the field `key` at `placet/orders` is not"),
    ] {
        let error = material(secret, Some(field)).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("canary"), "{secret}: {error}");
    }
    let answer = GetSecretValueOutput::builder().build();
    let error = store(None).material(answer, &at(Some("s"), None), "s").unwrap_err();
    assert!(error.to_string().contains("is not what AWS sends"), "{error}");
}

#[test]
fn a_code_is_shown_only_as_far_as_it_looks_like_one() {
    assert_eq!(code("ThrottlingException"), "ThrottlingException");
    assert_eq!(code("a\n`b` é").as_str(), "ab");
    assert_eq!(code(&"x".repeat(500)).len(), 60);
}
