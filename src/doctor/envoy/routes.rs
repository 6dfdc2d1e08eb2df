//! The routes of a chain: where requests go, which of them ask nobody, and what is done to headers.

use std::collections::BTreeMap;

use crate::doctor::Place;
use crate::doctor::model::{Chain, Edit, Unasked};
use crate::doctor::node::Node;

/// Reads the routes, inline or those of `discovered`, which came by RDS.
pub(super) fn read(
    config: &Node<'_>,
    discovered: &BTreeMap<&str, Node<'_>>,
    chain: &mut Chain,
    unseen: &mut Vec<(Place, String)>,
) {
    let by_name = config.get("rds").and_then(|rds| {
        let name = rds.text("route_config_name")?;
        Some((rds.place.clone(), name, discovered.get(name).cloned()))
    });
    let routes = match (config.get("route_config"), by_name) {
        (Some(routes), _) | (None, Some((_, _, Some(routes)))) => routes,
        (None, Some((place, name, None))) => {
            let what = format!(
                "the routes `{name}` are configured elsewhere (rds) and were not looked at"
            );
            unseen.push((place, what));
            return;
        }
        (None, None) => {
            if let Some(scoped) = config.get("scoped_routes") {
                unseen.push((scoped.place, "scoped routes were not looked at".to_owned()));
            }
            return;
        }
    };
    let filters = asking_filters(chain);
    let mut walk = Walk { chain, unseen, filters };
    let off = walk.enter(&routes, &walk.defaults());
    for host in routes.items("virtual_hosts") {
        let off = walk.enter(&host, &off);
        if let Some(matcher) = host.get("matcher") {
            walk.unseen.push((
                matcher.place,
                "a tree of matchers chooses routes and was not looked at".to_owned(),
            ));
        }
        for route in host.items("routes") {
            walk.route(&route, &off);
        }
    }
}

/// The names of the filters that ask, and whether they are off until a route switches them on.
fn asking_filters(chain: &Chain) -> Vec<(String, bool, Place)> {
    chain.questions().map(|asked| (asked.name.clone(), asked.is_off, asked.place.clone())).collect()
}

/// For each asking filter, where it was switched off, if it was.
type Off = Vec<Option<Place>>;

struct Walk<'c> {
    chain: &'c mut Chain,
    unseen: &'c mut Vec<(Place, String)>,
    filters: Vec<(String, bool, Place)>,
}

impl Walk<'_> {
    fn defaults(&self) -> Off {
        self.filters.iter().map(|(_, is_off, place)| is_off.then(|| place.clone())).collect()
    }

    /// Notes what `node` (all routes, a host, a route, a weighted cluster) does to headers, and what of
    /// `off` changes below it.
    fn enter(&mut self, node: &Node<'_>, off: &Off) -> Off {
        self.edits(node);
        let settings = node.entries("typed_per_filter_config");
        let mut inner = off.clone();
        for ((name, _, _), off) in self.filters.iter().zip(&mut inner) {
            let Some((_, setting)) = settings.iter().find(|(key, _)| key == name) else { continue };
            *off = is_off(setting).then(|| setting.place.clone());
            let named = scope_of(setting);
            self.chain.scopes.extend(named);
        }
        inner
    }

    fn route(&mut self, route: &Node<'_>, off: &Off) {
        let off = self.enter(route, off);
        let Some(action) = route.get("route") else { return };
        self.chain.clusters.extend(clusters(&action));
        let weighted = action.get("weighted_clusters").map(|all| all.items("clusters"));
        for cluster in weighted.unwrap_or_default() {
            let off = self.enter(&cluster, &off);
            self.note_unasked(&cluster, &off);
        }
        self.note_unasked(route, &off);
    }

    /// Where every asking filter is off, nobody is asked.
    fn note_unasked(&mut self, route: &Node<'_>, off: &Off) {
        let Some(Some(place)) = off.first().filter(|_| off.iter().all(Option::is_some)) else {
            return;
        };
        let is_default = self.filters.iter().any(|(_, _, of_filter)| of_filter == place);
        let (place, remedy) = if is_default {
            (
                route.place.clone(),
                "switch the filter on for this route (`typed_per_filter_config`), or take `disabled: true` off the filter; in Envoy Gateway, target the Gateway with the SecurityPolicy instead of single routes",
            )
        } else {
            (
                place.clone(),
                "take this out, and let a route of Placet be the exception (`bypass: true`): it strips the header",
            )
        };
        if self.chain.unasked.iter().any(|known| known.place == place) {
            return;
        }
        self.chain.unasked.push(Unasked {
            place,
            code: "route_unasked",
            what: "requests of this route pass without being asked about".to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    fn edits(&mut self, node: &Node<'_>) {
        let removed = node.items("request_headers_to_remove");
        let removed = removed
            .iter()
            .filter_map(|item| Some((item.place.clone(), item.value.as_str()?, true)));
        let added = node.items("request_headers_to_add");
        let added = added
            .iter()
            .filter_map(|item| Some((item.place.clone(), item.get("header")?.text("key")?, false)));
        let edit = |(place, name, removes): (Place, &str, bool)| Edit {
            place,
            name: name.to_ascii_lowercase(),
            removes,
        };
        self.chain.edits.extend(removed.chain(added).map(edit));
    }
}

/// The clusters of a route action or of a TCP proxy.
pub(super) fn clusters(action: &Node<'_>) -> Vec<String> {
    let weighted = action.get("weighted_clusters").map(|all| all.items("clusters"));
    let weighted = weighted.unwrap_or_default();
    let names = weighted.iter().filter_map(|cluster| cluster.text("name"));
    action.text("cluster").into_iter().chain(names).map(str::to_owned).collect()
}

/// Whether a route's settings of a filter switch it off: `ExtAuthzPerRoute`, or a `FilterConfig` that
/// may hold one.
pub(in crate::doctor) fn is_off(setting: &Node<'_>) -> bool {
    setting.flag("disabled") || setting.get("config").is_some_and(|inner| inner.flag("disabled"))
}

/// The scope that a route names (`check_settings`).
fn scope_of(setting: &Node<'_>) -> Option<(Place, String)> {
    let settings =
        setting.get("check_settings").or_else(|| setting.at(&["config", "check_settings"]))?;
    let extensions = settings.entries("context_extensions");
    let (_, scope) =
        extensions.into_iter().find(|(key, _)| *key == crate::scope::SCOPE_EXTENSION)?;
    Some((scope.place.clone(), scope.value.as_str()?.to_owned()))
}
