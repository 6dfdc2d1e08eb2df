//! Where questions are put by anyone but the proxy, whatever protocol they come in.
//!
//! A caller is authenticated before its question is even read; it speaks for one scope and is answered
//! by that scope's policies. Every answer is recorded like a proxy's check. Whatever fails, a deadline
//! and a panic too, is a [`Refusal`] or a no, never a yes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::question::{Batch, Malformed, Searching, Semantic, Single};
use crate::audit::{Recorder, Unwritten};
use crate::authorizer::{Denial, Evaluation, Facts, Reason, Statement};
use crate::clock::Clock;
use crate::scope::{CallerError, Presented, Scope, Scopes};
use crate::search::{Found, SearchError};
use crate::stages::Stages;

/// Requests in progress at once; one more is refused rather than queued.
const MAX_IN_PROGRESS: usize = 1_024;

/// The time for a request whose caller sets none.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// How long an answer waits for room in the decision log, where it has to.
const WAITS_FOR_LOG: Duration = Duration::from_secs(4);

/// Questions of a batch answered between two pauses.
const BETWEEN_YIELDS: usize = 32;

/// Answers questions; a cheap clone shares it.
#[derive(Clone, Debug)]
pub struct Desk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scopes: Arc<ArcSwap<Scopes>>,
    recorder: Recorder,
    clock: Clock,
    in_progress: Semaphore,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Yes or no.
    pub decision: bool,
    /// With a no its `reason` and `id`, with a signed yes its `token` and `id`, else nothing.
    pub context: Map<String, Value>,
}

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No scope answers questions.
    #[error("there is nothing here")]
    Closed,
    /// The caller did not prove who it is.
    #[error("{0}")]
    Caller(#[from] CallerError),
    /// The caller's scope answers no questions.
    #[error("the caller's scope answers no questions: its settings need `api.authzen`")]
    NotSwitchedOn,
    /// The question can't be read.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The question is too long to be read.
    #[error("the question is larger than {0} bytes")]
    TooLarge(usize),
    /// The scope's policies can't be searched.
    #[error("{}", SearchError::Unsearchable)]
    Unsearchable,
    /// A fault of our own; what it was is in the log.
    #[error("{}", .0.code())]
    Fault(Reason),
}

impl From<SearchError> for Refusal {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Unsearchable => Self::Unsearchable,
            SearchError::Cursor => Malformed::from(error).into(),
        }
    }
}

impl Desk {
    /// A desk that answers by whatever `scopes` holds when a question comes.
    pub fn new(scopes: Arc<ArcSwap<Scopes>>, recorder: Recorder, clock: Clock) -> Self {
        let in_progress = Semaphore::new(MAX_IN_PROGRESS);
        Self(Arc::new(Inner { scopes, recorder, clock, in_progress }))
    }

    /// The scopes in force.
    pub(super) fn scopes(&self) -> Arc<Scopes> {
        self.0.scopes.load_full()
    }

    /// The scope that a caller may ask, by what it presents.
    pub(super) fn caller(&self, presented: Presented<'_>) -> Result<Arc<Scope>, Refusal> {
        let scopes = self.scopes();
        let answers = |scope: &Arc<Scope>| scope.api.as_ref().is_some_and(|api| api.authzen);
        if !scopes.iter().any(answers) {
            return Err(Refusal::Closed);
        }
        let (scope, api) = scopes.of_caller(presented)?;
        if api.authzen { Ok(Arc::clone(scope)) } else { Err(Refusal::NotSwitchedOn) }
    }

