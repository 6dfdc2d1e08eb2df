//! One scope.

mod identity;
mod policy;
mod token;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::listen::uri_sans;
use crate::authorizer::DryRun;
use crate::config::raw::{self, PathAllowance};
use crate::config::report::Report;
use crate::config::{ApiConfig, Listen, ListenerSettings, ScopeConfig};
use crate::entitlement::Catalogue;
use crate::identity::{IdentitySettings, Require};
use crate::path::Allowances;
use crate::policy::Policy;
use crate::request::Host;
use crate::route::{Pattern, Route, Routes};
use crate::scope::{DecisionHeader, DenyResponse, Explain, PublicUrl};
use crate::secrets::{KeyLocation, SecretStore, SecretStores};
use crate::tls::UriSan;
use crate::token::{ClaimSettings, Items};

const DEFAULT_CLAIM: &str = "entitlements";
const DEFAULT_ISSUER: &str = "placet";

/// What every scope's check needs of the rest of the settings.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    stores: Option<&'a SecretStores>,
    /// Whether a caller of the gRPC listener can be told from any local process.
    is_grpc_private: bool,
    listen: Option<&'a Listen>,
    own_issuers: BTreeSet<String>,
    decision_claims: BTreeSet<String>,
    /// Whether decisions are used again.
    reuse: bool,
    /// How often files are looked at; none: never.
    looks: Option<Duration>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        settings: &raw::Settings,
        stores: Option<&'a SecretStores>,
        listen: Option<&'a Listen>,
        looks: Option<Duration>,
    ) -> Self {
        let scopes = settings.scopes.iter();
        Self {
            stores,
            looks,
            reuse: settings.reuse.enabled.unwrap_or(true),
            is_grpc_private: listen.is_none_or(|listen| listen.grpc.names_its_clients()),
            listen,
            own_issuers: scopes
                .clone()
                .map(|scope| {
                    scope.jwt_response.issuer.as_deref().unwrap_or(DEFAULT_ISSUER).to_owned()
                })
                .collect(),
            decision_claims: scopes
                .map(|scope| {
                    let name = scope.jwt_customization.claim_attribute_name.as_deref();
                    name.unwrap_or(DEFAULT_CLAIM).to_owned()
                })
                .collect(),
        }
    }
}

pub(super) fn check(
    path: &str,
    raw: &raw::Scope,
    base: &Path,
    shared: &Shared<'_>,
    report: &mut Report,
) -> Option<ScopeConfig> {
    let client_id = client_id(path, raw, report);
    let paths = allowances(&raw.paths);
    let hosts = hosts(path, &raw.matches.hosts, report);
    let routes = routes(path, &raw.routes, paths, report);
    let identity = identity::check(path, raw, client_id.as_deref(), base, shared, report);
    let header = token::header(path, &raw.jwt_response, report);
    let around = policy::Surroundings {
        base,
        routes: routes.as_ref(),
        identity: identity.as_ref(),
        header: header.as_ref(),
        descriptors: None,
    };
    let policies = policy::check(path, raw, around, report);
    let max_policy_age = policy::max_age(path, raw, shared.looks, report);
    let signing = token::signing(path, raw, client_id.as_deref(), shared, report);
    let claims = token::claims(path, raw, client_id.as_deref(), shared, report);
    let remove_headers = token::remove_headers(path, &raw.jwt_response, header.as_ref(), report);
    let deny = deny(path, &raw.deny, header.as_ref(), report);
    let api = api(path, raw.api.as_ref(), client_id.as_deref(), shared, report);
    let explain = explain(path, &raw.explain, header.as_ref(), report);
    let is_checked_over_http = matches!(api, Some(Some(ApiConfig { check: true, .. })));
    warn(path, raw, is_checked_over_http, identity.as_ref(), report);
    let token::Signing { store, location, backend, key, publish_before, max_key_age } = signing?;
    let (routes, policies, claims) = (routes?, policies?, claims?);
    let policy::Policies { policy, shadow, bundle } = policies;
    let catalogue = catalogue(path, &policy, &routes, &claims, report);
    Some(ScopeConfig {
        client_id: client_id?,
        default: raw.default.unwrap_or(false),
        hosts: hosts?,
        paths,
        routes,
        identity: identity?,
        policy,
        max_policy_age: max_policy_age?,
        shadow,
        bundle,
        reuse: shared.reuse,
        dry_run: DryRun::of_setting(raw.dry_run.unwrap_or(false)),
        explain: explain?,
        catalogue: catalogue?,
        store,
        location,
        backend,
        key,
        publish_before,
        max_key_age,
        claims,
        header: header?,
        remove_headers: remove_headers?,
        deny: deny?,
        api: api?,
    })
}

