//! A connection whose writes are coalesced: many small ones become one system call.
//!
//! HTTP/2 writes each answer as it is ready. Here a write only appends to a buffer, and a task of the
//! connection's own writes the buffer after the connection's task has run, with all answers that were
//! ready then. Only that task waits for the socket; a writer waits when it is too far ahead. A failure to
//! write is told at the next write, flush or shutdown; that the other end takes nothing for [`STALLED`] is one.
//! What was written before a connection is dropped is still sent, for as long as [`LINGER`].

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::sync::Notify;

/// What may wait to be sent, in bytes.
pub(super) const HIGH_WATER: usize = 256 * 1024;

/// The memory that one connection keeps while nothing goes on, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    /// How much is read at once.
    pub(super) read: usize,
    /// How much of what was taken to write is kept for the next time.
    pub(super) write: usize,
}

impl Buffers {
    /// For few connections that have much to say.
    pub(super) const BUSY: Self = Self { read: 64 * 1024, write: usize::MAX };
    /// For many that are silent most of the time.
    #[cfg(feature = "control")]
    pub(super) const SILENT: Self = Self { read: 4 * 1024, write: 4 * 1024 };
}

/// How long is tried to send what was written while the other end does not take all of it.
const STALLED: Duration = Duration::from_secs(30);

/// How long is tried to send what a dropped connection has written.
const LINGER: Duration = Duration::from_secs(5);

/// A connection that is read directly and written through its own task.
#[derive(Debug)]
pub(super) struct Coalesced<R> {
    read: BufReader<R>,
    outbox: Arc<Outbox>,
}

/// What is between the connection and its task.
#[derive(Debug, Default)]
struct Outbox {
    state: Mutex<State>,
    changed: Notify,
    closing: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Waits for room, or for the end.
    writer: Option<Waker>,
    /// The connection is done writing.
    is_closing: bool,
    /// The task is done: all is sent, or sending failed.
    is_done: bool,
    error: Option<io::Error>,
}

impl<R: AsyncRead> Coalesced<R> {
    /// Reads from `read`, and sends to `write` by a task of its own.
    pub(super) fn new(read: R, write: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::with(Buffers::BUSY, read, write)
    }

    /// The same, with these buffers.
    pub(super) fn with(
        buffers: Buffers,
        read: R,
        write: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        let outbox = Arc::new(Outbox::default());
        tokio::spawn(Arc::clone(&outbox).send_to(write, buffers.write));
        Self { read: BufReader::with_capacity(buffers.read, read), outbox }
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_to(self: Arc<Self>, mut write: impl AsyncWrite + Unpin, kept: usize) {
        let sent = self.send_all(&mut write, kept).await;
        let mut state = self.lock();
        state.error = sent.err();
        state.is_done = true;
        state.waiting = Vec::new();
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
    }

    async fn send_all(&self, write: &mut (impl AsyncWrite + Unpin), kept: usize) -> io::Result<()> {
        let mut sending = Vec::new();
        loop {
            let (is_closing, writer) = {
                let mut state = self.lock();
                std::mem::swap(&mut sending, &mut state.waiting);
                let writer = if state.is_closing { None } else { state.writer.take() };
                (state.is_closing, writer)
            };
            if let Some(writer) = writer {
                writer.wake();
            }
            if !sending.is_empty() {
                tokio::select! {
                    biased;
                    sent = write.write_all(&sending) => sent?,
                    () = self.given_up(is_closing) => return Err(io::ErrorKind::TimedOut.into()),
                }
                sending.clear();
                sending.shrink_to(kept);
            } else if is_closing {
                return write.shutdown().await;
            } else {
                self.changed.notified().await;
            }
        }
    }

    /// Waits until the connection has been closing for [`LINGER`], or open for [`STALLED`].
    async fn given_up(&self, is_closing: bool) {
        let is_closing =
            is_closing || tokio::time::timeout(STALLED, self.closing.notified()).await.is_ok();
        if is_closing {
            tokio::time::sleep(LINGER).await;
        }
    }

    /// Tells the task that nothing more is written; it wakes `waker` at the end.
    fn close(&self, mut state: MutexGuard<'_, State>, waker: Option<Waker>) {
        state.is_closing = true;
        state.writer = waker;
        drop(state);
        self.changed.notify_one();
        self.closing.notify_one();
    }
}

impl State {
    /// What went wrong, once; later, that it did.
    fn failure(&mut self) -> Option<io::Error> {
        let error = self.error.take();
        error.or_else(|| self.is_done.then(|| io::ErrorKind::BrokenPipe.into()))
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Coalesced<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().read).poll_read(context, buffer)
    }
}

