//! What is written into an object's status.
//!
//! Nothing is written that stands there already, whoever wrote it: so a write, which the watch brings back,
//! leads to no other, and replicas that find the same don't contend.

use serde_json::{Value, json};

use super::object::{Key, Kind, Object};
use super::verdict::Finding;
use crate::clock::Timestamp;
use crate::control::refusals::{Refused, Standing};
use crate::control::resources::{Condition, Status};

/// Whether sidecars are given the object. Every object has this condition.
const READY: &str = "Ready";

/// Whether they put it in force, in the word of the Gateway API. A scope has this condition while some sidecar does
/// not.
const PROGRAMMED: &str = "Programmed";

/// Longer messages are cut: an object has a limit.
const MAX_MESSAGE: usize = 8 << 10;

/// What there is to say of an object.
pub(super) struct Said<'a> {
    pub(super) finding: &'a Finding,
    /// The snapshot that has all objects of the namespace that are good.
    pub(super) revision: Option<&'a str>,
    /// What the sidecars say of it.
    pub(super) standing: &'a Standing,
}

/// The status that `object` should have, if it has another.
pub(super) fn wanted(
    key: &Key,
    object: &Object,
    said: &Said<'_>,
    now: Timestamp,
) -> Option<Status> {
    let there = object.status();
    let Said { finding, revision, .. } = *said;
    let mut conditions = vec![ready(object, &there, said, now)];
    if key.kind == Kind::Scope && matches!(finding, Finding::Good(_)) && revision.is_some() {
        conditions.extend(programmed(object, &there, said.standing, now));
    }
    let revision = match finding {
        Finding::Good(_) => revision.map(str::to_owned),
        Finding::Bad(_) | Finding::Held(_) => there.revision.clone(),
    };
    let observed_generation = Some(object.generation());
    let wanted = Status { observed_generation, revision, conditions };
    (wanted != there).then_some(wanted)
}

fn ready(object: &Object, there: &Status, said: &Said<'_>, now: Timestamp) -> Condition {
    let Said { finding, revision, .. } = said;
    let (status, reason, message) = match finding {
        Finding::Good(warnings) if revision.is_some() => ("True", "Published", warnings.join("; ")),
        Finding::Good(warnings) => ("True", "Valid", warnings.join("; ")),
        Finding::Bad(faults) => ("False", "Invalid", faults.join("; ")),
        Finding::Held(why) => ("False", "Held", why.clone()),
    };
    let condition = Condition {
        kind: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: cut(message),
        last_transition_time: seconds(now),
        observed_generation: object.generation(),
    };
    since_then(condition, there)
}

/// While it is open what sidecars say, what stands there stays.
fn programmed(
    object: &Object,
    there: &Status,
    standing: &Standing,
    now: Timestamp,
) -> Option<Condition> {
    let refused = match standing {
        Standing::Refused(refused) => refused,
        Standing::Open => return of_kind(there, PROGRAMMED).cloned(),
        Standing::Quiet => return None,
    };
    let condition = Condition {
        kind: PROGRAMMED.to_owned(),
        status: "False".to_owned(),
        reason: "RefusedBySidecars".to_owned(),
        message: cut(by_whom(refused)),
        last_transition_time: seconds(now),
        observed_generation: object.generation(),
    };
    Some(since_then(condition, there))
}

pub(super) fn by_whom(Refused { pods, causes }: &Refused) -> String {
    let sidecars = |count: usize| match count {
        1 => "1 sidecar".to_owned(),
        count => format!("{count} sidecars"),
    };
    let told: usize = causes.iter().map(|cause| cause.pods).sum();
    let mut parts: Vec<String> = causes
        .iter()
        .map(|cause| {
            let examples = cause.examples.join(", ");
            let others = if cause.pods > cause.examples.len() { ", …" } else { "" };
            format!("{} ({examples}{others}): {}", sidecars(cause.pods), cause.error)
        })
        .collect();
    if *pods > told {
        parts.push(format!("{} for other reasons", sidecars(pods - told)));
    }
    format!(
        "the namespace's snapshot is refused, and the last good one kept, by {}",
        parts.join("; ")
    )
}

fn of_kind<'a>(status: &'a Status, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.kind == kind)
}

/// `condition`, which may have had its status for a while.
fn since_then(condition: Condition, there: &Status) -> Condition {
    match of_kind(there, &condition.kind) {
        Some(before) if before.status == condition.status => {
            let last_transition_time = before.last_transition_time.clone();
            Condition { last_transition_time, ..condition }
        }
        _ => condition,
    }
}

/// The merge patch that writes `status`; refused where the object has changed meanwhile.
pub(super) fn patch(key: &Key, object: &Object, status: &Status) -> Value {
    let resource = key.kind.resource();
    json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"resourceVersion": object.resource_version()},
        // In a merge patch what is absent stays, and null goes.
        "status": {
            "observedGeneration": status.observed_generation,
            "revision": status.revision,
            "conditions": status.conditions,
        },
    })
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or_default());
        message.push('…');
    }
    message
}

/// `metav1.Time` has no fractions.
fn seconds(now: Timestamp) -> String {
    Timestamp::from_seconds(now.seconds()).rfc3339().replace(".000Z", "Z")
}
