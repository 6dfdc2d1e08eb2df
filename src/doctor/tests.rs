//! Sound configurations of each kind, as a mesh or a gateway renders them, and every fault planted.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Files under tests/fixtures/doctor, and those that we ship.
const SOUND: [&str; 14] = [
    "envoy-static.yaml",
    "envoy-dump.json",
    "istio-sidecar.yaml",
    "istio-sidecar-dump.json",
    "istio-envoyfilter.yaml",
    "istio-gateway.yaml",
    "istio-waypoint.yaml",
    "envoy-gateway.yaml",
    "envoy-gateway-dump.json",
    "deploy/envoy/envoy.yaml",
    "deploy/envoy/http.yaml",
    "deploy/envoy/upstream.yaml",
    "deploy/verify/istio/verify.yaml",
    "deploy/envoy-gateway/edge.yaml",
];

fn source(name: &str) -> Source {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = if name.contains('/') {
        root.join(name)
    } else {
        root.join("tests/fixtures/doctor").join(name)
    };
    Source { name: name.to_owned(), text: std::fs::read_to_string(path).unwrap() }
}

/// The settings that the fixtures are for.
fn configured() -> Expected {
    let mut expected = Expected::by_default().unwrap();
    expected.is_configured = true;
    expected.scopes[0].client_id = Some("orders".to_owned());
    expected.scopes[0].audiences = vec!["orders-api".to_owned()];
    expected
}

fn findings(source: Source) -> Vec<Finding> {
    examine(&[source], &configured()).unwrap()
}

#[test]
fn sound_configurations_are_passed_over_in_silence() {
    for name in SOUND {
        assert_eq!(findings(source(name)), [], "{name}");
        assert_eq!(
            examine(&[source(name)], &Expected::by_default().unwrap()).unwrap(),
            [],
            "{name}"
        );
    }
    let shipped: Vec<_> =
        SOUND.iter().filter(|name| name.contains("/envoy/")).map(|name| source(name)).collect();
    assert_eq!(examine(&shipped, &configured()).unwrap(), [], "edge and upstream together");
}

/// A fault: the file, what is written in place of what (which must stand there), and what is found, where.
struct Fault {
    file: &'static str,
    old: &'static str,
    new: &'static str,
    code: &'static str,
    severity: Severity,
    path: &'static str,
}

macro_rules! faults {
    ($($file:literal { $($old:literal => $new:literal: $severity:ident $code:literal at $path:literal;)* })*) => {
        [$($(Fault { file: $file, old: $old, new: $new, code: $code, severity: Severity::$severity, path: $path },)*)*]
    };
}

