//! Tokens whose signatures were verified before.
//!
//! A caller sends the same token with many requests, and verifying costs more than all else. What is
//! kept belongs to the issuer's very key set: with another, also one that was read again and is the same,
//! everything is verified anew. A verified token is good until it expires, one whose signature is wrong
//! is known to be for a moment. A token that is bound to a certificate is not kept. Tokens themselves are
//! not either: they are known by a fingerprint, under a secret of the process.
//!
//! Many a token never comes again. So whom it is about is kept only once it does, and is then told from the
//! token once more: values that nobody asks for would fill the memory, and be let go of one by one.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::key_set::KeySet;
use super::principal::Principal;
use super::refusal::{BadToken, Refusal};
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
    secret: digest::Fingerprints,
    tokens: Cache<Fingerprint, Arc<Known>, Weight>,
}

/// Of a token and of who reads it.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub(super) struct Fingerprint(digest::Fingerprint);

/// What verified a token.
#[derive(Clone)]
pub(super) struct Verifier {
    /// The issuer of this index.
    pub(super) issuer: usize,
    pub(super) key_set: Arc<KeySet>,
}

/// What is known of a token.
pub(super) struct Known {
    verifier: Verifier,
    since: Timestamp,
    outcome: Result<Verified, BadToken>,
    bytes: usize,
}

/// A token whose signature holds.
struct Verified {
    expires: Timestamp,
    /// Whom it is about, once it has come again.
    principal: OnceLock<Arc<Principal>>,
}

impl Known {
    /// Whom the token is about; the first time that is asked, `read` tells it from the token.
    pub(super) fn principal(
        &self,
        read: impl FnOnce(&Verifier) -> Result<Principal, Refusal>,
    ) -> Result<Arc<Principal>, Refusal> {
        let verified = self.outcome.as_ref().map_err(Clone::clone)?;
        if let Some(principal) = verified.principal.get() {
            return Ok(Arc::clone(principal));
        }
        let principal = Arc::new(read(&self.verifier)?);
        Ok(Arc::clone(verified.principal.get_or_init(|| principal)))
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Fingerprint, Arc<Known>> for Weight {
    fn weight(&self, _: &Fingerprint, known: &Arc<Known>) -> u64 {
        u64::try_from(OVERHEAD + known.bytes).unwrap_or(u64::MAX)
    }
}

impl TokenCache {
    /// Knows none yet; `None` if the system has no randomness.
    pub(super) fn new() -> Option<Self> {
        let secret = digest::Fingerprints::random()?;
        Some(Self { secret, tokens: Cache::with_weighter(256, MAX_BYTES, Weight) })
    }

    /// The fingerprint of `token`, as the readers with this number read it.
    pub(super) fn fingerprint(&self, token: &str, readers: usize) -> Option<Fingerprint> {
        let text = [&readers.to_le_bytes(), token.as_bytes()].concat();
        self.secret.of(&text).map(Fingerprint)
    }

    /// What is known of a token at `now`; `is_current` tells whether what verified it still is what would.
    pub(super) fn get(
        &self,
        fingerprint: Fingerprint,
        is_current: impl FnOnce(&Verifier) -> bool,
        now: Timestamp,
    ) -> Option<Arc<Known>> {
        let known = self.tokens.get(&fingerprint)?;
        let is_fresh = known.since <= now
            && match &known.outcome {
                Ok(verified) => now < verified.expires,
                Err(_) => now <= known.since.after(WRONG_FOR),
            };
        (is_fresh && is_current(&known.verifier)).then_some(known)
    }

    /// Keeps what `verifier` says of a token of `bytes` bytes: when it expires, or what is wrong with it.
    pub(super) fn keep(
        &self,
        fingerprint: Fingerprint,
        verifier: Verifier,
        outcome: Result<Timestamp, BadToken>,
        bytes: usize,
        now: Timestamp,
    ) {
        let outcome = outcome.map(|expires| Verified { expires, principal: OnceLock::new() });
        // Once it has come again its claims are kept as values, which take some times their text.
        let bytes = bytes.saturating_mul(4);
        self.tokens.insert(fingerprint, Arc::new(Known { verifier, since: now, outcome, bytes }));
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
        let found = |fingerprint, verifier: &Verifier, now| {
            let is_current = |kept: &Verifier| Arc::ptr_eq(&kept.key_set, &verifier.key_set);
            let found = verified.get(fingerprint, is_current, now);
            found.map(|known| known.principal(|_| Ok(user("alice"))).is_ok())
        };
        let good = verified.fingerprint("good", 0).unwrap();
        assert_eq!(found(good, &first, NOW), None);
        verified.keep(good, first.clone(), Ok(at(60)), 100, NOW);
        for (seconds, expected) in [(-1, None), (0, Some(true)), (59, Some(true)), (60, None)] {
            assert_eq!(found(good, &first, at(seconds)), expected, "{seconds}");
        }
        assert_eq!(found(good, &read_again, NOW), None, "the same keys, read again");
        let bad = verified.fingerprint("bad", 0).unwrap();
        let wrong = BadToken::Signature { alg: Algorithm::ES256, kid: Excerpt::new("a") };
        verified.keep(bad, first.clone(), Err(wrong), 100, NOW);
        for (seconds, expected) in [(0, Some(false)), (2, Some(false)), (3, None)] {
            assert_eq!(found(bad, &first, at(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn whom_it_is_about_is_read_once() {
        let verified = TokenCache::new().unwrap();
        let fingerprint = verified.fingerprint("good", 0).unwrap();
        let verifier = Verifier { issuer: 7, key_set: Arc::new(key_set(&[P256.jwk("a")])) };
        verified.keep(fingerprint, verifier, Ok(at(60)), 100, NOW);
        let known = || verified.get(fingerprint, |_| true, NOW).unwrap();
        let unread = known().principal(|_| Err(Refusal::NoCredentials));
        assert_eq!(
            unread.unwrap_err(),
            Refusal::NoCredentials,
            "what could not be read is not kept"
        );
        let read = known().principal(|verifier| {
            assert_eq!(verifier.issuer, 7);
            Ok(user("alice"))
        });
        let again = known().principal(|_| panic!("it was read"));
        assert!(Arc::ptr_eq(&read.unwrap(), &again.unwrap()));
    }

    /// One place's token says nothing of another's (Oathkeeper, CVE-2021-32701).
    #[test]
    fn a_fingerprint_is_of_the_whole_token_and_of_who_reads_it() {
        let verified = TokenCache::new().unwrap();
        let of = |token, readers| verified.fingerprint(token, readers);
        assert!(of("a.b.c", 0) == of("a.b.c", 0));
        for other in [of("a.b.d", 0), of("a.b.c", 1), of("a.b.", 0), of("", 0)] {
            assert!(of("a.b.c", 0) != other);
        }
        assert!(of("a.b.c", 0) != TokenCache::new().unwrap().fingerprint("a.b.c", 0));
    }
}
