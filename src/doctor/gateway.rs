//! Envoy Gateway and the Gateway API: who is asked about which routes, and what a gateway strips.

use std::time::Duration;

use super::Severity;
use super::document::{Document, identity};
use super::envoy;
use super::model::{Body, Dialect, Edit, Fault, Front, Model, Question, Unasked, Verifier};
use super::node::Node;
use super::patterns::Patterns;

/// What Envoy Gateway waits for an answer unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

const OWN: &str = "gateway.envoyproxy.io";
const API: &str = "gateway.networking.k8s.io";

/// Reads the manifests of all files together.
pub(super) fn read(documents: &[&Document], model: &mut Model) {
    let of_kinds = |group: &str, kinds: &[&str]| -> Vec<Node<'_>> {
        let is_meant = |each: &&&Document| kinds.iter().any(|kind| each.is(group, kind));
        documents.iter().filter(is_meant).map(|each| each.root()).collect()
    };
    let world = World {
        policies: of_kinds(OWN, &["SecurityPolicy"]),
        clients: of_kinds(OWN, &["ClientTrafficPolicy"]),
        gateways: of_kinds(API, &["Gateway"]),
        routes: of_kinds(API, &["HTTPRoute", "GRPCRoute"]),
    };
    for policy in &world.policies {
        model.questions.extend(question(policy));
        verifiers(policy, model);
    }
    world.routes.iter().for_each(|route| edits(route, model));
    if world.policies.iter().any(asks) {
        world.fronts(model);
        world.policies.iter().for_each(|policy| world.judge_targets(policy, model));
        world.routes.iter().for_each(|route| world.judge_route(route, model));
        world.gateways.iter().for_each(|gateway| world.judge_listeners(gateway, model));
    }
}

/// The manifests that belong together.
#[derive(Debug)]
struct World<'a> {
    policies: Vec<Node<'a>>,
    clients: Vec<Node<'a>>,
    gateways: Vec<Node<'a>>,
    routes: Vec<Node<'a>>,
}

fn asks(policy: &Node<'_>) -> bool {
    policy.at(&["spec", "ext_auth"]).is_some()
}

/// The external authorization of a SecurityPolicy.
fn question(policy: &Node<'_>) -> Option<Question> {
    let config = policy.at(&["spec", "ext_auth"])?;
    let http = config.get("http");
    let service = http.clone().or_else(|| config.get("grpc"));
    let backends = service
        .iter()
        .flat_map(|each| each.items("backend_refs").into_iter().chain(each.get("backend_ref")));
    let target = backends.filter_map(|backend| backend.text("name")).next().unwrap_or_default();
    let forwarded = http.as_ref().map(|http| http.texts("headers_to_backend")).unwrap_or_default();
    let shown = config.get("headers_to_ext_auth");
    Some(Question {
        place: config.place.clone(),
        dialect: Dialect::EnvoyGateway,
        name: identity(policy).0.to_owned(),
        target: target.to_owned(),
        authority: None,
        is_http: http.is_some(),
        fail_open: config.flag("fail_open"),
        timeout: envoy::timeout(Some(&config), DEFAULT_TIMEOUT),
        status_on_error: config.number("status_on_error"),
        raw_headers: None,
        body: config.get("body_to_ext_auth").map(|body| Body {
            max_bytes: body.number("max_request_bytes").unwrap_or(0),
            allows_partial: body.flag("allow_partial_message"),
            as_bytes: None,
            place: body.place,
        }),
        clears_route_cache: config.flag("recompute_route"),
        shown: shown.map(|_| Patterns::of_names(&config.texts("headers_to_ext_auth"))),
        mutation_rules: None,
        forwarded: Patterns::of_names(&forwarded),
        appended: Patterns::default(),
        unasked: Vec::new(),
        is_off: false,
    })
}

