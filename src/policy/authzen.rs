//! Decisions by a remote decision point that speaks AuthZEN 1.0 (`POST /access/v1/evaluation`).
//!
//! Only an answer that is exactly what the specification has, in time, is a decision. Anything else is a
//! fault and denies: another status, another kind of `decision`, a text too long, an obligation that
//! nobody here would fulfil. Nothing that is a credential leaves: of headers and query only what the
//! settings list, of a token its claims. What was decided may be kept for a while, by all that was asked.

mod cache;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Certificate, Client, Response, Url, redirect};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

use self::cache::Cache;
use super::verdict::{Effect, Fault, Grounds, Verdict};
use super::{Context, Question};
use crate::json::{self, JsonFault};
use crate::path::CanonicalPath;
use crate::request::Request;

/// A longer answer is no answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What stands for the snapshot of policies that are not here.
const REVISION: &str = "remote";

/// Claims that say something of one token and not of its subject.
const OF_ONE_TOKEN: [&str; 4] = ["exp", "iat", "jti", "nbf"];

/// How a remote decision point is asked.
#[derive(Clone, Debug)]
pub struct AuthzenSettings {
    /// The address of its evaluation endpoint.
    pub url: Url,
    /// The time for one call, connecting included.
    pub timeout: Duration,
    /// How long a decision is kept; zero: not at all.
    pub cache_ttl: Duration,
    /// How many decisions are kept.
    pub cache_size: usize,
    /// What is presented to it.
    pub credentials: Credentials,
    /// The authorities to trust, PEM, in place of the system's.
    pub authorities: Option<Vec<u8>>,
    /// Whether plain http is HTTP/2 from the first byte.
    pub prior_knowledge: bool,
    /// Request headers that are sent, in lower case.
    pub headers: Vec<String>,
    /// Query parameters that are sent.
    pub query: Vec<String>,
}

/// What is presented to the decision point; files are read at each call, so that they can be renewed.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nothing.
    Nothing,
    /// A bearer token.
    Bearer(PathBuf),
    /// A user name, and the file with its password.
    Basic(String, PathBuf),
}

/// Why a decision point can't be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum AuthzenError {
    /// The authorities are no certificates.
    #[error("the file holds no certificates in PEM")]
    Authorities,
    /// No client.
    #[error("could not set up https: check this machine's certificate authorities")]
    Client(#[source] reqwest::Error),
}

/// A remote decision point.
pub struct Authzen {
    client: Client,
    settings: AuthzenSettings,
    cache: Cache,
}

impl Authzen {
    /// Makes ready to ask; nothing is asked yet.
    ///
    /// # Errors
    /// [`AuthzenError`], when there is no client to ask with.
    pub fn new(settings: AuthzenSettings) -> Result<Self, AuthzenError> {
        let mut client = Client::builder()
            .user_agent("placet")
            .referer(false)
            .redirect(redirect::Policy::none())
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            .http2_keep_alive_while_idle(true);
        if settings.url.scheme() == "http" {
            // Through a proxy, plain http would leave the machine.
            client = client.no_proxy();
            if settings.prior_knowledge {
                client = client.http2_prior_knowledge();
            }
        }
        if let Some(pem) = &settings.authorities {
            let authorities = Certificate::from_pem_bundle(pem).unwrap_or_default();
            if authorities.is_empty() {
                return Err(AuthzenError::Authorities);
            }
            client = client.tls_certs_only(authorities);
        }
        let client = client.build().map_err(AuthzenError::Client)?;
        let cache = Cache::new(settings.cache_ttl, settings.cache_size);
        Ok(Self { client, settings, cache })
    }

    pub(super) fn revision(&self) -> &str {
        REVISION
    }

    pub(super) async fn decide(&self, question: &Question<'_>) -> Verdict {
        let body = self.settings.body(question).to_string();
        if let Some(decision) = self.cache.get(&body, Instant::now()) {
            return verdict(decision, None);
        }
        let asked = tokio::time::timeout(self.settings.timeout, self.ask(&body)).await;
        match asked.unwrap_or(Err(AskError::Late(self.settings.timeout))) {
            Ok(Answer { decision, reason }) => {
                self.cache.put(&body, decision, Instant::now());
                verdict(decision, reason)
            }
            Err(error) => Verdict::fault(Fault::Engine(error.to_string()), REVISION),
        }
    }

    async fn ask(&self, body: &str) -> Result<Answer, AskError> {
        let request = self.client.post(self.settings.url.clone());
        let mut request = request.header(CONTENT_TYPE, "application/json").body(body.to_owned());
        if let Some(credentials) = self.settings.credentials.header().await? {
            request = request.header(AUTHORIZATION, credentials);
        }
        let response = request.send().await.map_err(|error| AskError::Call(error.without_url()))?;
        match response.status().as_u16() {
            200 => Answer::read(&text(response).await?),
            status => Err(AskError::Status(status)),
        }
    }
}

impl fmt::Debug for Authzen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authzen").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A decision, and why it was taken if the decision point says so in a word.
#[derive(Debug, PartialEq)]
struct Answer {
    decision: bool,
    reason: Option<String>,
}

