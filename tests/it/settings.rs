//! Settings: the contract's example, the JSON Schema and the parser in step; every error at once.

mod control_plane;
mod identity;
mod listen;
mod log;
mod telemetry;

use std::path::{Path, PathBuf};

use placet::config::{self, Config};
use serde_json::{Map, Value};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn errors(path: &Path) -> Vec<String> {
    match Config::load(path) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(str::to_owned).collect(),
    }
}

/// Settings with one scope, to which `change` is done.
fn settings(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p.cedar"), "permit(principal, action, resource);").unwrap();
    let mut tree = serde_json::json!({
        "secretStores": [{"id": "f", "type": "file", "default": true, "details": {"directory": "k"}}],
        "scopes": [{
            "clientId": "orders",
            "policy": {"files": ["p.cedar"]},
            "jwtResponse": {"tokenLifetimeSeconds": 60},
        }],
    });
    change(&mut tree);
    let path = folder.path().join("placet.yaml");
    std::fs::write(&path, tree.to_string()).unwrap();
    (folder, path)
}

#[test]
fn the_least_settings_are_valid_and_have_the_defaults_of_the_contract() {
    let (_folder, path) = settings(|_| {});
    let config = Config::load(&path).unwrap();
    assert_eq!(config.listen.grpc.to_string(), "127.0.0.1:9191");
    assert_eq!(config.listen.http.to_string(), "127.0.0.1:9192");
    assert_eq!(config.listen.admin.to_string(), "127.0.0.1:9193");
    assert_eq!(config.startup_grace.as_secs(), 30);
    let scope = &config.scopes[0];
    assert_eq!(scope.location.name, "orders");
    assert_eq!(scope.header.name(), "x-placet-decision");
    assert_eq!(scope.claims.issuer, "placet");
    assert_eq!(scope.claims.decision_claim, "entitlements");
    assert_eq!(scope.claims.delimiter.as_deref(), Some(","));
    assert!(scope.claims.bind_request && !scope.claims.include_incoming_payload);
    assert!(scope.claims.audience.is_none() && scope.key.key_id.is_none());
    assert_eq!(scope.publish_before.as_secs(), 20 * 60);
    assert_eq!(scope.deny.status, 403);
}

