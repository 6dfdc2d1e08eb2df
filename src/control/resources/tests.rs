use std::path::{Path, PathBuf};

use cel::{Context, Program};
use serde_json::json;

use super::*;
use crate::config::Config;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The schema of the kind.
fn schema(kind: &str) -> Value {
    let definitions = definitions();
    let definition = definitions.iter().find(|it| it.spec.names.kind == kind).unwrap();
    let schema = definition.spec.versions[0].schema.as_ref().unwrap();
    serde_json::to_value(schema.open_api_v3_schema.as_ref().unwrap()).unwrap()
}

/// Every node of a schema, with where it is and how many lists without a limit it stands in.
fn walk(schema: &Value, path: &str, open: usize, visit: &mut impl FnMut(&Value, &str, usize)) {
    visit(schema, path, open);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), open, visit);
    }
    if let Some(items) = schema.get("items") {
        let open = open + usize::from(schema["maxItems"].is_null());
        walk(items, &format!("{path}[]"), open, visit);
    }
    if let Some(others) = schema.get("additionalProperties") {
        let open = open + usize::from(schema["maxProperties"].is_null());
        walk(others, &format!("{path}{{}}"), open, visit);
    }
}

fn rules(schema: &Value) -> Vec<(&str, &str)> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules.map(|it| (it["rule"].as_str().unwrap(), it["message"].as_str().unwrap())).collect()
}

#[test]
fn the_committed_definitions_are_these() {
    let committed = std::fs::read_to_string(repository("deploy/kubernetes/crds.yaml")).unwrap();
    let made = yaml().unwrap();
    assert_eq!(committed, made, "run `placet-control crds >deploy/kubernetes/crds.yaml`");
}

/// The keywords that are used.
const KNOWN: [&str; 19] = [
    "additionalProperties",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-validations",
];

/// <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>,
/// "Specifying a structural schema".
#[test]
fn the_schemas_are_structural() {
    for kind in ["Scope", "SecretStore", "PolicyBundle"] {
        let mut nodes = 0;
        walk(&schema(kind), kind, 0, &mut |node, path, open| {
            nodes += 1;
            let is_open = node["x-kubernetes-preserve-unknown-fields"] == true;
            if is_open {
                let mut keywords = node.as_object().unwrap().keys();
                assert!(
                    keywords.all(|it| it == "description" || it.ends_with("unknown-fields")),
                    "{path}"
                );
                return;
            }
            for keyword in node.as_object().unwrap().keys() {
                assert!(KNOWN.contains(&keyword.as_str()), "{path}: {keyword}");
            }
            match node["type"].as_str().unwrap_or_else(|| panic!("{path} has no type")) {
                "array" => assert!(node["items"].is_object(), "{path}"),
                "object" => {
                    let is_map = node.get("additionalProperties").is_some();
                    assert_ne!(is_map, node.get("properties").is_some(), "{path}");
                }
                "string" | "integer" | "boolean" => {}
                other => panic!("{path}: {other}"),
            }
            for required in node["required"].as_array().into_iter().flatten() {
                assert!(
                    node["properties"].get(required.as_str().unwrap()).is_some(),
                    "{path}: {required}"
                );
            }
            for (rule, message) in rules(node) {
                assert_eq!(open, 0, "{path}: its cost can't be told before: {rule}");
                assert!(message.len() <= 2048 && !message.contains('\n'));
                Program::compile(rule).unwrap_or_else(|error| panic!("{path}: {rule}: {error}"));
            }
        });
        assert!(nodes > 10, "{kind} has only {nodes} nodes");
    }
    assert_eq!(schema("SecretStore")["properties"]["spec"]["required"], json!(["type"]));
    assert!(schema("SecretStore")["properties"]["spec"]["properties"]["id"].is_null());
}

