//! The keys of one scope by life stage.
//!
//! A key is published before it signs and stays published until its last token has expired, so
//! a verifier never meets a token whose key it can't find.

use std::iter;
use std::sync::Arc;

use super::SigningKey;

/// What signs now, what will, and what did: one immutable snapshot.
///
/// There is always an active key; a scope without one has no ring at all.
#[derive(Clone, Debug)]
pub struct KeyRing {
    next: Vec<Arc<SigningKey>>,
    active: Arc<SigningKey>,
    retired: Vec<Arc<SigningKey>>,
}

impl KeyRing {
    /// A ring of one key, which signs.
    pub const fn single(key: Arc<SigningKey>) -> Self {
        Self { next: Vec::new(), active: key, retired: Vec::new() }
    }

    /// A ring with keys in every stage.
    pub const fn new(
        next: Vec<Arc<SigningKey>>,
        active: Arc<SigningKey>,
        retired: Vec<Arc<SigningKey>>,
    ) -> Self {
        Self { next, active, retired }
    }

    /// The key that signs.
    pub const fn active(&self) -> &Arc<SigningKey> {
        &self.active
    }

    /// Every key a verifier may need: the active one first, since two versions may share a `kid`
    /// and verifiers take the first, then the next ones, then the retired ones.
    pub fn published(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        iter::once(&self.active).chain(&self.next).chain(&self.retired)
    }
}
