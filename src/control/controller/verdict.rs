//! What becomes of a namespace's objects: the snapshot that its sidecars are to have, and what is wrong.
//!
//! All of it is tried first, but scopes whose client ID is another namespace's. Objects that are wrong are then replaced by what they were in the last snapshot,
//! a scope together with the bundles that it names, or, where they never were in one, left out; and the rest
//! is tried again. So a bad object takes nothing from the others, and never takes its own last good version
//! from the sidecars. Where that version is not known, because this process started after the object had
//! become bad, the sidecars keep the snapshot that they have until the object is put right or deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::claims::{self, Taken};
use super::files::named;
use super::object::{Key, Kind, Object, Objects};
use super::trial::Trial;
use crate::control::snapshot::Snapshot;

/// What is said of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Finding {
    /// This version of it is what sidecars are given, or could be. With what is worth a second look.
    Good(Vec<String>),
    /// It is wrong: all that is, a line each.
    Bad(Vec<String>),
    /// It is not taken over because of others, for this reason.
    Held(String),
}

/// What becomes of the snapshot.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is this one, made of these versions of the objects.
    Publish(Snapshot, Objects),
    /// It stays as it is.
    Keep,
    /// There is no scope that is or was good.
    Withdraw,
}

/// The judgement of one namespace.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) findings: BTreeMap<Key, Finding>,
}

/// Judges the objects that there are `now`; `good` are those of the last snapshot. Of scopes that are `taken` the client ID is
/// another namespace's.
///
/// # Errors
/// If this machine can't write or read files.
pub(super) fn judge(now: &Objects, good: &Objects, taken: &Taken) -> io::Result<Verdict> {
    let mut held = Held::without(taken, now);
    loop {
        let chosen = held.choose(now, good);
        let trial = Trial::of(&chosen, good)?;
        if trial.is_good() {
            return held.conclude(trial, chosen, now);
        }
        if !held.add(&trial, &chosen, now, good) {
            return Ok(held.give_up(now));
        }
    }
}

/// The objects that are not taken over as they are now.
#[derive(Debug, Default)]
struct Held {
    keys: BTreeSet<Key>,
    /// Those that are wrong.
    bad: BTreeMap<Key, Vec<String>>,
}

impl Held {
    /// Without the scopes that can't be, whatever else is wrong with them.
    fn without(taken: &Taken, now: &Objects) -> Self {
        let fault = |(key, owner): (&Key, &String)| {
            let object = now.get(key)?;
            Some((key.clone(), vec![claims::fault(object, owner)]))
        };
        let bad: BTreeMap<_, _> = taken.iter().filter_map(fault).collect();
        Self { keys: bad.keys().cloned().collect(), bad }
    }

    /// What is tried next. A bundle that was in no snapshot stays, unless it is wrong itself: others may
    /// have use for it.
    fn choose(&self, now: &Objects, good: &Objects) -> Objects {
        let keys = now.keys().chain(&self.keys);
        let version = |key: &Key| {
            if !self.keys.contains(key) {
                return now.get(key);
            }
            let stays = key.kind == Kind::PolicyBundle && !self.bad.contains_key(key);
            good.get(key).or_else(|| now.get(key).filter(|_| stays))
        };
        keys.filter_map(|key| Some((key.clone(), version(key)?.clone()))).collect()
    }

    /// Adds what is wrong with `trial`; false if nothing is left that could be added.
    fn add(&mut self, trial: &Trial, chosen: &Objects, now: &Objects, good: &Objects) -> bool {
        let before = self.keys.clone();
        for (key, lines) in faults(trial, chosen, good) {
            let bundles = bundles_of(&key, [now.get(&key), good.get(&key)]);
            let is_led_to = bundles.iter().any(|bundle| before.contains(bundle))
                || before.iter().any(|key| key.kind == Kind::SecretStore)
                    && is_about_stores(&lines);
            self.keys.extend(bundles);
            if self.keys.insert(key.clone()) && !is_led_to {
                self.bad.insert(key, lines);
            }
        }
        if self.keys.len() > before.len() {
            return true;
        }
        // What was good together is so still: first the stores, then everything.
        let all: BTreeSet<&Key> = now.keys().chain(good.keys()).collect();
        let stores = all.iter().filter(|key| key.kind == Kind::SecretStore);
        self.keys.extend(stores.copied().cloned());
        if self.keys.len() == before.len() {
            self.keys.extend(all.into_iter().cloned());
        }
        self.keys.len() > before.len()
    }

