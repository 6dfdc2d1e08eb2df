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
pub mod json;
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
use envoy_types::ext_authz::v3::pb::CheckResponse;
use futures_util::FutureExt;
use prost::Message;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::audit::Recorder;
use crate::authorizer::{Decision, Denial, Reason};
use crate::clock::Clock;
use crate::request::Request;
use crate::scope::{Scope, Scopes};
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
}

impl CheckService {
    /// A service that decides by whatever `scopes` holds when a request comes.
    pub fn new(scopes: Arc<ArcSwap<Scopes>>, recorder: Recorder, clock: Clock) -> Self {
        let in_progress = Semaphore::new(MAX_IN_PROGRESS);
        Self(Arc::new(Inner { scopes, recorder, clock, in_progress }))
    }
}

impl Inner {
    /// Reads one message and answers it, whatever happens.
    async fn answer(&self, call: http::Request<Body>) -> CheckResponse {
        let deadline = framing::timeout(call.headers()).unwrap_or(DEFAULT_DEADLINE);
        let bad = |error: &dyn std::fmt::Display| Denial::new(Reason::BadRequest, error);
        let decoding = async {
            let message = framing::read_message(call.into_body()).await;
            decode::request(&message.map_err(|error| bad(&error))?).map_err(|error| bad(&error))
        };
        self.decide(decoding, Channel::Proxy, deadline).await
    }

    /// Decides on what `decoding` yields, records it, and makes the answer.
    async fn decide(
        &self,
        decoding: impl Future<Output = Result<Request, Denial>>,
        channel: Channel,
        deadline: Duration,
    ) -> CheckResponse {
        let started = Instant::now();
        let mut seen = Seen::default();
        let work = AssertUnwindSafe(self.check(decoding, channel, &mut seen)).catch_unwind();
        let denied = |reason, detail: &str| Decision::denied(Denial::new(reason, detail));
        let decision = match tokio::time::timeout(margin(deadline), work).await {
            Ok(Ok(Ok(decision))) => decision,
            Ok(Ok(Err(denial))) => Decision::denied(denial),
            Ok(Err(_)) => denied(Reason::Internal, "the check panicked"),
            Err(_) => denied(Reason::Deadline, "the caller's deadline came first"),
        };
        let Seen { request, scope } = seen;
        let decision = match &scope {
            Some(scope) => scope.enforced(decision),
            None => decision,
        };
        let now = self.clock.now();
        self.recorder.record(request.as_ref(), scope.as_deref(), &decision, now, started.elapsed());
        let response = encode::response(scope.as_deref(), &decision);
        if let (Some(scope), Some(request)) = (scope, request)
            && let Some(shadow) = &scope.shadow
            && shadow.submit(request, decision.facts, now).is_err()
        {
            self.recorder.shadow_dropped(&scope.client_id);
        }
        response
    }

    /// Decode, call: what is learned on the way is left in `seen`, where neither a deadline nor a
    /// panic takes it.
    async fn check(
        &self,
        decoding: impl Future<Output = Result<Request, Denial>>,
        channel: Channel,
        seen: &mut Seen,
    ) -> Result<Decision, Denial> {
        let Ok(_permit) = self.in_progress.try_acquire() else {
            return Err(Denial::new(Reason::Overload, "too many checks in progress"));
        };
        let request = seen.request.insert(decoding.await?);
        let scopes = self.scopes.load_full();
        let scope = seen.scope.insert(Arc::clone(scopes.select(request)?));
        let decision = scope.authorizer.authorize(request, channel, self.clock.now()).await;
        Ok(if channel == Channel::Api { over_http::carried(decision) } else { decision })
    }
}

#[derive(Default)]
struct Seen {
    request: Option<Request>,
    scope: Option<Arc<Scope>>,
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
            let response = inner.answer(call).await;
            Ok(framing::response(&response.encode_to_vec()))
        })
    }
}

#[cfg(test)]
mod tests;
