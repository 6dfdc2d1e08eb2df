//! Connections over TLS, and the certificates that they are served with.
//!
//! [`TlsListener`] accepts. Handshakes run beside each other, each within [`HANDSHAKE`]; with
//! [`MAX_HANDSHAKES`] in progress the oldest makes room, so that peers that never finish keep nobody out.
//! A connection that does not get through is counted by its reason and logged, a few lines at a time.
//!
//! [`TlsWatch`] looks at the files. What two looks in a row find is compiled aside and takes the place of
//! what was served, for connections that come after; what can't be compiled changes nothing. Two looks,
//! since files that belong together are not written at once.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::coalesced::{Buffers, Coalesced};
use super::{Connection, PAUSE, is_of_the_connection};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use crate::tls::{Files, Served, TlsPeer, TlsSettings, why};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many handshakes of a listener are in progress at once.
const MAX_HANDSHAKES: usize = 256;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often an end that comes near is warned of.
const REMIND: Duration = Duration::from_secs(24 * 3600);

/// So many lines of refused connections are logged in each [`LOG_WINDOW`].
const LOGGED: u32 = 10;
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// A listener whose connections are through their handshake.
#[derive(Debug)]
pub(in crate::app) struct TlsListener {
    tcp: TcpListener,
    served: Arc<ArcSwap<ServerConfig>>,
    handshakes: JoinSet<Result<Connection, Refused>>,
    /// The handshakes in progress, oldest first, with some that have ended.
    begun: VecDeque<AbortHandle>,
    log: Sparing,
    name: &'static str,
    metrics: Metrics,
    buffers: Buffers,
}

/// A connection that did not get through.
#[derive(Debug)]
struct Refused {
    peer: SocketAddr,
    reason: &'static str,
    detail: String,
}

impl TlsListener {
    /// Serves what `settings` name on `tcp`; the watch keeps it up to date.
    pub(super) fn new(
        tcp: TcpListener,
        settings: &TlsSettings,
        name: &'static str,
        metrics: &Metrics,
        clock: Clock,
    ) -> Result<(Self, TlsWatch)> {
        let files = Files::read(settings);
        let served = Served::compile(settings, &files).map_err(|faults| {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            anyhow!("listen.{name}.tls: {}", faults.join("; "))
        })?;
        let current = Arc::new(ArcSwap::new(Arc::clone(&served.config)));
        let judged = files.fingerprint();
        let now = clock.now();
        // Whoever checked the settings has warned of it.
        let reminded = served.warning(now).map(|_| (now, served.seconds_left(now) <= 0));
        let watch = TlsWatch {
            settings: settings.clone(),
            current: Arc::clone(&current),
            served,
            seen: judged,
            judged,
            reminded,
            name,
            metrics: metrics.clone(),
            clock,
        };
        Ok((Self::serving(tcp, current, name, metrics), watch))
    }

    /// Serves on `tcp` whatever is `current`, which somebody else keeps up to date.
    pub(super) fn serving(
        tcp: TcpListener,
        current: Arc<ArcSwap<ServerConfig>>,
        name: &'static str,
        metrics: &Metrics,
    ) -> Self {
        Self {
            tcp,
            served: current,
            handshakes: JoinSet::new(),
            begun: VecDeque::new(),
            log: Sparing::default(),
            name,
            metrics: metrics.clone(),
            buffers: Buffers::BUSY,
        }
    }

    /// The same, of connections that are many, and silent most of the time.
    #[cfg(feature = "control")]
    pub(super) fn of_many(self) -> Self {
        Self { buffers: Buffers::SILENT, ..self }
    }

    /// The next connection that is through its handshake.
    pub(super) async fn connection(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(ended) = self.handshakes.join_next() => {
                    if let Some(connection) = self.ended(ended) {
                        return connection;
                    }
                }
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, peer)) => self.begin(stream, peer),
                    Err(error) if is_of_the_connection(&error) => {}
                    Err(error) => {
                        self.say(&format!("can't accept connections: {error}"), None);
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        if self.begun.len() >= MAX_HANDSHAKES {
            self.begun.retain(|handshake| !handshake.is_finished());
            if self.begun.len() >= MAX_HANDSHAKES
                && let Some(oldest) = self.begun.pop_front()
            {
                oldest.abort();
            }
        }
        let acceptor = TlsAcceptor::from(self.served.load_full());
        let shaking = shake_hands(acceptor, stream, peer, self.buffers);
        self.begun.push_back(self.handshakes.spawn(shaking));
    }

    fn ended(
        &mut self,
        ended: Result<Result<Connection, Refused>, JoinError>,
    ) -> Option<Connection> {
        match ended {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(Refused { reason: reason @ "closed", .. })) => {
                self.metrics.tls_refused(self.name, reason);
            }
            Ok(Err(Refused { peer, reason, detail })) => {
                self.metrics.tls_refused(self.name, reason);
                self.say(&detail, Some(peer));
            }
            Err(error) => {
                self.metrics.tls_refused(self.name, "overload");
                let what = if error.is_cancelled() {
                    format!("{MAX_HANDSHAKES} handshakes are in progress: the oldest was ended")
                } else {
                    "a handshake panicked".to_owned()
                };
                self.say(&what, None);
            }
        }
        None
    }

    fn say(&mut self, what: &str, peer: Option<SocketAddr>) {
        if let Some(kept_back) = self.log.next(Instant::now()) {
            let peer = peer.map(tracing::field::display);
            tracing::warn!(
                listener = self.name,
                peer,
                kept_back,
                "a TLS connection failed: {what}"
            );
        }
    }
}

