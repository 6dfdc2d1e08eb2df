//! The key and the token.

use std::sync::Arc;
use std::time::Duration;

use super::{DEFAULT_CLAIM, DEFAULT_ISSUER, Shared, is_header_value};
use crate::config::check::{duration, secs, texts};
use crate::config::raw;
use crate::config::report::Report;
use crate::keys::{Backend, Certificate, KeyIdTemplate, KeySettings};
use crate::scope::DecisionHeader;
use crate::secrets::{KeyLocation, SecretStore};
use crate::token::{ClaimSettings, Items, NEVER_CARRIED, Template};

const DEFAULT_TEMPLATE: &str = "{{asset_type}}:{{asset_id}}:{{action}}";
const DEFAULT_MAX_ITEMS: usize = 1_000;
/// More items than this fit into no token, however short they are.
const MOST_ITEMS: usize = 10_000;
const MAX_LIFETIME_SECONDS: u64 = 86_400;

/// Where the private key comes from, and what it must be.
#[derive(Debug)]
pub(super) struct Signing {
    pub(super) store: Arc<SecretStore>,
    pub(super) location: KeyLocation,
    pub(super) backend: Backend,
    pub(super) key: KeySettings,
    pub(super) publish_before: Duration,
    pub(super) max_key_age: Duration,
}

pub(super) fn signing(
    path: &str,
    raw: &raw::Scope,
    client_id: Option<&str>,
    shared: &Shared<'_>,
    report: &mut Report,
) -> Option<Signing> {
    let signing = &raw.jwt_signing;
    let path_of = |name: &str| format!("{path}.jwtSigning.{name}");
    let backend = match signing.backend {
        None | Some(raw::Backend::Kv) => Backend::Memory,
        Some(raw::Backend::Transit) => Backend::Transit,
    };
    let publish_before = signing.publish_before.as_deref();
    let publish_before = duration(path_of("publishBefore"), publish_before, secs(20 * 60), report);
    let max_key_age = signing.max_key_age.as_deref();
    let max_key_age = duration(path_of("maxKeyAge"), max_key_age, secs(86_400), report);
    let store = shared.stores.and_then(|stores| {
        let chosen = stores.choose(signing.secret_store.as_deref());
        report.keep(path_of("secretStore"), chosen).map(Arc::clone)
    });
    let ignored = signing.path_to_key.as_ref().zip(store.as_deref());
    if let Some(why) = ignored.and_then(|(_, store)| ignores_path(store, backend)) {
        report.warning(path_of("pathToKey"), format_args!("is ignored: {why}"));
    }
    let response = &raw.jwt_response;
    let key_id = match &response.key_id {
        None => None,
        Some(text) => {
            let parsed = KeyIdTemplate::parse(text);
            Some(report.keep(format_args!("{path}.jwtResponse.keyId"), parsed)?)
        }
    };
    let certificate = match &response.x509_certificate {
        None => None,
        Some(pem) => {
            let parsed = Certificate::parse(pem);
            Some(report.keep(format_args!("{path}.jwtResponse.x509Certificate"), parsed)?)
        }
    };
    let client_id = client_id?.to_owned();
    let location = KeyLocation {
        path: signing.path_to_key.clone(),
        name: signing.key_name.clone().unwrap_or_else(|| client_id.clone()),
        is_named: signing.key_name.is_some(),
    };
    let key = KeySettings {
        client_id,
        algorithm: signing.algorithm,
        key_id,
        certificate,
        token_type: response.kind.clone().unwrap_or_else(|| "JWT".to_owned()),
    };
    let store = store?;
    let judged = if store.has_paths() { "pathToKey" } else { "keyName" };
    match backend {
        Backend::Memory => report.keep(path_of(judged), store.check(&location))?,
        Backend::Transit => report.keep(path_of("backend"), store.check_transit(&location.name))?,
    }
    Some(Signing {
        store,
        location,
        backend,
        key,
        publish_before: publish_before?,
        max_key_age: max_key_age?,
    })
}

fn ignores_path(store: &SecretStore, backend: Backend) -> Option<String> {
    if backend == Backend::Transit {
        return Some("a Transit key has no path".to_owned());
    }
    let (id, kind) = (store.id(), store.kind());
    (!store.has_paths()).then(|| format!("the store `{id}` is of type {kind}"))
}

