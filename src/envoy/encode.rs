//! A decision to `CheckResponse` (envoy/service/auth/v3/external_auth.proto).
//!
//! The two functions below are the only places that build one, and both set `status` and the
//! matching half of `http_response`: either alone, Envoy reads as an allow or drops. The decision
//! header is written with `append=false` *and* `OVERWRITE_IF_EXISTS_OR_ADD`, which overwrites every
//! copy a client sent under every release of Envoy; it is never also in `headers_to_remove`, since
//! removal runs last and would delete ours.

use envoy_types::ext_authz::v3::pb::{
    CheckResponse, DeniedHttpResponse, HeaderAppendAction, HeaderValue, HeaderValueOption,
    HttpResponse, HttpStatus, OkHttpResponse,
};
use envoy_types::pb::google::protobuf::BoolValue;
use envoy_types::pb::google::rpc::Status;

use crate::authorizer::{Denial, Grant, Reason};
use crate::scope::{DenyResponse, Scope};

/// google.rpc.Code
const OK: i32 = 0;
const PERMISSION_DENIED: i32 = 7;
const UNAUTHENTICATED: i32 = 16;

/// The answer to Envoy. A grant without a scope can't be honoured and is denied.
pub fn response(scope: Option<&Scope>, outcome: &Result<Grant, Denial>) -> CheckResponse {
    match (scope, outcome) {
        (Some(scope), Ok(grant)) => allow(scope, grant),
        (None, Ok(_)) => deny(None, Reason::Internal),
        (scope, Err(denial)) => deny(scope, denial.reason()),
    }
}

fn allow(scope: &Scope, grant: &Grant) -> CheckResponse {
    let header = &scope.header;
    let mut remove: Vec<String> = header.twins().to_vec();
    let mut set = Vec::new();
    match grant {
        Grant::Bypass => remove.push(header.name().to_owned()),
        Grant::Signed { token, .. } => {
            set.push(overwrite(header.name(), format!("{}{}", header.prefix, token.as_str())));
        }
    }
    remove.extend(scope.remove_headers.iter().cloned());
    CheckResponse {
        status: Some(Status { code: OK, ..Status::default() }),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: set,
            headers_to_remove: remove,
            ..OkHttpResponse::default()
        })),
        ..CheckResponse::default()
    }
}

fn deny(scope: Option<&Scope>, reason: Reason) -> CheckResponse {
    let standard = DenyResponse::default();
    let custom = scope.map_or(&standard, |scope| &scope.deny);
    let is_forbidden = reason.status() == standard.status;
    let status = if is_forbidden { custom.status } else { reason.status() };
    let custom_body = if is_forbidden { custom.body.clone() } else { None };
    let mut headers: Vec<_> =
        custom.headers.iter().map(|(name, value)| overwrite(name, value.clone())).collect();
    if custom_body.is_none() {
        headers.retain(|option| {
            option.header.as_ref().is_none_or(|header| header.key != "content-type")
        });
        headers.push(overwrite("content-type", "application/json".to_owned()));
    }
    if status == 401 {
        headers.push(overwrite("www-authenticate", challenge(reason).to_owned()));
    }
    let code = if status == 401 { UNAUTHENTICATED } else { PERMISSION_DENIED };
    CheckResponse {
        status: Some(Status { code, message: reason.code().to_owned(), ..Status::default() }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: status.into() }),
            headers,
            body: custom_body.unwrap_or_else(|| standard_body(status)),
        })),
        ..CheckResponse::default()
    }
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

fn overwrite(name: &str, value: String) -> HeaderValueOption {
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
