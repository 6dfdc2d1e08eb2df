//! Which versions of an AWS secret count: those that were once `AWSCURRENT`, as far as their labels
//! tell.
//!
//! - `AWSCURRENT` counts, and `AWSPREVIOUS`, which AWS hangs on what was current before.
//! - A version without either, older than the `AWSPREVIOUS` one, counts: it was current before
//!   that, and after two quick changes it may be the one that signs. AWS calls it deprecated, lists
//!   it on request, and removes it no sooner than after a day. It signs no more once a newer one does.
//! - Every other version does not: it may be `AWSPENDING`, which a rotation function still tests, or
//!   one that never passed its test. Nor does a version newer than the current one: moving
//!   `AWSCURRENT` back withdraws what came after, as taking `AWSPREVIOUS` off withdraws that version
//!   and all before.
//!
//! A version's age counts from when it was made, the time as `AWSPENDING` included: AWS does not
//! say when a label was hung.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_secretsmanager::primitives::DateTime;
use aws_sdk_secretsmanager::types::SecretVersionsListEntry;

use crate::clock::Timestamp;
use crate::secrets::history::Entry;

/// The labels by version, in an order that is always the same.
pub(super) fn labels(
    described: Option<&HashMap<String, Vec<String>>>,
) -> BTreeMap<String, Vec<String>> {
    let labelled = described.into_iter().flatten().filter(|(_, labels)| !labels.is_empty());
    labelled
        .map(|(id, labels)| {
            let mut labels = labels.clone();
            labels.sort_unstable();
            (id.clone(), labels)
        })
        .collect()
}

/// The versions, and which count; `None` if one lacks what every version has.
pub(super) fn judged(listed: &[SecretVersionsListEntry]) -> Option<Vec<Entry>> {
    let has = |version: &SecretVersionsListEntry, label: &str| {
        version.version_stages().iter().any(|stage| stage == label)
    };
    let created = |version: &SecretVersionsListEntry| version.created_date().and_then(timestamp);
    let made = |label: &str| listed.iter().find(|version| has(version, label)).and_then(created);
    let (current, previous) = (made("AWSCURRENT"), made("AWSPREVIOUS"));
    let judge = |version: &SecretVersionsListEntry| {
        let created = created(version)?;
        let was_current = has(version, "AWSCURRENT")
            || has(version, "AWSPREVIOUS")
            || (!has(version, "AWSPENDING") && previous.is_some_and(|previous| created < previous));
        let is_live = was_current && current.is_some_and(|current| created <= current);
        let id = version.version_id()?.to_owned();
        Some(Entry { id, created, counts_from: created, is_live })
    };
    listed.iter().map(judge).collect()
}

/// To the millisecond, as AWS tells it.
pub(super) fn timestamp(time: &DateTime) -> Option<Timestamp> {
    time.to_millis().ok().and_then(|millis| u64::try_from(millis).ok()).map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(versions: &[(&str, i64, &[&str])]) -> Vec<SecretVersionsListEntry> {
        let entry = |(id, created, labels): &(&str, i64, &[&str])| {
            SecretVersionsListEntry::builder()
                .version_id(*id)
                .created_date(DateTime::from_millis(*created))
                .set_version_stages(Some(labels.iter().map(|label| (*label).to_owned()).collect()))
                .build()
        };
        versions.iter().map(entry).collect()
    }

    /// The ids of the versions that count.
    fn live(versions: &[(&str, i64, &[&str])]) -> String {
        let judged = judged(&listed(versions)).unwrap();
        judged.into_iter().filter(|entry| entry.is_live).map(|entry| entry.id).collect()
    }

    const CURRENT: &[&str] = &["AWSCURRENT"];
    const PREVIOUS: &[&str] = &["AWSPREVIOUS"];
    const PENDING: &[&str] = &["AWSPENDING"];

    #[test]
    fn what_was_current_counts_and_what_never_was_does_not() {
        assert_eq!(live(&[("a", 1, CURRENT)]), "a");
        assert_eq!(live(&[("a", 1, PREVIOUS), ("b", 2, CURRENT)]), "ab");
        assert_eq!(live(&[("a", 1, CURRENT), ("b", 2, PENDING)]), "a");
        assert_eq!(live(&[("a", 1, PENDING)]), "");
        let both = &["AWSPENDING", "AWSCURRENT"];
        assert_eq!(live(&[("a", 1, PREVIOUS), ("b", 2, both)]), "ab", "a rotation that is done");
    }

    #[test]
    fn without_a_label_only_what_is_older_than_the_previous_one_counts() {
        assert_eq!(live(&[("a", 1, &[]), ("b", 2, PREVIOUS), ("c", 3, CURRENT)]), "abc");
        assert_eq!(live(&[("a", 1, PREVIOUS), ("failed", 2, &[]), ("c", 3, CURRENT)]), "ac");
        assert_eq!(live(&[("a", 1, CURRENT), ("failed", 2, &[])]), "a");
        assert_eq!(live(&[("a", 1, &["blue"]), ("b", 2, PREVIOUS), ("c", 3, CURRENT)]), "abc");
    }

    #[test]
    fn labels_that_are_moved_by_hand_withdraw_a_version() {
        assert_eq!(live(&[("a", 1, &[]), ("b", 2, &[]), ("c", 3, CURRENT)]), "c");
        assert_eq!(live(&[("a", 1, CURRENT), ("b", 2, PREVIOUS)]), "a", "AWSCURRENT moved back");
        assert_eq!(live(&[("a", 1, PREVIOUS)]), "", "nothing is current");
    }

    #[test]
    fn a_version_without_id_or_time_is_no_answer() {
        let mut lacking = listed(&[("a", 1, CURRENT)]);
        lacking.push(SecretVersionsListEntry::builder().version_id("b").build());
        assert!(judged(&lacking).is_none());
    }

    #[test]
    fn labels_compare_whatever_their_order_and_without_unlabelled_versions() {
        let described = |labels: &[(&str, &[&str])]| {
            let owned = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
            let map = labels.iter().map(|(id, labels)| ((*id).to_owned(), owned(labels)));
            super::labels(Some(&map.collect()))
        };
        let one = described(&[("a", &["AWSCURRENT", "AWSPENDING"]), ("old", &[])]);
        assert_eq!(one, described(&[("a", &["AWSPENDING", "AWSCURRENT"])]));
        assert_ne!(one, described(&[("a", &["AWSCURRENT"])]));
    }
}
