//! A bundle of policies at an address: looked for again and again, and put in force when it is good.
//!
//! What is fetched is bounded, unpacked, judged by its signature where one is asked for, and compiled;
//! then it replaces what was in force, for the requests that come next. Anything wrong on that way
//! leaves the last good bundle in force, is logged, counted, and shown on `/readyz` while there is none
//! yet. The server's ETag saves fetching what is in force already.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, ETAG, HeaderValue, IF_NONE_MATCH};
use reqwest::{StatusCode, Url};
use tokio_util::sync::CancellationToken;

use super::{Bundle, Verification};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::policy::{Confirmed, Engine, Policy};
use crate::remote::{self, BodyError, ClientError, LazyClient, Shown, chain, jittered};
use crate::secrets::Keeper;

/// A larger archive is none of ours.
const ARCHIVE_LIMIT: usize = 64 * 1024 * 1024;

/// The time for one look.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The first pause after a look that failed; each one is twice as long, up to the usual.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Where a bundle is, and how it is judged.
#[derive(Debug)]
pub struct BundleSettings {
    /// Its address.
    pub url: Url,
    /// A file with a bearer token to present, read at each look.
    pub token_file: Option<PathBuf>,
    /// The certificate authorities to trust, PEM; only these. None: the system's.
    pub ca_file: Option<PathBuf>,
    /// How often to look.
    pub poll_interval: Duration,
    /// Who must have signed it; none: whoever serves it is believed.
    pub verification: Option<Arc<Verification>>,
}

/// Makes policies of what a bundle holds; says what is wrong with it.
pub type Build = Box<dyn Fn(Bundle) -> Result<Policy, String> + Send + Sync>;

/// Keeps one scope's bundle up to date.
pub struct BundleTask {
    settings: BundleSettings,
    client: LazyClient,
    build: Arc<Build>,
    keeper: Keeper<Engine>,
    confirmed: Option<(Confirmed, Clock)>,
    /// Of the bundle that is in force.
    etag: Option<HeaderValue>,
}

/// Why a look brought nothing.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("can't read `{}`: {source}", path.display())]
    Token { path: PathBuf, source: std::io::Error },
    #[error("`{0}` holds no token")]
    NoToken(String),
    #[error("`{url}` can't be reached: {text}")]
    Unreachable { url: Shown, text: String },
    #[error("`{url}` did not answer within {TIMEOUT:?}")]
    Late { url: Shown },
    #[error("`{url}` answers {status}")]
    Status { url: Shown, status: StatusCode },
    #[error("`{url}` has more than {} MiB", ARCHIVE_LIMIT / 1024 / 1024)]
    TooLarge { url: Shown },
    #[error("the bundle of `{url}` is not used: {text}")]
    Unusable { url: Shown, text: String },
}

/// What a look found.
enum Found {
    /// What is in force.
    Nothing,
    New {
        archive: Vec<u8>,
        etag: Option<HeaderValue>,
    },
}

impl BundleTask {
    pub(in crate::policy) fn new(
        settings: BundleSettings,
        build: Build,
        keeper: Keeper<Engine>,
    ) -> Self {
        let client = LazyClient::new(&settings.url, settings.ca_file.clone());
        Self { settings, client, build: Arc::new(build), keeper, confirmed: None, etag: None }
    }

    /// The same, noting when a look found what is in force, or put it in force.
    #[must_use]
    pub fn confirming(self, confirmed: Confirmed, clock: Clock) -> Self {
        Self { confirmed: Some((confirmed, clock)), ..self }
    }

    /// Looks at once and then at the interval, until `shutdown`.
    pub async fn run(mut self, metrics: Metrics, shutdown: CancellationToken) {
        let usual = self.settings.poll_interval;
        let mut retry = FIRST_RETRY.min(usual);
        loop {
            let pause = match self.look().await {
                Ok(()) => {
                    if let Some((confirmed, clock)) = &self.confirmed {
                        confirmed.note(clock.now());
                    }
                    retry = FIRST_RETRY.min(usual);
                    usual
                }
                Err(error) => {
                    self.client.forget();
                    metrics.reload_failed();
                    let text = error.to_string();
                    if self.keeper.fail(text.clone()) {
                        tracing::error!("the policies stay as they were: {text}");
                    }
                    let pause = retry;
                    retry = retry.saturating_mul(2).min(usual);
                    pause
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(jittered(pause)) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), LookError> {
        let late = |_| LookError::Late { url: self.shown() };
        let found = tokio::time::timeout(TIMEOUT, self.fetch()).await.map_err(late)??;
        let Found::New { archive, etag } = found else {
            self.keeper.confirm();
            return Ok(());
        };
        let (build, verification) = (Arc::clone(&self.build), self.settings.verification.clone());
        let make = move || {
            let bundle = match &verification {
                Some(verification) => Bundle::unpack_signed(&archive, verification),
                None => Bundle::unpack(&archive),
            };
            build(bundle.map_err(|error| error.to_string())?)
        };
        // Unpacking and compiling take longer than a request should wait.
        let made = tokio::task::spawn_blocking(make).await;
        let made = made.unwrap_or_else(|_| Err("it made us panic".to_owned()));
        let policy = made.map_err(|text| LookError::Unusable { url: self.shown(), text })?;
        tracing::info!(
            revision = policy.revision(),
            "the bundle of `{}` is in force",
            self.shown()
        );
        if policy.is_empty() {
            tracing::warn!("the bundle of `{}` holds no policy: all is denied", self.shown());
        }
        if let Some(engine) = policy.into_engine() {
            self.keeper.put(engine);
        }
        self.etag = etag;
        Ok(())
    }

    async fn fetch(&self) -> Result<Found, LookError> {
        let mut request = self.client.client()?.get(self.settings.url.clone());
        if let Some(etag) = &self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        if let Some(credentials) = self.credentials()? {
            request = request.header(AUTHORIZATION, credentials);
        }
        let sent = request.send().await;
        let response = sent.map_err(|error| self.unreachable(error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if self.etag.is_some() => return Ok(Found::Nothing),
            status => return Err(LookError::Status { url: self.shown(), status }),
        }
        let etag = response.headers().get(ETAG).cloned();
        let archive = remote::body(response, ARCHIVE_LIMIT).await.map_err(|error| match error {
            BodyError::TooLarge => LookError::TooLarge { url: self.shown() },
            BodyError::Broken(error) => self.unreachable(error),
        })?;
        Ok(Found::New { archive, etag })
    }

    fn credentials(&self) -> Result<Option<HeaderValue>, LookError> {
        let Some(path) = &self.settings.token_file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| LookError::Token { path: path.clone(), source })?;
        let value = HeaderValue::try_from(format!("Bearer {}", text.trim()));
        let mut value = value
            .ok()
            .filter(|_| !text.trim().is_empty())
            .ok_or_else(|| LookError::NoToken(path.display().to_string()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn unreachable(&self, error: reqwest::Error) -> LookError {
        // The library's own words repeat the address, with its query.
        let error = error.without_url();
        LookError::Unreachable { url: self.shown(), text: chain(&error) }
    }

    fn shown(&self) -> Shown {
        Shown::new(&self.settings.url)
    }
}

impl fmt::Debug for BundleTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleTask").field("settings", &self.settings).finish_non_exhaustive()
    }
}
