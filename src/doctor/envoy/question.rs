//! The `ext_authz` filter.

use std::time::Duration;

use crate::doctor::model::{Body, Dialect, Question, Timeout, Unasked};
use crate::doctor::node::{self, Node};
use crate::doctor::patterns::{MutationRules, Patterns};

/// What Envoy waits for a gRPC answer without `timeout`.
const GRPC_TIMEOUT: Duration = Duration::from_millis(200);

/// Reads an `ExtAuthz` configuration.
pub(in crate::doctor) fn question(name: &str, config: &Node<'_>) -> Question {
    let grpc = config.get("grpc_service");
    let http = config.get("http_service");
    let uri = http.as_ref().and_then(|http| http.get("server_uri"));
    let client = grpc.as_ref().and_then(|grpc| grpc.get("envoy_grpc"));
    let of_client = |name| client.as_ref().and_then(|client| client.text(name));
    let target = [
        of_client("cluster_name"),
        grpc.as_ref().and_then(|grpc| grpc.get("google_grpc")?.text("target_uri")),
        uri.as_ref().and_then(|uri| uri.text("cluster")),
    ];
    let answer = http.as_ref().and_then(|http| http.get("authorization_response"));
    let of_answer = |list| {
        let list = answer.as_ref().and_then(|answer| answer.get(list));
        list.map(|list| Patterns::of(&list)).unwrap_or_default()
    };
    Question {
        place: config.place.clone(),
        dialect: Dialect::Envoy,
        name: name.to_owned(),
        target: target.into_iter().flatten().next().unwrap_or_default().to_owned(),
        authority: of_client("authority").or_else(|| of_client("cluster_name")).map(str::to_owned),
        is_http: http.is_some(),
        fail_open: config.flag("failure_mode_allow"),
        timeout: timeout(grpc.as_ref().or(uri.as_ref()), GRPC_TIMEOUT),
        status_on_error: status(config),
        raw_headers: http.is_none().then(|| config.flag("encode_raw_headers")),
        body: config.get("with_request_body").map(|body| Body {
            max_bytes: body.number("max_request_bytes").unwrap_or(0),
            allows_partial: body.flag("allow_partial_message"),
            as_bytes: Some(body.flag("pack_as_bytes")),
            place: body.place,
        }),
        clears_route_cache: config.flag("clear_route_cache"),
        shown: config.get("allowed_headers").map(|list| Patterns::of(&list)),
        mutation_rules: config
            .get("decoder_header_mutation_rules")
            .map(|rules| MutationRules::of(&rules)),
        forwarded: of_answer("allowed_upstream_headers"),
        appended: of_answer("allowed_upstream_headers_to_append"),
        unasked: [sampled(config), shadowed(config)].into_iter().flatten().collect(),
        is_off: false,
    }
}

pub(in crate::doctor) fn timeout(holder: Option<&Node<'_>>, default: Duration) -> Timeout {
    match holder.and_then(|holder| holder.get("timeout")) {
        None => Timeout::Default(default),
        Some(written) => {
            written.value.as_str().and_then(node::duration).map_or(Timeout::Unreadable, Timeout::Is)
        }
    }
}

/// Envoy writes a status as the name of an enum; a person may write the number.
fn status(config: &Node<'_>) -> Option<u64> {
    let status = config.get("status_on_error")?;
    match status.text("code") {
        None => status.number("code"),
        Some("InternalServerError") => Some(500),
        Some("BadGateway") => Some(502),
        Some("ServiceUnavailable") => Some(503),
        Some("GatewayTimeout") => Some(504),
        Some("OK") => Some(200),
        Some("Unauthorized") => Some(401),
        Some(_) => Some(403),
    }
}

/// `filter_enabled` below all requests.
fn sampled(config: &Node<'_>) -> Option<Unasked> {
    let enabled = config.get("filter_enabled")?;
    let value = enabled.get("default_value")?;
    let all = match value.text("denominator") {
        Some("TEN_THOUSAND") => 10_000,
        Some("MILLION") => 1_000_000,
        _ => 100,
    };
    let numerator = value.number("numerator").unwrap_or(0);
    let denies = config.at(&["deny_at_disable", "default_value"]);
    let denies = denies.is_some_and(|value| value.value.as_bool() == Some(true));
    (numerator < all && !denies).then(|| Unasked {
        place: enabled.place.clone(),
        code: "sampled",
        what: format!("only {numerator} of {all} requests are asked about; the others pass"),
        remedy: "take `filter_enabled` out".to_owned(),
    })
}

fn shadowed(config: &Node<'_>) -> Option<Unasked> {
    config.flag("shadow_mode").then(|| Unasked {
        place: config.place.below("shadow_mode"),
        code: "not_enforced",
        what: "Envoy asks and does not enforce the answer: every request passes".to_owned(),
        remedy: "shadow_mode: false\nto try Placet out, use `dryRun: true` in its scope: it strips the header".to_owned(),
    })
}

/// A filter that runs only where a matcher says so.
pub(super) fn by_matcher(config: &Node<'_>) -> Unasked {
    Unasked {
        place: config.place.clone(),
        code: "partial_rules",
        what: "a matcher decides which requests are asked about; the others pass".to_owned(),
        remedy: "configure ext_authz without ExtensionWithMatcher, and let a route of Placet be the exception (`bypass: true`): it strips the header".to_owned(),
    }
}

/// Istio asks where the shadow rules of an RBAC filter before it have matched
/// (`filter_enabled_metadata`): the requests outside these rules.
pub(super) fn outside_shadow_rules(config: &Node<'_>, filters: &[Node<'_>]) -> Option<Unasked> {
    let enabled = config.get("filter_enabled_metadata")?;
    let matched = enabled.at(&["value", "string_match"]);
    let prefix =
        matched.as_ref().and_then(|matched| matched.text("prefix").or(matched.text("exact")));
    let policies: Vec<_> = filters
        .iter()
        .filter_map(Node::typed)
        .filter(|(kind, _)| *kind == "RBAC")
        .filter_map(|(_, rbac)| rbac.get("shadow_rules"))
        .flat_map(|rules| rules.entries("policies"))
        .filter(|(name, _)| prefix.is_some_and(|prefix| name.starts_with(prefix)))
        .collect();
    let covers_all = policies.iter().any(|(_, policy)| {
        policy.items("permissions").iter().any(is_any)
            && policy.items("principals").iter().any(is_any)
    });
    let place = match policies.first() {
        Some((_, policy)) => policy.place.clone(),
        None => enabled.place,
    };
    (!covers_all).then(|| Unasked {
        place,
        code: "partial_rules",
        what: "only requests that these rules match are asked about; the others pass".to_owned(),
        remedy: EVERY_REQUEST.to_owned(),
    })
}

/// The remedy for an AuthorizationPolicy that matches not all.
pub(in crate::doctor) const EVERY_REQUEST: &str = "in the AuthorizationPolicy with `action: CUSTOM`:\n  rules:\n  - {}\nexceptions belong into Placet's routes (`bypass: true`): it strips the header there";

/// Whether a permission or principal of RBAC is everything.
fn is_any(rule: &Node<'_>) -> bool {
    let all = |list: &str, inner: &str| {
        let rules = rule.get(list).map(|list| list.items(inner)).unwrap_or_default();
        !rules.is_empty() && rules.iter().all(is_any)
    };
    let one = |list: &str, inner: &str| {
        rule.get(list).is_some_and(|list| list.items(inner).iter().any(is_any))
    };
    rule.flag("any")
        || all("and_rules", "rules")
        || all("and_ids", "ids")
        || one("or_rules", "rules")
        || one("or_ids", "ids")
}