pub(super) fn claims(
    path: &str,
    raw: &raw::Scope,
    client_id: Option<&str>,
    shared: &Shared<'_>,
    report: &mut Report,
) -> Option<ClaimSettings> {
    let (response, custom) = (&raw.jwt_response, &raw.jwt_customization);
    let path_of = |name: &str| format!("{path}.jwtCustomization.{name}");
    let lifetime_path = format!("{path}.jwtResponse.tokenLifetimeSeconds");
    let lifetime = report.required(&lifetime_path, response.token_lifetime_seconds);
    let lifetime = lifetime.filter(|seconds| {
        let is_fine = (1..=MAX_LIFETIME_SECONDS).contains(seconds);
        if !is_fine {
            report.error(&lifetime_path, format_args!("`{seconds}` is not 1 to 86400"));
        }
        is_fine
    });
    let delimiter = custom.item_delimiter.clone().unwrap_or_else(|| Some(",".to_owned()));
    if delimiter.as_deref() == Some("") {
        report.error(path_of("itemDelimiter"), "is empty: give a character, or null for an array");
    }
    let text = custom.template.as_deref().unwrap_or(DEFAULT_TEMPLATE);
    let template = report.keep(path_of("template"), Template::parse(text, delimiter.as_deref()));
    let attribute = template.as_ref().and_then(Template::attribute);
    let has_entities = raw.policy.as_ref().is_none_or(|policy| policy.entities.is_some());
    if let Some(name) = attribute.filter(|_| !has_entities) {
        let message = format!("`attr.{name}` is looked up in the entities: set policy.entities");
        report.error(path_of("template"), message);
    }
    let items = match custom.items {
        None | Some(raw::Items::Decision) => Items::Decision,
        Some(raw::Items::Entitlements) => Items::Entitlements,
    };
    if custom.max_items.is_some() && items == Items::Decision {
        report.error(path_of("maxItems"), "is for `items: entitlements`: remove it, or set that");
    }
    let max_items = custom.max_items.unwrap_or(DEFAULT_MAX_ITEMS);
    if !(1..=MOST_ITEMS).contains(&max_items) {
        report.error(path_of("maxItems"), format_args!("`{max_items}` is not 1 to {MOST_ITEMS}"));
    }
    let claim = custom.claim_attribute_name.as_deref().unwrap_or(DEFAULT_CLAIM);
    if claim.is_empty() || NEVER_CARRIED.contains(&claim) {
        let message = format!("`{claim}` has a meaning of its own in a token: choose another name");
        report.error(path_of("claimAttributeName"), message);
    }
    if response.issuer.as_deref() == Some("") {
        report.error(
            format_args!("{path}.jwtResponse.issuer"),
            "is empty: name an issuer, or remove it",
        );
    }
    Some(ClaimSettings {
        client_id: client_id?.to_owned(),
        issuer: response.issuer.as_deref().unwrap_or(DEFAULT_ISSUER).to_owned(),
        audience: audience(path, response, report),
        lifetime: lifetime?,
        bind_request: response.bind_request.unwrap_or(true),
        include_incoming_payload: custom.include_incoming_payload.unwrap_or(false),
        include_actor: custom.include_actor.unwrap_or(false),
        decision_claim: claim.to_owned(),
        decision_claims: shared.decision_claims.clone(),
        template: template?,
        delimiter,
        items,
        max_items,
    })
}

fn audience(
    path: &str,
    response: &raw::JwtResponse,
    report: &mut Report,
) -> Option<serde_json::Value> {
    let form = response.audience.as_ref()?;
    if texts(form).is_empty() || texts(form).iter().any(String::is_empty) {
        report
            .error(format_args!("{path}.jwtResponse.audience"), "is empty: name one, or remove it");
    }
    Some(match form {
        raw::OneOrMany::One(audience) => audience.as_str().into(),
        raw::OneOrMany::Many(audiences) => audiences.clone().into(),
    })
}

pub(super) fn header(
    path: &str,
    raw: &raw::JwtResponse,
    report: &mut Report,
) -> Option<DecisionHeader> {
    let name = raw.header.as_deref().unwrap_or("x-placet-decision");
    let prefix = raw.header_prefix.as_deref().unwrap_or_default();
    if !is_header_value(prefix) || prefix.contains(',') {
        report.error(
            format_args!("{path}.jwtResponse.headerPrefix"),
            "holds a comma or a character that no header value can hold",
        );
    }
    report.keep(format_args!("{path}.jwtResponse.header"), DecisionHeader::new(name, prefix))
}

pub(super) fn remove_headers(
    path: &str,
    raw: &raw::JwtResponse,
    header: Option<&DecisionHeader>,
    report: &mut Report,
) -> Option<Vec<String>> {
    raw.remove_headers
        .iter()
        .map(|name| {
            let lower = name.to_ascii_lowercase();
            let problem = if http::HeaderName::try_from(&lower).is_err() || lower == "host" {
                "is no header that can be removed"
            } else if header.is_some_and(|header| header.is_spelled(&lower)) {
                "is the decision header: removing it would remove our own"
            } else {
                return Some(lower);
            };
            let path = format!("{path}.jwtResponse.removeHeaders");
            report.error(path, format_args!("`{name}` {problem}"));
            None
        })
        .collect()
}
