//! Which header names a configuration means: Envoy's string matchers and header mutation rules.

use regex::Regex;

use super::node::Node;

/// A `ListStringMatcher`, or a plain list of names.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns(Vec<Pattern>);

#[derive(Clone, Debug)]
enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
}

impl Patterns {
    /// Of a `ListStringMatcher`; what can't be read matches nothing.
    pub(super) fn of(list: &Node<'_>) -> Self {
        Self(list.items("patterns").iter().filter_map(pattern).collect())
    }

    /// Of a list of names, in which a `*` at an end stands for anything, as Istio has it.
    pub(super) fn of_names(names: &[&str]) -> Self {
        let pattern = |name: &&str| {
            let name = name.to_ascii_lowercase();
            match (name.strip_prefix('*'), name.strip_suffix('*')) {
                (Some(suffix), _) => Pattern::Suffix(suffix.to_owned()),
                (None, Some(prefix)) => Pattern::Prefix(prefix.to_owned()),
                (None, None) => Pattern::Exact(name),
            }
        };
        Self(names.iter().map(pattern).collect())
    }

    /// Whether one of them means `name`, which is in lower case.
    pub(super) fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Exact(text) => name == text,
            Pattern::Prefix(text) => name.starts_with(text.as_str()),
            Pattern::Suffix(text) => name.ends_with(text.as_str()),
            Pattern::Contains(text) => name.contains(text.as_str()),
            Pattern::Regex(regex) => regex.is_match(name),
        })
    }
}

fn pattern(matcher: &Node<'_>) -> Option<Pattern> {
    let lower = |name| matcher.text(name).map(str::to_ascii_lowercase);
    if let Some(text) = lower("exact") {
        return Some(Pattern::Exact(text));
    }
    if let Some(text) = lower("prefix") {
        return Some(Pattern::Prefix(text));
    }
    if let Some(text) = lower("suffix") {
        return Some(Pattern::Suffix(text));
    }
    if let Some(text) = lower("contains") {
        return Some(Pattern::Contains(text));
    }
    Some(Pattern::Regex(whole(matcher.get("safe_regex")?.text("regex")?)?))
}

/// Envoy's regular expressions match whole values.
fn whole(regex: &str) -> Option<Regex> {
    Regex::new(&format!("^(?:{regex})$")).ok()
}

/// `decoder_header_mutation_rules` (envoy.config.common.mutation_rules.v3): which headers the answer
/// of ext_authz may set and remove. A change that is not allowed is left out without a word.
#[derive(Clone, Debug)]
pub(super) struct MutationRules {
    refuses_all: bool,
    refused: Option<Regex>,
    allowed: Option<Regex>,
}

impl MutationRules {
    pub(super) fn of(rules: &Node<'_>) -> Self {
        let regex = |name| whole(rules.get(name)?.text("regex")?);
        Self {
            refuses_all: rules.flag("disallow_all"),
            refused: regex("disallow_expression"),
            allowed: regex("allow_expression"),
        }
    }

    /// Whether a change of the header `name` is made.
    pub(super) fn allow(&self, name: &str) -> bool {
        let is = |regex: &Option<Regex>| regex.as_ref().is_some_and(|regex| regex.is_match(name));
        !is(&self.refused) && (!self.refuses_all || is(&self.allowed))
    }
}
