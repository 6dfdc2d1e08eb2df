//! A second policy set that is asked beside the first, and never believed.
//!
//! Its opinion is compared with what was decided, counted, and logged where the two differ: so a change
//! of policies is seen on real requests before it is in force. It can't slow a request down or change
//! its answer: the question is handed over after the answer is made, and what the queue has no room for
//! is dropped and counted. An [`Opinion`] is no permit, so nothing is ever signed by it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::authorizer::Facts;
use crate::clock::Timestamp;
use crate::identity::Principal;
use crate::path::CanonicalPath;
use crate::policy::{Context, Opinion, Policy, Question};
use crate::request::{Body, Request};
use crate::route::Target;

/// Questions waiting to be asked, of one scope.
const MAX_WAITING: usize = 1_024;

/// What waits may hold this many KiB of headers and bodies.
const MAX_WAITING_KIB: usize = 32 * 1_024;

/// The shadow policies of one scope.
#[derive(Clone, Debug)]
pub struct Shadow {
    policy: Arc<Policy>,
    queue: Option<Queue>,
}

#[derive(Clone, Debug)]
struct Queue {
    questions: mpsc::Sender<Asked>,
    room: Arc<Semaphore>,
}

/// A decision's question, kept until the shadow is asked.
#[derive(Debug)]
pub struct Asked {
    /// The decision's id.
    pub id: String,
    /// What was decided.
    pub enforced: Opinion,
    question: Kept,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Kept {
    request: Request,
    path: CanonicalPath,
    principal: Arc<Principal>,
    target: Target,
    now: Timestamp,
}

/// The shadow is behind: a question was not asked.
#[derive(Debug, thiserror::Error)]
#[error("the shadow policies are behind, and the question is dropped")]
pub struct Dropped;

impl Shadow {
    /// A shadow that is asked on the spot only, by [`Self::opinion`].
    pub fn inline(policy: Policy) -> Self {
        Self { policy: Arc::new(policy), queue: None }
    }

    /// A shadow with a queue, and its other end: whoever holds that asks.
    pub fn queued(policy: Policy) -> (Self, mpsc::Receiver<Asked>) {
        let (questions, waiting) = mpsc::channel(MAX_WAITING);
        let room = Arc::new(Semaphore::new(MAX_WAITING_KIB));
        let queue = Some(Queue { questions, room });
        (Self { policy: Arc::new(policy), queue }, waiting)
    }

    /// Queues the question of a decision that was made and answered. One that no policy was asked
    /// about is none of the shadow's.
    pub fn submit(&self, request: Request, facts: Facts, now: Timestamp) -> Result<(), Dropped> {
        let Some(Queue { questions, room }) = &self.queue else { return Ok(()) };
        let Facts { id, path, principal, target, opinion, entitlements: _ } = facts;
        let (Some(path), Some(principal), Some(target), Some(enforced)) =
            (path, principal, target, opinion)
        else {
            return Ok(());
        };
        let size = u32::try_from(kib(&request)).map_err(|_| Dropped)?;
        let room = Arc::clone(room).try_acquire_many_owned(size).map_err(|_| Dropped)?;
        let id = id.map(|id| id.to_string()).unwrap_or_default();
        let question = Kept { request, path, principal, target, now };
        questions.try_send(Asked { id, enforced, question, _room: room }).map_err(|_| Dropped)
    }

    /// What the shadow says of a question.
    pub async fn opinion(&self, question: &Question<'_>) -> Opinion {
        survived(self.policy.opinion(question), &self.policy.revision()).await
    }