const FAULTS: &[Fault] = &faults! {
    "envoy-static.yaml" {
        "failure_mode_allow: false" => "failure_mode_allow: true": Error "fail_open" at "http_filters[1].typed_config.failure_mode_allow";
        "{envoy_grpc: {cluster_name: placet}, timeout: 0.25s}  # public" => "{envoy_grpc: {cluster_name: \"outbound|9191||placet\"}, timeout: 0.25s}": Warning "authority_invalid" at "http_filters[1].typed_config.grpc_service.envoy_grpc";
        "timeout: 0.25s}  # public" => "timeout: 30s}": Warning "timeout_long" at "http_filters[1].typed_config.grpc_service.timeout";
        "timeout: 0.25s}  # public" => "timeout: 0s}": Warning "timeout_long" at "grpc_service.timeout";
        "timeout: 0.25s}  # public" => "timeout: soon}": Warning "timeout_long" at "grpc_service.timeout";
        "status_on_error: {code: ServiceUnavailable}\n" => "\n": Warning "status_on_error" at "http_filters[1].typed_config.status_on_error";
        "status_on_error: {code: ServiceUnavailable}" => "status_on_error: {code: OK}": Warning "status_on_error" at "status_on_error";
        "encode_raw_headers: true\n              with" => "with": Warning "raw_headers_off" at "encode_raw_headers";
        "allow_partial_message: false" => "allow_partial_message: true": Warning "body_partial" at "with_request_body.allow_partial_message";
        "max_request_bytes: 65536" => "max_request_bytes: 67108864": Warning "body_limit" at "with_request_body.max_request_bytes";
        "max_request_bytes: 65536" => "max_request_bytes: 10": Warning "body_limit" at "with_request_body.max_request_bytes";
        ", pack_as_bytes: true" => "": Note "body_as_text" at "with_request_body.pack_as_bytes";
        "failure_mode_allow: false" => "clear_route_cache: true": Warning "route_cache_cleared" at "clear_route_cache";
        "failure_mode_allow: false" => "allowed_headers: {patterns: [{exact: authorization}]}": Note "headers_hidden" at "allowed_headers";
        "failure_mode_allow: false" => "decoder_header_mutation_rules: {disallow_all: true}": Error "mutation_refused" at "decoder_header_mutation_rules";
        "failure_mode_allow: false" => "decoder_header_mutation_rules: {disallow_expression: {regex: \"x-.*\"}}": Error "mutation_refused" at "decoder_header_mutation_rules";
        "failure_mode_allow: false" => "filter_enabled: {default_value: {numerator: 50, denominator: HUNDRED}}": Warning "sampled" at "filter_enabled";
        "failure_mode_allow: false" => "shadow_mode: true": Warning "not_enforced" at "shadow_mode";
        "- remove: x-placet-decision  # public" => "- remove: x-other": Warning "header_not_stripped" at "filters[0].typed_config";
        "{headers_with_underscores_action: DROP_HEADER}" => "{}": Warning "underscores_pass" at "typed_config";
        "{request_trailers_mutations: [{remove: x-placet-decision}]}" => "{}": Note "trailers_pass" at "typed_config";
        "check_settings: {context_extensions: {placet.scope: orders}}" => "disabled: true": Warning "route_unasked" at "typed_per_filter_config[\"envoy.filters.http.ext_authz\"]";
        "placet.scope: orders" => "placet.scope: ordres": Warning "scope_unknown" at "context_extensions[\"placet.scope\"]";
        "route: {cluster: orders}\n" => "route: {cluster: orders}\n                request_headers_to_remove: [X-Placet-Decision]\n": Error "decision_removed" at "request_headers_to_remove[0]";
        "route: {cluster: orders}\n" => "route: {cluster: orders}\n                request_headers_to_add: [{header: {key: x-placet-decision, value: \"%REQ(x-other)%\"}}]\n": Error "decision_overwritten" at "request_headers_to_add[0]";
        "{name: orders-next, weight: 10}" => "{name: orders-next, weight: 10, typed_per_filter_config: {envoy.filters.http.ext_authz: {disabled: true}}}": Warning "route_unasked" at "weighted_clusters.clusters[1].typed_per_filter_config[\"envoy.filters.http.ext_authz\"]";
        "cluster: prometheus_stats" => "cluster: orders": Error "listener_unasked" at "listeners[2].filter_chains[0].filters[0].typed_config";
        "cluster: prometheus_stats" => "cluster: ledger": Warning "listener_unasked" at "listeners[2].filter_chains[0].filters[0].typed_config";
        "audiences: [orders-api]\n" => "\n": Error "audience_unchecked" at "providers[\"placet\"].audiences";
        "audiences: [orders-api]" => "audiences: [ledger-api]": Error "audience_wrong" at "providers[\"placet\"].audiences";
        "issuer: placet\n" => "issuer: https://idp.example.com/\n": Error "issuer_wrong" at "providers[\"placet\"].issuer";
        "issuer: placet\n" => "\n": Error "issuer_unchecked" at "providers[\"placet\"].issuer";
        "from_headers: [{name: x-placet-decision}]\n" => "\n": Error "decision_unread" at "providers[\"placet\"]";
        "require_expiration: true\n" => "\n": Warning "expiry_unchecked" at "require_expiration";
        "requires: {provider_name: placet}" => "requires: {requires_any: {requirements: [{provider_name: placet}, {allow_missing: {}}]}}": Error "decision_optional" at "providers[\"placet\"]";
        "\n                requires: {provider_name: placet}" => "": Error "decision_optional" at "providers[\"placet\"]";
        "cache_duration: 300s" => "cache_duration: 3600s": Warning "key_set_stale" at "remote_jwks.cache_duration";
    }
    "deploy/envoy/envoy.yaml" {
        "- name: envoy.filters.http.ext_authz\n" => "- name: cache\n            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig}\n          - name: envoy.filters.http.ext_authz\n": Error "filter_order" at "http_filters[1]";
        "- name: envoy.filters.http.ext_authz\n" => "- name: envoy.filters.http.router\n          - name: envoy.filters.http.ext_authz\n": Error "filter_order" at "http_filters[1]";
        "- name: envoy.filters.http.ext_authz\n" => "- name: envoy.filters.http.jwt_authn\n            typed_config: {\"@type\": type.googleapis.com/x.JwtAuthentication, providers: {p: {issuer: placet, audiences: [orders-api], require_expiration: true, from_headers: [{name: x-placet-decision}]}}, rules: [{match: {prefix: /}, requires: {provider_name: p}}]}\n          - name: envoy.filters.http.ext_authz\n": Error "filter_order" at "http_filters[1]";
        "- name: envoy.filters.http.router\n" => "- name: late\n            typed_config: {\"@type\": type.googleapis.com/x.HeaderMutation, mutations: {request_mutations: [{append: {header: {key: x-placet-decision, value: \"%REQ(x-other)%\"}}}]}}\n          - name: envoy.filters.http.router\n": Error "decision_overwritten" at "http_filters[2].typed_config.mutations.request_mutations[0]";
        "- name: envoy.filters.http.router\n" => "- name: late\n            typed_config: {\"@type\": type.googleapis.com/x.HeaderMutation, mutations: {request_mutations: [{remove: x-placet-decision}]}}\n          - name: envoy.filters.http.router\n": Error "decision_removed" at "http_filters[2].typed_config.mutations.request_mutations[0]";
        "          route_config:\n" => "          rds: {route_config_name: elsewhere}\n          x_config:\n": Note "unseen" at "typed_config.rds";
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n              transport" => "none.Such\n              transport": Error "not_asked" at "";
    }
    "deploy/envoy/http.yaml" {
        "allowed_upstream_headers: { patterns: [{ exact: x-placet-decision }] }" => "allowed_upstream_headers: { patterns: [{ exact: x-other }] }": Error "decision_not_forwarded" at "allowed_upstream_headers";
        "allowed_upstream_headers: { patterns: [{ exact: x-placet-decision }] }" => "allowed_upstream_headers_to_append: { patterns: [{ prefix: x-placet }] }": Error "decision_appended" at "allowed_upstream_headers_to_append";
        "cluster: placet, timeout: 0.25s" => "cluster: placet, timeout: 5s": Warning "timeout_long" at "http_service.server_uri.timeout";
        "allowed_headers: { patterns: [{ safe_regex: { regex: \".*\" } }] }\n" => "\n": Note "headers_hidden" at "allowed_headers";
    }
    "envoy-dump.json" {
        "\"encode_raw_headers\": true," => "\"failure_mode_allow\": true, \"encode_raw_headers\": true,": Error "fail_open" at "configs[1].static_listeners[0].listener.filter_chains[0].filters[0].typed_config.http_filters[1].typed_config.failure_mode_allow";
        "\"timeout\": \"0.250s\"" => "\"timeout\": \"2s\"": Warning "timeout_long" at "grpc_service.timeout";
    }
    "istio-sidecar.yaml" {
        "failOpen: false" => "failOpen: true": Error "fail_open" at "envoyExtAuthzGrpc.failOpen";
        "timeout: 0.25s\n" => "\n": Warning "timeout_long" at "envoyExtAuthzGrpc.timeout";
        "timeout: 0.25s" => "timeout: 10s": Warning "timeout_long" at "data[\"mesh\"].extensionProviders[0].envoyExtAuthzGrpc.timeout";
        "statusOnError: \"503\"\n" => "\n": Warning "status_on_error" at "envoyExtAuthzGrpc.statusOnError";
        "clearRouteCache: false" => "clearRouteCache: true": Warning "route_cache_cleared" at "clearRouteCache";
        "allowPartialMessage: false" => "allowPartialMessage: true": Warning "body_partial" at "includeRequestBodyInCheck.allowPartialMessage";
        "maxRequestBytes: 65536" => "maxRequestBytes: 16777216": Warning "body_limit" at "maxRequestBytes";
        "packAsBytes: true" => "packAsBytes: false": Note "body_as_text" at "packAsBytes";
        "  - {}\n" => "  - to: [{operation: {paths: [/orders/*]}}]\n": Warning "partial_rules" at "spec.rules";
        "  - {}\n" => "  - to: [{operation: {notPaths: [/healthz]}}]\n": Warning "partial_rules" at "spec.rules";
        "\n  - {}\n" => " []\n": Warning "partial_rules" at "spec.rules";
        "provider: {name: placet}" => "provider: {name: placet-old}": Warning "provider_unknown" at "spec.rules";
        "- remove: x-placet-decision" => "- remove: x-other": Warning "header_not_stripped" at "spec";
        "workloadSelector: {labels: {app: orders}}" => "workloadSelector: {labels: {app: other}}": Warning "header_not_stripped" at "spec";
        "headers_with_underscores_action: REJECT_REQUEST" => "idle_timeout: 1s": Warning "underscores_pass" at "spec";
        "encode_raw_headers: true" => "failure_mode_allow: true": Error "fail_open" at "configPatches[1].patch.value.typed_config.failure_mode_allow";
        "remove: [x-debug]" => "remove: [x-placet-decision]": Error "decision_removed" at "http[0].headers.request.remove[0]";
        "set: {x-tenant: one}" => "set: {x-placet-decision: one}": Error "decision_overwritten" at "headers.request.set[\"x-placet-decision\"]";
        "audiences: [orders-api]\n" => "\n": Error "audience_unchecked" at "spec.jwtRules[0].audiences";
        "- issuer: placet\n" => "- issuer: https://other\n": Error "issuer_wrong" at "spec.jwtRules[0].issuer";
        "notRequestPrincipals" => "principals": Error "decision_optional" at "spec.jwtRules[0]";
        "applyTo: HTTP_FILTER" => "applyTo: HTTP_ROUTE\n    patch: {value: {typed_per_filter_config: {envoy.filters.http.ext_authz: {disabled: true}}}}\n  - applyTo: HTTP_FILTER": Warning "route_unasked" at "typed_per_filter_config[\"envoy.filters.http.ext_authz\"]";
    }
    "istio-envoyfilter.yaml" {
        "failure_mode_allow: false" => "failure_mode_allow: true": Error "fail_open" at "configPatches[1].patch.value.typed_config.failure_mode_allow";
        "timeout: 0.25s" => "timeout: 25s": Warning "timeout_long" at "grpc_service.timeout";
        "operation: INSERT_FIRST" => "operation: REMOVE": Warning "header_not_stripped" at "configPatches[1].patch.value.typed_config";
        ", authority: placet" => "": Warning "authority_invalid" at "grpc_service.envoy_grpc";
    }
    "deploy/istio/root.yaml" {
        "  - directResponse: {status: 403}\n" => "  - route: [{destination: {host: placet.internal}}]\n": Error "socket_routed" at "spec.endpoints";
        "  http:\n" => "  gateways: [istio-ingress/public]\n  http:\n": Error "socket_routed" at "spec.endpoints";
        "hosts: [placet.internal]\n  http" => "hosts: [other.internal]\n  http": Error "socket_routed" at "spec.endpoints";
    }
    "istio-gateway.yaml" {
        "metadata: {name: ask-placet," => "metadata: {annotations: {istio.io/dry-run: \"true\"}, name: ask-placet,": Error "not_enforced" at "metadata.annotations";
        "operation: {paths: [\"*\"]}" => "operation: {paths: [\"*\"], methods: [GET]}": Warning "partial_rules" at "spec.rules";
        "- remove: x_placet_decision" => "- remove: x_other": Warning "underscores_pass" at "spec";
        "timeout: 500ms, " => "": Warning "timeout_long" at "timeout";
        "operation: INSERT_FIRST" => "operation: INSERT_BEFORE": Warning "header_not_stripped" at "spec";
    }
    "istio-waypoint.yaml" {
        "    targetRefs:\n    - {group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}\n" => "    selector: {matchLabels: {app: orders}}\n": Error "policy_unenforced" at "spec";
        "    - {}\n" => "    - to: [{operation: {paths: [/orders/*]}}]\n": Error "partial_rules" at "spec.rules";
        "principals: [cluster.local/ns/orders/sa/waypoint]" => "namespaces: [orders]": Error "waypoint_bypassed" at "";
        ", istio.io/use-waypoint: waypoint" => "": Error "waypoint_unused" at "";
        "timeout: 0.5s, " => "failOpen: true, timeout: 0.5s, ": Error "fail_open" at "meshConfig.extensionProviders[0].envoyExtAuthzGrpc.failOpen";
    }
    "istio-sidecar-dump.json" {
        "\"any\": true" => "\"url_path\": {\"path\": {\"prefix\": \"/orders/\"}}": Warning "partial_rules" at "policies[\"istio-ext-authz-ns[orders]-policy[ask-placet]-rule[0]\"]";
        "\"prefix\": \"istio-ext-authz\"" => "\"prefix\": \"istio-ext-authz-other\"": Warning "partial_rules" at "filter_enabled_metadata";
        "network.ext_authz.v3.ExtAuthz" => "network.other.v3.Other": Error "listener_unasked" at "filter_chains[1].filters[2].typed_config";
        "\"encode_raw_headers\": true," => "": Warning "raw_headers_off" at "encode_raw_headers";
    }
    "envoy-gateway.yaml" {
        "failOpen: false" => "failOpen: true": Error "fail_open" at "spec.extAuth.failOpen";
        "timeout: 250ms\n" => "\n": Warning "timeout_long" at "spec.extAuth.timeout";
        "statusOnError: 503\n" => "\n": Warning "status_on_error" at "spec.extAuth.statusOnError";
        "recomputeRoute: false" => "recomputeRoute: true": Warning "route_cache_cleared" at "spec.extAuth.recomputeRoute";
        "maxRequestBytes: 65536" => "maxRequestBytes: 16777216": Warning "body_limit" at "bodyToExtAuth.maxRequestBytes";
        "failOpen: false" => "headersToExtAuth: [authorization]": Note "headers_hidden" at "spec.extAuth.headersToExtAuth";
        "remove: [x-placet-decision]" => "remove: [x-other]": Warning "header_not_stripped" at "";
        "withUnderscoresAction: RejectRequest" => "withUnderscoresAction: Allow": Warning "underscores_pass" at "";
        "    kind: Gateway\n    name: edge\n  extAuth" => "    kind: Gateway\n    name: edge\n    sectionName: https\n  extAuth": Error "listener_unasked" at "spec.listeners[0]";
        "    kind: Gateway\n    name: edge\n  extAuth" => "    kind: HTTPRoute\n    name: other\n  extAuth": Note "unseen" at "spec";
        "metadata: {name: strip-decisions" => "metadata: {name: other, namespace: orders}\n---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: cors, namespace: orders}\nspec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: orders}], cors: {}}\n---\nkind: ClientTrafficPolicy\napiVersion: gateway.envoyproxy.io/v1alpha1\nmetadata: {name: strip-decisions": Warning "policy_replaced" at "spec";
        "remove: [x-debug]" => "remove: [X-Placet-Decision]": Error "decision_removed" at "requestHeaderModifier.remove[0]";
        "set: [{name: x-tenant, value: one}]" => "add: [{name: x-placet-decision, value: one}]": Error "decision_overwritten" at "requestHeaderModifier.add[0]";
        "optional: false" => "optional: true": Error "decision_optional" at "spec.jwt.providers[0]";
        "audiences: [orders-api]\n" => "\n": Error "audience_unchecked" at "spec.jwt.providers[0].audiences";
        "cacheDuration: 300s" => "cacheDuration: 1h": Warning "key_set_stale" at "cache_duration";
    }
    "envoy-gateway-dump.json" {
        "\"config\": {}" => "\"disabled\": true": Warning "route_unasked" at "typed_per_filter_config[\"envoy.filters.http.ext_authz/securitypolicy/orders/ask-placet\"]";
        "\"typed_per_filter_config\"" => "\"other\"": Warning "route_unasked" at "route_config.virtual_hosts[0].routes[0]";
        "\"route_config_name\": \"orders/edge/http\"" => "\"route_config_name\": \"gone\"": Note "unseen" at "typed_config.rds";
    }
};

