//! The stages of a decision, and how long each took.
//!
//! A stage ends where the next begins. A decision that was cut off, by a deadline say, ends within the
//! stage that took too long, which is worth knowing.

use std::time::Instant;

/// A stage of deciding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// The canonical path, and what it is about.
    Route,
    /// Credential to principal, and the deny list.
    Identity,
    /// Question to permit.
    Policy,
    /// What the principal holds, where a token lists it.
    Entitlements,
    /// Permit to token, signing included.
    Token,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 5] =
        [Self::Route, Self::Identity, Self::Policy, Self::Entitlements, Self::Token];

    /// Its name in metrics and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Identity => "identity",
            Self::Policy => "policy",
            Self::Entitlements => "entitlements",
            Self::Token => "token",
        }
    }
}

/// When the stages of one decision began, in order.
#[derive(Debug, Default)]
pub struct Stages {
    begun: Vec<(Stage, Instant)>,
    ended: Option<Instant>,
}

impl Stages {
    /// `stage` begins, and the one before it ends.
    pub fn begin(&mut self, stage: Stage) {
        if self.begun.is_empty() {
            self.begun.reserve_exact(Stage::ALL.len());
        }
        self.begun.push((stage, Instant::now()));
    }

    /// The last one ends, unless it has.
    pub fn end(&mut self) {
        self.ended.get_or_insert_with(Instant::now);
    }

    /// Each stage with its beginning and its end.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, Instant, Instant)> {
        let ends = self.begun.iter().skip(1).map(|(_, next)| Some(*next)).chain([self.ended]);
        let stages = self.begun.iter().zip(ends);
        stages.map(|(&(stage, begun), ended)| (stage, begun, ended.unwrap_or_else(Instant::now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_ends_where_the_next_begins() {
        let mut stages = Stages::default();
        assert_eq!(stages.iter().count(), 0);
        Stage::ALL.into_iter().for_each(|stage| stages.begin(stage));
        stages.end();
        let ended = stages.ended;
        stages.end();
        assert_eq!(stages.ended, ended, "it ends once");
        let all: Vec<_> = stages.iter().collect();
        assert_eq!(all.iter().map(|(stage, ..)| *stage).collect::<Vec<_>>(), Stage::ALL);
        for (this, next) in all.iter().zip(&all[1..]) {
            assert!(this.1 <= this.2 && this.2 == next.1);
        }
        assert_eq!(Some(all[4].2), ended);
    }
}
