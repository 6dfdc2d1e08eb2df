//! How Placet is asked: what happens without an answer, how long a request waits, what Placet is shown,
//! and whether its answer arrives.

use std::time::Duration;

use http::uri::Authority;

use super::Findings;
use crate::doctor::model::{Body, Dialect, Model, Question, Timeout};
use crate::doctor::{Chain, Expected, Severity};

/// A request that waits longer is worth a 503: Placet answers in milliseconds.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// What Placet takes of one message.
const MESSAGE_LIMIT: u64 = 4 * 1024 * 1024;
/// Less than this, and ordinary forms are refused.
const LEAST_BODY: u64 = 1024;

pub(super) fn judge(model: &Model, expected: &Expected, findings: &mut Findings) {
    let of_chains = model.chains.iter().flat_map(Chain::questions);
    for question in of_chains.chain(&model.questions) {
        let checks = [
            fail_open,
            timeout,
            status_on_error,
            authority,
            raw_headers,
            route_cache,
            shown_headers,
        ];
        checks.iter().for_each(|check| check(question, findings));
        if let Some(body) = &question.body {
            body_limit(question, body, findings);
            partial_body(question, body, findings);
            body_as_text(question, body, findings);
        }
        mutation_rules(question, expected, findings);
        forwarding(question, expected, findings);
    }
    for chain in &model.chains {
        scopes(chain, expected, findings);
    }
}

impl Dialect {
    /// A setting as this dialect writes it: `envoy` in Envoy, `istio` and `gateway` elsewhere.
    fn word<'a>(self, envoy: &'a str, istio: &'a str, gateway: &'a str) -> &'a str {
        match self {
            Self::Envoy => envoy,
            Self::Istio => istio,
            Self::EnvoyGateway => gateway,
        }
    }
}

/// Whether a request can pass with a client's own decision header although Placet is asked.
pub(super) fn leaves_the_header(question: &Question, expected: &Expected) -> bool {
    let is_refused = |name: &str| {
        let rules = question.mutation_rules.as_ref();
        rules.is_some_and(|rules| !rules.allow(name))
            || question.is_http && !question.forwarded.matches(name)
    };
    question.fail_open || expected.headers().iter().any(|header| is_refused(header.name()))
}

fn fail_open(question: &Question, findings: &mut Findings) {
    if !question.fail_open {
        return;
    }
    let word = question.dialect.word("failure_mode_allow", "failOpen", "failOpen");
    let what = match question.dialect {
        Dialect::EnvoyGateway => {
            "while Placet does not answer, or this policy is invalid, every request passes without being asked about"
        }
        _ => "while Placet does not answer, every request passes without being asked about",
    };
    let place = question.place.below(word);
    findings.add("fail_open", Severity::Error, &place, what, format!("{word}: false"));
}

fn timeout(question: &Question, findings: &mut Findings) {
    let written = match question.dialect {
        Dialect::Envoy if question.is_http => "http_service.server_uri.timeout",
        Dialect::Envoy => "grpc_service.timeout",
        _ => "timeout",
    };
    let place = question.place.below(written);
    let waits = |wait: Duration| match wait {
        Duration::ZERO => "for ever".to_owned(),
        wait => humantime::format_duration(wait).to_string(),
    };
    let what = match question.timeout {
        Timeout::Is(wait) | Timeout::Default(wait) if !wait.is_zero() && wait <= LONGEST_WAIT => {
            return;
        }
        Timeout::Is(wait) => {
            format!("while Placet does not answer, a request waits {}", waits(wait))
        }
        Timeout::Default(wait) => {
            format!("not set: while Placet does not answer, a request waits {}", waits(wait))
        }
        Timeout::Unreadable => "is no duration".to_owned(),
    };
    let remedy = match question.dialect {
        Dialect::Envoy if question.is_http => "server_uri: { timeout: 0.25s }",
        Dialect::Envoy => "grpc_service: { timeout: 0.25s }",
        Dialect::Istio => "timeout: 0.25s",
        Dialect::EnvoyGateway => "timeout: 250ms",
    };
    findings.add("timeout_long", Severity::Warning, &place, what, remedy);
}

