//! What a token says, judged once its signature holds.
//!
//! Claims of the wrong shape are refused, never treated as absent (CVE-2026-25537), and nothing is
//! coerced: a number is no subject, a string no time.

use serde_json::{Map, Value};

use super::certificate::Thumbprint;
use super::refusal::BadToken;
use super::settings::{Audiences, IssuerSettings};
use crate::clock::Timestamp;

type Claims = Map<String, Value>;

/// Midnight at the end of 9999: a later time is a mistake of units, or an attempt at one.
const LATEST: f64 = 253_402_300_800.0;

/// The longest chain of actors that is accepted.
const MOST_ACTORS: usize = 8;

/// Where a claim is: a name, or the names on the way to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimPath(Form);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Form {
    Dotted(String),
    Names(Vec<String>),
}

impl ClaimPath {
    /// The path written `path`: a name, or names joined by dots, such as `sub`,
    /// `realm_access.roles` or `https://a.example/groups`.
    pub fn new(path: impl Into<String>) -> Self {
        Self(Form::Dotted(path.into()))
    }

    /// The path of these `names`, taken as they are: the way to what is below a name with dots, such
    /// as `kubernetes.io`.
    pub fn of_names(names: Vec<String>) -> Self {
        Self(Form::Names(names))
    }

    pub(super) fn is_empty(&self) -> bool {
        match &self.0 {
            Form::Dotted(path) => path.is_empty(),
            Form::Names(names) => names.is_empty() || names.iter().any(String::is_empty),
        }
    }

    /// The claim at this path. A claim whose name is the dotted path in full comes first.
    pub(super) fn find<'a>(&self, claims: &'a Claims) -> Option<&'a Value> {
        match &self.0 {
            Form::Dotted(path) => claims.get(path).or_else(|| {
                let (first, rest) = path.split_once('.')?;
                descend(claims.get(first)?, rest.split('.'))
            }),
            Form::Names(names) => {
                let (first, rest) = names.split_first()?;
                descend(claims.get(first)?, rest.iter().map(String::as_str))
            }
        }
    }
}

fn descend<'a, 'n>(from: &'a Value, mut names: impl Iterator<Item = &'n str>) -> Option<&'a Value> {
    names.try_fold(from, |value, name| value.as_object()?.get(name))
}

/// Whether a credential must say when it ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Expiry {
    /// A JWT must.
    Required,
    /// The answer about an opaque token need not (RFC 7662 section 2.2).
    Optional,
}

/// What a token is worth at `now`: refuses one for others, out of its time, bound to another client
/// certificate than the caller's (`thumbprint` tells its SHA-256). Returns when it expires.
pub(super) fn judge(
    claims: &Claims,
    issuer: &IssuerSettings,
    expiry: Expiry,
    thumbprint: impl FnOnce() -> Option<Thumbprint>,
    now: Timestamp,
) -> Result<Option<Timestamp>, BadToken> {
    judge_audience(claims.get("aud"), &issuer.audiences)?;
    let expires = judge_time(claims, issuer, expiry, now)?;
    if let Some(confirmation) = claims.get("cnf") {
        judge_confirmation(confirmation, thumbprint)?;
    }
    Ok(expires)
}

/// The claims under the names that every issuer of the scope shares. What is mapped replaces what
/// the token itself calls so, also where the path leads nowhere: the operator said where the claim
/// is, and no other place counts.
pub(super) fn mapped(mut claims: Claims, mapping: &[(String, ClaimPath)]) -> Claims {
    let found: Vec<_> = mapping.iter().map(|(_, path)| path.find(&claims).cloned()).collect();
    for ((name, _), value) in mapping.iter().zip(found) {
        match value {
            Some(value) => claims.insert(name.clone(), value),
            None => claims.remove(name),
        };
    }
    claims
}

/// Who the token is about.
pub(super) fn subject(claims: &Claims, path: &ClaimPath) -> Result<String, BadToken> {
    match path.find(claims) {
        Some(Value::String(subject)) if !subject.is_empty() => Ok(subject.clone()),
        _ => Err(BadToken::Subject),
    }
}