/// Why there is no decision.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the decision point did not answer within {0:?}")]
    Late(Duration),
    #[error("the decision point could not be asked: {0}")]
    Call(reqwest::Error),
    #[error("the credentials for the decision point could not be read: {0}")]
    Credentials(io::Error),
    #[error("the credentials for the decision point are empty, or no header can carry them")]
    NoCredentials,
    #[error("the decision point answered with the status {0}, not 200")]
    Status(u16),
    #[error("the decision point's answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    #[error("the decision point's answer {0}")]
    Json(#[from] JsonFault),
    #[error("the decision point's answer has no `decision` that is true or false")]
    NoDecision,
    #[error("the decision point's answer has a `context` that is no object")]
    NoContext,
    #[error("the decision point permits with obligations, and nothing here would fulfil them")]
    Obligations,
}

impl Answer {
    fn read(text: &[u8]) -> Result<Self, AskError> {
        let answer = json::object(text)?;
        let Some(Value::Bool(decision)) = answer.get("decision") else {
            return Err(AskError::NoDecision);
        };
        let context = match answer.get("context") {
            None | Some(Value::Null) => &Map::new(),
            Some(Value::Object(context)) => context,
            Some(_) => return Err(AskError::NoContext),
        };
        let is_bound = context.get("obligations").is_some_and(|obligations| match obligations {
            Value::Null => false,
            Value::Array(list) => !list.is_empty(),
            _ => true,
        });
        if *decision && is_bound {
            return Err(AskError::Obligations);
        }
        let reason = context.get("reason").and_then(Value::as_str);
        let reason = reason.map(|reason| reason.chars().take(200).collect());
        Ok(Self { decision: *decision, reason })
    }
}

impl Credentials {
    async fn header(&self) -> Result<Option<HeaderValue>, AskError> {
        let (file, user) = match self {
            Self::Nothing => return Ok(None),
            Self::Bearer(file) => (file, None),
            Self::Basic(user, file) => (file, Some(user)),
        };
        let read = tokio::fs::read(file).await.map_err(AskError::Credentials)?;
        let read = Zeroizing::new(read);
        let secret = str::from_utf8(&read).unwrap_or_default().trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(AskError::NoCredentials);
        }
        let text = Zeroizing::new(match user {
            None => format!("Bearer {secret}"),
            Some(user) => {
                let pair = Zeroizing::new(format!("{user}:{secret}"));
                format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes()))
            }
        });
        let mut value = HeaderValue::from_str(&text).map_err(|_| AskError::NoCredentials)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl AuthzenSettings {
    /// The question, as the decision point reads it. There is no time in it: that would be another
    /// question every time, and it has a clock of its own.
    fn body(&self, question: &Question<'_>) -> Value {
        let (principal, target) = (question.principal, question.target);
        let mut properties = principal.claims.clone();
        properties.retain(|name, _| !OF_ONE_TOKEN.contains(&name.as_str()) && name != "groups");
        if !principal.groups.is_empty() {
            properties.insert("groups".to_owned(), principal.groups.clone().into());
        }
        let mut body = json!({
            "subject": {"type": principal.entity_type, "id": principal.id, "properties": properties},
            "action": {"name": target.action},
            "resource": {"type": target.asset_type, "id": target.asset_id},
        });
        let Some(members) = body.as_object_mut() else { return body };
        match question.context {
            Context::Http { request, path } => {
                let mut source = Map::new();
                if let Some(ip) = request.source.ip {
                    source.insert("ip".to_owned(), ip.to_string().into());
                }
                if let Some(peer) = &principal.peer {
                    source.insert("principal".to_owned(), peer.as_str().into());
                }
                let context = json!({"http": self.http(request, path), "source": source});
                members.insert("context".to_owned(), context);
            }
            Context::Stated(stated) => {
                members.insert("context".to_owned(), stated.context.clone().into());
                for (entity, said) in [("action", &stated.action), ("resource", &stated.asset)] {
                    if let Some(entity) = members.get_mut(entity).and_then(Value::as_object_mut) {
                        entity.insert("properties".to_owned(), said.clone().into());
                    }
                }
            }
        }
        body
    }

    fn http(&self, request: &Request, path: &CanonicalPath) -> Value {
        let mut headers = Map::new();
        for name in &self.headers {
            let values: Vec<_> = request.headers.all(name).map(String::from_utf8_lossy).collect();
            if !values.is_empty() {
                headers.insert(name.clone(), values.join(",").into());
            }
        }
        let mut query: Map<String, Value> = Map::new();
        for (name, value) in form_urlencoded::parse(request.raw_query().as_bytes()) {
            if self.query.iter().any(|listed| *listed == name) {
                let values = query.entry(name).or_insert_with(|| json!([]));
                values
                    .as_array_mut()
                    .into_iter()
                    .for_each(|values| values.push(value.as_ref().into()));
            }
        }
        json!({
            "method": request.method,
            "host": request.host.name(),
            "path": path.as_str(),
            "query": query,
            "headers": headers,
        })
    }
}

fn verdict(decision: bool, reason: Option<String>) -> Verdict {
    let effect = if decision { Effect::Permitted } else { Effect::Unmatched };
    let reasons = reason.into_iter().collect();
    Verdict::plain(effect, Grounds { reasons, revision: REVISION.to_owned(), ..Grounds::default() })
}

/// The body of `response`; reading ends where it is too long.
async fn text(mut response: Response) -> Result<Vec<u8>, AskError> {
    let mut text = Vec::new();
    let failed = |error: reqwest::Error| AskError::Call(error.without_url());
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if text.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(AskError::TooLong);
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
