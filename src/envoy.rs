//! The Envoy edge: `envoy.service.auth.v3.Authorization/Check` over gRPC.
//!
//! To Envoy a default-built `CheckResponse` is an ALLOW, and a gRPC error is whatever
//! `failure_mode_allow` says. So answers are built in [`encode`] alone, and this service frames its
//! own messages: whatever arrives at `Check`, be it undecodable, oversized, late or the cause of a
//! panic, is answered with a denial *inside* a `CheckResponse`.

pub mod decode;
pub mod encode;
mod explain;
pub(crate) mod framing;
mod front;
pub mod json;
mod known;
pub mod over_http;
mod view;

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::CheckResponse;
use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

pub use self::front::Front;

use self::known::{Answer, InTheMaking, Known, Terms};
use self::view::View;
use crate::audit::Recorder;
use crate::authorizer::{Decision, Denial, Grant, Reason};
use crate::clock::Clock;
use crate::request::{Host, Request};
use crate::reuse::{self, Key};
use crate::scope::{SCOPE_EXTENSION, Scope, Scopes};
use crate::token::Channel;

/// Checks in progress at once; one more is refused rather than queued.
const MAX_IN_PROGRESS: usize = 8_192;

/// The time for a check whose caller sends no deadline.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// The ext_authz service.
#[derive(Clone, Debug)]
pub struct CheckService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scopes: Arc<ArcSwap<Scopes>>,
    recorder: Recorder,
    clock: Clock,
    in_progress: Semaphore,
    known: Known,
}

/// What a proxy asks, as it came.
#[derive(Debug)]
enum Asking {
    /// A serialised `CheckRequest`.
    Message(Bytes),
    /// A request that was read already.
    Request(Box<Request>),
}

/// What a check comes to.
enum Checked {
    Decided(Box<Decision>),
    /// It was decided before.
    Known(Arc<Answer>),
}

impl CheckService {
    /// A service that decides by whatever `scopes` holds when a request comes, and keeps answers of up to
    /// `max_known_bytes` to give them again.
    pub fn new(
        scopes: Arc<ArcSwap<Scopes>>,
        recorder: Recorder,
        clock: Clock,
        max_known_bytes: u64,
    ) -> Self {
        let in_progress = Semaphore::new(MAX_IN_PROGRESS);
        let known = Known::new(max_known_bytes);
        Self(Arc::new(Inner { scopes, recorder, clock, in_progress, known }))
    }
}

impl Inner {
    /// Reads one message and answers it, whatever happens.
    async fn answer(&self, call: http::Request<Body>) -> Bytes {
        let deadline = framing::timeout(call.headers()).unwrap_or(DEFAULT_DEADLINE);
        let reading = async {
            let message = framing::read_message(call.into_body()).await;
            message.map(Asking::Message).map_err(|error| Denial::new(Reason::BadRequest, error))
        };
        let mut seen = Seen::new();
        match self.check_in_time(reading, Channel::Proxy, deadline, &mut seen).await {
            Checked::Known(answer) => answer.framed.clone(),
            Checked::Decided(decision) => self.settle(*decision, seen),
        }
    }

    /// Answers what `reading` yields, and gives no answer again.
    async fn decide(
        &self,
        reading: impl Future<Output = Result<Request, Denial>>,
        channel: Channel,
        deadline: Duration,
    ) -> CheckResponse {
        let reading = reading.map(|read| read.map(|request| Asking::Request(Box::new(request))));
        let mut seen = Seen::new();
        match self.check_in_time(reading, channel, deadline, &mut seen).await {
            Checked::Decided(decision) => self.record(*decision, &mut seen).0,
            // Nobody looked for one.
            Checked::Known(_) => {
                let denial = Denial::new(Reason::Internal, "an answer to another question");
                encode::response(None, &Decision::denied(denial))
            }
        }
    }

    async fn check_in_time(
        &self,
        reading: impl Future<Output = Result<Asking, Denial>>,
        channel: Channel,
        deadline: Duration,
        seen: &mut Seen,
    ) -> Checked {
        let work = AssertUnwindSafe(self.check(reading, channel, seen)).catch_unwind();
        let denial = match tokio::time::timeout(margin(deadline), work).await {
            Ok(Ok(Ok(checked))) => return checked,
            Ok(Ok(Err(denial))) => denial,
            Ok(Err(_)) => Denial::new(Reason::Internal, "the check panicked"),
            Err(_) => Denial::new(Reason::Deadline, "the caller's deadline came first"),
        };
        Checked::Decided(Box::new(Decision::denied(denial)))
    }

