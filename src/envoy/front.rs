//! The gRPC listener's services. Checks, which are nearly all calls, go straight to theirs; everything
//! else goes through a router. Of that only so much is open at once, streams included, and what can't be
//! answered at once, such as a call whose message does not come, has a time. A health check needs only the latter,
//! so that open streams keep none out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::service::Routes;
use tower::Service as _;

use super::{Answering, CHECK, CheckService, framing};

/// Calls of the other services at once, streams for as long as they last.
const MAX_OPEN: usize = 1_024;

/// Of those, and of health checks, how many are waited for at once.
const MAX_WAITING: usize = 256;

const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// How long until such a call begins to be answered, at most.
const LONGEST: Duration = Duration::from_secs(10);

/// All services of the gRPC listener.
#[derive(Clone, Debug)]
pub struct Front {
    check: CheckService,
    others: Routes,
    open: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Front {
    /// `check`, beside all `others`.
    pub fn new(check: CheckService, others: Routes) -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        let (open, waiting) = (places(MAX_OPEN), places(MAX_WAITING));
        Self { check, others: others.prepare(), open, waiting }
    }

    /// Answers one call.
    pub fn answer<B>(&self, call: http::Request<B>) -> Answering<B>
    where
        B: body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        if call.uri().path() != CHECK {
            return Answering::Other(Box::pin(self.clone().answer_elsewhere(call)));
        }
        let (head, body) = call.into_parts();
        self.check.check(&head.headers, body).answer()
    }

    async fn answer_elsewhere<B>(self, call: http::Request<B>) -> http::Response<Body>
    where
        B: body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError>,
    {
        if call.uri().path() == HEALTH_CHECK {
            return self.answer_other(call).await;
        }
        let Ok(place) = Arc::clone(&self.open).try_acquire_owned() else {
            return framing::exhausted();
        };
        self.answer_other(call).await.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _held_until_the_end = &place;
                frame
            }))
        })
    }

    async fn answer_other<B>(&self, call: http::Request<B>) -> http::Response<Body>
    where
        B: body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError>,
    {
        let mut answering = Box::pin(self.others.clone().call(call.map(Body::new)));
        if let Some(Ok(response)) = (&mut answering).now_or_never() {
            return response;
        }
        let Ok(_place) = self.waiting.try_acquire() else { return framing::exhausted() };
        match tokio::time::timeout(LONGEST, answering).await {
            Ok(Ok(response)) => response,
            Err(_) => framing::too_late(),
        }
    }
}
