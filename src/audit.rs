//! The record of every decision: counted in the metrics, and one JSON line in the decision log.
//!
//! The line is the JSON form of `placet.v1.DecisionRecord` and lists the fields it shows; no
//! credential, token, query or header value is among them. Whatever the sink does, a decision is what it
//! is: a line that there is no room for is dropped and counted, or, where the operator would rather have
//! no answer than none on record ([`WhenFull::Block`]), waited for until the deadline of the check.
//!
//! Inside: a `record` tells of one decision; `shape` says what a line shows of it, `sampling` which allows have
//! one; `queue` holds them for `sink`, which brings them to a `file` or, by `delivery`, elsewhere, perhaps as
//! `otlp`; an `entry` can be made again.

mod delivery;
mod entry;
mod file;
mod log;
mod otlp;
mod queue;
mod record;
mod sampling;
mod shape;
mod sink;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use delivery::{Credentials, Form, RemoteSettings};
pub use entry::{Circumstances, Entry};
pub use file::{DEFAULT_FILES, DEFAULT_MODE, FileSettings};
pub use log::{DEFAULT_BUFFER_BYTES, LogFull, LogSettings, Unwritten, WhenFull};
pub use otlp::{GRPC_PATH, HTTP_PATH, Resource};
pub use record::{Http, Policy, Principal, Record, Target};
pub use sampling::Sampling;
pub use shape::{HashKey, MASKABLE, Mask, Masking, SOURCE_IP, Shape};
pub use sink::{LogWriter, Sink};

use prometheus_client::metrics::counter::Counter;

use self::entry::Line;
use self::log::Log;
use self::queue::Full;

use crate::authorizer::{Decision, Denial, Evaluation, Facts, Grant};
use crate::clock::Timestamp;
use crate::entitlement::Lookup;
use crate::metrics::Metrics;
use crate::policy::Opinion;
use crate::proto::{self, ShadowRecord};
use crate::request::Request;
use crate::scope::Scope;
use crate::shadow::Asked;
use crate::stages::Stages;
use crate::token::{DecisionId, Token};
use crate::trace::{Arrival, Told};

/// Records decisions.
#[derive(Clone, Debug)]
pub struct Recorder {
    metrics: Metrics,
    log: Option<Arc<Log>>,
}

impl Recorder {
    /// Opens the sink and starts its writer.
    pub fn open(settings: LogSettings, metrics: Metrics) -> io::Result<(Self, LogWriter)> {
        let LogSettings { sink, when_full, buffer_bytes, .. } = &settings;
        let (lines, writer) = sink::open(sink.clone(), *when_full, *buffer_bytes, metrics.clone())?;
        let log = lines.map(|lines| Arc::new(Log::new(settings, lines)));
        Ok((Self { metrics, log }, writer))
    }

