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

use crate::authorizer::{Decision, Denial, Facts, Grant};
use crate::clock::Timestamp;
use crate::entitlement::Lookup;
use crate::metrics::Metrics;
use crate::policy::{self, Grounds};
use crate::proto::{DecisionRecord, HttpRequest, Opinion, Policy, Principal, ShadowRecord, Target};
use crate::request::Request;
use crate::scope::Scope;
use crate::shadow::Asked;

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
        let outcome = match &decision.outcome {
            Ok(Grant::Waived(_)) => "dry_run",
            _ => outcome(decision),
        };
        let client_id = scope.map_or("", |scope| scope.client_id.as_str());
        self.metrics.decision(client_id, outcome, decision.reason(), took);
        if let Some(lookup) = decision.facts.entitlements {
            self.metrics.cache_lookup("entitlements", lookup == Lookup::Hit);
        }
        if self.lines.is_some() {
            self.write(&record(request, scope, decision, now, took));
        }
    }

    /// Counts what the shadow policies of a scope say of a decision, and logs it where they differ.
    pub fn record_shadow(
        &self,
        client_id: &str,
        asked: &Asked,
        shadow: &policy::Opinion,
        now: Timestamp,
    ) {
        let agrees = asked.enforced.agrees(shadow);
        self.metrics.shadow_decision(client_id, shadow.said.outcome(), agrees);
        if !agrees {
            self.write(&ShadowRecord {
                time: now.rfc3339(),
                shadow_of: asked.id.clone(),
                scope: client_id.to_owned(),
                enforced: Some(opinion(&asked.enforced)),
                shadow: Some(opinion(shadow)),
            });
        }
    }

    /// Counts a decision that the shadow policies were not asked about.
    pub fn shadow_dropped(&self, client_id: &str) {
        self.metrics.shadow_dropped(client_id);
    }

    fn write(&self, record: &impl serde::Serialize) {
        let Some(lines) = &self.lines else { return };
        let Ok(mut line) = serde_json::to_vec(record) else {
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
    let grounds = facts.opinion.as_ref().map(|opinion| policy(&opinion.grounds));
    let in_force = || {
        let revision = scope?.authorizer.policy.revision().to_owned();
        Some(Policy { revision, ..Policy::default() })
    };
    let mut record = DecisionRecord {
        time: now.rfc3339(),
        request_id: request.map(|request| request.id.clone()).unwrap_or_default(),
        scope: scope.map(|scope| scope.client_id.clone()).unwrap_or_default(),
        outcome: outcome(decision).to_owned(),
        reason: decision.reason().to_owned(),
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
        policy: grounds.or_else(in_force),
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
        Ok(Grant::Waived(waived)) => {
            deny(&mut record, scope, waived.denial());
            record.dry_run = true;
        }
        Err(denial) => deny(&mut record, scope, denial),
    }
    record
}

fn deny(record: &mut DecisionRecord, scope: Option<&Scope>, denial: &Denial) {
    record.detail = denial.detail().to_owned();
    let custom = denial.custom().and_then(|custom| custom.answer().status);
    record.status = match (custom, scope) {
        (Some(status), _) => status.into(),
        (None, Some(scope)) if denial.reason().status() == 403 => scope.deny.status.into(),
        _ => denial.reason().status().into(),
    };
}

fn outcome(decision: &Decision) -> &'static str {
    match &decision.outcome {
        Ok(Grant::Bypass) => "bypass",
        Ok(Grant::Signed { .. }) => "allow",
        Ok(Grant::Waived(_)) | Err(_) => "deny",
    }
}

fn opinion(opinion: &policy::Opinion) -> Opinion {
    Opinion {
        outcome: opinion.said.outcome().to_owned(),
        reason: opinion.said.reason().to_owned(),
        detail: opinion.detail.clone().unwrap_or_default(),
        policy: Some(policy(&opinion.grounds)),
    }
}

fn policy(grounds: &Grounds) -> Policy {
    Policy {
        determining: grounds.determining.clone(),
        revision: grounds.revision.clone(),
        errors: grounds.errors.clone(),
        reasons: grounds.reasons.clone(),
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