    fn conclude(&self, trial: Trial, chosen: Objects, now: &Objects) -> io::Result<Verdict> {
        let is_lost = |key: &&Key| {
            let was_published = |key| now.get(key).is_some_and(|it| it.status().revision.is_some());
            !chosen.contains_key(*key) && was_published(*key)
        };
        if let Some(lost) = self.keys.iter().find(is_lost) {
            let what = "its last good version is not known since the controller started";
            let why = format!(
                "sidecars keep what they have until {lost} is put right or deleted: {what}"
            );
            return Ok(Verdict { outcome: Outcome::Keep, findings: self.all_held(now, &why) });
        }
        let findings = self.findings(now, &chosen, &trial);
        let outcome = if chosen.keys().any(|key| key.kind == Kind::Scope) {
            Outcome::Publish(Snapshot::new(trial.into_files(&chosen)?), chosen)
        } else {
            Outcome::Withdraw
        };
        Ok(Verdict { outcome, findings })
    }

    fn findings(&self, now: &Objects, chosen: &Objects, trial: &Trial) -> BTreeMap<Key, Finding> {
        let bad: Vec<String> = self.bad.keys().map(ToString::to_string).collect();
        let finding = |(key, object): (&Key, &Object)| {
            let is_chosen = chosen.get(key).is_some_and(|it| it.version() == object.version());
            let finding = match self.bad.get(key) {
                Some(lines) => Finding::Bad(lines.clone()),
                None if is_chosen => {
                    Finding::Good(trial.warnings.get(key).cloned().unwrap_or_default())
                }
                None => Finding::Held(format!(
                    "not taken over, since it doesn't go with {}: see there",
                    bad.join(", ")
                )),
            };
            (key.clone(), finding)
        };
        now.iter().map(finding).collect()
    }

    fn all_held(&self, now: &Objects, why: &str) -> BTreeMap<Key, Finding> {
        let finding = |key: &Key| match self.bad.get(key) {
            Some(lines) => Finding::Bad(lines.clone()),
            None => Finding::Held(why.to_owned()),
        };
        now.keys().map(|key| (key.clone(), finding(key))).collect()
    }

    fn give_up(&self, now: &Objects) -> Verdict {
        let why = "sidecars keep what they have until the other objects are put right";
        Verdict { outcome: Outcome::Keep, findings: self.all_held(now, why) }
    }
}

/// What is wrong with each object. Beside one that is wrong itself no other is.
fn faults(trial: &Trial, chosen: &Objects, good: &Objects) -> BTreeMap<Key, Vec<String>> {
    let mut faults = trial.faults.clone();
    let is_alone = !faults.is_empty();
    for (key, lines) in &trial.between {
        if !is_alone || faults.contains_key(key) {
            faults.entry(key.clone()).or_default().extend_from_slice(lines);
        }
    }
    for (kind, line) in trial.together.iter().filter(|_| !is_alone) {
        for key in blamed_together(*kind, chosen, good) {
            faults.entry(key).or_default().push(format!("spec: {line}"));
        }
    }
    faults
}

/// The bundles that a scope names in any of its versions.
fn bundles_of(key: &Key, versions: [Option<&Object>; 2]) -> BTreeSet<Key> {
    let scopes = versions.into_iter().flatten().filter(|_| key.kind == Kind::Scope);
    let files = scopes.flat_map(|scope| named(scope.spec()));
    files.filter_map(|file| Some(Key::new(Kind::PolicyBundle, file.bundle()?))).collect()
}

/// Whether the faults are that a store is missing.
fn is_about_stores(lines: &[String]) -> bool {
    lines.iter().all(|line| line.contains("secret store") || line.contains("SecretStore"))
}

/// Of objects that don't go together those are to blame that are new.
fn blamed_together(kind: Kind, chosen: &Objects, good: &Objects) -> Vec<Key> {
    let all: Vec<&Key> = chosen.keys().filter(|key| key.kind == kind).collect();
    let is_new = |key: &&&Key| {
        let version = |objects: &Objects| objects.get(**key).map(Object::version);
        version(chosen) != version(good)
    };
    let new: Vec<Key> = all.iter().filter(is_new).map(|key| (*key).clone()).collect();
    if new.is_empty() { all.into_iter().cloned().collect() } else { new }
}
