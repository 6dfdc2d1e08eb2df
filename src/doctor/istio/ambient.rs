//! Ambient meshes: which policies a waypoint enforces, and whether requests come by it.

use super::super::Severity;
use super::super::document::{Document, identity};
use super::super::model::{Fault, Model};
use super::super::node::Node;
use super::action;
use super::patches::{GATEWAY_LABEL, workloads};

/// The waypoints and ambient namespaces among the documents.
#[derive(Debug)]
pub(super) struct Ambient<'a> {
    waypoints: Vec<Node<'a>>,
    namespaces: Vec<Node<'a>>,
    /// Everything that may say which waypoint it uses.
    users: Vec<Node<'a>>,
}

impl<'a> Ambient<'a> {
    pub(super) fn read(documents: &[&'a Document]) -> Self {
        let of_kind = |group: &'static str, kind: &'static str| {
            documents.iter().filter(move |each| each.is(group, kind)).map(|each| each.root())
        };
        let namespaces = || of_kind("", "Namespace");
        let is_ambient =
            |each: &Node<'_>| label(each, "istio.io/dataplane-mode") == Some("ambient");
        Self {
            waypoints: of_kind("gateway.networking.k8s.io", "Gateway")
                .filter(is_waypoint)
                .collect(),
            namespaces: namespaces().filter(is_ambient).collect(),
            users: namespaces().chain(of_kind("", "Service")).collect(),
        }
    }

    /// Whether the policy is attached to a waypoint, or to a service behind one.
    pub(super) fn is_of_waypoint(&self, policy: &Node<'_>) -> bool {
        targets(policy).iter().any(|target| match target.text("kind") {
            Some("Service" | "ServiceEntry") => true,
            Some("GatewayClass") => target.text("name") == Some("istio-waypoint"),
            Some("Gateway") => self
                .waypoints
                .iter()
                .any(|waypoint| Some(identity(waypoint).0) == target.text("name")),
            _ => false,
        })
    }

    pub(super) fn judge(&self, policies: &[Node<'_>], model: &mut Model) {
        for policy in policies.iter().filter(|policy| action(policy) == "CUSTOM") {
            if self.is_of_waypoint(policy) {
                self.judge_reach(policy, policies, model);
            } else {
                self.judge_attachment(policy, model);
            }
        }
        self.judge_use(model);
    }

    /// A CUSTOM policy that is not attached to the waypoint.
    fn judge_attachment(&self, policy: &Node<'_>, model: &mut Model) {
        let (_, namespace) = identity(policy);
        let waypoint = self.waypoints.iter().find(|waypoint| identity(waypoint).1 == namespace);
        let is_ambient = self.namespaces.iter().any(|each| identity(each).0 == namespace);
        // A gateway has a proxy of its own, in an ambient namespace too.
        let selected = workloads(policy, &["selector", "match_labels"]);
        let is_of_gateway = selected.contains_key("istio") || selected.contains_key(GATEWAY_LABEL);
        if (waypoint.is_none() && !is_ambient) || !targets(policy).is_empty() || is_of_gateway {
            return;
        }
        let name = waypoint.map_or("waypoint", |waypoint| identity(waypoint).0);
        model.faults.push(Fault {
            place: policy.place.below("spec"),
            code: "policy_unenforced",
            severity: Severity::Error,
            what: "ztunnel does not enforce `action: CUSTOM`: without `targetRefs` no waypoint does either, and every request passes".to_owned(),
            remedy: format!("in place of `selector`:\n  targetRefs:\n  - group: gateway.networking.k8s.io\n    kind: Gateway\n    name: {name}"),
        });
    }

    /// Requests may be sent to a pod itself: only a policy that ztunnel enforces keeps them out.
    fn judge_reach(&self, policy: &Node<'_>, policies: &[Node<'_>], model: &mut Model) {
        let (_, namespace) = identity(policy);
        let Some(waypoint) =
            self.waypoints.iter().find(|waypoint| identity(waypoint).1 == namespace)
        else {
            return;
        };
        let account = format!("/ns/{namespace}/sa/{}", identity(waypoint).0);
        let is_closed = policies.iter().any(|other| {
            identity(other).1 == namespace
                && action(other) == "ALLOW"
                && targets(other).is_empty()
                && admits_only(other, &account)
        });
        if is_closed {
            return;
        }
        model.faults.push(Fault {
            place: waypoint.place.clone(),
            code: "waypoint_bypassed",
            severity: Severity::Error,
            what: "requests that are sent to a pod's own address do not come by the waypoint: they pass without being asked about, with whatever decision header they came".to_owned(),
            remedy: format!(
                "an AuthorizationPolicy without `targetRefs`, which ztunnel enforces:\n  action: ALLOW\n  rules:\n  - from:\n    - source:\n        principals: [\"cluster.local{account}\"]"
            ),
        });
    }

    /// Nothing that says it uses the waypoint.
    fn judge_use(&self, model: &mut Model) {
        for waypoint in &self.waypoints {
            let (name, namespace) = identity(waypoint);
            let of_namespace = |user: &&Node<'_>| {
                let (own, within) = identity(user);
                user.text("kind") == Some("Namespace") && own == namespace
                    || within == namespace && user.text("kind") == Some("Service")
            };
            let users: Vec<_> = self.users.iter().filter(of_namespace).collect();
            if users.is_empty()
                || users.iter().any(|user| label(user, "istio.io/use-waypoint").is_some())
            {
                continue;
            }
            model.faults.push(Fault {
                place: waypoint.place.clone(),
                code: "waypoint_unused",
                severity: Severity::Error,
                what: "no namespace and no service here uses the waypoint: requests do not come by it, and nobody is asked".to_owned(),
                remedy: format!("kubectl label namespace {namespace} istio.io/use-waypoint={name}"),
            });
        }
    }
}

fn is_waypoint(gateway: &Node<'_>) -> bool {
    let spec = gateway.get("spec");
    spec.is_some_and(|spec| spec.text("gateway_class_name") == Some("istio-waypoint"))
}

fn label<'a>(manifest: &Node<'a>, name: &str) -> Option<&'a str> {
    let metadata = manifest.get("metadata")?;
    let labels = metadata.entries("labels");
    labels.into_iter().find(|(key, _)| *key == name)?.1.value.as_str()
}

fn targets<'a>(policy: &Node<'a>) -> Vec<Node<'a>> {
    let Some(spec) = policy.get("spec") else { return Vec::new() };
    spec.items("target_refs").into_iter().chain(spec.get("target_ref")).collect()
}

/// Whether every rule is about this service account.
fn admits_only(policy: &Node<'_>, account: &str) -> bool {
    let rules = policy.get("spec").map(|spec| spec.items("rules")).unwrap_or_default();
    let sources: Vec<_> = rules
        .iter()
        .flat_map(|rule| rule.items("from"))
        .filter_map(|from| from.get("source"))
        .map(|source| source.texts("principals"))
        .collect();
    !sources.is_empty()
        && rules.iter().all(|rule| !rule.items("from").is_empty())
        && sources.iter().all(|principals| {
            !principals.is_empty() && principals.iter().all(|each| each.ends_with(account))
        })
}
