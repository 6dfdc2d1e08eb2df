//! What is written into an object's status.
//!
//! Nothing is written that stands there already, whoever wrote it: so a write, which the watch brings back,
//! leads to no other, and replicas that find the same don't contend.

use serde_json::{Value, json};

use super::object::{Key, Object};
use super::verdict::Finding;
use crate::clock::Timestamp;
use crate::control::resources::{Condition, Status};

/// The one condition.
const READY: &str = "Ready";

/// Longer messages are cut: an object has a limit.
const MAX_MESSAGE: usize = 8 << 10;

/// The status that `object` should have, if it has another. `revision`: the snapshot that has all objects
/// of the namespace that are good.
pub(super) fn wanted(
    object: &Object,
    finding: &Finding,
    revision: Option<&str>,
    now: Timestamp,
) -> Option<Status> {
    let there = object.status();
    let (status, reason, message) = match finding {
        Finding::Good(warnings) if revision.is_some() => ("True", "Published", warnings.join("; ")),
        Finding::Good(warnings) => ("True", "Valid", warnings.join("; ")),
        Finding::Bad(faults) => ("False", "Invalid", faults.join("; ")),
        Finding::Held(why) => ("False", "Held", why.clone()),
    };
    let generation = object.generation();
    let before = there.conditions.iter().find(|condition| condition.kind == READY);
    let condition = Condition {
        kind: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: cut(message),
        last_transition_time: match before {
            Some(before) if before.status == status => before.last_transition_time.clone(),
            _ => seconds(now),
        },
        observed_generation: generation,
    };
    let revision = match finding {
        Finding::Good(_) => revision.map(str::to_owned),
        Finding::Bad(_) | Finding::Held(_) => there.revision.clone(),
    };
    let conditions = vec![condition];
    let wanted = Status { observed_generation: Some(generation), revision, conditions };
    (wanted != there).then_some(wanted)
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
