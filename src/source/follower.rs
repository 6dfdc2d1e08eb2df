//! The stream from the control plane: snapshots come in, what became of them and the public keys go out.
//!
//! One connection, made anew whenever it ends, after a pause that grows and is never the same for two. Nothing
//! here decides anything: a snapshot is handed on, and of several that come only the last one counts.

use std::sync::Arc;
use std::time::Duration;

use http::uri::{PathAndQuery, Uri};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{ControlSettings, Following, MAX_SNAPSHOT_BYTES, Outcome, Wanted};
use crate::clock::Clock;
use crate::fips;
use crate::metrics::Metrics;
use crate::policy::Confirmed;
use crate::proto::control::{
    Acknowledgement, FromControl, FromSidecar, Hello, KeySet, KeySets, Snapshot, from_control,
    from_sidecar,
};
use crate::remote::place::{ConnectError, Place, PlaceError};

/// The method.
const FOLLOW: &str = "/placet.control.v1.Snapshots/Follow";

/// How long a connection may take to come about, and the first answer.
const CONNECT: Duration = Duration::from_secs(15);

/// The first pause after a connection that failed or ended; each one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The longest one where there is too much to do: who comes back sooner only makes it more.
const LONGEST_PAUSE_BUSY: Duration = Duration::from_secs(120);

/// A connection that stood so long was a good one.
const STOOD: Duration = Duration::from_secs(10);

/// How often is looked whether the keys are others.
const LOOK: Duration = Duration::from_secs(1);

/// Names and lengths beside the contents of a snapshot.
const MAX_MESSAGE_BYTES: usize = MAX_SNAPSHOT_BYTES + 4 * 1024 * 1024;

/// Follows the control plane.
#[derive(Debug)]
pub struct Follower {
    settings: ControlSettings,
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    outcome: watch::Receiver<Outcome>,
    problem: watch::Sender<Option<String>>,
    confirmed: Confirmed,
    clock: Clock,
    metrics: Metrics,
}

/// A follower, and what it shares with those who put snapshots in force.
#[derive(Debug)]
pub struct Parts {
    /// To be run by the caller.
    pub follower: Follower,
    /// The last snapshot that came.
    pub wanted: watch::Receiver<Option<Arc<Wanted>>>,
    /// What became of it.
    pub outcome: watch::Sender<Outcome>,
    /// For readers.
    pub following: Following,
}

/// Why there is no stream, or no longer.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("can't read the token in `{0}`: {1}")]
    Token(String, std::io::Error),
    #[error("`{0}` holds no token")]
    NoToken(String),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("it did not answer within {CONNECT:?}")]
    Late,
    #[error("it ended the stream ({:?}): {}", .0.code(), .0.message())]
    Status(Box<Status>),
    #[error("it ended the stream")]
    Ended,
    #[error("the snapshot on disk is damaged, and asked for anew")]
    Damaged,
}

impl LinkError {
    /// Whether the other end has more to do than it can.
    fn is_of_too_much(&self) -> bool {
        match self {
            Self::Late => true,
            Self::Status(status) => status.code() == Code::ResourceExhausted,
            _ => false,
        }
    }
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Parts {
    /// A follower that has the snapshot `in_force`. Whenever the control plane says that what is in force is what
    /// should be, that is `confirmed`.
    pub fn new(
        settings: ControlSettings,
        in_force: Option<String>,
        confirmed: Confirmed,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let (wanted, taken) = watch::channel(None);
        let (settled, outcome) = watch::channel(Outcome { in_force, refused: None });
        let waiting = "not connected yet".to_owned();
        let (problem, shown) = watch::channel(Some(waiting));
        metrics.control_connected(&settings.address, false);
        let following = Following { problem: shown, outcome: outcome.clone() };
        let follower = Follower { settings, wanted, outcome, problem, confirmed, clock, metrics };
        Self { follower, wanted: taken, outcome: settled, following }
    }
}

impl Follower {
    /// Follows until `shutdown`; `keys` are the public keys at the moment.
    pub async fn run(mut self, keys: impl Fn() -> Vec<KeySet>, shutdown: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.follow(&keys) => ended,
            };
            let was_connected = self.is_connected(false);
            if was_connected && began.elapsed() > STOOD {
                pause = FIRST_PAUSE;
            }
            let mut longest = LONGEST_PAUSE;
            if let Err(error) = ended {
                self.tell(&error);
                if error.is_of_too_much() {
                    longest = LONGEST_PAUSE_BUSY;
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(part_of(pause)) => {}
            }
            pause = pause.saturating_mul(2).min(longest);
        }
    }

