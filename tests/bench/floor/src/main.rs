//! The floor: an ext_authz v3 server that always answers OK with one header.
//!
//! It does what any gRPC server must (HTTP/2, a protobuf message in, one out) and decides nothing,
//! so that what Placet costs beside it is what deciding costs.
//!
//! Usage: `floor ADDRESS|unix:PATH [--rt=current|multi[:N]] [--h2=default|tuned]`

use std::error::Error;

use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse, HeaderAppendAction,
    HeaderValue, HeaderValueOption, HttpResponse, OkHttpResponse,
};
use tokio::net::UnixListener;
use tokio::runtime::Builder;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = arguments.first().ok_or("the first argument is the address to listen at")?;
    let option = |name: &str, default: &'static str| -> String {
        let given = arguments.iter().find_map(|argument| argument.strip_prefix(name));
        given.unwrap_or(default).to_owned()
    };
    let runtime = option("--rt=", "current");
    let mut builder = if runtime == "current" {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    if let Some(threads) = runtime.strip_prefix("multi:") {
        builder.worker_threads(threads.parse()?);
    }
    let is_tuned = option("--h2=", "default") == "tuned";
    builder.enable_all().build()?.block_on(serve(address, is_tuned))
}

async fn serve(address: &str, is_tuned: bool) -> Result<(), Box<dyn Error>> {
    let mut server = Server::builder();
    if is_tuned {
        server = server
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .max_concurrent_streams(1024)
            .max_frame_size(65_536)
            .tcp_nodelay(true);
    }
    let router = server.add_service(AuthorizationServer::new(Floor(answer())));
    if let Some(path) = address.strip_prefix("unix:") {
        // A socket file that an earlier run left is in the way.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        router.serve_with_incoming(UnixListenerStream::new(listener)).await?;
    } else {
        router.serve(address.parse()?).await?;
    }
    Ok(())
}

/// An OK with one header, as long as a token.
fn answer() -> CheckResponse {
    let header = HeaderValueOption {
        header: Some(HeaderValue {
            key: "x-authz-token".to_owned(),
            value: "t".repeat(900),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    };
    let ok = OkHttpResponse { headers: vec![header], ..OkHttpResponse::default() };
    CheckResponse {
        status: Some(Default::default()),
        http_response: Some(HttpResponse::OkResponse(ok)),
        ..CheckResponse::default()
    }
}

struct Floor(CheckResponse);

#[tonic::async_trait]
impl Authorization for Floor {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        std::hint::black_box(request.into_inner());
        Ok(Response::new(self.0.clone()))
    }
}
