//! A scope: one protected application, compiled; and choosing the one a request is for.
//!
//! The choice never falls through: a client ID that Envoy's route names and we don't know is a
//! denial, and so is a host of no scope where there is no default. What was chosen is one immutable
//! value, so a reload in the middle of a request changes nothing for it.

mod caller;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

pub use caller::{Api, BadPublicUrl, CallerError, CallerSecrets, Presented, PublicUrl};

use crate::authorizer::{Authorizer, Decision, Denial, DryRun, Reason};
use crate::clock::Timestamp;
use crate::request::Request;
use crate::reuse::Reuse;
use crate::shadow::Shadow;
use crate::tls::UriSan;
use crate::token::Channel;

/// The key of Envoy's `context_extensions` that names a scope.
pub const SCOPE_EXTENSION: &str = "placet.scope";

/// Everything compiled for one client ID.
#[derive(Debug)]
pub struct Scope {
    /// The client ID.
    pub client_id: String,
    /// Decides.
    pub authorizer: Authorizer,
    /// The header that carries the token.
    pub header: DecisionHeader,
    /// Request headers that must not travel upstream, in lower case.
    pub remove_headers: Vec<String>,
    /// What a refused client sees.
    pub deny: DenyResponse,
    /// How long verifiers may keep its JWKS.
    pub jwks_max_age: Duration,
    /// What it answers beside its proxy's checks; `None`: nothing.
    pub api: Option<Api>,
    /// Set while its denials pass.
    pub dry_run: Option<DryRun>,
    /// What an answer tells beside itself.
    pub explain: Explain,
    /// The policies that are only compared.
    pub shadow: Option<Shadow>,
    /// Tells requests that are decided the same; `None`: every one is decided.
    pub reuse: Option<Reuse>,
}

/// What an answer tells of its decision beside itself; by default nothing.
#[derive(Clone, Debug, Default)]
pub struct Explain {
    /// The header of the response to the client that has the decision's id and reason.
    pub header: Option<DecisionHeader>,
    /// Whether the proxy's dynamic metadata has id, reason, revision and determining policies.
    pub metadata: bool,
}

impl Scope {
    /// What is answered where `decision` was made: in a dry run, a denial passes.
    pub fn enforced(&self, decision: Decision) -> Decision {
        match self.dry_run {
            Some(dry_run) => decision.waived(dry_run),
            None => decision,
        }
    }
}

/// The header that carries the token upstream.
#[derive(Clone, Debug)]
pub struct DecisionHeader {
    name: String,
    /// Written before the token.
    pub prefix: String,
    twins: Vec<String>,
}

/// More separators would make too many spellings to remove.
const MAX_SEPARATORS: usize = 4;

impl DecisionHeader {
    /// Checks `name` (folded to lower case) and lists its other spellings.
    pub fn new(name: &str, prefix: &str) -> Result<Self, HeaderNameError> {
        let name = name.to_ascii_lowercase();
        if http::HeaderName::try_from(&name).is_err() || is_reserved(&name) {
            return Err(HeaderNameError::Unusable(name));
        }
        let separators = name.matches(['-', '_']).count();
        if separators > MAX_SEPARATORS {
            return Err(HeaderNameError::TooManySeparators(name));
        }
        let twins = (0..1_u32 << separators)
            .map(|choice| respell(&name, choice))
            .filter(|twin| *twin != name)
            .collect();
        Ok(Self { name, prefix: prefix.to_owned(), twins })
    }

    /// The name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every other spelling in which a `-` is a `_` or the reverse: applications that fold the two
    /// could read such a header as ours.
    pub fn twins(&self) -> &[String] {
        &self.twins
    }

    /// Whether `name` is this header in any spelling.
    pub fn is_spelled(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        name == self.name || self.twins.contains(&name)
    }
}

/// Why a header can't carry the token.
#[derive(Debug, thiserror::Error)]
pub enum HeaderNameError {
    /// No header name, or one that HTTP or Envoy gives a meaning.
    #[error("`{0}` can't carry the token: use a header name of your own such as x-placet-decision")]
    Unusable(String),
    /// Too many `-` and `_`.
    #[error(
        "`{0}` has more than {MAX_SEPARATORS} `-` or `_`, too many spellings to protect: use a shorter name"
    )]
    TooManySeparators(String),
}

/// What a refused client sees. It is the same for every cause.
#[derive(Clone, Debug)]
pub struct DenyResponse {
    /// The status in place of 403.
    pub status: u16,
    /// Added to every denial.
    pub headers: Vec<(String, String)>,
    /// The body in place of the 403 one.
    pub body: Option<String>,
}

impl Default for DenyResponse {
    fn default() -> Self {
        Self { status: 403, headers: Vec::new(), body: None }
    }
}

/// Every scope, and which requests are whose.
#[derive(Debug, Default)]
pub struct Scopes {
    by_client_id: By<String>,
    by_workload: By<UriSan>,
    by_host: By<String>,
    /// By the suffix, with its leading dot.
    by_suffix: By<String>,
    default: Option<Arc<Scope>>,
}

