//! The gRPC listener's services. Checks, which are nearly all calls, go straight to theirs; everything
//! else goes through a router.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

use super::CheckService;

/// All services of the gRPC listener.
#[derive(Clone, Debug)]
pub struct Front {
    check: CheckService,
    others: Routes,
}

impl Front {
    /// `check`, beside all `others`.
    pub fn new(check: CheckService, others: Routes) -> Self {
        Self { check, others: others.prepare() }
    }
}

impl Service<http::Request<Body>> for Front {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: http::Request<Body>) -> Self::Future {
        let service = call.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        match service {
            Some((CheckService::NAME, _)) => self.check.call(call),
            _ => Box::pin(self.others.call(call)),
        }
    }
}
