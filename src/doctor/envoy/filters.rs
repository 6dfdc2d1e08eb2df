//! The HTTP filters of a chain, and what is stripped before them.

use std::collections::BTreeMap;

use super::question::question;
use crate::doctor::Place;
use crate::doctor::model::{Chain, Dialect, Edit, Filter, Mutation, Verifier};
use crate::doctor::node::Node;

/// Reads `http_filters`; those of `discovered` come by ECDS.
pub(super) fn read(
    config: &Node<'_>,
    discovered: &BTreeMap<&str, Node<'_>>,
    chain: &mut Chain,
    unseen: &mut Vec<(Place, String)>,
) {
    let filters = config.items("http_filters");
    for filter in &filters {
        let name = filter.text("name").unwrap_or_default();
        let node = match filter.get("config_discovery") {
            None => filter,
            Some(discovery) => match discovered.get(name) {
                Some(found) => found,
                None => {
                    let what = format!(
                        "the filter `{name}` is configured elsewhere (config_discovery) and was not looked at"
                    );
                    unseen.push((discovery.place, what));
                    continue;
                }
            },
        };
        let Some((kind, config)) = node.typed() else {
            if name == "envoy.filters.http.router" {
                chain.filters.push((filter.place.clone(), Filter::Router));
            }
            continue;
        };
        let read = match kind {
            "ExtAuthz" => {
                let mut asked = question(name, &config);
                asked.unasked.extend(super::question::outside_shadow_rules(&config, &filters));
                asked.is_off = filter.flag("disabled");
                Filter::Asks(Box::new(asked))
            }
            "ExtensionWithMatcher" => {
                let Some(("ExtAuthz", inner)) =
                    config.get("extension_config").and_then(|inner| inner.typed())
                else {
                    continue;
                };
                let mut asked = question(name, &inner);
                asked.unasked.push(super::question::by_matcher(&config));
                Filter::Asks(Box::new(asked))
            }
            _ if filter.flag("disabled") => continue,
            "JwtAuthentication" => Filter::Verifies(verifiers(&config)),
            "HeaderMutation" => Filter::Mutates(mutation(&config)),
            "Router" => Filter::Router,
            "CacheConfig" | "CacheV2Config" => Filter::Answers("may answer from its cache"),
            "Config" if name.contains("aws_lambda") => {
                Filter::Answers("sends the request to a function of its own")
            }
            _ => continue,
        };
        chain.filters.push((filter.place.clone(), read));
    }
}

/// The names that `early_header_mutation_extensions` removes.
pub(in crate::doctor) fn early_strip(config: &Node<'_>) -> Vec<String> {
    let extensions = config.items("early_header_mutation_extensions");
    let mutations = extensions
        .iter()
        .filter_map(Node::typed)
        .flat_map(|(_, mutations)| mutations.items("mutations"));
    removed(mutations)
}

/// What a `HeaderMutation` filter does.
pub(in crate::doctor) fn mutation(config: &Node<'_>) -> Mutation {
    let Some(mutations) = config.get("mutations") else { return Mutation::default() };
    let of_requests = mutations.items("request_mutations");
    let edits = of_requests.iter().filter_map(|mutation| {
        let (name, removes) = match mutation.text("remove") {
            Some(name) => (name, true),
            None => (mutation.at(&["append", "header"])?.text("key")?, false),
        };
        let name = name.to_ascii_lowercase();
        Some(Edit { place: mutation.place.clone(), name, removes })
    });
    Mutation {
        edits: edits.collect(),
        removed: removed(of_requests.iter().cloned()),
        removed_trailers: removed(mutations.items("request_trailers_mutations").into_iter()),
    }
}

fn removed<'a>(mutations: impl Iterator<Item = Node<'a>>) -> Vec<String> {
    mutations.filter_map(|each| each.text("remove").map(str::to_ascii_lowercase)).collect()
}

/// The providers of `jwt_authn`, each with why a request without its token passes.
fn verifiers(config: &Node<'_>) -> Vec<Verifier> {
    let of = |(name, provider): (&str, Node<'_>)| {
        let remote = provider.get("remote_jwks");
        let from_headers = provider.items("from_headers");
        Verifier {
            place: provider.place.clone(),
            dialect: Dialect::Envoy,
            headers: from_headers
                .iter()
                .filter_map(|from| from.text("name"))
                .map(str::to_ascii_lowercase)
                .collect(),
            issuer: provider.text("issuer").filter(|issuer| !issuer.is_empty()).map(str::to_owned),
            audiences: provider.texts("audiences").into_iter().map(str::to_owned).collect(),
            jwks_uri: remote
                .as_ref()
                .and_then(|remote| remote.get("http_uri")?.text("uri").map(str::to_owned)),
            jwks_cache: remote.and_then(|remote| remote.duration("cache_duration")),
            requires_expiry: Some(provider.flag("require_expiration")),
            optional: optional(config, name),
        }
    };
    config.entries("providers").into_iter().map(of).collect()
}

/// Why the rules let a request without a token of `provider` pass; an exact path without a
/// requirement is an exception that somebody meant.
fn optional(config: &Node<'_>, provider: &str) -> Option<String> {
    let named = config.entries("requirement_map");
    let rules = config.items("rules");
    let mut is_required = false;
    for rule in &rules {
        let requirement = rule.get("requires").or_else(|| {
            let name = rule.text("requirement_name")?;
            named.iter().find(|(key, _)| *key == name).map(|(_, node)| node.clone())
        });
        match requirement {
            Some(requirement) if names(&requirement, provider) => {
                if allows_missing(&requirement) {
                    return Some("its rule allows a token to be missing".to_owned());
                }
                is_required = true;
            }
            None if rule.at(&["match"]).and_then(|matched| matched.text("prefix")) == Some("/")
                && !is_required =>
            {
                return Some("the rule for every path requires nothing".to_owned());
            }
            _ => {}
        }
    }
    let by_state = config.get("filter_state_rules").is_some();
    (!is_required && !by_state).then(|| "no rule requires it".to_owned())
}

fn names(requirement: &Node<'_>, provider: &str) -> bool {
    let own = [Some(requirement.clone()), requirement.get("provider_and_audiences")];
    own.iter().flatten().any(|node| node.text("provider_name") == Some(provider))
        || listed(requirement).iter().any(|each| names(each, provider))
}

fn allows_missing(requirement: &Node<'_>) -> bool {
    ["allow_missing", "allow_missing_or_failed"].iter().any(|key| requirement.get(key).is_some())
        || listed(requirement).iter().any(allows_missing)
}

fn listed<'a>(requirement: &Node<'a>) -> Vec<Node<'a>> {
    let lists = ["requires_any", "requires_all"].iter().filter_map(|list| requirement.get(list));
    lists.flat_map(|list| list.items("requirements")).collect()
}
