//! What matters of all documents, whoever wrote them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Place;
use super::patterns::{MutationRules, Patterns};

/// All that was read.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) chains: Vec<Chain>,
    /// How Placet is asked, of manifests; a chain has its own.
    pub(super) questions: Vec<Question>,
    /// About which requests, of manifests.
    pub(super) guards: Vec<Guard>,
    /// Proxies that manifests tell about, with what they take off every request.
    pub(super) fronts: Vec<Front>,
    /// Who verifies, of manifests.
    pub(super) verifiers: Vec<Verifier>,
    /// What routes of manifests do to headers.
    pub(super) edits: Vec<Edit>,
    /// Requests that nobody asks about, as manifests have it.
    pub(super) unasked: Vec<Unasked>,
    /// What these documents leave open.
    pub(super) unseen: Vec<(Place, String)>,
    /// What a reader judged where it read.
    pub(super) faults: Vec<Fault>,
}

/// Whose words a setting is written in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dialect {
    Envoy,
    Istio,
    EnvoyGateway,
}

/// The filters of one listener's filter chain, in the order in which a request meets them.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) place: Place,
    /// Where it sends what it lets through.
    pub(super) clusters: BTreeSet<String>,
    /// Whether it reads HTTP; else it passes bytes on.
    pub(super) is_http: bool,
    /// Whether the listener is the outgoing side of a mesh, or serves the proxy's own pages.
    pub(super) is_aside: bool,
    pub(super) front: Front,
    pub(super) filters: Vec<(Place, Filter)>,
    /// What its routes do to headers.
    pub(super) edits: Vec<Edit>,
    /// Routes that ask nobody.
    pub(super) unasked: Vec<Unasked>,
    /// The scopes that routes name, where.
    pub(super) scopes: Vec<(Place, String)>,
    /// Whether trailers of a client can travel on (HTTP/2, or HTTP/1 with trailers on).
    pub(super) has_trailers: bool,
}

/// An HTTP filter, as far as it matters.
#[derive(Debug)]
pub(super) enum Filter {
    Asks(Box<Question>),
    Verifies(Vec<Verifier>),
    Mutates(Mutation),
    Router,
    /// Answers itself, or sends the request elsewhere: what this is.
    Answers(&'static str),
}

/// What a `header_mutation` filter does to requests.
#[derive(Debug, Default)]
pub(super) struct Mutation {
    pub(super) edits: Vec<Edit>,
    pub(super) removed: Vec<String>,
    pub(super) removed_trailers: Vec<String>,
}

/// What a proxy takes off every request before anything else happens to it.
#[derive(Clone, Debug)]
pub(super) struct Front {
    pub(super) place: Place,
    pub(super) dialect: Dialect,
    /// Header names, in lower case.
    pub(super) stripped: Vec<String>,
    /// Whether names with `_` are refused or dropped.
    pub(super) refuses_underscores: bool,
}

/// A change that a route makes to a request header, after Placet has answered.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) place: Place,
    pub(super) name: String,
    /// Whether it takes the header away; else it writes it.
    pub(super) removes: bool,
}

/// Requests that pass without being asked about.
#[derive(Clone, Debug)]
pub(super) struct Unasked {
    pub(super) place: Place,
    pub(super) code: &'static str,
    pub(super) what: String,
    pub(super) remedy: String,
}