/// A rule can look at what has a type, and at nothing else; each node is compiled by itself.
#[test]
fn rules_look_at_what_there_is() {
    for kind in ["Scope", "SecretStore", "PolicyBundle"] {
        walk(&schema(kind), kind, 0, &mut |node, path, _| {
            for (rule, _) in rules(node) {
                for looked in rule.split("self.").skip(1) {
                    let end = |c: char| !c.is_ascii_alphanumeric() && c != '.';
                    let looked = looked.split(end).next().unwrap();
                    let mut seen = node;
                    for name in looked.split('.') {
                        if name == "all" {
                            continue;
                        }
                        seen = &seen["properties"][name];
                        assert!(seen["type"].is_string(), "{path}: {name} has no type: {rule}");
                    }
                }
            }
        });
    }
}

/// What the API server would say of `value`: nothing, if all is well. What the schema doesn't name is
/// refused, as `kubectl` has it.
fn faults(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return Vec::new();
    }
    if value.is_null() && schema["nullable"] == true {
        return Vec::new();
    }
    let mut found = Vec::new();
    let is_of_type = match schema["type"].as_str().unwrap() {
        "array" => value.is_array(),
        "object" => value.is_object(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => value.is_boolean(),
    };
    if !is_of_type {
        return vec![format!("{path}: is no {}", schema["type"])];
    }
    let mut limit = |is_kept: bool, name: &str| {
        if !is_kept {
            found.push(format!("{path}: {name}"));
        }
    };
    if let Some(number) = value.as_f64() {
        limit(schema["minimum"].as_f64().is_none_or(|least| number >= least), "minimum");
        limit(schema["maximum"].as_f64().is_none_or(|most| number <= most), "maximum");
    }
    if let Some(text) = value.as_str() {
        let is_short = |most| u64::try_from(text.len()).unwrap() <= most;
        limit(schema["maxLength"].as_u64().is_none_or(is_short), "maxLength");
        let matches = |pattern| regex::Regex::new(pattern).unwrap().is_match(text);
        limit(schema["pattern"].as_str().is_none_or(matches), "pattern");
        let listed = schema["enum"].as_array();
        limit(listed.is_none_or(|listed| listed.contains(value)), "enum");
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        limit(value.get(required.as_str().unwrap()).is_some(), "required");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(faults(&schema["items"], item, &format!("{path}[{index}]")));
    }
    for (key, field) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        match schema["properties"].get(key).or(schema.get("additionalProperties")) {
            Some(schema) => found.extend(faults(schema, field, &path)),
            None => found.push(format!("{path}: unknown")),
        }
    }
    // Rules are for what fits the schema.
    if found.is_empty() {
        let broken = rules(schema).into_iter().filter(|(rule, _)| !holds(rule, value));
        found.extend(broken.map(|(_, message)| format!("{path}: {message}")));
    }
    found
}

/// As when nothing has changed.
fn holds(rule: &str, value: &Value) -> bool {
    let mut context = Context::default();
    context.add_variable("self", value.clone()).unwrap();
    context.add_variable("oldSelf", value.clone()).unwrap();
    let result = Program::compile(rule).unwrap().execute(&context);
    result.unwrap_or_else(|error| panic!("{rule}: {error}")) == cel::Value::Bool(true)
}

fn spec_faults(kind: &str, spec: &Value) -> Vec<String> {
    faults(&schema(kind)["properties"]["spec"], spec, "spec")
}

