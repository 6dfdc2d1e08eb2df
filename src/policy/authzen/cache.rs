//! Decisions kept for a while: bounded, and none longer than its time.
//!
//! All are kept equally long, so the oldest one is the first to end, and the first to go when there is
//! no room. The key is a digest of all that was asked. Faults are not kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::Instant;

type Key = [u8; 32];

/// Decisions by what was asked.
#[derive(Debug)]
pub(super) struct Cache {
    ttl: Duration,
    size: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    decisions: HashMap<Key, Decision>,
    /// Ends, keys and numbers, in the order in which decisions end. One that was taken anew stands here
    /// more than once, and only the last time counts.
    ends: VecDeque<(Instant, Key, u64)>,
    /// Of the last decision.
    number: u64,
}

#[derive(Clone, Copy, Debug)]
struct Decision {
    permitted: bool,
    end: Instant,
    number: u64,
}

impl Cache {
    pub(super) fn new(ttl: Duration, size: usize) -> Self {
        Self { ttl, size, kept: Mutex::default() }
    }

    /// What was decided of `asked`, if that is still to be believed.
    pub(super) fn get(&self, asked: &str, now: Instant) -> Option<bool> {
        if self.is_off() {
            return None;
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let decision = kept.decisions.get(&key(asked)?)?;
        (now < decision.end).then_some(decision.permitted)
    }

    /// Keeps what was decided of `asked`.
    pub(super) fn put(&self, asked: &str, permitted: bool, now: Instant) {
        let (false, Some(key)) = (self.is_off(), key(asked)) else { return };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let end = now + self.ttl;
        kept.number += 1;
        let number = kept.number;
        kept.decisions.insert(key, Decision { permitted, end, number });
        kept.ends.push_back((end, key, number));
        while kept.ends.len() > self.size || kept.ends.front().is_some_and(|first| first.0 <= now) {
            let Some((_, key, number)) = kept.ends.pop_front() else { break };
            if kept.decisions.get(&key).is_some_and(|kept| kept.number == number) {
                kept.decisions.remove(&key);
            }
        }
    }

    fn is_off(&self) -> bool {
        self.ttl.is_zero() || self.size == 0
    }
}

fn key(asked: &str) -> Option<Key> {
    digest(&SHA256, asked.as_bytes()).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_decision_is_believed_until_its_time_is_over() {
        let (cache, now) = (Cache::new(TTL, 2), Instant::now());
        assert_eq!(cache.get("a", now), None);
        cache.put("a", true, now);
        cache.put("b", false, now);
        assert_eq!((cache.get("a", now), cache.get("b", now)), (Some(true), Some(false)));
        assert_eq!(cache.get("A", now), None);
        assert_eq!(cache.get("a", now + TTL - Duration::from_nanos(1)), Some(true));
        assert_eq!(cache.get("a", now + TTL), None);
        cache.put("a", false, now + TTL);
        assert_eq!(cache.get("a", now + TTL), Some(false));
    }

    #[test]
    fn off_is_off() {
        for cache in [Cache::new(Duration::ZERO, 2), Cache::new(TTL, 0)] {
            let now = Instant::now();
            cache.put("a", true, now);
            assert_eq!(cache.get("a", now), None);
        }
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_never_says_what_was_not_decided(
            steps in prop::collection::vec((0_u8..12, any::<bool>(), 0_u64..8), 0..200),
            size in 1_usize..6,
        ) {
            let cache = Cache::new(TTL, size);
            let mut now = Instant::now();
            let mut last: HashMap<String, (bool, Instant)> = HashMap::new();
            for (asked, decision, pause) in steps {
                now += Duration::from_secs(pause);
                let asked = asked.to_string();
                if let Some(said) = cache.get(&asked, now) {
                    let (known, at) = last[&asked];
                    prop_assert_eq!(said, known);
                    prop_assert!(now < at + TTL);
                }
                cache.put(&asked, decision, now);
                prop_assert_eq!(cache.get(&asked, now), Some(decision));
                last.insert(asked, (decision, now));
                let kept = cache.kept.lock().unwrap();
                prop_assert!(kept.ends.len() <= size && kept.decisions.len() <= size);
            }
        }
    }
}
