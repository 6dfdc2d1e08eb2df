//! Where a policy's engine comes from: made at load, or fetched and replaced while it is in force.
//!
//! A decision takes one snapshot and keeps it, whatever is fetched meanwhile. Before the first fetch there
//! is none, and everything is denied.

use std::ops::Deref;
use std::sync::Arc;

use super::Engine;
use crate::request::Reads;
use crate::secrets::Kept;

/// Where the engine comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// It was made at load.
    Loaded(Engine),
    /// It is fetched, and replaced while it is in force.
    Fetched { name: &'static str, engine: Kept<Engine> },
}

impl Source {
    /// What decides now; `None` before anything was fetched.
    pub(super) fn snapshot(&self) -> Option<Snapshot<'_>> {
        match self {
            Self::Loaded(engine) => Some(Snapshot::Loaded(engine)),
            Self::Fetched { engine, .. } => engine.current().map(Snapshot::Fetched),
        }
    }

    /// What decides now, to be compared with what decides later.
    pub(super) fn in_force(&self) -> InForce {
        match self {
            Self::Loaded(engine) => InForce { fetched: None, reads: engine.reads() },
            // One look: what is read must be what this very engine reads.
            Self::Fetched { engine, .. } => {
                let fetched = engine.current();
                let reads = fetched.as_ref().and_then(|engine| engine.reads());
                InForce { fetched, reads }
            }
        }
    }

    /// Whether what decided then still does.
    pub(super) fn is_in_force(&self, then: &InForce) -> bool {
        match (self, &then.fetched) {
            (Self::Loaded(_), _) => true,
            (Self::Fetched { engine, .. }, Some(then)) => {
                engine.current().is_some_and(|now| Arc::ptr_eq(then, &now))
            }
            (Self::Fetched { engine, .. }, None) => engine.current().is_none(),
        }
    }
}

/// The policies that were in force at one time.
#[derive(Debug)]
pub struct InForce {
    fetched: Option<Arc<Engine>>,
    reads: Option<Reads>,
}

impl InForce {
    /// What of a request they read; `None` where that can't be known, or where it is the clock or a body.
    pub fn reads(&self) -> Option<&Reads> {
        self.reads.as_ref()
    }
}

/// An engine, for one decision.
pub(super) enum Snapshot<'a> {
    Loaded(&'a Engine),
    Fetched(Arc<Engine>),
}

impl Deref for Snapshot<'_> {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        match self {
            Self::Loaded(engine) => engine,
            Self::Fetched(engine) => engine,
        }
    }
}

/// What is still to be fetched before a scope can decide.
#[derive(Clone, Debug)]
pub struct Fetching(Kept<Engine>);

impl Fetching {
    pub(super) fn new(engine: Kept<Engine>) -> Self {
        Self(engine)
    }

    /// Waits until there are policies.
    pub async fn loaded(&mut self) {
        self.0.loaded().await;
    }

    /// Whether there are none yet.
    pub fn is_pending(&self) -> bool {
        self.0.current().is_none()
    }

    /// What was wrong at the last look.
    pub fn problem(&self) -> Option<String> {
        self.0.problem()
    }
}
