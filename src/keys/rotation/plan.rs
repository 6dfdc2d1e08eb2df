//! Which version of a key signs, which is only published, and which is neither: a pure function of
//! what the store lists and the time.
//!
//! A version is published as soon as it is seen and signs once it is `publish_before` old, by the
//! store's own clock, so that replicas agree and a restart changes nothing. One that no longer signs
//! stays published until its last token has expired. Only where no version is old enough does the
//! newest sign at once: there is nothing else to sign with.

use std::time::Duration;

use crate::clock::Timestamp;

/// How far verifiers' and replicas' clocks may be off.
const SKEW: Duration = Duration::from_secs(60);

/// A version that can be used, as planning needs it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Version {
    /// Its number in the store; greater is newer.
    pub(super) number: u64,
    /// When it came into being.
    pub(super) created: Timestamp,
}

/// How long each stage lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// From publishing to signing.
    pub(super) publish_before: Duration,
    /// The longest life of a token.
    pub(super) token_lifetime: Duration,
    /// How much later than others a replica may notice a version.
    pub(super) refresh_interval: Duration,
}

impl Timing {
    /// When `version` may sign.
    fn matures(&self, version: &Version) -> Timestamp {
        version.created.after(self.publish_before)
    }

    /// Until when the key is needed that stopped signing at `end`.
    fn needed_until(&self, end: Timestamp) -> Timestamp {
        end.after(self.token_lifetime + SKEW + self.refresh_interval)
    }
}

/// Versions by life stage.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Plan {
    /// Signs.
    pub(super) active: u64,
    /// Will sign; newest first.
    pub(super) next: Vec<u64>,
    /// Signed; newest first.
    pub(super) retired: Vec<u64>,
}

impl Plan {
    /// The stages at `now` of `versions`, in ascending order. `signing` is the version that signed
    /// until now, and `stopped` tells when versions stopped signing that were seen to stop. `None`
    /// when there is no version.
    pub(super) fn new(
        versions: &[Version],
        signing: Option<u64>,
        stopped: &[(u64, Timestamp)],
        timing: &Timing,
        now: Timestamp,
    ) -> Option<Self> {
        let active = active(versions, signing, timing, now)?;
        let newest_first = || versions.iter().rev().map(|version| version.number);
        // A replica whose successor was activated early waits for those that go on as planned.
        let is_needed = |number: u64| {
            let seen = stopped.iter().find(|(stopped, _)| *stopped == number).map(|(_, end)| *end);
            let end = seen.max(taken_over(versions, number, timing));
            end.is_none_or(|end| now < timing.needed_until(end))
        };
        Some(Self {
            active,
            next: newest_first().filter(|number| *number > active).collect(),
            retired: newest_first()
                .filter(|number| *number < active && is_needed(*number))
                .collect(),
        })
    }
}

fn active(
    versions: &[Version],
    signing: Option<u64>,
    timing: &Timing,
    now: Timestamp,
) -> Option<u64> {
    let mature = versions.iter().rev().find(|version| timing.matures(version) <= now);
    let signing = versions.iter().find(|version| Some(version.number) == signing);
    match (mature, signing) {
        // Time never runs backwards through the versions, even if a clock does.
        (Some(mature), Some(signing)) => Some(mature.number.max(signing.number)),
        (Some(version), None) | (None, Some(version)) => Some(version.number),
        (None, None) => versions.last().map(|version| version.number),
    }
}

/// When the next newer version took over from `number`.
fn taken_over(versions: &[Version], number: u64, timing: &Timing) -> Option<Timestamp> {
    versions.iter().find(|version| version.number > number).map(|next| timing.matures(next))
}

#[cfg(test)]
mod tests;
