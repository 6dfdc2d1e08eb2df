//! The keys of all sidecars at one address, for verifiers outside their pods.
//!
//! - `GET /scopes/{clientId}/jwks.json`: what a verifier of one application should use.
//! - `GET /namespaces/{namespace}/scopes/{clientId}/jwks.json`: the same, where two namespaces have one client ID.
//! - `GET /.well-known/jwks.json`: the keys of every scope.
//!
//! A key is published while a sidecar says it has it, and after its sidecar went until no token by it can be valid
//! any more. A verifier keeps what it got, so until [`GRACE`] has passed since the start, in which sidecars come
//! back, nothing is answered but 503: half a set would be worse. A client ID belongs to the first namespace that
//! had keys for it; where two had them when the grace was over it is nobody's, since one of them may pose as the
//! other. One `kid` is one key: of two scopes with the same, the second is left out of the set of all.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State as Extracted};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::api::jwks::{answer, unavailable};
use crate::keys::Algorithm;
use crate::proto::control::KeySet;

/// How long sidecars may take to come back.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// A key outlives its sidecar by the life of a token, and this much for clocks that differ.
const SLACK: Duration = Duration::from_secs(300);

/// The longest life of a token.
const LONGEST_TOKEN: u64 = 86_400;

/// How long verifiers may keep a set at most, in seconds.
const MAX_AGE: u64 = 300;

/// Keys that one sidecar has for one scope, and that a scope has in all.
const MAX_REPORTED: usize = 32;
const MAX_KEYS: usize = 4096;

/// What is published of a key: its public members (RFC 7518 section 6), what it is for, and its certificate.
const MEMBERS: [&str; 11] =
    ["kty", "crv", "x", "y", "n", "e", "kid", "use", "alg", "x5c", "x5t#S256"];

/// Of these, the members that make it this key and no other.
const IDENTITY: [&str; 6] = ["kty", "crv", "x", "y", "n", "e"];

/// What only private and symmetric keys have.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Keys by who has them.
#[derive(Debug)]
pub(super) struct Union {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By client ID, and namespace.
    scopes: BTreeMap<String, BTreeMap<String, Keys>>,
    /// Whose a client ID is.
    owners: BTreeMap<String, String>,
    /// Counts keys, in the order they came.
    count: u64,
    /// What was told of, so that it is told of once.
    told: HashSet<String>,
}

/// The keys of one scope of one namespace.
#[derive(Debug, Default)]
struct Keys {
    keys: BTreeMap<String, Key>,
    /// The sidecars that have said something of the scope, and how long their tokens live.
    sidecars: BTreeMap<u64, Duration>,
    max_age: u64,
}

#[derive(Debug)]
struct Key {
    /// Tells it from others.
    name: String,
    jwk: Map<String, Value>,
    kid: String,
    /// The sidecars that have it, with its place in their sets: the first one signs.
    holders: BTreeMap<u64, usize>,
    /// When the last one was gone, until when it is kept.
    until: Option<Instant>,
    came: u64,
}

/// Why keys are not published.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// The namespace has no such scope.
    NoScope(String),
    /// Another namespace has that client ID.
    Taken { client_id: String, namespace: String },
    /// It is no public signing key.
    BadKey { client_id: String, problem: &'static str },
    /// There are too many.
    TooMany(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoScope(client_id) => {
                write!(f, "`{}` is no scope of its namespace", client_id.escape_debug())
            }
            Self::Taken { client_id, namespace } => write!(
                f,
                "`{client_id}` is a scope of the namespace `{namespace}` already: rename one; until then verifiers find these at /namespaces/…"
            ),
            Self::BadKey { client_id, problem } => write!(f, "a key of `{client_id}` {problem}"),
            Self::TooMany(client_id) => write!(f, "`{client_id}` has too many keys"),
        }
    }
}

/// A set to be served.
#[derive(Debug, PartialEq)]
struct Set {
    keys: Vec<Map<String, Value>>,
    max_age: u64,
}