/// What a token that lists entitlements can name. The outer `None` is an error, the inner one says that
/// the policies list them themselves, or that nothing is listed.
fn catalogue(
    path: &str,
    policy: &Policy,
    routes: &Routes,
    claims: &ClaimSettings,
    report: &mut Report,
) -> Option<Option<Catalogue>> {
    if claims.items == Items::Decision || policy.lists_entitlements() {
        return Some(None);
    }
    let path = format!("{path}.jwtCustomization.items");
    if policy.known_actions().is_none() {
        let engine = policy.engine();
        let what = "can't list what a principal holds: use `decision`";
        report.error(path, format_args!("the engine {engine} {what}"));
        return None;
    }
    report.keep(path, Catalogue::new(policy, routes, claims.max_items)).map(Some)
}

/// What is allowed and worth a second look.
fn warn(
    path: &str,
    raw: &raw::Scope,
    is_checked_over_http: bool,
    identity: Option<&IdentitySettings>,
    report: &mut Report,
) {
    if raw.dry_run == Some(true) {
        let what = "every denial passes and is only recorded: the application is not protected";
        report.warning(format_args!("{path}.dryRun"), what);
    }
    let needs_peer =
        identity.is_some_and(|identity| matches!(identity.require, Require::Peer | Require::Both));
    if is_checked_over_http && needs_peer {
        let what =
            "over HTTP no request has the peer identity that the scope requires: each is denied";
        report.warning(format_args!("{path}.api.check"), what);
    }
}

fn client_id(path: &str, raw: &raw::Scope, report: &mut Report) -> Option<String> {
    let path = format!("{path}.clientId");
    let client_id = report.required(&path, raw.client_id.clone())?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if client_id.is_empty() || client_id.len() > 128 || !client_id.bytes().all(is_plain) {
        report.error(
            path,
            format_args!("`{client_id}` is not 1 to 128 letters, digits, `.`, `_`, `-`"),
        );
        return None;
    }
    if matches!(client_id.as_str(), "." | "..") {
        report.error(path, "a name of dots can't stand in the address of a JWKS");
        return None;
    }
    Some(client_id)
}

fn hosts(path: &str, hosts: &[String], report: &mut Report) -> Option<Vec<String>> {
    hosts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let (star, name) = match text.strip_prefix("*.") {
                Some(name) => ("*.", name),
                None => ("", text.as_str()),
            };
            let host = Host::parse(name)
                .ok()
                .filter(|host| !host.name().is_empty() && host.authority("") == host.name());
            let host = host.ok_or_else(|| {
                format!("`{text}` is no host name, nor `*.` and one; it has no port")
            });
            let host = report.keep(format_args!("{path}.match.hosts[{index}]"), host)?;
            Some(format!("{star}{}", host.name()))
        })
        .collect()
}

fn allowances(raw: &raw::Paths) -> Allowances {
    let allows = |allowance| raw.allow.contains(&allowance);
    Allowances {
        encoded_slash: allows(PathAllowance::EncodedSlash),
        double_slash: allows(PathAllowance::DoubleSlash),
        semicolon: allows(PathAllowance::Semicolon),
        double_encoding: allows(PathAllowance::DoubleEncoding),
    }
}

