//! The Envoy edge: `envoy.service.auth.v3.Authorization/Check` over gRPC.
//!
//! To Envoy a default-built `CheckResponse` is an ALLOW, and a gRPC error is whatever
//! `failure_mode_allow` says. So answers are built in [`encode`] alone, and this service frames its
//! own messages: whatever arrives at `Check`, be it undecodable, oversized, late or the cause of a
//! panic, is answered with a denial *inside* a `CheckResponse`.

mod answer_cache;
pub mod capture;
mod check;
pub mod decode;
pub mod encode;
mod explain;
pub(crate) mod framing;
mod front;
pub mod json;
pub mod over_http;
mod seen;
mod view;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::CheckResponse;
use futures_util::FutureExt;
use http::HeaderMap;
use tokio::sync::{Semaphore, SemaphorePermit};

pub use self::check::{Answering, Check};
pub use self::front::Front;

use self::answer_cache::{Answer, AnswerCache, Terms};
use self::capture::Tap;
use self::framing::FrameError;
use self::seen::Seen;
use self::view::View;
use crate::audit::{self, Circumstances, Entry, LogFull, Recorder, Unwritten};
use crate::authorizer::{Decision, Denial, Facts, Grant, Reason};
use crate::clock::{Clock, Timestamp};
use crate::request::{Host, Request};
use crate::reuse;
use crate::scope::{SCOPE_EXTENSION, Scope, Scopes};
use crate::token::Channel;
use crate::trace::{Arrival, Edge, Incoming, Told, Tracer};

/// Checks in progress at once; one more is refused rather than queued.
const MAX_IN_PROGRESS: usize = 8_192;

/// The ext_authz service.
#[derive(Clone, Debug)]
pub struct CheckService(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scopes: Arc<ArcSwap<Scopes>>,
    recorder: Recorder,
    clock: Clock,
    in_progress: Semaphore,
    room: framing::Room,
    cache: AnswerCache,
    /// `None` where no traces are made.
    tracer: Option<Tracer>,
    tap: Option<Tap>,
}

impl CheckService {
    /// A service that decides by whatever `scopes` holds when a request comes, and keeps answers of up to
    /// `max_cached_bytes` to give them again. Checks are also handed to `tap`.
    pub fn new(
        scopes: Arc<ArcSwap<Scopes>>,
        recorder: Recorder,
        clock: Clock,
        max_cached_bytes: u64,
        tracer: Option<Tracer>,
        tap: Option<Tap>,
    ) -> Self {
        let in_progress = Semaphore::new(MAX_IN_PROGRESS);
        let (room, cache) = (framing::Room::new(), AnswerCache::new(max_cached_bytes));
        Self(Arc::new(Inner { scopes, recorder, clock, in_progress, room, cache, tracer, tap }))
    }

    /// How many checks are in progress.
    pub fn in_progress(&self) -> usize {
        MAX_IN_PROGRESS.saturating_sub(self.0.in_progress.available_permits())
    }

    /// A check of the call that begins with `headers`.
    pub(crate) fn check<B>(&self, headers: &HeaderMap, body: B) -> Check<B> {
        Check::new(self.clone(), headers, body)
    }
}

impl Inner {
    /// Decides on what `reading` yields, for a proxy that asks over HTTP.
    async fn decide_over_http(
        &self,
        reading: impl Future<Output = Result<Request, Denial>>,
        deadline: Duration,
    ) -> CheckResponse {
        let mut seen = Seen::new(Edge::Http, Some(deadline));
        let until = seen.until;
        let place = self.in_progress.try_acquire().ok();
        let checking = async {
            let request = Box::new(reading.await?);
            self.join_with(&mut seen, &request);
            let scopes = self.scopes.load_full();
            let decision = self.check_request(request, &scopes, Channel::Api, &mut seen).await?;
            Ok(over_http::carried(decision))
        };
        let checked = self.in_time(place.as_ref(), until, pin!(checking)).await;
        let decision = checked.unwrap_or_else(Decision::denied);
        self.record(decision, &mut seen).await.0
    }