#[test]
fn the_items_of_a_token_are_bounded_and_their_attributes_come_from_entities() {
    let wrong = |customization: Value, entities: bool| {
        let (folder, path) = settings(|tree| {
            tree["scopes"][0]["jwtCustomization"] = customization;
            if entities {
                tree["scopes"][0]["policy"]["entities"] = "e.json".into();
            }
        });
        std::fs::write(folder.path().join("e.json"), "[]").unwrap();
        errors(&path)
    };
    let json = |text| serde_json::from_str::<Value>(text).unwrap();
    for (customization, entities, expected) in [
        (r#"{"maxItems": 5}"#, false, "jwtCustomization.maxItems: is for `items: entitlements`"),
        (
            r#"{"items": "entitlements", "maxItems": 0}"#,
            false,
            "jwtCustomization.maxItems: `0` is not 1 to",
        ),
        (
            r#"{"items": "entitlements", "maxItems": 10001}"#,
            false,
            "jwtCustomization.maxItems: `10001`",
        ),
        (
            r#"{"template": "{{attr.tier}}"}"#,
            false,
            "jwtCustomization.template: `attr.tier` is looked up",
        ),
        (
            r#"{"template": "{{attr.}}"}"#,
            true,
            "jwtCustomization.template: `{{attr.}}` is no placeholder",
        ),
    ] {
        let found = wrong(json(customization), entities);
        assert!(found.len() == 1 && found[0].contains(expected), "{customization}: {found:?}");
    }
    assert!(wrong(json(r#"{"template": "{{attr.tier}}"}"#), true).is_empty());
    let (_folder, path) = settings(|tree| {
        tree["scopes"][0]["jwtCustomization"] = json(r#"{"items": "entitlements"}"#);
    });
    assert_eq!(Config::load(&path).unwrap().scopes[0].claims.max_items, 1_000);
}

#[test]
fn what_is_watched_and_how_the_process_ends_can_be_set() {
    let (_folder, path) = settings(|_| {});
    let config = Config::load(&path).unwrap();
    assert_eq!(config.reload.unwrap().as_secs(), 1);
    assert_eq!((config.drain_after.as_secs(), config.shutdown_grace.as_secs()), (0, 10));
    assert!(config.deny_list.is_none() && config.scopes[0].max_policy_age.is_none());
    let found = |change: fn(&mut Value)| errors(&settings(change).1).join("; ");
    for (change, expected) in [
        (
            (|tree| tree["reload"] = serde_json::json!({"interval": "49ms"})) as fn(&mut Value),
            "reload.interval: is less than 50ms",
        ),
        (
            |tree| tree["reload"] = serde_json::json!({"debounce": "1s"}),
            "reload.debounce: unknown key",
        ),
        (|tree| tree["denyList"] = serde_json::json!({}), "denyList.file: is required"),
        (|tree| tree["denyList"] = serde_json::json!({"file": "no.yaml"}), "denyList.file: `"),
        (|tree| tree["drainAfter"] = "soon".into(), "drainAfter: `soon` is no duration"),
        (|tree| tree["shutdownGrace"] = "5".into(), "shutdownGrace: `5` is no duration"),
        (
            |tree| tree["scopes"][0]["policy"]["maxPolicyAge"] = "2s".into(),
            "scopes[0].policy.maxPolicyAge: is less than three times `reload.interval`",
        ),
        (
            |tree| {
                tree["scopes"][0]["policy"]["maxPolicyAge"] = "1h".into();
                tree["reload"] = serde_json::json!({"watch": false});
            },
            "scopes[0].policy.maxPolicyAge: needs files to be watched",
        ),
        (
            |tree| {
                tree["scopes"][0]["policy"] = serde_json::json!({
                    "maxPolicyAge": "2m",
                    "bundle": {"url": "http://127.0.0.1:1/", "pollInterval": "1m"},
                });
            },
            "scopes[0].policy.maxPolicyAge: is less than three times `bundle.pollInterval`",
        ),
        (
            |tree| {
                let url = "http://127.0.0.1:1/";
                tree["scopes"][0]["policy"] =
                    serde_json::json!({"engine": "authzen", "url": url, "maxPolicyAge": "1h"});
            },
            "scopes[0].policy.maxPolicyAge: does not belong to the engine authzen",
        ),
    ] {
        let errors = found(change);
        assert!(errors.contains(expected) && !errors.contains("; "), "{expected}: {errors}");
    }
}

/// The revision is one of what counts, and the files tell that they have changed.
#[test]
fn a_revision_is_of_the_settings_and_what_they_name() {
    let (folder, path) = settings(|_| {});
    let first = Config::load(&path).unwrap();
    assert_eq!(first.files.again(), first.files);
    assert_eq!(Config::load(&path).unwrap().revision, first.revision);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}  # as before")).unwrap();
    assert_ne!(first.files.again(), first.files);
    assert_eq!(
        Config::load(&path).unwrap().revision,
        first.revision,
        "a comment counts for nothing"
    );
    std::fs::write(folder.path().join("p.cedar"), "forbid(principal, action, resource);").unwrap();
    let second = Config::reload(&path, None, None).unwrap();
    assert_ne!(second.revision, first.revision);
    std::fs::write(&path, text.replace("60", "61")).unwrap();
    assert_ne!(Config::load(&path).unwrap().revision, second.revision);
    // What is wrong comes with the files that it may be right to look at again.
    std::fs::remove_file(folder.path().join("p.cedar")).unwrap();
    let errors = Config::load(&path).unwrap_err();
    assert_eq!(errors.files().again(), *errors.files());
    std::fs::write(folder.path().join("p.cedar"), "").unwrap();
    assert_ne!(errors.files().again(), *errors.files());
}

#[test]
fn a_deny_list_that_somebody_keeps_is_not_read_again() {
    let (folder, path) = settings(|tree| tree["denyList"] = serde_json::json!({"file": "d.yaml"}));
    let list = folder.path().join("d.yaml");
    std::fs::write(&list, "subjects: [{subject: a}]").unwrap();
    assert_eq!(Config::load(&path).unwrap().deny_list.unwrap().list.unwrap().len(), 1);
    std::fs::write(&list, "malformed").unwrap();
    assert!(Config::reload(&path, Some(&list), None).unwrap().deny_list.unwrap().list.is_none());
    assert!(Config::reload(&path, Some(Path::new("elsewhere")), None).is_err());
}

#[test]
fn the_contract_s_example_has_no_unknown_key() {
    // What remains are files that are not here, an elided address, and what this version lacks.
    let expected = [
        "scopes[0].deny.headers.…:",
        "secretStores[4].details.vaultUrl: `https://…`",
        "scopes[0].identity.peer: any local process could claim to be a peer",
        "scopes[0].identity: issuer `https://idp.example.com/` has its keys at `https://…`",
        "scopes[0].policy: can't read",
        "scopes[0].policy: can't read",
        "scopes[0].policy: can't read",
        "scopes[0].jwtResponse.x509Certificate: the certificate can't be read",
    ];
    let errors = errors(&fixture("contract.yaml"));
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error} is not {expected}");
    }
}

#[test]
fn every_error_is_reported_at_once_with_its_path() {
    let errors = errors(&fixture("bad.yaml"));
    let paths: Vec<&str> = errors.iter().map(|error| error.split(": ").next().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "listne",
            "scopes[0].identity.jwt[0].algorithms[0]",
            "listen.admin",
            "secretStores[2].type",
            "version",
            "listen.grpc",
            "listen.http.mode",
            "secretStores[0].details.prefix",
            "secretStores[1].details.address",
            "secretStores[1].details.auth.roleId",
            "secretStores[1].details.auth.token",
            "secretStores[3].id",
            "secretStores[3].details.prefix",
            "scopes[0].clientId",
            "scopes[0].match.hosts[0]",
            "scopes[0].routes[0].match.path",
            "scopes[0].routes[1].match.methods",
            "scopes[0].routes[1]",
            "scopes[0].routes[2].match.path",
            "scopes[0].routes[2].asset",
            "scopes[0].routes[2].action",
            "scopes[0].identity.jwt[0].audiences",
            "scopes[0].identity.jwt[0]",
            "scopes[0].jwtResponse.header",
            "scopes[0].policy.query",
            "scopes[0].policy",
            "scopes[0].jwtSigning.publishBefore",
            "scopes[0].jwtResponse.keyId",
            "scopes[0].jwtResponse.tokenLifetimeSeconds",
            "scopes[0].jwtCustomization.itemDelimiter",
            "scopes[0].jwtCustomization.template",
            "scopes[0].jwtCustomization.claimAttributeName",
            "scopes[0].jwtResponse.removeHeaders",
            "scopes[0].deny.status",
            "scopes[1].policy.schema",
            "scopes[1].policy.entities",
            "scopes[1].policy.files",
            "scopes[1].jwtResponse.tokenLifetimeSeconds",
            "scopes[1].match.hosts[0]",
            "scopes[1].jwtResponse",
        ],
        "{errors:#?}"
    );
    assert!(errors.iter().all(|error| !error.contains('\n')));
    assert!(errors[0].contains("did you mean `listen`?"));
}

#[test]
fn each_single_fault_names_its_setting() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 16] = [
        (|t| t["secretStores"][0]["default"] = false.into(), "secretStores: no secret store"),
        (
            |t| t["secretStores"][0]["type"] = "env".into(),
            "secretStores[0].details.directory: does not",
        ),
        (
            |t| t["scopes"][0]["jwtSigning"]["secretStore"] = "x".into(),
            "scopes[0].jwtSigning.secretStore: there is no secret store `x`",
        ),
        (
            |t| t["scopes"][0]["jwtSigning"]["backend"] = "transit".into(),
            "scopes[0].jwtSigning.backend: secret store `f` is of type file, which does not sign",
        ),
        (
            |t| t["scopes"][0]["jwtResponse"]["tokenLifetimeSeconds"] = 86_401.into(),
            "scopes[0].jwtResponse.tokenLifetimeSeconds: `86401`",
        ),
        (
            |t| t["scopes"][0]["jwtResponse"]["removeHeaders"] = vec!["X_Placet-decision"].into(),
            "scopes[0].jwtResponse.removeHeaders: `X_Placet-decision` is the decision header",
        ),
        (
            |t| t["scopes"][0]["deny"]["headers"]["x_placet_decision"] = "x".into(),
            "scopes[0].deny.headers: `x_placet_decision`",
        ),
        (|t| t["scopes"][0]["deny"]["status"] = 600.into(), "scopes[0].deny.status: `600`"),
        (|t| t["scopes"][0]["clientId"] = "..".into(), "scopes[0].clientId: a name of dots"),
        (|t| t["scopes"][0]["policy"] = Value::Null, "scopes[0].policy: is required"),
        (|t| t["scopes"] = Value::Array(Vec::new()), "scopes: is empty"),
        (|t| t["scopes"] = serde_json::json!({"folder": "x"}), "scopes: must be a list"),
        (
            |t| {
                t["listen"]["grpc"] =
                    serde_json::json!({"address": "127.0.0.1:1", "tls": {"keyFile": "k"}})
            },
            "listen.grpc.tls.certificateFile: is required",
        ),
        (|t| t["decisionLog"]["sink"] = "syslog".into(), "decisionLog.sink: `syslog` is no sink"),
        (|t| t["startupGrace"] = 30.into(), "startupGrace: invalid type"),
        (
            |t| t["scopes"][0]["jwtCustomization"]["itemDelimiter"] = 5.into(),
            "scopes[0].jwtCustomization.itemDelimiter: invalid type",
        ),
    ];
    for (change, expected) in cases {
        let (_folder, path) = settings(change);
        let errors = errors(&path);
        assert!(errors.first().is_some_and(|e| e.starts_with(expected)), "{expected}: {errors:?}");
    }
}

