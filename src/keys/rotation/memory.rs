//! What the loop knows: the versions it has loaded, and which one signs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::plan::{Plan, Timing, Version};
use super::{KeySource, LoadError};
use crate::clock::Timestamp;
use crate::keys::{KeyError, KeyRing, KeySettings, SigningKey};
use crate::secrets::{KeyMaterial, Version as Listed};

/// Only this many of the newest versions are looked at.
const MAX_VERSIONS: usize = 20;

/// The loaded versions of one key.
#[derive(Debug)]
pub(super) struct Memory {
    timing: Timing,
    /// In ascending order of their numbers.
    loaded: Vec<Loaded>,
    /// Versions that are of no use: no longer needed, or the bytes of an earlier one.
    passed_over: BTreeSet<u64>,
    /// The newest version a look has shown.
    newest: u64,
    signing: Option<u64>,
    /// Versions that were seen to stop signing, and when.
    stopped: Vec<(u64, Timestamp)>,
    last_success: Option<Timestamp>,
}

/// What a look found that does not stop the other versions.
#[derive(Debug, Default)]
struct Faults {
    /// The certificate in the settings is for another version.
    mismatch: Option<LoadError>,
    /// The newest version holds no usable key.
    unusable: Option<LoadError>,
}

#[derive(Clone, Debug)]
struct Loaded {
    version: Version,
    key: Arc<SigningKey>,
}

impl Memory {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            timing,
            loaded: Vec::new(),
            passed_over: BTreeSet::new(),
            newest: 0,
            signing: None,
            stopped: Vec::new(),
            last_success: None,
        }
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
        let faults = match source.store.versions(&source.location).await? {
            Some(listed) => self.take_listed(source, &listed).await?,
            None => {
                let material = source.store.read(&source.location).await?;
                let (key, mismatch) = load(&material, source)?;
                self.take_current(key, now);
                Faults { mismatch, unusable: None }
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
        if !self.loaded.is_empty() {
            self.last_success = Some(now);
        }
        match faults.unusable {
            Some(error) => Err(error),
            None if self.loaded.is_empty() => Err(LoadError::NoVersion),
            None => Ok(()),
        }
    }

    /// The stages at `now`; `None` before the first key. Past `max_key_age` without a look that
    /// succeeded the ring signs nothing.
    pub(super) fn ring(&mut self, now: Timestamp, max_key_age: Duration) -> Option<KeyRing> {
        let versions: Vec<Version> = self.loaded.iter().map(|loaded| loaded.version).collect();
        let plan = Plan::new(&versions, self.signing, &self.stopped, &self.timing, now)?;
        if let Some(before) = self.signing.filter(|before| *before != plan.active) {
            self.stopped.push((before, now));
        }
        self.signing = Some(plan.active);
        self.forget_unneeded(&plan);
        let active = self.key(plan.active)?;
        let keys =
            |numbers: &[u64]| numbers.iter().filter_map(|number| self.key(*number)).collect();
        let is_current = self.last_success.is_some_and(|success| now.since(success) <= max_key_age);
        Some(KeyRing::new(keys(&plan.next), active, keys(&plan.retired), is_current))
    }

    fn key(&self, number: u64) -> Option<Arc<SigningKey>> {
        let loaded = self.loaded.iter().find(|loaded| loaded.version.number == number)?;
        Some(Arc::clone(&loaded.key))
    }

    /// A store with history: loads each live version once, and says what was wrong with some.
    async fn take_listed(
        &mut self,
        source: &KeySource,
        listed: &[Listed],
    ) -> Result<Faults, LoadError> {
        let newest = listed.iter().map(|version| version.number).max().unwrap_or_default();
        if newest < self.newest {
            // A node that lags behind: never go back.
            return Ok(Faults::default());
        }
        self.newest = newest;
        let live: Vec<&Listed> = listed.iter().filter(|version| version.is_live).collect();
        self.loaded.retain(|known| live.iter().any(|live| live.number == known.version.number));
        let mut faults = Faults::default();
        for version in live.iter().rev().take(MAX_VERSIONS).rev() {
            let is_known = self.passed_over.contains(&version.number)
                || self.loaded.iter().any(|known| known.version.number == version.number);
            if is_known {
                continue;
            }
            let read = source.store.read_version(&source.location, version.number).await;
            let loaded = read.map_err(LoadError::from).and_then(|read| load(&read, source));
            faults.unusable = match loaded {
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
        if self.loaded.iter().any(|known| known.key.thumbprint() == key.thumbprint()) {
            // Bytes that did not change are not a new version.
            self.passed_over.insert(listed.number);
            return;
        }
        let version = Version { number: listed.number, created: listed.created };
        self.loaded.push(Loaded { version, key: Arc::new(key) });
        self.loaded.sort_by_key(|known| known.version.number);
    }

    /// A store without history: its key is a new version when its bytes are others than last time.
    fn take_current(&mut self, key: SigningKey, now: Timestamp) {
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
        self.newest += 1;
        let created = if self.loaded.is_empty() { Timestamp::from_millis(0) } else { now };
        let version = Version { number: self.newest, created };
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

/// Loads a version; without the settings' certificate if that is another version's, in which case
/// the mismatch is returned too.
fn load(
    material: &KeyMaterial,
    source: &KeySource,
) -> Result<(SigningKey, Option<LoadError>), LoadError> {
    let unusable = |error| source.unusable(error);
    let settings = &source.settings;
    match SigningKey::load(material, settings) {
        Err(mismatch @ KeyError::CertificateMismatch { .. }) if settings.certificate.is_some() => {
            let bare = KeySettings { certificate: None, ..settings.clone() };
            let key = SigningKey::load(material, &bare).map_err(unusable)?;
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