impl Union {
    /// No keys; sidecars come back from `now` on.
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what the sidecar `id` has by `sets`, as far as `client_ids` has their scopes. What is refused of them
    /// is returned, once.
    pub(super) fn report(
        &self,
        id: u64,
        namespace: &str,
        client_ids: &BTreeSet<String>,
        sets: &[KeySet],
        now: Instant,
    ) -> Vec<Refusal> {
        let mut state = self.lock();
        state.forget(now);
        let mut refused = Vec::new();
        let said: BTreeSet<&String> =
            sets.iter().map(|set| &set.client_id).filter(|it| client_ids.contains(*it)).collect();
        state.leave(id, now, |client_id| !said.contains(client_id));
        for set in sets {
            if client_ids.contains(&set.client_id) {
                state.put(id, namespace, set, &mut refused);
            } else {
                refused.push(Refusal::NoScope(set.client_id.chars().take(128).collect()));
            }
        }
        state.own(self.began + GRACE <= now);
        for client_id in said {
            if let Some(owner) = state.owners.get(client_id).filter(|it| *it != namespace) {
                let (client_id, namespace) = (client_id.clone(), owner.clone());
                refused.push(Refusal::Taken { client_id, namespace });
            }
        }
        refused.retain(|refusal| state.is_news(format!("{namespace}: {refusal}")));
        refused
    }

    /// The sidecar `id` is gone.
    pub(super) fn leave(&self, id: u64, now: Instant) {
        self.lock().leave(id, now, |_| true);
    }

    /// How long is still waited for sidecars, in seconds.
    fn waits(&self, now: Instant) -> Option<u64> {
        let left = (self.began + GRACE).checked_duration_since(now)?;
        (!left.is_zero()).then(|| left.as_secs().max(1))
    }

    /// The keys of one scope, of `namespace` or of the one whose it is. None: nobody has said anything of it.
    fn scope(&self, client_id: &str, namespace: Option<&str>, now: Instant) -> Option<Set> {
        let mut state = self.lock();
        state.forget(now);
        state.own(true);
        let namespace = namespace.or(state.owners.get(client_id).map(String::as_str))?;
        Some(state.scopes.get(client_id)?.get(namespace)?.set())
    }

    /// The keys of every scope that is somebody's. None: nobody has said anything.
    fn all(&self, now: Instant) -> Option<Set> {
        let mut state = self.lock();
        state.forget(now);
        state.own(true);
        let state = &mut *state;
        let mut owned: Vec<(&String, &Keys)> = Vec::new();
        for (client_id, namespace) in &state.owners {
            let keys = state.scopes.get(client_id).and_then(|it| it.get(namespace));
            owned.extend(keys.map(|keys| (client_id, keys)));
        }
        if owned.is_empty() {
            return None;
        }
        // Who came first keeps a key id, and stays first.
        let mut kids: BTreeMap<&str, (&String, &Key)> = BTreeMap::new();
        for (client_id, scope) in &owned {
            for key in scope.keys.values() {
                let first = kids.entry(&key.kid).or_insert((client_id, key));
                if key.came < first.1.came {
                    *first = (client_id, key);
                }
            }
        }
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for (client_id, scope) in &owned {
            for key in scope.sorted() {
                match kids.get(key.kid.as_str()) {
                    Some((first, other)) if first != client_id && other.name != key.name => {
                        left_out.push(format!(
                            "the key id `{}` of `{client_id}` is one of `{first}` too",
                            key.kid
                        ));
                    }
                    _ => keys.push(key.jwk.clone()),
                }
            }
        }
        let max_age = owned.iter().map(|(_, keys)| keys.max_age).min().unwrap_or_default();
        for text in left_out {
            if state.told.insert(text.clone()) {
                tracing::warn!(
                    "a key is left out of the set of all scopes: {text}: put {{{{client_id}}}} into `jwtResponse.keyId`"
                );
            }
        }
        Some(Set { keys, max_age })
    }
}

impl State {
    /// Whether `text` was not told of before.
    fn is_news(&mut self, text: String) -> bool {
        // Whoever makes up names makes the same ones news again, and no memory full.
        if self.told.len() >= MAX_KEYS {
            self.told.clear();
        }
        self.told.insert(text)
    }

