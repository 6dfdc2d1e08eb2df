//! From text to documents: YAML with any number of them, or JSON; lists and ConfigMaps are opened.

use serde::Deserialize;
use serde_json::Value;

use super::node::Node;
use super::{DoctorError, Place, Source};

/// One configuration or manifest.
#[derive(Debug)]
pub(super) struct Document {
    place: Place,
    value: Value,
}

impl Document {
    pub(super) fn root(&self) -> Node<'_> {
        Node { value: &self.value, place: self.place.clone() }
    }

    /// The `kind` of a manifest.
    pub(super) fn kind(&self) -> &str {
        self.value.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    /// The API group of a manifest, without its version.
    pub(super) fn group(&self) -> &str {
        let version = self.value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Whether it is a manifest of this kind.
    pub(super) fn is(&self, group: &str, kind: &str) -> bool {
        self.group() == group && self.kind() == kind
    }

    /// Whether anything here reads it.
    pub(super) fn is_known(&self) -> bool {
        let groups = [
            "security.istio.io",
            "networking.istio.io",
            "install.istio.io",
            "gateway.networking.k8s.io",
            "gateway.envoyproxy.io",
        ];
        groups.contains(&self.group())
            || self.is_envoy()
            || self.root().get("extension_providers").is_some()
            || self.root().get("mesh_config").is_some()
    }

    /// Whether it is Envoy's own: a bootstrap, a dump, a file of discovered resources, or one of them.
    pub(super) fn is_envoy(&self) -> bool {
        let keys =
            ["static_resources", "dynamic_resources", "configs", "resources", "filter_chains"];
        self.kind().is_empty() && keys.iter().any(|key| self.root().get(key).is_some())
    }
}

/// The name of a manifest, and its namespace.
pub(super) fn identity<'a>(manifest: &Node<'a>) -> (&'a str, &'a str) {
    let Some(metadata) = manifest.get("metadata") else { return ("", "default") };
    (metadata.text("name").unwrap_or_default(), metadata.text("namespace").unwrap_or("default"))
}

pub(super) fn read(source: &Source) -> Result<Vec<Document>, DoctorError> {
    let mut documents = Vec::new();
    let place = Place { file: source.name.clone(), ..Place::default() };
    for value in values(source)? {
        open(value, &place, &mut documents);
    }
    Ok(documents)
}

/// JSON is read as such first: a dump has megabytes, and YAML takes its time.
pub(super) fn values(source: &Source) -> Result<Vec<Value>, DoctorError> {
    if let Ok(value) = serde_json::from_str(&source.text) {
        return Ok(vec![value]);
    }
    let problem = |problem: String| DoctorError::Syntax { file: source.name.clone(), problem };
    let mut values = Vec::new();
    for document in yaml_serde::Deserializer::from_str(&source.text) {
        let yaml = yaml_serde::Value::deserialize(document);
        let yaml = yaml.map_err(|error| problem(error.to_string()))?;
        let value = serde_json::to_value(yaml).map_err(|error| problem(error.to_string()))?;
        if !value.is_null() {
            values.push(value);
        }
    }
    if values.iter().any(|value| !value.is_object() && !value.is_array()) {
        return Err(problem("a document is neither a map nor a list".to_owned()));
    }
    Ok(values)
}

/// Adds the document, and those that it holds: the items of a `List`, and the texts of a ConfigMap
/// that are configurations themselves.
fn open(value: Value, place: &Place, documents: &mut Vec<Document>) {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let resource = match kind.as_str() {
        "" => String::new(),
        kind => {
            let node = Node { value: &value, place: Place::default() };
            let (name, namespace) = identity(&node);
            format!("{kind} {namespace}/{name}")
        }
    };
    let own = Place { resource, ..place.clone() };
    match (kind.as_str(), value) {
        (kind, Value::Object(mut list)) if kind_is_list(kind, &list) => {
            let items = list.remove("items");
            let items = items.and_then(|items| items.as_array().cloned()).unwrap_or_default();
            for item in items {
                open(item, place, documents);
            }
        }
        (_, Value::Array(items)) => {
            for item in items {
                open(item, place, documents);
            }
        }
        ("ConfigMap", value) => {
            let node = Node { value: &value, place: own };
            documents.extend(node.entries("data").iter().filter_map(|(_, text)| inner(text)));
        }
        (_, value) => documents.push(Document { place: own, value }),
    }
}

fn kind_is_list(kind: &str, map: &serde_json::Map<String, Value>) -> bool {
    kind.ends_with("List") && map.contains_key("items")
}

fn inner(text: &Node<'_>) -> Option<Document> {
    let yaml: yaml_serde::Value = yaml_serde::from_str(text.value.as_str()?).ok()?;
    let value = serde_json::to_value(yaml).ok()?;
    value.is_object().then(|| Document { place: text.place.clone(), value })
}