fn routes(
    path: &str,
    raw: &[raw::Route],
    allow: Allowances,
    report: &mut Report,
) -> Option<Routes> {
    let routes: Vec<Option<Route>> = raw
        .iter()
        .enumerate()
        .map(|(index, raw)| route(&format!("{path}.routes[{index}]"), raw, allow, report))
        .collect();
    routes.into_iter().collect::<Option<_>>().map(Routes::new)
}

fn route(path: &str, raw: &raw::Route, allow: Allowances, report: &mut Report) -> Option<Route> {
    let text = report.required(format_args!("{path}.match.path"), raw.matches.path.as_deref());
    let pattern = text.and_then(|text| {
        report.keep(format_args!("{path}.match.path"), Pattern::parse(text, allow))
    });
    let methods = raw.matches.methods.clone().unwrap_or_default();
    if raw.matches.methods.as_ref().is_some_and(Vec::is_empty) {
        report.error(format_args!("{path}.match.methods"), "is empty: name a method, or remove it");
    }
    for method in &methods {
        if http::Method::from_bytes(method.as_bytes()).is_err()
            || method.chars().any(|c| c.is_ascii_lowercase())
        {
            report.error(
                format_args!("{path}.match.methods"),
                format_args!("`{method}` is no method: write it in upper case, such as GET"),
            );
        }
    }
    match (raw.bypass.unwrap_or(false), &raw.asset, &raw.action) {
        (true, None, None) => Some(Route::bypass(methods, pattern?)),
        (true, _, _) => {
            report.error(path, "a bypass is not decided: remove asset and action, or bypass");
            None
        }
        (false, asset, action) => {
            let asset = report.required(format_args!("{path}.asset"), asset.as_ref());
            let action = report.required(format_args!("{path}.action"), action.clone());
            let asset = asset?;
            let kind = report.required(format_args!("{path}.asset.type"), asset.kind.clone());
            let id = report.required(format_args!("{path}.asset.id"), asset.id.as_deref());
            let route = Route::target(methods, pattern?, kind?, id?, action?);
            report.keep(format_args!("{path}.asset.id"), route)
        }
    }
}

fn deny(
    path: &str,
    raw: &raw::Deny,
    header: Option<&DecisionHeader>,
    report: &mut Report,
) -> Option<DenyResponse> {
    let status = raw.status.unwrap_or(403);
    if !(400..=599).contains(&status) {
        report.error(
            format_args!("{path}.deny.status"),
            format_args!("`{status}` is not 400 to 599"),
        );
        return None;
    }
    let mut headers = Vec::new();
    for (name, value) in &raw.headers {
        let lower = name.to_ascii_lowercase();
        let is_ours = header.is_some_and(|header| header.is_spelled(&lower));
        if is_ours || http::HeaderName::try_from(&lower).is_err() || !is_header_value(value) {
            report.error(
                format_args!("{path}.deny.headers"),
                format_args!("`{name}` is no header that an answer can have"),
            );
            return None;
        }
        headers.push((lower, value.clone()));
    }
    Some(DenyResponse { status, headers, body: raw.body.clone() })
}

fn explain(
    path: &str,
    raw: &raw::Explain,
    token: Option<&DecisionHeader>,
    report: &mut Report,
) -> Option<Explain> {
    let path = format!("{path}.explain.responseHeader");
    let metadata = raw.metadata.unwrap_or(false);
    let Some(name) = &raw.response_header else { return Some(Explain { header: None, metadata }) };
    if token.is_some_and(|token| token.is_spelled(name)) {
        report.error(path, format_args!("`{name}` is the header of the token: use another name"));
        return None;
    }
    if DecisionHeader::new(name, "").is_err() || is_a_responses_own(name) {
        let what = "is no header of your own: use a name such as x-placet-reason";
        report.error(path, format_args!("`{name}` {what}"));
        return None;
    }
    let header = DecisionHeader::new(name, "").ok();
    Some(Explain { header, metadata })
}

