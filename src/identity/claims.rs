//! What a token says, judged once its signature holds.
//!
//! Claims of the wrong shape are refused, never treated as absent (CVE-2026-25537), and nothing is
//! coerced: a number is no subject, a string no time.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use x509_parser::pem::parse_x509_pem;

use super::refusal::BadToken;
use super::settings::{Audiences, IssuerSettings};
use crate::clock::Timestamp;

type Claims = Map<String, Value>;

/// Midnight at the end of 9999: a later time is a mistake of units, or an attempt at one.
const LATEST: f64 = 253_402_300_800.0;

/// Where a claim is: its name, or the names on the way to it joined by dots.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimPath(String);

impl ClaimPath {
    /// The path written `path`, such as `sub`, `realm_access.roles` or `https://a.example/groups`.
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The claim at this path. A claim named so in full, dots and all, comes first.
    pub(super) fn find<'a>(&self, claims: &'a Claims) -> Option<&'a Value> {
        claims.get(&self.0).or_else(|| {
            let (first, rest) = self.0.split_once('.')?;
            rest.split('.').try_fold(claims.get(first)?, |value, name| value.as_object()?.get(name))
        })
    }
}

/// What a token is worth at `now`: refuses one for others, out of its time, or bound to another
/// client certificate than `certificate` (PEM). Returns when it expires.
pub(super) fn judge(
    claims: &Claims,
    issuer: &IssuerSettings,
    certificate: Option<&str>,
    now: Timestamp,
) -> Result<Timestamp, BadToken> {
    judge_audience(claims.get("aud"), &issuer.audiences)?;
    let expires = judge_time(claims, issuer, now)?;
    if let Some(confirmation) = claims.get("cnf") {
        judge_confirmation(confirmation, certificate)?;
    }
    Ok(expires)
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
    now: Timestamp,
) -> Result<Timestamp, BadToken> {
    let skew = u64::try_from(issuer.clock_skew.as_millis()).unwrap_or(u64::MAX);
    let latest = Timestamp::from_millis(now.millis().saturating_add(skew));

    let expires = time(claims, "exp")?.ok_or(BadToken::NoExpiry)?;
    if now >= expires {
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
fn judge_confirmation(claim: &Value, certificate: Option<&str>) -> Result<(), BadToken> {
    let members = claim.as_object().filter(|members| members.len() == 1);
    let thumbprint = members
        .and_then(|members| members.get("x5t#S256"))
        .and_then(Value::as_str)
        .ok_or(BadToken::Confirmation)?;
    let (_, pem) = certificate
        .and_then(|pem| parse_x509_pem(pem.as_bytes()).ok())
        .filter(|(_, pem)| pem.label == "CERTIFICATE")
        .ok_or(BadToken::Certificate)?;
    let presented = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &pem.contents));
    if presented == thumbprint { Ok(()) } else { Err(BadToken::Certificate) }
}
