use serde_json::json;

use super::*;

fn store() -> AzureStore {
    let settings = AzureSettings {
        vault_url: "https://orders.vault.azure.net".to_owned(),
        timeout: Duration::from_millis(500),
        refresh_interval: Duration::from_secs(30),
    };
    AzureStore::new("azure".to_owned(), settings)
}

fn at(name: &str) -> KeyLocation {
    KeyLocation { path: None, name: name.to_owned(), is_named: true }
}

fn judged(attributes: serde_json::Value) -> Option<Entry> {
    let id = "https://orders.vault.azure.net/secrets/orders/4387e9f3d6e14c459867679a90fd0f79";
    let version = json!({"id": id, "attributes": attributes});
    entry(&serde_json::from_value(version).unwrap(), Timestamp::from_seconds(1000))
}

#[test]
fn a_key_name_must_be_a_name_of_a_secret() {
    assert!(store().check(&at("orders-V2")).is_ok());
    for name in ["", "a.b", "a_b", "a/b", "../b", "é", &"x".repeat(128)] {
        let error = store().check(&at(name)).unwrap_err().to_string();
        assert!(error.contains("is no name of a Key Vault secret"), "{name}: {error}");
    }
}

#[test]
fn a_version_counts_while_it_is_enabled_and_in_its_time() {
    for (attributes, is_live) in [
        (json!({"created": 900, "enabled": true}), true),
        (json!({"created": 900, "enabled": false}), false),
        (json!({"created": 900, "enabled": true, "exp": 1000}), false),
        (json!({"created": 900, "enabled": true, "exp": 1001}), true),
        (json!({"created": 900, "enabled": true, "nbf": 1001}), false),
        (json!({"created": 900, "enabled": true, "nbf": 1000}), true),
    ] {
        let entry = judged(attributes.clone()).unwrap();
        assert_eq!(entry.is_live, is_live, "{attributes}");
        assert_eq!(entry.id, "4387e9f3d6e14c459867679a90fd0f79");
        assert_eq!(entry.created, Timestamp::from_seconds(900));
    }
}

#[test]
fn a_version_s_age_counts_from_when_it_may_be_used() {
    let counts_from = |nbf| judged(json!({"created": 900, "nbf": nbf})).unwrap().counts_from;
    assert_eq!(counts_from(950), Timestamp::from_seconds(950));
    assert_eq!(counts_from(100), Timestamp::from_seconds(900));
}

#[test]
fn a_version_without_id_or_time_is_no_answer() {
    assert!(judged(json!({"enabled": true})).is_none());
    let nameless = json!({"attributes": {"created": 900}});
    let nameless = serde_json::from_value(nameless).unwrap();
    assert!(entry(&nameless, Timestamp::from_seconds(1000)).is_none());
}

#[test]
fn a_list_does_not_go_on_at_another_host() {
    let credential = ManagedIdentityCredential::new(None).unwrap();
    let client = SecretClient::new("https://orders.vault.azure.net", credential, None).unwrap();
    for own in ["https://orders.vault.azure.net:443/secrets/orders/versions?$skiptoken=x", "?b=c"] {
        assert!(store().check_page(&client, own, "orders").is_ok(), "{own}");
    }
    for foreign in
        ["https://other.vault.azure.net/", "http://orders.vault.azure.net/", "//evil.example/x"]
    {
        let error = store().check_page(&client, foreign, "orders").unwrap_err();
        assert!(matches!(error, CloudError::ForeignPage { .. }), "{foreign}: {error}");
    }
}
