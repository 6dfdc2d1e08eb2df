//! What a pod lacks to have Placet beside its proxy, as a JSON Patch (RFC 6902).
//!
//! Only `add` is used: nothing that is there is changed, moved or removed, and each part is added only
//! where it is missing. So a patched pod needs no more patch, and one that gets its proxy later, from
//! another webhook, is completed when it is asked about again. A pod that asks for Placet and can't have it
//! is an error that says what to change, never a pod without it.

mod fields;
pub mod manifest;
mod sidecar;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use serde_json::{Value, json};

pub(super) use self::fields::object_name;
use self::fields::{ANNOTATIONS, INJECT, STATUS};
pub use self::fields::{Field, Injection};

/// The container's name.
pub const CONTAINER: &str = "placet";

/// The volume of the socket that the proxy asks over, and where it is mounted.
pub(super) const SOCKET: (&str, &str) = ("placet-socket", "/run/placet");

/// The volume of the settings, and where it is mounted.
const SETTINGS: (&str, &str) = ("placet-settings", "/etc/placet");

/// The volume of the tokens that are shown to Vault and to the control plane, and where it is mounted.
pub(super) const TOKEN: (&str, &str) = ("placet-token", "/var/run/secrets/placet");

/// The volume of what the control plane sent, and where it is mounted.
pub(super) const SNAPSHOTS: (&str, &str) = ("placet-snapshots", "/var/lib/placet");

/// What becomes of a pod.
#[derive(Debug)]
pub enum Outcome {
    /// It gets what it lacks.
    Patched {
        /// The additions; none if it lacks nothing.
        patch: Patch,
        /// What its owner should know.
        warnings: Vec<String>,
    },
    /// It stays as it is, for this reason.
    Skipped(&'static str),
}

/// Why a pod that asks for Placet can't have it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum InjectError {
    #[error("annotation `{name}`: {problem}")]
    Annotation { name: String, problem: String },
    #[error("label `{INJECT}`: `{0}` is neither `true` nor `false`: write one of them")]
    Label(String),
    #[error("`{0}` is not what Kubernetes has there: write the pod as its API says")]
    Shape(String),
    #[error("container `{CONTAINER}` is not Placet's (it doesn't mount `{}`): rename it, or opt out with the annotation `{INJECT}: \"false\"`", SOCKET.0)]
    NameTaken,
    #[error("container `{container}` mounts another volume at `{}`, where the proxy finds Placet: mount that elsewhere", SOCKET.1)]
    MountTaken { container: String },
    #[error("{0}: remove the label `{INJECT}`")]
    Unfit(&'static str),
    #[error(
        "this pod would never finish with Placet as an ordinary container: set nativeSidecar: true (Kubernetes 1.29 and later), or opt out with the annotation `{INJECT}: \"false\"`"
    )]
    NeverFinishes,
}

const HOST_NETWORK: &str = "a pod in the host's network would show Placet's admin port to others on the node, and two such pods would want one port";

const WINDOWS: &str = "Placet doesn't run on Windows";

/// What `pod` (or a pod template) lacks, if it is to have Placet; that its namespace or label asks for it is
/// whoever calls' to know.
///
/// # Errors
/// All that keeps it from having what it asks for.
pub fn inject(pod: &Value, injection: &Injection) -> Result<Outcome, Vec<InjectError>> {
    let asks = label(pod).map_err(|error| vec![error])?;
    let opts_out = opts_out(pod).map_err(|error| vec![error])?;
    if opts_out || asks == Some(false) {
        return Ok(Outcome::Skipped("it opts out"));
    }
    if annotation(pod, "kubernetes.io/config.mirror").is_some() {
        return Ok(Outcome::Skipped("it is the mirror of a static pod"));
    }
    if let Some(why) = unfit(pod) {
        // Whoever labels a whole namespace did not mean this pod; whoever labels the pod did.
        return match asks {
            Some(true) => Err(vec![InjectError::Unfit(why)]),
            _ => Ok(Outcome::Skipped(why)),
        };
    }
    let injection = overridden(pod, injection)?;
    complete(pod, &injection).map_err(|error| vec![error])
}