    /// [`Self::opinion`] on a question that was queued.
    pub async fn answer(&self, asked: &Asked) -> Opinion {
        let Kept { request, path, principal, target, now } = &asked.question;
        let context = Context::Http { request, path };
        self.opinion(&Question { principal, target, context, now: *now }).await
    }
}

/// A panic is a fault like any other.
async fn survived(asking: impl Future<Output = Opinion>, revision: &str) -> Opinion {
    let said = AssertUnwindSafe(asking).catch_unwind().await;
    said.unwrap_or_else(|_| Opinion::fault("the shadow policies panicked", revision))
}

/// What `request` holds, in KiB, rounded up.
fn kib(request: &Request) -> usize {
    let body = match &request.body {
        Body::Unsent => 0,
        Body::Whole(bytes) | Body::Partial(bytes) => bytes.len(),
    };
    let fields = request.headers.iter().map(|(name, value)| name.len() + value.len());
    (body + request.target.len() + fields.sum::<usize>()) / 1_024 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW, request};
    use crate::policy::Said;
    use crate::token::Channel;

    /// Nothing but account 2 may be read.
    const NEXT: &str = r#"
        @id("read-2") permit(principal, action, resource == Account::"2");
    "#;

    async fn submit(shadow: &Shadow, request: Request) -> Result<(), Dropped> {
        let decision = fixture::authorizer().authorize(&request, Channel::Proxy, NOW).await;
        shadow.submit(request, decision.facts, NOW)
    }

    #[tokio::test]
    async fn a_question_is_asked_again_and_compared() {
        let (shadow, mut waiting) = Shadow::queued(fixture::policy(NEXT, "[]"));
        for (path, enforced, said) in [
            ("/accounts/1", Said::Permitted, Said::NoPermit),
            ("/accounts/2", Said::NoPermit, Said::Permitted),
            ("/accounts/3", Said::NoPermit, Said::NoPermit),
        ] {
            submit(&shadow, request("GET", path)).await.unwrap();
            let asked = waiting.try_recv().unwrap();
            let opinion = shadow.answer(&asked).await;
            assert_eq!((asked.enforced.said, opinion.said), (enforced, said), "{path}");
            assert_eq!(asked.enforced.agrees(&opinion), enforced == said, "{path}");
            assert_ne!(asked.enforced.grounds.revision, opinion.grounds.revision);
            assert_eq!(asked.id.len(), 22);
        }
    }

    #[tokio::test]
    async fn what_no_policy_was_asked_is_not_the_shadows_either() {
        let (shadow, mut waiting) = Shadow::queued(fixture::policy(NEXT, "[]"));
        for path in ["/healthz", "/nowhere", "//"] {
            submit(&shadow, request("GET", path)).await.unwrap();
            assert!(waiting.try_recv().is_err(), "{path}");
        }
    }

    #[tokio::test]
    async fn a_full_queue_drops() {
        let (shadow, waiting) = Shadow::queued(fixture::policy(NEXT, "[]"));
        for _ in 0..MAX_WAITING {
            submit(&shadow, request("GET", "/accounts/1")).await.unwrap();
        }
        assert!(submit(&shadow, request("GET", "/accounts/1")).await.is_err());
        drop(waiting);
    }

    #[tokio::test]
    async fn large_bodies_fill_it_sooner() {
        let (shadow, mut waiting) = Shadow::queued(fixture::policy(NEXT, "[]"));
        let large = || Request {
            body: Body::Whole(vec![0; 4 << 20].into()),
            ..request("GET", "/accounts/1")
        };
        for _ in 0..7 {
            submit(&shadow, large()).await.unwrap();
        }
        assert!(submit(&shadow, large()).await.is_err());
        drop(waiting.try_recv().unwrap());
        submit(&shadow, large()).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_a_fault() {
        let opinion = survived(async { panic!("while asked") }, "r1").await;
        assert_eq!((opinion.said, opinion.grounds.revision.as_str()), (Said::Fault, "r1"));
        assert!(opinion.detail.is_some());
    }

    #[test]
    fn where_there_is_no_telling_nothing_agrees() {
        let fault = Opinion::fault("broken", "r");
        assert!(!fault.agrees(&fault.clone()));
    }
}