#[test]
fn every_planted_fault_is_found_where_it_is() {
    let missed: Vec<String> = FAULTS.iter().filter_map(missed).collect();
    assert!(missed.is_empty(), "{}", missed.join("\n\n"));
}

/// What is wrong with what was found of a planted fault.
fn missed(fault: &Fault) -> Option<String> {
    let Fault { file, old, new, code, severity, path } = fault;
    let mut planted = source(file);
    assert!(planted.text.contains(old), "{file} does not say `{old}`");
    planted.text = planted.text.replacen(old, new, 1);
    let found = examine(&[planted], &configured());
    let is_it = |finding: &Finding| {
        finding.code == *code && finding.severity == *severity && finding.place.path.ends_with(path)
    };
    let is_said = |finding: &Finding| {
        !finding.what.contains('\n')
            && !finding.remedy.is_empty()
            && finding.place.file.is_empty() == (finding.code == "not_asked")
    };
    let is_found =
        found.as_ref().is_ok_and(|found| found.iter().any(is_it) && found.iter().all(is_said));
    (!is_found).then(|| format!("{file}: `{new}` is not {severity} {code} at {path}: {found:#?}"))
}

/// The same hole is worse where nobody strips the header.
#[test]
fn a_hole_in_front_of_which_nothing_is_stripped_is_an_error() {
    let mut planted = source("envoy-static.yaml");
    planted.text = planted
        .text
        .replace("remove: x-placet-decision  # public", "remove: x-other")
        .replacen("failure_mode_allow: false", "failure_mode_allow: true", 1);
    let found = findings(planted);
    assert!(
        found
            .iter()
            .any(|finding| finding.code == "header_not_stripped"
                && finding.severity == Severity::Error),
        "{found:#?}"
    );
    assert!(found.is_sorted_by_key(|finding| finding.severity));

    let mut routes = source("envoy-gateway.yaml");
    routes.text = routes.text.replacen(
        "kind: Gateway\n    name: edge\n  extAuth",
        "kind: HTTPRoute\n    name: orders\n  extAuth",
        1,
    );
    assert_eq!(findings(routes.clone()), [], "every route is asked about");
    routes.text.push_str("---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: unasked, namespace: orders}\nspec: {parentRefs: [{name: edge}]}\n");
    let found = findings(routes);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        (found[0].code, found[0].severity, found[0].place.resource.as_str()),
        ("route_unasked", Severity::Warning, "GRPCRoute orders/unasked")
    );
}