    fn tell(&self, error: &LinkError) {
        let error = error.to_string();
        let is_news = self.problem.borrow().as_ref() != Some(&error);
        if is_news {
            let address = &self.settings.address;
            tracing::warn!("no connection to the control plane `{address}`: {error}");
        }
        self.problem.send_replace(Some(error));
    }

    /// Notes whether the connection stands; whether it did before.
    fn is_connected(&self, is_connected: bool) -> bool {
        self.metrics.control_connected(&self.settings.address, is_connected);
        let before = self.problem.borrow().is_none();
        if is_connected {
            self.problem.send_replace(None);
        }
        before
    }

    /// One stream, from its beginning to its end.
    async fn follow(&mut self, keys: &impl Fn() -> Vec<KeySet>) -> Result<(), LinkError> {
        let has = self.outcome.borrow_and_update().in_force.clone();
        let (sender, messages) = mpsc::channel(4);
        let opening = self.open(messages, has.clone().unwrap_or_default(), &sender);
        let inbound = timeout(CONNECT, opening).await.map_err(|_| LinkError::Late)??;
        self.is_connected(true);
        tracing::info!(address = self.settings.address, "connected to the control plane");
        let mut session = Session { sender, told: None, has, said: Outcome::default(), keys: None };
        session.said.in_force.clone_from(&session.has);
        self.converse(session, inbound, keys).await
    }

    async fn open(
        &self,
        messages: mpsc::Receiver<FromSidecar>,
        revision: String,
        sender: &mpsc::Sender<FromSidecar>,
    ) -> Result<Streaming<FromControl>, LinkError> {
        let token = self.token()?;
        let ControlSettings { address, server_name, ca_file, .. } = &self.settings;
        let place = Place::parse(address)?.over_tls(ca_file, server_name, None)?;
        let connection = place.connect().await?;
        let authority = Uri::builder().scheme("https").authority(address.as_str());
        let origin = authority.path_and_query("/").build().unwrap_or_default();
        let instance = nix::unistd::gethostname().ok();
        let instance = instance.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let hello = Hello { revision, version: fips::VERSION.to_owned(), instance };
        say(sender, from_sidecar::Message::Hello(hello)).await?;
        let mut request = Request::new(ReceiverStream::new(messages));
        request.metadata_mut().insert("authorization", token);
        let mut grpc =
            Grpc::with_origin(connection, origin).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let codec = ProstCodec::<FromSidecar, FromControl>::default();
        let path = PathAndQuery::from_static(FOLLOW);
        Ok(grpc.streaming(request, path, codec).await?.into_inner())
    }