/// The pod's own label, if it has one.
fn label(pod: &Value) -> Result<Option<bool>, InjectError> {
    match pod.pointer("/metadata/labels").and_then(|labels| labels.get(INJECT)) {
        None => Ok(None),
        Some(Value::String(text)) if text == "true" => Ok(Some(true)),
        Some(Value::String(text)) if text == "false" => Ok(Some(false)),
        Some(other) => Err(InjectError::Label(text_of(other))),
    }
}

fn opts_out(pod: &Value) -> Result<bool, InjectError> {
    match annotation(pod, INJECT) {
        None => Ok(false),
        Some(Value::String(text)) if text == "true" => Ok(false),
        Some(Value::String(text)) if text == "false" => Ok(true),
        Some(other) => Err(InjectError::Annotation {
            name: INJECT.to_owned(),
            problem: format!(
                "`{}` is neither `true` nor `false`: write one of them",
                text_of(other)
            ),
        }),
    }
}

fn unfit(pod: &Value) -> Option<&'static str> {
    let spec = pod.get("spec")?;
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        return Some(HOST_NETWORK);
    }
    let selector = spec.get("nodeSelector").and_then(|labels| labels.get("kubernetes.io/os"));
    let named = [spec.pointer("/os/name"), selector];
    named.into_iter().flatten().any(|os| os == "windows").then_some(WINDOWS)
}

/// `injection` as the pod's annotations will have it.
fn overridden(pod: &Value, injection: &Injection) -> Result<Injection, Vec<InjectError>> {
    let mut injection = injection.clone();
    let mut errors = Vec::new();
    let mut wrong = |name: &str, problem| {
        errors.push(InjectError::Annotation { name: name.to_owned(), problem });
    };
    let annotations = pod.pointer("/metadata/annotations").and_then(Value::as_object);
    let ours = annotations.into_iter().flatten();
    for (name, value) in ours.filter(|(name, _)| name.starts_with(ANNOTATIONS)) {
        if name == INJECT || name == STATUS {
            continue;
        }
        let Some(field) = Field::ALL.into_iter().find(|field| *name == field.annotation()) else {
            wrong(name, Field::none_is_called(name));
            continue;
        };
        let set = value.as_str().ok_or_else(|| "is no text: quote it".to_owned());
        if let Err(problem) = set.and_then(|text| injection.set(field, text)) {
            wrong(name, problem);
        }
    }
    if let Err((field, problem)) = injection.check_together() {
        wrong(&field.annotation(), problem);
    }
    if errors.is_empty() { Ok(injection) } else { Err(errors) }
}

fn complete(pod: &Value, injection: &Injection) -> Result<Outcome, InjectError> {
    if !pod.get("spec").is_some_and(Value::is_object) {
        return Err(InjectError::Shape("spec".to_owned()));
    }
    let mut edit = Edit { pod: pod.clone(), patch: Vec::new() };
    add_sidecar(&mut edit, injection)?;
    add_volumes(&mut edit, injection)?;
    let proxies = add_mounts(&mut edit, injection)?;
    add_group(&mut edit, injection.group)?;
    if annotation(&edit.pod, STATUS).is_none() {
        edit.object(&["metadata"])?;
        edit.object(&["metadata", "annotations"])?;
        edit.add(&["metadata", "annotations", STATUS], json!("injected"))?;
    }
    let mut warnings = Vec::new();
    if proxies == 0 {
        warnings.push(format!(
            "no container is called `{}`: name the proxy in the annotation `{}`, unless it is added later",
            injection.proxies.join("` or `"),
            Field::Proxies.annotation(),
        ));
    }
    Ok(Outcome::Patched { patch: Patch(edit.patch), warnings })
}

/// Native: first of all, so that what comes after finds it ready. Else last, so that the first container
/// stays the one that `kubectl logs` shows.
fn add_sidecar(edit: &mut Edit, injection: &Injection) -> Result<(), InjectError> {
    for list in ["initContainers", "containers"] {
        if let Some(taken) = edit.list(&["spec", list])?.iter().find(|it| it["name"] == CONTAINER) {
            return if mounts(taken).any(|mount| mount["name"] == SOCKET.0) {
                Ok(())
            } else {
                Err(InjectError::NameTaken)
            };
        }
    }
    let has_pod_resources = edit.pod.pointer("/spec/resources").is_some_and(|it| !it.is_null());
    let container = sidecar::container(injection, has_pod_resources);
    if injection.is_native {
        if edit.list(&["spec", "initContainers"])?.is_empty() {
            edit.push(&["spec", "initContainers"], container)
        } else {
            edit.add(&["spec", "initContainers", "0"], container)
        }
    } else {
        let restart = edit.pod.pointer("/spec/restartPolicy").and_then(Value::as_str);
        if restart.is_some_and(|policy| policy != "Always") {
            return Err(InjectError::NeverFinishes);
        }
        edit.push(&["spec", "containers"], container)
    }
}