    /// Checks unless there is no place for it, since too much is checked already. A deadline and a panic are
    /// denials too.
    async fn in_time<T>(
        &self,
        place: Option<&SemaphorePermit<'_>>,
        until: Instant,
        checking: Pin<&mut impl Future<Output = Result<T, Denial>>>,
    ) -> Result<T, Denial> {
        if place.is_none() {
            return Err(Denial::new(Reason::Overload, "too many checks in progress"));
        }
        // A panic, which the panic hook has told of, denies one check.
        let checking = AssertUnwindSafe(checking).catch_unwind();
        match tokio::time::timeout_at(until.into(), checking).await {
            Ok(Ok(checked)) => checked,
            Ok(Err(_)) => Err(panicked()),
            Err(_) => Err(Denial::new(Reason::Deadline, "the caller's deadline came first")),
        }
    }

    /// Finds the trace that a check belongs to, unless it is known: by what `fields` say, and for the last
    /// of those that could say it, with a trace of our own if it is to have one.
    fn join<'a>(
        &self,
        seen: &mut Seen,
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        is_last: bool,
    ) {
        let Some(tracer) = self.tracer.as_ref().filter(|_| !seen.is_joined) else { return };
        let incoming = Incoming::among(fields);
        if is_last || incoming.is_some() {
            seen.is_joined = true;
            seen.trace = tracer.join(incoming);
        }
    }

    /// [`Self::join`], by the fields of the call itself.
    fn join_call(&self, seen: &mut Seen, headers: &HeaderMap) {
        if self.tracer.is_some() {
            let fields = headers.iter();
            let fields = fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
            self.join(seen, fields, false);
        }
    }

    /// [`Self::join`], by the fields of a request.
    fn join_with(&self, seen: &mut Seen, request: &Request) {
        if self.tracer.is_some() {
            let fields = request.headers.iter();
            self.join(seen, fields.map(|(name, value)| (name.as_bytes(), value)), true);
        }
    }

    async fn check_request(
        &self,
        request: Box<Request>,
        scopes: &Scopes,
        channel: Channel,
        seen: &mut Seen,
    ) -> Result<Decision, Denial> {
        let Seen { request: seen_request, scope: seen_scope, stages, .. } = seen;
        let request = seen_request.insert(request);
        let scope = seen_scope.insert(Arc::clone(scopes.select(request)?));
        let now = self.clock.now();
        Ok(scope.authorizer.authorize_in(stages, request, channel, now).await)
    }

    /// The answer to the same question, if one may be given again; it is recorded. Otherwise the
    /// question is left in `seen`, if its answer may be kept.
    fn known(&self, view: &View<'_>, scopes: &Scopes, seen: &mut Seen) -> Option<Arc<Answer>> {
        if self.tracer.is_some() {
            self.join(seen, view.headers.iter().copied(), true);
        }
        let named = view.extensions.iter().rev().find(|(key, _)| *key == SCOPE_EXTENSION);
        let host = if named.is_some() { Host::default() } else { Host::parse(view.host).ok()? };
        let (scope, _) = scopes.choose_by(named.map(|(_, value)| *value), host.name()).ok()?;
        // What is compared is compared for every request, and what is stale decides nothing.
        let now = self.clock.now();
        let is_stale = scope.authorizer.policy.is_stale(now);
        let reuse = scope.reuse.as_ref().filter(|_| scope.shadow.is_none() && !is_stale)?;
        let key = reuse.key(&scope.authorizer, &view.asked())?;
        let answer = self.cache.get(&key, now);
        match &answer {
            Some(answer) => {
                let circumstances = Circumstances { trace: seen.trace, ..view.circumstances() };
                self.give_again(answer, scope, circumstances, now, seen);
            }
            None => seen.question = Some((Arc::clone(scope), key)),
        }
        answer
    }

    /// Records that `answer` is given again, and leaves the record in `seen` if the log has no room for it.
    fn give_again(
        &self,
        answer: &Answer,
        scope: &Arc<Scope>,
        circumstances: Circumstances<'_>,
        now: Timestamp,
        seen: &mut Seen,
    ) {
        self.recorder.looked_for_decision(true);
        let (entry, took) = (&answer.terms.entry, seen.started.elapsed());
        let recorded = self.recorder.record_again(entry, circumstances, now, took);
        if let Err(unwritten) = recorded {
            seen.unwritten = Some(unwritten);
            seen.scope = Some(Arc::clone(scope));
        }
    }

    /// `answer` once more, now that it is recorded.
    fn again(&self, answer: &Answer, seen: &Seen) -> Bytes {
        let told = || Told { reused: true, ..*answer.terms.told.clone().unwrap_or_default() };
        self.finish_trace(seen, told);
        answer.framed.clone()
    }

    fn finish_trace(&self, seen: &Seen, told: impl FnOnce() -> Told) {
        if let Some(tracer) = &self.tracer {
            tracer.finish(seen.trace, seen.started, &seen.stages, told);
        }
    }

    /// Records `decision` and makes the answer, which is kept if it may be given again.
    async fn settle(&self, decision: Decision, seen: &mut Seen) -> Bytes {
        let key = seen.question.as_ref().map(|(_, key)| *key);
        let (response, terms) = self.record(decision, seen).await;
        let framed = framing::framed(&response);
        if let (Some(key), Some(terms)) = (key, terms) {
            self.cache.keep(key, Answer { framed: framed.clone(), terms });
        }
        framed
    }

    /// The answer, and how it may be given again.
    async fn record(&self, decision: Decision, seen: &mut Seen) -> (CheckResponse, Option<Terms>) {
        seen.stages.meet().await;
        let (request, scope) = (seen.request.take(), seen.scope.take());
        let decision = match &scope {
            // In a dry run too nothing passes unlogged that must not.
            Some(scope) if !is_unlogged(&decision) => scope.enforced(decision),
            _ => decision,
        };
        let now = self.clock.now();
        let record = |decision: &Decision| {
            let (request, scope, took) =
                (request.as_deref(), scope.as_deref(), seen.started.elapsed());
            let arrival = Arrival { edge: seen.edge, trace: seen.trace };
            let entry = self.recorder.entry(arrival, request, scope, decision, now, took);
            let recorded = self.recorder.record(&entry, took);
            (entry, recorded)
        };
        let (entry, recorded) = record(&decision);
        let decision = match recorded {
            Ok(()) => decision,
            Err(unwritten) => Box::pin(logged(decision, *unwritten, seen.until, record)).await,
        };
        seen.stages.end();
        self.recorder.stages(&seen.stages);
        let told = || Told { edge: seen.edge, ..audit::told(scope.as_deref(), &decision) };
        self.finish_trace(seen, told);
        let response = encode::response(scope.as_deref(), &decision);
        let (Some(scope), Some(request)) = (scope, request) else { return (response, None) };
        let terms = match &decision.outcome {
            Ok(Grant::Signed { token, .. }) if seen.question.is_some() => {
                let told =
                    || self.tracer.as_ref().map(|_| Box::new(audit::told(Some(&scope), &decision)));
                reuse::span(token.validity()).map(|span| Terms { entry, told: told(), span })
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

/// `decision` once it is logged by `until`, or what stands without that: a no does, a yes is none.
async fn logged(
    decision: Decision,
    unwritten: Unwritten,
    until: Instant,
    record: impl Fn(&Decision) -> (Entry, Result<(), Box<Unwritten>>),
) -> Decision {
    let Err(full) = unwritten.written(until).await else { return decision };
    let outcome = decision.outcome.and(Err(full.into()));
    // What was looked up was counted with the decision that is none now.
    let facts = Facts { entitlements: None, ..decision.facts };
    let decision = Decision { outcome, facts };
    if let (_, Err(unwritten)) = record(&decision) {
        unwritten.given_up();
    }
    decision
}

fn is_unlogged(decision: &Decision) -> bool {
    matches!(&decision.outcome, Err(denial) if denial.reason() == Reason::LogFull)
}

impl From<LogFull> for Denial {
    fn from(full: LogFull) -> Self {
        Self::new(Reason::LogFull, full)
    }
}

fn panicked() -> Denial {
    Denial::new(Reason::Internal, "the check panicked")
}

impl From<FrameError> for Denial {
    fn from(error: FrameError) -> Self {
        let reason = match error {
            FrameError::NoRoom => Reason::Overload,
            _ => Reason::BadRequest,
        };
        Self::new(reason, error)
    }
}

/// The service's full name.
pub const SERVICE: &str = "envoy.service.auth.v3.Authorization";

/// The path of its one method.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The serialised descriptors of the service, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ext_authz.bin"));

#[cfg(test)]
mod tests;
