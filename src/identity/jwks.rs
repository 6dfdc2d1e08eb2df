//! The issuers' keys, kept fresh in the background.
//!
//! One [`JwksTask`] an issuer is the only writer of its keys, so there is never more than one fetch
//! in flight; requests read the latest set through [`IssuerKeys`] and never wait. A token with an
//! unknown `kid` nudges the task, which looks again at most once a cool-down, however many such
//! tokens come. When a look fails the last good set stays, and the next look comes after a growing,
//! jittered pause.

mod fetch;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::fetch::FetchError;
use self::fetch::{Fetched, Source};
use super::key_set::{KeySet, KeySetError};
use super::settings::{IdentityError, IssuerSettings, KeySourceSettings};
use crate::metrics::Outcomes;
use crate::remote::{KeyUrlFault, chain, jittered};

/// Makes the two ends of an issuer's keys: one to read them, and the task that keeps them fresh,
/// which does nothing until it is [run](JwksTask::run). The keys that `known` has of the same place are kept
/// until they are read anew.
///
/// # Errors
/// When the address of the keys is not acceptable.
pub fn start(
    settings: &IssuerSettings,
    pace: Pace,
    known: Option<&IssuerKeys>,
) -> Result<(IssuerKeys, JwksTask), IdentityError> {
    let source = Source::new(settings).map_err(|(url, fault)| {
        let issuer = settings.issuer.clone();
        IdentityError::KeyUrl { issuer, url, fault }
    })?;
    let place = Some(Arc::new(Place::of(settings)));
    let known = known.filter(|known| known.place == place).and_then(IssuerKeys::current);
    let (sender, receiver) = watch::channel(State { keys: known, ..State::default() });
    let nudges = Arc::new(Notify::new());
    let keys = IssuerKeys { state: receiver, nudges: Arc::clone(&nudges), place };
    let issuer = settings.issuer.clone();
    let task = JwksTask {
        issuer,
        source,
        pace,
        state: sender,
        nudges,
        last: None,
        failures: 0,
        looks: Outcomes::default(),
    };
    Ok((keys, task))
}

/// How often the keys of any issuer of this process have changed.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Another number each time the keys of any issuer have changed. Keys that are looked at after it are of
/// that time or later.
pub(super) fn changes() -> u64 {
    CHANGES.load(Ordering::Acquire)
}

/// The latest keys of one issuer. Clones are cheap and see the same keys.
#[derive(Clone)]
pub struct IssuerKeys {
    state: watch::Receiver<State>,
    nudges: Arc<Notify>,
    /// Where they are read.
    place: Option<Arc<Place>>,
}

impl IssuerKeys {
    /// Keys that never change: for a decision made offline.
    pub fn fixed(keys: KeySet) -> Self {
        let state = State { keys: Some(Arc::new(keys)), ..State::default() };
        Self { state: watch::channel(state).1, nudges: Arc::default(), place: None }
    }

    /// Keys that never come: for an issuer that can't be asked offline.
    pub fn absent() -> Self {
        Self { state: watch::channel(State::default()).1, nudges: Arc::default(), place: None }
    }

    /// Whether there are keys at all.
    pub fn ready(&self) -> bool {
        self.state.borrow().keys.is_some()
    }

    /// Waits until there are keys; forever, if the task ends before it has any.
    pub async fn loaded(&mut self) {
        if self.state.wait_for(|state| state.keys.is_some()).await.is_err() {
            std::future::pending().await
        }
    }

    /// Why the last look failed; none when it succeeded, or there was none yet.
    pub fn last_error(&self) -> Option<String> {
        self.state.borrow().error.clone()
    }

    /// How long ago a look last succeeded; none before the first.
    pub fn age(&self) -> Option<Duration> {
        self.state.borrow().confirmed.map(|confirmed| confirmed.elapsed())
    }

    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        self.state.borrow().keys.clone()
    }

    /// Asks for a look before its time. Returns at once; what comes too often is dropped.
    pub(super) fn nudge(&self) {
        self.nudges.notify_one();
    }
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerKeys").field("ready", &self.ready()).finish_non_exhaustive()
    }
}

/// Where keys are read, and who vouches for it.
#[derive(Debug, Eq, PartialEq)]
struct Place {
    issuer: String,
    url: Option<String>,
    file: Option<PathBuf>,
    authorities: Option<PathBuf>,
    insecure_http: bool,
}

impl Place {
    fn of(settings: &IssuerSettings) -> Self {
        let (url, file) = match &settings.keys {
            KeySourceSettings::Url(url) => (Some(url.clone()), None),
            KeySourceSettings::File(file) => (None, Some(file.clone())),
            KeySourceSettings::Discovery | KeySourceSettings::Introspection(_) => (None, None),
        };
        Self {
            issuer: settings.issuer.clone(),
            url,
            file,
            authorities: settings.ca_file.clone(),
            insecure_http: settings.insecure_http,
        }
    }
}

