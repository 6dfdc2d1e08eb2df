//! An object as the API server has it, and what of it counts here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kube::api::{ApiResource, DynamicObject};
use kube::core::CustomResourceExt as _;
use serde_json::Value;

use crate::control::resources::{PolicyBundle, Scope, SecretStore, Status};

/// The kinds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    PolicyBundle,
    SecretStore,
    Scope,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::PolicyBundle, Self::SecretStore, Self::Scope];

    pub(super) fn resource(self) -> ApiResource {
        match self {
            Self::PolicyBundle => PolicyBundle::api_resource(),
            Self::SecretStore => SecretStore::api_resource(),
            Self::Scope => Scope::api_resource(),
        }
    }
}

/// Which object of a namespace.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(kind: Kind, name: &str) -> Self {
        Self { kind, name: name.to_owned() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} `{}`", self.kind, self.name)
    }
}

/// The objects of one namespace.
pub(super) type Objects = BTreeMap<Key, Object>;

/// An object; a clone is the same one.
#[derive(Clone, Debug)]
pub(super) struct Object(Arc<DynamicObject>);

impl Object {
    pub(super) fn new(object: Arc<DynamicObject>) -> Self {
        Self(object)
    }

    pub(super) fn spec(&self) -> &Value {
        self.0.data.get("spec").unwrap_or(&Value::Null)
    }

    /// What was said of it; nothing, where that can't be read.
    pub(super) fn status(&self) -> Status {
        let status = self.0.data.get("status").cloned().unwrap_or_default();
        serde_json::from_value(status).unwrap_or_default()
    }

    /// Changes with the spec.
    pub(super) fn generation(&self) -> i64 {
        self.0.metadata.generation.unwrap_or_default()
    }

    /// Changes with anything.
    pub(super) fn resource_version(&self) -> Option<&str> {
        self.0.metadata.resource_version.as_deref()
    }

    /// Which spec of which object: another one of the same name is another.
    pub(super) fn version(&self) -> Version {
        (self.0.metadata.uid.clone().unwrap_or_default(), self.generation())
    }

    /// What objects are put in order by: the same for every replica.
    pub(super) fn age(&self) -> impl Copy + Ord + use<> {
        self.0.metadata.creation_timestamp.as_ref().map(|time| time.0)
    }
}

/// [`Object::version`].
pub(super) type Version = (String, i64);
