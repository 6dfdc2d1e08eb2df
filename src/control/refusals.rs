//! Which sidecars refuse the snapshot that they are to have, and why: the streams tell it, the controller reads it.
//!
//! Kept is the last word of each sidecar that is connected to this process, if it is a refusal, and shortened. That
//! nobody refuses a snapshot is harder to know than that somebody does: one that refused the last snapshot has yet to
//! take this one, and one that went is likely to come back and to say the same. Until they did, or had the time to,
//! nothing is said that was not said before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a sidecar that went may take to come back.
pub const COMES_BACK: Duration = Duration::from_secs(60);

/// Of an error no more is kept.
const MAX_ERROR_BYTES: usize = 1024;

/// So many causes are told apart, with so many pods each.
const MAX_CAUSES: usize = 2;
const MAX_PODS: usize = 2;

/// The refusals of all namespaces.
#[derive(Debug)]
pub struct Refusals {
    comes_back: Duration,
    namespaces: Mutex<HashMap<String, Namespace>>,
}

/// Of a namespace in which some sidecar has refused a snapshot.
#[derive(Debug, Default)]
struct Namespace {
    /// By stream.
    refusing: BTreeMap<u64, Refusal>,
    /// When the last one went that had refused.
    left: Option<Instant>,
}

/// A sidecar's last word.
#[derive(Debug)]
struct Refusal {
    revision: String,
    pod: String,
    error: String,
}

/// What sidecars say of a snapshot.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Standing {
    /// Some refuse it.
    Refused(Refused),
    /// None does that has spoken, and some have yet to speak.
    #[default]
    Open,
    /// None does.
    Quiet,
}

/// By whom a snapshot is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// By how many pods.
    pub pods: usize,
    /// Why: the most frequent errors, that of most pods first.
    pub causes: Vec<Cause>,
}

/// Pods that say the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cause {
    /// What they say, on one line.
    pub error: String,
    /// How many they are.
    pub pods: usize,
    /// The names of one or two.
    pub examples: Vec<String>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self::new(COMES_BACK)
    }
}

impl Refusals {
    /// None. Sidecars that went `comes_back` ago will not come back.
    pub fn new(comes_back: Duration) -> Self {
        Self { comes_back, namespaces: Mutex::default() }
    }

    /// The sidecar in `pod`, of the stream `id`, does not put `revision` in force.
    pub fn refuse(&self, namespace: &str, id: u64, revision: &str, pod: &str, error: &str) {
        let refusal = Refusal {
            revision: revision.to_owned(),
            pod: on_one_line(pod),
            error: on_one_line(error),
        };
        self.lock().entry(namespace.to_owned()).or_default().refusing.insert(id, refusal);
    }

    /// It has put in force what it was sent.
    pub fn accept(&self, namespace: &str, id: u64) {
        if let Some(namespace) = self.lock().get_mut(namespace) {
            namespace.refusing.remove(&id);
        }
    }

    /// Its stream has ended.
    pub fn leave(&self, namespace: &str, id: u64, now: Instant) {
        if let Some(namespace) = self.lock().get_mut(namespace)
            && namespace.refusing.remove(&id).is_some()
        {
            namespace.left = Some(now);
        }
    }

    /// What the sidecars of `namespace` say of `revision`, to somebody who listens `since` then.
    pub fn standing(
        &self,
        namespace: &str,
        revision: &str,
        since: Instant,
        now: Instant,
    ) -> Standing {
        let is_back = |then: Instant| now.saturating_duration_since(then) >= self.comes_back;
        let namespaces = self.lock();
        let Some(namespace) = namespaces.get(namespace) else {
            return if is_back(since) { Standing::Quiet } else { Standing::Open };
        };
        let refusing = namespace.refusing.values().filter(|it| it.revision == revision);
        if let Some(refused) = Refused::by(refusing) {
            Standing::Refused(refused)
        } else if namespace.refusing.is_empty() && namespace.left.is_none_or(is_back) {
            Standing::Quiet
        } else {
            Standing::Open
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Namespace>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refused {
    fn by<'a>(refusals: impl Iterator<Item = &'a Refusal>) -> Option<Self> {
        let mut all = BTreeSet::new();
        let mut causes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for Refusal { pod, error, .. } in refusals {
            all.insert(pod);
            causes.entry(error).or_default().insert(pod);
        }
        let mut causes: Vec<Cause> = causes
            .into_iter()
            .map(|(error, pods)| Cause {
                error: error.to_owned(),
                pods: pods.len(),
                examples: pods.into_iter().take(MAX_PODS).map(str::to_owned).collect(),
            })
            .collect();
        // Those of the same number stay in the order of their texts.
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.pods));
        causes.truncate(MAX_CAUSES);
        (!all.is_empty()).then_some(Self { pods: all.len(), causes })
    }

