//! The way of a line to the sink.
//!
//! Lines are gathered in memory and written by a thread of its own, many at a time: a line costs a
//! decision a copy, and seldom a wake-up. What a slow sink has no room for is refused.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines waiting for the sink, in bytes.
const MAX_WAITING: usize = 4 * 1024 * 1024;

/// How long lines are gathered after some were written.
const GATHERING: Duration = Duration::from_millis(5);

/// Where decision lines go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
    /// Nowhere.
    None,
}

/// Takes lines; when the last clone is gone, the writer ends.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Inlet>);

#[derive(Debug)]
struct Inlet(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    is_closed: bool,
}

/// The sink has no room.
#[derive(Debug)]
pub(super) struct Full;

/// Writes what is still waiting, once every [`Recorder`](super::Recorder) is gone or it is told to finish.
#[derive(Debug)]
pub struct LogWriter(Option<(Arc<Queue>, thread::JoinHandle<()>)>);

impl LogWriter {
    /// Waits until every waiting line is written, and takes no more: a request that was cut off may
    /// hold its recorder for as long as its client likes.
    pub fn finish(mut self) {
        let Some((queue, thread)) = self.0.take() else { return };
        queue.close();
        if thread.join().is_err() {
            tracing::error!("the decision log's writer panicked");
        }
    }
}

/// Opens `sink` and starts its writer; no lines are taken for [`Sink::None`].
pub(super) fn open(sink: &Sink) -> io::Result<(Option<Lines>, LogWriter)> {
    let output: Box<dyn Write + Send> = match sink {
        Sink::None => return Ok((None, LogWriter(None))),
        Sink::Stdout => Box::new(io::stdout()),
        Sink::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    };
    let (lines, writer) = start(output)?;
    Ok((Some(lines), writer))
}

fn start(output: Box<dyn Write + Send>) -> io::Result<(Lines, LogWriter)> {
    let queue = Arc::new(Queue::default());
    let lines = Lines(Arc::new(Inlet(Arc::clone(&queue))));
    let written = Arc::clone(&queue);
    let writer = thread::Builder::new()
        .name("decision-log".to_owned())
        .spawn(move || write_all(output, &written))?;
    Ok((lines, LogWriter(Some((queue, writer)))))
}

impl Lines {
    /// Adds one line to those that wait.
    pub(super) fn add(&self, line: &[u8]) -> Result<(), Full> {
        let Inlet(queue) = &*self.0;
        let mut waiting = queue.lock();
        if waiting.lines.len() + line.len() > MAX_WAITING {
            return Err(Full);
        }
        let was_empty = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if was_empty {
            queue.changed.notify_one();
        }
        Ok(())
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Queue {
    fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_all(mut output: Box<dyn Write + Send>, queue: &Queue) {
    let mut lines = Vec::new();
    loop {
        let is_closed = {
            let mut waiting = queue
                .changed
                .wait_while(queue.lock(), |waiting| waiting.lines.is_empty() && !waiting.is_closed)
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut lines, &mut waiting.lines);
            waiting.is_closed
        };
        if let Err(error) = output.write_all(&lines).and_then(|()| output.flush()) {
            tracing::error!(%error, "the decision log could not be written");
        }
        lines.clear();
        if is_closed {
            return;
        }
        thread::sleep(GATHERING);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Tells of each write, and lets it happen when told to.
    struct Slow {
        began: Sender<Vec<u8>>,
        go_on: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.began.send(bytes.to_vec()).unwrap();
            self.go_on.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_sink_refuses_lines_and_loses_none_that_it_took() {
        let (began, writes) = channel();
        let (let_go, go_on) = channel();
        let (lines, writer) = start(Box::new(Slow { began, go_on })).unwrap();
        lines.add(b"first\n").unwrap();
        assert_eq!(writes.recv().unwrap(), b"first\n");
        let line = vec![b'x'; MAX_WAITING / 4];
        let taken = (0..6).filter(|_| lines.add(&line).is_ok()).count();
        assert_eq!(taken, 4);
        lines.add(b"one more").unwrap_err();
        let_go.send(()).unwrap();
        assert_eq!(writes.recv().unwrap().len(), MAX_WAITING);
        lines.add(b"last\n").unwrap();
        drop(lines);
        let_go.send(()).unwrap();
        assert_eq!(writes.recv().unwrap(), b"last\n");
        let_go.send(()).unwrap();
        writer.finish();
    }
}
