//! From YAML to [`raw::Settings`]: every error of shape at once, each with its path.
//!
//! serde stops at the first error. So the text becomes a tree first; whatever serde refuses is
//! noted, taken out of the tree, and the rest is read again. What serde quotes of a store's settings
//! is left out: after a slip of the pen it may be a credential.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::raw;
use super::report::Report;
use crate::source::{Directory, Stored};

/// More errors than this help nobody; it also bounds the loop.
const MAX_ERRORS: usize = 100;

/// What stands before the paths of settings that are a snapshot's.
const OF_SNAPSHOT: &str = "snapshot.";

/// Which of the control plane's snapshots is read with the settings.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sent<'a> {
    /// The last good one on disk.
    Last,
    /// This one.
    This(&'a Stored),
    /// None, whatever there is.
    Nothing,
}

/// Reads the settings file, with the scope files it may point to, and the control plane's snapshot.
pub(super) fn load(path: &Path, sent: Sent<'_>, report: &mut Report) -> Option<Loaded> {
    let mut tree = read_yaml(path, report)?;
    let base = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
    let scope_bases = expand_scopes(&mut tree, &base, report);
    let settings: raw::Settings = deserialize(tree, "", report)?;
    let local = (settings.secret_stores.len(), settings.scopes.len());
    let mut loaded = Loaded { settings, base, scope_bases, local, snapshot: None, damage: None };
    loaded.add_snapshot(sent, report);
    Some(loaded)
}

/// The settings, and what relative paths in them are relative to.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Those of the file, and after them the snapshot's stores and scopes.
    pub(super) settings: raw::Settings,
    /// The folder of the settings file.
    pub(super) base: PathBuf,
    /// The folder of each scope's file, by index; the settings file's own when it holds them.
    scope_bases: Vec<PathBuf>,
    /// How many stores and scopes are not the snapshot's.
    local: (usize, usize),
    /// The snapshot.
    pub(super) snapshot: Option<Stored>,
    /// What is wrong with the one on disk.
    pub(super) damage: Option<String>,
}

impl Loaded {
    /// What the paths of the scope at `index` are relative to.
    pub(super) fn scope_base(&self, index: usize) -> &Path {
        match &self.snapshot {
            Some(snapshot) if index >= self.local.1 => &snapshot.path,
            _ => self.scope_bases.get(index).unwrap_or(&self.base),
        }
    }

    /// What the paths of the store at `index` are relative to.
    pub(super) fn store_base(&self, index: usize) -> &Path {
        match &self.snapshot {
            Some(snapshot) if index >= self.local.0 => &snapshot.path,
            _ => &self.base,
        }
    }

    /// The path of the scope at `index` in errors.
    pub(super) fn scope_path(&self, index: usize) -> String {
        of_origin("scopes", index, self.local.1)
    }

    /// The path of the store at `index` in errors.
    pub(super) fn store_path(&self, index: usize) -> String {
        of_origin("secretStores", index, self.local.0)
    }

    /// Whether the scope at `index` is the snapshot's.
    pub(super) fn is_of_snapshot(&self, index: usize) -> bool {
        index >= self.local.1
    }

    fn add_snapshot(&mut self, sent: Sent<'_>, report: &mut Report) {
        let control = self.settings.control_plane.as_ref();
        let Some(directory) = control.and_then(|control| control.directory.as_ref()) else {
            return;
        };
        match sent {
            Sent::Nothing => {}
            Sent::This(stored) => match stored.verify() {
                Ok(()) => self.merge(stored.clone(), report),
                Err(fault) => report.error("snapshot", fault),
            },
            Sent::Last => match Directory::new(self.base.join(directory)).current() {
                Ok(None) => {}
                Ok(Some(stored)) => self.merge(stored, report),
                Err(fault) => {
                    let what = format_args!("{fault}; it is not used, and asked for anew");
                    report.warning("controlPlane.directory", what);
                    self.damage = Some(fault.to_string());
                }
            },
        }
    }

