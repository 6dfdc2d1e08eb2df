//! One check over gRPC, from the call to its answer.
//!
//! What was decided before is answered where the call is read, without waiting for anything. Everything else is a
//! future: a message that is not there yet, a decision, a log that has no room.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arc_swap::Guard;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use hyper::body;
use tonic::body::Body;

use super::answer_cache::Answer;
use super::framing::{self, Reading};
use super::seen::Seen;
use super::view::View;
use super::{CheckService, Inner, decode, panicked};
use crate::audit::Circumstances;
use crate::authorizer::{Decision, Denial, Reason};
use crate::request::Request;
use crate::scope::Scopes;
use crate::token::Channel;
use crate::trace::Edge;

/// A check in progress.
pub struct Check<B> {
    service: CheckService,
    body: B,
    reading: Reading,
    seen: Seen,
}

/// An answer to a call.
pub enum Answering<B> {
    /// It is there: one message, framed, of a call that succeeded.
    Now(Bytes),
    /// What is asked is not there yet.
    Unread(Box<Check<B>>),
    /// It takes its time, and a task of its own: one message, framed, of a call that succeeds.
    Later(BoxFuture<'static, Bytes>),
    /// The same of a call that asks for something else.
    Other(BoxFuture<'static, http::Response<Body>>),
}

/// What there is to a message without deciding.
enum Found {
    /// It was decided before.
    Known(Arc<Answer>),
    /// It is to be decided, by these scopes.
    Open(Box<Request>, Arc<Scopes>),
}

/// What a check comes to.
enum Checked {
    /// It was decided before.
    Known(Arc<Answer>),
    Decided(Box<Decision>),
}

impl<B> Check<B> {
    pub(super) fn new(service: CheckService, headers: &HeaderMap, body: B) -> Self {
        let mut seen = Seen::new(Edge::Grpc, framing::timeout(headers));
        service.0.join_call(&mut seen, headers);
        Self { service, body, reading: Reading::default(), seen }
    }
}

impl<B> Check<B>
where
    B: body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// Answers at once, if the message is there and was answered before.
    pub(crate) fn answer(mut self) -> Answering<B> {
        let found =
            catch_unwind(AssertUnwindSafe(|| self.find())).unwrap_or_else(|_| Err(panicked()));
        match found {
            Ok(None) => Answering::Unread(Box::new(self)),
            Ok(Some(Found::Known(answer))) if self.seen.unwritten.is_none() => {
                Answering::Now(self.service.0.again(&answer, &self.seen))
            }
            found => Answering::Later(Box::pin(self.go_on(found))),
        }
    }

    /// Answers, however long the message takes.
    pub(crate) fn wait(self) -> BoxFuture<'static, Bytes> {
        Box::pin(self.go_on(Ok(None)))
    }

    /// Reads the message, and looks for the answer to it; `None` if it is not there yet.
    fn find(&mut self) -> Result<Option<Found>, Denial> {
        let mut nobody = Context::from_waker(Waker::noop());
        match self.reading.poll(&mut nobody, &mut self.body, &self.service.0.room) {
            Poll::Ready(message) => self.service.0.find(&message?, &mut self.seen).map(Some),
            Poll::Pending => Ok(None),
        }
    }

    /// Answers what was begun, whatever happens.
    async fn go_on(mut self, found: Result<Option<Found>, Denial>) -> Bytes {
        let (service, seen) = (&self.service.0, &mut self.seen);
        // Kept until it is answered: what waits for the log is in progress too.
        let place = service.in_progress.try_acquire().ok();
        let until = seen.until;
        let checked = {
            let (body, reading) = (&mut self.body, &mut self.reading);
            let checking = pin!(service.check_message(found, body, reading, seen));
            service.in_time(place.as_ref(), until, checking).await
        };
        let decision = match checked {
            Ok(Checked::Decided(decision)) => *decision,
            Err(denial) => Decision::denied(denial),
            Ok(Checked::Known(answer)) => {
                let logged = match seen.unwritten.take() {
                    Some(unwritten) => unwritten.written(until).await,
                    None => Ok(()),
                };
                match logged {
                    Ok(()) => return service.again(&answer, seen),
                    Err(full) => Decision::denied(full.into()),
                }
            }
        };
        service.settle(decision, seen).await
    }
}

impl Inner {
    fn find(&self, message: &Bytes, seen: &mut Seen) -> Result<Found, Denial> {
        if let Some(tap) = &self.tap {
            tap.offer(message);
        }
        let scopes = self.scopes.load();
        let view = View::of(message);
        if let Some(answer) = view.as_ref().and_then(|view| self.known(view, &scopes, seen)) {
            return Ok(Found::Known(answer));
        }
        let read = view.map_or_else(|| decode::request(message), |view| view.request());
        let request = read.map_err(|error| Denial::new(Reason::BadRequest, error))?;
        Ok(Found::Open(Box::new(request), Guard::into_inner(scopes)))
    }

    /// Read, look, decide: what is learned on the way is left in `seen`, where neither a deadline nor
    /// a panic takes it.
    async fn check_message(
        &self,
        found: Result<Option<Found>, Denial>,
        body: &mut (impl body::Body<Data = Bytes> + Unpin),
        reading: &mut Reading,
        seen: &mut Seen,
    ) -> Result<Checked, Denial> {
        let found = match found? {
            Some(found) => found,
            None => {
                let message = poll_fn(|context| reading.poll(context, body, &self.room)).await?;
                self.find(&message, seen)?
            }
        };
        match found {
            Found::Known(answer) => Ok(Checked::Known(answer)),
            Found::Open(request, scopes) => self.decide(request, &scopes, seen).await,
        }
    }

    /// Decides on `request`, unless others with the same question were first.
    async fn decide(
        &self,
        request: Box<Request>,
        scopes: &Scopes,
        seen: &mut Seen,
    ) -> Result<Checked, Denial> {
        if let Some((scope, key)) = seen.question.clone() {
            seen.making = self.cache.wait(key).await;
            let now = self.clock.now();
            if let Some(answer) = self.cache.get(&key, now) {
                let source_ip = request.source.ip.map(|ip| ip.to_string()).unwrap_or_default();
                let circumstances = Circumstances {
                    request_id: &request.id,
                    source_ip: &source_ip,
                    source_principal: request.source.principal.as_deref().unwrap_or_default(),
                    trace: seen.trace,
                };
                self.give_again(&answer, &scope, circumstances, now, seen);
                return Ok(Checked::Known(answer));
            }
            self.recorder.looked_for_decision(false);
        }
        self.join_with(seen, &request);
        let decision = self.check_request(request, scopes, Channel::Proxy, seen).await?;
        Ok(Checked::Decided(Box::new(decision)))
    }
}