fn verifiers(policy: &Node<'_>, model: &mut Model) {
    let Some(jwt) = policy.at(&["spec", "jwt"]) else { return };
    for provider in jwt.items("providers") {
        let headers =
            provider.get("extract_from").map(|from| from.items("headers")).unwrap_or_default();
        let remote = provider.get("remoteJWKS");
        model.verifiers.push(Verifier {
            place: provider.place.clone(),
            dialect: Dialect::EnvoyGateway,
            headers: headers
                .iter()
                .filter_map(|from| from.text("name"))
                .map(str::to_ascii_lowercase)
                .collect(),
            issuer: provider.text("issuer").filter(|issuer| !issuer.is_empty()).map(str::to_owned),
            audiences: provider.texts("audiences").into_iter().map(str::to_owned).collect(),
            jwks_uri: remote.as_ref().and_then(|remote| remote.text("uri")).map(str::to_owned),
            jwks_cache: remote.and_then(|remote| remote.duration("cache_duration")),
            requires_expiry: None,
            optional: jwt
                .flag("optional")
                .then(|| "`optional: true` lets requests without a token pass".to_owned()),
        });
    }
}

/// What the rules of a route do to request headers.
fn edits(route: &Node<'_>, model: &mut Model) {
    let Some(spec) = route.get("spec") else { return };
    let rules = spec.items("rules");
    let backends = rules.iter().flat_map(|rule| rule.items("backend_refs"));
    let holders: Vec<Node<'_>> = rules.iter().cloned().chain(backends).collect();
    let filters = holders.iter().flat_map(|holder| holder.items("filters"));
    for modifier in filters.filter_map(|filter| filter.get("request_header_modifier")) {
        let removed = modifier.items("remove");
        let removed = removed.iter().filter_map(|item| Some((item.value.as_str()?, item, true)));
        let written: Vec<_> = ["set", "add"].iter().flat_map(|list| modifier.items(list)).collect();
        let written = written.iter().filter_map(|item| Some((item.text("name")?, item, false)));
        model.edits.extend(removed.chain(written).map(|(name, node, removes)| Edit {
            place: node.place.clone(),
            name: name.to_ascii_lowercase(),
            removes,
        }));
    }
}

impl World<'_> {
    /// What each gateway strips of which requests are asked about.
    fn fronts(&self, model: &mut Model) {
        for gateway in self.gateways.iter().filter(|gateway| self.concerns(gateway)) {
            model.fronts.push(front(
                gateway,
                self.clients.iter().filter(|each| targets(each, gateway, "Gateway")),
            ));
        }
        if let Some(policy) =
            self.policies.iter().find(|policy| asks(policy)).filter(|_| self.gateways.is_empty())
        {
            model.fronts.push(front(policy, self.clients.iter()));
        }
    }

    /// A policy that asks, for something that is not here.
    fn judge_targets(&self, policy: &Node<'_>, model: &mut Model) {
        let manifests = self.gateways.iter().chain(&self.routes);
        if asks(policy) && !manifests.clone().any(|each| targets(policy, each, kind(each))) {
            let what = "what this policy is for is not among these documents: whether other routes are asked about can't be seen".to_owned();
            model.unseen.push((policy.place.below("spec"), what));
        }
    }

    /// Whether requests of the gateway are asked about: of all of it, or of a route.
    fn concerns(&self, gateway: &Node<'_>) -> bool {
        let is_asked = |node: &Node<'_>, kind: &str| {
            self.policies.iter().any(|policy| asks(policy) && targets(policy, node, kind))
        };
        is_asked(gateway, "Gateway")
            || self
                .routes
                .iter()
                .any(|route| is_attached(route, gateway) && is_asked(route, kind(route)))
    }

    fn judge_route(&self, route: &Node<'_>, model: &mut Model) {
        let of_route = |policy: &&Node<'_>| targets(policy, route, kind(route));
        let own: Vec<_> = self.policies.iter().filter(of_route).collect();
        let gateways: Vec<_> =
            self.gateways.iter().filter(|gateway| is_attached(route, gateway)).collect();
        if own.iter().any(|policy| asks(policy))
            || !gateways.iter().any(|gateway| self.concerns(gateway))
        {
            return;
        }
        let is_covered = gateways.iter().all(|gateway| {
            self.policies.iter().any(|policy| asks(policy) && targets(policy, gateway, "Gateway"))
        });
        let is_merged = |policy: &&&Node<'_>| policy.at(&["spec", "merge_type"]).is_some();
        let (place, code, what, remedy) = match own.iter().find(|policy| !is_merged(policy)) {
            Some(policy) if is_covered => (
                policy.place.below("spec"),
                "policy_replaced",
                "this policy takes the place of the gateway's for its route, and has no `extAuth`: requests of the route pass without being asked about",
                "repeat `extAuth` here, or set:\n  mergeType: StrategicMerge",
            ),
            _ if is_covered => return,
            _ => (
                route.place.clone(),
                "route_unasked",
                "requests of this route pass without being asked about: no SecurityPolicy with `extAuth` targets it or its gateway",
                "target the gateway with the SecurityPolicy:\n  targetRefs:\n  - group: gateway.networking.k8s.io\n    kind: Gateway\n    name: GATEWAY\nand let a route of Placet be the exception (`bypass: true`): it strips the header",
            ),
        };
        model.unasked.push(Unasked {
            place,
            code,
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    /// A policy may be for one listener of the gateway only.
    fn judge_listeners(&self, gateway: &Node<'_>, model: &mut Model) {
        let is_asking = |policy: &&Node<'_>| asks(policy) && targets(policy, gateway, "Gateway");
        let sections: Vec<Option<&str>> = self
            .policies
            .iter()
            .filter(is_asking)
            .flat_map(|policy| refs(policy))
            .map(|target| target.text("section_name"))
            .collect();
        if sections.is_empty() || sections.contains(&None) {
            return;
        }
        let listeners = gateway.get("spec").map(|spec| spec.items("listeners")).unwrap_or_default();
        for listener in
            listeners.iter().filter(|listener| !sections.contains(&listener.text("name")))
        {
            model.faults.push(Fault {
                place: listener.place.clone(),
                code: "listener_unasked",
                severity: Severity::Error,
                what: "requests of this listener pass without being asked about: the SecurityPolicy is for another one only".to_owned(),
                remedy: "take `sectionName` out of the SecurityPolicy's target".to_owned(),
            });
        }
    }
}

fn kind<'a>(manifest: &Node<'a>) -> &'a str {
    manifest.text("kind").unwrap_or_default()
}