    fn put(&mut self, id: u64, namespace: &str, set: &KeySet, refused: &mut Vec<Refusal>) {
        let client_id = &set.client_id;
        let namespaces = self.scopes.entry(client_id.clone()).or_default();
        let scope = namespaces.entry(namespace.to_owned()).or_default();
        let life = u64::from(set.token_lifetime_seconds).min(LONGEST_TOKEN);
        scope.sidecars.insert(id, Duration::from_secs(life));
        scope.max_age = u64::from(set.max_age_seconds).min(MAX_AGE);
        if set.keys.len() > MAX_REPORTED {
            refused.push(Refusal::TooMany(client_id.clone()));
        }
        let mut held = BTreeMap::new();
        for text in set.keys.iter().take(MAX_REPORTED) {
            match public_key(text) {
                Ok((name, jwk, kid)) => {
                    let place = held.len();
                    held.entry(name).or_insert((jwk, kid, place));
                }
                Err(problem) => {
                    refused.push(Refusal::BadKey { client_id: client_id.clone(), problem })
                }
            }
        }
        // What a sidecar does not have any more, and nobody else has, is out of use: nobody went.
        scope.keys.retain(|name, key| {
            let was_held = !held.contains_key(name) && key.holders.remove(&id).is_some();
            !was_held || !key.holders.is_empty()
        });
        for (name, (jwk, kid, place)) in held {
            if scope.keys.len() >= MAX_KEYS && !scope.keys.contains_key(&name) {
                refused.push(Refusal::TooMany(client_id.clone()));
                break;
            }
            self.count += 1;
            let new = || Key {
                name: name.clone(),
                jwk: Map::new(),
                kid: kid.clone(),
                holders: BTreeMap::new(),
                until: None,
                came: self.count,
            };
            let key = scope.keys.entry(name.clone()).or_insert_with(new);
            key.jwk = jwk;
            key.until = None;
            key.holders.insert(id, place);
        }
        let text = format!("two keys of `{client_id}` in `{namespace}` have one key id");
        if scope.shares_ids() && self.is_news(text.clone()) {
            tracing::warn!("{text}: put {{{{key_version}}}} into `jwtResponse.keyId`");
        }
    }

    /// The sidecar `id` has gone from the scopes that `which` says: the keys that nobody else has are kept for as
    /// long as tokens by them are valid.
    fn leave(&mut self, id: u64, now: Instant, which: impl Fn(&String) -> bool) {
        for (client_id, namespaces) in &mut self.scopes {
            for scope in namespaces.values_mut().filter(|_| which(client_id)) {
                let Some(life) = scope.sidecars.remove(&id) else { continue };
                for key in scope.keys.values_mut() {
                    if key.holders.remove(&id).is_some() && key.holders.is_empty() {
                        key.until = Some(now + life + SLACK);
                    }
                }
            }
        }
    }

    /// Drops what is kept no longer.
    fn forget(&mut self, now: Instant) {
        for namespaces in self.scopes.values_mut() {
            for scope in namespaces.values_mut() {
                scope.keys.retain(|_, key| key.until.is_none_or(|until| until > now));
            }
            namespaces.retain(|_, scope| !scope.keys.is_empty() || !scope.sidecars.is_empty());
        }
        self.scopes.retain(|_, namespaces| !namespaces.is_empty());
    }

    /// Sees to it that each client ID is somebody's, as far as that is clear; nothing is while sidecars
    /// come back.
    fn own(&mut self, is_settled: bool) {
        let scopes = &self.scopes;
        self.owners.retain(|client_id, namespace| {
            scopes.get(client_id).is_some_and(|namespaces| namespaces.contains_key(namespace))
        });
        if !is_settled {
            return;
        }
        let mut contested = Vec::new();
        for (client_id, namespaces) in scopes {
            if self.owners.contains_key(client_id) {
                continue;
            }
            let mut names = namespaces.keys();
            match (names.next(), names.next()) {
                (Some(only), None) => {
                    self.owners.insert(client_id.clone(), only.clone());
                }
                (Some(one), Some(other)) => contested.push(format!(
                    "`{client_id}` is a scope of `{one}` and of `{other}`, and its keys are published for neither: rename one"
                )),
                _ => {}
            }
        }
        for text in contested {
            if self.is_news(text.clone()) {
                tracing::error!("{text}");
            }
        }
    }
}