/// When to look at an issuer's keys, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long one request may take in all.
    pub timeout: Duration,
    /// Between looks at an address that doesn't say how long its answer is good for.
    pub refresh: Duration,
    /// The bounds of what such an address may say (`max-age`).
    pub max_age: (Duration, Duration),
    /// Between looks at a file.
    pub file: Duration,
    /// The first and the longest pause after a failure.
    pub retry: (Duration, Duration),
    /// The shortest pause between looks that unknown key ids cause.
    pub cool_down: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            timeout: seconds(5),
            refresh: seconds(300),
            max_age: (seconds(30), seconds(3600)),
            file: seconds(30),
            retry: (seconds(1), seconds(60)),
            cool_down: seconds(10),
        }
    }
}

/// The writer of one issuer's keys.
pub struct JwksTask {
    issuer: String,
    source: Source,
    pace: Pace,
    state: watch::Sender<State>,
    nudges: Arc<Notify>,
    /// The set as it was last read, so that an unchanged one is not parsed again.
    last: Option<Vec<u8>>,
    failures: u32,
    looks: Outcomes,
}

#[derive(Clone, Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    error: Option<String>,
    /// When a look last succeeded.
    confirmed: Option<Instant>,
}

/// Why a look at an issuer's keys failed.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

impl JwksTask {
    /// Has `looks` count its looks.
    #[must_use]
    pub fn counted_by(self, looks: Outcomes) -> Self {
        Self { looks, ..self }
    }

    /// Keeps the keys fresh until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let looking = async {
            loop {
                let pause = self.look().await;
                self.rest(pause).await;
            }
        };
        shutdown.run_until_cancelled(looking).await;
    }

    /// Looks once, and returns how long to wait for the next time.
    async fn look(&mut self) -> Duration {
        let looked = self.try_look().await;
        self.looks.count(looked.is_ok());
        match looked {
            Ok(pause) => {
                self.failures = 0;
                self.state.send_modify(|state| {
                    state.error = None;
                    state.confirmed = Some(Instant::now());
                });
                pause
            }
            Err(error) => {
                let error = chain(&error);
                warn!(issuer = self.issuer, error, "the issuer's keys could not be read");
                self.state.send_modify(|state| state.error = Some(error));
                let (first, longest) = self.pace.retry;
                let pause = first.saturating_mul(1 << self.failures.min(16)).min(longest);
                self.failures = self.failures.saturating_add(1);
                jittered(pause)
            }
        }
    }

    async fn try_look(&mut self) -> Result<Duration, LookError> {
        let Fetched { body, good_for } = self.source.fetch(&self.pace).await?;
        if self.last.as_ref() != Some(&body) {
            let keys = KeySet::parse(&body)?;
            info!(issuer = self.issuer, keys = keys.count(), "the issuer's keys were read");
            for unused in keys.unused() {
                let (kid, reason) = (&unused.kid, unused.reason);
                warn!(issuer = self.issuer, %kid, reason, "a key of the issuer is left out");
            }
            self.publish(keys);
            self.last = Some(body);
        }
        Ok(good_for)
    }

    /// Has all who look see `keys` from now on.
    pub(super) fn publish(&self, keys: KeySet) {
        self.state.send_modify(|state| state.keys = Some(Arc::new(keys)));
        // Who sees the number sees the keys.
        CHANGES.fetch_add(1, Ordering::Release);
    }

    /// Waits for `pause`, or for less when nudged, but never for less than the cool-down.
    async fn rest(&self, pause: Duration) {
        let start = Instant::now();
        let nudged = async {
            self.nudges.notified().await;
            sleep_until(start + self.pace.cool_down).await;
        };
        tokio::select! {
            () = sleep_until(start + pause) => {}
            () = nudged => {}
        }
    }
}