    fn token(&self) -> Result<MetadataValue<Ascii>, LinkError> {
        let file = &self.settings.token_file;
        let name = || file.display().to_string();
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| LinkError::Token(name(), error))?;
        let value = format!("Bearer {}", text.trim());
        let value = MetadataValue::try_from(value).ok().filter(|_| !text.trim().is_empty());
        value.ok_or_else(|| LinkError::NoToken(name()))
    }

    async fn converse(
        &mut self,
        mut session: Session,
        mut inbound: Streaming<FromControl>,
        keys: &impl Fn() -> Vec<KeySet>,
    ) -> Result<(), LinkError> {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = inbound.message() => {
                    let message = message?.ok_or(LinkError::Ended)?.message;
                    session.told = match message {
                        Some(from_control::Message::Snapshot(snapshot)) => Some(self.take(snapshot)),
                        Some(from_control::Message::Current(current)) => Some(current.revision),
                        // Of a later version.
                        None => continue,
                    };
                }
                changed = self.outcome.changed() => {
                    changed.map_err(|_| LinkError::Ended)?;
                    let outcome = self.outcome.borrow_and_update().clone();
                    if outcome.in_force.is_none() && session.has.is_some() {
                        return Err(LinkError::Damaged);
                    }
                    session.acknowledge(outcome).await?;
                }
                _ = ticks.tick() => {
                    session.show(keys()).await?;
                    if session.told.is_some() && session.told == self.outcome.borrow().in_force {
                        self.confirmed.note(self.clock.now());
                    }
                }
            }
        }
    }

    /// Hands a snapshot on; its revision.
    fn take(&self, snapshot: Snapshot) -> String {
        let files = snapshot.files.into_iter().map(|file| (file.name, file.contents)).collect();
        let revision = snapshot.revision;
        tracing::info!(revision, "the control plane sent a snapshot");
        self.wanted.send_replace(Some(Arc::new(Wanted { revision: revision.clone(), files })));
        revision
    }
}

/// What was said on one stream.
struct Session {
    sender: mpsc::Sender<FromSidecar>,
    /// The revision that should be in force.
    told: Option<String>,
    /// The one that was when the stream began, or has been since.
    has: Option<String>,
    said: Outcome,
    keys: Option<Vec<KeySet>>,
}

impl Session {
    /// Says what became of snapshots since it was last said.
    async fn acknowledge(&mut self, outcome: Outcome) -> Result<(), LinkError> {
        let mut said = Vec::new();
        if let Some(revision) = &outcome.in_force
            && (self.said.in_force != outcome.in_force || self.told.as_ref() == Some(revision))
        {
            said.push(Acknowledgement { revision: revision.clone(), error: String::new() });
        }
        if let Some((revision, error)) = &outcome.refused {
            said.push(Acknowledgement { revision: revision.clone(), error: shortened(error) });
        }
        self.has = self.has.take().or_else(|| outcome.in_force.clone());
        self.said = outcome;
        for acknowledgement in said {
            say(&self.sender, from_sidecar::Message::Acknowledgement(acknowledgement)).await?;
        }
        Ok(())
    }

    /// Says which keys there are, if they are others than it said.
    async fn show(&mut self, keys: Vec<KeySet>) -> Result<(), LinkError> {
        if self.keys.as_ref() == Some(&keys) {
            return Ok(());
        }
        self.keys = Some(keys.clone());
        let message = from_sidecar::Message::KeySets(KeySets { key_sets: keys });
        say(&self.sender, message).await
    }
}

async fn say(
    sender: &mpsc::Sender<FromSidecar>,
    message: from_sidecar::Message,
) -> Result<(), LinkError> {
    let message = FromSidecar { message: Some(message) };
    sender.send(message).await.map_err(|_| LinkError::Ended)
}

/// Errors are for people, who read no more than this.
const MAX_ERROR_BYTES: usize = 4096;

fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_ERROR_BYTES.min(text.len()));
    text.get(..end).unwrap_or_default().to_owned()
}

/// Between none and all of `pause`, so that those who lost one server do not come back at once.
fn part_of(pause: Duration) -> Duration {
    let mut bytes = [0; 2];
    // Without randomness there is no jitter, and nothing worse.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    pause.mul_f64(f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_spread_over_all_of_its_length() {
        let pauses: Vec<Duration> = (0..1000).map(|_| part_of(Duration::from_secs(8))).collect();
        let below = |seconds| pauses.iter().filter(|it| it.as_secs_f64() < seconds).count();
        assert!((50..250).contains(&below(1.0)) && (350..650).contains(&below(4.0)));
        assert_eq!(below(8.1), 1000);
    }

    #[test]
    fn an_error_is_cut_between_letters() {
        let text = "ü".repeat(MAX_ERROR_BYTES);
        assert_eq!(shortened(&text).len(), MAX_ERROR_BYTES);
        assert_eq!(shortened("short"), "short");
    }
}