/// Every scope and every store of the settings that this repository has.
#[test]
fn the_settings_that_there_are_can_be_objects() {
    let mut seen = 0;
    for path in [
        "tests/cases/settings/placet.yaml",
        "deploy/quickstart/placet.yaml",
        "deploy/quickstart/placet-vault.yaml",
        "deploy/kubernetes/resources.yaml",
    ] {
        let text = std::fs::read_to_string(repository(path)).unwrap();
        for document in yaml_serde::Deserializer::from_str(&text) {
            let document = Value::deserialize(document).unwrap();
            if let Some(kind) = document["kind"].as_str() {
                assert_eq!(spec_faults(kind, &document["spec"]), Vec::<String>::new(), "{path}");
                seen += 1;
            }
            for store in document["secretStores"].as_array().into_iter().flatten() {
                let mut store = store.clone();
                store.as_object_mut().unwrap().shift_remove("id").unwrap();
                assert_eq!(spec_faults("SecretStore", &store), Vec::<String>::new(), "{path}");
                seen += 1;
            }
            for scope in document["scopes"].as_array().into_iter().flatten() {
                assert_eq!(spec_faults("Scope", scope), Vec::<String>::new(), "{path}: {scope}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 10, "only {seen}");
}

fn scope() -> Value {
    json!({
        "clientId": "orders",
        "identity": {"jwt": [{"issuer": "https://idp.example.com/", "audiences": ["orders"]}]},
        "policy": {"files": ["a.cedar"]},
        "jwtResponse": {"tokenLifetimeSeconds": 60},
    })
}

/// `value` with `change` laid over it: maps are merged, and null takes away.
fn with(value: &Value, change: &Value) -> Value {
    let (Some(_), Some(changes)) = (value.as_object(), change.as_object()) else {
        return change.clone();
    };
    let mut value = value.clone();
    for (key, change) in changes {
        if change.is_null() {
            value.as_object_mut().unwrap().shift_remove(key);
        } else {
            value[key] = with(&value[key], change);
        }
    }
    value
}

fn jwt(change: &Value) -> Value {
    json!({"identity": {"jwt": [with(&scope()["identity"]["jwt"][0], change)]}})
}

fn asking(change: &Value) -> Value {
    let asks = json!({"url": "https://a.example/i", "clientId": "c", "clientSecretFile": "/f"});
    jwt(&json!({ "introspection": with(&asks, change) }))
}

fn route(change: &Value) -> Value {
    json!({"routes": [with(&json!({"match": {"path": "/a"}}), change)]})
}

fn bad_scopes() -> Vec<Value> {
    let mut asked_of_types = asking(&json!({}));
    asked_of_types["identity"]["jwt"][0]["types"] = json!(["JWT"]);
    vec![
        json!({"clientId": "or ders"}),
        json!({"clientId": "x".repeat(129)}),
        json!({"clientId": null}),
        json!({"jwtResponse": {"tokenLifetimeSeconds": 0}}),
        json!({"jwtResponse": {"tokenLifetimeSeconds": 86_401}}),
        json!({"jwtResponse": {"tokenLifetimeSeconds": "60"}}),
        json!({"deny": {"status": 399}}),
        json!({"deny": {"status": 600}}),
        json!({"anonymus": true}),
        json!({"policy": {"engine": "opa"}}),
        json!({"policy": {"files": null}}),
        json!({"policy": {"bundle": {"url": "https://a.example/b"}}}),
        json!({"policy": {"engine": "authzen"}}),
        json!({"policy": {"engine": "authzen", "files": null}}),
        json!({"policy": {"engine": "authzen", "url": "https://a.example/"}}),
        json!({"policy": {"shadow": {"schema": "a"}}}),
        jwt(&json!({"jwksUri": "https://a.example/", "jwksFile": "/f"})),
        jwt(&json!({"from": [{}]})),
        jwt(&json!({"from": [{"header": "a", "query": "b"}]})),
        jwt(&json!({"from": [{"cookie": "a", "prefix": "b"}]})),
        jwt(&json!({"audiences": null})),
        asked_of_types,
        asking(&json!({"clientSecretFile": null})),
        asking(&json!({"clientSecretEnv": "E"})),
        route(&json!({})),
        route(&json!({"asset": {"type": "A", "id": "b"}})),
        route(&json!({"asset": {"type": "A", "id": "b"}, "action": "c", "bypass": true})),
        route(&json!({"match": {"path": null}, "bypass": true})),
        json!({"identity": {"apiKeys": {"query": "a", "prefix": "b"}}}),
        json!({"api": {}}),
        json!({"api": {"authzen": true, "scheme": "https"}}),
    ]
}

fn good_scopes() -> Vec<Value> {
    vec![
        json!({}),
        jwt(&json!({"from": [{"header": "a", "prefix": "b "}, {"cookie": "c"}]})),
        asking(&json!({})),
        route(&json!({"bypass": true})),
        route(&json!({"asset": {"type": "A", "id": "b"}, "action": "c", "bypass": false})),
        json!({"api": {"check": true, "scheme": "https"}}),
        json!({"deny": {"status": 599}}),
    ]
}

fn vault() -> Value {
    json!({"type": "vault", "default": true, "details": {
        "address": "https://vault:8200",
        "defaultPath": "p",
        "auth": {"method": "kubernetes", "role": "r"},
    }})
}

fn bad_stores() -> Vec<Value> {
    let auth = |auth: Value| json!({"details": {"auth": with(&json!({"role": null}), &auth)}});
    vec![
        json!({"type": null}),
        json!({"type": "consul"}),
        json!({"details": {"auth": null}}),
        json!({"type": "file"}),
        json!({"type": "env"}),
        json!({"type": "awsSecretsManager"}),
        json!({"type": "azureKeyVault"}),
        auth(json!({})),
        auth(json!({"method": "token"})),
        auth(json!({"method": "token", "tokenFile": "/f", "tokenEnv": "E"})),
        auth(json!({"method": "appRole", "secretIdFile": "/f"})),
        auth(json!({"method": "appRole", "roleId": "r"})),
        auth(json!({"method": "jwt", "jwtFile": "/f"})),
        auth(json!({"method": "jwt", "role": "r"})),
        auth(json!({"method": "cert", "certificateFile": "/f"})),
    ]
}

/// What the API server refuses, `placet validate` refuses too: an object means no more and no less than the
/// file.
#[test]
fn what_is_refused_at_once_is_wrong_in_a_file_too() {
    for (changes, is_good) in [(bad_scopes(), false), (good_scopes(), true)] {
        for change in changes {
            let spec = with(&scope(), &change);
            let (refused, judged) = (spec_faults("Scope", &spec), of_file(&spec, &vault()));
            assert_eq!(refused.is_empty(), is_good, "{change}: {refused:?}");
            assert_eq!(judged.is_empty(), is_good, "{change}: {judged:?}");
        }
    }
    for change in bad_stores() {
        let spec = with(&vault(), &change);
        assert!(!spec_faults("SecretStore", &spec).is_empty(), "{change}");
        assert!(!of_file(&scope(), &spec).is_empty(), "{change}");
    }
    assert!(spec_faults("SecretStore", &vault()).is_empty());
    let mut array = scope();
    array["jwtCustomization"] = json!({"itemDelimiter": null});
    assert!(spec_faults("Scope", &array).is_empty() && of_file(&array, &vault()).is_empty());
}

/// What is wrong with settings of these.
fn of_file(scope: &Value, store: &Value) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.cedar"), "permit(principal, action, resource);").unwrap();
    let mut store = store.clone();
    store["id"] = "s".into();
    let settings = json!({"scopes": [scope], "secretStores": [store]}).to_string();
    let path = folder.path().join("placet.yaml");
    std::fs::write(&path, settings).unwrap();
    match Config::load_for_another_machine(&path) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(str::to_owned).collect(),
    }
}

#[test]
fn rules_of_bundles_and_of_the_client_id() {
    let refused = |spec: Value| spec_faults("PolicyBundle", &spec);
    assert!(refused(json!({"files": {"a": ""}, "binaryFiles": {"b": ""}})).is_empty());
    assert_eq!(refused(json!({})), ["spec: has no file: add one"]);
    let twice = refused(json!({"files": {"a": ""}, "binaryFiles": {"a": ""}}));
    assert_eq!(twice, ["spec: a name stands in files and in binaryFiles: rename one"]);
    let schema = schema("Scope");
    let rule = rules(schema.pointer("/properties/spec/properties/clientId").unwrap())[0];
    let mut context = Context::default();
    context.add_variable("self", "b").unwrap();
    context.add_variable("oldSelf", "a").unwrap();
    let changed = Program::compile(rule.0).unwrap().execute(&context).unwrap();
    assert_eq!(changed, cel::Value::Bool(false));
}
