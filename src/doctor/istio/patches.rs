//! EnvoyFilters: pieces of Envoy's configuration, put into what Istio renders.

use std::collections::BTreeMap;

use super::super::document::identity;
use super::super::envoy;
use super::super::model::{Dialect, Fault, Front, Model, Unasked};
use super::super::node::Node;
use super::super::{Place, Severity};

/// What the workloads of a Gateway are labelled with.
pub(super) const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// What all EnvoyFilters strip, and for which workloads.
#[derive(Debug, Default)]
pub(super) struct Patches(Vec<Patch>);

#[derive(Debug)]
struct Patch {
    namespace: String,
    labels: BTreeMap<String, String>,
    stripped: Vec<String>,
    refuses_underscores: bool,
    /// Where it puts a filter that asks.
    asks: Option<Place>,
}

impl Patches {
    pub(super) fn read<'a>(filters: impl Iterator<Item = Node<'a>>, model: &mut Model) -> Self {
        let mut patches = Vec::new();
        for filter in filters {
            let Some(spec) = filter.get("spec") else { continue };
            let mut patch = Patch {
                namespace: identity(&filter).1.to_owned(),
                labels: workloads(&filter, &["workload_selector", "labels"]),
                stripped: Vec::new(),
                refuses_underscores: false,
                asks: None,
            };
            for each in spec.items("config_patches") {
                patch.read(&each, model);
            }
            patches.push(patch);
        }
        let all = Self(patches);
        for patch in &all.0 {
            let front = |place: &Place| all.front(place.clone(), &patch.namespace, &patch.labels);
            model.fronts.extend(patch.asks.as_ref().map(front));
        }
        all
    }

    /// What is stripped in front of the workloads of this namespace that have these labels.
    pub(super) fn front(
        &self,
        place: Place,
        namespace: &str,
        selected: &BTreeMap<String, String>,
    ) -> Front {
        let mut front = Front {
            place,
            dialect: Dialect::Istio,
            stripped: Vec::new(),
            refuses_underscores: false,
        };
        for patch in &self.0 {
            let is_near = [namespace, "istio-system"].contains(&patch.namespace.as_str());
            if is_near && patch.labels.iter().all(|(key, value)| selected.get(key) == Some(value)) {
                front.stripped.extend(patch.stripped.iter().cloned());
                front.refuses_underscores |= patch.refuses_underscores;
            }
        }
        front
    }
}

/// The labels that a manifest selects workloads by; a gateway that it targets counts as the label
/// that its workloads have.
pub(super) fn workloads(manifest: &Node<'_>, selector: &[&str]) -> BTreeMap<String, String> {
    let Some(spec) = manifest.get("spec") else { return BTreeMap::new() };
    let map = spec.at(selector);
    let members = map.iter().filter_map(|map| map.value.as_object()).flatten();
    let mut labels: BTreeMap<_, _> = members
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    for target in spec.items("target_refs").into_iter().chain(spec.get("target_ref")) {
        if let (Some("Gateway"), Some(name)) = (target.text("kind"), target.text("name")) {
            labels.insert(GATEWAY_LABEL.to_owned(), name.to_owned());
        }
    }
    labels
}

impl Patch {
    fn read(&mut self, each: &Node<'_>, model: &mut Model) {
        let Some(patch) = each.get("patch") else { return };
        let Some(value) = patch.get("value") else { return };
        let operation = patch.text("operation").unwrap_or_default();
        match each.text("apply_to") {
            Some("NETWORK_FILTER") => {
                if let Some(("HttpConnectionManager", config)) = value.typed() {
                    self.stripped.extend(envoy::early_strip(&config));
                    self.refuses_underscores |= envoy::refuses_underscores(&config);
                }
            }
            Some("HTTP_FILTER") => self.read_filter(&value, operation, each, model),
            Some("HTTP_ROUTE" | "VIRTUAL_HOST" | "ROUTE_CONFIGURATION") => {
                read_route(&value, model)
            }
            _ => {}
        }
    }

    fn read_filter(
        &mut self,
        value: &Node<'_>,
        operation: &str,
        each: &Node<'_>,
        model: &mut Model,
    ) {
        match value.typed() {
            Some(("HeaderMutation", config)) => {
                let mutation = envoy::mutation(&config);
                if operation == "INSERT_FIRST" {
                    self.stripped.extend(mutation.removed);
                } else if stands_before_the_router(each) && operation == "INSERT_BEFORE" {
                    model.edits.extend(mutation.edits);
                }
            }
            Some(("ExtAuthz", config)) => self.read_ext_authz(value, &config, operation, model),
            _ => {}
        }
    }
}

impl Patch {
    /// A filter of its own, or a change of the one that Istio renders.
    fn read_ext_authz(
        &mut self,
        value: &Node<'_>,
        config: &Node<'_>,
        operation: &str,
        model: &mut Model,
    ) {
        if operation != "MERGE" {
            let name = value.text("name").unwrap_or_default();
            model.questions.push(envoy::question(name, config));
            self.asks = Some(config.place.clone());
            return;
        }
        if config.flag("failure_mode_allow") {
            model.faults.push(Fault {
                place: config.place.below("failure_mode_allow"),
                code: "fail_open",
                severity: Severity::Error,
                what:
                    "while Placet does not answer, every request passes without being asked about"
                        .to_owned(),
                remedy: "failure_mode_allow: false".to_owned(),
            });
        }
    }
}

fn stands_before_the_router(each: &Node<'_>) -> bool {
    let filter = each.at(&["match", "listener", "filter_chain", "filter", "sub_filter"]);
    filter.and_then(|filter| filter.text("name")) == Some("envoy.filters.http.router")
}

fn read_route(value: &Node<'_>, model: &mut Model) {
    for (name, setting) in value.entries("typed_per_filter_config") {
        if name.contains("ext_authz") && envoy::is_off(&setting) {
            model.unasked.push(Unasked {
                place: setting.place,
                code: "route_unasked",
                what: "requests of these routes pass without being asked about".to_owned(),
                remedy: "take this patch out, and let a route of Placet be the exception (`bypass: true`): it strips the header".to_owned(),
            });
        }
    }
}
