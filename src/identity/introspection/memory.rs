//! What one issuer said of its tokens, by the tokens' digests: so much of it, and for so long.
//!
//! A yes and a no are kept apart, each kind bounded: whoever invents tokens pushes out other noes
//! and no yes. What came first goes first, which is about what ends first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use super::{Answer, Flight};
use crate::clock::Timestamp;

/// The SHA-256 of a token, compared in full. It is as unguessable as the token, so that the time a
/// comparison takes tells nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn of(digest: &[u8]) -> Self {
        let mut key = [0; 32];
        key.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
        Self(key)
    }
}

/// The answers that are kept, and the questions under way.
#[derive(Debug)]
pub(super) struct Memory {
    yes: Bounded,
    no: Bounded,
    flights: HashMap<Key, Weak<Flight>>,
    /// The flights at the last clearing of those that nobody waits for any more.
    cleared: usize,
}

/// What there is for a token.
pub(super) enum Found {
    Answer(Answer),
    /// A question: under way, or to be asked.
    Flight(Arc<Flight>),
}

impl Memory {
    pub(super) fn new(size: usize) -> Self {
        let bounded = || Bounded { size, ..Bounded::default() };
        Self { yes: bounded(), no: bounded(), flights: HashMap::new(), cleared: 0 }
    }

    pub(super) fn find(&mut self, key: &Key, now: Timestamp) -> Found {
        if let Some(answer) = self.no.find(key, now).or_else(|| self.yes.find(key, now)) {
            return Found::Answer(answer);
        }
        if let Some(flight) = self.flights.get(key).and_then(Weak::upgrade) {
            return Found::Flight(flight);
        }
        // Requests that were given up leave theirs behind.
        if self.flights.len() > 2 * self.cleared + 64 {
            self.flights.retain(|_, flight| flight.strong_count() > 0);
            self.cleared = self.flights.len();
        }
        let flight = Arc::new(Flight::new());
        self.flights.insert(*key, Arc::downgrade(&flight));
        Found::Flight(flight)
    }

    /// Keeps `answer` as of `asked` until `until`, and ends its question.
    pub(super) fn keep(&mut self, key: Key, answer: Answer, asked: Timestamp, until: Timestamp) {
        self.flights.remove(&key);
        let (kind, other) = match answer {
            Answer::Active(_) => (&mut self.yes, &mut self.no),
            Answer::Inactive => (&mut self.no, &mut self.yes),
        };
        other.kept.remove(&key);
        kind.insert(key, Kept { answer, asked, until });
    }

    /// Ends the question `flight` without an answer, unless another has taken its place.
    pub(super) fn land(&mut self, key: &Key, flight: &Arc<Flight>) {
        if self.flights.get(key).is_some_and(|known| known.as_ptr() == Arc::as_ptr(flight)) {
            self.flights.remove(key);
        }
    }
}

/// The answers of one kind.
#[derive(Debug, Default)]
struct Bounded {
    size: usize,
    kept: HashMap<Key, Kept>,
    /// Keys by age, those included that became the other kind since: they only end something early.
    order: VecDeque<Key>,
}

#[derive(Debug)]
struct Kept {
    answer: Answer,
    asked: Timestamp,
    until: Timestamp,
}

impl Bounded {
    /// The answer, while it counts. A clock that was set back ends it, rather than lengthen it.
    fn find(&self, key: &Key, now: Timestamp) -> Option<Answer> {
        let kept = self.kept.get(key)?;
        (kept.asked <= now && now < kept.until).then(|| kept.answer.clone())
    }

    fn insert(&mut self, key: Key, kept: Kept) {
        if self.size == 0 || kept.until <= kept.asked {
            self.kept.remove(&key);
            return;
        }
        if let Some(known) = self.kept.get_mut(&key) {
            *known = kept;
            return;
        }
        while self.order.len() >= self.size {
            let Some(oldest) = self.order.pop_front() else { break };
            self.kept.remove(&oldest);
        }
        self.order.push_back(key);
        self.kept.insert(key, kept);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Key {
        Key::of(&[number; 32])
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn yes() -> Answer {
        Answer::Active(Arc::default())
    }

    /// Whether there is an answer, and whether it is a yes.
    fn known(memory: &mut Memory, number: u8, now: u64) -> Option<bool> {
        match memory.find(&key(number), at(now)) {
            Found::Answer(answer) => Some(matches!(answer, Answer::Active(_))),
            Found::Flight(_) => None,
        }
    }

    #[test]
    fn an_answer_counts_from_when_it_was_asked_for_until_its_end() {
        let mut memory = Memory::new(4);
        memory.keep(key(1), yes(), at(100), at(130));
        let at_times = [99, 100, 129, 130, 131].map(|now| known(&mut memory, 1, now));
        assert_eq!(at_times, [None, Some(true), Some(true), None, None]);
        memory.keep(key(1), Answer::Inactive, at(131), at(135));
        assert_eq!(known(&mut memory, 1, 132), Some(false));
        assert_eq!(known(&mut memory, 2, 132), None);
    }

    #[test]
    fn a_size_or_a_time_of_nothing_keeps_nothing() {
        let mut memory = Memory::new(0);
        memory.keep(key(1), yes(), at(100), at(130));
        assert_eq!(known(&mut memory, 1, 100), None);
        let mut memory = Memory::new(4);
        memory.keep(key(1), yes(), at(100), at(100));
        assert_eq!(known(&mut memory, 1, 100), None);
    }

    #[test]
    fn noes_push_out_no_yes() {
        let mut memory = Memory::new(2);
        memory.keep(key(0), yes(), at(0), at(100));
        for number in 1..=200 {
            memory.keep(key(number), Answer::Inactive, at(0), at(100));
        }
        assert_eq!(known(&mut memory, 0, 1), Some(true));
        assert_eq!(known(&mut memory, 1, 1), None);
        assert_eq!((memory.no.kept.len(), memory.no.order.len()), (2, 2));
    }

    #[test]
    fn one_question_is_under_way_for_a_token() {
        let mut memory = Memory::new(2);
        let mut flight = |number| match memory.find(&key(number), at(0)) {
            Found::Flight(flight) => flight,
            Found::Answer(answer) => panic!("{answer:?}"),
        };
        let (first, second, other) = (flight(1), flight(1), flight(2));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
        drop((first, second));
        for number in 3..=250 {
            drop(flight(number));
        }
        assert!(memory.flights.len() <= 2 * 64 + 2, "{}", memory.flights.len());
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_its_size(
            size in 1_usize..8,
            steps in prop::collection::vec((any::<u8>(), any::<bool>(), 0_u64..50), 0..200),
        ) {
            let mut memory = Memory::new(size);
            for (number, is_yes, now) in steps {
                let answer = if is_yes { yes() } else { Answer::Inactive };
                memory.keep(key(number), answer, at(now), at(now + 10));
                prop_assert_eq!(known(&mut memory, number, now), Some(is_yes));
                for kind in [&memory.yes, &memory.no] {
                    prop_assert!(kind.kept.len() <= kind.order.len() && kind.order.len() <= size);
                }
            }
        }
    }
}
