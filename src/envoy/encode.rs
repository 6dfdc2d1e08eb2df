//! A decision to `CheckResponse` (envoy/service/auth/v3/external_auth.proto).
//!
//! The two functions `allow` and `deny` are the only places that build one, and both set `status` and the
//! matching half of `http_response`: either alone, Envoy reads as an allow or drops. The decision
//! header is written with `append=false` *and* `OVERWRITE_IF_EXISTS_OR_ADD`, which overwrites every
//! copy a client sent under every release of Envoy; it is never also in `headers_to_remove`, since
//! removal runs last and would delete ours.

use envoy_types::ext_authz::v3::pb::{
    CheckResponse, DeniedHttpResponse, HeaderAppendAction, HeaderValue, HeaderValueOption,
    HttpResponse, HttpStatus, OkHttpResponse, QueryParameter,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{self as pb, BoolValue, Struct};
use envoy_types::pb::google::rpc::Status;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::explain::explain;
use crate::authorizer::{Decision, Denial, Grant, Reason};
use crate::policy::{CustomDenial, Mutations};
use crate::scope::{DenyResponse, Scope};

/// All that is not unreserved (RFC 3986 section 2.3).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// google.rpc.Code
const OK: i32 = 0;
const PERMISSION_DENIED: i32 = 7;
const UNAUTHENTICATED: i32 = 16;

/// The answer to Envoy. A grant without a scope can't be honoured and is denied.
pub fn response(scope: Option<&Scope>, decision: &Decision) -> CheckResponse {
    let mut response = match (scope, &decision.outcome) {
        (Some(scope), Ok(grant)) => allow(scope, grant),
        (None, Ok(_)) => deny(None, &Denial::new(Reason::Internal, "a grant without a scope")),
        (scope, Err(denial)) => deny(scope, denial),
    };
    if let Some(scope) = scope {
        explain(&mut response, scope, decision);
    }
    response
}

fn allow(scope: &Scope, grant: &Grant) -> CheckResponse {
    let header = &scope.header;
    let mut ok =
        OkHttpResponse { headers_to_remove: header.twins().to_vec(), ..Default::default() };
    let mut metadata = None;
    match grant {
        Grant::Bypass | Grant::Waived(_) => ok.headers_to_remove.push(header.name().to_owned()),
        Grant::Signed { permit, token } => {
            let mutations = &permit.additions().mutations;
            mutate(&mut ok, mutations);
            metadata = dynamic_metadata(&mutations.changes().metadata);
            let value = format!("{}{}", header.prefix, token.as_str());
            ok.headers.push(overwrite(header.name(), value));
        }
    }
    ok.headers_to_remove.extend(scope.remove_headers.iter().cloned());
    CheckResponse {
        status: Some(Status { code: OK, ..Status::default() }),
        http_response: Some(HttpResponse::OkResponse(ok)),
        dynamic_metadata: metadata,
    }
}

/// Writes what the policy wants changed. Envoy puts query parameters in as they are: we encode them.
fn mutate(ok: &mut OkHttpResponse, mutations: &Mutations) {
    let encoded = |text: &str| utf8_percent_encode(text, QUERY).to_string();
    let changes = mutations.changes();
    let set = changes.headers.iter();
    ok.headers.extend(set.map(|(name, value)| overwrite(name, value.clone())));
    ok.headers_to_remove.extend(changes.remove_headers.iter().cloned());
    let added = changes.response_headers.iter();
    ok.response_headers_to_add.extend(added.map(|(name, value)| add(name, value.clone())));
    let query = changes.query.iter();
    ok.query_parameters_to_set.extend(
        query.map(|(key, value)| QueryParameter { key: encoded(key), value: encoded(value) }),
    );
    ok.query_parameters_to_remove.extend(changes.remove_query.iter().map(|key| encoded(key)));
}

fn deny(scope: Option<&Scope>, denial: &Denial) -> CheckResponse {
    let reason = denial.reason();
    let standard = DenyResponse::default();
    let by_scope = scope.map_or(&standard, |scope| &scope.deny);
    let by_policy = denial.custom().map(CustomDenial::answer);
    let is_forbidden = reason.status() == standard.status;
    let of_scope = if is_forbidden { by_scope.status } else { reason.status() };
    let status = by_policy.and_then(|custom| custom.status).unwrap_or(of_scope);
    let body = by_policy
        .and_then(|custom| custom.body.clone())
        .or_else(|| by_scope.body.clone().filter(|_| is_forbidden));
    let mut headers: Vec<_> =
        by_scope.headers.iter().map(|(name, value)| overwrite(name, value.clone())).collect();
    for (name, value) in by_policy.iter().flat_map(|custom| &custom.headers) {
        headers.push(if name == "set-cookie" {
            add(name, value.clone())
        } else {
            overwrite(name, value.clone())
        });
    }
    if body.is_none() {
        headers.retain(|option| !is_named(option, "content-type"));
        headers.push(overwrite("content-type", "application/json".to_owned()));
    }
    if status == 401 && !headers.iter().any(|option| is_named(option, "www-authenticate")) {
        headers.push(overwrite("www-authenticate", challenge(reason).to_owned()));
    }
    let code = if status == 401 { UNAUTHENTICATED } else { PERMISSION_DENIED };
    CheckResponse {
        status: Some(Status { code, message: reason.code().to_owned(), ..Status::default() }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: status.into() }),
            headers,
            body: body.unwrap_or_else(|| standard_body(status)),
        })),
        dynamic_metadata: by_policy.and_then(|custom| dynamic_metadata(&custom.metadata)),
    }
}

pub(super) fn is_named(option: &HeaderValueOption, name: &str) -> bool {
    option.header.as_ref().is_some_and(|header| header.key == name)
}

/// RFC 6750 section 3: no error code where no token was presented.
fn challenge(reason: Reason) -> &'static str {
    if reason == Reason::BadToken { "Bearer error=\"invalid_token\"" } else { "Bearer" }
}

fn standard_body(status: u16) -> String {
    let phrase = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error");
    format!(r#"{{"code":{status},"error":"{phrase}"}}"#)
}

/// JSON to protobuf.
pub(super) fn structure(fields: &Map<String, Value>) -> Struct {
    let fields = fields.iter().map(|(name, value)| (name.clone(), protobuf(value)));
    Struct { fields: fields.collect() }
}

/// None where there is nothing in it.
fn dynamic_metadata(fields: &Map<String, Value>) -> Option<Struct> {
    (!fields.is_empty()).then(|| structure(fields))
}

pub(super) fn protobuf(value: &Value) -> pb::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => {
            Kind::ListValue(pb::ListValue { values: items.iter().map(protobuf).collect() })
        }
        Value::Object(fields) => Kind::StructValue(structure(fields)),
    };
    pb::Value { kind: Some(kind) }
}

/// A header beside any of its name.
fn add(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, ..HeaderValue::default() }),
        append_action: HeaderAppendAction::AppendIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

pub(super) fn overwrite(name: &str, value: String) -> HeaderValueOption {
    #[expect(deprecated, reason = "`append` is what Envoy up to 1.40 acts on")]
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, ..HeaderValue::default() }),
        append: Some(BoolValue { value: false }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

#[cfg(test)]
mod tests;
