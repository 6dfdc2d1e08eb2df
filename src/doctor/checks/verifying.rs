//! Who verifies decisions: whose tokens are taken, for whom, and until when.

use std::time::Duration;

use super::Findings;
use crate::doctor::model::{Chain, Dialect, Model, Verifier};
use crate::doctor::{Expected, ExpectedScope, Severity};

/// How long Envoy keeps a key set unless told otherwise.
const DEFAULT_CACHE: Duration = Duration::from_secs(600);

pub(super) fn judge(model: &Model, expected: &Expected, findings: &mut Findings) {
    for verifier in model.chains.iter().flat_map(Chain::verifiers).chain(&model.verifiers) {
        let reads = verifier.headers.iter().any(|name| expected.is_header(name));
        let is_placets = verifier
            .issuer
            .as_ref()
            .is_some_and(|issuer| expected.scopes.iter().any(|scope| scope.issuer == *issuer));
        match (reads, is_placets) {
            (true, _) => judge_verifier(verifier, expected, findings),
            (false, true) => unread(verifier, expected, findings),
            (false, false) => {}
        }
    }
}

fn judge_verifier(verifier: &Verifier, expected: &Expected, findings: &mut Findings) {
    let scopes: Vec<&ExpectedScope> = expected
        .scopes
        .iter()
        .filter(|scope| {
            verifier.headers.iter().any(|name| name.eq_ignore_ascii_case(scope.header.name()))
        })
        .collect();
    issuer(verifier, &scopes, expected, findings);
    audience(verifier, &scopes, findings);
    expiry(verifier, findings);
    optional(verifier, findings);
    key_set(verifier, &scopes, findings);
    cache(verifier, &scopes, findings);
}

fn unread(verifier: &Verifier, expected: &Expected, findings: &mut Findings) {
    let Some(name) = expected.headers().first().map(|header| header.name()) else { return };
    let what = format!("it expects Placet's tokens, but does not look for them in `{name}`");
    let remedy = match verifier.dialect {
        Dialect::Envoy => format!("from_headers: [{{ name: {name} }}]"),
        Dialect::Istio => format!("fromHeaders:\n- name: {name}"),
        Dialect::EnvoyGateway => format!("extractFrom:\n  headers:\n  - name: {name}"),
    };
    findings.add("decision_unread", Severity::Error, &verifier.place, what, remedy);
}

fn issuer(
    verifier: &Verifier,
    scopes: &[&ExpectedScope],
    expected: &Expected,
    findings: &mut Findings,
) {
    let issuers: Vec<&str> = scopes.iter().map(|scope| scope.issuer.as_str()).collect();
    let Some(first) = issuers.first() else { return };
    let place = verifier.place.below("issuer");
    let remedy = format!("issuer: {first}");
    match &verifier.issuer {
        None => {
            let what = "a token of any issuer whose key is in the key set is taken for a decision";
            findings.add("issuer_unchecked", Severity::Error, &place, what, remedy);
        }
        Some(issuer) if !issuers.contains(&issuer.as_str()) => {
            let what = format!(
                "Placet's tokens are of the issuer `{}`, not `{issuer}`: each is refused",
                issuers.join("` or `")
            );
            let remedy = if expected.is_configured {
                remedy
            } else {
                format!(
                    "{remedy}\nor give `--config placet.yaml`, if its `jwtResponse.issuer` is another"
                )
            };
            findings.add("issuer_wrong", Severity::Error, &place, what, remedy);
        }
        Some(_) => {}
    }
}

fn audience(verifier: &Verifier, scopes: &[&ExpectedScope], findings: &mut Findings) {
    let known: Vec<&str> =
        scopes.iter().flat_map(|scope| &scope.audiences).map(String::as_str).collect();
    let place = verifier.place.below("audiences");
    let remedy = format!("audiences: [{}]", known.first().unwrap_or(&"AUDIENCE"));
    if verifier.audiences.is_empty() {
        let what = "a decision that was made for another application is taken for one of this";
        findings.add("audience_unchecked", Severity::Error, &place, what, remedy);
    } else if !known.is_empty()
        && !verifier.audiences.iter().any(|audience| known.contains(&audience.as_str()))
    {
        let what = format!(
            "Placet's tokens are for `{}`, not `{}`: each is refused",
            known.join("`, `"),
            verifier.audiences.join("`, `")
        );
        findings.add("audience_wrong", Severity::Error, &place, what, remedy);
    }
}

fn expiry(verifier: &Verifier, findings: &mut Findings) {
    if verifier.requires_expiry == Some(false) {
        let what = "a token without `exp` is good for ever";
        let place = verifier.place.below("require_expiration");
        findings.add(
            "expiry_unchecked",
            Severity::Warning,
            &place,
            what,
            "require_expiration: true",
        );
    }
}

fn optional(verifier: &Verifier, findings: &mut Findings) {
    let Some(why) = &verifier.optional else { return };
    let what = format!("requests without a decision pass: {why}");
    let remedy = match verifier.dialect {
        Dialect::Envoy => {
            "rules:\n- match: { prefix: / }\n  requires: { provider_name: PROVIDER }".to_owned()
        }
        Dialect::Istio => format!(
            "an AuthorizationPolicy for the same workloads, with\n  action: DENY\n  rules:\n  - from:\n    - source:\n        notRequestPrincipals: [\"{}/*\"]",
            verifier.issuer.as_deref().unwrap_or("placet")
        ),
        Dialect::EnvoyGateway => "optional: false".to_owned(),
    };
    findings.add("decision_optional", Severity::Error, &verifier.place, what, remedy);
}

fn key_set(verifier: &Verifier, scopes: &[&ExpectedScope], findings: &mut Findings) {
    let Some(uri) = &verifier.jwks_uri else { return };
    let has_many = scopes.len() > 1;
    if let Some(base) = uri.strip_suffix("/.well-known/jwks.json").filter(|_| has_many) {
        let client_id =
            scopes.iter().find_map(|scope| scope.client_id.as_deref()).unwrap_or("CLIENT_ID");
        let what = "this key set has the keys of every scope: another scope's key counts here too";
        let remedy = format!("{base}/scopes/{client_id}/jwks.json");
        findings.add("key_set_shared", Severity::Warning, &verifier.place, what, remedy);
    }
}

fn cache(verifier: &Verifier, scopes: &[&ExpectedScope], findings: &mut Findings) {
    let Some(shortest) = scopes.iter().map(|scope| scope.publish_before).min() else { return };
    let cache = verifier.jwks_cache.unwrap_or(DEFAULT_CACHE);
    if verifier.dialect != Dialect::Istio && cache >= shortest {
        let what = format!(
            "keys are kept for {}, and Placet signs with a new one {} after publishing it: tokens are refused meanwhile",
            humantime::format_duration(cache),
            humantime::format_duration(shortest)
        );
        let place = verifier.place.below("remote_jwks.cache_duration");
        findings.add("key_set_stale", Severity::Warning, &place, what, "cache_duration: 300s");
    }
}
