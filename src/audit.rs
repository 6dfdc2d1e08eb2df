//! The record of every decision: counted in the metrics, and one JSON line in the decision log.
//!
//! The line is the JSON form of `placet.v1.DecisionRecord` and lists the fields it shows; no
//! credential, token, query or header value is among them. Deciding never waits for the log: a line
//! that a slow sink has no room for is dropped and counted.

mod repeated;
mod sink;

use std::io;
use std::time::Duration;

pub use repeated::{Circumstances, Repeated};
pub use sink::{LogWriter, Sink};

use self::repeated::Line;
use self::sink::Lines;

use crate::authorizer::{Decision, Denial, Evaluation, Facts, Grant};
use crate::clock::Timestamp;
use crate::entitlement::Lookup;
use crate::metrics::Metrics;
use crate::policy::{self, Grounds};
use crate::proto::{DecisionRecord, HttpRequest, Opinion, Policy, Principal, ShadowRecord, Target};
use crate::request::Request;
use crate::scope::Scope;
use crate::shadow::Asked;
use crate::stages::Stages;
use crate::token::Token;
use crate::trace::{Told, Trace};

/// Records decisions.
#[derive(Clone, Debug)]
pub struct Recorder {
    metrics: Metrics,
    lines: Option<Lines>,
}

impl Recorder {
    /// Opens the sink and starts its writer.
    pub fn open(sink: &Sink, metrics: Metrics) -> io::Result<(Self, LogWriter)> {
        let (lines, writer) = sink::open(sink)?;
        Ok((Self { metrics, lines }, writer))
    }

    /// Counts and logs one decision.
    pub fn record(
        &self,
        request: Option<&Request>,
        scope: Option<&Scope>,
        decision: &Decision,
        trace: Option<Trace>,
        now: Timestamp,
        took: Duration,
    ) {
        self.count(Outcome::from(decision), &decision.facts, scope, took);
        if self.lines.is_some() {
            let mut record = record(request, scope, decision, now, took);
            if let Some(Trace { id, span, .. }) = trace {
                record.trace_id = id.to_string();
                record.span_id = span.map(|span| span.to_string()).unwrap_or_default();
            }
            self.write(&record);
        }
    }

    /// Counts the time that the stages of a decision took.
    pub fn stages(&self, stages: &Stages) {
        self.metrics.stages(stages);
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
        self.stages(&evaluation.stages);
        self.count(outcome, &evaluation.facts, Some(scope), took);
        if self.lines.is_some() {
            self.write(&DecisionRecord {
                request_id: request_id.to_owned(),
                ..decided(outcome, &evaluation.facts, Some(scope), now, took)
            });
        }
    }

    fn count(&self, outcome: Outcome<'_>, facts: &Facts, scope: Option<&Scope>, took: Duration) {
        let client_id = scope.map_or("", |scope| scope.client_id.as_str());
        self.metrics.decision(client_id, outcome.counted(), outcome.reason(), took);
        if let Some(lookup) = facts.entitlements {
            self.metrics.cache_lookup("entitlements", lookup == Lookup::Hit);
        }
    }

    /// Prepares for `decision` to be used again.
    pub fn repeated(&self, request: &Request, scope: &Scope, decision: &Decision) -> Repeated {
        let outcome = Outcome::from(decision);
        let (epoch, none) = (Timestamp::from_millis(0), Duration::ZERO);
        let line = || Line::of(&record(Some(request), Some(scope), decision, epoch, none));
        Repeated {
            counter: self.metrics.decisions(&scope.client_id, outcome.name(), outcome.reason()),
            line: self.lines.as_ref().and_then(|_| line()),
        }
    }

    /// Counts and logs that a decision was used again.
    pub fn record_repeated(
        &self,
        repeated: &Repeated,
        asked: Circumstances<'_>,
        now: Timestamp,
        took: Duration,
    ) {
        self.metrics.decided_again(&repeated.counter, took);
        let Some(lines) = &self.lines else { return };
        let line = repeated.line.as_ref();
        match line.and_then(|line| line.write(asked, now, microseconds(took))) {
            Some(line) => self.add(lines, &line),
            None => self.metrics.log_line_dropped(),
        }
    }

    /// Counts a look for a decision that could be used again.
    pub fn looked_for_decision(&self, is_known: bool) {
        self.metrics.decision_lookup(is_known);
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
        self.add(lines, &line);
    }

    fn add(&self, lines: &Lines, line: &[u8]) {
        if lines.add(line).is_err() {
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

/// What is recorded of every decision, whoever asked for it.
fn decided(
    outcome: Outcome<'_>,
    facts: &Facts,
    scope: Option<&Scope>,
    now: Timestamp,
    took: Duration,
) -> DecisionRecord {
    let grounds = facts.opinion.as_ref().map(|opinion| policy(&opinion.grounds));
    let in_force = || {
        let revision = scope?.authorizer.policy.revision();
        Some(Policy { revision, ..Policy::default() })
    };
    let mut record = DecisionRecord {
        time: now.rfc3339(),
        scope: scope.map(|scope| scope.client_id.clone()).unwrap_or_default(),
        outcome: outcome.name().to_owned(),
        reason: outcome.reason().to_owned(),
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
        duration_us: microseconds(took),
        ..DecisionRecord::default()
    };
    match outcome {
        Outcome::Bypass | Outcome::Allow(None) => {}
        Outcome::Allow(Some(token)) => {
            record.token_id = token.id().to_owned();
            record.key_id = token.key_id().to_owned();
        }
        Outcome::Waived(denial) | Outcome::Deny(denial) => {
            record.dry_run = matches!(outcome, Outcome::Waived(_));
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
