//! Who may ask: what belongs together, what doesn't, and that no credential is shown.

use serde_json::json;

use super::*;

/// The errors of settings with this `identity`, on a Unix socket.
fn refused(identity: Value) -> Vec<String> {
    let (_folder, path) = with(identity);
    errors(&path)
}

fn with(identity: Value) -> (tempfile::TempDir, PathBuf) {
    settings(|tree| {
        tree["listen"] = json!({"grpc": "unix:/run/placet.sock"});
        tree["scopes"][0]["identity"] = identity;
    })
}

/// The one error of an issuer that has `fields`, without what they all begin with.
fn of_issuer(fields: Value) -> String {
    let mut issuer = json!({"issuer": "https://idp.example", "audiences": "any"});
    for (name, value) in fields.as_object().unwrap() {
        issuer[name] = value.clone();
    }
    let errors = refused(json!({"jwt": [issuer]}));
    assert_eq!(errors.len(), 1, "{fields}: {errors:?}");
    errors[0].strip_prefix("scopes[0].identity").unwrap().to_owned()
}

fn asking(change: Value) -> Value {
    let mut asking = json!({"url": "https://idp.example/introspect", "clientId": "placet"});
    for (name, value) in change.as_object().unwrap() {
        asking[name] = value.clone();
    }
    json!({ "introspection": asking })
}

#[test]
fn every_new_setting_is_accepted_where_it_belongs() {
    let errors = refused(json!({
        "require": "either",
        "jwt": [
            {"issuer": "https://a.example", "audiences": "any", "caFile": "ca.pem", "tokenFile": "token",
             "subject": ["kubernetes.io", "serviceaccount", "name"], "groups": "realm_access.roles",
             "claims": {"email": "profile.email", "team": ["urn:x.y", "team"]},
             "from": [{"query": "access_token"}, {"cookie": "session"}]},
            {"issuer": "https://b.example", "audiences": "any", "introspection": {
                "url": "https://b.example/introspect", "caFile": "ca.pem", "clientId": "placet",
                "clientSecretFile": "secret", "cacheTtl": "10s", "cacheSize": 10, "timeout": "100ms",
            }},
        ],
        "apiKeys": {"query": "api_key", "secretStore": "f", "keyName": "keys", "principalType": "Robot"},
        "peer": {"from": "xfcc", "trustedHops": ["10.0.0.0/8", "::1"], "subject": "dnsSan"},
    }));
    assert_eq!(errors, [""; 0]);
}

