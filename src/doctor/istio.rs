//! Istio: the mesh's providers, the policies that ask them, and what EnvoyFilters change.
//!
//! A CUSTOM AuthorizationPolicy asks only about what its rules match; what they don't match passes, and
//! nobody strips the header there. ztunnel enforces no CUSTOM policy, and a waypoint takes no EnvoyFilter.

mod ambient;
mod patches;
mod socket;

use std::time::Duration;

use super::Severity;
use super::document::{Document, identity};
use super::envoy;
use super::model::{Body, Dialect, Edit, Fault, Guard, Model, Question, Verifier};
use super::node::Node;
use super::patterns::Patterns;
use ambient::Ambient;
use patches::{Patches, workloads};

/// What Istio waits for an answer unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// Reads the manifests of all files together.
pub(super) fn read(documents: &[&Document], model: &mut Model) {
    let meshes: Vec<Node<'_>> = documents.iter().filter_map(|document| mesh(document)).collect();
    let providers = meshes.iter().flat_map(|mesh| mesh.items("extension_providers"));
    model.questions.extend(providers.filter_map(|provider| question(&provider)));
    let of_kind = |group: &'static str, kind: &'static str| {
        documents.iter().filter(move |each| each.is(group, kind)).map(|each| each.root())
    };
    let policies: Vec<Node<'_>> = of_kind("security.istio.io", "AuthorizationPolicy").collect();
    let patches = Patches::read(of_kind("networking.istio.io", "EnvoyFilter"), model);
    let ambient = Ambient::read(documents);
    for policy in policies.iter().filter(|policy| action(policy) == "CUSTOM") {
        guard(policy, &patches, &ambient, model);
    }
    join(!meshes.is_empty(), model);
    socket::judge(documents, model);
    ambient.judge(&policies, model);
    for manifest in of_kind("security.istio.io", "RequestAuthentication") {
        verifiers(&manifest, &policies, model);
    }
    of_kind("networking.istio.io", "VirtualService").for_each(|each| edits(&each, model));
}

/// The mesh configuration: from its ConfigMap, an IstioOperator, or Helm values.
fn mesh<'a>(document: &'a Document) -> Option<Node<'a>> {
    let root = document.root();
    if document.is("install.istio.io", "IstioOperator") {
        return root.at(&["spec", "mesh_config"]);
    }
    if !document.kind().is_empty() {
        return None;
    }
    root.get("mesh_config").or_else(|| root.get("extension_providers").map(|_| root))
}

/// A provider of external authorization.
fn question(provider: &Node<'_>) -> Option<Question> {
    let http = provider.get("envoy_ext_authz_http");
    let is_http = http.is_some();
    let config = http.or_else(|| provider.get("envoy_ext_authz_grpc"))?;
    let shown = config.get("include_request_headers_in_check");
    Some(Question {
        place: config.place.clone(),
        dialect: Dialect::Istio,
        name: provider.text("name").unwrap_or_default().to_owned(),
        target: config.text("service").unwrap_or_default().to_owned(),
        authority: None,
        is_http,
        fail_open: config.flag("fail_open"),
        timeout: envoy::timeout(Some(&config), DEFAULT_TIMEOUT),
        status_on_error: config.number("status_on_error"),
        raw_headers: None,
        body: config.get("include_request_body_in_check").map(|body| Body {
            max_bytes: body.number("max_request_bytes").unwrap_or(0),
            allows_partial: body.flag("allow_partial_message"),
            as_bytes: (!is_http).then(|| body.flag("pack_as_bytes")),
            place: body.place,
        }),
        clears_route_cache: config.flag("clear_route_cache"),
        shown: shown.map(|_| Patterns::of_names(&config.texts("include_request_headers_in_check"))),
        mutation_rules: None,
        forwarded: Patterns::of_names(&config.texts("headers_to_upstream_on_allow")),
        appended: Patterns::default(),
        unasked: Vec::new(),
        is_off: false,
    })
}

fn action<'a>(policy: &Node<'a>) -> &'a str {
    policy.get("spec").and_then(|spec| spec.text("action")).unwrap_or("ALLOW")
}

fn guard(policy: &Node<'_>, patches: &Patches, ambient: &Ambient<'_>, model: &mut Model) {
    let Some(spec) = policy.get("spec") else { return };
    let provider = spec.at(&["provider"]).and_then(|provider| provider.text("name"));
    let rules = spec.items("rules");
    let made = Guard {
        place: match spec.get("rules") {
            Some(rules) => rules.place,
            None => spec.place.clone(),
        },
        provider: provider.unwrap_or_default().to_owned(),
        covers_all: rules.iter().any(covers_all),
        is_of_waypoint: ambient.is_of_waypoint(policy),
    };
    if !made.is_of_waypoint {
        let (_, namespace) = identity(policy);
        let labels = workloads(policy, &["selector", "match_labels"]);
        model.fronts.push(patches.front(spec.place.clone(), namespace, &labels));
    }
    if is_dry_run(policy) {
        model.faults.push(Fault {
            place: policy.place.below("metadata.annotations"),
            code: "not_enforced",
            severity: Severity::Error,
            what: "`istio.io/dry-run` makes Istio enforce nothing of this policy: every request passes without being asked about".to_owned(),
            remedy: "take the annotation out; to try Placet out, use `dryRun: true` in its scope: it strips the header".to_owned(),
        });
    }
    model.guards.push(made);
}

