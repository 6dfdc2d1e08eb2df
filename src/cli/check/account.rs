//! The account of a decision, step by step, as far as it came; and what Envoy is told.

use envoy_types::ext_authz::v3::pb::{HeaderValueOption, HttpResponse};
use serde_json::Value;

use crate::audit::Record;
use crate::authorizer::{Decision, Grant};
use crate::envoy::encode;
use crate::policy::Opinion;
use crate::request::Request;
use crate::scope::{Choice, Scope};

/// A decision with all that led to it.
pub(super) struct Account<'a> {
    pub(super) request: &'a Request,
    pub(super) scope: Option<&'a Scope>,
    pub(super) choice: Option<Choice>,
    pub(super) decision: &'a Decision,
    pub(super) record: Record<'a>,
    pub(super) shadow: Option<Opinion>,
}

impl Account<'_> {
    /// One step a line, some with more lines under it.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = |name: &str, text: String| lines.push(format!("{name:<10} {text}"));
        let request = self.request;
        let host = request.host.authority(&request.scheme);
        let path = request.raw_path().escape_debug();
        line("request", format!("{} {}://{host}{path}", request.method, request.scheme));
        line("scope", self.scope());
        if let Some(path) = &self.decision.facts.path {
            line("path", path.to_string());
            self.route().into_iter().for_each(|text| line("route", text));
        }
        if let Some(principal) = &self.record.principal {
            let issuer = &principal.issuer;
            let from = if issuer.is_empty() { String::new() } else { format!(", from {issuer}") };
            line("principal", format!("{}::{:?}{from}", principal.entity_type, principal.id));
        }
        if let Some(target) = &self.record.target {
            let asset = format!("{}::{:?}", target.asset_type, target.asset_id);
            line("target", format!("{} on {asset}", target.action));
        }
        if let Some(opinion) = &self.decision.facts.opinion {
            line("policies", said(opinion));
            opinion.grounds.reasons.iter().for_each(|reason| line("because", reason.clone()));
            opinion.grounds.errors.iter().for_each(|error| line("error", error.clone()));
            if let Some(shadow) = &self.shadow {
                let verb = if opinion.agrees(shadow) { "agrees" } else { "differs" };
                line("shadow", format!("{verb}: {}", said(shadow)));
                shadow.detail.iter().for_each(|detail| line("error", detail.clone()));
            }
        }
        let record = &self.record;
        let detail =
            if record.detail.is_empty() { String::new() } else { format!(": {}", record.detail) };
        let dry = if record.dry_run { ", let pass in the dry run" } else { "" };
        line("decision", format!("{} ({}){dry}{detail}", record.outcome, record.reason));
        if let Ok(Grant::Signed { token, .. }) = &self.decision.outcome {
            line("claims", Value::Object(token.claims()).to_string());
        }
        self.answer().into_iter().for_each(|(name, text)| line(name, text));
        lines
    }

    fn scope(&self) -> String {
        let Some((scope, choice)) = self.scope.zip(self.choice) else { return "none".to_owned() };
        let why = match choice {
            Choice::Named => "named by Envoy's route",
            Choice::Host => "has the host",
            Choice::Default => "takes what no other scope does",
        };
        format!("{} ({why})", scope.client_id)
    }

    fn route(&self) -> Option<String> {
        let routes = &self.scope?.authorizer.routes;
        if routes.is_empty() {
            return Some("there are none: the path itself is the asset".to_owned());
        }
        let path = self.decision.facts.path.as_ref()?;
        Some(match routes.matching(&self.request.method, path) {
            Some(number) if matches!(self.decision.outcome, Ok(Grant::Bypass)) => {
                format!("routes[{number}], a bypass")
            }
            Some(number) => format!("routes[{number}]"),
            None => "none matches the method and path".to_owned(),
        })
    }

    /// What Envoy does with the answer.
    fn answer(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        match encode::response(self.scope, self.decision).http_response {
            Some(HttpResponse::OkResponse(ok)) => {
                lines.push(("answer", "the request is forwarded".to_owned()));
                lines.extend(ok.headers.iter().map(|set| ("sets", self.shown(set))));
                lines.push(("removes", ok.headers_to_remove.join(", ")));
                let added = ok.response_headers_to_add.iter();
                lines.extend(added.map(|add| ("responds", self.shown(add))));
            }
            Some(HttpResponse::DeniedResponse(denied)) => {
                let status = denied.status.map(|status| status.code).unwrap_or_default();
                lines.push(("answer", format!("the client gets {status}")));
                lines.extend(denied.headers.iter().map(|set| ("responds", self.shown(set))));
                lines.push(("body", denied.body));
            }
            Some(HttpResponse::ErrorResponse(_)) | None => {}
        }
        lines
    }

    /// A header; of the token's only its name.
    fn shown(&self, option: &HeaderValueOption) -> String {
        let Some(header) = &option.header else { return String::new() };
        let is_token = self.scope.is_some_and(|scope| scope.header.is_spelled(&header.key));
        if is_token {
            format!("{}: the token", header.key)
        } else {
            format!("{}: {}", header.key, header.value)
        }
    }
}

fn said(opinion: &Opinion) -> String {
    let grounds = &opinion.grounds;
    let determining = grounds.determining.join(", ");
    let determining = if determining.is_empty() { "none matched".to_owned() } else { determining };
    let (outcome, revision) = (opinion.said.outcome(), &grounds.revision);
    format!("{determining} ({outcome}, revision {revision})")
}