    /// Does `work` for a caller of `scope`, if it can be done within `deadline`.
    pub(super) async fn within<T>(
        &self,
        deadline: Duration,
        scope: &Scope,
        request_id: &str,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let started = Instant::now();
        let (reason, detail) = match self.0.in_progress.try_acquire() {
            Err(_) => (Reason::Overload, "too many questions in progress"),
            Ok(_place) => {
                let work = AssertUnwindSafe(work).catch_unwind();
                match tokio::time::timeout(deadline, work).await {
                    Ok(Ok(done)) => return done,
                    Ok(Err(_)) => (Reason::Internal, "answering panicked"),
                    Err(_) => (Reason::Deadline, "the deadline came first"),
                }
            }
        };
        let outcome = Err(Denial::new(reason, detail));
        let (facts, stages) = (Facts::default(), Stages::default());
        let evaluation = Evaluation { outcome, facts, stages };
        if let Err(unwritten) = self.record(scope, request_id, &evaluation, started) {
            // It is a no, which can stand without its line, and there is no time left.
            unwritten.given_up();
        }
        Err(Refusal::Fault(reason))
    }

    /// Answers one question; a fault of ours is no answer.
    pub(super) async fn single(
        &self,
        scope: &Scope,
        request_id: &str,
        question: &Single,
    ) -> Result<Answer, Refusal> {
        let Single { statement, signed } = question;
        let evaluation = self.evaluate(scope, request_id, statement, *signed).await;
        match &evaluation.outcome {
            Err(denial) if is_fault(denial) => Err(Refusal::Fault(denial.reason())),
            _ => Ok(Answer::of(&evaluation)),
        }
    }

    /// Answers questions up to where their semantic ends; a fault of ours is a no.
    pub(super) async fn batch(
        &self,
        scope: &Scope,
        request_id: &str,
        batch: &Batch,
    ) -> Vec<Answer> {
        let mut answers = Vec::new();
        for question in &batch.items {
            let answer = match question {
                Ok(statement) => {
                    let signed = batch.signed;
                    Answer::of(&self.evaluate(scope, request_id, statement, signed).await)
                }
                Err(malformed) => Answer::error(400, &malformed.to_string()),
            };
            let is_over = match batch.semantic {
                Semantic::ExecuteAll => false,
                Semantic::DenyOnFirstDeny => !answer.decision,
                Semantic::PermitOnFirstPermit => answer.decision,
            };
            answers.push(answer);
            if is_over {
                break;
            }
            if answers.len() % BETWEEN_YIELDS == 0 {
                tokio::task::yield_now().await;
            }
        }
        answers
    }

    /// Searches.
    pub(super) async fn search(
        &self,
        scope: &Scope,
        searching: &Searching,
    ) -> Result<Found, Refusal> {
        let Searching { search, from, limit } = searching;
        let now = self.0.clock.now();
        Ok(scope.authorizer.search(search, from.as_ref(), *limit, now).await?)
    }

    async fn evaluate(
        &self,
        scope: &Scope,
        request_id: &str,
        statement: &Statement,
        signed: bool,
    ) -> Evaluation {
        let started = Instant::now();
        let now = self.0.clock.now();
        let evaluation = scope.authorizer.evaluate(statement, signed, now).await;
        let Err(unwritten) = self.record(scope, request_id, &evaluation, started) else {
            return evaluation;
        };
        let Err(full) = unwritten.written(started + WAITS_FOR_LOG).await else { return evaluation };
        let outcome = evaluation.outcome.and(Err(Denial::new(Reason::LogFull, full)));
        // What was looked up was counted with the evaluation that is none now.
        let facts = Facts { entitlements: None, ..evaluation.facts };
        let evaluation = Evaluation { outcome, facts, stages: Stages::default() };
        if let Err(unwritten) = self.record(scope, request_id, &evaluation, started) {
            unwritten.given_up();
        }
        evaluation
    }

    fn record(
        &self,
        scope: &Scope,
        request_id: &str,
        evaluation: &Evaluation,
        started: Instant,
    ) -> Result<(), Box<Unwritten>> {
        let now = self.0.clock.now();
        self.0.recorder.record_evaluation(request_id, scope, evaluation, now, started.elapsed())
    }
}

