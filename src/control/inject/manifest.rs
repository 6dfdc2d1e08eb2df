//! Manifests: where their pods are, and the same patch for each.

use std::collections::HashSet;

use serde::Deserialize as _;
use serde_json::Value;

use super::fields::INJECT;
use super::{Injection, Outcome};

/// Reads YAML documents, or JSON.
///
/// # Errors
/// Why the text can't be read.
pub fn read(text: &str) -> Result<Vec<Value>, String> {
    let mut documents = Vec::new();
    for document in yaml_serde::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| error.to_string())?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// Adds Placet to the pods of `documents` that ask for it, by their label or by that of their namespace's
/// manifest; to all that don't opt out if `all`. Returns what their owners should know.
///
/// # Errors
/// All that keeps a pod from having what it asks for; then nothing is to be used.
pub fn inject(
    documents: &mut [Value],
    injection: &Injection,
    all: bool,
) -> Result<Vec<String>, Vec<String>> {
    let mut namespaces = HashSet::new();
    documents.iter().for_each(|document| labelled(document, &mut namespaces));
    let mut told = Told::default();
    for document in documents {
        each(document, &namespaces, injection, all, &mut told);
    }
    if told.errors.is_empty() { Ok(told.warnings) } else { Err(told.errors) }
}

/// Writes `document` as YAML that readers of 1.1 and 1.2 understand alike: kubectl's takes a plain `on` for
/// true and `12:30` for a number, so all but plain words are quoted.
pub fn write(document: &Value) -> String {
    let mut out = String::new();
    if is_leaf(document) {
        out.push_str(&leaf(document));
        out.push('\n');
    } else {
        block(document, 0, &mut out);
    }
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                out.push_str(&format!("{indent}{}:", word(name)));
                if is_leaf(value) {
                    out.push_str(&format!(" {}\n", leaf(value)));
                } else {
                    out.push('\n');
                    block(value, depth + 1, out);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if is_leaf(item) {
                    out.push_str(&format!("{indent}- {}\n", leaf(item)));
                } else {
                    let mut inner = String::new();
                    block(item, depth + 1, &mut inner);
                    out.push_str(&format!("{indent}- {}", inner.trim_start_matches(' ')));
                }
            }
        }
        _ => {}
    }
}

fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::String(text) => word(text),
        other => other.to_string(),
    }
}

/// What YAML 1.1 takes for something else than text.
const RESERVED: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// As it is, or quoted as in JSON.
fn word(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !RESERVED.contains(&text.to_ascii_lowercase().as_str());
    if is_plain {
        return text.to_owned();
    }
    let is_escaped = |c: char| {
        c.is_control()
            || ('\u{2028}'..='\u{2029}').contains(&c)
            || c == '\u{feff}'
            || c >= '\u{fffe}'
    };
    let mut quoted = String::new();
    for c in Value::from(text).to_string().chars() {
        if is_escaped(c) {
            quoted.push_str(&format!("\\U{:08X}", u32::from(c)))
        } else {
            quoted.push(c)
        }
    }
    quoted
}

#[derive(Default)]
struct Told {
    warnings: Vec<String>,
    errors: Vec<String>,
}

/// Notes the namespaces with the label.
fn labelled(document: &Value, found: &mut HashSet<String>) {
    items(document).iter().for_each(|item| labelled(item, found));
    let name = document.pointer("/metadata/name").and_then(Value::as_str);
    if document["kind"] == "Namespace" && asks(document) {
        found.extend(name.map(str::to_owned));
    }
}

fn each(
    document: &mut Value,
    namespaces: &HashSet<String>,
    injection: &Injection,
    all: bool,
    told: &mut Told,
) {
    if let Some(items) = list_of(document) {
        items.iter_mut().for_each(|item| each(item, namespaces, injection, all, told));
        return;
    }
    let kind = document["kind"].as_str().unwrap_or_default().to_owned();
    let text = |pointer| document.pointer(pointer).and_then(Value::as_str);
    let namespace = text("/metadata/namespace").unwrap_or("default").to_owned();
    let name = text("/metadata/name").or(text("/metadata/generateName")).unwrap_or_default();
    let name = format!("{kind} {namespace}/{name}");
    let Some(pod) = template(&kind).and_then(|place| document.pointer_mut(place)) else { return };
    let has_label = pod.pointer("/metadata/labels").is_some_and(|it| it.get(INJECT).is_some());
    if !all && !has_label && !namespaces.contains(&namespace) {
        return;
    }
    match super::inject(pod, injection) {
        Ok(Outcome::Skipped(_)) => {}
        Ok(Outcome::Patched { patch, warnings }) => {
            if let Err(error) = json_patch::patch(pod, &patch) {
                told.errors.push(format!("{name}: {error}"));
            }
            told.warnings.extend(warnings.iter().map(|warning| format!("{name}: {warning}")));
        }
        Err(errors) => told.errors.extend(errors.iter().map(|error| format!("{name}: {error}"))),
    }
}

/// Where an object of this kind has its pod.
fn template(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        "PodTemplate" => Some("/template"),
        _ => None,
    }
}

fn asks(object: &Value) -> bool {
    object.pointer("/metadata/labels").is_some_and(|labels| labels[INJECT] == "true")
}

fn is_list(document: &Value) -> bool {
    document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
}

fn items(document: &Value) -> &[Value] {
    let items = document.get("items").filter(|_| is_list(document));
    items.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn list_of(document: &mut Value) -> Option<&mut Vec<Value>> {
    if !is_list(document) {
        return None;
    }
    document.get_mut("items")?.as_array_mut()
}
