//! The custom resources of `placet.dev`: what of a namespace's settings is written as objects.
//!
//! A [`Scope`]'s and a [`SecretStore`]'s `spec` is an entry of `scopes` and of `secretStores` in
//! `placet.yaml`, word for word, and its schema is made of the very types that read the file: nothing of the
//! settings is written here a second time. What the API server can judge by itself, it refuses (the schema,
//! and rules in CEL); the rest is the controller's to judge, by the code that judges the file. So specs stay
//! untyped here: no object that another version of the definitions let in can stop a watch.

#![expect(clippy::duplicated_attributes, reason = "each column of a table has a type")]

mod rules;
mod structural;

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt as _};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config;

/// The group of the resources.
pub const GROUP: &str = "placet.dev";

/// An entry of `scopes`.
#[derive(Clone, CustomResource, Debug, Deserialize, Serialize)]
#[serde(transparent)]
#[kube(
    group = "placet.dev",
    version = "v1alpha1",
    kind = "Scope",
    doc = "One protected application: an entry of `scopes`. The sidecars of its namespace decide by it.",
    namespaced,
    status = "Status",
    category = "placet",
    printcolumn(name = "Client", type_ = "string", json_path = ".spec.clientId"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Programmed')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct ScopeSpec(Map<String, Value>);

/// An entry of `secretStores`, whose id is the object's name.
#[derive(Clone, CustomResource, Debug, Deserialize, Serialize)]
#[serde(transparent)]
#[kube(
    group = "placet.dev",
    version = "v1alpha1",
    kind = "SecretStore",
    doc = "Where signing keys come from: an entry of `secretStores`, whose id is the object's name.",
    namespaced,
    status = "Status",
    category = "placet",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct SecretStoreSpec(Map<String, Value>);

/// Files that scopes of the namespace name, as `BUNDLE/FILE`: policies, schemas, entities, data.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[kube(
    group = "placet.dev",
    version = "v1alpha1",
    kind = "PolicyBundle",
    plural = "policybundles",
    doc = "Files that scopes of the namespace name as `BUNDLE/FILE`: policies, schemas, entities, data. No secrets.",
    namespaced,
    status = "Status",
    category = "placet",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(extend("x-kubernetes-validations" = rules::of_bundles()), transform = structural::tidy)]
pub struct PolicyBundleSpec {
    /// The files' texts by their names, which may have folders in them: `orders.cedar`, `data/roles.json`.
    #[schemars(extend("maxProperties" = rules::MAX_FILES))]
    pub files: BTreeMap<String, String>,
    /// Files that are no text, in Base64.
    #[schemars(extend("maxProperties" = rules::MAX_FILES))]
    #[schemars(with = "BTreeMap<String, Base64>")]
    pub binary_files: BTreeMap<String, String>,
}

/// The schema of bytes in Base64.
struct Base64;

impl JsonSchema for Base64 {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Base64".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({"type": "string", "format": "byte"})
    }
}

/// What the controller has to say of an object.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = structural::tidy)]
pub struct Status {
    /// The generation of the object that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The namespace's snapshot that this version of the object is in; of one that is not ready, the last
    /// that some version of it was in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// `Ready`: whether the sidecars are given this version of the object. `Programmed`, which a scope has while it is
    /// `False`: whether they put it in force.
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"],
    ))]
    pub conditions: Vec<Condition>,
}

/// A condition, as `metav1.Condition`.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready` or `Programmed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// What is wrong, where, and what to do.
    pub message: String,
    /// Since when.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The generation of the object that this is about.
    #[serde(default)]
    pub observed_generation: i64,
}

impl JsonSchema for ScopeSpec {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ScopeSpec".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        of_settings(structural::structural("Scope", &config::scope_schema()))
    }
}

impl JsonSchema for SecretStoreSpec {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SecretStoreSpec".into()
    }

    /// Without the id, which is the object's name.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = structural::structural("Store", &config::store_schema());
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.shift_remove("id");
        }
        if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|name| name != "id");
        }
        of_settings(schema)
    }
}

fn of_settings(schema: Value) -> Schema {
    match schema {
        Value::Object(schema) => schema.into(),
        _ => Schema::default(),
    }
}

/// The definitions, as `kubectl apply` takes them.
pub fn definitions() -> [CustomResourceDefinition; 3] {
    [Scope::crd(), SecretStore::crd(), PolicyBundle::crd()]
}

/// [`definitions`] in YAML.
///
/// # Errors
/// If they can't be written, which the tests rule out.
pub fn yaml() -> Result<String, yaml_serde::Error> {
    let mut text = "# Made by `placet-control crds`.\n".to_owned();
    for definition in definitions() {
        text.push_str("---\n");
        text.push_str(&yaml_serde::to_string(&definition)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