    /// Whether `other` has the same causes, whoever has them.
    pub fn is_because_of_the_same(&self, other: &Self) -> bool {
        let errors = |it: &Self| -> BTreeSet<String> {
            it.causes.iter().map(|cause| cause.error.clone()).collect()
        };
        errors(self) == errors(other)
    }
}

/// As much of `text` as is kept; what others send is shown to people, on terminals too.
fn on_one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut line = lines.join("; ").replace(char::is_control, " ");
    if line.len() > MAX_ERROR_BYTES {
        line.truncate(line.floor_char_boundary(MAX_ERROR_BYTES));
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refusals, and when somebody has listened for long enough.
    fn room() -> (Refusals, Instant, Instant) {
        let since = Instant::now();
        (Refusals::default(), since, since + COMES_BACK)
    }

    fn refused(standing: Standing) -> Refused {
        let Standing::Refused(refused) = standing else { panic!("{standing:?}") };
        refused
    }

    #[test]
    fn a_refusal_stands_until_it_is_taken_back() {
        let (room, since, now) = room();
        assert_eq!(room.standing("shop", "b", since, now), Standing::Quiet);
        room.refuse("shop", 1, "b", "orders-0", "placet.yaml: no\n\nreally:\tno\n");
        let found = refused(room.standing("shop", "b", since, since));
        let examples = vec!["orders-0".to_owned()];
        let cause = Cause { error: "placet.yaml: no; really: no".to_owned(), pods: 1, examples };
        assert_eq!(found, Refused { pods: 1, causes: vec![cause] });
        assert_eq!(room.standing("bank", "b", since, now), Standing::Quiet);
        // It may take the next snapshot or not.
        assert_eq!(room.standing("shop", "c", since, now), Standing::Open);
        room.accept("bank", 1);
        room.accept("shop", 2);
        assert_eq!(room.standing("shop", "c", since, now), Standing::Open);
        room.accept("shop", 1);
        assert_eq!(room.standing("shop", "c", since, since), Standing::Quiet);
    }

    #[test]
    fn one_that_went_may_come_back() {
        let (room, since, now) = room();
        room.refuse("shop", 1, "b", "orders-0", "no");
        room.refuse("shop", 2, "b", "orders-1", "no");
        room.leave("shop", 1, now);
        assert_eq!(refused(room.standing("shop", "b", since, now)).pods, 1);
        room.leave("shop", 2, now);
        assert_eq!(room.standing("shop", "b", since, now), Standing::Open);
        room.refuse("shop", 3, "b", "orders-0", "no");
        assert_eq!(refused(room.standing("shop", "b", since, now)).pods, 1);
        room.accept("shop", 3);
        let just = now + COMES_BACK - Duration::from_millis(1);
        assert_eq!(room.standing("shop", "b", since, just), Standing::Open, "the other is away");
        assert_eq!(room.standing("shop", "b", since, now + COMES_BACK), Standing::Quiet);
        // One that had accepted is not waited for.
        room.leave("shop", 3, now + COMES_BACK);
        assert_eq!(room.standing("shop", "b", since, now + COMES_BACK), Standing::Quiet);
    }

    #[test]
    fn who_has_just_begun_to_listen_knows_nothing() {
        let (room, since, now) = room();
        assert_eq!(room.standing("shop", "b", since, since), Standing::Open);
        assert_eq!(room.standing("shop", "b", since, now), Standing::Quiet);
    }

    #[test]
    fn many_are_told_in_few_words() {
        let (room, since, now) = room();
        for id in 0..1000 {
            let error = if id < 3 { format!("rare {id}") } else { "x".repeat(100_000) };
            // Some pods have two streams, of which one is about to end.
            room.refuse("shop", id, "b", &format!("orders-{:03}", id / 2), &error);
        }
        let found = refused(room.standing("shop", "b", since, now));
        assert_eq!((found.pods, found.causes.len()), (500, 2));
        let [first, second] = &found.causes[..] else { panic!("{found:?}") };
        assert_eq!(first.pods, 499);
        assert_eq!(first.examples, ["orders-001", "orders-002"]);
        assert_eq!(first.error.len(), MAX_ERROR_BYTES + '…'.len_utf8());
        assert_eq!((second.error.as_str(), second.pods), ("rare 0", 1));
        let mut other = found.clone();
        other.pods = 7;
        assert!(other.is_because_of_the_same(&found));
        other.causes.pop();
        assert!(!other.is_because_of_the_same(&found));
        assert_eq!(on_one_line(&"ü".repeat(1000)).chars().count(), MAX_ERROR_BYTES / 2 + 1);
        assert_eq!(on_one_line("\u{1b}[2J"), " [2J");
    }
}
