//! A small scope and requests for the unit tests, made of the real rooms.

use std::io::Write;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{self, HttpRequest};

use crate::authorizer::Authorizer;
use crate::clock::{Clock, Timestamp};
use crate::entitlement::Catalogue;
use crate::identity::{ApiKeySettings, Identity, IdentitySettings, Place, Principal, Require};
use crate::keys::{Backend, KeyRing, KeySettings, KeySource, KeyTask, Keys, SigningKey};
use crate::path::{Allowances, CanonicalPath};
use crate::policy::{AuthzenSettings, Cedar, CedarSources, Credentials, Policy};
use crate::request::{Host, Request};
use crate::reuse::Reuse;
use crate::route::{Pattern, Route, Routes};
use crate::scope::{DecisionHeader, DenyResponse, Explain, Scope};
use crate::secrets::{KeyLocation, SecretStore, SecretStores, StoreKind, StoreSettings};
use crate::token::{ClaimSettings, Items, Minter, Template};

pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// Anyone may read account 1; a header forbids.
pub(crate) const POLICY: &str = r#"
    @id("read-1") permit(principal, action == Action::"read", resource == Account::"1");
    @id("no-header") forbid(principal, action, resource)
        when { context.http.headers has "x-forbid" };
"#;

static KEY: LazyLock<Arc<SigningKey>> = LazyLock::new(|| Arc::new(signing_key("orders")));

pub(crate) fn signing_key(client_id: &str) -> SigningKey {
    let settings = KeySettings {
        client_id: client_id.to_owned(),
        algorithm: None,
        key_id: None,
        certificate: None,
        token_type: "JWT".to_owned(),
    };
    SigningKey::throw_away(&settings, NOW).unwrap()
}

/// Keys that were never loaded.
pub(crate) fn no_keys() -> Keys {
    let source = KeySource {
        store: no_store(),
        location: KeyLocation { path: None, name: "none".to_owned(), is_named: true },
        backend: Backend::Memory,
        settings: KeySettings {
            client_id: "orders".to_owned(),
            algorithm: None,
            key_id: None,
            certificate: None,
            token_type: "JWT".to_owned(),
        },
        publish_before: Duration::ZERO,
        token_lifetime: Duration::ZERO,
        max_key_age: Duration::ZERO,
    };
    KeyTask::new(source, Clock::Fixed(NOW), None).1
}

/// A store that holds nothing.
fn no_store() -> Arc<SecretStore> {
    let store = StoreSettings {
        id: "none".to_owned(),
        default: true,
        kind: StoreKind::Env { prefix: "NONE_".to_owned() },
    };
    Arc::clone(SecretStores::open(vec![store]).unwrap().choose(None).unwrap())
}

/// API keys in `x-api-key`.
pub(crate) fn api_key_settings() -> ApiKeySettings {
    ApiKeySettings {
        place: Place::Header { name: "x-api-key".to_owned(), prefix: String::new() },
        principal_type: "User".to_owned(),
        store: no_store(),
        location: KeyLocation { path: None, name: "none".to_owned(), is_named: true },
    }
}

/// A remote point of decision at `url`.
pub(crate) fn authzen_settings(url: &str) -> AuthzenSettings {
    AuthzenSettings {
        url: url.parse().unwrap(),
        timeout: Duration::from_secs(60),
        cache_ttl: Duration::ZERO,
        cache_size: 1,
        credentials: Credentials::Nothing,
        authorities: None,
        prior_knowledge: false,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

pub(crate) fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

pub(crate) fn policy(text: &str, entities: &str) -> Policy {
    let (policies, entities) = (file(text), file(entities));
    let sources = CedarSources {
        policies: vec![policies.path().to_owned()],
        schema: None,
        entities: Some(entities.path().to_owned()),
        bundle: None,
        descriptors: None,
    };
    Policy::cedar(Cedar::load(&sources, ["Account", "Path", "User", "Anonymous"]).unwrap())
}

/// `/accounts/{id}` is read; `/healthz` is a bypass.
pub(crate) fn routes() -> Routes {
    let pattern = |text| Pattern::parse(text, Allowances::default()).unwrap();
    let account = pattern("/accounts/{id}");
    Routes::new(vec![
        Route::target(vec![], account, "Account".into(), "{id}", "read".into()).unwrap(),
        Route::bypass(vec![], pattern("/healthz")),
    ])
}

pub(crate) fn claim_settings() -> ClaimSettings {
    ClaimSettings {
        client_id: "orders".to_owned(),
        issuer: "placet".to_owned(),
        audience: None,
        lifetime: 60,
        bind_request: true,
        include_incoming_payload: false,
        include_actor: false,
        decision_claim: "entitlements".to_owned(),
        decision_claims: ["entitlements".to_owned()].into(),
        template: Template::parse("{{asset_type}}:{{asset_id}}:{{action}}", Some(",")).unwrap(),
        delimiter: Some(",".to_owned()),
        items: Items::Decision,
        max_items: 1_000,
    }
}

pub(crate) fn identity(anonymous: bool) -> Identity {
    let settings = IdentitySettings {
        require: Require::Jwt,
        issuers: Vec::new(),
        api_keys: None,
        peer: None,
        anonymous,
    };
    Identity::new(settings, Vec::new(), None, Arc::new(["placet".to_owned()].into())).unwrap()
}

pub(crate) fn authorizer() -> Authorizer {
    Authorizer {
        paths: Allowances::default(),
        routes: routes(),
        identity: identity(true),
        deny_list: None,
        policy: policy(POLICY, "[]"),
        catalogue: None,
        minter: Minter::new(claim_settings(), Keys::fixed(KeyRing::single(Arc::clone(&KEY)))),
    }
}

/// An authorizer whose tokens list what the principal holds.
pub(crate) fn listing_authorizer(policy_text: &str, entities: &str) -> Authorizer {
    let policy = policy(policy_text, entities);
    let catalogue = Catalogue::new(&policy, &routes(), 1_000).unwrap();
    Authorizer { policy, catalogue: Some(catalogue), ..authorizer() }
}

pub(crate) fn scope(client_id: &str) -> Scope {
    Scope {
        client_id: client_id.to_owned(),
        authorizer: authorizer(),
        header: DecisionHeader::new("x-placet-decision", "").unwrap(),
        remove_headers: vec!["cookie".to_owned()],
        deny: DenyResponse::default(),
        jwks_max_age: Duration::from_secs(300),
        api: None,
        dry_run: None,
        explain: Explain::default(),
        shadow: None,
        reuse: Reuse::new(),
    }
}

pub(crate) fn request(method: &str, target: &str) -> Request {
    Request {
        method: method.to_owned(),
        scheme: "http".to_owned(),
        host: Host::parse("Orders.example:8080").unwrap(),
        target: target.to_owned(),
        ..Request::default()
    }
}

/// A message of Envoy's about GET of `path`.
pub(crate) fn check_request(path: &str) -> CheckRequest {
    let http = HttpRequest {
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: "a.example".to_owned(),
        ..HttpRequest::default()
    };
    let request = attribute_context::Request { http: Some(http), ..Default::default() };
    let attributes = AttributeContext { request: Some(request), ..Default::default() };
    CheckRequest { attributes: Some(attributes) }
}

pub(crate) fn path(raw: &str) -> CanonicalPath {
    CanonicalPath::parse(raw, Allowances::default()).unwrap()
}

pub(crate) fn user(id: &str) -> Principal {
    Principal {
        entity_type: "User".to_owned(),
        id: id.to_owned(),
        subject: Some(id.to_owned()),
        issuer: Some("https://idp.example/".to_owned()),
        ..Principal::anonymous()
    }
}