/// Headers of a response that mean something to its client.
fn is_a_responses_own(name: &str) -> bool {
    let own = ["set-cookie", "location", "www-authenticate", "date", "server", "cache-control"];
    own.contains(&name.to_ascii_lowercase().as_str())
}

/// The outer `None` is an error, the inner one says that there is none.
fn api(
    path: &str,
    raw: Option<&raw::Api>,
    client_id: Option<&str>,
    shared: &Shared<'_>,
    report: &mut Report,
) -> Option<Option<ApiConfig>> {
    let Some(raw) = raw else { return Some(None) };
    let (authzen, check) = (raw.authzen.unwrap_or(false), raw.check.unwrap_or(false));
    if !authzen && !check {
        report.error(
            format_args!("{path}.api"),
            "answers nothing: set authzen or check, or remove it",
        );
    }
    if raw.scheme.is_some() && !check {
        report.error(
            format_args!("{path}.api.scheme"),
            "does not belong to authzen: remove it, or set check",
        );
    }
    let scheme = match raw.scheme {
        None | Some(raw::Scheme::Http) => "http",
        Some(raw::Scheme::Https) => "https",
    };
    let public_url = match &raw.public_url {
        None => None,
        Some(text) => {
            Some(report.keep(format_args!("{path}.api.publicUrl"), PublicUrl::parse(text))?)
        }
    };
    if public_url.is_some() && !authzen {
        report.error(
            format_args!("{path}.api.publicUrl"),
            "belongs to authzen: set it, or remove this",
        );
    }
    let workloads = workloads(&format!("{path}.api.allowedUriSans"), raw, shared, report);
    let names_secrets =
        raw.key_name.is_some() || raw.path_to_key.is_some() || raw.secret_store.is_some();
    let secrets = if raw.allowed_uri_sans.is_some() && !names_secrets {
        None
    } else {
        let name = raw.key_name.clone().or_else(|| client_id.map(|id| format!("{id}.callers")))?;
        let place = (raw.secret_store.as_deref(), raw.path_to_key.clone(), name);
        Some(kept(&format!("{path}.api"), place, shared, report)?)
    };
    Some(Some(ApiConfig { authzen, check, scheme, public_url, workloads: workloads?, secrets }))
}

/// The callers that are known by their certificate, which some listener must ask for.
fn workloads(
    path: &str,
    raw: &raw::Api,
    shared: &Shared<'_>,
    report: &mut Report,
) -> Option<BTreeSet<UriSan>> {
    let Some(texts) = &raw.allowed_uri_sans else { return Some(BTreeSet::new()) };
    let is_asked_by = |listener: fn(&Listen) -> &ListenerSettings| {
        shared.listen.is_none_or(|listen| listener(listen).asks_for_certificates())
    };
    let by_http = is_asked_by(|listen| &listen.http);
    let by_grpc = raw.check != Some(true) && is_asked_by(|listen| &listen.grpc);
    if !by_http && !by_grpc {
        let what = "no caller shows a certificate: give listen.http tls with clientCaFile";
        report.error(path, what);
    }
    uri_sans(path, texts, report)
}

/// A value in a secret store that is no signing key: its store, path and name, as they are written.
fn kept(
    path: &str,
    (store, path_to_key, name): (Option<&str>, Option<String>, String),
    shared: &Shared<'_>,
    report: &mut Report,
) -> Option<(Arc<SecretStore>, KeyLocation)> {
    let store = shared
        .stores
        .and_then(|stores| report.keep(format_args!("{path}.secretStore"), stores.choose(store)));
    let location = KeyLocation { path: path_to_key, name, is_named: true };
    let store = Arc::clone(store?);
    let judged = if store.has_paths() { "pathToKey" } else { "keyName" };
    report.keep(format_args!("{path}.{judged}"), store.check(&location))?;
    Some((store, location))
}

fn is_header_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte))
}
