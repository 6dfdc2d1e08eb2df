//! For sidecars: a ConfigMap in each namespace that has scopes, secret stores or policies as objects. It holds
//! the settings that the namespace's pods start with, and beside them the authorities of the control plane
//! that those settings name.
//!
//! One of the same name that somebody else made stays as it is, and so does one that was made immutable. One
//! that is there is kept up to date even when the objects have gone: pods may still mount it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;

use super::CertificateError;
use super::publication::{self, MANAGER, Publication, Write, api, outcome, writer};

/// What is done where there is none.
const CREATE: &str = "create the ConfigMap";

/// Says whose they are.
const LABEL: &str = "app.kubernetes.io/managed-by";

/// The file of the settings.
pub(in crate::control) const SETTINGS: &str = "placet.yaml";

/// The file of the authorities, beside the settings.
pub(in crate::control) const AUTHORITIES: &str = "ca.pem";

/// The ConfigMaps.
pub struct ConfigMaps {
    client: Client,
    name: String,
    settings: String,
    /// Those that may be looked at; none named: all.
    reach: BTreeSet<String>,
    /// Those that have objects; `None`: not known yet.
    namespaces: watch::Receiver<Option<BTreeSet<String>>>,
}

/// What is there.
pub struct Seen {
    is_known: bool,
    ours: BTreeMap<String, ConfigMap>,
    /// Namespaces that have none.
    missing: BTreeSet<String>,
    settings: String,
}

impl ConfigMaps {
    /// Those called `name`, in the `namespaces` that have objects, of those in `reach`; they hold `settings`.
    pub fn new(
        client: Client,
        name: &str,
        settings: String,
        reach: &BTreeSet<String>,
        namespaces: watch::Receiver<Option<BTreeSet<String>>>,
    ) -> Self {
        Self { client, name: name.to_owned(), settings, reach: reach.clone(), namespaces }
    }

    fn in_reach(&self) -> Vec<Api<ConfigMap>> {
        if self.reach.is_empty() {
            return vec![Api::all(self.client.clone())];
        }
        let api = |namespace: &String| Api::namespaced(self.client.clone(), namespace);
        self.reach.iter().map(api).collect()
    }

    /// The namespaces that have one, whoever's it is.
    async fn taken(&self) -> Result<BTreeSet<String>, CertificateError> {
        let (mut taken, named) = (BTreeSet::new(), self.named());
        for maps in self.in_reach() {
            let listed = maps.list_metadata(&named).await;
            let listed = listed.map_err(|error| api("list the ConfigMaps", &self.name, error))?;
            taken.extend(listed.items.iter().filter_map(|it| it.namespace()));
        }
        Ok(taken)
    }

    async fn ours(&self) -> Result<BTreeMap<String, ConfigMap>, CertificateError> {
        let (mut ours, labelled) =
            (BTreeMap::new(), self.named().labels(&format!("{LABEL}={MANAGER}")));
        for maps in self.in_reach() {
            let listed = maps.list(&labelled).await;
            let listed = listed.map_err(|error| api("list the ConfigMaps", &self.name, error))?;
            let writable = listed.items.into_iter().filter(|it| it.immutable != Some(true));
            ours.extend(writable.filter_map(|it| Some((it.namespace()?, it))));
        }
        Ok(ours)
    }

    /// By its name, as the grant is.
    fn named(&self) -> ListParams {
        ListParams::default().fields(&format!("metadata.name={}", self.name))
    }

    async fn write(
        &self,
        namespace: &str,
        before: Option<&ConfigMap>,
        data: BTreeMap<String, String>,
    ) -> Result<Write, CertificateError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let mut map = before.cloned().unwrap_or_default();
        map.data = Some(data);
        map.metadata.name = Some(self.name.clone());
        map.labels_mut().insert(LABEL.to_owned(), MANAGER.to_owned());
        let place = format!("{namespace}/{}", self.name);
        match before {
            None => match maps.create(&writer(), &map).await {
                // The namespace has gone, and its objects will have soon.
                Err(error) if is_not_found(&error) => Err(api(CREATE, &place, error)),
                created => outcome(created, CREATE, &place),
            },
            Some(_) => {
                let replaced = maps.replace(&self.name, &writer(), &map).await;
                outcome(replaced, "update the ConfigMap", &place)
            }
        }
    }
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

impl Publication for ConfigMaps {
    type Seen = Seen;

    async fn seen(&self) -> Result<Seen, CertificateError> {
        let namespaces = self.namespaces.borrow().clone();
        let (taken, ours) = (self.taken().await?, self.ours().await?);
        let missing = namespaces.iter().flatten().filter(|it| !taken.contains(*it));
        Ok(Seen {
            is_known: namespaces.is_some(),
            ours,
            missing: missing.cloned().collect(),
            settings: self.settings.clone(),
        })
    }

    /// A namespace in which it fails keeps no other from being told.
    async fn publish(&self, seen: &Seen, bundle: &str) -> Result<Write, CertificateError> {
        let mut result = Ok(Write::Done);
        for namespace in seen.to_be_told(bundle) {
            let before = seen.ours.get(namespace);
            match self.write(namespace, before, seen.data(bundle)).await {
                Ok(Write::Done) if before.is_none() => {
                    tracing::info!(namespace, name = self.name, "its pods have their settings");
                }
                Ok(Write::Done) => {}
                Ok(Write::Conflict) if result.is_ok() => result = Ok(Write::Conflict),
                Ok(Write::Conflict) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    async fn wanted(&mut self) {
        if self.namespaces.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Seen {
    fn data(&self, bundle: &str) -> BTreeMap<String, String> {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        BTreeMap::from([file(SETTINGS, &self.settings), file(AUTHORITIES, bundle)])
    }

    /// The namespaces where it is not `bundle`.
    fn to_be_told(&self, bundle: &str) -> impl Iterator<Item = &String> {
        let data = Some(self.data(bundle));
        let changed = self.ours.iter().filter(move |(_, map)| map.data != data);
        changed.map(|(namespace, _)| namespace).chain(&self.missing)
    }
}

impl publication::Seen for Seen {
    fn has(&self, authority: &str) -> bool {
        let has = |map: &ConfigMap| {
            let bundle = map.data.as_ref().and_then(|data| data.get(AUTHORITIES));
            bundle.is_some_and(|bundle| bundle.contains(authority.trim()))
        };
        self.is_known && self.ours.values().all(has)
    }

    fn is(&self, bundle: &str) -> bool {
        !self.is_known || self.to_be_told(bundle).next().is_none()
    }
}
