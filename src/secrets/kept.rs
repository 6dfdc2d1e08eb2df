//! A value that is kept up to date beside the request path: in a secret store, read at start and again at
//! every look, or put by another task ([`Keeper`]).
//!
//! What was read last stays in force while the store is away or holds nothing that can be used; that
//! is logged, and shown by [`Kept::problem`]. Nothing of the value is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{KeyLocation, SecretStore};

/// How soon a first look that failed is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// Reads a value and what it means, again and again.
#[derive(Debug)]
pub struct KeepTask<T> {
    store: Arc<SecretStore>,
    location: KeyLocation,
    parse: fn(&[u8]) -> Result<T, String>,
    keeper: Keeper<T>,
}

/// The value as it was read last; a cheap clone.
#[derive(Debug)]
pub struct Kept<T>(watch::Receiver<State<T>>);

/// The writing end of a [`Kept`]; there is one.
#[derive(Debug)]
pub struct Keeper<T>(watch::Sender<State<T>>);

impl<T> Keeper<T> {
    /// Puts a new value in force.
    pub fn put(&self, value: T) {
        self.0.send_replace(State { value: Some(Arc::new(value)), problem: None });
    }

    /// That the value in force is still the one.
    pub fn confirm(&self) {
        self.0.send_modify(|state| state.problem = None);
    }

    /// Notes what was wrong; the value in force stays. Whether it is news.
    pub fn fail(&self, problem: String) -> bool {
        let is_news = self.0.borrow().problem.as_ref() != Some(&problem);
        self.0.send_modify(|state| state.problem = Some(problem));
        is_news
    }

    /// Whether there is a value.
    pub fn has_value(&self) -> bool {
        self.0.borrow().value.is_some()
    }
}

#[derive(Debug)]
struct State<T> {
    value: Option<Arc<T>>,
    problem: Option<String>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Kept<T> {
    /// A value that is not there yet, and who will put it.
    pub fn channel() -> (Keeper<T>, Self) {
        let (state, reader) = watch::channel(State { value: None, problem: None });
        (Keeper(state), Self(reader))
    }

    /// A value that never changes.
    pub fn fixed(value: T) -> Self {
        Self(watch::channel(State { value: Some(Arc::new(value)), problem: None }).1)
    }

    /// A value that never comes: for a decision made offline.
    pub fn absent() -> Self {
        Self(watch::channel(State { value: None, problem: None }).1)
    }

    /// Waits until there is a value; forever, if the task ends before it has one.
    pub async fn loaded(&mut self) {
        if self.0.wait_for(|state| state.value.is_some()).await.is_err() {
            std::future::pending().await
        }
    }

    /// The value; `None` before the first look succeeded.
    pub fn current(&self) -> Option<Arc<T>> {
        self.0.borrow().value.clone()
    }

    /// What was wrong at the last look.
    pub fn problem(&self) -> Option<String> {
        self.0.borrow().problem.clone()
    }
}

impl<T: Send + Sync> KeepTask<T> {
    /// A task that keeps what is at `location`, and what it will have kept. `parse` says what is
    /// wrong without quoting any of it.
    pub fn new(
        store: Arc<SecretStore>,
        location: KeyLocation,
        parse: fn(&[u8]) -> Result<T, String>,
    ) -> (Self, Kept<T>) {
        let (keeper, kept) = Kept::channel();
        (Self { store, location, parse, keeper }, kept)
    }

    /// Looks at once and then at the store's interval, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = if self.look().await { self.store.refresh_interval() } else { RETRY };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether there is a value now.
    async fn look(&self) -> bool {
        let looked = match self.store.read(&self.location).await {
            Ok(material) => (self.parse)(material.bytes.expose()),
            Err(error) => Err(error.to_string()),
        };
        match looked {
            Ok(value) => self.keeper.put(value),
            Err(problem) => {
                let name = &self.location.name;
                if self.keeper.fail(problem.clone()) {
                    tracing::warn!("the secret `{name}` of store `{}`: {problem}", self.store.id());
                }
            }
        }
        self.keeper.has_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::{SecretStores, StoreKind, StoreSettings};

    fn text(bytes: &[u8]) -> Result<String, String> {
        match str::from_utf8(bytes) {
            Ok("bad") => Err("it is bad".to_owned()),
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err("it is no text".to_owned()),
        }
    }

    #[tokio::test]
    async fn what_was_read_last_stays_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let kind = StoreKind::File { directory: directory.path().to_owned() };
        let settings = StoreSettings { id: "files".to_owned(), default: true, kind };
        let stores = SecretStores::open(vec![settings]).unwrap();
        let location = KeyLocation { path: None, name: "a".to_owned(), is_named: true };
        let store = Arc::clone(stores.choose(None).unwrap());
        let (task, kept) = KeepTask::new(store, location, text);
        assert!(!task.look().await && kept.current().is_none() && kept.problem().is_some());
        let file = directory.path().join("a");
        let mut looks = Vec::new();
        for written in ["one", "two", "bad"] {
            std::fs::write(&file, written).unwrap();
            assert!(task.look().await);
            looks.push((kept.current().unwrap().as_ref().clone(), kept.problem()));
        }
        std::fs::remove_file(&file).unwrap();
        assert!(task.look().await, "the store is away");
        assert_eq!(kept.current().unwrap().as_str(), "two");
        let good = |text: &str| (text.to_owned(), None);
        let kept_on = ("two".to_owned(), Some("it is bad".to_owned()));
        assert_eq!(looks, [good("one"), good("two"), kept_on]);
    }
}
