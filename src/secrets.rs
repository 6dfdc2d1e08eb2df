//! The Secret Management Service: any number of secret stores, exactly one of them the default.
//!
//! A store answers one question: what key text is at this location now? Opening stores checks
//! settings and does no I/O; the first read logs in. A read that fails is a [`SecretError`] that
//! says what to do and quotes no secret; the caller decides whether to retry, since only it knows
//! whether it still has a key. Values travel as [`Secret`]s and are overwritten when dropped.

#[cfg(any(not(feature = "aws"), not(feature = "azure")))]
mod absent;
#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
mod env;
mod error;
mod fields;
mod file;
#[cfg(any(feature = "aws", feature = "azure"))]
mod history;
mod kept;
#[cfg(any(feature = "aws", feature = "azure"))]
mod reason;
pub mod reference;
mod settings;
mod transit;
mod vault;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer};
use zeroize::{Zeroize, Zeroizing};

pub use error::{Cloud, CloudError, SecretError};
pub use kept::{KeepTask, Keeper, Kept};
pub use settings::{
    AwsSettings, AzureSettings, KvVersion, Source, StoreKind, StoreSettings, Unreadable, VaultAuth,
    VaultSettings,
};
pub use transit::{PublicKey, TransitKey, TransitVersion};

use crate::clock::Timestamp;
use crate::keys::Algorithm;
use crate::metrics::{Requests, StoreRequests};
#[cfg(not(feature = "aws"))]
use absent::Absent as AwsStore;
#[cfg(not(feature = "azure"))]
use absent::Absent as AzureStore;
#[cfg(feature = "aws")]
use aws::AwsStore;
#[cfg(feature = "azure")]
use azure::AzureStore;
use env::EnvStore;
use file::FileStore;
use vault::VaultStore;

/// A value that is never shown: no `Display`, no `Serialize`, `Debug` prints `Secret`, and its
/// memory is overwritten when it is dropped.
#[derive(Clone)]
pub struct Secret<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    /// Takes `value` into keeping.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself. Every call site is a place to look at in review.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de, T: Deserialize<'de> + Zeroize> Deserialize<'de> for Secret<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::new)
    }
}

/// Where a scope's key is in its store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyLocation {
    /// `pathToKey`; `None`: the store's default path. Only Vault and AWS have paths.
    pub path: Option<String>,
    /// `keyName`: the field of the KV or AWS secret, the file, the variable, the Azure secret.
    pub name: String,
    /// Whether `keyName` is set, or `name` only the client ID that stands for it: an AWS secret
    /// whose field nobody named is the key as a whole.
    pub is_named: bool,
}

/// What a store holds at a location.
#[derive(Clone, Debug)]
pub struct KeyMaterial {
    /// The key text, exactly as stored.
    pub bytes: Secret<Vec<u8>>,
    /// The PEM chain beside the key: the KV field or the file `<keyName>.crt`.
    pub certificate: Option<String>,
    /// The version number, where the store counts versions (KV v2) or tells their age (AWS, Azure).
    pub version: Option<u64>,
    /// When the store says this version was made (KV v2, AWS, Azure).
    pub created: Option<Timestamp>,
}

/// A key to be written to a store.
#[derive(Debug)]
pub struct NewKey<'a> {
    /// The private key, PEM.
    pub pem: &'a Secret<String>,
    /// Its certificate, PEM: written only where the key before it has one beside it.
    pub certificate: &'a str,
}

/// One version of a secret, as its store lists it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Version {
    /// Its number; a store counts up, or it is the time the version was made (AWS, Azure).
    pub number: u64,
    /// When the store says it was made.
    pub created: Timestamp,
    /// Whether it may be used: neither deleted, destroyed nor disabled.
    pub is_live: bool,
}

/// One opened store.
#[derive(Debug)]
pub struct SecretStore {
    store: Store,
    /// What counts the requests to it, once somebody wants to know.
    requests: OnceLock<StoreRequests>,
}