#[test]
fn manifests_of_several_files_belong_together() {
    let whole = source("istio-sidecar.yaml").text;
    let parts: Vec<Source> = whole
        .split("\n---\n")
        .enumerate()
        .map(|(index, text)| Source { name: format!("{index}.yaml"), text: text.to_owned() })
        .collect();
    assert_eq!(examine(&parts, &configured()).unwrap(), []);
    let codes: Vec<_> =
        examine(&parts[1..], &configured()).unwrap().iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["unseen"], "the provider is defined elsewhere");
}

#[test]
fn the_settings_say_what_to_look_for() {
    let mut expected = configured();
    expected.scopes[0].header = DecisionHeader::new("x-decision", "").unwrap();
    let codes: Vec<_> = examine(&[source("deploy/envoy/envoy.yaml")], &expected)
        .unwrap()
        .iter()
        .map(|finding| finding.code)
        .collect();
    assert_eq!(codes, ["header_not_stripped", "trailers_pass"]);
    let renamed = source("deploy/envoy/envoy.yaml").text.replace("x-placet-decision", "x-decision");
    assert_eq!(
        examine(&[Source { name: "renamed".to_owned(), text: renamed }], &expected).unwrap(),
        []
    );
}

#[test]
fn a_key_set_of_several_scopes_is_named() {
    let mut expected = configured();
    expected.scopes.push(ExpectedScope {
        client_id: Some("ledger".to_owned()),
        audiences: vec!["ledger-api".to_owned()],
        ..expected.scopes[0].clone()
    });
    let shared = source("deploy/envoy/upstream.yaml")
        .text
        .replace("/scopes/orders/jwks.json", "/.well-known/jwks.json");
    let found = examine(&[Source { name: "shared".to_owned(), text: shared }], &expected).unwrap();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        (found[0].code, found[0].remedy.as_str()),
        ("key_set_shared", "http://127.0.0.1:9192/scopes/orders/jwks.json")
    );
}

