//! The gRPC listener's services. Checks, which are nearly all calls, go straight to theirs; everything
//! else goes through a router.

use bytes::Bytes;
use hyper::body;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::service::Routes;
use tower::Service as _;

use super::{CheckService, SERVICE};

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

    /// Answers one call.
    pub async fn answer<B>(&self, call: http::Request<B>) -> http::Response<Body>
    where
        B: body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError>,
    {
        let service = call.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        if let Some((SERVICE, _)) = service {
            return self.check.answer(call).await;
        }
        // These compute for a while, which nobody else on the connection should wait for.
        tokio::task::yield_now().await;
        let Ok(response) = Box::pin(self.others.clone().call(call.map(Body::new))).await;
        response
    }
}
