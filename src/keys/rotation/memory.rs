//! What the loop knows: the versions it has loaded, and which one signs.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::order::{Order, OrderError};
use super::plan::{Plan, Version};
use super::{Backend, KeySource, LoadError};
use crate::clock::Timestamp;
use crate::keys::{KeyError, KeyRing, KeySettings, SigningKey};
use crate::secrets::{KeyMaterial, TransitKey, TransitVersion, Version as Listed};

/// Only this many of the newest versions are looked at.
const MAX_VERSIONS: usize = 20;

/// The loaded versions of one key.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// In ascending order of their numbers.
    loaded: Vec<Loaded>,
    /// Versions that are of no use: no longer needed, or the bytes of an earlier one.
    passed_over: BTreeSet<u64>,
    /// The newest version a look has shown.
    newest: Option<Version>,
    signing: Option<u64>,
    /// Versions that were seen to stop signing, and when.
    stopped: Vec<(u64, Timestamp)>,
    last_success: Option<Timestamp>,
    /// The same by a clock that nobody sets: a wall clock that is set back prolongs nothing.
    succeeded: Option<Instant>,
    /// The thumbprints of keys that an operator withdrew: no version brings them back.
    withdrawn: Withdrawn,
}

/// What an operator withdrew; kept also when the settings make another key of the scope's.
#[derive(Clone, Debug, Default)]
pub(super) struct Withdrawn(Arc<Mutex<HashSet<String>>>);

impl Withdrawn {
    fn has(&self, key: &SigningKey) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(key.thumbprint())
    }

    fn add(&self, thumbprint: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(thumbprint);
    }
}

/// What a look found that does not stop the other versions.
#[derive(Debug, Default)]
struct Faults {
    /// The certificate in the settings is for another version.
    mismatch: Option<LoadError>,
    /// The newest version holds no usable key.
    unusable: Option<LoadError>,
    /// It came from a node that lags behind, which says nothing of the keys there are.
    is_stale: bool,
}

#[derive(Clone, Debug)]
struct Loaded {
    version: Version,
    key: Arc<SigningKey>,
}

impl Memory {
    /// Knows of nothing but what was withdrawn.
    pub(super) fn new(withdrawn: Withdrawn) -> Self {
        Self { withdrawn, ..Self::default() }
    }

    /// When a look last succeeded.
    pub(super) fn last_success(&self) -> Option<Timestamp> {
        self.last_success
    }

    /// Looks into the store and loads what is new. An error leaves what is loaded as it was.
    pub(super) async fn look(
        &mut self,
        source: &KeySource,
        now: Timestamp,
    ) -> Result<(), LoadError> {
        let faults = match Listing::read(source).await? {
            Some(listing) => self.take_listed(source, &listing).await?,
            None => {
                let material = source.store.read(&source.location).await?;
                let (key, mismatch) = load(&material, source)?;
                self.take_current(key, now);
                Faults { mismatch, ..Faults::default() }
            }
        };
        if let Some(mismatch) = faults.mismatch
            && self.last_success.is_none()
            && !self.loaded.iter().any(|known| known.key.has_certificate())
        {
            // It may belong to one version only, the others are published without; but to one.
            self.loaded.clear();
            return Err(mismatch);
        }
        if !self.loaded.is_empty() && !faults.is_stale {
            self.last_success = Some(now);
            self.succeeded = Some(Instant::now());
        }
        match faults.unusable {
            Some(error) => Err(error),
            None if self.loaded.is_empty() => Err(LoadError::NoVersion),
            None => Ok(()),
        }
    }

    /// The stages at `now`; `None` while there is no key. Past `maxKeyAge` without a look that
    /// succeeded the ring signs nothing.
    pub(super) fn ring(&mut self, source: &KeySource, now: Timestamp) -> Option<KeyRing> {
        let versions: Vec<Version> = self.loaded.iter().map(|loaded| loaded.version).collect();
        let plan = Plan::new(&versions, self.signing, &self.stopped, &source.timing(), now)?;
        self.sign_with(plan.active, now);
        self.forget_unneeded(&plan);
        let active = self.key(plan.active)?;
        let keys =
            |numbers: &[u64]| numbers.iter().filter_map(|number| self.key(*number)).collect();
        let age = self.last_success.map(|success| now.since(success));
        let age = age.max(self.succeeded.map(|succeeded| succeeded.elapsed()));
        let is_current = age.is_some_and(|age| age <= source.max_key_age);
        Some(KeyRing::new(keys(&plan.next), active, keys(&plan.retired), is_current))
    }