impl fmt::Debug for JwksTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksTask").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Says whether the keys of `settings` are at an acceptable address; if not, which, and why.
pub(super) fn check_source(settings: &IssuerSettings) -> Result<(), (String, KeyUrlFault)> {
    Source::new(settings).map(|_| ())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::identity::fixture;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ends() -> (IssuerKeys, JwksTask) {
        start(&fixture::issuer(fixture::ISSUER), Pace::default(), None).unwrap()
    }

    #[test]
    fn keys_are_kept_over_a_reload_while_they_are_read_at_the_same_place() {
        let settings = fixture::issuer(fixture::ISSUER);
        let (known, task) = start(&settings, Pace::default(), None).unwrap();
        let set = fixture::key_set(&[fixture::P256.jwk("p256")]);
        task.publish(set);
        let is_kept = |settings: &IssuerSettings| {
            start(settings, Pace::default(), Some(&known)).unwrap().0.ready()
        };
        assert!(is_kept(&settings));
        let with = |change: fn(&mut IssuerSettings)| {
            let mut settings = settings.clone();
            change(&mut settings);
            settings
        };
        for other in [
            with(|it| it.keys = KeySourceSettings::Url("https://other.example/jwks".to_owned())),
            with(|it| it.keys = KeySourceSettings::File("keys.json".into())),
            with(|it| it.ca_file = Some("ca.pem".into())),
            with(|it| it.insecure_http = !it.insecure_http),
        ] {
            assert!(!is_kept(&other), "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_lasts_its_time() {
        let (_keys, task) = ends();
        let start = Instant::now();
        task.rest(MINUTE).await;
        assert_eq!(start.elapsed(), MINUTE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_nudge_ends_a_rest_but_never_before_the_cool_down() {
        let (keys, task) = ends();
        let start = Instant::now();
        for _ in 0..10_000 {
            keys.nudge();
        }
        task.rest(MINUTE).await;
        assert_eq!(start.elapsed(), Duration::from_secs(10));

        let (start, halfway) = (Instant::now(), Duration::from_secs(30));
        let late = async {
            tokio::time::sleep(halfway).await;
            keys.nudge();
        };
        tokio::join!(task.rest(MINUTE), late);
        assert_eq!(start.elapsed(), halfway);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_nudges_is_one_look_a_cool_down() {
        let (keys, task) = ends();
        let start = Instant::now();
        let flood = async {
            loop {
                keys.nudge();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let looks = async {
            for _ in 0..6 {
                task.rest(5 * MINUTE).await;
            }
        };
        tokio::select! {
            () = flood => {}
            () = looks => {}
        }
        assert_eq!(start.elapsed(), MINUTE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_is_not_put_off_by_nudges() {
        let (keys, task) = ends();
        keys.nudge();
        let start = Instant::now();
        task.rest(Duration::from_secs(1)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[test]
    fn only_tokens_that_a_rotation_explains_nudge() {
        use fixture::{P256, bearing, claims, header, key_set, token, token_of, with};
        use serde_json::{Value, json};

        use crate::identity::Identity;
        use crate::keys::Algorithm;

        let nudged = |set: KeySet, token: &str| {
            let keys = IssuerKeys::fixed(set);
            let reader = vec![keys.clone()];
            let reader = reader.into_iter().map(crate::identity::Proof::Keys).collect();
            let identity = Identity::new(fixture::settings(), reader, None, Arc::default())
                .unwrap()
                .remembering();
            let authenticated = identity.authenticate_now(&bearing(token), fixture::NOW).is_ok();
            (authenticated, keys.nudges.notified().now_or_never().is_some())
        };
        let set = || key_set(&[P256.jwk("p256")]);
        let of = |kid: Value| token(&with(header(), json!({ "kid": kid })), &claims());
        assert_eq!(nudged(set(), &of(json!("p256"))), (true, false));
        assert_eq!(nudged(set(), &of(json!("next"))), (false, true));
        assert_eq!(nudged(set(), &of(Value::Null)), (true, false));
        let other = fixture::fresh_p256();
        let by_other = |header: Value| {
            token_of(header.to_string(), claims().to_string(), &other, Algorithm::ES256)
        };
        assert_eq!(nudged(set(), &by_other(with(header(), json!({"kid": null})))), (false, true));
        assert_eq!(nudged(set(), &by_other(header())), (false, false));
        let foreign = with(claims(), json!({"iss": "https://evil.example"}));
        let foreign = token(&with(header(), json!({"kid": "next"})), &foreign);
        assert_eq!(nudged(set(), &foreign), (false, false));
    }

    #[test]
    fn jitter_takes_a_tenth_at_most() {
        for _ in 0..1000 {
            let pause = jittered(MINUTE);
            assert!((MINUTE * 9 / 10..=MINUTE).contains(&pause), "{pause:?}");
        }
        let pauses: std::collections::HashSet<_> = (0..1000).map(|_| jittered(MINUTE)).collect();
        assert!(pauses.len() > 1);
    }

    #[tokio::test]
    async fn an_empty_answer_is_no_key_set() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut settings = fixture::issuer(fixture::ISSUER);
        settings.keys = KeySourceSettings::File(file.path().to_owned());
        let (keys, mut task) = start(&settings, Pace::default(), None).unwrap();
        assert!(task.look().await <= Pace::default().retry.0);
        assert!(keys.last_error().is_some() && !keys.ready());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_ever_later() {
        let mut settings = fixture::issuer(fixture::ISSUER);
        settings.keys = super::super::KeySourceSettings::File("/nowhere/keys.json".into());
        let (keys, mut task) = start(&settings, Pace::default(), None).unwrap();
        let mut expected = Duration::from_secs(1);
        for _ in 0..40 {
            let pause = task.look().await;
            assert!((expected * 9 / 10..=expected).contains(&pause), "{pause:?} {expected:?}");
            expected = (expected * 2).min(MINUTE);
        }
        assert!(!keys.ready());
        let error = keys.last_error().unwrap();
        assert!(error.starts_with("could not read `/nowhere/keys.json`"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }
}