#[test]
fn what_belongs_to_a_roll_out_is_checked() {
    let cases: [(Value, &[&str]); 9] = [
        (serde_json::json!({"policy": {"shadow": {}}}), &["policy.shadow.files: is required"]),
        (
            serde_json::json!({"policy": {"shadow": {"files": ["gone.cedar"]}}}),
            &["policy.shadow: can't read"],
        ),
        (
            serde_json::json!({"policy": {"shadow": {"files": ["p.cedar"], "url": "https://x/"}}}),
            &["policy.shadow.url: unknown key"],
        ),
        (
            serde_json::json!({"policy": {"shadow": {"files": ["p.cedar"], "shadow": {}}}}),
            &["policy.shadow.shadow: unknown key"],
        ),
        (
            serde_json::json!({"policy": {"shadow": {"files": ["p.cedar"], "query": "a/b"}}}),
            &["policy.shadow.query: does not belong"],
        ),
        (
            serde_json::json!({"explain": {"responseHeader": "X_Placet_Decision"}}),
            &["explain.responseHeader: `X_Placet_Decision` is the header of the token"],
        ),
        (
            serde_json::json!({"explain": {"responseHeader": "Set-Cookie"}}),
            &["explain.responseHeader: `Set-Cookie` is no header of your own"],
        ),
        (serde_json::json!({"dryRun": "yes"}), &["dryRun: invalid type"]),
        (
            serde_json::json!({"api": {"authzen": true, "scheme": "https"}}),
            &["api.scheme: does not belong"],
        ),
    ];
    for (change, expected) in cases {
        let (_folder, path) = settings(|tree| lay(&mut tree["scopes"][0], &change));
        let errors = errors(&path);
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (error, expected) in errors.iter().zip(expected) {
            let expected = format!("scopes[0].{expected}");
            assert!(error.starts_with(&expected), "{error} is not {expected}");
        }
    }
}