/// A store of each kind. A further one (Google's Secret Manager, say) is a further variant here, a
/// [`StoreKind`] and its settings.
#[expect(clippy::large_enum_variant, reason = "a handful of values, made once at start")]
#[cfg_attr(
    not(all(feature = "aws", feature = "azure")),
    expect(dead_code, reason = "a store that is not built in is never opened")
)]
#[derive(Debug)]
enum Store {
    /// Vault or OpenBao, KV version 1 or 2.
    Vault(VaultStore),
    /// A directory of key files.
    File(FileStore),
    /// Environment variables.
    Env(EnvStore),
    /// AWS Secrets Manager.
    Aws(AwsStore),
    /// Azure Key Vault.
    Azure(AzureStore),
}

impl SecretStore {
    /// How often stores that have no such setting are looked at.
    const REFRESH_INTERVAL: Duration = Duration::from_secs(30);

    fn open(settings: StoreSettings) -> Result<Self, SecretError> {
        let id = settings.id;
        let store = match settings.kind {
            StoreKind::Vault(vault) => Store::Vault(VaultStore::open(id, vault)?),
            StoreKind::File { directory } => Store::File(FileStore::new(id, directory)),
            StoreKind::Env { prefix } => Store::Env(EnvStore::new(id, prefix)),
            #[cfg(feature = "aws")]
            StoreKind::Aws(aws) => Store::Aws(AwsStore::new(id, aws)),
            #[cfg(not(feature = "aws"))]
            StoreKind::Aws(_) => return Err(not_built(id, Cloud::Aws)),
            #[cfg(feature = "azure")]
            StoreKind::Azure(azure) => Store::Azure(AzureStore::new(id, azure)),
            #[cfg(not(feature = "azure"))]
            StoreKind::Azure(_) => return Err(not_built(id, Cloud::Azure)),
        };
        Ok(Self { store, requests: OnceLock::new() })
    }

    /// Has `requests` count what this store is asked from now on, unless others do.
    pub fn counted_by(&self, requests: impl FnOnce() -> StoreRequests) {
        self.requests.get_or_init(requests);
    }

    /// The store's id in the settings.
    pub fn id(&self) -> &str {
        match &self.store {
            Store::Vault(store) => store.id(),
            Store::File(store) => store.id(),
            Store::Env(store) => store.id(),
            Store::Aws(store) => store.id(),
            Store::Azure(store) => store.id(),
        }
    }