    /// What is to be recorded of one decision.
    pub fn entry<'a>(
        &'a self,
        arrival: Arrival,
        request: Option<&'a Request>,
        scope: Option<&'a Scope>,
        decision: &'a Decision,
        now: Timestamp,
        took: Duration,
    ) -> Entry {
        let outcome = Outcome::from(decision);
        let counter = self.counter(outcome, &decision.facts, scope);
        self.entry_of(counter, outcome, || {
            let mut record = record(request, scope, decision, now, took);
            record.request_type = arrival.edge.name();
            record.trace(arrival.trace);
            record
        })
    }

    /// Counts and logs one decision, unless the log has no room and is to be waited for.
    pub fn record(&self, entry: &Entry, took: Duration) -> Result<(), Box<Unwritten>> {
        let log = self.log.as_ref().filter(|_| entry.is_taken);
        let line = log.zip(entry.line.as_ref()).and_then(|(log, line)| line.first(&log.shape));
        self.add(log.map(|log| (log, line.as_deref())), &entry.counter, took)
    }

    /// Counts the time that the stages of a decision took.
    pub fn stages(&self, stages: &Stages) {
        self.metrics.stages(stages);
    }

    /// Counts and logs one decision for an application that asked without a request, unless the log has no
    /// room and is to be waited for.
    pub fn record_evaluation<'a>(
        &'a self,
        request_id: &'a str,
        scope: &'a Scope,
        evaluation: &'a Evaluation,
        now: Timestamp,
        took: Duration,
    ) -> Result<(), Box<Unwritten>> {
        let (outcome, facts) = (Outcome::from(evaluation), &evaluation.facts);
        self.stages(&evaluation.stages);
        let counter = self.counter(outcome, facts, Some(scope));
        let entry = self.entry_of(counter, outcome, || Record {
            request_id: request_id.into(),
            request_type: "evaluation",
            ..decided(outcome, facts, Some(scope), now, took)
        });
        self.record(&entry, took)
    }

    /// What counts decisions such as this one.
    fn counter(&self, outcome: Outcome<'_>, facts: &Facts, scope: Option<&Scope>) -> Counter {
        let client_id = scope.map_or("", |scope| scope.client_id.as_str());
        if let Some(lookup) = facts.entitlements {
            self.metrics.cache_lookup("entitlements", lookup == Lookup::Hit);
        }
        self.metrics.decisions(client_id, outcome.counted(), outcome.reason())
    }

    /// What is recorded of a decision, with a line that says what `record` does.
    fn entry_of<'a>(
        &'a self,
        counter: Counter,
        outcome: Outcome<'_>,
        record: impl FnOnce() -> Record<'a>,
    ) -> Entry {
        let Some(log) = &self.log else { return Entry { counter, ..Entry::default() } };
        let record = log.complete(record());
        let is_taken = !outcome.is_yes() || log.takes(&record.request_id, &record.id);
        let sampled_by = if log.is_sampled() { record.id.to_string() } else { String::new() };
        // Without a token it is not used again.
        let is_used = is_taken || matches!(outcome, Outcome::Allow(Some(_)));
        let line = is_used.then(|| Line::of(record, &log.shape)).flatten();
        Entry { counter, line, is_taken, sampled_by }
    }

    /// Counts and logs that a decision was used again, unless the log has no room and is to be waited for.
    pub fn record_again(
        &self,
        entry: &Entry,
        asked: Circumstances<'_>,
        now: Timestamp,
        took: Duration,
    ) -> Result<(), Box<Unwritten>> {
        let log = self.log.as_ref();
        let log = log.filter(|log| log.takes(asked.request_id, &entry.sampled_by));
        let line = log
            .zip(entry.line.as_ref())
            .and_then(|(log, line)| line.again(&log.shape, asked, now, microseconds(took)));
        self.add(log.map(|log| (log, line.as_deref())), &entry.counter, took)
    }

    /// Counts a look for a decision that could be used again.
    pub fn looked_for_decision(&self, is_known: bool) {
        self.metrics.decision_lookup(is_known);
    }

    /// Counts what the shadow policies of a scope say of a decision, and logs it where they differ.
    pub fn record_shadow(&self, client_id: &str, asked: &Asked, shadow: &Opinion, now: Timestamp) {
        let agrees = asked.enforced.agrees(shadow);
        self.metrics.shadow_decision(client_id, shadow.said.outcome(), agrees);
        let Some(log) = self.log.as_ref().filter(|_| !agrees) else { return };
        let line = log.shape.shadow_line(ShadowRecord {
            time: now.rfc3339(),
            shadow_of: asked.id.clone(),
            scope: client_id.to_owned(),
            enforced: Some(opinion(&asked.enforced)),
            shadow: Some(opinion(shadow)),
        });
        if line.ok().is_none_or(|line| log.lines.add(&line).is_err()) {
            self.metrics.log_lines_dropped(1);
        }
    }

    /// Counts a decision that the shadow policies were not asked about.
    pub fn shadow_dropped(&self, client_id: &str) {
        self.metrics.shadow_dropped(client_id);
    }

    /// Adds a line, if there is to be one, and counts its decision; with [`WhenFull::Block`] neither while there
    /// is no room. A line that could not be written is lost.
    fn add(
        &self,
        line: Option<(&Arc<Log>, Option<&[u8]>)>,
        counter: &Counter,
        took: Duration,
    ) -> Result<(), Box<Unwritten>> {
        let added = line.map(|(log, line)| (log, line, line.map(|line| log.lines.add(line))));
        match added {
            None | Some((_, _, Some(Ok(())))) => {}
            Some((log, Some(line), Some(Err(Full)))) if log.when_full == WhenFull::Block => {
                let (line, lines, metrics) =
                    (line.to_vec(), log.lines.clone(), self.metrics.clone());
                let (counter, is_written) = (counter.clone(), false);
                return Err(Box::new(Unwritten {
                    line,
                    lines,
                    counter,
                    took,
                    metrics,
                    is_written,
                }));
            }
            Some(_) => self.metrics.log_lines_dropped(1),
        }
        self.metrics.decided_again(counter, took);
        Ok(())
    }
}

/// One decision as a record.
pub fn record<'a>(
    request: Option<&'a Request>,
    scope: Option<&'a Scope>,
    decision: &'a Decision,
    now: Timestamp,
    took: Duration,
) -> Record<'a> {
    let facts = &decision.facts;
    Record {
        request_id: request.map(|request| request.id.as_str()).unwrap_or_default().into(),
        credential_hash: credential_hash(request, scope, decision).unwrap_or_default().into(),
        http: request.map(|request| http(request, facts)),
        ..decided(decision.into(), facts, scope, now, took)
    }
}

/// What the span of a check tells of its decision.
pub fn told(scope: Option<&Scope>, decision: &Decision) -> Told {
    let (outcome, facts) = (Outcome::from(decision), &decision.facts);
    let in_force = || scope.map(|scope| scope.authorizer.policy.revision());
    let revision = facts.opinion.as_ref().map(|opinion| opinion.grounds.revision.clone());
    Told {
        scope: scope.map(|scope| scope.client_id.clone()).unwrap_or_default(),
        outcome: outcome.counted(),
        reason: outcome.reason(),
        is_fault: outcome.denial().is_some_and(|denial| denial.reason().status() >= 500),
        decision_id: facts.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        revision: revision.or_else(in_force).unwrap_or_default(),
        ..Told::default()
    }
}