    /// Carries out an operator's order about the key of that id or thumbprint.
    pub(super) fn obey(
        &mut self,
        order: Order,
        name: &str,
        now: Timestamp,
    ) -> Result<(), OrderError> {
        let (number, thumbprint) = self.called(name)?;
        match order {
            Order::Activate => {
                if self.signing.is_none_or(|signing| number <= signing) {
                    return Err(OrderError::NotNext { name: name.to_owned() });
                }
                self.sign_with(number, now);
            }
            Order::Withdraw => {
                self.loaded.retain(|known| known.key.thumbprint() != thumbprint);
                self.withdrawn.add(thumbprint);
                self.passed_over.insert(number);
                // The plan chooses another one, as at a start.
                self.signing = self.signing.filter(|signing| *signing != number);
            }
        }
        Ok(())
    }

    /// The number and thumbprint of the one key called `name`.
    fn called(&self, name: &str) -> Result<(u64, String), OrderError> {
        let is_called = |known: &&Loaded| known.key.thumbprint() == name || known.key.kid() == name;
        let found: Vec<&Loaded> = self.loaded.iter().filter(is_called).collect();
        let listed = |keys: &mut dyn Iterator<Item = &str>| {
            keys.map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
        };
        match found.as_slice() {
            [one] => Ok((one.version.number, one.key.thumbprint().to_owned())),
            [] => Err(OrderError::Unknown {
                name: name.to_owned(),
                known: listed(&mut self.loaded.iter().map(|known| known.key.kid())),
            }),
            several => Err(OrderError::Ambiguous {
                name: name.to_owned(),
                thumbprints: listed(&mut several.iter().map(|known| known.key.thumbprint())),
            }),
        }
    }

    fn sign_with(&mut self, number: u64, now: Timestamp) {
        if let Some(before) = self.signing.filter(|before| *before != number) {
            self.stopped.retain(|(stopped, _)| *stopped != before);
            self.stopped.push((before, now));
        }
        self.signing = Some(number);
    }

    fn key(&self, number: u64) -> Option<Arc<SigningKey>> {
        let loaded = self.loaded.iter().find(|loaded| loaded.version.number == number)?;
        Some(Arc::clone(&loaded.key))
    }

    /// A store with history: loads each live version once, and says what was wrong with some.
    async fn take_listed(
        &mut self,
        source: &KeySource,
        listing: &Listing,
    ) -> Result<Faults, LoadError> {
        let listed = listing.versions();
        let newest = listed.last().map(version_of);
        if let (Some(newest), Some(known)) = (newest, self.newest)
            && newest.number < known.number
            && newest.created <= known.created
        {
            // A node that lags behind: never go back. With a later creation the secret was removed
            // with its history, and written anew.
            return Ok(Faults { is_stale: true, ..Faults::default() });
        }
        self.newest = newest;
        let live: Vec<&Listed> = listed.iter().filter(|version| version.is_live).collect();
        let before = self.loaded.len();
        self.loaded.retain(|known| live.iter().any(|live| version_of(live) == known.version));
        if self.loaded.len() < before {
            // With a version withdrawn, another one may be of use again.
            self.passed_over.clear();
        }
        let mut faults = Faults::default();
        for version in live.iter().rev().take(MAX_VERSIONS).rev() {
            let is_known = self.passed_over.contains(&version.number)
                || self.loaded.iter().any(|known| known.version.number == version.number);
            if is_known {
                continue;
            }
            faults.unusable = match listing.load(source, version.number).await {
                Ok((key, mismatch)) => {
                    self.keep(version, key);
                    faults.mismatch = faults.mismatch.or(mismatch);
                    None
                }
                Err(error) if error.is_about_content() => Some(error),
                Err(error) => return Err(error),
            };
        }
        Ok(faults)
    }

    fn keep(&mut self, listed: &Listed, key: SigningKey) {
        if self.withdrawn.has(&key) {
            self.passed_over.insert(listed.number);
            return;
        }
        let mut newest_first = self.loaded.iter().rev();
        let before = newest_first.find(|known| known.version.number < listed.number);
        if before.is_some_and(|known| known.key.thumbprint() == key.thumbprint()) {
            // Bytes that did not change are not a new version.
            self.passed_over.insert(listed.number);
            return;
        }
        self.loaded.push(Loaded { version: version_of(listed), key: Arc::new(key) });
        self.loaded.sort_by_key(|known| known.version.number);
    }