#[test]
fn what_does_not_belong_to_an_issuer_is_named() {
    for (fields, expected) in [
        (json!({"jwksFile": "k", "caFile": "c"}), ".jwt[0].caFile: does not belong"),
        (json!({"jwksFile": "k", "tokenFile": "t"}), ".jwt[0].tokenFile: does not belong"),
        (json!({"jwksFile": "k", "jwksUri": "https://a"}), ".jwt[0]: has both"),
        (
            json!({"tokenFile": "t", "insecureHttp": true}),
            ": issuer `https://idp.example` would be shown a token",
        ),
        (json!({"from": [{"query": "q", "prefix": "x "}]}), ".jwt[0].from[0].prefix: only belongs"),
        (json!({"from": [{"query": "q", "cookie": "c"}]}), ".jwt[0].from[0]: needs exactly one"),
        (
            json!({"from": [{"query": "a b"}]}),
            ": issuer `https://idp.example` reads the query parameter `a b`",
        ),
        (
            json!({"claims": {"act": "x"}}),
            ": issuer `https://idp.example` can't have the claim `act`",
        ),
        (json!({"subject": []}), ": issuer `https://idp.example` has an empty claim path"),
    ] {
        let error = of_issuer(fields);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn an_issuer_that_is_asked_has_no_keys_and_says_all_it_takes() {
    let secret = json!({"clientSecretFile": "s"});
    let with = |name: &str, value: Value| {
        let mut fields = asking(secret.clone());
        fields[name] = value;
        of_issuer(fields)
    };
    for (name, value) in [
        ("jwksUri", json!("https://a")),
        ("jwksFile", json!("k")),
        ("algorithms", json!(["ES256"])),
        ("types", json!(["JWT"])),
        ("insecureHttp", json!(false)),
        ("caFile", json!("c")),
        ("tokenFile", json!("t")),
    ] {
        let error = with(name, value);
        assert!(error.starts_with(&format!(".jwt[0].{name}: does not belong")), "{error}");
    }
    let within = |name: &str, value: Value| {
        let mut change = secret.clone();
        change[name] = value;
        of_issuer(asking(change))
    };
    for (name, value, expected) in [
        ("cacheTtl", json!("2h"), ".jwt[0].introspection.cacheTtl: is longer than 1h"),
        ("cacheTtl", json!("x"), ".jwt[0].introspection.cacheTtl: `x` is no duration"),
        ("cacheSize", json!(1_000_001), ".jwt[0].introspection.cacheSize: is more than"),
        ("url", json!("http://idp.example/i"), ": issuer `https://idp.example` can't be asked at"),
        (
            "url",
            json!("https://u:c4n4ry@idp.example/i"),
            ": issuer `https://idp.example` can't be asked at",
        ),
        ("clientSecretEnv", json!("S"), ".jwt[0].introspection: needs exactly one of"),
    ] {
        let error = within(name, value);
        assert!(error.starts_with(expected) && !error.contains("c4n4ry"), "{error}");
    }
    let error = of_issuer(asking(json!({})));
    assert!(
        error.starts_with(".jwt[0].introspection: needs exactly one of clientSecret,"),
        "{error}"
    );
    let error = of_issuer(asking(json!({"clientSecret": "c4n4ry"})));
    assert!(
        error.contains("must not stand in the settings") && !error.contains("c4n4ry"),
        "{error}"
    );
}

#[test]
fn api_keys_and_peers_are_checked() {
    for (identity, expected) in [
        (json!({"apiKeys": {"query": "k", "header": "h"}}), "apiKeys: has query beside"),
        (json!({"apiKeys": {"query": "k", "prefix": "p "}}), "apiKeys: has query beside"),
        (json!({"apiKeys": {"secretStore": "x"}}), "apiKeys.secretStore: there is no secret store"),
        (
            json!({"peer": {"from": "xfcc", "trustDomains": ["a"], "trustedHops": ["10.0.0.0/33"]}}),
            "peer.trustedHops[0]: `10.0.0.0/33` is no",
        ),
        (
            json!({"peer": {"from": "xfcc", "trustDomains": ["a"], "trustedHops": ["proxy"]}}),
            "peer.trustedHops[0]: `proxy` is no",
        ),
    ] {
        let errors = refused(identity);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&format!("scopes[0].identity.{expected}")), "{errors:?}");
    }
    let (_folder, path) = settings(|tree| {
        tree["scopes"][0]["identity"]["peer"] =
            json!({"from": "xfcc", "trustDomains": ["a"], "trustedHops": ["10.0.0.1"]});
    });
    let errors = errors(&path);
    assert!(errors[0].contains("any local process could claim to be a peer"), "{errors:?}");
}

#[test]
fn a_client_secret_is_shown_nowhere() {
    let variable = "PATH";
    let secret = format!("{{{{storeId=ENV_VAR,key={variable}}}}}");
    let mut issuer = asking(json!({ "clientSecret": secret }));
    issuer["issuer"] = "https://idp.example".into();
    issuer["audiences"] = "any".into();
    let (_folder, path) = with(json!({"jwt": [issuer]}));
    let config = Config::load(&path).unwrap();
    let shown = &config.effective["scopes"][0]["identity"]["jwt"][0]["introspection"];
    assert_eq!(shown["clientSecret"], "redacted");
    assert_eq!((&shown["cacheTtl"], &shown["timeout"]), (&json!("30s"), &json!("200ms")));
    let debug = format!("{config:?}");
    assert!(!debug.contains(&std::env::var(variable).unwrap()), "{debug}");
}
