//! Answers that are given again: to the same question, while the same things are in force.
//!
//! Which questions are the same is [`Reuse`](crate::reuse::Reuse)'s to tell; here their answers are kept,
//! as they go over the wire, until half the life of their token is over. Only an allow with a token is
//! kept. While an answer is in the making, others with the same question wait for it, once; whatever
//! becomes of it, they then go on by themselves.

use std::collections::hash_map::{self, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Weighter};
use tokio::sync::Notify;

use crate::audit::Entry;
use crate::clock::Timestamp;
use crate::reuse::Key;
use crate::trace::Told;

/// What a kept answer takes beside its bytes.
const OVERHEAD: usize = 256;

/// An answer, and its record.
#[derive(Debug)]
pub(super) struct Answer {
    /// One gRPC message, framed.
    pub(super) framed: Bytes,
    pub(super) terms: Terms,
}

/// How an answer is given again.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) entry: Entry,
    /// For spans, where there are any.
    pub(super) told: Option<Box<Told>>,
    /// Since when and until when.
    pub(super) span: (Timestamp, Timestamp),
}

/// The answers that are kept, and those in the making.
#[derive(Debug)]
pub(super) struct AnswerCache {
    answers: Cache<Key, Arc<Answer>, Weight>,
    in_the_making: Making,
}

/// Each with who is to be told of its end; `None` while nobody waits.
type Making = Arc<Mutex<HashMap<Key, Option<Arc<Notify>>, DefaultHashBuilder>>>;

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Key, Arc<Answer>> for Weight {
    fn weight(&self, _: &Key, answer: &Arc<Answer>) -> u64 {
        let told = if answer.terms.told.is_some() { OVERHEAD } else { 0 };
        let bytes = OVERHEAD + told + answer.framed.len() + answer.terms.entry.size();
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl AnswerCache {
    /// Keeps answers of up to `max_bytes` in all.
    pub(super) fn new(max_bytes: u64) -> Self {
        // Room for more grows when it is needed.
        const USUAL_BYTES: u64 = 2_048;
        let expected = usize::try_from(max_bytes / USUAL_BYTES).unwrap_or(usize::MAX).min(4_096);
        let answers = Cache::with_weighter(expected, max_bytes, Weight);
        Self { answers, in_the_making: Making::default() }
    }

    /// The answer, if it may be given at `now`.
    pub(super) fn get(&self, key: &Key, now: Timestamp) -> Option<Arc<Answer>> {
        let answer = self.answers.get(key)?;
        let (from, until) = answer.terms.span;
        (from <= now && now <= until).then_some(answer)
    }

    pub(super) fn keep(&self, key: Key, answer: Answer) {
        self.answers.insert(key, Arc::new(answer));
    }

    /// Waits for the answer that is in the making, if one is. Without, it is now in the making by the
    /// caller, until what is returned is dropped.
    pub(super) async fn wait(&self, key: Key) -> Option<InTheMaking> {
        let ended = {
            let mut all = self.in_the_making.lock().unwrap_or_else(PoisonError::into_inner);
            match all.entry(key) {
                hash_map::Entry::Vacant(place) => {
                    place.insert(None);
                    return Some(InTheMaking { all: Arc::clone(&self.in_the_making), key });
                }
                // From here on it is told: its maker needs the lock to end.
                hash_map::Entry::Occupied(mut others) => {
                    Arc::clone(others.get_mut().get_or_insert_default()).notified_owned()
                }
            }
        };
        ended.await;
        None
    }
}

/// While it lives, others wait.
#[derive(Debug)]
pub(super) struct InTheMaking {
    all: Making,
    key: Key,
}

impl Drop for InTheMaking {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(others)) = all.remove(&self.key) {
            others.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::fixture::NOW;

    fn key() -> Key {
        crate::reuse::any_key()
    }

    fn answer(length: usize) -> Answer {
        let framed = Bytes::from(vec![0; length]);
        let span = (NOW, NOW.after(Duration::from_secs(30)));
        Answer { framed, terms: Terms { entry: Entry::default(), told: None, span } }
    }

    #[test]
    fn an_answer_is_given_within_its_span() {
        let (cache, key) = (AnswerCache::new(1 << 20), key());
        assert!(cache.get(&key, NOW).is_none());
        cache.keep(key, answer(10));
        for (millis, is_given) in [(0, true), (30_000, true), (30_001, false)] {
            let at = NOW.after(Duration::from_millis(millis));
            assert_eq!(cache.get(&key, at).is_some(), is_given, "{millis}");
        }
        let before = Timestamp::from_millis(NOW.millis() - 1);
        assert!(cache.get(&key, before).is_none(), "the clock was set back");
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let cache = AnswerCache::new(1 << 20);
        let keys: Vec<Key> = (0..4_000).map(|_| key()).collect();
        keys.iter().for_each(|key| cache.keep(*key, answer(1_000)));
        let kept = keys.iter().filter(|key| cache.get(key, NOW).is_some()).count();
        assert!((100..=1_048).contains(&kept), "{kept}");
    }

    #[test]
    fn any_bound_can_be_set() {
        for max_bytes in [0, 1, u64::MAX] {
            let (cache, key) = (AnswerCache::new(max_bytes), key());
            cache.keep(key, answer(10));
            assert_eq!(cache.get(&key, NOW).is_some(), max_bytes > 1_000, "{max_bytes}");
        }
    }

    #[tokio::test]
    async fn the_others_wait_for_the_first_and_then_go_on() {
        let (cache, key) = (AnswerCache::new(1 << 20), key());
        let first = cache.wait(key).await.unwrap();
        let mut second = Box::pin(cache.wait(key));
        let mut third = Box::pin(cache.wait(key));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        assert!(second.await.is_none());
        assert!(third.await.is_none());
        assert!(cache.wait(key).await.is_some(), "nothing is left of it");
    }
}
