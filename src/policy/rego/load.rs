//! Reading bundles and data, and compiling what they hold.
//!
//! A bundle has policies (`*.rego`, save `*_test.rego`) and data (`data.json`, `data.yaml`), whose
//! place in `data` is its directory, all within the roots of its manifest. Files are of Rego v1 or
//! v0, as a manifest says, or else as they read: what is no valid v1 and is valid v0 is v0. All that
//! is wrong is said at once.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context as Digest, SHA256};
use regorus::{CompiledPolicy, Engine, PolicyLengthConfig};
use serde_json::{Map, Value as Json};

use super::calls;
use super::footprint::Footprint;
use super::input::{self, Shape};
use super::machine::{self, Machine, brief};
use super::syntax::part;
use super::{RegoError, RegoSources};
use crate::json;
use crate::policy::bundle::{Bundle, Manifest};
use crate::request::Reads;

/// What the sources hold.
pub(super) struct Loaded {
    pub(super) machine: Machine,
    pub(super) shape: Shape,
    pub(super) reads: Option<Reads>,
    pub(super) rules: usize,
    pub(super) revision: String,
}

/// A file with the bundle it is of.
struct File<'a> {
    /// As errors call it.
    shown: String,
    /// Within the bundle.
    name: &'a str,
    bytes: &'a [u8],
    manifest: Option<&'a Manifest>,
}

impl Loaded {
    pub(super) fn read(sources: &RegoSources) -> Result<Self, Vec<RegoError>> {
        let mut errors = Vec::new();
        let query = entry(&sources.query).map_err(|error| errors.push(error)).ok();
        let bundles = open_all(&sources.files, open, &mut errors);
        let extra = open_all(&sources.data, open_data, &mut errors);
        let mut reader = Reader::new(errors);
        for (path, bundle) in &bundles {
            for (name, bytes) in bundle.files() {
                let shown = shown(path, name);
                let manifest = bundle.manifest();
                reader.file(&File { shown, name, bytes, manifest });
            }
        }
        for (name, bytes) in sources.bundle.iter().flat_map(|bundle| bundle.files()) {
            let manifest = sources.bundle.as_ref().and_then(|bundle| bundle.manifest());
            reader.file(&File { shown: name.to_owned(), name, bytes, manifest });
        }
        for (path, bundle) in &extra {
            for (name, bytes) in bundle.files() {
                let shown = path.display().to_string();
                reader.data(&File { shown, name, bytes, manifest: None }, Vec::new());
            }
        }
        reader.compile(sources, query.as_deref())
    }
}

/// A bundle, by what its path is.
fn open(path: &Path) -> Result<Bundle, RegoError> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let bundle = if path.is_dir() {
        Bundle::directory(path)
    } else if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
        Bundle::file(path).and_then(|file| {
            let bytes = file.files().next().map(|(_, bytes)| bytes).unwrap_or_default();
            Bundle::unpack(bytes)
        })
    } else if name.ends_with(".rego") {
        Bundle::file(path)
    } else {
        return Err(RegoError::Kind(path.to_owned()));
    };
    bundle.map_err(|source| RegoError::Bundle { path: path.to_owned(), source })
}

/// A data file, as a bundle of it alone.
fn open_data(path: &Path) -> Result<Bundle, RegoError> {
    Bundle::file(path).map_err(|source| RegoError::Bundle { path: path.to_owned(), source })
}

fn open_all<'a>(
    paths: &'a [PathBuf],
    open: impl Fn(&Path) -> Result<Bundle, RegoError>,
    errors: &mut Vec<RegoError>,
) -> Vec<(&'a Path, Bundle)> {
    let mut bundles = Vec::new();
    for path in paths {
        match open(path) {
            Ok(bundle) => bundles.push((path.as_path(), bundle)),
            Err(error) => errors.push(error),
        }
    }
    bundles
}

fn shown(path: &Path, name: &str) -> String {
    if path.file_name().is_some_and(|file| file.to_string_lossy() == name) && !path.is_dir() {
        path.display().to_string()
    } else {
        format!("{}/{name}", path.display())
    }
}

/// Reads files into one engine and one document of data.
struct Reader {
    engine: Engine,
    data: Map<String, Json>,
    digest: Digest,
    /// Whether a policy looks at what is ours in the input.
    placet: bool,
    errors: Vec<RegoError>,
}

impl Reader {
    fn new(errors: Vec<RegoError>) -> Self {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(false);
        engine.set_policy_length_config(length_limits());
        let digest = Digest::new(&SHA256);
        Self { engine, data: Map::new(), digest, placet: false, errors }
    }