    /// A store without history: its key is a new version when its bytes are others than last time.
    fn take_current(&mut self, key: SigningKey, now: Timestamp) {
        if self.withdrawn.has(&key) {
            return;
        }
        let is_same = |known: &&Loaded| known.key.thumbprint() == key.thumbprint();
        if self.loaded.last().filter(is_same).is_some() {
            return;
        }
        let signing = self.signing;
        let active = self.loaded.iter().find(|known| Some(known.version.number) == signing);
        if active.filter(is_same).is_some() {
            // Taken back before it signed.
            self.loaded.retain(|known| Some(known.version.number) <= signing);
            return;
        }
        let number = self.newest.map_or(1, |newest| newest.number + 1);
        let created = if self.loaded.is_empty() { Timestamp::from_millis(0) } else { now };
        let version = Version { number, created };
        self.newest = Some(version);
        self.loaded.push(Loaded { version, key: Arc::new(key) });
    }

    fn forget_unneeded(&mut self, plan: &Plan) {
        let is_needed = |number: u64| {
            number == plan.active || plan.next.contains(&number) || plan.retired.contains(&number)
        };
        for known in self.loaded.iter().filter(|known| !is_needed(known.version.number)) {
            self.passed_over.insert(known.version.number);
        }
        self.loaded.retain(|known| is_needed(known.version.number));
        self.stopped.retain(|(number, _)| is_needed(*number));
    }
}

/// The history of a key as its store shows it.
enum Listing {
    /// Of a key that can be read.
    Readable(Vec<Listed>),
    /// Of a key in Transit, with what verifies each version.
    Transit(Vec<Listed>, TransitKey),
}

impl Listing {
    /// `None`: the store keeps no history.
    async fn read(source: &KeySource) -> Result<Option<Self>, LoadError> {
        let (store, location) = (&source.store, &source.location);
        Ok(match source.backend {
            Backend::Memory => store.versions(location).await?.map(Self::Readable),
            Backend::Transit => {
                let key = store.transit_key(&location.name).await?;
                let listed = |version: &TransitVersion| Listed {
                    number: version.number,
                    created: version.created,
                    is_live: true,
                };
                Some(Self::Transit(key.versions.iter().map(listed).collect(), key))
            }
        })
    }

    fn versions(&self) -> &[Listed] {
        match self {
            Self::Readable(listed) | Self::Transit(listed, _) => listed,
        }
    }

    async fn load(
        &self,
        source: &KeySource,
        number: u64,
    ) -> Result<(SigningKey, Option<LoadError>), LoadError> {
        match self {
            Self::Readable(_) => {
                let material = source.store.read_version(&source.location, number).await?;
                load(&material, source)
            }
            Self::Transit(_, key) => {
                let version = key.versions.iter().find(|version| version.number == number);
                let version = version.ok_or(LoadError::NoVersion)?;
                let (store, name) = (&source.store, &source.location.name);
                with_certificate(source, |settings| {
                    SigningKey::in_transit(store, name, key.kind, version, settings)
                })
            }
        }
    }
}

fn version_of(listed: &Listed) -> Version {
    Version { number: listed.number, created: listed.created }
}

fn load(
    material: &KeyMaterial,
    source: &KeySource,
) -> Result<(SigningKey, Option<LoadError>), LoadError> {
    with_certificate(source, |settings| SigningKey::load(material, settings))
}

/// Loads a version; without the settings' certificate if that is another version's, in which case
/// the mismatch is returned too.
fn with_certificate(
    source: &KeySource,
    load: impl Fn(&KeySettings) -> Result<SigningKey, KeyError>,
) -> Result<(SigningKey, Option<LoadError>), LoadError> {
    let unusable = |error| source.unusable(error);
    let settings = &source.settings;
    match load(settings) {
        Err(mismatch @ KeyError::CertificateMismatch { .. }) if settings.certificate.is_some() => {
            let bare = KeySettings { certificate: None, ..settings.clone() };
            let key = load(&bare).map_err(unusable)?;
            tracing::warn!(
                scope = settings.client_id,
                kid = key.kid(),
                "x509Certificate is for another version of the key: this one is published without"
            );
            Ok((key, Some(unusable(mismatch))))
        }
        loaded => Ok((loaded.map_err(unusable)?, None)),
    }
}
