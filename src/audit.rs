//! The record of every decision: counted in the metrics, and one JSON line in the decision log.
//!
//! The line is the JSON form of `placet.v1.DecisionRecord` and lists the fields it shows; no
//! credential, token, query or header value is among them. Deciding never waits for the log: a line
//! that a slow sink has no room for is dropped and counted.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::authorizer::{Decision, Denial, Evaluation, Facts, Grant};
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::proto::{DecisionRecord, HttpRequest, Policy, Principal, Target};
use crate::request::Request;
use crate::scope::Scope;
use crate::token::Token;

/// Lines waiting for the sink.
const QUEUE: usize = 8_192;

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

/// Records decisions.
#[derive(Clone, Debug)]
pub struct Recorder {
    metrics: Metrics,
    lines: Option<SyncSender<Vec<u8>>>,
}

/// Writes what is still queued when dropped, once every [`Recorder`] is gone.
#[derive(Debug)]
pub struct LogWriter(Option<thread::JoinHandle<()>>);

impl LogWriter {
    /// Waits until every queued line is written.
    pub fn finish(mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            tracing::error!("the decision log's writer panicked");
        }
    }
}

impl Recorder {
    /// Opens the sink and starts its writer.
    pub fn open(sink: &Sink, metrics: Metrics) -> io::Result<(Self, LogWriter)> {
        let output: Box<dyn Write + Send> = match sink {
            Sink::None => return Ok((Self { metrics, lines: None }, LogWriter(None))),
            Sink::Stdout => Box::new(io::stdout()),
            Sink::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (sender, lines) = sync_channel(QUEUE);
        let writer = thread::Builder::new()
            .name("decision-log".to_owned())
            .spawn(move || write_lines(output, &lines))?;
        Ok((Self { metrics, lines: Some(sender) }, LogWriter(Some(writer))))
    }

    /// Counts and logs one decision.
    pub fn record(
        &self,
        request: Option<&Request>,
        scope: Option<&Scope>,
        decision: &Decision,
        now: Timestamp,
        took: Duration,
    ) {
        let record = || record(request, scope, decision, now, took);
        self.write(Outcome::from(decision), scope, took, record);
    }

    /// Counts and logs one decision for an application that asked without a request.
    pub fn record_evaluation(
        &self,
        request_id: &str,
        scope: &Scope,
        evaluation: &Evaluation,
        now: Timestamp,
        took: Duration,
    ) {
        let outcome = Outcome::from(evaluation);
        self.write(outcome, Some(scope), took, || DecisionRecord {
            request_id: request_id.to_owned(),
            ..decided(outcome, &evaluation.facts, Some(scope), now, took)
        });
    }

    fn write(
        &self,
        outcome: Outcome<'_>,
        scope: Option<&Scope>,
        took: Duration,
        record: impl FnOnce() -> DecisionRecord,
    ) {
        let (outcome, reason) = outcome.codes();
        let client_id = scope.map_or("", |scope| scope.client_id.as_str());
        self.metrics.decision(client_id, outcome, reason, took);
        let Some(lines) = &self.lines else { return };
        let record = record();
        let Ok(mut line) = serde_json::to_vec(&record) else {
            self.metrics.log_line_dropped();
            return;
        };
        line.push(b'\n');
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = lines.try_send(line) {
            self.metrics.log_line_dropped();
        }
    }
}

/// One decision as a record.
pub fn record(
    request: Option<&Request>,
    scope: Option<&Scope>,
    decision: &Decision,
    now: Timestamp,
    took: Duration,
) -> DecisionRecord {
    let facts = &decision.facts;
    DecisionRecord {
        request_id: request.map(|request| request.id.clone()).unwrap_or_default(),
        http: request.map(|request| http(request, facts)),
        ..decided(decision.into(), facts, scope, now, took)
    }
}

/// What is recorded of every decision, whoever asked for it.
fn decided(
    decision: Outcome<'_>,
    facts: &Facts,
    scope: Option<&Scope>,
    now: Timestamp,
    took: Duration,
) -> DecisionRecord {
    let (outcome, reason) = decision.codes();
    let mut record = DecisionRecord {
        time: now.rfc3339(),
        scope: scope.map(|scope| scope.client_id.clone()).unwrap_or_default(),
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
        principal: facts.principal.as_deref().map(|principal| Principal {
            r#type: principal.entity_type.clone(),
            id: principal.id.clone(),
            issuer: principal.issuer.clone().unwrap_or_default(),
        }),
        target: facts.target.as_ref().map(|target| Target {
            asset_type: target.asset_type.clone(),
            asset_id: target.asset_id.clone(),
            action: target.action.clone(),
        }),
        policy: facts.grounds.as_ref().map(|grounds| Policy {
            determining: grounds.determining.clone(),
            revision: grounds.revision.clone(),
            errors: grounds.errors.clone(),
            reasons: grounds.reasons.clone(),
        }),
        id: facts.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        ..DecisionRecord::default()
    };
    match decision {
        Outcome::Bypass | Outcome::Allow(None) => {}
        Outcome::Allow(Some(token)) => {
            record.token_id = token.id().to_owned();
            record.key_id = token.key_id().to_owned();
        }
        Outcome::Deny(denial) => {
            record.detail = denial.detail().to_owned();
            let custom = denial.custom().and_then(|custom| custom.status);
            record.status = match (custom, scope) {
                (Some(status), _) => status.into(),
                (None, Some(scope)) if denial.reason().status() == 403 => scope.deny.status.into(),
                _ => denial.reason().status().into(),
            };
        }
    }
    record
}

/// How a decision ended.
#[derive(Clone, Copy, Debug)]
enum Outcome<'a> {
    Bypass,
    Allow(Option<&'a Token>),
    Deny(&'a Denial),
}

impl Outcome<'_> {
    fn codes(self) -> (&'static str, &'static str) {
        match self {
            Self::Bypass => ("bypass", "bypass"),
            Self::Allow(_) => ("allow", "permitted"),
            Self::Deny(denial) => ("deny", denial.reason().code()),
        }
    }
}

impl<'a> From<&'a Decision> for Outcome<'a> {
    fn from(decision: &'a Decision) -> Self {
        match &decision.outcome {
            Ok(Grant::Bypass) => Self::Bypass,
            Ok(Grant::Signed { token, .. }) => Self::Allow(Some(token)),
            Err(denial) => Self::Deny(denial),
        }
    }
}

impl<'a> From<&'a Evaluation> for Outcome<'a> {
    fn from(evaluation: &'a Evaluation) -> Self {
        match &evaluation.outcome {
            Ok(permission) => Self::Allow(permission.token.as_ref()),
            Err(denial) => Self::Deny(denial),
        }
    }
}

fn http(request: &Request, facts: &Facts) -> HttpRequest {
    let path = facts.path.as_ref().map_or_else(|| request.raw_path(), |path| path.as_str());
    HttpRequest {
        method: request.method.clone(),
        host: request.host.name().to_owned(),
        path: path.to_owned(),
        source_ip: request.source.ip.map(|ip| ip.to_string()).unwrap_or_default(),
        source_principal: request.source.principal.clone().unwrap_or_default(),
    }
}

fn write_lines(mut output: Box<dyn Write + Send>, lines: &Receiver<Vec<u8>>) {
    while let Ok(line) = lines.recv() {
        let mut result = output.write_all(&line);
        while let (Ok(()), Ok(line)) = (&result, lines.try_recv()) {
            result = output.write_all(&line);
        }
        if let Err(error) = result.and_then(|()| output.flush()) {
            tracing::error!(%error, "the decision log could not be written");
        }
    }
}