#[test]
fn what_grpc_methods_take_is_read_with_the_settings() {
    let policy = |change: Value| {
        let (folder, path) = settings(|tree| lay(&mut tree["scopes"][0]["policy"], &change));
        std::fs::write(folder.path().join("p.rego"), "package envoy.authz\nallow := true").unwrap();
        std::fs::write(folder.path().join("p.proto"), "syntax = \"proto3\";").unwrap();
        std::fs::write(folder.path().join("p.pb"), placet::proto::DESCRIPTORS).unwrap();
        let revision = |config: Config| {
            let shadow = config.scopes[0].shadow.as_ref().map(|shadow| shadow.revision());
            (config.scopes[0].policy.revision(), shadow)
        };
        Config::load(&path).map(revision).map_err(|_| errors(&path).join("; "))
    };
    for (engine, file) in [("cedar", "p.cedar"), ("rego", "p.rego")] {
        let blind = serde_json::json!({"engine": engine, "files": [file]});
        let mut seeing = blind.clone();
        let more = serde_json::json!({"protoDescriptor": "p.pb", "shadow": {"files": [file]}});
        lay(&mut seeing, &more);
        let (in_force, shadow) = policy(seeing).unwrap();
        assert_eq!(Some(&in_force), shadow.as_ref(), "what is compared sees by the same");
        assert_ne!(in_force, policy(blind).unwrap().0);
    }
    for (change, expected) in [
        (
            serde_json::json!({"protoDescriptor": "gone.pb"}),
            "scopes[0].policy.protoDescriptor: can't read `",
        ),
        (
            serde_json::json!({"protoDescriptor": "p.proto"}),
            "p.proto` is not a whole FileDescriptorSet: write it with `protoc --include_imports",
        ),
        (
            serde_json::json!({"engine": "authzen", "files": null, "url": "https://pdp/x", "protoDescriptor": "p.pb"}),
            "scopes[0].policy.protoDescriptor: does not belong to the engine authzen",
        ),
    ] {
        let error = policy(change).unwrap_err();
        assert!(error.contains(expected) && !error.contains("; "), "{error}");
    }
}