    /// Read, decide: what is learned on the way is left in `seen`, where neither a deadline nor a
    /// panic takes it.
    async fn check(
        &self,
        reading: impl Future<Output = Result<Asking, Denial>>,
        channel: Channel,
        seen: &mut Seen,
    ) -> Result<Checked, Denial> {
        let Ok(_permit) = self.in_progress.try_acquire() else {
            return Err(Denial::new(Reason::Overload, "too many checks in progress"));
        };
        let asking = reading.await?;
        let scopes = self.scopes.load_full();
        let request = match asking {
            Asking::Request(request) => request,
            Asking::Message(message) => {
                let view = View::of(&message);
                if let Some(view) = &view
                    && let Some(answer) = self.known(view, &scopes, seen).await
                {
                    return Ok(Checked::Known(answer));
                }
                let read = view.map_or_else(|| decode::request(&message), |view| view.request());
                Box::new(read.map_err(|error| Denial::new(Reason::BadRequest, error))?)
            }
        };
        let request = seen.request.insert(request);
        let scope = seen.scope.insert(Arc::clone(scopes.select(request)?));
        // Boxed, since what is known needs no room for all the steps.
        let deciding = scope.authorizer.authorize(request, channel, self.clock.now());
        let decision = Box::pin(deciding).await;
        let is_api = channel == Channel::Api;
        let decision = if is_api { over_http::carried(decision) } else { decision };
        Ok(Checked::Decided(Box::new(decision)))
    }

    /// The answer to the same question, if one may be given again; it is recorded.
    async fn known(
        &self,
        view: &View<'_>,
        scopes: &Scopes,
        seen: &mut Seen,
    ) -> Option<Arc<Answer>> {
        let named = view.extensions.iter().rev().find(|(key, _)| *key == SCOPE_EXTENSION);
        let host = if named.is_some() { Host::default() } else { Host::parse(view.host).ok()? };
        let (scope, _) = scopes.choose_by(named.map(|(_, value)| *value), host.name()).ok()?;
        // What is compared is compared for every request.
        let reuse = scope.reuse.as_ref().filter(|_| scope.shadow.is_none())?;
        let key = reuse.key(&scope.authorizer, &view.asked())?;
        let mut answer = self.known.get(&key, self.clock.now());
        if answer.is_none() {
            seen.making = self.known.wait(key).await;
            answer = self.known.get(&key, self.clock.now());
        }
        self.recorder.looked_for_decision(answer.is_some());
        let Some(answer) = answer else {
            seen.key = Some(key);
            return None;
        };
        let circumstances = view.circumstances();
        let (now, took) = (self.clock.now(), seen.started.elapsed());
        self.recorder.record_repeated(&answer.terms.repeated, circumstances, now, took);
        Some(answer)
    }

    /// Records `decision` and makes the answer, which is kept if it may be given again.
    fn settle(&self, decision: Decision, mut seen: Seen) -> Bytes {
        let key = seen.key;
        let (response, terms) = self.record(decision, &mut seen);
        let framed = framing::framed(&response);
        if let (Some(key), Some(terms)) = (key, terms) {
            self.known.keep(key, Answer { framed: framed.clone(), terms });
        }
        framed
    }

    /// The answer, and how it may be given again.
    fn record(&self, decision: Decision, seen: &mut Seen) -> (CheckResponse, Option<Terms>) {
        let (request, scope) = (seen.request.take(), seen.scope.take());
        let decision = match &scope {
            Some(scope) => scope.enforced(decision),
            None => decision,
        };
        let (now, took) = (self.clock.now(), seen.started.elapsed());
        self.recorder.record(request.as_deref(), scope.as_deref(), &decision, now, took);
        let response = encode::response(scope.as_deref(), &decision);
        let (Some(scope), Some(request)) = (scope, request) else { return (response, None) };
        let terms = match &decision.outcome {
            Ok(Grant::Signed { token, .. }) if seen.key.is_some() => {
                let repeated = || self.recorder.repeated(&request, &scope, &decision);
                reuse::span(token.validity()).map(|span| Terms { repeated: repeated(), span })
            }
            _ => None,
        };
        if let Some(shadow) = &scope.shadow
            && shadow.submit(*request, decision.facts, now).is_err()
        {
            self.recorder.shadow_dropped(&scope.client_id);
        }
        (response, terms)
    }
}

/// What was learned of a check.
struct Seen {
    started: Instant,
    request: Option<Box<Request>>,
    scope: Option<Arc<Scope>>,
    /// Under which its answer may be kept.
    key: Option<Key>,
    /// While the answer is made, others with the same question wait.
    making: Option<InTheMaking>,
}

impl Seen {
    fn new() -> Self {
        Self { started: Instant::now(), request: None, scope: None, key: None, making: None }
    }
}

/// Answers before the caller gives up: its giving up would be an error, and could be an allow.
fn margin(deadline: Duration) -> Duration {
    deadline.saturating_sub(Duration::from_millis(5).max(deadline / 10))
}

impl NamedService for CheckService {
    const NAME: &'static str = "envoy.service.auth.v3.Authorization";
}

/// The serialised descriptors of the service, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ext_authz.bin"));

impl Service<http::Request<Body>> for CheckService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: http::Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            if call.uri().path() != "/envoy.service.auth.v3.Authorization/Check" {
                return Ok(framing::unimplemented());
            }
            Ok(framing::response(inner.answer(call).await))
        })
    }
}

#[cfg(test)]
mod tests;
