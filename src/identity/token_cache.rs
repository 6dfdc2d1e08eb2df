//! Tokens whose signatures were verified before.
//!
//! A caller sends the same token with many requests, and verifying costs more than all else. What is
//! kept belongs to the issuer's very key set: with another, also one that was read again and is the same,
//! everything is verified anew. A verified token is good until it expires, one whose signature is wrong
//! is known to be for a moment. A token that is bound to a certificate is not kept. Tokens themselves are
//! not either: they are known by a digest, keyed with a secret of the process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::key_set::KeySet;
use super::principal::Principal;
use super::refusal::BadToken;
use crate::clock::Timestamp;
use crate::digest;

/// What the kept tokens of one scope may take, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// What a kept token is thought to take beside its principal.
const OVERHEAD: usize = 512;

/// How long a wrong signature is known to be wrong.
const WRONG_FOR: Duration = Duration::from_secs(2);

/// The tokens that are known.
pub(super) struct TokenCache {
    secret: digest::Key,
    tokens: Cache<Digest, Arc<Known>, Weight>,
}

/// Of a token and of who reads it.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub(super) struct Digest(digest::Digest);

/// What verified a token.
#[derive(Clone)]
pub(super) struct Verifier {
    /// The issuer of this index.
    pub(super) issuer: usize,
    pub(super) key_set: Arc<KeySet>,
}

struct Known {
    verifier: Verifier,
    since: Timestamp,
    outcome: Result<Arc<Principal>, BadToken>,
    bytes: usize,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Digest, Arc<Known>> for Weight {
    fn weight(&self, _: &Digest, known: &Arc<Known>) -> u64 {
        u64::try_from(OVERHEAD + known.bytes).unwrap_or(u64::MAX)
    }
}

impl TokenCache {
    /// Knows none yet; `None` if the system has no randomness.
    pub(super) fn new() -> Option<Self> {
        let secret = digest::Key::random()?;
        Some(Self { secret, tokens: Cache::with_weighter(256, MAX_BYTES, Weight) })
    }

    /// The digest of `token`, as the readers with this number read it.
    pub(super) fn digest(&self, token: &str, readers: usize) -> Digest {
        let mut hasher = self.secret.hasher();
        hasher.update(&readers.to_le_bytes()).update(token.as_bytes());
        Digest(hasher.finish())
    }

    /// What is known of a token at `now`; `is_current` tells whether what verified it still is what would.
    pub(super) fn get(
        &self,
        digest: Digest,
        is_current: impl FnOnce(&Verifier) -> bool,
        now: Timestamp,
    ) -> Option<Result<Arc<Principal>, BadToken>> {
        let known = self.tokens.get(&digest)?;
        let is_fresh = known.since <= now
            && match &known.outcome {
                Ok(principal) => principal.expires.is_some_and(|expires| now < expires),
                Err(_) => now <= known.since.after(WRONG_FOR),
            };
        (is_fresh && is_current(&known.verifier)).then(|| known.outcome.clone())
    }

    /// Keeps what `verifier` says of a token of `bytes` bytes.
    pub(super) fn keep(
        &self,
        digest: Digest,
        verifier: Verifier,
        outcome: Result<Arc<Principal>, BadToken>,
        bytes: usize,
        now: Timestamp,
    ) {
        // The claims are kept as values, which take some times their text.
        let bytes = bytes.saturating_mul(4);
        self.tokens.insert(digest, Arc::new(Known { verifier, since: now, outcome, bytes }));
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{NOW, user};
    use crate::identity::fixture::{P256, key_set};
    use crate::identity::refusal::Excerpt;
    use crate::keys::Algorithm;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(NOW.millis().saturating_add_signed(seconds * 1_000))
    }

    #[test]
    fn what_is_known_of_a_token_is_of_its_time_and_its_keys() {
        let verified = TokenCache::new().unwrap();
        let verifier = || Verifier { issuer: 0, key_set: Arc::new(key_set(&[P256.jwk("a")])) };
        let (first, read_again) = (verifier(), verifier());
        let found = |digest, verifier: &Verifier, now| {
            let is_current = |kept: &Verifier| Arc::ptr_eq(&kept.key_set, &verifier.key_set);
            let found = verified.get(digest, is_current, now);
            found.map(|outcome| outcome.is_ok())
        };
        let good = verified.digest("good", 0);
        assert_eq!(found(good, &first, NOW), None);
        let mut principal = user("alice");
        principal.expires = Some(at(60));
        verified.keep(good, first.clone(), Ok(Arc::new(principal)), 100, NOW);
        for (seconds, expected) in [(-1, None), (0, Some(true)), (59, Some(true)), (60, None)] {
            assert_eq!(found(good, &first, at(seconds)), expected, "{seconds}");
        }
        assert_eq!(found(good, &read_again, NOW), None, "the same keys, read again");
        let bad = verified.digest("bad", 0);
        let wrong = BadToken::Signature { alg: Algorithm::ES256, kid: Excerpt::new("a") };
        verified.keep(bad, first.clone(), Err(wrong), 100, NOW);
        for (seconds, expected) in [(0, Some(false)), (2, Some(false)), (3, None)] {
            assert_eq!(found(bad, &first, at(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn a_token_without_an_end_is_never_known() {
        let verified = TokenCache::new().unwrap();
        let digest = verified.digest("endless", 0);
        let verifier = Verifier { issuer: 0, key_set: Arc::new(key_set(&[P256.jwk("a")])) };
        verified.keep(digest, verifier, Ok(Arc::new(user("alice"))), 100, NOW);
        assert!(verified.get(digest, |_| true, NOW).is_none());
    }

    /// One place's token says nothing of another's (Oathkeeper, CVE-2021-32701).
    #[test]
    fn a_digest_is_of_the_whole_token_and_of_who_reads_it() {
        let verified = TokenCache::new().unwrap();
        let of = |token, readers| verified.digest(token, readers);
        assert!(of("a.b.c", 0) == of("a.b.c", 0));
        for other in [of("a.b.d", 0), of("a.b.c", 1), of("a.b.", 0), of("", 0)] {
            assert!(of("a.b.c", 0) != other);
        }
        assert!(of("a.b.c", 0) != TokenCache::new().unwrap().digest("a.b.c", 0));
    }
}
