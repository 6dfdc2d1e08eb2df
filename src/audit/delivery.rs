//! Lines that are sent elsewhere, in batches, over HTTP.
//!
//! A batch is tried again, later and later, while it may yet be taken: with no answer, 408, 429 and 5xx for
//! minutes, with any other status (a credential may just be changed) a few times. Then it is lost and
//! counted, so that it holds nothing up for ever; unless all is to wait for it. An answer that is lost makes a batch come twice: who must count
//! exactly tells lines apart by their ids. Credentials are read at each attempt.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt as _, Limited};
use prost::Message as _;
use reqwest::Url;
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    TE,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::otlp::{self, Resource};
use super::queue::{Queue, count, split};
use super::sink::Health;
use crate::remote::{LazyClient, Shown, chain, jittered};
use crate::secrets::Source;

/// How long a batch is tried.
const TRIED_FOR: Duration = Duration::from_secs(300);

/// How often a batch is tried that was refused as such.
const REFUSALS: u32 = 3;

/// The pause after the first failure; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause, also where the server asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause at the end of the process.
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// What is read of an answer.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Where batches are sent, and how.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// Where.
    pub url: Url,
    /// As what.
    pub form: Form,
    /// Further header fields.
    pub headers: HeaderMap,
    /// Further header fields whose values are in files.
    pub header_files: Vec<(HeaderName, PathBuf)>,
    /// What is presented.
    pub credentials: Credentials,
    /// The authorities to trust, PEM, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// The time for one attempt.
    pub timeout: Duration,
    /// A batch has no more lines than fit into so many bytes, or one.
    pub batch_bytes: usize,
    /// A line waits no longer for others.
    pub batch_interval: Duration,
    /// Whether batches are compressed.
    pub gzip: bool,
}

/// What a batch looks like.
#[derive(Clone, Debug)]
pub enum Form {
    /// Lines of JSON.
    Ndjson,
    /// A list in JSON.
    JsonArray,
    /// OTLP over HTTP, in protobuf.
    OtlpHttp(Resource),
    /// OTLP over gRPC.
    OtlpGrpc(Resource),
}

/// What is presented to the server.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nothing.
    Nothing,
    /// A bearer token.
    Bearer(Source),
    /// A user name, and the file with its password.
    Basic(String, PathBuf),
}

/// The way of batches to a server; it has a runtime of its own, beside that of the requests.
#[derive(Debug)]
pub(super) struct Remote {
    sender: Sender,
    runtime: Runtime,
}

impl Remote {
    pub(super) fn new(settings: RemoteSettings) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = LazyClient::new(&settings.url, settings.ca_file.clone()).staying();
        let client = match settings.form {
            Form::OtlpGrpc(_) => client.over_http2(),
            _ => client,
        };
        Ok(Self { sender: Sender { settings, client }, runtime })
    }

    /// Sends `lines`, and makes room as they are taken. How many bytes were, or are given up; with `is_patient`
    /// only at the end.
    pub(super) fn deliver(
        &self,
        lines: &[u8],
        queue: &Queue,
        is_patient: bool,
        health: &mut Health,
    ) -> usize {
        let mut rest = lines;
        while !rest.is_empty() {
            let (batch, after) = split(rest, self.sender.settings.batch_bytes);
            self.runtime.block_on(self.sender.send(batch, queue.end(), is_patient, health));
            queue.release(batch.len());
            rest = after;
        }
        lines.len()
    }
}