    fn merge(&mut self, stored: Stored, report: &mut Report) {
        let tree = read_yaml(&stored.path.join("placet.yaml"), report);
        let snapshot = tree.and_then(|tree| deserialize(tree, OF_SNAPSHOT, report));
        let Some(raw::Snapshot { version, secret_stores, scopes }) = snapshot else { return };
        if version.is_some_and(|version| version != 1) {
            report.error("snapshot.version", "is not 1, the only version there is");
        }
        self.settings.secret_stores.extend(secret_stores);
        self.settings.scopes.extend(scopes);
        self.snapshot = Some(stored);
    }
}

fn of_origin(name: &str, index: usize, local: usize) -> String {
    match index.checked_sub(local) {
        None => format!("{name}[{index}]"),
        Some(index) => format!("{OF_SNAPSHOT}{name}[{index}]"),
    }
}

fn read_yaml(path: &Path, report: &mut Report) -> Option<Value> {
    report.reads(path);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            report.error(path.display(), format_args!("can't be read: {error}"));
            return None;
        }
    };
    // By way of a YAML tree, which refuses a key that stands twice.
    let parsed = yaml_serde::from_str::<yaml_serde::Value>(&text)
        .map_err(|error| error.to_string())
        .and_then(|yaml| serde_json::to_value(yaml).map_err(|error| error.to_string()));
    match parsed {
        Ok(tree @ Value::Object(_)) => Some(tree),
        Ok(_) => {
            report.error(path.display(), "holds no settings: it must be a map");
            None
        }
        Err(error) => {
            report.error(path.display(), format_args!("is not valid YAML: {error}"));
            None
        }
    }
}

/// Replaces `scopes: {directory: …}` by the scopes in that directory's files, in name order.
fn expand_scopes(tree: &mut Value, base: &Path, report: &mut Report) -> Vec<PathBuf> {
    let Some(Value::Object(form)) = tree.get("scopes") else { return Vec::new() };
    let directory = match form.get("directory") {
        Some(Value::String(directory)) if form.len() == 1 => base.join(directory),
        _ => {
            report.error("scopes", "must be a list of scopes, or a map with `directory` only");
            replace_scopes(tree, Vec::new());
            return Vec::new();
        }
    };
    report.reads(&directory);
    let files = match yaml_files(&directory) {
        Ok(files) => files,
        Err(error) => {
            report.error("scopes.directory", format_args!("`{}`: {error}", directory.display()));
            Vec::new()
        }
    };
    let scopes: Vec<Value> = files.iter().filter_map(|file| read_yaml(file, report)).collect();
    let bases = vec![directory; scopes.len()];
    replace_scopes(tree, scopes);
    bases
}

fn replace_scopes(tree: &mut Value, scopes: Vec<Value>) {
    if let Some(root) = tree.as_object_mut() {
        root.insert("scopes".to_owned(), Value::Array(scopes));
    }
}

fn yaml_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Reads `tree`; in errors, `prefix` stands before each path.
fn deserialize<T: DeserializeOwned>(
    mut tree: Value,
    prefix: &str,
    report: &mut Report,
) -> Option<T> {
    for _ in 0..MAX_ERRORS {
        let error = match serde_path_to_error::deserialize(&tree) {
            Ok(settings) => return Some(settings),
            Err(error) => error,
        };
        let mut path: Vec<Step> = error.path().iter().filter_map(step).collect();
        let message = error.inner().to_string();
        let unknown = unknown_field(&message);
        if let Some((field, _)) = unknown {
            let is_included = matches!(path.last(), Some(Step::Key(key)) if key == field);
            if !is_included {
                path.push(Step::Key(field.to_owned()));
            }
        }
        let is_of_store = matches!(path.first(), Some(Step::Key(key)) if key == "secretStores");
        let shown = prefix.to_owned()
            + &match path.split_last() {
                Some((Step::Key(key), above))
                    if unknown.is_some() && is_of_store && !is_word(key) =>
                {
                    format!("{}.(no plain name)", show(above))
                }
                _ => show(&path),
            };
        let message = match unknown {
            Some((_, known)) => unknown_key(&path, known),
            None => without_value(&message, is_of_store),
        };
        // An item that was emptied is no news.
        if !report.has(&shown) {
            report.error(shown, message);
        }
        if !take_out(&mut tree, &path) {
            return None;
        }
    }
    None
}