async fn shake_hands(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    buffers: Buffers,
) -> Result<Connection, Refused> {
    let refused = |reason, detail| Refused { peer, reason, detail };
    super::prepare(&stream).map_err(|error| refused("closed", error.to_string()))?;
    let (read, write) = stream.into_split();
    // Below TLS, so that the records of many answers become one system call.
    let shaking = acceptor.accept(Coalesced::with(buffers, read, write));
    match tokio::time::timeout(HANDSHAKE, shaking).await {
        Ok(Ok(stream)) => {
            let peer = TlsPeer::of_verified(stream.get_ref().1.peer_certificates());
            Ok(Connection::tls(stream, peer))
        }
        Ok(Err(error)) => Err(refused(reason(&error), why(&error))),
        Err(_) => Err(refused("deadline", format!("no handshake within {HANDSHAKE:?}"))),
    }
}

/// The label of why a handshake failed.
fn reason(error: &io::Error) -> &'static str {
    let of_tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match of_tls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            "certificate"
        }
        Some(_) => "protocol",
        None => "closed",
    }
}

/// Lets some lines through in each window, and counts the others.
#[derive(Debug, Default)]
struct Sparing {
    until: Option<Instant>,
    said: u32,
    kept_back: u64,
}

impl Sparing {
    /// Whether a line may be written, and how many were not since the last one.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(now + LOG_WINDOW);
            self.said = 0;
        }
        if self.said >= LOGGED {
            self.kept_back += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.kept_back))
    }
}

/// Keeps what a listener serves as its files are.
#[derive(Debug)]
pub(in crate::app) struct TlsWatch {
    settings: TlsSettings,
    current: Arc<ArcSwap<ServerConfig>>,
    served: Served,
    /// What the last look found.
    seen: [u8; 32],
    /// What was last compiled, or could not be.
    judged: [u8; 32],
    /// When an end was last warned of, and whether it had come.
    reminded: Option<(Timestamp, bool)>,
    name: &'static str,
    metrics: Metrics,
    clock: Clock,
}

impl TlsWatch {
    /// Looks at the files until `shutdown`.
    pub(in crate::app) async fn run(mut self, shutdown: CancellationToken) -> Result<()> {
        loop {
            self.remind(self.clock.now());
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK) => {}
            }
            let settings = self.settings.clone();
            let files = tokio::task::spawn_blocking(move || Files::read(&settings)).await?;
            self.look(&files);
        }
    }

    /// Takes over what `files` hold, if the last look found the same and it is good.
    fn look(&mut self, files: &Files) {
        let found = files.fingerprint();
        let was_seen = std::mem::replace(&mut self.seen, found) == found;
        if !was_seen || found == self.judged {
            return;
        }
        self.judged = found;
        match Served::compile(&self.settings, files) {
            Ok(served) => {
                self.current.store(Arc::clone(&served.config));
                self.served = served;
                self.reminded = None;
                tracing::info!(listener = self.name, "new certificate files are in force");
            }
            Err(faults) => {
                self.metrics.certificate_failed(self.name);
                for fault in faults {
                    tracing::error!(
                        listener = self.name,
                        "the last good certificate files stay in force: {fault}"
                    );
                }
            }
        }
    }

    /// Notes how long the certificate still holds, and warns when that is not long.
    fn remind(&mut self, now: Timestamp) {
        let left = self.served.seconds_left(now);
        self.metrics.certificate_left(self.name, left);
        let is_over = left <= 0;
        if self.reminded.is_some_and(|(at, was)| was == is_over && now.since(at) < REMIND) {
            return;
        }
        if let Some(warning) = self.served.warning(now) {
            self.reminded = Some((now, is_over));
            tracing::warn!(listener = self.name, "{warning}");
        }
    }
}

#[cfg(test)]
mod tests;