#[test]
fn what_comes_from_elsewhere_is_not_taken_for_sound() {
    for (text, path) in [
        ("dynamic_resources: {lds_config: {ads: {}}}", "dynamic_resources.lds_config"),
        (&source("deploy/envoy/envoy.yaml").text.replacen("typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext", "config_discovery: {}\n            x:\n              \"@type\": x.ext", 1), "http_filters[1].config_discovery"),
    ] {
        let found = findings(Source { name: "elsewhere".to_owned(), text: text.to_owned() });
        assert!(found.iter().any(|finding| finding.code == "unseen" && finding.place.path.ends_with(path)), "{found:#?}");
    }
}

/// `istioctl proxy-config` writes Envoy's fields as protobuf's JSON does.
#[test]
fn envoys_fields_may_be_in_camel_case() {
    let camel = |name: &str| {
        let text = source(name).text;
        let pattern = regex::Regex::new("_([a-z])([a-z0-9_]*\":)").unwrap();
        let mut camel = text.clone();
        while pattern.is_match(&camel) {
            camel = pattern
                .replace_all(&camel, |found: &regex::Captures<'_>| {
                    found[1].to_uppercase() + &found[2]
                })
                .into_owned();
        }
        assert_ne!(camel, text);
        camel
    };
    for name in ["envoy-dump.json", "istio-sidecar-dump.json", "envoy-gateway-dump.json"] {
        let text = camel(name);
        assert_eq!(findings(Source { name: name.to_owned(), text: text.clone() }), [], "{name}");
        let planted = text.replace("\"encodeRawHeaders\": true", "\"failureModeAllow\": true");
        let found = findings(Source { name: name.to_owned(), text: planted });
        let codes: Vec<_> = found.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["fail_open", "raw_headers_off"], "{name}");
    }
}

