//! Sends one message many times, and reads every answer.

use std::cell::Cell;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::ext_authz::v3::pb::{CheckResponse, HttpResponse};
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

type Fault = Box<dyn Error>;

/// What to send, and how.
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    /// A serialised CheckRequest.
    pub(crate) message: Vec<u8>,
    pub(crate) connections: usize,
    /// Requests in flight on each connection.
    pub(crate) streams: usize,
    /// In all.
    pub(crate) requests: usize,
}

/// The two answers there are.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Decision {
    Allow,
    Deny,
}

/// How many answers of each.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(crate) allowed: usize,
    pub(crate) denied: usize,
}

impl Counted {
    /// Whether every answer was `decision`, and there was one at all.
    pub(crate) fn all(&self, decision: Decision) -> bool {
        match decision {
            Decision::Allow => self.denied == 0 && self.allowed > 0,
            Decision::Deny => self.allowed == 0 && self.denied > 0,
        }
    }
}

impl Load {
    pub(crate) fn run(&self) -> Result<Counted, Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.send_all())
    }

    async fn send_all(&self) -> Result<Counted, Fault> {
        let frame = framed(&self.message)?;
        let left = Rc::new(Cell::new(self.requests));
        let counted = Rc::new(Cell::new(Counted::default()));
        let mut workers = JoinSet::new();
        for _ in 0..self.connections {
            let connection = self.connect().await?;
            for _ in 0..self.streams {
                let worker = Worker {
                    connection: connection.clone(),
                    address: self.address,
                    frame: frame.clone(),
                    left: Rc::clone(&left),
                    counted: Rc::clone(&counted),
                };
                workers.spawn_local(worker.run());
            }
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        Ok(counted.get())
    }

    async fn connect(&self) -> Result<SendRequest<Bytes>, Fault> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .handshake(stream)
            .await?;
        // Its end shows in the requests on it.
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}

/// One of the requests in flight, and after its answer the next one.
struct Worker {
    connection: SendRequest<Bytes>,
    address: SocketAddr,
    frame: Bytes,
    left: Rc<Cell<usize>>,
    counted: Rc<Cell<Counted>>,
}

impl Worker {
    async fn run(mut self) -> Result<(), Fault> {
        while let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            let decision = self.ask().await?;
            let mut counted = self.counted.get();
            match decision {
                Decision::Allow => counted.allowed += 1,
                Decision::Deny => counted.denied += 1,
            }
            self.counted.set(counted);
        }
        Ok(())
    }

    async fn ask(&mut self) -> Result<Decision, Fault> {
        let head = Request::post(format!(
            "http://{}/envoy.service.auth.v3.Authorization/Check",
            self.address
        ))
        .header("te", "trailers")
        .header("grpc-timeout", "10S")
        .header("content-type", "application/grpc")
        .header("x-envoy-internal", "true")
        .body(())?;
        let mut connection = self.connection.clone().ready().await?;
        let (answer, mut body) = connection.send_request(head, false)?;
        body.send_data(self.frame.clone(), true)?;
        let answer = answer.await?;
        if answer.status() != StatusCode::OK {
            return Err(format!("the answer has the status {}", answer.status()).into());
        }
        let (head, body) = answer.into_parts();
        read(&head.headers, body).await
    }
}

async fn read(head: &HeaderMap, mut body: RecvStream) -> Result<Decision, Fault> {
    let mut frame = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        frame.put(chunk);
    }
    let trailers = body.trailers().await?;
    let status = trailers.as_ref().unwrap_or(head).get("grpc-status");
    if status.is_none_or(|status| status != "0") {
        return Err(format!("the answer has the grpc-status {status:?}").into());
    }
    decision(CheckResponse::decode(unframed(&frame)?)?)
}

fn decision(answer: CheckResponse) -> Result<Decision, Fault> {
    let code = answer.status.map(|status| status.code);
    match (code, answer.http_response) {
        (Some(0), Some(HttpResponse::OkResponse(_))) => Ok(Decision::Allow),
        (Some(1..), Some(HttpResponse::DeniedResponse(_))) => Ok(Decision::Deny),
        (code, _) => Err(format!("code {code:?} and `http_response` contradict").into()),
    }
}

/// `message` as one uncompressed gRPC frame: a zero byte and the length before it.
fn framed(message: &[u8]) -> Result<Bytes, Fault> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len().try_into()?);
    frame.put_slice(message);
    Ok(frame.freeze())
}

fn unframed(frame: &[u8]) -> Result<&[u8], Fault> {
    match frame {
        [0, a, b, c, d, message @ ..]
            if u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len() =>
        {
            Ok(message)
        }
        _ => Err("the answer is no single uncompressed gRPC frame".into()),
    }
}
