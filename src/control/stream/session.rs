//! One sidecar's stream.
//!
//! At most one message waits to be sent, and it is shared with all others who get it; a sidecar that reads slowly
//! gets the newest snapshot when it has taken the last one, and none of those in between. What it says is read
//! meanwhile. One that does not say what became of a snapshot in [`LONGEST_SILENCE`] is sent away.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::HeaderMap;
use http_body_util::StreamBody;
use hyper::body::{Frame as BodyFrame, Incoming};
use tokio::sync::mpsc::{self, error::SendError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codec::Codec as _;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use super::caller::{Caller, Callers};
use super::frames::{self, Frame, Frames};
use super::union::Union;
use crate::control::refusals::Refusals;
use crate::control::snapshot::{Snapshot, Snapshots};
use crate::proto::control::{
    Acknowledgement, FromControl, FromSidecar, Hello, KeySet, from_sidecar,
};

const FOLLOW: &str = "/placet.control.v1.Snapshots/Follow";

/// What a sidecar says at once: the keys of all its scopes, with certificates.
const MAX_MESSAGE_BYTES: usize = 512 * 1024;

/// How long until it says who it is.
const HELLO: Duration = Duration::from_secs(10);

/// How long putting a snapshot in force may take.
const LONGEST_SILENCE: Duration = Duration::from_secs(300);

/// After this long a sidecar is to present its token again; some are sent earlier, so that not all come at once.
const LIFE: Duration = Duration::from_secs(3600);

/// How long the last word may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Answers sidecars.
pub(super) struct Desk {
    snapshots: Arc<Snapshots>,
    refusals: Arc<Refusals>,
    frames: Arc<Frames>,
    callers: Arc<Callers>,
    union: Arc<Union>,
    shutdown: CancellationToken,
    /// How many there were.
    count: AtomicU64,
}

impl Desk {
    /// Sends `snapshots` to those that `callers` knows, and keeps their `refusals`, and their keys in `union`.
    pub(super) fn new(
        snapshots: Arc<Snapshots>,
        refusals: Arc<Refusals>,
        callers: Arc<Callers>,
        union: Arc<Union>,
        shutdown: CancellationToken,
    ) -> Self {
        let (frames, count) = (Arc::default(), AtomicU64::new(0));
        Self { snapshots, refusals, frames, callers, union, shutdown, count }
    }

    /// Answers one call.
    pub(super) async fn answer(&self, call: http::Request<Incoming>) -> http::Response<Body> {
        if call.uri().path() != FOLLOW {
            return Status::unimplemented("there is only the method Follow").into_http();
        }
        let caller = match self.callers.of(call.headers()).await {
            Ok(caller) => caller,
            Err(status) => {
                tracing::warn!("a sidecar is refused: {}", status.message());
                return status.into_http();
            }
        };
        let decoder = ProstCodec::<FromControl, FromSidecar>::default().decoder();
        let inbound =
            Streaming::new_request(decoder, call.into_body(), None, Some(MAX_MESSAGE_BYTES));
        let (sender, frames) = mpsc::channel(1);
        let session = Session {
            id: self.count.fetch_add(1, Ordering::Relaxed),
            watch: self.snapshots.watch(&caller.namespace),
            refusals: Arc::clone(&self.refusals),
            frames: Arc::clone(&self.frames),
            union: Arc::clone(&self.union),
            sender,
            caller,
            instance: String::new(),
            told: None,
            is_told: false,
            waits_since: None,
            keys: Vec::new(),
        };
        tokio::spawn(session.run(inbound, self.shutdown.clone()));
        let body = StreamBody::new(ReceiverStream::new(frames).map(Ok::<_, Infallible>));
        let mut response = http::Response::new(Body::new(body));
        let grpc = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        response
    }
}

/// One stream.
struct Session {
    id: u64,
    watch: watch::Receiver<Option<Arc<Snapshot>>>,
    refusals: Arc<Refusals>,
    frames: Arc<Frames>,
    union: Arc<Union>,
    sender: mpsc::Sender<BodyFrame<Bytes>>,
    caller: Caller,
    /// What it calls itself.
    instance: String,
    /// The revision that it was sent last, or had at first.
    told: Option<String>,
    /// Whether anything was said of that revision.
    is_told: bool,
    /// Since when it owes an answer to it.
    waits_since: Option<Instant>,
    /// The keys that it said it has.
    keys: Vec<KeySet>,
}

impl Session {
    async fn run(mut self, mut inbound: Streaming<FromSidecar>, shutdown: CancellationToken) {
        let ended = self.converse(&mut inbound, &shutdown).await;
        let now = Instant::now();
        self.union.leave(self.id, now);
        self.refusals.leave(&self.caller.namespace, self.id, now);
        let status = ended.err().unwrap_or_else(|| Status::ok(""));
        let (sidecar, instance) = (&self.caller.name, &self.instance);
        tracing::debug!(sidecar, instance, ?status, "a stream ended");
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_ok() {
            let farewell = self.sender.send(BodyFrame::trailers(trailers));
            // It may have gone, or take nothing any more.
            let _: Result<Result<(), SendError<_>>, _> = timeout(FAREWELL, farewell).await;
        }
    }

    async fn converse(
        &mut self,
        inbound: &mut Streaming<FromSidecar>,
        shutdown: &CancellationToken,
    ) -> Result<(), Status> {
        let late = |_| Status::deadline_exceeded("no hello came");
        self.greet(timeout(HELLO, inbound.message()).await.map_err(late)??)?;
        let end = Instant::now() + life(self.id);
        // What is there already is news to this one.
        self.watch.mark_changed();
        let mut is_due = false;
        loop {
            let patience = self.waits_since.map(|since| since + LONGEST_SILENCE);
            let sender = self.sender.clone();
            tokio::select! {
                () = shutdown.cancelled() => return Err(Status::unavailable("the control plane ends")),
                () = sender.closed() => return Ok(()),
                () = sleep_until(end) => return Err(Status::unavailable("present your token again")),
                () = sleep_until(patience.unwrap_or(end)), if patience.is_some() => {
                    let text = format!("nothing was said of the snapshot for {LONGEST_SILENCE:?}");
                    return Err(Status::deadline_exceeded(text));
                }
                message = inbound.message() => match message? {
                    Some(message) => self.hear(message)?,
                    None => return Ok(()),
                },
                changed = self.watch.changed(), if !is_due => {
                    changed.map_err(|_| Status::unavailable("the control plane ends"))?;
                    is_due = true;
                }
                place = sender.reserve(), if is_due => {
                    is_due = false;
                    let Ok(place) = place else { return Ok(()) };
                    if let Some(message) = self.next() {
                        place.send(BodyFrame::data(message));
                    }
                }
            }
        }
    }

    fn greet(&mut self, first: Option<FromSidecar>) -> Result<(), Status> {
        let Some(from_sidecar::Message::Hello(hello)) = first.and_then(|first| first.message)
        else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let Hello { revision, version, instance } = hello;
        self.instance = instance.chars().take(253).collect();
        self.told = Some(revision);
        let Caller { namespace, name } = &self.caller;
        tracing::debug!(namespace, sidecar = name, instance = self.instance, version, "a sidecar");
        Ok(())
    }

    /// The message that is to be sent now.
    fn next(&mut self) -> Option<Bytes> {
        let snapshot = self.watch.borrow_and_update().clone()?;
        let frame = self.frames.of(&self.caller.namespace, &snapshot);
        self.offer(&frame);
        if self.told.as_ref() == Some(&frame.revision) {
            let is_news = !std::mem::replace(&mut self.is_told, true);
            return is_news.then(|| frames::current(&frame.revision));
        }
        let message = frame.message.clone()?;
        self.told = Some(frame.revision.clone());
        self.is_told = true;
        self.waits_since = Some(Instant::now());
        Some(message)
    }

    fn hear(&mut self, message: FromSidecar) -> Result<(), Status> {
        match message.message {
            Some(from_sidecar::Message::Hello(_)) => {
                return Err(Status::invalid_argument("there is one hello a stream"));
            }
            Some(from_sidecar::Message::Acknowledgement(it)) => self.acknowledged(&it),
            Some(from_sidecar::Message::KeySets(sets)) => {
                self.keys = sets.key_sets;
                let snapshot = self.watch.borrow().clone();
                if let Some(snapshot) = snapshot {
                    let frame = self.frames.of(&self.caller.namespace, &snapshot);
                    self.offer(&frame);
                }
            }
            // Of a later version.
            None => {}
        }
        Ok(())
    }

    fn acknowledged(&mut self, acknowledgement: &Acknowledgement) {
        let Acknowledgement { revision, error } = acknowledgement;
        if self.told.as_ref() == Some(revision) {
            self.waits_since = None;
            self.note(revision, error);
        }
        let Caller { namespace, name } = &self.caller;
        let instance = &self.instance;
        let shortened = |text: &str, most| text.chars().take(most).collect::<String>();
        let (revision, error) = (shortened(revision, 64), shortened(error, 4096));
        if error.is_empty() {
            tracing::debug!(
                namespace,
                sidecar = name,
                instance,
                revision,
                "a snapshot is in force"
            );
        } else {
            tracing::warn!(
                namespace,
                sidecar = name,
                instance,
                revision,
                error,
                "a sidecar refuses a snapshot, and keeps the last good one"
            );
        }
    }

    /// Has it known what became of the snapshot that it was sent.
    fn note(&self, revision: &str, error: &str) {
        let Caller { namespace, .. } = &self.caller;
        if error.is_empty() {
            self.refusals.accept(namespace, self.id);
        } else {
            self.refusals.refuse(namespace, self.id, revision, self.pod(), error);
        }
    }

    /// Its pod: as its token says, or, where that is not known, as it says itself.
    fn pod(&self) -> &str {
        let name = &self.caller.name;
        let said = if self.instance.is_empty() { name } else { &self.instance };
        name.split_once('/').map_or(said, |(_, pod)| pod)
    }

    /// Has the keys that it said it has published, as far as they are of scopes of its namespace.
    fn offer(&self, frame: &Frame) {
        let namespace = &self.caller.namespace;
        let refused =
            self.union.report(self.id, namespace, &frame.client_ids, &self.keys, Instant::now());
        for refusal in refused {
            let (sidecar, instance) = (&self.caller.name, &self.instance);
            tracing::warn!(namespace, sidecar, instance, "keys are not published: {refusal}");
        }
    }
}

/// Between half of [`LIFE`] and all of it.
fn life(id: u64) -> Duration {
    // The golden ratio spreads those that came one after the other.
    let step = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    let step = u32::try_from(step).unwrap_or_default();
    LIFE / 2 + (LIFE / 2).mul_f64(f64::from(step) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_end_one_after_the_other() {
        let lives: Vec<Duration> = (0..1000).map(life).collect();
        assert!(lives.iter().all(|life| *life >= LIFE / 2 && *life <= LIFE));
        let early = lives.iter().filter(|life| **life < LIFE * 3 / 4).count();
        assert!((400..600).contains(&early), "{early}");
    }
}
