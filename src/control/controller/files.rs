//! The files of a bundle, and those that a spec names.
//!
//! A name from here becomes a path on this machine and on the sidecar's: one that could lead elsewhere is
//! none. What a sidecar reads of its own pod (credentials, above all) is named by an absolute path, and never
//! read here.

use std::collections::{BTreeMap, BTreeSet};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use serde_json::Value;

/// The settings file of a snapshot.
pub(super) const SETTINGS: &str = "placet.yaml";

/// Files by name.
pub(super) type Files = BTreeMap<String, Bytes>;

/// The files of a bundle with this `spec`, by their names in it.
///
/// # Errors
/// All that is wrong, a line each.
pub(super) fn of_bundle(spec: &Value) -> Result<Files, Vec<String>> {
    let (mut files, mut faults) = (Files::new(), Vec::new());
    for field in ["files", "binaryFiles"] {
        for (name, content) in spec.get(field).and_then(Value::as_object).into_iter().flatten() {
            let content = content.as_str().unwrap_or_default();
            let bytes = if field == "files" {
                Ok(Bytes::copy_from_slice(content.as_bytes()))
            } else {
                BASE64_STANDARD.decode(content).map(Bytes::from).map_err(|_| "is no Base64")
            };
            let bytes = bytes.and_then(|bytes| is_name(name).then_some(bytes).ok_or(NO_NAME));
            match bytes {
                Err(problem) => faults.push(format!("spec.{field}: `{name}` {problem}")),
                Ok(bytes) => {
                    let other = files.insert(name.clone(), bytes);
                    let twice = format!("spec.{field}: `{name}` stands in `files` too: rename one");
                    faults.extend(other.map(|_| twice));
                }
            }
        }
    }
    for name in files.keys() {
        let folders = name.match_indices('/').filter_map(|(at, _)| name.get(..at));
        for folder in folders.filter(|folder| files.contains_key(*folder)) {
            faults.push(format!("spec.files: `{folder}` is a file, and the folder of `{name}`"));
        }
    }
    if faults.is_empty() { Ok(files) } else { Err(faults) }
}

const NO_NAME: &str =
    "is no name of a file: write letters, digits, `.`, `_`, `-`, and `/` after a folder";

/// Whether `name` is one or more plain names with `/` between them.
pub(super) fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..") && part.len() <= 128 && part.chars().all(is_plain)
    };
    name.len() <= 512 && name.split('/').all(is_part)
}

/// A file that a spec names.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Named<'a> {
    /// The setting: `policy.files[0]`.
    pub(super) setting: String,
    /// As written.
    pub(super) text: &'a str,
    place: Place,
}

/// Where a file may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Policies, and by whose key they count: they are judged here.
    Bundle,
    /// What is no secret and not judged here.
    Either,
    /// Credentials, and whatever else a pod has.
    Pod,
}

/// The files that `spec` names, of a scope or a secret store.
pub(super) fn named(spec: &Value) -> Vec<Named<'_>> {
    let mut found = Vec::new();
    collect(spec, "", "", &mut found);
    found
}

fn collect<'a>(value: &'a Value, path: &str, parent: &str, found: &mut Vec<Named<'a>>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in
                fields.iter().filter(|(key, _)| !HAS_NAMES_OF_ITS_OWN.contains(&key.as_str()))
            {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match place(parent, key) {
                    Some(place) => {
                        let texts =
                            value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                        for (index, text) in texts.iter().enumerate() {
                            let setting = if value.is_array() {
                                format!("{path}[{index}]")
                            } else {
                                path.clone()
                            };
                            found.extend(text.as_str().map(|text| Named { setting, text, place }));
                        }
                    }
                    None => collect(value, &path, key, found),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, &format!("{path}[{index}]"), parent, found);
            }
        }
        _ => {}
    }
}

/// Maps whose keys are not settings.
const HAS_NAMES_OF_ITS_OWN: [&str; 2] = ["claims", "headers"];

/// Where the file that the setting `key` names may be; `None` where it names none.
fn place(parent: &str, key: &str) -> Option<Place> {
    match (parent, key) {
        ("policy" | "shadow", "files" | "data" | "schema" | "entities" | "protoDescriptor")
        | ("policy", "caFile")
        | ("verification", "keyFile") => Some(Place::Bundle),
        (_, "caFile" | "jwksFile") => Some(Place::Either),
        (_, "directory") => Some(Place::Pod),
        _ if key.ends_with("File") => Some(Place::Pod),
        _ => None,
    }
}

impl Named<'_> {
    /// The bundle that it is in, if any.
    pub(super) fn bundle(&self) -> Option<&str> {
        (!self.text.starts_with('/')).then(|| self.text.split('/').next()).flatten()
    }

    /// Those of `bundles`' files that it stands for, which is one, or all of a folder; none for a file of
    /// the pod.
    ///
    /// # Errors
    /// If there are none, or it may not be where it says.
    pub(super) fn find(&self, bundles: &BTreeMap<&str, Files>) -> Result<Files, String> {
        let text = self.text.trim_end_matches('/');
        match (self.place, text.starts_with('/')) {
            (Place::Either | Place::Pod, true) => return Ok(Files::new()),
            (Place::Pod, false) => {
                return Err(format!("`{text}` is no absolute path: write where it is in the pod"));
            }
            (Place::Bundle, true) => {
                return Err(format!(
                    "`{text}` is a file of the pod: put it into a PolicyBundle and write BUNDLE/FILE"
                ));
            }
            (Place::Bundle | Place::Either, false) => {}
        }
        if !is_name(text) {
            return Err(format!("`{text}` is no file of a PolicyBundle: write BUNDLE/FILE"));
        }
        let (bundle, file) = text.split_once('/').unwrap_or((text, ""));
        let files = bundles.get(bundle).ok_or_else(|| {
            format!("there is no PolicyBundle `{bundle}` that is ready: add it, or put it right")
        })?;
        let is_meant = |name: &str| {
            let below = name.strip_prefix(file);
            file.is_empty() || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let found: Files = files
            .iter()
            .filter(|(name, _)| is_meant(name))
            .map(|(name, content)| (format!("{bundle}/{name}"), content.clone()))
            .collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let known: BTreeSet<&str> = files.keys().map(String::as_str).take(10).collect();
        let known: Vec<&str> = known.into_iter().collect();
        Err(format!("the PolicyBundle `{bundle}` has no `{file}`: it has `{}`", known.join("`, `")))
    }
}