fn is_dry_run(policy: &Node<'_>) -> bool {
    let annotations = policy.get("metadata").map(|metadata| metadata.entries("annotations"));
    annotations
        .into_iter()
        .flatten()
        .any(|(key, value)| key == "istio.io/dry-run" && value.value.as_str() == Some("true"))
}

/// Whether a rule is about every request: it says nothing, or every path and no more.
fn covers_all(rule: &Node<'_>) -> bool {
    if ["from", "when"].iter().any(|part| !rule.items(part).is_empty()) {
        return false;
    }
    let operations = rule.items("to");
    operations.is_empty()
        || operations.iter().filter_map(|to| to.get("operation")).any(|operation| {
            let is_only = operation.value.as_object().is_some_and(|members| members.len() == 1);
            is_only && operation.texts("paths").iter().any(|path| matches!(*path, "*" | "/*"))
        })
}

/// Policies and providers must name each other.
fn join(has_mesh: bool, model: &mut Model) {
    let names: Vec<&str> = model.questions.iter().map(|question| question.name.as_str()).collect();
    for guard in &model.guards {
        if names.contains(&guard.provider.as_str()) {
            continue;
        }
        if !has_mesh {
            let what = format!(
                "the provider `{}` is defined in the mesh configuration, which is not among these documents: add what `kubectl -n istio-system get configmap istio -o yaml` prints",
                guard.provider
            );
            model.unseen.push((guard.place.clone(), what));
            continue;
        }
        model.faults.push(Fault {
            place: guard.place.clone(),
            code: "provider_unknown",
            severity: Severity::Warning,
            what: format!(
                "the mesh has no provider `{}`: Istio refuses every request",
                guard.provider
            ),
            remedy: match names.first() {
                Some(name) => format!("provider:\n  name: {name}"),
                None => "add it to `extensionProviders` of the mesh configuration".to_owned(),
            },
        });
    }
    let of_mesh = |question: &&Question| question.dialect == Dialect::Istio;
    for question in model.questions.iter().filter(of_mesh) {
        if model.guards.iter().all(|guard| guard.provider != question.name) {
            let what = format!(
                "no AuthorizationPolicy with `action: CUSTOM` among these documents names the provider `{}`",
                question.name
            );
            model.unseen.push((question.place.clone(), what));
        }
    }
}

/// The rules of a RequestAuthentication. It refuses bad tokens only: that there is one, another policy
/// must ask for.
fn verifiers(manifest: &Node<'_>, policies: &[Node<'_>], model: &mut Model) {
    let (_, namespace) = identity(manifest);
    let is_required = policies
        .iter()
        .filter(|policy| [namespace, "istio-system"].contains(&identity(policy).1))
        .any(requires_token);
    let Some(spec) = manifest.get("spec") else { return };
    for rule in spec.items("jwt_rules") {
        let headers = rule.items("from_headers");
        model.verifiers.push(Verifier {
            place: rule.place.clone(),
            dialect: Dialect::Istio,
            headers: headers.iter().filter_map(|from| from.text("name")).map(str::to_ascii_lowercase).collect(),
            issuer: rule.text("issuer").map(str::to_owned),
            audiences: rule.texts("audiences").into_iter().map(str::to_owned).collect(),
            jwks_uri: rule.text("jwks_uri").map(str::to_owned),
            jwks_cache: None,
            requires_expiry: None,
            optional: (!is_required).then(|| "a RequestAuthentication lets requests without a token pass, and no AuthorizationPolicy here requires one".to_owned()),
        });
    }
}

fn requires_token(policy: &Node<'_>) -> bool {
    let key = match action(policy) {
        "ALLOW" => "request_principals",
        "DENY" => "not_request_principals",
        _ => return false,
    };
    let Some(spec) = policy.get("spec") else { return false };
    let sources = |rule: &Node<'_>| {
        let sources: Vec<_> =
            rule.items("from").iter().filter_map(|from| from.get("source")).collect();
        !sources.is_empty() && sources.iter().all(|source| !source.items(key).is_empty())
    };
    let rules = spec.items("rules");
    match action(policy) {
        "ALLOW" => !rules.is_empty() && rules.iter().any(sources),
        _ => rules.iter().any(sources),
    }
}

/// What a VirtualService does to request headers.
fn edits(service: &Node<'_>, model: &mut Model) {
    let Some(spec) = service.get("spec") else { return };
    let routes = spec.items("http");
    let destinations = routes.iter().flat_map(|route| route.items("route"));
    let holders: Vec<Node<'_>> = routes.iter().cloned().chain(destinations).collect();
    for request in holders.iter().filter_map(|holder| holder.at(&["headers", "request"])) {
        let removed = request.items("remove");
        let removed = removed.iter().filter_map(|item| Some((item.value.as_str()?, item, true)));
        let written: Vec<_> = ["set", "add"].iter().flat_map(|map| request.entries(map)).collect();
        let written = written.iter().map(|(name, node)| (*name, node, false));
        model.edits.extend(removed.chain(written).map(|(name, node, removes)| Edit {
            place: node.place.clone(),
            name: name.to_ascii_lowercase(),
            removes,
        }));
    }
}
