//! TCP, TLS and Unix socket listeners.

mod coalesced;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
#[cfg(feature = "control")]
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail};
#[cfg(feature = "control")]
use arc_swap::ArcSwap;
use futures_util::{Stream, StreamExt, stream};
use rustix::net::sockopt;
#[cfg(feature = "control")]
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::either::Either;

use self::coalesced::Coalesced;
use self::tls::TlsListener;
pub(super) use self::tls::TlsWatch;

use crate::clock::Clock;
use crate::config::{Address, ListenerSettings, SocketAccess};
use crate::metrics::Metrics;
use crate::tls::TlsPeer;

/// How long a TCP connection may be silent before the other end is asked whether it is still there, how
/// often it is asked again, and how many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 3);

/// How long nothing is accepted after the system refused to, which may be for want of descriptors.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// A bound listener.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Tls(TlsListener),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Listens as `settings` say; where that is over TLS, also what keeps its certificates up to date.
    pub(super) async fn open(
        settings: &ListenerSettings,
        name: &'static str,
        metrics: &Metrics,
        clock: Clock,
    ) -> Result<(Self, Option<TlsWatch>)> {
        match (Self::bind(&settings.address).await?, &settings.tls) {
            (Self::Tcp(tcp), Some(tls)) => {
                let (listener, watch) = TlsListener::new(tcp, tls, name, metrics, clock)?;
                Ok((Self::Tls(listener), Some(watch)))
            }
            (listener, _) => Ok((listener, None)),
        }
    }

    /// The same, of connections that are many, and silent most of the time.
    #[cfg(feature = "control")]
    pub(super) fn of_many(self) -> Self {
        match self {
            Self::Tls(listener) => Self::Tls(listener.of_many()),
            other => other,
        }
    }

    /// The same, over TLS with whatever is `current`, if that is given: somebody else keeps it up to date.
    #[cfg(feature = "control")]
    pub(super) async fn open_with(
        settings: &ListenerSettings,
        current: Option<Arc<ArcSwap<ServerConfig>>>,
        name: &'static str,
        clock: Clock,
    ) -> Result<(Self, Option<TlsWatch>)> {
        let metrics = Metrics::new();
        let Some(current) = current else {
            return Self::open(settings, name, &metrics, clock).await;
        };
        match Self::bind(&settings.address).await? {
            Self::Tcp(tcp) => {
                Ok((Self::Tls(TlsListener::serving(tcp, current, name, &metrics)), None))
            }
            Self::Tls(_) | Self::Unix(..) => {
                bail!("`{name}` is over TLS, which takes a TCP address")
            }
        }
    }

    async fn bind(address: &Address) -> Result<Self> {
        match address {
            Address::Tcp(address) => Ok(Self::Tcp(bind_tcp(address).await?)),
            Address::Unix(path, access) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path)
                    .with_context(|| format!("can't listen on `unix:{}`", path.display()))?;
                let file = SocketFile(path.clone());
                if let Some(group) = access.group {
                    std::os::unix::fs::chown(path, None, Some(group)).with_context(|| {
                        format!(
                            "can't give `{}` to the group {group}: placet's user must be in it",
                            path.display()
                        )
                    })?;
                }
                if let Some(mode) = access.mode {
                    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
                        .with_context(|| format!("can't set the mode of `{}`", path.display()))?;
                }
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// The connections.
    pub(super) fn incoming(self) -> Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>> {
        match self {
            Self::Tcp(listener) => {
                Box::pin(TcpListenerStream::new(listener).filter_map(|accepted| async {
                    // One that is gone before it is prepared is nothing to serve.
                    accepted.map(|stream| Connection::tcp(stream).ok()).transpose()
                }))
            }
            Self::Tls(listener) => Box::pin(stream::unfold(listener, |mut listener| async move {
                Some((Ok(listener.connection().await), listener))
            })),
            Self::Unix(listener, file) => {
                Box::pin(UnixListenerStream::new(listener).map(move |stream| {
                    let _held_while_listening = &file;
                    Ok(Connection::unix(stream?))
                }))
            }
        }
    }
}

async fn bind_tcp(address: &SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("can't listen on `{address}`"))
}

/// Whether accepting failed for the connection's own sake, and the next one may be better.
pub(super) fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// The control socket: mode 0600, and only for processes of our own user or of root.
#[derive(Debug)]
pub(super) struct ControlListener {
    listener: UnixListener,
    _held_while_listening: SocketFile,
}

impl ControlListener {
    pub(super) async fn bind(path: &Path) -> Result<Self> {
        let access = SocketAccess { mode: Some(0o600), group: None };
        match Listener::bind(&Address::Unix(path.to_owned(), access)).await? {
            Listener::Unix(listener, file) => Ok(Self { listener, _held_while_listening: file }),
            Listener::Tcp(_) | Listener::Tls(_) => {
                bail!("the control socket can't be a TCP address")
            }
        }
    }
}

impl axum::serve::Listener for ControlListener {
    type Io = UnixStream;
    type Addr = ();

    /// Asks who connects: between binding and setting the mode anyone might have.
    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            let (stream, _) = axum::serve::Listener::accept(&mut self.listener).await;
            let peer = stream.peer_cred().map(|peer| peer.uid()).ok();
            if peer.is_some_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw()) {
                return (stream, ());
            }
            tracing::warn!(
                uid = peer,
                "another user's connection to the control socket was closed"
            );
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Removes the socket's file when listening ends.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A socket file whose process was killed is in the way of the next; one that answers, or any other
/// kind of file, is somebody's.
async fn remove_stale(path: &Path) -> Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        bail!("`{}` exists and is no socket: remove it, or listen elsewhere", path.display());
    }
    if UnixStream::connect(path).await.is_ok() {
        bail!("another process listens on `unix:{}`", path.display());
    }
    std::fs::remove_file(path).with_context(|| format!("can't remove `{}`", path.display()))
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    io: Either<Plain, Box<TlsStream<Coalesced<tcp::OwnedReadHalf>>>>,
    /// Nobody, without TLS.
    peer: TlsPeer,
}

type Plain = Coalesced<Either<tcp::OwnedReadHalf, unix::OwnedReadHalf>>;

impl Connection {
    fn tcp(stream: TcpStream) -> io::Result<Self> {
        prepare(&stream)?;
        let (read, write) = stream.into_split();
        Ok(Self::plain(Coalesced::new(Either::Left(read), write)))
    }

    pub(super) fn unix(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self::plain(Coalesced::new(Either::Right(read), write))
    }

    fn plain(io: Plain) -> Self {
        Self { io: Either::Left(io), peer: TlsPeer::default() }
    }

    fn tls(stream: TlsStream<Coalesced<tcp::OwnedReadHalf>>, peer: TlsPeer) -> Self {
        Self { io: Either::Right(Box::new(stream)), peer }
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> &TlsPeer {
        &self.peer
    }
}

/// Sends small answers at once, and lets go of a peer that is gone without a word.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    let (idle, between, count) = KEEPALIVE;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, between)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    Ok(())
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
