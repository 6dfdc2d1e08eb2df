//! Versions that a cloud names by ids, counted.
//!
//! Rotation counts versions up; a cloud names them by random ids. A version's number is the time it
//! was made, in milliseconds since 1970: the same for every replica and after every restart. Of
//! versions made in one millisecond (Azure only tells seconds) the order is that of their ids, and
//! each later one has the next free number.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::{SecretError, Version};
use crate::clock::Timestamp;

/// A version as its cloud lists it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) created: Timestamp,
    /// Since when it counts as made: later than `created` where it was not to be used at once.
    pub(super) counts_from: Timestamp,
    pub(super) is_live: bool,
}

/// What was last seen of each secret of a store.
#[derive(Debug, Default)]
pub(super) struct Histories(Mutex<HashMap<String, Seen>>);

#[derive(Clone, Debug)]
enum Seen {
    /// Its versions, oldest first, with their ids.
    Versions(Vec<(Version, String)>),
    /// We may read the secret but not its list of versions; it was warned of.
    Hidden,
}

impl Histories {
    /// Numbers and remembers the versions of `secret`.
    pub(super) fn keep(&self, secret: &str, entries: Vec<Entry>) -> Vec<Version> {
        let numbered = numbered(entries);
        let versions = numbered.iter().map(|(version, _)| *version).collect();
        self.seen().insert(secret.to_owned(), Seen::Versions(numbered));
        versions
    }

    /// The id of a version that was listed.
    pub(super) fn id_of(&self, secret: &str, number: u64) -> Option<String> {
        let seen = self.seen();
        let Some(Seen::Versions(versions)) = seen.get(secret) else { return None };
        versions.iter().find(|(version, _)| version.number == number).map(|(_, id)| id.clone())
    }

    /// Whether it is known already that the versions of `secret` can't be seen.
    pub(super) fn is_hidden(&self, secret: &str) -> bool {
        matches!(self.seen().get(secret), Some(Seen::Hidden))
    }

    /// Passes over that the versions of `secret` can't be seen, which is no reason to stop signing;
    /// says so once, with what would allow it.
    pub(super) fn hide(&self, store: &str, secret: &str, remedy: &str) {
        if matches!(self.seen().insert(secret.to_owned(), Seen::Hidden), Some(Seen::Hidden)) {
            return;
        }
        tracing::warn!(
            store,
            "the versions of `{secret}` can't be seen, so a restart in mid-rotation loses the \
             earlier key: {remedy}"
        );
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error for a number that no list has shown.
pub(super) fn unlisted(store: &str) -> SecretError {
    SecretError::NoHistory { store: store.to_owned() }
}

fn numbered(mut entries: Vec<Entry>) -> Vec<(Version, String)> {
    entries.sort_by(|one, other| (one.created, &one.id).cmp(&(other.created, &other.id)));
    let mut last = 0;
    entries
        .into_iter()
        .map(|Entry { id, created, counts_from, is_live }| {
            let number = created.millis().max(last + 1);
            last = number;
            (Version { number, created: counts_from, is_live }, id)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, millis: u64) -> Entry {
        let created = Timestamp::from_millis(millis);
        Entry { id: id.to_owned(), created, counts_from: created, is_live: true }
    }

    #[test]
    fn a_version_is_numbered_by_the_time_it_was_made_whatever_the_order_of_the_list() {
        for order in [[0, 1, 2, 3], [3, 1, 0, 2]] {
            let all = [entry("d", 5000), entry("b", 7000), entry("a", 7000), entry("c", 7001)];
            let histories = Histories::default();
            let entries = order.iter().map(|index| all[*index].clone()).collect();
            let versions = histories.keep("orders", entries);
            let numbers: Vec<u64> = versions.iter().map(|version| version.number).collect();
            assert_eq!(numbers, [5000, 7000, 7001, 7002]);
            let ids = numbers.iter().map(|number| histories.id_of("orders", *number).unwrap());
            assert_eq!(ids.collect::<String>(), "dabc");
        }
    }

    #[test]
    fn what_was_not_listed_has_no_id() {
        let histories = Histories::default();
        histories.keep("orders", vec![entry("a", 1)]);
        assert_eq!(histories.id_of("orders", 2), None);
        assert_eq!(histories.id_of("other", 1), None);
        histories.hide("aws", "orders", "allow it");
        assert_eq!(histories.id_of("orders", 1), None);
    }
}
