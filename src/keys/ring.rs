//! The keys of one scope by life stage.
//!
//! A key is published before it signs and stays published until its last token has expired, so
//! a verifier never meets a token whose key it can't find.

use std::collections::HashSet;
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
    is_current: bool,
}

impl KeyRing {
    /// A ring of one key, which signs.
    pub const fn single(key: Arc<SigningKey>) -> Self {
        Self { next: Vec::new(), active: key, retired: Vec::new(), is_current: true }
    }

    /// A ring with keys in every stage. One that is not current, because its store was away too
    /// long, is still published and signs nothing.
    pub const fn new(
        next: Vec<Arc<SigningKey>>,
        active: Arc<SigningKey>,
        retired: Vec<Arc<SigningKey>>,
        is_current: bool,
    ) -> Self {
        Self { next, active, retired, is_current }
    }

    /// The key that signs, if anything may be signed.
    pub fn signer(&self) -> Option<&Arc<SigningKey>> {
        self.is_current.then_some(&self.active)
    }

    /// The key whose turn it is.
    pub const fn active(&self) -> &Arc<SigningKey> {
        &self.active
    }

    /// Keys that will sign.
    pub fn next(&self) -> &[Arc<SigningKey>] {
        &self.next
    }

    /// Keys that signed, and whose tokens may still be valid.
    pub fn retired(&self) -> &[Arc<SigningKey>] {
        &self.retired
    }

    /// Every key a verifier may need: the active one first, since two versions may share a `kid`
    /// and verifiers take the first, then the next ones, then the retired ones.
    pub fn published(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        iter::once(&self.active).chain(&self.next).chain(&self.retired)
    }

    /// Key ids that more than one of the published keys has.
    pub fn shared_kids(&self) -> HashSet<&str> {
        let mut seen = HashSet::new();
        self.published().map(|key| key.kid()).filter(|kid| !seen.insert(*kid)).collect()
    }

    /// Whether another ring has the same keys in the same stages.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |these: &[Arc<SigningKey>], those: &[Arc<SigningKey>]| {
            these.len() == those.len() && these.iter().zip(those).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        Arc::ptr_eq(&self.active, &other.active)
            && same(&self.next, &other.next)
            && same(&self.retired, &other.retired)
            && self.is_current == other.is_current
    }
}