impl<R: Unpin> AsyncWrite for Coalesced<R> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.outbox.lock();
        if let Some(error) = state.failure() {
            return Poll::Ready(Err(error));
        }
        if state.waiting.len() >= HIGH_WATER {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let before = state.waiting.len();
        buffers.iter().for_each(|buffer| state.waiting.extend_from_slice(buffer));
        let written = state.waiting.len() - before;
        drop(state);
        if before == 0 {
            self.outbox.changed.notify_one();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written will be sent without being waited for.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.outbox.lock().failure().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.outbox.lock();
        if state.is_done {
            return Poll::Ready(state.error.take().map_or(Ok(()), Err));
        }
        self.outbox.close(state, Some(context.waker().clone()));
        Poll::Pending
    }
}

impl<R> Drop for Coalesced<R> {
    fn drop(&mut self) {
        self.outbox.close(self.outbox.lock(), None);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex, empty, split};

    use super::*;

    /// A connection, and the other end of it that takes `room` bytes before it is read.
    fn connection(room: usize) -> (Coalesced<impl AsyncRead + Unpin>, DuplexStream) {
        let (ours, theirs) = duplex(room);
        let (read, write) = split(ours);
        (Coalesced::new(read, write), theirs)
    }

    #[tokio::test]
    async fn what_is_written_together_is_sent_together() {
        let (mut ours, mut theirs) = connection(1 << 20);
        for part in [b"one ".as_slice(), b"two ", b"three"] {
            ours.write_all(part).await.unwrap();
        }
        let mut sent = [0; 64];
        let count = theirs.read(&mut sent).await.unwrap();
        assert_eq!(&sent[..count], b"one two three");
        theirs.write_all(b"back").await.unwrap();
        let count = ours.read(&mut sent).await.unwrap();
        assert_eq!(&sent[..count], b"back");
    }

    #[tokio::test]
    async fn a_slow_reader_makes_the_writer_wait() {
        let (mut ours, mut theirs) = connection(1_000);
        let all = vec![7; 3 * HIGH_WATER];
        let writing = tokio::spawn(async move {
            for part in all.chunks(10_000) {
                ours.write_all(part).await.unwrap();
                assert!(ours.outbox.lock().waiting.len() < HIGH_WATER + 10_000);
            }
            ours.shutdown().await.unwrap();
        });
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert!(!writing.is_finished(), "nobody reads yet");
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, vec![7; 3 * HIGH_WATER]);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn what_was_written_is_sent_though_the_connection_is_dropped() {
        let (mut ours, mut theirs) = connection(10);
        ours.write_all(&[1; 5_000]).await.unwrap();
        drop(ours);
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 5_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_never_reads_is_given_up() {
        let (mut ours, theirs) = connection(10);
        ours.write_all(&[1; 5_000]).await.unwrap();
        let outbox = Arc::clone(&ours.outbox);
        let before = tokio::time::Instant::now();
        let error = ours.shutdown().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(before.elapsed() >= LINGER);
        assert!(outbox.lock().is_done);
        drop(theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up_while_the_connection_is_open() {
        let (mut ours, theirs) = connection(10);
        let before = tokio::time::Instant::now();
        let error = loop {
            if let Err(error) = ours.write_all(&[1; 5_000]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(before.elapsed() >= STALLED);
        drop(theirs);
    }

    #[tokio::test]
    async fn that_the_other_end_is_gone_is_told() {
        let (mut ours, theirs) = connection(10);
        drop(theirs);
        ours.write_all(b"lost").await.unwrap();
        let mut told = Vec::new();
        while told.len() < 2 {
            tokio::task::yield_now().await;
            told.extend(ours.write_all(b"more").await.err().map(|error| error.kind()));
        }
        assert_eq!(told, [io::ErrorKind::BrokenPipe; 2]);
        ours.flush().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_writer_that_waits_is_told_too() {
        let (ours, theirs) = duplex(10);
        let mut ours = Coalesced::new(empty(), ours);
        let writing = tokio::spawn(async move {
            loop {
                if let Err(error) = ours.write_all(&[0; HIGH_WATER]).await {
                    return error.kind();
                }
            }
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        drop(theirs);
        assert_eq!(writing.await.unwrap(), io::ErrorKind::BrokenPipe);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        /// On many threads, through a small socket, in any sizes.
        #[test]
        fn every_byte_arrives_in_order(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20_000), 0..40),
            room in 1..5_000_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(4).enable_all().build().unwrap();
            let expected = parts.concat();
            let read = runtime.block_on(async move {
                let (mut ours, mut theirs) = connection(room);
                let writing = tokio::spawn(async move {
                    for part in parts {
                        ours.write_all(&part).await.unwrap();
                        ours.flush().await.unwrap();
                    }
                    ours.shutdown().await.unwrap();
                });
                let mut read = Vec::new();
                theirs.read_to_end(&mut read).await.unwrap();
                writing.await.unwrap();
                read
            });
            prop_assert_eq!(read, expected);
        }
    }
}