/// The groups at `path`, each behind `prefix`; none when the claim is absent.
pub(super) fn groups(
    claims: &Claims,
    path: &ClaimPath,
    prefix: &str,
) -> Result<Vec<String>, BadToken> {
    let group = |value: &Value| match value.as_str() {
        Some(name) if !name.is_empty() => Ok(format!("{prefix}{name}")),
        _ => Err(BadToken::Groups),
    };
    match path.find(claims) {
        None => Ok(Vec::new()),
        Some(Value::Array(names)) => names.iter().map(group).collect(),
        Some(name) => Ok(vec![group(name)?]),
    }
}

fn judge_audience(claim: Option<&Value>, accepted: &Audiences) -> Result<(), BadToken> {
    let named = match claim {
        None => &[],
        Some(Value::Array(names)) => names.as_slice(),
        Some(name) => std::slice::from_ref(name),
    };
    if !named.iter().all(Value::is_string) {
        return Err(BadToken::AudienceMalformed);
    }
    match accepted {
        Audiences::Any => Ok(()),
        Audiences::OneOf(names) if names.iter().any(|name| named.iter().any(|aud| aud == name)) => {
            Ok(())
        }
        Audiences::OneOf(_) => Err(BadToken::Audience),
    }
}

/// The skew is the issuer's for `nbf` and `iat`; `exp` is taken at its word.
fn judge_time(
    claims: &Claims,
    issuer: &IssuerSettings,
    expiry: Expiry,
    now: Timestamp,
) -> Result<Option<Timestamp>, BadToken> {
    let skew = u64::try_from(issuer.clock_skew.as_millis()).unwrap_or(u64::MAX);
    let latest = Timestamp::from_millis(now.millis().saturating_add(skew));

    let expires = time(claims, "exp")?;
    if expires.is_none() && expiry == Expiry::Required {
        return Err(BadToken::NoExpiry);
    }
    if let Some(expires) = expires
        && now >= expires
    {
        return Err(BadToken::Expired { seconds: now.since(expires).as_secs() });
    }
    if let Some(start) = time(claims, "nbf")?
        && latest < start
    {
        return Err(BadToken::NotYet { seconds: start.since(now).as_secs() });
    }
    if let Some(issued) = time(claims, "iat")?
        && latest < issued
    {
        return Err(BadToken::IssuedLater { seconds: issued.since(now).as_secs() });
    }
    Ok(expires)
}

/// The NumericDate `claim`, to the millisecond (RFC 7519 section 2 allows fractions).
fn time(claims: &Claims, claim: &'static str) -> Result<Option<Timestamp>, BadToken> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..LATEST).contains(seconds));
    let seconds = seconds.ok_or(BadToken::Time { claim })?;
    if let Some(whole) = value.as_u64() {
        return Ok(Some(Timestamp::from_seconds(whole)));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and LATEST, and a part of a millisecond does not count"
    )]
    Ok(Some(Timestamp::from_millis((seconds * 1000.0) as u64)))
}

/// A bound token counts only from the holder of that certificate (RFC 8705 section 3.1). Any other
/// proof of possession is one we do not check, so the token would be taken for a bearer's.
fn judge_confirmation(
    claim: &Value,
    thumbprint: impl FnOnce() -> Option<Thumbprint>,
) -> Result<(), BadToken> {
    let members = claim.as_object().filter(|members| members.len() == 1);
    let expected = members
        .and_then(|members| members.get("x5t#S256"))
        .and_then(Value::as_str)
        .ok_or(BadToken::Confirmation)?;
    let presented = thumbprint().ok_or(BadToken::Certificate)?;
    if presented.base64url() == expected { Ok(()) } else { Err(BadToken::Certificate) }
}

/// Who acts for the subject, and for whom they act in turn (RFC 8693 section 4.1): each an object
/// that names its `sub`. The chain goes into our token, so its shape is vouched for here.
pub(super) fn judge_actors(mut actor: &Value) -> Result<(), BadToken> {
    for _ in 0..MOST_ACTORS {
        let members = actor.as_object().ok_or(BadToken::Actor)?;
        match members.get("sub").and_then(Value::as_str) {
            Some(subject) if !subject.is_empty() => {}
            _ => return Err(BadToken::Actor),
        }
        match members.get("act") {
            None => return Ok(()),
            Some(earlier) => actor = earlier,
        }
    }
    Err(BadToken::ActorChain { limit: MOST_ACTORS })
}