impl Keys {
    /// Those that most sidecars sign with first, and those that are only kept last.
    fn sorted(&self) -> Vec<&Key> {
        let mut keys: Vec<&Key> = self.keys.values().collect();
        keys.sort_by_key(|key| {
            let signs = key.holders.values().filter(|place| **place == 0).count();
            (std::cmp::Reverse(signs), key.holders.is_empty(), key.came)
        });
        keys
    }

    fn set(&self) -> Set {
        let keys = self.sorted().into_iter().map(|key| key.jwk.clone()).collect();
        Set { keys, max_age: self.max_age }
    }

    fn shares_ids(&self) -> bool {
        let mut seen = HashSet::new();
        self.keys.values().any(|key| !seen.insert(&key.kid))
    }
}

/// The public key that `text` holds: what tells it from others, what is published of it, and its id.
fn public_key(text: &str) -> Result<(String, Map<String, Value>, String), &'static str> {
    let jwk: Map<String, Value> = serde_json::from_str(text).map_err(|_| "is no JWK")?;
    if PRIVATE.iter().any(|member| jwk.contains_key(*member)) {
        return Err("has a private member");
    }
    let member = |name: &str| jwk.get(name).and_then(Value::as_str);
    if !matches!(member("kty"), Some("EC" | "RSA" | "OKP")) {
        return Err("is of no kind that signs");
    }
    if member("alg").is_none_or(|alg| alg.parse::<Algorithm>().is_err()) {
        return Err("has no algorithm that signs");
    }
    if member("use").is_some_and(|usage| usage != "sig") {
        return Err("is not for signatures");
    }
    let kid = member("kid").filter(|kid| !kid.is_empty() && kid.len() <= 512);
    let kid = kid.ok_or("has no key id")?.to_owned();
    let identity = IDENTITY.map(member).map(Option::unwrap_or_default);
    // One key under two ids is two entries, as it is in a sidecar's own set.
    let name = json!([identity, kid]).to_string();
    let is_known = |(member, _): &(String, Value)| MEMBERS.contains(&member.as_str());
    Ok((name, jwk.into_iter().filter(is_known).collect(), kid))
}

/// The routes of the `jwks` listener.
pub(super) fn router(union: Arc<Union>) -> Router {
    Router::new()
        .route("/.well-known/jwks.json", get(every_scope))
        .route("/scopes/{client_id}/jwks.json", get(one_scope))
        .route("/namespaces/{namespace}/scopes/{client_id}/jwks.json", get(one_of_namespace))
        .route("/livez", get(async || "ok\n"))
        .with_state(union)
}

async fn every_scope(Extracted(union): Extracted<Arc<Union>>, headers: HeaderMap) -> Response {
    served(&union, &headers, |now| union.all(now))
}

async fn one_scope(
    Extracted(union): Extracted<Arc<Union>>,
    Path(client_id): Path<String>,
    headers: HeaderMap,
) -> Response {
    served(&union, &headers, |now| union.scope(&client_id, None, now))
}

async fn one_of_namespace(
    Extracted(union): Extracted<Arc<Union>>,
    Path((namespace, client_id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    served(&union, &headers, |now| union.scope(&client_id, Some(&namespace), now))
}

fn served(union: &Union, request: &HeaderMap, find: impl Fn(Instant) -> Option<Set>) -> Response {
    let now = Instant::now();
    if let Some(seconds) = union.waits(now) {
        return unavailable(seconds, "the control plane has just started: sidecars come back\n");
    }
    match find(now) {
        Some(set) => answer(&json!({ "keys": set.keys }), set.max_age, request),
        None => (StatusCode::NOT_FOUND, "no sidecar has keys for this\n").into_response(),
    }
}

#[cfg(test)]
mod tests;
