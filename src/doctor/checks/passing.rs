//! What gets past Placet: requests that nobody asks about, and decision headers that are not its own.

use std::collections::BTreeSet;

use super::Findings;
use super::asking::leaves_the_header;
use crate::doctor::model::{Chain, Dialect, Edit, Filter, Front, Guard, Model, Unasked};
use crate::doctor::{Expected, Severity, envoy};
use crate::scope::DecisionHeader;

pub(super) fn judge(model: &Model, expected: &Expected, findings: &mut Findings) {
    for chain in model.chains.iter().filter(|chain| chain.position().is_some()) {
        judge_chain(chain, expected, findings);
    }
    listeners(model, findings);
    let guarded: Vec<Unasked> = model.guards.iter().filter_map(outside).collect();
    let unasked: Vec<&Unasked> = model.unasked.iter().chain(&guarded).collect();
    let is_stripped =
        !model.fronts.is_empty() && model.fronts.iter().all(|front| strips_all(front, expected));
    unasked.iter().for_each(|each| findings.unasked(each, is_stripped));
    let has_hole = !unasked.is_empty()
        || model.questions.iter().any(|question| leaves_the_header(question, expected));
    for front in &model.fronts {
        strip(front, &[], has_hole, expected, findings);
    }
    model.edits.iter().for_each(|edit| judge_edit(edit, expected, findings));
    if is_silent(model) {
        let place = Default::default();
        let what = "nothing in these documents asks Placet, and nothing verifies its decisions";
        findings.add(
            "not_asked",
            Severity::Error,
            &place,
            what,
            "see deploy/envoy/envoy.yaml for a filter that asks",
        );
    }
}

fn is_silent(model: &Model) -> bool {
    let asks = model
        .chains
        .iter()
        .any(|chain| chain.position().is_some() || chain.verifiers().next().is_some());
    !asks
        && model.questions.is_empty()
        && model.guards.is_empty()
        && model.verifiers.is_empty()
        && model.unseen.is_empty()
}

fn judge_chain(chain: &Chain, expected: &Expected, findings: &mut Findings) {
    let asking = chain.position().unwrap_or_default();
    let before = chain.filters.iter().take(asking);
    let by_filters: Vec<&str> = before
        .clone()
        .filter_map(|(_, filter)| match filter {
            Filter::Mutates(mutation) => Some(&mutation.removed),
            _ => None,
        })
        .flatten()
        .map(String::as_str)
        .collect();
    let unasked: Vec<&Unasked> = chain
        .unasked
        .iter()
        .chain(chain.questions().flat_map(|question| &question.unasked))
        .collect();
    let is_stripped = strips(&chain.front, &by_filters, expected);
    unasked.iter().for_each(|each| findings.unasked(each, is_stripped));
    let has_hole = !unasked.is_empty()
        || chain.questions().any(|question| leaves_the_header(question, expected));
    strip(&chain.front, &by_filters, has_hole, expected, findings);
    trailers(chain, expected, findings);
    order(chain, asking, expected, findings);
    let after = chain.filters.iter().skip(asking).filter_map(|(_, filter)| match filter {
        Filter::Mutates(mutation) => Some(&mutation.edits),
        _ => None,
    });
    let edits = chain.edits.iter().chain(after.flatten());
    edits.for_each(|edit| judge_edit(edit, expected, findings));
}

/// Chains beside those that ask, by which a request reaches an application.
fn listeners(model: &Model, findings: &mut Findings) {
    let asks = |chain: &&Chain| chain.position().is_some();
    for chain in &model.chains {
        if chain.is_aside
            || asks(&chain)
            || chain.verifiers().next().is_some()
            || chain.clusters.is_empty()
        {
            continue;
        }
        let mut asking = model
            .chains
            .iter()
            .filter(asks)
            .filter(|other| other.place.file == chain.place.file)
            .peekable();
        if asking.peek().is_none() {
            continue;
        }
        let guarded: BTreeSet<&String> = asking.flat_map(|other| &other.clusters).collect();
        let shared: Vec<_> =
            chain.clusters.iter().filter(|cluster| guarded.contains(cluster)).collect();
        let (severity, what) = match shared.first() {
            Some(cluster) => (
                Severity::Error,
                format!("requests reach `{cluster}` by this listener without being asked about, with whatever decision header they came"),
            ),
            None if chain.is_http => (
                Severity::Warning,
                "requests pass this listener without being asked about, with whatever decision header they came".to_owned(),
            ),
            None => continue,
        };
        let remedy = "put the same ext_authz filter and early_header_mutation_extensions into this listener, or take the listener out";
        findings.add("listener_unasked", severity, &chain.place, what, remedy);
    }
}

/// A policy that does not match every request.
fn outside(guard: &Guard) -> Option<Unasked> {
    (!guard.covers_all).then(|| Unasked {
        place: guard.place.clone(),
        code: "partial_rules",
        what: "only requests that these rules match are asked about; the others pass".to_owned(),
        remedy: envoy::EVERY_REQUEST.to_owned(),
    })
}

fn strips_all(front: &Front, expected: &Expected) -> bool {
    strips(front, &[], expected)
}

fn strips(front: &Front, by_filters: &[&str], expected: &Expected) -> bool {
    expected.headers().iter().all(|header| missing(front, by_filters, header).is_empty())
}

/// The spellings of `header` that a client can send and that are not taken off.
fn missing<'h>(front: &Front, by_filters: &[&str], header: &'h DecisionHeader) -> Vec<&'h str> {
    let is_kept = |name: &&str| {
        let is_refused = front.refuses_underscores && name.contains('_');
        !is_refused
            && !by_filters.contains(name)
            && front.stripped.iter().all(|stripped| stripped != name)
    };
    spellings(header).filter(is_kept).collect()
}

