//! Opaque tokens: their issuer is asked whether they are active, and what they say (RFC 7662).
//!
//! This is the one kind of credential whose judgement does I/O in the request's own time. An answer
//! is kept for a bounded while, so a revocation is seen after `cacheTtl` at most, and requests that
//! bring one token at the same moment ask once. An issuer that can't be asked, or that doesn't answer
//! as it must, is a fault of ours and never a yes; nothing of it is kept. The token itself goes to
//! that one address and nowhere else: not into the memory, which knows its digest, and not into a
//! log.

mod memory;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{StatusCode, Url};
use serde_json::{Map, Value};
use tokio::sync::{OnceCell, Semaphore};

use self::memory::{Key, Memory};
use crate::clock::Timestamp;
use crate::json::{self, JsonFault};
use crate::remote::{self, BodyError, KeyUrlFault, LazyClient, acceptable, chain};
use crate::secrets::Source;

/// The largest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;

/// The longest time a no is kept, which is of no use to anyone but who repeats a bad token.
const NO_TTL: Duration = Duration::from_secs(5);

/// How many questions may be under way at one issuer. More tokens wait, for as long as one may take
/// in all: a flood of invented tokens must not become a flood at the issuer.
const MOST_QUESTIONS: usize = 64;

/// How an issuer is asked about its tokens.
#[derive(Clone, Debug)]
pub struct IntrospectionSettings {
    /// The introspection endpoint.
    pub url: String,
    /// Whether it may be plain http on another machine.
    pub insecure_http: bool,
    /// The certificate authorities to trust, PEM; only these. None: the system's.
    pub ca_file: Option<PathBuf>,
    /// Who asks.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Source,
    /// How long an answer is kept.
    pub cache_ttl: Duration,
    /// How many answers are kept, of each kind.
    pub cache_size: usize,
    /// How long asking may take in all.
    pub timeout: Duration,
}

impl IntrospectionSettings {
    pub(super) fn endpoint(&self) -> Result<Url, KeyUrlFault> {
        acceptable(&self.url, self.insecure_http, true)
    }
}

/// Why an issuer's word on a token could not be had.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is")]
pub enum AskFault {
    #[error("no issuer is asked offline")]
    Offline,
    #[error("it did not answer in time: check the address, or raise `introspection.timeout`")]
    Timeout,
    #[error("the client secret can't be used: {problem}")]
    Secret { problem: String },
    #[error("{problem}")]
    Client { problem: String },
    #[error("it did not answer ({problem}): check the address and the network")]
    Unreachable { problem: String },
    #[error("it answered {status}, not 200: check the address, the client id and its secret")]
    Status { status: u16 },
    #[error("its answer is larger than {ANSWER_LIMIT} bytes")]
    TooLarge,
    #[error("its answer {fault}")]
    Json { fault: JsonFault },
    #[error("its answer has no `active` that is true or false")]
    NotSaid,
}

/// What an issuer said of a token.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// It is active, and these are its claims.
    Active(Arc<Map<String, Value>>),
    /// It is not.
    Inactive,
}

/// Asks one issuer about its tokens, and remembers what it said.
///
/// The memory is this one's own, and it asks at one address as one client: an answer can't be taken
/// for another issuer's, another endpoint's or another scope's.
pub struct Introspector {
    endpoint: Url,
    client: LazyClient,
    settings: IntrospectionSettings,
    memory: Mutex<Memory>,
    questions: Semaphore,
}

type Flight = OnceCell<Result<Answer, AskFault>>;

impl Introspector {
    /// One that asks as `settings` say.
    ///
    /// # Errors
    /// When the address is not acceptable.
    pub fn new(settings: IntrospectionSettings) -> Result<Self, KeyUrlFault> {
        let endpoint = settings.endpoint()?;
        // The token and the secret are for this address: another one would get them by a redirect.
        let client = LazyClient::new(&endpoint, settings.ca_file.clone()).staying();
        let memory = Mutex::new(Memory::new(settings.cache_size));
        Ok(Self { endpoint, client, settings, memory, questions: Semaphore::new(MOST_QUESTIONS) })
    }

    /// What the issuer says of `token`, or said not longer ago than is kept.
    pub(super) async fn ask(&self, token: &str, now: Timestamp) -> Result<Answer, AskFault> {
        let key = Key::of(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        let flight = match self.memory().find(&key, now) {
            memory::Found::Answer(answer) => return Ok(answer),
            memory::Found::Flight(flight) => flight,
        };
        // Whoever is first asks for all who wait; should that request be given up, the next one asks.
        let asking = flight.get_or_init(|| self.ask_now(token, key, now));
        let answer = tokio::time::timeout(self.settings.timeout, asking).await;
        let answer = answer.map_or(Err(AskFault::Timeout), Clone::clone);
        if answer.is_err() {
            self.memory().land(&key, &flight);
        }
        answer
    }

    async fn ask_now(&self, token: &str, key: Key, now: Timestamp) -> Result<Answer, AskFault> {
        let answer = self.question(token).await?;
        let kept = match &answer {
            Answer::Active(_) => self.settings.cache_ttl,
            Answer::Inactive => self.settings.cache_ttl.min(NO_TTL),
        };
        self.memory().keep(key, answer.clone(), now, now.after(kept));
        Ok(answer)
    }

    async fn question(&self, token: &str) -> Result<Answer, AskFault> {
        // The semaphore is never closed.
        let _turn = self.questions.acquire().await.map_err(|_| AskFault::Timeout)?;
        let secret = self.settings.client_secret.text().await;
        let secret = secret.map_err(|error| AskFault::Secret { problem: error.to_string() })?;
        // The two halves are form-encoded before they are joined (RFC 6749 section 2.3.1).
        let encoded =
            |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let client = self.client.client();
        let client = client.map_err(|error| AskFault::Client { problem: error.to_string() })?;
        let unreachable = |error: reqwest::Error| {
            self.client.forget();
            AskFault::Unreachable { problem: chain(&error.without_url()) }
        };
        let response = client
            .post(self.endpoint.clone())
            .basic_auth(encoded(&self.settings.client_id), Some(encoded(secret.expose())))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form)
            .send()
            .await
            .map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(AskFault::Status { status: response.status().as_u16() });
        }
        let body = remote::body(response, ANSWER_LIMIT).await.map_err(|error| match error {
            BodyError::TooLarge => AskFault::TooLarge,
            BodyError::Broken(error) => unreachable(error),
        })?;
        let claims = json::object(&body).map_err(|fault| AskFault::Json { fault })?;
        match claims.get("active") {
            Some(Value::Bool(true)) => Ok(Answer::Active(Arc::new(claims))),
            Some(Value::Bool(false)) => Ok(Answer::Inactive),
            _ => Err(AskFault::NotSaid),
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        // What a panic left behind is whole: no step of the memory's can end half-way.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Introspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspector").field("url", &self.settings.url).finish_non_exhaustive()
    }
}