struct Sender {
    settings: RemoteSettings,
    client: LazyClient,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A batch was answered.
#[derive(Debug, Default)]
struct Taken {
    /// How many of its lines the server did not take after all, and what it says of that.
    refused: u64,
    why: String,
}

/// A batch was not taken.
#[derive(Debug)]
struct Failed {
    text: String,
    /// Whether it is this batch that is not wanted.
    is_refusal: bool,
    /// How long the server asks to wait.
    pause: Option<Duration>,
}

impl Sender {
    /// Sends `batch` until it is taken, or lost.
    async fn send(
        &self,
        batch: &[u8],
        mut end: watch::Receiver<Option<Instant>>,
        is_patient: bool,
        health: &mut Health,
    ) {
        let (began, mut refusals, mut pause) = (Instant::now(), 0, FIRST_PAUSE);
        loop {
            let attempt = tokio::select! {
                biased;
                () = passed(end.clone()) => break,
                attempt = self.attempt(batch) => attempt,
            };
            let failed = match attempt {
                Ok(Taken { refused: 0, .. }) => return health.works(),
                Ok(Taken { refused, why }) => {
                    health.fails(&format_args!("{refused} lines were refused: {why}"));
                    return health.lose(refused);
                }
                Err(failed) => failed,
            };
            self.client.forget();
            health.fails(&failed.text);
            refusals += u32::from(failed.is_refusal);
            let is_lost = refusals >= REFUSALS || began.elapsed() >= TRIED_FOR;
            if is_lost && !is_patient {
                break;
            }
            self.pause(failed.pause.unwrap_or(pause).min(LONGEST_PAUSE), &mut end).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
        health.lose(count(batch));
    }

    /// Waits before the next attempt; not for long at the end, and not a moment longer when it comes.
    async fn pause(&self, pause: Duration, end: &mut watch::Receiver<Option<Instant>>) {
        if end.borrow_and_update().is_some() {
            return tokio::time::sleep(pause.min(LAST_PAUSE)).await;
        }
        // With nobody left to tell of the end there is none.
        let begun = async {
            if end.changed().await.is_err() {
                std::future::pending().await
            }
        };
        // That time is over is no failure.
        let _ = tokio::time::timeout(jittered(pause), begun).await;
    }

    async fn attempt(&self, batch: &[u8]) -> Result<Taken, Failed> {
        let timeout = self.settings.timeout;
        let asked = tokio::time::timeout(timeout, self.post(batch)).await;
        asked.unwrap_or_else(|_| Err(Failed::passing(format!("no answer within {timeout:?}"))))
    }

    async fn post(&self, batch: &[u8]) -> Result<Taken, Failed> {
        let client = self.client.client().map_err(|error| Failed::passing(chain(&error)))?;
        let (headers, body) = self.message(batch).await?;
        let request = client.post(self.settings.url.clone()).headers(headers).body(body);
        let shown = Shown::new(&self.settings.url);
        let answered = request.send().await.map_err(reqwest::Error::without_url);
        let answer = answered.map_err(|error| {
            Failed::passing(format!("`{shown}` did not answer: {}", chain(&error)))
        })?;
        let answer: http::Response<reqwest::Body> = answer.into();
        let (head, body) = answer.into_parts();
        let read = Limited::new(body, ANSWER_LIMIT).collect().await;
        if !head.status.is_success() {
            return Err(Failed::status(&shown, head.status, &head.headers));
        }
        let read = read.map_err(|error| {
            Failed::passing(format!("the answer of `{shown}` can't be read: {error}"))
        })?;
        let trailers = read.trailers().cloned().unwrap_or_default();
        let answer = read.to_bytes();
        match &self.settings.form {
            Form::Ndjson | Form::JsonArray => Ok(Taken::default()),
            Form::OtlpHttp(_) => Ok(Taken::of_otlp(&answer)),
            Form::OtlpGrpc(_) => {
                let field = |name| head.headers.get(name).or_else(|| trailers.get(name));
                let text = |name| field(name).and_then(|value| value.to_str().ok());
                match text("grpc-status") {
                    Some("0") => Ok(Taken::of_otlp(answer.get(5..).unwrap_or_default())),
                    code => Err(Failed::code(&shown, code, text("grpc-message"))),
                }
            }
        }
    }

    /// The header fields and the body of `batch`.
    async fn message(&self, batch: &[u8]) -> Result<(HeaderMap, Bytes), Failed> {
        let settings = &self.settings;
        let mut headers = settings.headers.clone();
        for (name, file) in &settings.header_files {
            headers.insert(name, sensitive(&secret_of(file).await?)?);
        }
        match &settings.credentials {
            Credentials::Nothing => {}
            Credentials::Bearer(token) => {
                let token = token.text().await.map_err(Failed::passing)?;
                let text = Zeroizing::new(format!("Bearer {}", token.expose()));
                headers.insert(AUTHORIZATION, sensitive(&text)?);
            }
            Credentials::Basic(user, password) => {
                headers.insert(AUTHORIZATION, basic(user, password).await?);
            }
        }
        let (content_type, body) = match &settings.form {
            Form::Ndjson => ("application/x-ndjson", batch.to_vec()),
            Form::JsonArray => ("application/json", array(batch)),
            Form::OtlpHttp(resource) => {
                ("application/x-protobuf", otlp::request(batch, resource).encode_to_vec())
            }
            Form::OtlpGrpc(resource) => {
                ("application/grpc", otlp::request(batch, resource).encode_to_vec())
            }
        };
        let is_grpc = matches!(settings.form, Form::OtlpGrpc(_));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if settings.gzip {
            let name =
                if is_grpc { HeaderName::from_static("grpc-encoding") } else { CONTENT_ENCODING };
            headers.insert(name, HeaderValue::from_static("gzip"));
        }
        let body = if settings.gzip { gzip(&body).map_err(Failed::refusal)? } else { body };
        if is_grpc {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            return Ok((headers, framed(&body, settings.gzip)?));
        }
        Ok((headers, body.into()))
    }
}

/// Ends when `end` does, if there is one.
async fn passed(mut end: watch::Receiver<Option<Instant>>) {
    let at = end.wait_for(Option::is_some).await.ok().and_then(|end| *end);
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What is in a file, but for the end of its line.
async fn secret_of(file: &Path) -> Result<Zeroizing<String>, Failed> {
    let shown = file.display();
    let unread = |error| Failed::passing(format!("can't read `{shown}`: {error}"));
    let text = tokio::fs::read_to_string(file).await.map(Zeroizing::new).map_err(unread)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Failed::passing(format!("`{shown}` is empty"))),
        text => Ok(Zeroizing::new(text.to_owned())),
    }
}

async fn basic(user: &str, password: &Path) -> Result<HeaderValue, Failed> {
    let password = secret_of(password).await?;
    let pair = Zeroizing::new(format!("{user}:{}", *password));
    sensitive(&Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes()))))
}

