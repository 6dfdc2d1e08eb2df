//! The JSON Schema of the settings.

use serde_json::{Value, json};

use super::Settings;
#[cfg(feature = "control")]
use super::{Scope, Store};

/// What must be written, by definition. The structs can't say so: to them every field is optional,
/// so that one missing field does not hide the next error.
const REQUIRED: [(&str, &[&str]); 13] = [
    ("ControlPlane", &["address", "tokenFile", "caFile", "directory"]),
    ("Store", &["id", "type"]),
    ("Auth", &["method"]),
    ("Scope", &["clientId", "policy", "jwtResponse"]),
    ("Issuer", &["issuer", "audiences"]),
    ("Introspection", &["url", "clientId"]),
    ("Route", &["match"]),
    ("RouteMatch", &["path"]),
    ("JwtResponse", &["tokenLifetimeSeconds"]),
    ("PolicyBundle", &["url"]),
    ("BundleVerification", &["keyFile"]),
    ("FileSink", &["path"]),
    ("Mask", &["field"]),
];

/// The JSON Schema of the settings.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Settings).to_value();
    if let Some(root) = schema.as_object_mut() {
        // From a control plane the same may come.
        let without = json!({"not": {"required": ["controlPlane"]}});
        root.insert("if".to_owned(), without);
        root.insert("then".to_owned(), json!({"required": ["secretStores", "scopes"]}));
    }
    finish(schema)
}

/// The JSON Schema of one scope.
#[cfg(feature = "control")]
pub(crate) fn scope_schema() -> Value {
    one_of_them::<Scope>("Scope")
}

/// The JSON Schema of one secret store.
#[cfg(feature = "control")]
pub(crate) fn store_schema() -> Value {
    one_of_them::<Store>("Store")
}

#[cfg(feature = "control")]
fn one_of_them<T: schemars::JsonSchema>(name: &str) -> Value {
    let mut schema = schemars::schema_for!(T).to_value();
    let required = REQUIRED.iter().find(|(of, _)| *of == name).map(|(_, required)| required);
    if let Some(root) = schema.as_object_mut() {
        root.insert("required".to_owned(), json!(required));
    }
    finish(schema)
}

fn finish(mut schema: Value) -> Value {
    drop_defaults(&mut schema);
    for (name, required) in REQUIRED {
        if let Some(Value::Object(definition)) = schema.pointer_mut(&format!("/$defs/{name}")) {
            definition.insert("required".to_owned(), json!(required));
        }
    }
    schema
}

/// The derived defaults only say "absent"; the descriptions say what takes effect.
fn drop_defaults(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|name, value| name != "default" || is_schema(value));
            fields.values_mut().for_each(drop_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_defaults),
        _ => {}
    }
}

/// A setting may be called `default` too: then a schema with a description stands there.
fn is_schema(value: &Value) -> bool {
    value.get("description").is_some()
}
