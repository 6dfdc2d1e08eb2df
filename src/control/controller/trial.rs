//! One try: the settings that a choice of objects makes, judged as `placet validate` judges a file.
//!
//! They are written to a folder of their own and read by [`crate::config`], as the sidecar will read them.
//! Nothing is fetched, no secret store is asked, and nothing outside of that folder is read. What is wrong is
//! said of the object that it is about.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::files::{self, Files, SETTINGS};
use super::object::{Key, Kind, Object, Objects};
use crate::config::Config;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Trial {
    files: Files,
    /// What is wrong with an object, a line each.
    pub(super) faults: BTreeMap<Key, Vec<String>>,
    /// What is wrong with an object beside another.
    pub(super) between: BTreeMap<Key, Vec<String>>,
    /// What is wrong with the objects of a kind together.
    pub(super) together: Vec<(Kind, String)>,
    /// What is allowed and worth a second look.
    pub(super) warnings: BTreeMap<Key, Vec<String>>,
}

impl Trial {
    /// Judges `objects`, of which some are in force already, as they are in `good`.
    ///
    /// # Errors
    /// If this machine can't write or read files, which is no object's fault.
    pub(super) fn of(objects: &Objects, good: &Objects) -> io::Result<Self> {
        let mut trial = Self::default();
        let bundles = trial.bundles(objects);
        let order = Order::of(objects, good);
        for key in order.stores.iter().chain(&order.scopes) {
            if let Some(object) = objects.get(key) {
                trial.add_files(key, object, &bundles);
            }
        }
        if order.stores.is_empty() {
            let what = "there is no SecretStore that is ready: add one with `default: true`, or put it right";
            order.scopes.iter().for_each(|scope| trial.fault(scope, format!("spec: {what}")));
        }
        trial.files.insert(SETTINGS.to_owned(), settings(objects, &order)?);
        trial.validate(&order)?;
        Ok(trial)
    }

    /// The files that the sidecars need: the same of every replica, whatever was in force there.
    pub(super) fn into_files(mut self, objects: &Objects) -> io::Result<Files> {
        let order = Order::of(objects, &Objects::new());
        self.files.insert(SETTINGS.to_owned(), settings(objects, &order)?);
        Ok(self.files)
    }

    pub(super) fn is_good(&self) -> bool {
        self.faults.is_empty() && self.between.is_empty() && self.together.is_empty()
    }

    fn fault(&mut self, key: &Key, line: String) {
        self.faults.entry(key.clone()).or_default().push(line);
    }

    fn bundles<'a>(&mut self, objects: &'a Objects) -> BTreeMap<&'a str, Files> {
        let mut bundles = BTreeMap::new();
        for (key, object) in objects.iter().filter(|(key, _)| key.kind == Kind::PolicyBundle) {
            if key.name == SETTINGS {
                self.fault(
                    key,
                    "metadata.name: is that of the settings: choose another".to_owned(),
                );
                continue;
            }
            match files::of_bundle(object.spec()) {
                Ok(files) => drop(bundles.insert(key.name.as_str(), files)),
                Err(faults) => faults.into_iter().for_each(|fault| self.fault(key, fault)),
            }
        }
        bundles
    }

    /// The files that the object names.
    fn add_files(&mut self, key: &Key, object: &Object, bundles: &BTreeMap<&str, Files>) {
        if !object.spec().is_object() {
            self.fault(key, "spec: must be a map of settings".to_owned());
        }
        for named in files::named(object.spec()) {
            match named.find(bundles) {
                Ok(found) => self.files.extend(found),
                Err(problem) => self.fault(key, format!("spec.{}: {problem}", named.setting)),
            }
        }
    }

    fn validate(&mut self, order: &Order) -> io::Result<()> {
        let folder = tempfile::Builder::new().prefix("placet-").tempdir()?;
        write(&self.files, folder.path())?;
        let (errors, warnings) =
            match Config::load_for_another_machine(&folder.path().join(SETTINGS)) {
                Ok(config) => (Vec::new(), config.warnings),
                Err(errors) => (errors.iter().map(str::to_owned).collect(), Vec::new()),
            };
        let shown = format!("{}/", folder.path().display());
        for line in errors {
            match order.place(&line.replace(&shown, "")) {
                // What a file that is not there leads to is no news.
                Placed::At(key, line)
                    if self.faults.contains_key(key) && line.contains("can't read") => {}
                Placed::At(key, line) => self.fault(key, line),
                Placed::Beside(key, line) => {
                    self.between.entry(key.clone()).or_default().push(line);
                }
                Placed::Together(Kind::Scope, _) if order.scopes.is_empty() => {}
                Placed::Together(Kind::SecretStore, _) if order.stores.is_empty() => {}
                Placed::Together(kind, line) => self.together.push((kind, line)),
            }
        }
        for line in warnings {
            if let Placed::At(key, line) = order.place(&line.replace(&shown, "")) {
                self.warnings.entry(key.clone()).or_default().push(line);
            }
        }
        Ok(())
    }
}