impl Answer {
    fn of(evaluation: &Evaluation) -> Self {
        let id = evaluation.facts.id.as_ref().map(ToString::to_string);
        match &evaluation.outcome {
            Ok(permission) => {
                let mut context = Map::new();
                if let Some(token) = &permission.token {
                    context.insert("token".to_owned(), token.as_str().into());
                    context.insert("id".to_owned(), id.into());
                }
                Self { decision: true, context }
            }
            Err(denial) => {
                let code = denial.reason().code();
                let mut answer = if is_fault(denial) {
                    Self::error(500, code)
                } else {
                    Self { decision: false, context: Map::new() }
                };
                answer.context.insert("reason".to_owned(), code.into());
                answer.context.insert("id".to_owned(), id.into());
                answer
            }
        }
    }

    fn error(status: u16, message: &str) -> Self {
        let error = json!({"status": status, "message": message});
        Self { decision: false, context: Map::from_iter([("error".to_owned(), error)]) }
    }
}

/// Whether it was not the policies that said no.
fn is_fault(denial: &Denial) -> bool {
    denial.reason().status() >= 500
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture;
    use crate::audit::{LogSettings, Sink, WhenFull};
    use crate::fixture::NOW;
    use crate::metrics::Metrics;

    async fn within(
        desk: &Desk,
        deadline: Duration,
        work: impl Future<Output = Result<(), Refusal>>,
    ) -> Result<(), Refusal> {
        desk.within(deadline, &crate::fixture::scope("orders"), "", work).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_or_panics_is_no_answer() {
        let (desk, log) = fixture::desk(crate::fixture::scope("orders"));
        let fault = |reason| Err(Refusal::Fault(reason));
        assert_eq!(within(&desk, DEADLINE, async { Ok(()) }).await, Ok(()));
        let never = std::future::pending();
        assert_eq!(within(&desk, DEADLINE, never).await, fault(Reason::Deadline));
        let panicking = async { panic!("as a test") };
        assert_eq!(within(&desk, DEADLINE, panicking).await, fault(Reason::Internal));
        drop(desk);
        let reasons: Vec<_> = log.records().iter().map(|it| it["reason"].clone()).collect();
        assert_eq!(reasons, ["deadline", "internal"]);
    }

    #[tokio::test]
    async fn one_too_many_is_refused_and_not_queued() {
        let (desk, _log) = fixture::desk(crate::fixture::scope("orders"));
        let held: Vec<_> =
            (0..MAX_IN_PROGRESS).map(|_| desk.0.in_progress.try_acquire().unwrap()).collect();
        let refused = within(&desk, DEADLINE, async { Ok(()) }).await;
        assert_eq!(refused, Err(Refusal::Fault(Reason::Overload)));
        drop(held);
        assert_eq!(within(&desk, DEADLINE, async { Ok(()) }).await, Ok(()));
    }
    #[tokio::test(start_paused = true)]
    async fn what_the_log_has_no_room_for_is_no_yes() {
        for (when_full, expected) in
            [(WhenFull::Drop, Ok(true)), (WhenFull::Block, Err(Refusal::Fault(Reason::LogFull)))]
        {
            let sink = Sink::file("/dev/null");
            let settings = LogSettings { when_full, buffer_bytes: 1, ..LogSettings::to(sink) };
            let (recorder, _) = Recorder::open(settings, Metrics::new()).unwrap();
            let desk = Desk::new(
                Arc::new(ArcSwap::from_pointee(Scopes::default())),
                recorder,
                Clock::Fixed(NOW),
            );
            let question = json!({
                "subject": {"type": "User", "id": "alice"},
                "action": {"name": "read"},
                "resource": {"type": "Account", "id": "1"},
            });
            let question = super::super::question::single(question.as_object().unwrap()).unwrap();
            let scope = fixture::scope("orders", "permit(principal, action, resource);", "[]");
            let answer = desk.single(&scope, "", &question).await;
            assert_eq!(answer.map(|answer| answer.decision), expected);
        }
    }
}