/// What is in them are the settings' own words, so nobody else can have them collide.
type By<K> = HashMap<K, Arc<Scope>, RandomState>;

/// A scope with what selects it.
#[derive(Debug)]
pub struct Selectable {
    /// The scope.
    pub scope: Arc<Scope>,
    /// Host names, or `*.` and a name; in lower case. The config room has checked them.
    pub hosts: Vec<String>,
    /// Whether it takes what no other does.
    pub default: bool,
}

impl Scopes {
    /// All scopes; a single one is the default.
    pub fn new(scopes: Vec<Selectable>) -> Self {
        let is_only = scopes.len() == 1;
        Self::with(scopes, is_only)
    }

    /// Scopes of which others are missing: none is the default unless it is said to be.
    pub fn without_others(scopes: Vec<Selectable>) -> Self {
        Self::with(scopes, false)
    }

    fn with(scopes: Vec<Selectable>, is_only: bool) -> Self {
        let mut all = Self::default();
        for Selectable { scope, hosts, default } in scopes {
            all.by_client_id.insert(scope.client_id.clone(), Arc::clone(&scope));
            for workload in scope.api.iter().flat_map(|api| &api.workloads) {
                all.by_workload.insert(workload.clone(), Arc::clone(&scope));
            }
            for host in hosts {
                match host.strip_prefix('*') {
                    Some(suffix) => all.by_suffix.insert(suffix.to_owned(), Arc::clone(&scope)),
                    None => all.by_host.insert(host, Arc::clone(&scope)),
                };
            }
            if default || is_only {
                all.default = Some(scope);
            }
        }
        all
    }

    /// Every scope, by client ID.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Scope>> {
        self.by_client_id.values()
    }

    /// The scope with this client ID.
    pub fn with_client_id(&self, client_id: &str) -> Option<&Arc<Scope>> {
        self.by_client_id.get(client_id)
    }

    /// The scope that the caller with this SPIFFE ID may ask.
    fn with_workload(&self, workload: &UriSan) -> Option<&Arc<Scope>> {
        self.by_workload.get(workload)
    }

    /// The scope that `request` is for: the one Envoy's route names, else the host's, else the
    /// default.
    pub fn select(&self, request: &Request) -> Result<&Arc<Scope>, Denial> {
        self.choose(request).map(|(scope, _)| scope)
    }

    /// [`Self::select`], and by what it was chosen.
    pub fn choose(&self, request: &Request) -> Result<(&Arc<Scope>, Choice), Denial> {
        let named = request.extensions.get(SCOPE_EXTENSION).map(String::as_str);
        self.choose_by(named, request.host.name())
    }

    /// [`Self::choose`], by what Envoy's route names and by the name of the host.
    pub fn choose_by(
        &self,
        named: Option<&str>,
        host: &str,
    ) -> Result<(&Arc<Scope>, Choice), Denial> {
        if let Some(client_id) = named {
            let named = self.by_client_id.get(client_id).map(|scope| (scope, Choice::Named));
            return named.ok_or_else(|| {
                let shown = client_id.escape_debug();
                let detail = format!("`{SCOPE_EXTENSION}` names the unknown scope `{shown}`");
                Denial::new(Reason::NoScope, detail)
            });
        }
        let listed = self.by_host.get(host).or_else(|| self.with_suffix_of(host));
        let default = self.default.as_ref().map(|scope| (scope, Choice::Default));
        listed
            .map(|scope| (scope, Choice::Host))
            .or(default)
            .ok_or_else(|| Denial::new(Reason::NoScope, format!("no scope has the host `{host}`")))
    }

    /// The scope of the longest suffix.
    fn with_suffix_of(&self, host: &str) -> Option<&Arc<Scope>> {
        let suffixes = host.match_indices('.').filter_map(|(dot, _)| host.get(dot..));
        suffixes
            .filter(|suffix| suffix.len() < host.len())
            .find_map(|suffix| self.by_suffix.get(suffix))
    }

    /// Selects and decides: what every edge asks.
    pub async fn decide(
        &self,
        request: &Request,
        channel: Channel,
        now: Timestamp,
    ) -> (Option<Arc<Scope>>, Decision) {
        match self.select(request) {
            Ok(scope) => {
                let decision = scope.authorizer.authorize(request, channel, now).await;
                (Some(Arc::clone(scope)), decision)
            }
            Err(denial) => (None, Decision::denied(denial)),
        }
    }
}

/// By what a scope was chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// By its client ID, which Envoy's route names.
    Named,
    /// By one of its hosts.
    Host,
    /// It takes what no other does.
    Default,
}

/// Headers that carry the request itself, or that Envoy acts on.
fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "connection"
            | "content-length"
            | "content-type"
            | "cookie"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "expect"
    ) || name.starts_with("x-envoy-")
}

/// `name` with its n-th separator spelled `_` where bit n of `choice` is set, else `-`.
fn respell(name: &str, choice: u32) -> String {
    let mut bit = 0;
    name.chars()
        .map(|character| match character {
            '-' | '_' => {
                let spelled = if choice >> bit & 1 == 1 { '_' } else { '-' };
                bit += 1;
                spelled
            }
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests;