    fn file(&mut self, file: &File<'_>) {
        let (folder, name) = file.name.rsplit_once('/').unwrap_or(("", file.name));
        if name.ends_with(".rego") && !name.ends_with("_test.rego") {
            self.policy(file);
        } else if matches!(name, "data.json" | "data.yaml" | "data.yml") {
            let folder = folder.split('/').filter(|part| !part.is_empty());
            self.data(file, folder.map(str::to_owned).collect());
        }
    }

    fn policy(&mut self, file: &File<'_>) {
        self.note(file);
        let fail = |message| RegoError::Policy { file: file.shown.clone(), message };
        let Ok(text) = str::from_utf8(file.bytes) else {
            self.errors.push(fail("it is not utf-8".to_owned()));
            return;
        };
        self.placet |= text.contains("placet");
        let version = file.manifest.and_then(|manifest| manifest.version_of(file.name));
        let mut add = |is_v0| {
            self.engine.set_rego_v0(is_v0);
            self.engine.add_policy(file.shown.clone(), text.to_owned())
        };
        let added = match version {
            Some(version) => add(version == 0),
            None => add(false).or_else(|of_v1| add(true).map_err(|_| of_v1)),
        };
        self.engine.set_rego_v0(false);
        match added {
            Err(error) => self.errors.push(fail(brief(&error))),
            Ok(_) => self.check_package(file),
        }
    }

    fn check_package(&mut self, file: &File<'_>) {
        let Some(manifest) = file.manifest else { return };
        let packages = self.engine.get_policy_package_components().unwrap_or_default();
        let own = packages.last().map(|package| package.components.clone());
        if !own.is_some_and(|package| manifest.owns(&package)) {
            self.errors.push(RegoError::Roots { file: file.shown.clone() });
        }
    }

    /// Merges what a data file holds at `place`.
    fn data(&mut self, file: &File<'_>, place: Vec<String>) {
        self.note(file);
        let is_json = file.name.ends_with(".json");
        let is_yaml = file.name.ends_with(".yaml") || file.name.ends_with(".yml");
        let fail = |message| RegoError::Data { file: file.shown.clone(), message };
        let value = match (is_json, is_yaml) {
            (true, _) => json::value(file.bytes).map_err(|fault| format!("it {fault}")),
            (_, true) => yaml_serde::from_slice::<Json>(file.bytes)
                .map_err(|error| error.to_string().replace(['\n', '\r'], " ")),
            _ => Err("its name ends in neither `.json` nor `.yaml`".to_owned()),
        };
        let value = match value {
            Ok(value @ Json::Object(_)) => value,
            Ok(value) if !place.is_empty() => value,
            Ok(_) => return self.errors.push(fail("it is not an object".to_owned())),
            Err(message) => return self.errors.push(fail(message)),
        };
        if let Some(manifest) = file.manifest
            && !is_owned(manifest, &place, &value)
        {
            return self.errors.push(RegoError::Roots { file: file.shown.clone() });
        }
        let nested = place
            .iter()
            .rev()
            .fold(value, |value, name| Json::Object(Map::from_iter([(name.clone(), value)])));
        let mut at = Vec::new();
        if let Json::Object(fields) = nested
            && merge(&mut self.data, fields, &mut at).is_err()
        {
            let (file, path) = (file.shown.clone(), at.join("/"));
            self.errors.push(RegoError::Conflict { file, path });
        }
    }

    fn note(&mut self, file: &File<'_>) {
        for bytes in [file.name.as_bytes(), file.bytes] {
            self.digest.update(&bytes.len().to_be_bytes());
            self.digest.update(bytes);
        }
    }