fn refs<'a>(policy: &Node<'a>) -> Vec<Node<'a>> {
    let Some(spec) = policy.get("spec") else { return Vec::new() };
    spec.items("target_refs").into_iter().chain(spec.get("target_ref")).collect()
}

/// Whether the policy is for this manifest. One that selects by labels is taken to be, since labels
/// may be set elsewhere.
fn targets(policy: &Node<'_>, manifest: &Node<'_>, kind: &str) -> bool {
    let (name, namespace) = identity(manifest);
    if identity(policy).1 != namespace {
        return false;
    }
    let is_named =
        |target: &Node<'_>| target.text("kind") == Some(kind) && target.text("name") == Some(name);
    let selectors =
        policy.get("spec").map(|spec| spec.items("target_selectors")).unwrap_or_default();
    refs(policy).iter().any(is_named)
        || selectors.iter().any(|selector| selector.text("kind") == Some(kind))
}

fn is_attached(route: &Node<'_>, gateway: &Node<'_>) -> bool {
    let (name, namespace) = identity(gateway);
    let own = identity(route).1;
    let parents = route.get("spec").map(|spec| spec.items("parent_refs")).unwrap_or_default();
    parents.iter().any(|parent| {
        parent.text("name") == Some(name) && parent.text("namespace").unwrap_or(own) == namespace
    })
}

fn front<'n, 'a: 'n>(of: &Node<'_>, clients: impl Iterator<Item = &'n Node<'a>>) -> Front {
    let mut front = Front {
        place: of.place.clone(),
        dialect: Dialect::EnvoyGateway,
        stripped: Vec::new(),
        refuses_underscores: true,
    };
    for headers in clients.filter_map(|client| client.at(&["spec", "headers"])) {
        let early = headers.get("early_request_headers");
        let names = early.map(|early| early.texts("remove")).unwrap_or_default();
        front.stripped.extend(names.into_iter().map(str::to_ascii_lowercase));
        if headers.text("with_underscores_action") == Some("Allow") {
            front.refuses_underscores = false;
        }
    }
    front
}