fn spellings(header: &DecisionHeader) -> impl Iterator<Item = &str> {
    std::iter::once(header.name()).chain(header.twins().iter().map(String::as_str))
}

fn strip(
    front: &Front,
    by_filters: &[&str],
    has_hole: bool,
    expected: &Expected,
    findings: &mut Findings,
) {
    for header in expected.headers() {
        let missing = missing(front, by_filters, header);
        if missing.is_empty() {
            continue;
        }
        let (severity, when) = if has_hole {
            (
                Severity::Error,
                "reaches the application where Placet is not asked, or its answer not taken",
            )
        } else {
            (
                Severity::Warning,
                "is taken off by Placet's answer alone: wherever Placet is not asked, it would reach the application",
            )
        };
        let (code, what) = if missing.contains(&header.name()) {
            ("header_not_stripped", format!("a client's own `{}` {when}", header.name()))
        } else {
            let what = format!(
                "a client's own `{}`, which some frameworks read as `{}`, {when}",
                missing.join("`, `"),
                header.name()
            );
            ("underscores_pass", what)
        };
        findings.add(code, severity, &front.place, what, strip_remedy(front.dialect, header));
    }
}

fn strip_remedy(dialect: Dialect, header: &DecisionHeader) -> String {
    let lines = |indent: &str| {
        spellings(header)
            .map(|name| format!("{indent}- remove: {name}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    match dialect {
        Dialect::Envoy => format!(
            "in the HttpConnectionManager:\n  common_http_protocol_options: {{ headers_with_underscores_action: REJECT_REQUEST }}\n  early_header_mutation_extensions:\n  - name: strip_forged_decisions\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation\n      mutations:\n{}",
            lines("      ")
        ),
        Dialect::Istio => format!(
            "an EnvoyFilter for the same workloads, with\n  configPatches:\n  - applyTo: NETWORK_FILTER\n    match: {{listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager}}}}}}}}\n    patch:\n      operation: MERGE\n      value:\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          early_header_mutation_extensions:\n          - name: strip_forged_decisions\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation\n              mutations:\n{}",
            lines("              ")
        ),
        Dialect::EnvoyGateway => format!(
            "a ClientTrafficPolicy for the same Gateway, with\n  headers:\n    withUnderscoresAction: RejectRequest\n    earlyRequestHeaders:\n      remove: [{}]",
            header.name()
        ),
    }
}

/// HTTP/2 trailers are outside ext_authz and outside the early mutation.
fn trailers(chain: &Chain, expected: &Expected, findings: &mut Findings) {
    let removed: Vec<&String> = chain
        .filters
        .iter()
        .filter_map(|(_, filter)| match filter {
            Filter::Mutates(mutation) => Some(&mutation.removed_trailers),
            _ => None,
        })
        .flatten()
        .collect();
    for header in expected.headers() {
        if !chain.has_trailers || removed.iter().any(|name| *name == header.name()) {
            continue;
        }
        let what = format!(
            "a client's own `{}` travels on as an HTTP/2 trailer, which no ext_authz server sees",
            header.name()
        );
        let removals: Vec<_> =
            spellings(header).map(|name| format!("      - remove: {name}")).collect();
        let remedy = format!(
            "as the first of http_filters:\n- name: strip_forged_trailers\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation\n    mutations:\n      request_trailers_mutations:\n{}",
            removals.join("\n")
        );
        findings.add("trailers_pass", Severity::Note, &chain.place, what, remedy);
    }
}

/// Filters that stand on the wrong side of the question.
fn order(chain: &Chain, asking: usize, expected: &Expected, findings: &mut Findings) {
    for (index, (place, filter)) in chain.filters.iter().enumerate() {
        let is_before = index < asking;
        match filter {
            Filter::Router if is_before => {
                let what =
                    "the router stands before ext_authz: a request has left before Placet is asked";
                findings.add(
                    "filter_order",
                    Severity::Error,
                    place,
                    what,
                    "make the router the last of http_filters",
                );
            }
            Filter::Answers(how) if is_before => {
                let what = format!("this filter {how} before Placet is asked");
                findings.add(
                    "filter_order",
                    Severity::Error,
                    place,
                    what,
                    "put it after envoy.filters.http.ext_authz",
                );
            }
            Filter::Verifies(verifiers) if is_before => {
                let reads = verifiers
                    .iter()
                    .any(|each| each.headers.iter().any(|name| expected.is_header(name)));
                if reads {
                    let what = "jwt_authn looks at the decision header before Placet has written it: it judges the client's own copy";
                    findings.add("filter_order", Severity::Error, place, what, "put it after envoy.filters.http.ext_authz, or verify in the application's own proxy");
                }
            }
            _ => {}
        }
    }
}

/// What happens to the decision header after Placet has written it.
fn judge_edit(edit: &Edit, expected: &Expected, findings: &mut Findings) {
    if !expected.is_header(&edit.name) {
        return;
    }
    let (code, what, remedy) = if edit.removes {
        (
            "decision_removed",
            "this runs after Placet has answered, and takes its own decision off",
            "take it out: a client's copy is stripped before the filters, not here",
        )
    } else {
        (
            "decision_overwritten",
            "this writes the decision header, after Placet has answered or where it is not asked",
            "take it out: nobody but Placet writes this header",
        )
    };
    findings.add(code, Severity::Error, &edit.place, what, remedy);
}