fn status_on_error(question: &Question, findings: &mut Findings) {
    let word = question.dialect.word("status_on_error", "statusOnError", "statusOnError");
    let what = match question.status_on_error {
        Some(500..600) => return,
        Some(status) => {
            format!("while Placet does not answer, clients see {status}, as if it had answered")
        }
        None => "while Placet does not answer, clients see 403, as if they were refused".to_owned(),
    };
    let remedy = question.dialect.word(
        "status_on_error: { code: ServiceUnavailable }",
        "statusOnError: \"503\"",
        "statusOnError: 503",
    );
    findings.add("status_on_error", Severity::Warning, &question.place.below(word), what, remedy);
}

fn authority(question: &Question, findings: &mut Findings) {
    let Some(authority) = &question.authority else { return };
    if authority.parse::<Authority>().is_ok() {
        return;
    }
    let what = format!(
        "`{authority}` is no authority of a URI, and Placet's HTTP/2 refuses each call that names it so: every request is answered as in an outage"
    );
    let place = question.place.below("grpc_service.envoy_grpc");
    findings.add("authority_invalid", Severity::Warning, &place, what, "authority: placet");
}

fn raw_headers(question: &Question, findings: &mut Findings) {
    if question.raw_headers == Some(false) {
        let what = "Placet sees duplicates of a header joined with commas, and bytes that are not UTF-8 replaced: it may judge other headers than the application gets";
        let place = question.place.below("encode_raw_headers");
        let remedy = "encode_raw_headers: true";
        findings.add("raw_headers_off", Severity::Warning, &place, what, remedy);
    }
}

fn route_cache(question: &Question, findings: &mut Findings) {
    if question.clears_route_cache {
        let word = question.dialect.word("clear_route_cache", "clearRouteCache", "recomputeRoute");
        let what = "the route is chosen anew after the answer: the request may take one that Placet was not asked about, or that asks nobody";
        let place = question.place.below(word);
        findings.add(
            "route_cache_cleared",
            Severity::Warning,
            &place,
            what,
            format!("{word}: false"),
        );
    }
}

fn shown_headers(question: &Question, findings: &mut Findings) {
    // A name that no list has by chance.
    let shows_all = question.shown.as_ref().is_none_or(|shown| shown.matches("x-any-other-header"));
    if shows_all && (question.shown.is_some() || !question.is_http) {
        return;
    }
    let (word, remedy) = match question.dialect {
        Dialect::Envoy if question.is_http => (
            "allowed_headers",
            "allowed_headers: { patterns: [{ safe_regex: { regex: \".*\" } }] }",
        ),
        Dialect::Envoy => ("allowed_headers", "take `allowed_headers` out: all are shown then"),
        Dialect::Istio => ("includeRequestHeadersInCheck", "includeRequestHeadersInCheck: [\"*\"]"),
        Dialect::EnvoyGateway => (
            "headersToExtAuth",
            "list every header that credentials, policies and `cnf` need, or ask over gRPC without this list",
        ),
    };
    let what = "Placet is shown these headers only: credentials and conditions that look at others find nothing, and a doubled one may go unseen";
    findings.add("headers_hidden", Severity::Note, &question.place.below(word), what, remedy);
}

fn body_limit(question: &Question, body: &Body, findings: &mut Findings) {
    let word = question.dialect.word("max_request_bytes", "maxRequestBytes", "maxRequestBytes");
    let what = if body.max_bytes > MESSAGE_LIMIT {
        format!(
            "{} bytes are more than Placet takes of one request (4 MiB): a longer one is refused with 503, and each holds so much memory here",
            body.max_bytes
        )
    } else if body.max_bytes < LEAST_BODY && !body.allows_partial {
        format!(
            "a request with more than {} bytes of body is refused with 413 before Placet is asked",
            body.max_bytes
        )
    } else {
        return;
    };
    let remedy = format!("{word}: 65536");
    findings.add("body_limit", Severity::Warning, &body.place.below(word), what, remedy);
}

