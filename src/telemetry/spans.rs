//! Spans as OTLP has them: the check's, as a server's, and within it one for each stage.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status};

use super::{attribute, scope, text};
use crate::trace::{CheckSpan, Edge, SpanId, Told, Trace};

/// W3C's flag of what is sampled.
const SAMPLED: u32 = 1;

/// The spans of `checks`, as one request.
pub(super) fn request(resource: &Resource, checks: Vec<CheckSpan>) -> ExportTraceServiceRequest {
    let spans = checks.into_iter().flat_map(spans).collect();
    let scope_spans = ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() };
    let resource_spans = ResourceSpans {
        resource: Some(resource.clone()),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn spans(check: CheckSpan) -> Vec<Span> {
    let CheckSpan { trace, span, time: (start, end), stages, told } = check;
    let Trace { id, parent, .. } = trace;
    // Any fault is the last stage's.
    let last = stages.len().checked_sub(1);
    let stages = stages.into_iter().enumerate().filter_map(|(index, (stage, (start, end)))| {
        let is_fault = told.is_fault && Some(index) == last;
        Some(Span {
            trace_id: id.bytes().into(),
            span_id: SpanId::random()?.bytes().into(),
            parent_span_id: span.bytes().into(),
            flags: SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32,
            name: stage.name().to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            status: status(is_fault, told.reason),
            ..Span::default()
        })
    });
    let stages: Vec<Span> = stages.collect();
    let is_remote = if parent.is_some() { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    let check = Span {
        trace_id: id.bytes().into(),
        span_id: span.bytes().into(),
        parent_span_id: parent.map(|parent| parent.bytes().into()).unwrap_or_default(),
        flags: SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32 | is_remote,
        name: name(told.edge).to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        status: status(told.is_fault, told.reason),
        attributes: attributes(told),
        ..Span::default()
    };
    std::iter::once(check).chain(stages).collect()
}

/// By the semantic conventions of RPC servers.
const fn name(edge: Edge) -> &'static str {
    match edge {
        Edge::Grpc => "envoy.service.auth.v3.Authorization/Check",
        Edge::Http => "check",
    }
}

/// A denial is an answer; only a fault of ours is an error.
fn status(is_fault: bool, reason: &str) -> Option<Status> {
    is_fault.then(|| Status { code: StatusCode::Error.into(), message: reason.to_owned() })
}

fn attributes(told: Told) -> Vec<KeyValue> {
    let Told { edge, scope, outcome, reason, is_fault: _, decision_id, revision, reused } = told;
    let mut attributes = match edge {
        Edge::Grpc => vec![
            text("rpc.system", "grpc"),
            text("rpc.service", "envoy.service.auth.v3.Authorization"),
            text("rpc.method", "Check"),
        ],
        Edge::Http => Vec::new(),
    };
    let texts = [
        ("placet.scope", scope),
        ("placet.outcome", outcome.to_owned()),
        ("placet.reason", reason.to_owned()),
        ("placet.decision.id", decision_id),
        ("placet.policy.revision", revision),
    ];
    let texts = texts.into_iter().filter(|(_, value)| !value.is_empty());
    attributes.extend(texts.map(|(name, value)| text(name, value)));
    attributes.push(attribute("placet.reused", any_value::Value::BoolValue(reused)));
    attributes
}
