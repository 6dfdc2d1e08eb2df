//! The stages of a decision, and how long each took.
//!
//! A stage ends where the next begins, or where its check waits for others. A decision that was cut off, by a deadline
//! say, ends within the stage that took too long, which is worth knowing.

use std::future::poll_fn;
use std::mem;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Checks wait for others for so long since they came, and not in the second half of their time: where many are under
/// way, or a stage takes long, each goes on by itself.
const TOGETHER: Duration = Duration::from_millis(10);

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

/// When the stages of one decision began and ended, in order.
#[derive(Debug, Default)]
pub struct Stages {
    /// Until when the check waits for others, if it does.
    together: Option<Instant>,
    begun: Vec<(Stage, Instant, Option<Instant>)>,
}

impl Stages {
    /// Those of a check that came at `came`, has so much time, and goes on together with others.
    pub fn of_check(came: Instant, time: Duration) -> Self {
        Self { together: Some(came + TOGETHER.min(time / 2)), begun: Vec::new() }
    }

    /// `stage` begins, and the one before it ends.
    pub fn begin(&mut self, stage: Stage) {
        let now = Instant::now();
        self.end_at(now);
        if self.begun.is_empty() {
            self.begun.reserve_exact(Stage::ALL.len());
        }
        self.begun.push((stage, now, None));
    }

    /// [`Self::begin`], once the others have come as far.
    pub async fn begin_together(&mut self, stage: Stage) {
        self.meet().await;
        self.begin(stage);
    }

    /// The stage ends, and other checks go on first, as far as they can. Those that came at nearly the same time are
    /// so in the same stage, one after the other, and all but the first find its code and its tables in the processor's
    /// caches (cohort scheduling: Larus and Parkes, USENIX 2002).
    pub async fn meet(&mut self) {
        let now = Instant::now();
        self.end_at(now);
        if self.together.is_some_and(|until| now < until) {
            others_first().await;
        }
    }

    /// The last one ends, unless it has.
    pub fn end(&mut self) {
        self.end_at(Instant::now());
    }

    fn end_at(&mut self, now: Instant) {
        if let Some((.., ended)) = self.begun.last_mut() {
            ended.get_or_insert(now);
        }
    }

    /// Each stage with its beginning and its end.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, Instant, Instant)> {
        let stages = self.begun.iter();
        stages.map(|&(stage, begun, ended)| (stage, begun, ended.unwrap_or_else(Instant::now)))
    }
}

/// Goes on after the tasks that are ready now. Tokio's `yield_now` would also look for what has come: one
/// more system call, after which fewer go on together.
async fn others_first() {
    let mut is_ready = false;
    poll_fn(|context| {
        if !mem::replace(&mut is_ready, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_stage_ends_where_the_next_begins() {
        let mut stages = Stages::default();
        assert_eq!(stages.iter().count(), 0);
        Stage::ALL.into_iter().for_each(|stage| stages.begin(stage));
        stages.end();
        let all: Vec<_> = stages.iter().collect();
        stages.end();
        assert!(all.iter().copied().eq(stages.iter()), "it ends once");
        assert_eq!(all.iter().map(|(stage, ..)| *stage).collect::<Vec<_>>(), Stage::ALL);
        for (this, next) in all.iter().zip(&all[1..]) {
            assert!(this.1 <= this.2 && this.2 == next.1);
        }
    }

    /// The stages of two checks that came at `came` and have so much time, in the order in which they begin.
    async fn of_two(came: Instant, time: Duration) -> Vec<Stage> {
        let (begun, stages) = mpsc::channel();
        let check = || {
            let begun = begun.clone();
            tokio::spawn(async move {
                let mut stages = Stages::of_check(came, time);
                stages.begin(Stage::Identity);
                begun.send(Stage::Identity).unwrap();
                stages.begin_together(Stage::Policy).await;
                begun.send(Stage::Policy).unwrap();
            })
        };
        let (one, other) = (check(), check());
        one.await.unwrap();
        other.await.unwrap();
        stages.try_iter().collect()
    }

    #[tokio::test]
    async fn checks_that_came_together_go_on_together() {
        use Stage::{Identity, Policy};
        // However slow the machine is, they have only just come.
        let now = Instant::now() + Duration::from_secs(60);
        let time = 2 * TOGETHER;
        assert_eq!(of_two(now, time).await, [Identity, Identity, Policy, Policy]);
        for (ago, time) in [(TOGETHER, time), (TOGETHER / 2, TOGETHER)] {
            let before = Instant::now().checked_sub(ago).unwrap();
            assert_eq!(of_two(before, time).await, [Identity, Policy, Identity, Policy]);
        }
    }

    #[tokio::test]
    async fn waiting_for_others_is_of_no_stage() {
        let mut stages = Stages::of_check(Instant::now(), Duration::MAX);
        stages.begin(Stage::Identity);
        stages.meet().await;
        let before = Instant::now();
        stages.begin(Stage::Policy);
        let identity = stages.iter().next().unwrap();
        assert!(identity.2 <= before);
    }
}
