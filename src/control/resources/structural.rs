//! From the JSON Schema of the settings to what Kubernetes calls a structural schema.
//!
//! Such a schema has a type at every node, no references, and nothing beside `properties` about other
//! properties; the API server drops what it doesn't name. A setting that is one text or a list of them has no
//! one type, so it is left open here, and the controller judges it.

use serde_json::{Map, Value, json};

use super::rules;

/// The structural schema of the settings called `name`, whose JSON Schema is `schema`.
pub(super) fn structural(name: &str, schema: &Value) -> Value {
    let none = Map::new();
    let definitions = schema.get("$defs").and_then(Value::as_object).unwrap_or(&none);
    node(Some(name), schema, definitions)
}

/// Makes a schema of ours, which refers to no other, structural.
pub(super) fn tidy(schema: &mut schemars::Schema) {
    if let Value::Object(tidied) = node(None, schema.as_value(), &Map::new()) {
        *schema = tidied.into();
    }
}

/// The node `schema`, which is the definition called `name`, or stands within one.
fn node(name: Option<&str>, schema: &Value, definitions: &Map<String, Value>) -> Value {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.trim_start_matches("#/$defs/");
        let definition = definitions.get(name).unwrap_or(&Value::Null);
        return described(schema, node(Some(name), definition, definitions));
    }
    if let Some(forms) = schema.get("anyOf").and_then(Value::as_array) {
        let is_null = |form: &&Value| form.get("type") == Some(&json!("null"));
        let mut forms = forms.iter().filter(|form| !is_null(form));
        return match (forms.next(), forms.next()) {
            (Some(only), None) => described(schema, node(name, only, definitions)),
            _ => described(schema, json!({"x-kubernetes-preserve-unknown-fields": true})),
        };
    }
    let mut made = plain(schema);
    // Variants that are described one by one.
    if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
        let names: Vec<&Value> = variants.iter().filter_map(|it| it.get("const")).collect();
        made.extend([("type".to_owned(), json!("string")), ("enum".to_owned(), json!(names))]);
    }
    if let Some(items) = schema.get("items") {
        made.insert("items".to_owned(), node(None, items, definitions));
    }
    if let Some(others) = schema.get("additionalProperties").filter(|others| others.is_object()) {
        made.insert("additionalProperties".to_owned(), node(None, others, definitions));
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let name = name.unwrap_or_default();
        let property = |(key, schema): (&String, &Value)| {
            let mut property = node(None, schema, definitions);
            merge(&mut property, rules::bounds(name, key));
            (key.clone(), property)
        };
        made.insert("properties".to_owned(), properties.iter().map(property).collect());
        merge_into(&mut made, rules::of_settings(name));
    }
    Value::Object(made)
}

/// What of a node means the same in both.
fn plain(schema: &Value) -> Map<String, Value> {
    let mut made = Map::new();
    let kept = ["description", "enum", "format", "maxProperties", "maximum", "minimum", "required"];
    for (keyword, value) in schema.as_object().into_iter().flatten() {
        // Kubernetes knows no unsigned numbers, which have a minimum too.
        let is_known = value.as_str().is_none_or(|text| !text.starts_with("uint"));
        if is_known && (kept.contains(&keyword.as_str()) || keyword.starts_with("x-kubernetes-")) {
            made.insert(keyword.clone(), value.clone());
        }
    }
    if let Some(description) = made.get_mut("description") {
        *description = one_line(description);
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().find(|kind| *kind != "null"),
        kind => kind,
    };
    made.extend(kind.map(|kind| ("type".to_owned(), kind.clone())));
    made
}

/// With what is said of it where it is used.
fn described(user: &Value, mut schema: Value) -> Value {
    if let (Some(description), Some(schema)) = (user.get("description"), schema.as_object_mut()) {
        schema.insert("description".to_owned(), one_line(description));
    }
    schema
}

fn one_line(text: &Value) -> Value {
    text.as_str().map_or_else(|| text.clone(), |text| text.replace('\n', " ").into())
}

fn merge(schema: &mut Value, more: Value) {
    if let Some(schema) = schema.as_object_mut() {
        merge_into(schema, more);
    }
}

fn merge_into(schema: &mut Map<String, Value>, more: Value) {
    if let Value::Object(more) = more {
        schema.extend(more);
    }
}