fn sensitive(text: &str) -> Result<HeaderValue, Failed> {
    let mut value = HeaderValue::from_str(text).map_err(Failed::passing)?;
    value.set_sensitive(true);
    Ok(value)
}

fn array(batch: &[u8]) -> Vec<u8> {
    let mut array = Vec::with_capacity(batch.len() + 2);
    array.push(b'[');
    array.extend(batch.strip_suffix(b"\n").unwrap_or(batch).iter().map(|byte| match byte {
        // JSON has no line ends within it: each one is the end of a line of ours.
        b'\n' => b',',
        byte => *byte,
    }));
    array.push(b']');
    array
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// One message of a gRPC call.
fn framed(message: &[u8], is_compressed: bool) -> Result<Bytes, Failed> {
    let length = u32::try_from(message.len()).map_err(Failed::refusal)?;
    let mut frame = vec![u8::from(is_compressed)];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    Ok(frame.into())
}

impl Taken {
    fn of_otlp(answer: &[u8]) -> Self {
        let (refused, why) = otlp::refused(answer);
        Self { refused, why }
    }
}

impl Failed {
    /// It may go better later.
    fn passing(text: impl ToString) -> Self {
        Self { text: text.to_string(), is_refusal: false, pause: None }
    }

    /// It is not expected to.
    fn refusal(text: impl ToString) -> Self {
        Self { is_refusal: true, ..Self::passing(text) }
    }

    fn status(shown: &Shown, status: http::StatusCode, headers: &HeaderMap) -> Self {
        let is_passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
        let pause = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let text = format!("`{shown}` answered with the status {}", status.as_u16());
        Self { text, is_refusal: !is_passing, pause: pause.map(Duration::from_secs) }
    }

    /// Which codes may pass, the specification of OTLP says.
    fn code(shown: &Shown, code: Option<&str>, message: Option<&str>) -> Self {
        let is_passing = matches!(code, None | Some("1" | "4" | "8" | "10" | "11" | "14" | "15"));
        let message: String = message.unwrap_or_default().chars().take(200).collect();
        let code = code.unwrap_or("none");
        let text = format!("`{shown}` answered with the gRPC status {code}: {message}");
        Self { text, is_refusal: !is_passing, pause: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_a_list_or_lines() {
        assert_eq!(array(b"{\"a\":1}\n{\"b\":2}\n"), b"[{\"a\":1},{\"b\":2}]");
        assert_eq!(&framed(b"abc", true).unwrap()[..], b"\x01\x00\x00\x00\x03abc");
    }

    #[test]
    fn what_may_pass_is_told_from_what_does_not() {
        let url = Url::parse("https://logs.example/?token=canary").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        for (status, is_refusal) in [
            (408, false),
            (429, false),
            (500, false),
            (503, false),
            (302, true),
            (400, true),
            (401, true),
            (413, true),
        ] {
            let status = http::StatusCode::from_u16(status).unwrap();
            let failed = Failed::status(&Shown::new(&url), status, &headers);
            assert_eq!(
                (failed.is_refusal, failed.pause),
                (is_refusal, Some(Duration::from_secs(7)))
            );
            assert!(!failed.text.contains("canary"));
        }
        for (code, is_refusal) in
            [(None, false), (Some("14"), false), (Some("3"), true), (Some("16"), true)]
        {
            assert_eq!(Failed::code(&Shown::new(&url), code, None).is_refusal, is_refusal);
        }
    }
}