    /// The store's type, as the settings spell it.
    pub const fn kind(&self) -> &'static str {
        match &self.store {
            Store::Vault(_) => "vault",
            Store::File(_) => "file",
            Store::Env(_) => "env",
            Store::Aws(_) => "awsSecretsManager",
            Store::Azure(_) => "azureKeyVault",
        }
    }

    /// How often to look for a new key.
    pub const fn refresh_interval(&self) -> Duration {
        match &self.store {
            Store::Vault(store) => store.refresh_interval(),
            Store::Aws(store) => store.refresh_interval(),
            Store::Azure(store) => store.refresh_interval(),
            Store::File(_) | Store::Env(_) => Self::REFRESH_INTERVAL,
        }
    }

    /// Whether a location's path means anything.
    pub const fn has_paths(&self) -> bool {
        matches!(&self.store, Store::Vault(_) | Store::Aws(_))
    }

    /// What the key at a location is called in the store; `None`: the whole secret is the key.
    pub fn key_name<'a>(&self, at: &'a KeyLocation) -> Option<&'a str> {
        (at.is_named || !matches!(&self.store, Store::Aws(_))).then_some(&*at.name)
    }

    /// Judges a location without looking there: Vault and AWS need a path, Azure takes few names.
    ///
    /// # Errors
    /// If nothing could ever be read from it.
    pub fn check(&self, at: &KeyLocation) -> Result<(), SecretError> {
        match &self.store {
            Store::Vault(store) => store.path(at).map(drop),
            Store::Aws(store) => store.check(at),
            Store::Azure(store) => store.check(at),
            Store::File(_) | Store::Env(_) => Ok(()),
        }
    }

    /// Judges the name of a Transit key without looking for it.
    ///
    /// # Errors
    /// If this store doesn't sign by itself, or no key can have that name.
    pub fn check_transit(&self, name: &str) -> Result<(), SecretError> {
        match &self.store {
            Store::Vault(store) => store.check_transit(name),
            _ => Err(self.no_transit()),
        }
    }

    /// Reads what is at a location now.
    ///
    /// # Errors
    /// If the store can't be reached or refuses, or there is no key text there.
    pub async fn read(&self, at: &KeyLocation) -> Result<KeyMaterial, SecretError> {
        let reading = async {
            match &self.store {
                Store::Vault(store) => store.read(at).await,
                Store::Aws(store) => store.read(at).await,
                Store::Azure(store) => store.read(at).await,
                Store::File(store) => store.read(&at.name).await,
                Store::Env(store) => store.read(&at.name),
            }
        };
        self.counted(|requests| &requests.read, reading).await
    }

    /// The versions the store has of what is at a location, oldest first. `None`: it keeps no
    /// history (KV version 1, file, env), or doesn't let us see it.
    ///
    /// # Errors
    /// If the store can't be reached or refuses, or there is nothing there.
    pub async fn versions(&self, at: &KeyLocation) -> Result<Option<Vec<Version>>, SecretError> {
        let listing = async {
            match &self.store {
                Store::Vault(store) => store.versions(at).await,
                Store::Aws(store) => store.versions(at).await,
                Store::Azure(store) => store.versions(at).await,
                Store::File(_) | Store::Env(_) => Ok(None),
            }
        };
        if matches!(&self.store, Store::File(_) | Store::Env(_)) {
            return listing.await;
        }
        self.counted(|requests| &requests.read, listing).await
    }

    /// Reads one version of what is at a location.
    ///
    /// # Errors
    /// As [`Self::read`]; if that version is deleted, destroyed or unknown; if the store keeps no
    /// history.
    pub async fn read_version(
        &self,
        at: &KeyLocation,
        number: u64,
    ) -> Result<KeyMaterial, SecretError> {
        let reading = async {
            match &self.store {
                Store::Vault(store) => store.read_version(at, number).await,
                Store::Aws(store) => store.read_version(at, number).await,
                Store::Azure(store) => store.read_version(at, number).await,
                Store::File(_) | Store::Env(_) => {
                    Err(SecretError::NoHistory { store: self.id().to_owned() })
                }
            }
        };
        self.counted(|requests| &requests.read, reading).await
    }

    /// Reads the public side of the Transit key `name`.
    ///
    /// # Errors
    /// If this store doesn't sign by itself, can't be reached or refuses, or there is no such key
    /// that signs a JWS.
    pub async fn transit_key(&self, name: &str) -> Result<TransitKey, SecretError> {
        match &self.store {
            Store::Vault(store) => {
                self.counted(|requests| &requests.read, store.transit_key(name)).await
            }
            _ => Err(self.no_transit()),
        }
    }

    /// The signatures of `messages` by one version of the Transit key `name`, each the bytes that
    /// a JWS of `algorithm` holds (RFC 7518 section 3), in the order of the messages; one request. That the key is of the
    /// right [kind](crate::keys::KeyKind::fits) is the caller's to know.
    ///
    /// # Errors
    /// For all, if this store doesn't sign by itself, can't be reached or refuses; for one
    /// message, if its signature was refused or is not of that version and algorithm.
    pub async fn transit_sign(
        &self,
        name: &str,
        version: u64,
        algorithm: Algorithm,
        messages: &[&[u8]],
    ) -> Result<Vec<Result<Vec<u8>, SecretError>>, SecretError> {
        match &self.store {
            Store::Vault(store) => {
                let signing = store.transit_sign(name, version, algorithm, messages);
                self.counted(|requests| &requests.sign, signing).await
            }
            _ => Err(self.no_transit()),
        }
    }

    /// Puts a new key where another is or will be, as the newest version where the store counts them.
    /// What else is at the location stays as it is.
    ///
    /// # Errors
    /// If the store can't be reached or refuses, or is one we don't write to.
    pub async fn write(&self, at: &KeyLocation, key: &NewKey<'_>) -> Result<(), SecretError> {
        match &self.store {
            Store::Vault(store) => store.write(at, key).await,
            Store::File(store) => store.write(&at.name, key).await,
            Store::Env(_) | Store::Aws(_) | Store::Azure(_) => {
                Err(SecretError::ReadOnly { store: self.id().to_owned(), kind: self.kind() })
            }
        }
    }

    /// Makes the Transit key `name` sign with a new version.
    ///
    /// # Errors
    /// If this store doesn't sign by itself, can't be reached or refuses.
    pub async fn transit_rotate(&self, name: &str) -> Result<(), SecretError> {
        match &self.store {
            Store::Vault(store) => store.transit_rotate(name).await,
            _ => Err(self.no_transit()),
        }
    }

    /// Does `work`, and counts it as one of the requests that `kind` picks.
    async fn counted<T>(
        &self,
        kind: fn(&StoreRequests) -> &Requests,
        work: impl Future<Output = Result<T, SecretError>>,
    ) -> Result<T, SecretError> {
        let started = Instant::now();
        let done = work.await;
        if let Some(requests) = self.requests.get() {
            kind(requests).count(done.is_ok(), started.elapsed());
        }
        done
    }

    fn no_transit(&self) -> SecretError {
        SecretError::NoTransit { store: self.id().to_owned(), kind: self.kind() }
    }
}

