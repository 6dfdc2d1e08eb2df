//! A CheckRequest all the way to its answer. Every answer is unmistakably one of the two: a denial
//! from a scope that permits nothing, and from one that permits everything an allow whose header
//! overwrites each copy of the client's.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use envoy_types::ext_authz::v3::pb::{
    CheckResponse, HeaderAppendAction, HttpResponse, OkHttpResponse,
};
use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use placet::app::{GivenKeys, Offline};
use placet::clock::Timestamp;
use placet::config::Config;
use placet::envoy::{decode, encode};
use placet::request::Request;
use placet::scope::Scopes;
use placet::token::Channel;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const HEADER: &str = "x-placet-decision";

/// Nothing is permitted.
static CLOSED: LazyLock<Scopes> = LazyLock::new(|| scopes("forbid (principal, action, resource);"));

/// Everything is permitted, to anybody.
static OPEN: LazyLock<Scopes> = LazyLock::new(|| scopes("permit (principal, action, resource);"));

fuzz_target!(|data: &[u8]| {
    let Ok(request) = decode::request(data) else { return };
    let denied = answer(&CLOSED, &request);
    assert_ne!(denied.status.expect("every answer has a status").code, 0);
    assert!(matches!(denied.http_response, Some(HttpResponse::DeniedResponse(_))));

    let answered = answer(&OPEN, &request);
    let code = answered.status.expect("every answer has a status").code;
    match answered.http_response {
        Some(HttpResponse::OkResponse(ok)) => {
            assert_eq!(code, 0);
            check_allow(&ok);
        }
        Some(HttpResponse::DeniedResponse(denied)) => {
            assert_ne!(code, 0);
            assert!(denied.status.is_some_and(|status| (400..600).contains(&status.code)));
        }
        other => panic!("an answer without a side: {other:?}"),
    }
});

#[expect(deprecated, reason = "`append` is what Envoy up to 1.40 acts on")]
fn check_allow(ok: &OkHttpResponse) {
    let [option] = ok.headers.as_slice() else { panic!("not one header: {:?}", ok.headers) };
    let header = option.header.as_ref().expect("a header option has a header");
    assert_eq!(header.key, HEADER);
    assert_eq!(header.value.split('.').count(), 3, "a compact JWS");
    assert_eq!(option.append.as_ref().map(|append| append.value), Some(false));
    assert_eq!(option.append_action, i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd));
    assert!(!ok.headers_to_remove.iter().any(|name| name == HEADER));
    assert_eq!(ok.headers_to_remove.len(), 3, "the other spellings of two dashes");
}

fn answer(scopes: &Scopes, request: &Request) -> CheckResponse {
    let (scope, decision) = scopes
        .decide(request, Channel::Proxy, NOW)
        .now_or_never()
        .expect("a decision waits for nothing");
    encode::response(scope.as_deref(), &decision)
}

fn scopes(policy: &str) -> Scopes {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).expect("a file in it");
    };
    write("policy.cedar", policy);
    write("placet.yaml", include_str!("../settings/decision.yaml"));
    let config = load(&directory.path().join("placet.yaml"));
    Offline::new(config, &GivenKeys::None, NOW).expect("scopes").scopes
}

fn load(path: &Path) -> Config {
    Config::load(path).unwrap_or_else(|errors| panic!("{errors}"))
}
