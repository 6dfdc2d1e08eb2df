//! Rego's input and result. The first line is a request target, the second what the policy answers,
//! the rest a body that says it is JSON. Only an answer that says so in the right form may allow,
//! and whatever it wants changed, the decision header, the host and what frames a message are not
//! among it; a denial is never a success.

#![no_main]

use std::fs;
use std::sync::{Arc, LazyLock};

use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use placet::clock::Timestamp;
use placet::identity::Principal;
use placet::path::{Allowances, CanonicalPath};
use placet::policy::{Context, Policy, Protected, Question, Rego, RegoSources};
use placet::request::{Body, Request};
use placet::route::Target;
use serde_json::Value;

/// Answers what a header says, after a look at every part of the input.
const POLICY: &str = r#"package envoy.authz
import rego.v1
allow := answer if {
    answer := json.unmarshal(input.attributes.request.http.headers["x-answer"])
    count(json.marshal(input)) > 0
    every segment in input.parsed_path { is_string(segment) }
}
"#;

static REGO: LazyLock<Policy> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("policy.rego"), POLICY).unwrap();
    let sources = RegoSources {
        files: vec![folder.path().to_owned()],
        data: Vec::new(),
        query: "envoy/authz/allow".to_owned(),
        parse_body: true,
        protected: Protected::new(["x-placet-decision", "x_placet_decision"]),
        bundle: None,
        descriptors: None,
    };
    Policy::rego(Rego::load(&sources).unwrap())
});

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let target = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    // Of other bytes the policy sees what the proxy writes in their place.
    let Ok(answer) = str::from_utf8(lines.next().unwrap_or_default()) else { return };
    let mut request = Request { method: "GET".to_owned(), target, ..Request::default() };
    request.headers.push("x-answer", answer);
    request.headers.push("content-type", "application/json");
    if let Some(body) = lines.next() {
        request.body = Body::Whole(body.to_vec().into());
    }
    let allow = Allowances { double_slash: true, semicolon: true, ..Allowances::default() };
    let Ok(path) = CanonicalPath::parse(request.raw_path(), allow) else { return };
    let target = Target {
        asset_type: "Path".to_owned(),
        asset_id: path.to_string(),
        action: "get".to_owned(),
    };
    let question = Question {
        principal: &Arc::new(Principal::anonymous()),
        target: &target,
        context: Context::Http { request: &request, path: &path },
        now: Timestamp::from_seconds(1_800_000_000),
    };
    match REGO.decide(&question).now_or_never().unwrap() {
        Ok(permit) => {
            let answer: Value = serde_json::from_str(answer).unwrap();
            assert!(answer == true || answer["allowed"] == true, "allowed by {answer}");
            let changes = permit.additions().mutations.changes();
            let names =
                changes.headers.iter().chain(&changes.response_headers).map(|(name, _)| name);
            for name in names.chain(&changes.remove_headers) {
                let folded = name.to_ascii_lowercase().replace('_', "-");
                assert!(!folded.starts_with(':') && folded != "host", "{name}");
                assert!(folded != "x-placet-decision" && folded != "content-length", "{name}");
            }
            let values = changes.headers.iter().chain(&changes.response_headers);
            assert!(
                values.map(|(_, value)| value).all(|value| !value.contains(['\r', '\n', '\0']))
            );
        }
        Err(refusal) => {
            let status = refusal.custom.and_then(|custom| custom.answer().status);
            assert!(status.is_none_or(|status| (300..=599).contains(&status)), "{status:?}");
        }
    }
});