#[cfg(any(not(feature = "aws"), not(feature = "azure")))]
const fn not_built(store: String, cloud: Cloud) -> SecretError {
    SecretError::Cloud { store, problem: CloudError::NotBuilt { cloud } }
}

/// Every configured store.
#[derive(Debug)]
pub struct SecretStores {
    default: Arc<SecretStore>,
    all: Vec<Arc<SecretStore>>,
}

impl SecretStores {
    /// Opens every store, without any I/O.
    ///
    /// # Errors
    /// Every fault at once: an id used twice, settings a store can't work with, and anything but
    /// exactly one default.
    pub fn open(settings: Vec<StoreSettings>) -> Result<Self, Vec<SecretError>> {
        let mut errors = duplicates(&settings);
        let mut all = Vec::new();
        let mut defaults: Vec<Arc<SecretStore>> = Vec::new();
        let ids: Vec<String> = settings.iter().map(|store| store.id.clone()).collect();
        let marked: Vec<String> =
            settings.iter().filter(|store| store.default).map(|store| store.id.clone()).collect();
        for store in settings {
            let default = store.default;
            match SecretStore::open(store).map(Arc::new) {
                Ok(store) => {
                    if default {
                        defaults.push(Arc::clone(&store));
                    }
                    all.push(store);
                }
                Err(error) => errors.push(error),
            }
        }
        match marked.as_slice() {
            [] => errors.push(SecretError::NoDefault { known: ids }),
            [_] => {}
            several => errors.push(SecretError::SeveralDefaults { marked: several.to_vec() }),
        }
        match defaults.pop() {
            Some(default) if errors.is_empty() => Ok(Self { default, all }),
            _ => Err(errors),
        }
    }

    /// The store called `id`, or the default one.
    ///
    /// # Errors
    /// If there is no such store; the error lists those there are.
    pub fn choose(&self, id: Option<&str>) -> Result<&Arc<SecretStore>, SecretError> {
        let Some(id) = id else { return Ok(&self.default) };
        self.all.iter().find(|store| store.id() == id).ok_or_else(|| SecretError::UnknownStore {
            id: id.to_owned(),
            known: self.all.iter().map(|store| store.id().to_owned()).collect(),
        })
    }
}

fn duplicates(settings: &[StoreSettings]) -> Vec<SecretError> {
    let mut seen = HashSet::new();
    settings
        .iter()
        .filter(|store| !seen.insert(store.id.as_str()))
        .map(|store| SecretError::DuplicateStore { id: store.id.clone() })
        .collect()
}

#[cfg(test)]
mod tests;