/// Of the credential that was looked at, whether it held or not.
fn credential_hash(
    request: Option<&Request>,
    scope: Option<&Scope>,
    decision: &Decision,
) -> Option<String> {
    if matches!(decision.outcome, Ok(Grant::Bypass)) {
        return None;
    }
    let digest = scope?.authorizer.identity.credential_digest(request?)?;
    Some(shape::digits("sha256", &digest))
}

/// What is recorded of every decision, whoever asked for it.
fn decided<'a>(
    outcome: Outcome<'a>,
    facts: &'a Facts,
    scope: Option<&'a Scope>,
    now: Timestamp,
    took: Duration,
) -> Record<'a> {
    let grounds = facts.opinion.as_ref().map(|Opinion { grounds, .. }| Policy {
        determining: grounds.determining.as_slice().into(),
        revision: grounds.revision.as_str().into(),
        errors: grounds.errors.as_slice().into(),
        reasons: grounds.reasons.as_slice().into(),
    });
    let in_force = || {
        let revision = scope?.authorizer.policy.revision().into();
        Some(Policy { revision, ..Policy::default() })
    };
    let mut record = Record {
        time: now.rfc3339().into(),
        scope: scope.map(|scope| scope.client_id.as_str()).unwrap_or_default().into(),
        outcome: outcome.name(),
        reason: outcome.reason(),
        principal: facts.principal.as_deref().map(|principal| Principal {
            entity_type: principal.entity_type.as_str().into(),
            id: principal.id.as_str().into(),
            issuer: principal.issuer.as_deref().unwrap_or_default().into(),
        }),
        target: facts.target.as_ref().map(|target| Target {
            asset_type: target.asset_type.as_str().into(),
            asset_id: target.asset_id.as_str().into(),
            action: target.action.as_str().into(),
        }),
        policy: grounds.or_else(in_force),
        id: facts.id.as_ref().map(DecisionId::as_str).unwrap_or_default().into(),
        duration_us: microseconds(took),
        sample_rate: 1.0,
        ..Record::default()
    };
    match outcome {
        Outcome::Bypass | Outcome::Allow(None) => {}
        Outcome::Allow(Some(token)) => {
            record.token_id = token.id().into();
            record.key_id = token.key_id().into();
        }
        Outcome::Waived(denial) | Outcome::Deny(denial) => {
            record.dry_run = matches!(outcome, Outcome::Waived(_));
            record.detail = denial.detail().into();
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

fn microseconds(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// How a decision ended.
#[derive(Clone, Copy, Debug)]
enum Outcome<'a> {
    Bypass,
    Allow(Option<&'a Token>),
    Deny(&'a Denial),
    /// A denial that passed.
    Waived(&'a Denial),
}

impl<'a> Outcome<'a> {
    /// Whether the request passes undenied.
    const fn is_yes(self) -> bool {
        matches!(self, Self::Bypass | Self::Allow(_))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Allow(_) => "allow",
            Self::Deny(_) | Self::Waived(_) => "deny",
        }
    }

    /// Its name in the metrics.
    const fn counted(self) -> &'static str {
        match self {
            Self::Waived(_) => "dry_run",
            other => other.name(),
        }
    }

    const fn denial(self) -> Option<&'a Denial> {
        match self {
            Self::Bypass | Self::Allow(_) => None,
            Self::Deny(denial) | Self::Waived(denial) => Some(denial),
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Allow(_) => "permitted",
            Self::Deny(denial) | Self::Waived(denial) => denial.reason().code(),
        }
    }
}

impl<'a> From<&'a Decision> for Outcome<'a> {
    fn from(decision: &'a Decision) -> Self {
        match &decision.outcome {
            Ok(Grant::Bypass) => Self::Bypass,
            Ok(Grant::Signed { token, .. }) => Self::Allow(Some(token)),
            Ok(Grant::Waived(waived)) => Self::Waived(waived.denial()),
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

fn opinion(opinion: &Opinion) -> proto::Opinion {
    let grounds = &opinion.grounds;
    proto::Opinion {
        outcome: opinion.said.outcome().to_owned(),
        reason: opinion.said.reason().to_owned(),
        detail: opinion.detail.clone().unwrap_or_default(),
        policy: Some(proto::Policy {
            determining: grounds.determining.clone(),
            revision: grounds.revision.clone(),
            errors: grounds.errors.clone(),
            reasons: grounds.reasons.clone(),
        }),
    }
}

fn http<'a>(request: &'a Request, facts: &'a Facts) -> Http<'a> {
    let path = facts.path.as_ref().map_or_else(|| request.raw_path(), |path| path.as_str());
    Http {
        method: request.method.as_str().into(),
        host: request.host.name().into(),
        path: path.into(),
        source_ip: request.source.ip.map(|ip| ip.to_string()).unwrap_or_default().into(),
        source_principal: request.source.principal.as_deref().unwrap_or_default().into(),
    }
}