/// Another ext_authz server beside Placet is left alone.
#[test]
fn only_placets_questions_are_judged() {
    let mut beside = source("deploy/envoy/envoy.yaml");
    let other = "- name: other\n            typed_config: {\"@type\": type.googleapis.com/x.ExtAuthz, failure_mode_allow: true, grpc_service: {envoy_grpc: {cluster_name: opa}}}\n          - name: envoy.filters.http.ext_authz\n";
    beside.text = beside.text.replacen("- name: envoy.filters.http.ext_authz\n", other, 1);
    assert_eq!(findings(beside.clone()), []);
    beside.text = beside
        .text
        .replace("cluster_name: placet", "cluster_name: pdp")
        .replace("cluster_name: opa", "cluster_name: another");
    assert!(findings(beside).iter().any(|finding| finding.code == "fail_open"));
}

#[test]
fn what_is_no_configuration_is_an_error() {
    let of = |text: &str| {
        examine(&[Source { name: "x".to_owned(), text: text.to_owned() }], &configured())
    };
    for text in ["", "a: [", "kind: Deployment", "hello", "---\n---\n", "7"] {
        assert!(of(text).is_err(), "{text:?}");
    }
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(members) => members.values().map(nodes).sum(),
        _ => 0,
    }
}

/// Puts `new` in place of the node with this number.
fn replace(value: &mut Value, number: &mut usize, new: &Value) {
    if *number == 0 {
        *value = new.clone();
        *number = usize::MAX;
        return;
    }
    *number -= 1;
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, number, new)),
        Value::Object(members) => {
            members.values_mut().for_each(|member| replace(member, number, new))
        }
        _ => {}
    }
}

proptest! {
    /// Whatever stands where something else belongs: nothing panics, and findings say where.
    #[test]
    fn no_document_makes_it_panic(file in 0..SOUND.len(), changes in prop::collection::vec((any::<prop::sample::Index>(), 0..9_usize), 1..6)) {
        let odd = [json!(null), json!(true), json!(-1), json!(1.5), json!("%"), json!([]), json!({}), json!([[{}]]), json!({"": [0]})];
        let mut documents = document::values(&source(SOUND[file])).unwrap();
        for (index, odd_index) in &changes {
            let count = documents.iter().map(nodes).sum();
            let mut number = index.index(count);
            documents.iter_mut().for_each(|each| replace(each, &mut number, &odd[*odd_index]));
        }
        let text = Value::Array(documents).to_string();
        if let Ok(found) = examine(&[Source { name: "x".to_owned(), text }], &configured()) {
            for finding in found {
                prop_assert!(!finding.what.contains('\n'), "{finding:?}");
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "[-a-z{}\\[\\]:, \n\"&*!0-9]{0,80}") {
        let _ = examine(&[Source { name: "x".to_owned(), text }], &configured());
    }
}
