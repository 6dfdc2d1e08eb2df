//! The nodes of one cluster, and one question to them.
//!
//! Nodes are asked in order until one answers. What may pass by itself (429, a 5xx) is asked again
//! after a jittered pause for as long as the timeout of one call. The HTTP library follows no
//! redirect, since our token would travel along: a 307, which a standby answers, is followed here,
//! twice at most and only to a configured address; the leader it names may be dead by then.
//!
//! The requests are those of `vaultrs`. Sending them is ours: its client keeps neither the
//! `Location` of a redirect nor the kind of a failure, logs refusals as errors by itself, and
//! leaves whole answers, keys included, in its own errors.

use std::time::Duration;

use http::header::LOCATION;
use reqwest::{StatusCode, Url};
use rustify::Endpoint;
use rustify::endpoint::MiddleWare as _;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use vaultrs::api::EndpointMiddleware;
use zeroize::{Zeroize as _, Zeroizing};

use super::lease::jittered;
use crate::secrets::Secret;

/// The first pause before the same question; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How many redirects in a row are followed.
const REDIRECTS: u32 = 2;

/// The longest answer that is read. A secret is at most 1 MiB by Vault's own default.
const LONGEST_ANSWER: usize = 4 << 20;

/// The nodes of one cluster and the HTTP client for them.
pub(super) struct Cluster {
    nodes: Vec<Url>,
    http: reqwest::Client,
    timeout: Duration,
}

impl Cluster {
    pub(super) const fn new(nodes: Vec<Url>, http: reqwest::Client, timeout: Duration) -> Self {
        Self { nodes, http, timeout }
    }

    /// The answer of the first node that has one, or the most telling refusal.
    pub(super) async fn ask<E: Endpoint>(
        &self,
        caller: &Caller,
        question: &E,
    ) -> Result<Answer, Refusal> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.ask_each(caller, question, Fault::is_of_the_node).await {
                Err(refusal) if refusal.fault.is_passing() => {
                    let rest = jittered(pause);
                    if started.elapsed() + rest >= self.timeout {
                        return Err(refusal);
                    }
                    sleep(rest).await;
                    pause *= 2;
                }
                answer => return answer,
            }
        }
    }

    /// As [`Self::ask`], for a question whose answer is given but once: no node gets it after
    /// another may have.
    pub(super) async fn ask_once<E: Endpoint>(
        &self,
        caller: &Caller,
        question: &E,
    ) -> Result<Answer, Refusal> {
        self.ask_each(caller, question, Fault::is_unsent).await
    }

    async fn ask_each<E: Endpoint>(
        &self,
        caller: &Caller,
        question: &E,
        is_for_the_next: fn(&Fault) -> bool,
    ) -> Result<Answer, Refusal> {
        let mut worst: Option<Refusal> = None;
        for node in &self.nodes {
            match self.ask_node(node, caller, question).await {
                Err(refusal) if is_for_the_next(&refusal.fault) => {
                    if worst.as_ref().is_none_or(|worst| worst.fault.rank() < refusal.fault.rank())
                    {
                        worst = Some(refusal);
                    }
                }
                answer => return answer,
            }
        }
        let reason = "there is no node".to_owned();
        Err(worst.unwrap_or_else(|| Refusal {
            fault: Fault::Unreachable { reason, is_unsent: true },
            address: String::new(),
        }))
    }

    async fn ask_node<E: Endpoint>(
        &self,
        first: &Url,
        caller: &Caller,
        question: &E,
    ) -> Result<Answer, Refusal> {
        let (mut node, mut followed) = (first, 0);
        loop {
            let fault = match self.send(node, caller, question).await {
                Ok(Reply::Answer(answer)) => return Ok(answer),
                Ok(Reply::Redirect(status, target)) => {
                    let known = self.nodes.iter().find(|node| node.origin() == target.origin());
                    match known {
                        Some(next) if status == 307 && followed < REDIRECTS => {
                            (node, followed) = (next, followed + 1);
                            continue;
                        }
                        _ => Fault::Redirected {
                            to: target.origin().ascii_serialization(),
                            is_known: known.is_some(),
                        },
                    }
                }
                Err(fault) => fault,
            };
            return Err(Refusal { fault, address: node.origin().ascii_serialization() });
        }
    }

    async fn send<E: Endpoint>(
        &self,
        node: &Url,
        caller: &Caller,
        question: &E,
    ) -> Result<Reply, Fault> {
        let mut request = question.request(node.as_str()).map_err(|_| Fault::Unreadable)?;
        caller.0.request(question, &mut request).map_err(|_| Fault::Unreadable)?;
        let request = reqwest::Request::try_from(request).map_err(|_| Fault::Unreadable)?;
        let mut response = self.http.execute(request).await.map_err(Fault::unreachable)?;
        let status = response.status();
        if status.is_redirection() {
            let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
            let target = target.and_then(|target| node.join(target).ok());
            return Ok(Reply::Redirect(status.as_u16(), target.ok_or(Fault::Unreadable)?));
        }
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(Fault::unreachable)? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                return Err(Fault::Unreadable);
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(Reply::Answer(Answer(body)));
        }
        // Only a deleted version's 404 says more than its status.
        let body = (status == StatusCode::NOT_FOUND).then(|| String::from_utf8_lossy(&body).into());
        Err(Fault::Status(status.as_u16(), body))
    }
}