/// How Placet is asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) place: Place,
    pub(super) dialect: Dialect,
    /// The filter's or the provider's name.
    pub(super) name: String,
    /// The cluster or service that is asked.
    pub(super) target: String,
    /// The `:authority` of the call, where it is what the configuration says or the cluster's name.
    pub(super) authority: Option<String>,
    pub(super) is_http: bool,
    pub(super) fail_open: bool,
    pub(super) timeout: Timeout,
    /// The status while nobody answers; `None`: the proxy's own 403.
    pub(super) status_on_error: Option<u64>,
    /// `None` where there is no such setting.
    pub(super) raw_headers: Option<bool>,
    pub(super) body: Option<Body>,
    pub(super) clears_route_cache: bool,
    /// The headers that are shown; `None`: all.
    pub(super) shown: Option<Patterns>,
    pub(super) mutation_rules: Option<MutationRules>,
    /// Over HTTP, which headers of the answer travel on in place of the client's, and beside them.
    pub(super) forwarded: Patterns,
    pub(super) appended: Patterns,
    /// Requests that this question is not asked about although its filter runs.
    pub(super) unasked: Vec<Unasked>,
    /// Whether routes must switch it on.
    pub(super) is_off: bool,
}

/// How long the proxy waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timeout {
    Is(Duration),
    /// It is not set; the proxy takes this.
    Default(Duration),
    /// What is written is no duration.
    Unreadable,
}

/// How much of the body is shown.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) place: Place,
    pub(super) max_bytes: u64,
    pub(super) allows_partial: bool,
    /// `None` where there is no such setting.
    pub(super) as_bytes: Option<bool>,
}

/// A manifest that says which requests a provider is asked about.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) place: Place,
    pub(super) provider: String,
    /// Whether every request of what it is attached to matches.
    pub(super) covers_all: bool,
    /// Whether it is attached to a waypoint, which knows no EnvoyFilter.
    pub(super) is_of_waypoint: bool,
}

/// Who verifies decision tokens, or may be meant to.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    pub(super) place: Place,
    pub(super) dialect: Dialect,
    /// The headers that it reads tokens from.
    pub(super) headers: Vec<String>,
    pub(super) issuer: Option<String>,
    pub(super) audiences: Vec<String>,
    /// Where its keys come from.
    pub(super) jwks_uri: Option<String>,
    pub(super) jwks_cache: Option<Duration>,
    /// Whether a token must expire; `None` where there is no such setting.
    pub(super) requires_expiry: Option<bool>,
    /// Why a request without a token passes it.
    pub(super) optional: Option<String>,
}

/// A finding that a reader made.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) place: Place,
    pub(super) code: &'static str,
    pub(super) severity: super::Severity,
    pub(super) what: String,
    pub(super) remedy: String,
}

impl Chain {
    /// How Placet is asked in this chain; a chain may have more than one such filter.
    pub(super) fn questions(&self) -> impl Iterator<Item = &Question> {
        self.filters.iter().filter_map(|(_, filter)| match filter {
            Filter::Asks(question) => Some(&**question),
            _ => None,
        })
    }

    pub(super) fn verifiers(&self) -> impl Iterator<Item = &Verifier> {
        self.filters.iter().flat_map(|(_, filter)| match filter {
            Filter::Verifies(verifiers) => verifiers.as_slice(),
            _ => &[],
        })
    }

    /// Where in the chain the question is asked first.
    pub(super) fn position(&self) -> Option<usize> {
        self.filters.iter().position(|(_, filter)| matches!(filter, Filter::Asks(_)))
    }
}

impl Model {
    /// A proxy may ask others too. Where something that is asked has `placet` in its name, only such
    /// are looked at; else all.
    pub(super) fn keep_placets(&mut self) {
        let of_chains = self.chains.iter().flat_map(Chain::questions);
        if !of_chains.chain(&self.questions).any(Question::is_placets) {
            return;
        }
        for chain in &mut self.chains {
            chain.filters.retain(|(_, filter)| match filter {
                Filter::Asks(question) => question.is_placets(),
                _ => true,
            });
        }
        let others: Vec<_> =
            self.questions.extract_if(.., |question| !question.is_placets()).collect();
        self.guards.retain(|guard| others.iter().all(|other| other.name != guard.provider));
    }
}

impl Question {
    fn is_placets(&self) -> bool {
        [&self.name, &self.target].iter().any(|name| name.to_ascii_lowercase().contains("placet"))
    }
}
