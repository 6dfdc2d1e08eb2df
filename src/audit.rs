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

use crate::authorizer::{Decision, Facts, Grant};
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::proto::{DecisionRecord, HttpRequest, Policy, Principal, Target};
use crate::request::Request;
use crate::scope::Scope;

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
        let (outcome, reason) = outcome(decision);
        let client_id = scope.map_or("", |scope| scope.client_id.as_str());
        self.metrics.decision(client_id, outcome, reason, took);
        let Some(lines) = &self.lines else { return };
        let record = record(request, scope, decision, now, took);
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
    let (outcome, reason) = outcome(decision);
    let facts = &decision.facts;
    let mut record = DecisionRecord {
        time: now.rfc3339(),
        request_id: request.map(|request| request.id.clone()).unwrap_or_default(),
        scope: scope.map(|scope| scope.client_id.clone()).unwrap_or_default(),
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
        http: request.map(|request| http(request, facts)),
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
    match &decision.outcome {
        Ok(Grant::Bypass) => {}
        Ok(Grant::Signed { token, .. }) => {
            record.token_id = token.id().to_owned();
            record.key_id = token.key_id().to_owned();
        }
        Err(denial) => {
            record.detail = denial.detail().to_owned();
            let custom = denial.custom().and_then(|custom| custom.answer().status);
            record.status = match (custom, scope) {
                (Some(status), _) => status.into(),
                (None, Some(scope)) if denial.reason().status() == 403 => scope.deny.status.into(),
                _ => denial.reason().status().into(),
            };
        }
    }
    record
}

fn outcome(decision: &Decision) -> (&'static str, &'static str) {
    match &decision.outcome {
        Ok(Grant::Bypass) => ("bypass", "bypass"),
        Ok(Grant::Signed { .. }) => ("allow", "permitted"),
        Err(denial) => ("deny", denial.reason().code()),
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