    fn compile(
        mut self,
        sources: &RegoSources,
        query: Option<&str>,
    ) -> Result<Loaded, Vec<RegoError>> {
        let Some(query) = query.filter(|_| self.errors.is_empty()) else {
            return Err(self.errors);
        };
        let data = Json::Object(std::mem::take(&mut self.data));
        let (policy, trees) = compiled(&mut self.engine, query, &data)
            .map_err(|message| vec![RegoError::Compile(message)])?;
        let rules: BTreeSet<String> = policy.get_rules().keys().cloned().collect();
        let called = calls::check(&trees, &rules, &mut self.errors);
        if let Some(path) = clash("data", &data, &rules) {
            self.errors.push(RegoError::DataOfRule { path });
        }
        if !names_a_rule(query, &rules) {
            self.errors.push(RegoError::NoRule(sources.query.clone()));
        }
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        self.digest.update(query.as_bytes());
        let descriptors = sources.descriptors.clone();
        if let Some(descriptors) = &descriptors {
            self.digest.update(descriptors.bytes());
        }
        let digest = self.digest.finish();
        let count = policy.get_rules().iter().filter(|(path, _)| *path != machine::ENTRY);
        let rules = count.map(|(_, definitions)| definitions.len()).sum();
        let only_true = calls::only_true(&trees);
        let footprint = Footprint::of(&trees);
        // A body that is parsed is judged, whether policies look at it or not.
        let parse_body = sources.parse_body;
        let reads =
            footprint.reads().map(|reads| Reads { body: reads.body || parse_body, ..reads });
        Ok(Loaded {
            machine: Machine::new(self.engine, policy, &called, &only_true),
            shape: Shape { parse_body, descriptors, placet: self.placet },
            reads,
            rules,
            revision: digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect(),
        })
    }
}

/// Adds the rule that stands for the query, and compiles all; gives the syntax trees too.
fn compiled(
    engine: &mut Engine,
    query: &str,
    data: &Json,
) -> Result<(CompiledPolicy, Vec<Json>), String> {
    let name = machine::ENTRY.trim_start_matches("data.placet_entry.");
    let text = format!("package placet_entry\n\n{name} := {query}\n");
    engine.add_policy("query".to_owned(), text).map_err(|error| brief(&error))?;
    engine.add_data(input::value(data)).map_err(|error| brief(&error))?;
    let policy = engine.compile_with_entrypoint(&machine::ENTRY.into());
    let policy = policy.map_err(|error| brief(&error))?;
    let trees = engine.get_ast_as_json().map_err(|error| brief(&error))?;
    let trees = serde_json::from_str(&trees).map_err(|error| brief(&error))?;
    Ok((policy, trees))
}

/// The path that is both a rule's and in the data, which would stand in for the rule.
fn clash(path: &str, value: &Json, rules: &BTreeSet<String>) -> Option<String> {
    if rules.contains(path) {
        return Some(path.to_owned());
    }
    let mut fields = value.as_object()?.iter();
    fields.find_map(|(name, value)| clash(&(path.to_owned() + &part(name)), value, rules))
}

/// `envoy/authz/allow` as Rego writes it: `data.envoy.authz.allow`.
fn entry(query: &str) -> Result<String, RegoError> {
    let parts: Vec<&str> = query.trim_matches('/').split('/').collect();
    if parts.iter().any(|part| part.is_empty() || part.chars().any(char::is_control)) {
        return Err(RegoError::Query(query.to_owned()));
    }
    Ok(parts.into_iter().fold("data".to_owned(), |path, name| path + &part(name)))
}

/// Whether `query` is a rule, or above or below one.
fn names_a_rule(query: &str, rules: &BTreeSet<String>) -> bool {
    let is_within = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let mut rules = rules.iter().filter(|rule| *rule != machine::ENTRY);
    rules.any(|rule| is_within(rule, query) || is_within(query, rule))
}

/// Whether all that `value` puts under `place` is within the manifest's roots.
fn is_owned(manifest: &Manifest, place: &[String], value: &Json) -> bool {
    if manifest.owns(place) {
        return true;
    }
    match value {
        Json::Object(fields) => fields.iter().all(|(name, value)| {
            let mut inner = place.to_vec();
            inner.push(name.clone());
            is_owned(manifest, &inner, value)
        }),
        _ => false,
    }
}

/// Adds `more`; an `Err` leaves the path that has two values in `at`.
fn merge(
    fields: &mut Map<String, Json>,
    more: Map<String, Json>,
    at: &mut Vec<String>,
) -> Result<(), ()> {
    for (name, value) in more {
        at.push(name.clone());
        match (fields.get_mut(&name), value) {
            (None, value) => {
                fields.insert(name, value);
            }
            (Some(Json::Object(old)), Json::Object(new)) => merge(old, new, at)?,
            (Some(_), _) => return Err(()),
        }
        at.pop();
    }
    Ok(())
}

/// A bundle is bounded as a whole; regorus' own limits are for smaller policies than there are.
fn length_limits() -> PolicyLengthConfig {
    PolicyLengthConfig {
        max_col: NonZeroU32::MAX,
        max_file_bytes: NonZeroUsize::MAX,
        max_lines: NonZeroUsize::MAX,
    }
}