/// A step from a node of the tree to one below it.
#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

fn step(segment: &Segment) -> Option<Step> {
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn show(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// The name in serde's "unknown field", and the ones it lists.
fn unknown_field(message: &str) -> Option<(&str, &str)> {
    let (field, known) = message.strip_prefix("unknown field `")?.split_once('`')?;
    Some((field, known))
}

fn unknown_key(path: &[Step], known: &str) -> String {
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let Some(Step::Key(key)) = path.last() else { return "unknown key".to_owned() };
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, key), name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3));
    match nearest {
        Some((_, name)) => format!("unknown key: did you mean `{name}`?"),
        None => format!("unknown key: use one of `{}`", known.join("`, `")),
    }
}

/// Whether it can be a mistyped key, which no credential is.
fn is_word(key: &str) -> bool {
    key.len() <= 32 && key.bytes().all(|byte| byte.is_ascii_alphabetic() || b"_-".contains(&byte))
}

/// What serde says, without a text that stands where something else belongs, and in the file's words.
fn without_value(message: &str, is_of_store: bool) -> String {
    let quoting = ["invalid type: string \"", "invalid value: string \""];
    let of_variant = "unknown variant `";
    let (what, expected) = match message.rsplit_once(", expected ") {
        Some((what, expected)) if quoting.iter().any(|start| what.starts_with(start)) => {
            (what.split('"').next().unwrap_or_default().trim_end(), expected)
        }
        Some((what, expected)) if is_of_store && what.starts_with(of_variant) => {
            ("unknown variant", expected)
        }
        Some(parts) => parts,
        None => return message.to_owned(),
    };
    let expected = if expected.starts_with("struct ") { "a map" } else { expected };
    format!("{what}, expected {expected}")
}

/// Takes the node at `path` out of the tree; false if that can't be done, so that reading again
/// would not help. A list item is emptied, so that the indices of later errors stay right; one that
/// was empty already takes its list with it.
fn take_out(tree: &mut Value, path: &[Step]) -> bool {
    let Some((last, above)) = path.split_last() else { return false };
    let Some(parent) = above.iter().try_fold(&mut *tree, below) else { return false };
    match last {
        Step::Key(key) => parent.as_object_mut().is_some_and(|map| map.remove(key).is_some()),
        Step::Index(_) => match below(parent, last) {
            Some(Value::Object(map)) if map.is_empty() => take_out(tree, above),
            Some(item) => {
                *item = Value::Object(Map::new());
                true
            }
            None => false,
        },
    }
}

fn below<'a>(node: &'a mut Value, step: &Step) -> Option<&'a mut Value> {
    match step {
        Step::Key(key) => node.get_mut(key),
        Step::Index(index) => node.get_mut(index),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(tree: Value) -> String {
        let mut report = Report::default();
        let _: Option<raw::Settings> = deserialize(tree, "", &mut report);
        report.errors.join("; ")
    }

    #[test]
    fn a_misplaced_credential_is_not_quoted() {
        let stores = |auth: Value| json!({"secretStores": [{"details": {"auth": auth}}]});
        for (auth, said) in [
            (
                json!("s.3cr3t"),
                "secretStores[0].details.auth: invalid type: string, expected a map",
            ),
            (json!("a \", expected s.3cr3t"), "auth: invalid type: string, expected a map"),
            (json!({"method": "s.3cr3t"}), "auth.method: unknown variant, expected one of `token`"),
            (json!({"token:s.3cr3t": null}), "auth.(no plain name): unknown key: use one of"),
            (json!({"toke": "s.3cr3t"}), "auth.toke: unknown key: did you mean `token`?"),
            (
                json!({"token": ["s.3cr3t"]}),
                "auth.token: invalid type: sequence, expected a string",
            ),
        ] {
            let errors = errors(stores(auth));
            assert!(errors.contains(said) && !errors.contains("s.3cr3t"), "{errors}");
        }
    }
}
