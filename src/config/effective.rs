//! The settings in force, for `/config`: as written, with the defaults that took effect, and without
//! credentials.

use serde_json::{Value, json};

use super::check::DEFAULT_REUSE_BYTES;
use super::{ControlPlane, Listen, ListenerSettings, ScopeConfig, raw};
use crate::identity::{IdentitySettings, IssuerSettings, KeySourceSettings};
use crate::token::Items;

pub(super) fn settings(
    written: &raw::Settings,
    listen: &Listen,
    scopes: &[ScopeConfig],
    control_plane: Option<&ControlPlane>,
) -> Value {
    let mut settings = serde_json::to_value(written).unwrap_or_default();
    redact(&mut settings);
    for headers in ["/telemetry/otlp", "/decisionLog/sink/http", "/decisionLog/sink/otlp"] {
        // Nobody is to write a credential there, and somebody will.
        let headers = settings.pointer_mut(&format!("{headers}/headers"));
        let headers = headers.and_then(Value::as_object_mut).into_iter().flatten();
        headers.for_each(|(_, value)| *value = "redacted".into());
    }
    if let Some(control_plane) = control_plane {
        let snapshot = control_plane.snapshot.as_ref().map(|snapshot| &snapshot.revision);
        let client_ids = &control_plane.client_ids;
        let shown = json!({"snapshot": {"revision": snapshot, "scopes": client_ids}});
        lay_over(&mut settings, json!({ "controlPlane": shown }));
    }
    if let Some(telemetry) = &written.telemetry {
        lay_over(&mut settings, json!({ "telemetry": self::telemetry(telemetry) }));
    }
    let overlay = json!({
        "version": 1,
        "listen": {
            "grpc": listener(written.listen.grpc.as_ref(), &listen.grpc),
            "http": listener(written.listen.http.as_ref(), &listen.http),
            "admin": listener(written.listen.admin.as_ref(), &listen.admin),
            "control": listen.control.as_ref().map(|path| format!("unix:{}", path.display())),
        },
        "reuse": {
            "enabled": written.reuse.enabled.unwrap_or(true),
            "maxBytes": written.reuse.max_bytes.unwrap_or(DEFAULT_REUSE_BYTES),
        },
        "reload": {
            "watch": written.reload.watch.unwrap_or(true),
            "interval": written.reload.interval.as_deref().unwrap_or("1s"),
        },
        "scopes": scopes.iter().map(scope).collect::<Vec<_>>(),
    });
    lay_over(&mut settings, overlay);
    settings
}

/// What is sent to a collector, with the defaults.
fn telemetry(written: &raw::Telemetry) -> Value {
    let mut shown = json!({});
    if let Some(traces) = &written.traces {
        lay_over(&mut shown, json!({"traces": {"ratio": traces.ratio.unwrap_or_default()}}));
    }
    if let Some(metrics) = &written.metrics {
        let interval = metrics.interval.as_deref().unwrap_or("60s");
        lay_over(&mut shown, json!({"metrics": {"interval": interval}}));
    }
    shown
}

/// In the form that it is written in.
fn listener(written: Option<&raw::ListenerForm>, listener: &ListenerSettings) -> Value {
    let address = listener.to_string();
    match written {
        Some(raw::ListenerForm::Listener(_)) => json!({ "address": address }),
        Some(raw::ListenerForm::Address(_)) | None => address.into(),
    }
}

fn scope(scope: &ScopeConfig) -> Value {
    let claims = &scope.claims;
    let mut policy = json!({"engine": scope.policy.engine(), "revision": scope.policy.revision()});
    if let (Some(shadow), Some(policy)) = (&scope.shadow, policy.as_object_mut()) {
        policy.insert("shadow".to_owned(), json!({"revision": shadow.revision()}));
    }
    json!({
        "jwtSigning": {
            "secretStore": scope.store.id(),
            "keyName": scope.store.key_name(&scope.location),
            "publishBefore": seconds(scope.publish_before),
            "maxKeyAge": seconds(scope.max_key_age),
        },
        "jwtResponse": {
            "issuer": claims.issuer,
            "tokenLifetimeSeconds": claims.lifetime,
            "header": scope.header.name(),
            "headerPrefix": scope.header.prefix,
            "type": scope.key.token_type,
            "bindRequest": claims.bind_request,
        },
        "jwtCustomization": {
            "includeIncomingPayload": claims.include_incoming_payload,
            "includeActor": claims.include_actor,
            "claimAttributeName": claims.decision_claim,
            "template": claims.template.as_str(),
            "itemDelimiter": claims.delimiter,
            "items": match claims.items {
                Items::Decision => "decision",
                Items::Entitlements => "entitlements",
            },
            "maxItems": match claims.items {
                Items::Decision => None,
                Items::Entitlements => Some(claims.max_items),
            },
        },
        "identity": identity(&scope.identity),
        "policy": policy,
        "dryRun": scope.dry_run.is_some(),
        "deny": {"status": scope.deny.status},
    })
}

fn identity(identity: &IdentitySettings) -> Value {
    let issuer = |issuer: &IssuerSettings| {
        let mut shown = json!({
            "principalType": issuer.principal_type,
            "groupPrefix": issuer.group_prefix,
            "clockSkew": seconds(issuer.clock_skew),
        });
        let proof = match &issuer.keys {
            KeySourceSettings::Introspection(asking) => json!({"introspection": {
                "cacheTtl": seconds(asking.cache_ttl),
                "cacheSize": asking.cache_size,
                "timeout": seconds(asking.timeout),
            }}),
            _ => json!({"algorithms": issuer.algorithms}),
        };
        lay_over(&mut shown, proof);
        shown
    };
    let mut shown = json!({
        "anonymous": identity.anonymous,
        "jwt": identity.issuers.iter().map(issuer).collect::<Vec<_>>(),
    });
    if let Some(keys) = &identity.api_keys {
        let api_keys = json!({
            "principalType": keys.principal_type,
            "secretStore": keys.store.id(),
            "keyName": keys.store.key_name(&keys.location),
        });
        lay_over(&mut shown, json!({ "apiKeys": api_keys }));
    }
    shown
}

fn seconds(duration: std::time::Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Puts `above` over `below`: maps and lists are merged, anything else is replaced.
fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (name, value) in above {
                lay_over(below.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(below), Value::Array(above)) => {
            for (item, value) in below.iter_mut().zip(above) {
                lay_over(item, value);
            }
        }
        (below, above) => *below = above,
    }
}

/// Takes out what may be a credential; the rest of the settings is no secret.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !is_unset(value));
            for (name, value) in fields {
                if matches!(name.as_str(), "token" | "secretId" | "clientSecret" | "hashKey") {
                    *value = "redacted".into();
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_unset),
        _ => false,
    }
}