enum Reply {
    Answer(Answer),
    Redirect(u16, Url),
}

/// Who asks: the token, if any, and the namespace; overwritten when dropped.
pub(super) struct Caller(EndpointMiddleware);

impl Caller {
    /// `token` must be visible ASCII; an empty one is none.
    pub(super) fn new(token: &str, namespace: Option<&str>) -> Self {
        Self(EndpointMiddleware {
            token: token.to_owned(),
            version: "v1".to_owned(),
            wrap: None,
            namespace: namespace.map(str::to_owned),
        })
    }

    pub(super) fn token(&self) -> &str {
        &self.0.token
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.token.zeroize();
    }
}

/// A question that `vaultrs` has not, or has wrong: a POST of `body` to `path`.
pub(super) struct Post {
    pub(super) path: String,
    pub(super) body: Value,
}

impl Endpoint for Post {
    type Response = Value;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::POST
    }

    fn body(&self) -> Result<Option<Vec<u8>>, rustify::errors::ClientError> {
        Ok(Some(self.body.to_string().into_bytes()))
    }
}

/// The body of a success; overwritten when dropped.
pub(super) struct Answer(Zeroizing<Vec<u8>>);

impl Answer {
    /// Its `data`.
    pub(super) fn data<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        #[derive(Deserialize)]
        struct Envelope<T> {
            data: T,
        }
        serde_json::from_slice(&self.0)
            .map(|envelope: Envelope<T>| envelope.data)
            .map_err(|_| Fault::Unreadable)
    }

    /// Its `auth`: what a login and a renewal answer.
    pub(super) fn auth(&self) -> Result<Auth, Fault> {
        #[derive(Deserialize)]
        struct Envelope {
            auth: Auth,
        }
        serde_json::from_slice(&self.0)
            .map(|envelope: Envelope| envelope.auth)
            .map_err(|_| Fault::Unreadable)
    }
}

/// A token as it was granted; overwritten when dropped.
#[derive(Deserialize)]
pub(super) struct Auth {
    pub(super) client_token: Secret<String>,
    /// Seconds; 0: for ever.
    pub(super) lease_duration: u64,
    pub(super) renewable: bool,
}

/// What went wrong with a question, and at which node.
pub(super) struct Refusal {
    pub(super) fault: Fault,
    pub(super) address: String,
}

/// What went wrong with one question to one node. Holds no more of an answer than its status and
/// the body of a 404: a deleted version's metadata.
pub(super) enum Fault {
    Status(u16, Option<String>),
    Redirected { to: String, is_known: bool },
    Unreachable { reason: String, is_unsent: bool },
    Unreadable,
}

impl Fault {
    fn unreachable(error: reqwest::Error) -> Self {
        let is_unsent = error.is_connect();
        Self::Unreachable { reason: super::root_cause(&error.without_url()), is_unsent }
    }

    /// Whether another node of the cluster may do better.
    const fn is_of_the_node(&self) -> bool {
        match self {
            Self::Status(status, _) => is_of_the_server(*status),
            Self::Redirected { .. } | Self::Unreachable { .. } => true,
            Self::Unreadable => false,
        }
    }

    const fn is_unsent(&self) -> bool {
        matches!(self, Self::Unreachable { is_unsent: true, .. })
    }

    /// Whether it may be over in a moment. 503 is not: a sealed server waits for its operator.
    const fn is_passing(&self) -> bool {
        matches!(self, Self::Status(status, _) if *status != 503 && is_of_the_server(*status))
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 0,
            Self::Status(..) | Self::Unreadable => 1,
            Self::Redirected { .. } => 2,
        }
    }
}

/// Statuses that say nothing of the question: a stale or secondary node, a rate limit, a fault.
pub(super) const fn is_of_the_server(status: u16) -> bool {
    matches!(status, 412 | 429 | 472 | 473 | 500..=599)
}