/// A line of a sidecar that was sent `objects`, with their names in place of numbers.
pub(super) fn in_words_of_objects(objects: &Objects, line: &str) -> String {
    let order = Order::of(objects, &Objects::new());
    let lists = [("scopes", &order.scopes), ("secretStores", &order.stores)];
    let mut line = line.to_owned();
    for (list, keys) in lists {
        for (index, key) in keys.iter().enumerate() {
            line = line.replace(&format!("snapshot.{list}[{index}]"), &format!("{key}: spec"));
        }
    }
    line
}

/// In which order the objects stand in the settings.
#[derive(Debug)]
struct Order {
    stores: Vec<Key>,
    scopes: Vec<Key>,
}

/// Of which object, or objects, a line is.
enum Placed<'a> {
    At(&'a Key, String),
    Beside(&'a Key, String),
    Together(Kind, String),
}

impl Order {
    /// What is in force first, then what is older: of two scopes that can't be together it is the second that
    /// is wrong.
    fn of(objects: &Objects, good: &Objects) -> Self {
        let of = |kind| objects.iter().filter(move |(key, _)| key.kind == kind);
        let mut scopes: Vec<(&Key, &Object)> = of(Kind::Scope).collect();
        let is_new = |key: &Key, object: &Object| {
            good.get(key).is_none_or(|good| good.version() != object.version())
        };
        scopes.sort_by_key(|(key, object)| (is_new(key, object), object.age(), key.name.clone()));
        Self {
            stores: of(Kind::SecretStore).map(|(key, _)| key.clone()).collect(),
            scopes: scopes.into_iter().map(|(key, _)| key.clone()).collect(),
        }
    }

    fn place(&self, line: &str) -> Placed<'_> {
        let (path, message) = line.split_once(": ").unwrap_or(("", line));
        let written = message;
        let message = self.in_words_of_objects(written);
        for (list, keys) in [("scopes[", &self.scopes), ("secretStores[", &self.stores)] {
            let Some((index, rest)) = path.strip_prefix(list).and_then(|it| it.split_once(']'))
            else {
                continue;
            };
            if let Some(key) = index.parse().ok().and_then(|index: usize| keys.get(index)) {
                let line = format!("spec{rest}: {message}");
                let is_alone = message == written;
                return if is_alone { Placed::At(key, line) } else { Placed::Beside(key, line) };
            }
        }
        if path != "secretStores" {
            return Placed::Together(Kind::Scope, message);
        }
        let store = message.strip_prefix("secret store `").and_then(|rest| rest.split_once("`: "));
        let found = store.and_then(|(id, problem)| {
            Some((self.stores.iter().find(|key| key.name == id)?, problem))
        });
        match found {
            Some((key, problem)) => Placed::At(key, format!("spec.details: {problem}")),
            None => Placed::Together(Kind::SecretStore, message),
        }
    }

    /// Names the scopes that it counts.
    fn in_words_of_objects(&self, message: &str) -> String {
        let mut message = message.to_owned();
        for (index, key) in self.scopes.iter().enumerate() {
            message = message.replace(&format!("scopes[{index}]"), &key.to_string());
        }
        message
    }
}

/// `placet.yaml`, with `secretStores` and `scopes` alone.
fn settings(objects: &Objects, order: &Order) -> io::Result<Bytes> {
    let spec = |key: &Key| {
        let spec = objects.get(key).and_then(|object| object.spec().as_object());
        spec.cloned().unwrap_or_default()
    };
    let store = |key: &Key| {
        let mut entry = Map::from_iter([("id".to_owned(), key.name.as_str().into())]);
        entry.extend(spec(key).into_iter().filter(|(name, _)| name != "id"));
        Value::Object(entry)
    };
    let stores: Vec<Value> = order.stores.iter().map(store).collect();
    let scopes: Vec<Value> = order.scopes.iter().map(|key| spec(key).into()).collect();
    let text = yaml_serde::to_string(&json!({"secretStores": stores, "scopes": scopes}));
    text.map(Bytes::from).map_err(io::Error::other)
}

fn write(files: &Files, folder: &Path) -> io::Result<()> {
    for (name, content) in files {
        let path = folder.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, content)?;
    }
    Ok(())
}
