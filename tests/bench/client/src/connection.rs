//! An HTTP/2 connection, over TCP or a Unix socket.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::Fault;
use crate::message::Call;

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// A connection, for any number of calls at once.
#[derive(Clone)]
pub(crate) struct Connection(SendRequest<Bytes>);

impl Connection {
    pub(crate) async fn open(address: &str) -> Result<Self, Fault> {
        if let Some(path) = address.strip_prefix("unix:") {
            return Self::over(UnixStream::connect(path).await?).await;
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Result<Self, Fault> {
        let (sender, connection) = Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .handshake(stream)
            .await?;
        // Its end shows in the calls on it.
        tokio::task::spawn_local(connection);
        Ok(Self(sender))
    }

    pub(crate) async fn call(&self, call: Call) -> Result<Reply, Fault> {
        let mut sender = self.0.clone().ready().await?;
        let (reply, mut sending) = sender.send_request(call.head, call.body.is_none())?;
        if let Some(body) = call.body {
            sending.send_data(body, true)?;
        }
        let (head, mut receiving) = reply.await?.into_parts();
        let mut body = BytesMut::new();
        while let Some(chunk) = receiving.data().await {
            let chunk = chunk?;
            receiving.flow_control().release_capacity(chunk.len())?;
            body.put(chunk);
        }
        let trailers = receiving.trailers().await?;
        Ok(Reply { status: head.status, headers: head.headers, body: body.freeze(), trailers })
    }
}