fn partial_body(question: &Question, body: &Body, findings: &mut Findings) {
    if body.allows_partial {
        let word = question.dialect.word(
            "allow_partial_message",
            "allowPartialMessage",
            "allowPartialMessage",
        );
        let what = format!(
            "of a body of over {} bytes policies see nothing but that it is cut off: one that forbids by what a body says does not forbid it",
            body.max_bytes
        );
        let remedy = format!(
            "{word}: false\nor forbid what is cut off, in Cedar:\n  forbid (principal, action, resource) when {{ context.http.body.state == \"partial\" }};"
        );
        findings.add("body_partial", Severity::Warning, &body.place.below(word), what, remedy);
    }
}

fn body_as_text(question: &Question, body: &Body, findings: &mut Findings) {
    if body.as_bytes == Some(false) && !question.is_http {
        let word = question.dialect.word("pack_as_bytes", "packAsBytes", "packAsBytes");
        let what = "bytes of the body that are not UTF-8 are replaced: gRPC messages can't be read, and a file in a form is another one";
        let place = body.place.below(word);
        findings.add("body_as_text", Severity::Note, &place, what, format!("{word}: true"));
    }
}

fn mutation_rules(question: &Question, expected: &Expected, findings: &mut Findings) {
    let Some(rules) = &question.mutation_rules else { return };
    for header in expected.headers().into_iter().filter(|header| !rules.allow(header.name())) {
        let what = format!(
            "Envoy drops what Placet does to `{}`: its decision does not reach the application, and a copy of the client's is not taken off",
            header.name()
        );
        let place = question.place.below("decoder_header_mutation_rules");
        let remedy = format!(
            "take `decoder_header_mutation_rules` out, or let its `allow_expression` match `{}` and no `disallow_expression`",
            header.name()
        );
        findings.add("mutation_refused", Severity::Error, &place, what, remedy);
    }
}

/// Over HTTP the proxy takes of the answer only what it is told to.
fn forwarding(question: &Question, expected: &Expected, findings: &mut Findings) {
    if !question.is_http {
        return;
    }
    let word = question.dialect.word(
        "http_service.authorization_response.allowed_upstream_headers",
        "headersToUpstreamOnAllow",
        "http.headersToBackend",
    );
    for header in expected.headers() {
        let name = header.name();
        if question.appended.matches(name) {
            let place = question
                .place
                .below("http_service.authorization_response.allowed_upstream_headers_to_append");
            let what = format!(
                "Placet's `{name}` is put beside the client's own copy instead of in its place"
            );
            findings.add(
                "decision_appended",
                Severity::Error,
                &place,
                what,
                "take it out of this list, and put it into `allowed_upstream_headers`",
            );
        }
        if !question.forwarded.matches(name) {
            let what = format!(
                "Placet's `{name}` does not reach the application, and a copy of the client's is not replaced"
            );
            let remedy = question
                .dialect
                .word(
                    &format!("allowed_upstream_headers: {{ patterns: [{{ exact: {name} }}] }}"),
                    &format!("headersToUpstreamOnAllow: [{name}]"),
                    &format!("headersToBackend: [{name}]"),
                )
                .to_owned();
            findings.add(
                "decision_not_forwarded",
                Severity::Error,
                &question.place.below(word),
                what,
                remedy,
            );
        }
    }
}

/// A scope that a route names and the settings don't have.
fn scopes(chain: &Chain, expected: &Expected, findings: &mut Findings) {
    if !expected.is_configured {
        return;
    }
    let known: Vec<&str> =
        expected.scopes.iter().filter_map(|scope| scope.client_id.as_deref()).collect();
    for (place, name) in chain.scopes.iter().filter(|(_, name)| !known.contains(&name.as_str())) {
        let what = format!("Placet has no scope `{name}`: every request of this route is refused");
        let remedy = format!("placet.scope: {}", known.first().unwrap_or(&"CLIENT_ID"));
        findings.add("scope_unknown", Severity::Warning, place, what, remedy);
    }
}