#[test]
fn a_dry_run_is_warned_of_and_off_unless_said() {
    let warned = |change: Value| {
        let (_folder, path) = settings(|tree| {
            tree["scopes"][0]["identity"] = serde_json::json!({"anonymous": true});
            lay(&mut tree["scopes"][0], &change);
        });
        let config = Config::load(&path).unwrap();
        let scope = &config.scopes[0];
        assert_eq!(scope.explain.header.is_some(), change.get("explain").is_some());
        (scope.dry_run.is_some(), scope.shadow.is_some(), config.warnings)
    };
    assert_eq!(warned(serde_json::json!({})), (false, false, vec![]));
    assert_eq!(warned(serde_json::json!({"dryRun": false})), (false, false, vec![]));
    let all = serde_json::json!({
        "dryRun": true,
        "explain": {"responseHeader": "X-Placet-Reason"},
        "policy": {"shadow": {"files": ["p.cedar"]}},
    });
    let (dry_run, shadow, warnings) = warned(all);
    assert!(dry_run && shadow);
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(warning.starts_with("scopes[0].dryRun: ") && warning.contains("not protected"));
}

/// Puts `above` over `below`.
fn lay(below: &mut Value, above: &Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (name, value) in above {
                lay(below.entry(name).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above.clone(),
    }
}

#[test]
fn a_cloud_s_store_needs_its_place_and_takes_no_other_s_details() {
    let cases: [(Value, &[&str]); 8] = [
        (serde_json::json!({"type": "awsSecretsManager"}), &["details.region: is required"]),
        (serde_json::json!({"type": "azureKeyVault"}), &["details.vaultUrl: is required"]),
        (
            serde_json::json!({"type": "awsSecretsManager", "details": {"region": "eu west.example/"}}),
            &["details.region: `eu west.example/` is no region"],
        ),
        (
            serde_json::json!({"type": "awsSecretsManager", "details": {
                "region": "eu-west-1", "address": "http://secrets.example",
            }}),
            &["details.address: `http://secrets.example` would send secrets in the clear"],
        ),
        (
            serde_json::json!({"type": "awsSecretsManager", "details": {
                "region": "eu-west-1", "address": ["https://a.example", "https://b.example"],
            }}),
            &["details.address: is a list"],
        ),
        (
            serde_json::json!({"type": "azureKeyVault", "details": {
                "vaultUrl": "https://x.vault.azure.net/secrets", "region": "eu-west-1", "insecureHttp": true,
            }}),
            &[
                "details.insecureHttp: does not belong to a store of type azureKeyVault",
                "details.region: does not belong to a store of type azureKeyVault",
                "details.vaultUrl: `https://x.vault.azure.net/secrets` has more than a host",
            ],
        ),
        (
            serde_json::json!({"type": "azureKeyVault", "details": {"vaultUrl": "http://127.0.0.1:1"}}),
            &["details.vaultUrl: `http://127.0.0.1:1` is not https"],
        ),
        (
            serde_json::json!({"type": "file", "details": {"directory": "k", "refreshInterval": "1s"}}),
            &["details.refreshInterval: does not belong to a store of type file"],
        ),
    ];
    for (store, expected) in cases {
        let (_folder, path) = settings(|tree| {
            tree["secretStores"][0] = store.clone();
            tree["scopes"][0]["jwtSigning"]["pathToKey"] = "placet/orders".into();
            tree["secretStores"][0]["id"] = "s".into();
            tree["secretStores"][0]["default"] = true.into();
        });
        let errors = errors(&path);
        assert_eq!(errors.len(), expected.len(), "{store}: {errors:?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.starts_with(&format!("secretStores[0].{expected}")), "{error}");
        }
    }
}

#[test]
fn an_aws_secret_without_a_key_name_is_the_key_as_a_whole() {
    for (key_name, shown) in [(None, Value::Null), (Some("field"), "field".into())] {
        let (_folder, path) = settings(|tree| {
            tree["secretStores"][0] = serde_json::json!({"id": "aws", "type": "awsSecretsManager", "default": true,
                "details": {"region": "eu-west-1", "address": "http://127.0.0.1:4566", "timeout": "1s"}});
            tree["scopes"][0]["jwtSigning"] = serde_json::json!({"pathToKey": "placet/orders"});
            if let Some(name) = key_name {
                tree["scopes"][0]["jwtSigning"]["keyName"] = name.into();
            }
        });
        let config = Config::load(&path).unwrap();
        let scope = &config.scopes[0];
        assert_eq!(scope.location.path.as_deref(), Some("placet/orders"));
        assert_eq!(scope.location.is_named, key_name.is_some());
        assert_eq!(config.effective["scopes"][0]["jwtSigning"]["keyName"], shown);
        let is_about_the_key = |warning: &&String| warning.contains("jwtSigning");
        assert_eq!(config.warnings.iter().find(is_about_the_key), None);
    }
}

#[test]
fn a_null_delimiter_makes_an_array_and_an_absent_one_a_string() {
    let with = |delimiter: Option<Value>| {
        let (_folder, path) = settings(|tree| {
            if let Some(delimiter) = delimiter {
                tree["scopes"][0]["jwtCustomization"]["itemDelimiter"] = delimiter;
            }
        });
        Config::load(&path).unwrap().scopes[0].claims.delimiter.clone()
    };
    assert_eq!(with(None).as_deref(), Some(","));
    assert_eq!(with(Some(Value::Null)), None);
    assert_eq!(with(Some(";".into())).as_deref(), Some(";"));
}

#[test]
fn scopes_may_stand_one_a_file() {
    let (folder, path) = settings(|tree| {
        tree["scopes"] = serde_json::json!({"directory": "scopes"});
    });
    let scopes = folder.path().join("scopes");
    std::fs::create_dir(&scopes).unwrap();
    std::fs::write(scopes.join("p.cedar"), "permit(principal, action, resource);").unwrap();
    let scope = |name: &str| {
        format!(
            "clientId: {name}\npolicy: {{files: [p.cedar]}}\n\
             jwtResponse: {{tokenLifetimeSeconds: 60, audience: {name}}}\n"
        )
    };
    std::fs::write(scopes.join("b.yaml"), scope("b")).unwrap();
    std::fs::write(scopes.join("a.yml"), scope("a")).unwrap();
    std::fs::write(scopes.join("note.txt"), "not a scope").unwrap();
    let config = Config::load(&path).unwrap();
    let ids: Vec<_> = config.scopes.iter().map(|scope| scope.client_id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
fn a_key_that_stands_twice_and_text_that_is_no_yaml_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["version: 1\nversion: 1\n", "a: [", "- 1\n"] {
        let path = folder.path().join("placet.yaml");
        std::fs::write(&path, text).unwrap();
        let errors = errors(&path);
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        assert!(errors[0].contains("placet.yaml"), "{}", errors[0]);
    }
    let missing = errors(&folder.path().join("missing.yaml"));
    assert!(missing[0].contains("can't be read"), "{missing:?}");
}

#[test]
fn a_remote_decision_point_has_settings_of_its_own() {
    let with = |policy: Value| settings(|tree| tree["scopes"][0]["policy"] = policy);
    let url = "https://pdp.example.com/access/v1/evaluation";
    let (_folder, path) = with(serde_json::json!({
        "engine": "authzen", "url": url, "timeout": "50ms", "cacheTtl": "5s", "cacheSize": 10,
        "username": "orders", "passwordFile": "password", "sendHeaders": ["X-Tenant"],
        "sendQuery": ["page"],
    }));
    let config = Config::load(&path).unwrap();
    assert_eq!(config.scopes[0].policy.engine(), "authzen");
    assert_eq!(config.effective["scopes"][0]["policy"]["engine"], "authzen");
    let (_folder, path) =
        with(serde_json::json!({"engine": "authzen", "url": "http://127.0.0.1:1/"}));
    assert!(errors(&path).is_empty());
    for (policy, expected) in [
        (serde_json::json!({}), "policy.url: is required"),
        (serde_json::json!({"url": "pdp"}), "policy.url: is no address"),
        (serde_json::json!({"url": "http://pdp.example.com/"}), "insecureHttp: true"),
        (serde_json::json!({"url": "https://u:canary@a/"}), "user name or password"),
        (serde_json::json!({"url": url, "timeout": "0s"}), "policy.timeout: is not between"),
        (serde_json::json!({"url": url, "timeout": "2m"}), "policy.timeout: is not between"),
        (serde_json::json!({"url": url, "cacheTtl": "2h"}), "policy.cacheTtl: is more than"),
        (serde_json::json!({"url": url, "username": "a"}), "policy.tokenFile: present either"),
        (
            serde_json::json!({"url": url, "tokenFile": "a", "username": "a", "passwordFile": "a"}),
            "policy.tokenFile: present either",
        ),
        (
            serde_json::json!({"url": url, "username": "a:b", "passwordFile": "a"}),
            "policy.username",
        ),
        (serde_json::json!({"url": url, "caFile": "absent"}), "policy.caFile: can't read"),
        (
            serde_json::json!({"url": url, "caFile": "p.cedar"}),
            "policy: the file holds no certificates",
        ),
        (serde_json::json!({"url": url, "sendHeaders": ["a b"]}), "policy.sendHeaders: `a b`"),
        (serde_json::json!({"url": url, "files": ["p.cedar"]}), "policy.files: does not belong"),
        (serde_json::json!({"url": url, "query": "a/b"}), "policy.query: does not belong"),
    ] {
        let mut policy = policy;
        policy["engine"] = "authzen".into();
        let (_folder, path) = with(policy.clone());
        let errors = errors(&path);
        assert_eq!(errors.len(), 1, "{policy}: {errors:?}");
        assert!(errors[0].contains(expected) && !errors[0].contains("canary"), "{}", errors[0]);
    }
    let (_folder, path) =
        with(serde_json::json!({"files": ["p.cedar"], "url": url, "cacheTtl": "1s"}));
    assert_eq!(errors(&path).len(), 2);
    let (_folder, path) = settings(|tree| {
        tree["scopes"][0]["policy"] = serde_json::json!({"engine": "authzen", "url": url});
        tree["scopes"][0]["jwtCustomization"] = serde_json::json!({"items": "entitlements"});
    });
    let errors = errors(&path);
    assert!(errors[0].starts_with("scopes[0].jwtCustomization.items: "), "{errors:?}");
}

#[test]
fn a_public_address_belongs_to_authzen() {
    let with = |api: Value| settings(|tree| tree["scopes"][0]["api"] = api);
    let good = serde_json::json!({"authzen": true, "publicUrl": "https://pdp.example.com"});
    assert!(errors(&with(good).1).is_empty());
    for (api, expected) in [
        (serde_json::json!({"check": true, "publicUrl": "https://a"}), "belongs to authzen"),
        (serde_json::json!({"authzen": true, "publicUrl": "http://a"}), "is not an address"),
        (serde_json::json!({"authzen": true, "publicUrl": "https://a/"}), "is not an address"),
    ] {
        let (_folder, path) = with(api);
        let errors = errors(&path);
        assert!(errors[0].starts_with("scopes[0].api.publicUrl: "), "{errors:?}");
        assert!(errors[0].contains(expected), "{errors:?}");
    }
}

/// What the schema requires, the parser requires, and nothing more.
#[test]
fn the_schema_and_the_parser_require_the_same() {
    type Remove = (&'static str, &'static str);
    let removals: [Remove; 16] = [
        ("", "secretStores"),
        ("", "scopes"),
        ("/secretStores/0", "id"),
        ("/secretStores/0", "type"),
        ("/scopes/0", "clientId"),
        ("/scopes/0", "policy"),
        ("/scopes/0", "jwtResponse"),
        ("/scopes/0/policy", "files"),
        ("/scopes/0/jwtResponse", "tokenLifetimeSeconds"),
        ("/scopes/0/identity/jwt/0", "issuer"),
        ("/scopes/0/identity/jwt/0", "audiences"),
        ("/scopes/0/identity/jwt/1/introspection", "url"),
        ("/scopes/0/identity/jwt/1/introspection", "clientId"),
        ("/scopes/0/routes/0", "match"),
        ("/decisionLog/sink/file", "path"),
        ("/decisionLog/mask/0", "field"),
    ];
    let full = |tree: &mut Value| {
        tree["scopes"][0]["identity"] = serde_json::json!({"jwt": [
            {"issuer": "https://idp.example/", "audiences": "any"},
            {"issuer": "https://other.example/", "audiences": "any", "introspection": {
                "url": "https://other.example/i", "clientId": "placet", "clientSecretFile": "s",
            }},
        ]});
        tree["scopes"][0]["routes"] = serde_json::json!([{"match": {"path": "/"}, "bypass": true}]);
        tree["decisionLog"] = serde_json::json!({
            "sink": {"file": {"path": "log", "daily": true}},
            "mask": [{"field": "principal.id", "with": "redact"}],
        });
    };
    let (_folder, path) = settings(full);
    assert!(errors(&path).is_empty());
    for (pointer, key) in removals {
        let (_folder, path) = settings(|tree| {
            full(tree);
            tree.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key);
        });
        assert!(!errors(&path).is_empty(), "{pointer}/{key} can be left out");
    }
    let text = config::schema().to_string();
    let required = text.matches("\"required\":").count();
    // The thirteen of the structs, the root's two ways, and the directory form of `scopes`. What a policy
    // requires depends on its engine.
    assert_eq!(required, 16, "{text}");
}

/// Every key of `example` stands in the schema: both were derived from the same structs, and this
/// holds the contract's example to them.
#[test]
fn the_schema_knows_every_key_of_the_contract_s_example() {
    let schema = config::schema();
    let text = std::fs::read_to_string(fixture("contract.yaml")).unwrap();
    let example: Value = yaml_serde::from_str(&text).unwrap();
    let mut checked = 0;
    check_keys(&schema, &schema, &example, "", &mut checked);
    assert!(checked > 90, "only {checked} keys were compared");
}

fn check_keys(root: &Value, schema: &Value, example: &Value, path: &str, checked: &mut usize) {
    let forms = forms(root, schema);
    match example {
        Value::Object(fields) => {
            let known: Map<String, Value> = forms
                .iter()
                .filter_map(|form| form["properties"].as_object())
                .flat_map(|properties| properties.clone())
                .collect();
            if known.is_empty() {
                let is_open = forms.iter().any(|form| form["additionalProperties"].is_object());
                assert!(is_open, "{path} is no map in the schema");
                return;
            }
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                let property =
                    known.get(name).unwrap_or_else(|| panic!("{path} is not in the schema"));
                *checked += 1;
                check_keys(root, property, value, &path, checked);
            }
        }
        Value::Array(items) => {
            let list = forms.iter().find(|form| form["items"].is_object());
            let list = list.unwrap_or_else(|| panic!("{path} is no list in the schema"));
            items.iter().for_each(|item| check_keys(root, &list["items"], item, path, checked));
        }
        _ => {}
    }
}

/// What `schema` may be, references and alternatives resolved.
fn forms<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    if let Some(reference) = schema["$ref"].as_str() {
        return forms(root, root.pointer(reference.trim_start_matches('#')).unwrap());
    }
    match schema["anyOf"].as_array() {
        Some(alternatives) => alternatives.iter().flat_map(|form| forms(root, form)).collect(),
        None => vec![schema],
    }
}
