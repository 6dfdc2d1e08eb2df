//! Envoy's own configuration: a bootstrap, a file of discovered resources, or what `/config_dump` shows.

mod filters;
mod question;
mod routes;

use std::collections::{BTreeMap, BTreeSet};

use super::document::Document;
use super::model::{Chain, Dialect, Front, Model};
use super::node::Node;

pub(super) use filters::{early_strip, mutation};
pub(super) use question::{EVERY_REQUEST, question, timeout};
pub(super) use routes::is_off;

/// What `prometheus_stats` and `agent` are called in the bootstraps of Istio and Envoy Gateway: the
/// proxy's own pages.
const OWN_PAGES: [&str; 2] = ["prometheus_stats", "agent"];

/// The resources that chains are made of.
#[derive(Debug, Default)]
struct Resources<'a> {
    listeners: Vec<Node<'a>>,
    routes: BTreeMap<&'a str, Node<'a>>,
    filters: BTreeMap<&'a str, Node<'a>>,
}

/// Reads the filter chains of all Envoy documents of one file.
pub(super) fn read(documents: &[Document], model: &mut Model) {
    let mut resources = Resources::default();
    for document in documents.iter().filter(|document| document.is_envoy()) {
        resources.collect(&document.root());
    }
    for document in documents.iter().filter(|_| resources.listeners.is_empty()) {
        if let Some(discovery) = document.root().at(&["dynamic_resources", "lds_config"]) {
            let what = "the listeners are configured elsewhere (lds_config) and were not looked at";
            model.unseen.push((discovery.place, what.to_owned()));
        }
    }
    for listener in &resources.listeners {
        let name = listener.text("name").unwrap_or_default();
        let listener = listener.clone().of(&format!("listener `{name}`"));
        let mut chains = listener.items("filter_chains");
        chains.extend(listener.get("default_filter_chain"));
        for chain in chains {
            model.chains.extend(read_chain(&listener, &chain, &resources, &mut model.unseen));
        }
    }
}

impl<'a> Resources<'a> {
    /// Takes what `root` is or holds.
    fn collect(&mut self, root: &Node<'a>) {
        for config in root.items("configs") {
            self.collect_dump(&config);
        }
        if let Some(resources) = root.get("static_resources") {
            self.listeners.extend(resources.items("listeners"));
        }
        for resource in root.items("resources") {
            self.add(&resource);
        }
        if root.get("filter_chains").is_some() {
            self.listeners.push(root.clone());
        }
    }

    /// One part of `/config_dump`; that of the bootstrap repeats what the others have.
    fn collect_dump(&mut self, config: &Node<'a>) {
        for (list, holder, resource) in [
            ("static_listeners", None, "listener"),
            ("dynamic_listeners", Some("active_state"), "listener"),
            ("static_route_configs", None, "route_config"),
            ("dynamic_route_configs", None, "route_config"),
            ("ecds_filters", None, "ecds_filter"),
        ] {
            for item in config.items(list) {
                let held = holder.map_or(Some(item.clone()), |holder| item.get(holder));
                let Some(node) = held.and_then(|held| held.get(resource)) else { continue };
                match resource {
                    "listener" => self.listeners.push(node),
                    _ => self.add(&node),
                }
            }
        }
    }

    fn add(&mut self, resource: &Node<'a>) {
        let name = resource.text("name").unwrap_or_default();
        match resource.typed_value() {
            Some(("Listener", listener)) => self.listeners.push(listener),
            Some(("TypedExtensionConfig", filter)) => {
                self.filters.insert(name, filter);
            }
            _ if resource.get("filter_chains").is_some() => self.listeners.push(resource.clone()),
            _ => {
                self.routes.insert(name, resource.clone());
            }
        }
    }
}

fn read_chain(
    listener: &Node<'_>,
    chain: &Node<'_>,
    resources: &Resources<'_>,
    unseen: &mut Vec<(super::Place, String)>,
) -> Option<Chain> {
    let mut network = chain.items("filters").into_iter();
    let (is_http, config) = network.find_map(|filter| match filter.typed()? {
        ("HttpConnectionManager", config) => Some((true, config)),
        ("TcpProxy", config) => Some((false, config)),
        _ => None,
    })?;
    let mut made = Chain {
        place: config.place.clone(),
        clusters: BTreeSet::new(),
        is_http,
        is_aside: listener.text("traffic_direction") == Some("OUTBOUND"),
        front: Front {
            place: config.place.clone(),
            dialect: Dialect::Envoy,
            stripped: early_strip(&config),
            refuses_underscores: refuses_underscores(&config),
        },
        filters: Vec::new(),
        edits: Vec::new(),
        unasked: Vec::new(),
        scopes: Vec::new(),
        has_trailers: has_trailers(&config),
    };
    if !is_http {
        let asks = |filter: &Node<'_>| matches!(filter.typed(), Some(("ExtAuthz", _)));
        made.is_aside |= chain.items("filters").iter().any(asks);
        made.clusters.extend(routes::clusters(&config));
        return Some(made);
    }
    filters::read(&config, &resources.filters, &mut made, unseen);
    routes::read(&config, &resources.routes, &mut made, unseen);
    made.is_aside |= !made.clusters.is_empty()
        && made.clusters.iter().all(|cluster| OWN_PAGES.contains(&cluster.as_str()));
    Some(made)
}

pub(super) fn refuses_underscores(config: &Node<'_>) -> bool {
    let action = config
        .get("common_http_protocol_options")
        .and_then(|options| options.get("headers_with_underscores_action"));
    action.is_some_and(|action| {
        matches!(action.value.as_str(), Some("REJECT_REQUEST" | "DROP_HEADER"))
            || matches!(action.value.as_u64(), Some(1 | 2))
    })
}

fn has_trailers(config: &Node<'_>) -> bool {
    let is_http1 = config.text("codec_type") == Some("HTTP1");
    let options = config.get("http_protocol_options");
    !is_http1 || options.is_some_and(|options| options.flag("enable_trailers"))
}