fn add_volumes(edit: &mut Edit, injection: &Injection) -> Result<(), InjectError> {
    for volume in sidecar::volumes(injection) {
        let volumes = edit.list(&["spec", "volumes"])?;
        if !volumes.iter().any(|it| it.get("name") == volume.get("name")) {
            edit.push(&["spec", "volumes"], volume)?;
        }
    }
    Ok(())
}

/// The proxies get the socket, and no other container does. Returns how many there are.
fn add_mounts(edit: &mut Edit, injection: &Injection) -> Result<usize, InjectError> {
    let mut found = 0;
    for list in ["initContainers", "containers"] {
        let containers = edit.list(&["spec", list])?.to_vec();
        for (index, container) in containers.iter().enumerate() {
            let name = container["name"].as_str().unwrap_or_default();
            if !injection.proxies.iter().any(|proxy| proxy == name) {
                continue;
            }
            found += 1;
            if mounts(container).any(|mount| mount["name"] == SOCKET.0) {
                continue;
            }
            let is_there = |mount: &Value| {
                mount["mountPath"]
                    .as_str()
                    .is_some_and(|path| path.trim_end_matches('/') == SOCKET.1)
            };
            if mounts(container).any(is_there) {
                return Err(InjectError::MountTaken { container: name.to_owned() });
            }
            let mount = json!({"name": SOCKET.0, "mountPath": SOCKET.1, "readOnly": true});
            edit.push(&["spec", list, &index.to_string(), "volumeMounts"], mount)?;
        }
    }
    Ok(found)
}

/// The socket's group: the proxy runs as whatever user its image has.
fn add_group(edit: &mut Edit, group: u32) -> Result<(), InjectError> {
    let groups = ["spec", "securityContext", "supplementalGroups"];
    edit.object(&["spec", "securityContext"])?;
    if edit.list(&groups)?.contains(&json!(group)) {
        return Ok(());
    }
    edit.push(&groups, json!(group))
}

fn annotation<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    pod.pointer("/metadata/annotations")?.get(name)
}

fn mounts(container: &Value) -> impl Iterator<Item = &Value> {
    container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten()
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A pod, and what was added to it so far.
struct Edit {
    pod: Value,
    patch: Vec<PatchOperation>,
}

impl Edit {
    /// The list at `path`; what is absent or null is empty.
    fn list(&self, path: &[&str]) -> Result<&[Value], InjectError> {
        match path.iter().try_fold(&self.pod, |value, key| at(value, key)) {
            None | Some(Value::Null) => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(InjectError::Shape(path.join("."))),
        }
    }

    /// Makes sure that there is an object at `path`.
    fn object(&mut self, path: &[&str]) -> Result<(), InjectError> {
        match path.iter().try_fold(&self.pod, |value, key| at(value, key)) {
            Some(Value::Object(_)) => Ok(()),
            None | Some(Value::Null) => self.add(path, json!({})),
            Some(_) => Err(InjectError::Shape(path.join("."))),
        }
    }

    /// Adds `value` to the end of the list at `path`, or makes it the list's only item.
    fn push(&mut self, path: &[&str], value: Value) -> Result<(), InjectError> {
        if self.list(path)?.is_empty() {
            return self.add(path, json!([value]));
        }
        let end: Vec<&str> = path.iter().copied().chain(["-"]).collect();
        self.add(&end, value)
    }

    fn add(&mut self, path: &[&str], value: Value) -> Result<(), InjectError> {
        let operation = AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value };
        let operation = PatchOperation::Add(operation);
        json_patch::patch(&mut self.pod, std::slice::from_ref(&operation))
            .map_err(|_| InjectError::Shape(path.join(".")))?;
        self.patch.push(operation);
        Ok(())
    }
}

fn at<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        other => other.get(key),
    }
}

#[cfg(test)]
mod tests;
