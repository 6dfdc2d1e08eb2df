//! What OPA-Envoy's documentation says a policy sees and may answer, and what must never allow.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixture::NOW;
use crate::identity::Principal;
use crate::path::{Allowances, CanonicalPath};
use crate::policy::{Permit, Policy, Refusal, RefusalKind};
use crate::request::{Body, Host, Request};
use crate::route::Target;

fn sources(folder: &std::path::Path) -> RegoSources {
    RegoSources {
        files: vec![folder.to_owned()],
        data: Vec::new(),
        query: "envoy/authz/allow".to_owned(),
        parse_body: true,
        protected: Protected::new(["x-placet-decision", "x_placet_decision"]),
        bundle: None,
        descriptors: None,
    }
}

fn load_all(files: &[(&str, &str)]) -> Result<Rego, Vec<RegoError>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Rego::load(&sources(folder.path()))
}

fn load(rules: &str) -> Rego {
    load_all(&[("p.rego", &format!("package envoy.authz\nimport rego.v1\n{rules}"))]).unwrap()
}

fn errors(files: &[(&str, &str)]) -> Vec<String> {
    load_all(files).unwrap_err().iter().map(ToString::to_string).collect()
}

fn request(target: &str) -> Request {
    Request {
        id: "id-1".to_owned(),
        method: "GET".to_owned(),
        scheme: "http".to_owned(),
        host: Host::parse("Orders.example:8080").unwrap(),
        target: target.to_owned(),
        ..Request::default()
    }
}

fn ask(rego: &Rego, request: &Request) -> Verdict {
    let allow = Allowances { double_slash: true, ..Allowances::default() };
    let path = CanonicalPath::parse(request.raw_path(), allow).unwrap();
    let principal = Arc::new(Principal::anonymous());
    let target = Target {
        asset_type: "Path".to_owned(),
        asset_id: path.to_string(),
        action: "get".to_owned(),
    };
    let context = Context::Http { request, path: &path };
    rego.decide(&Question { principal: &principal, target: &target, context, now: NOW })
}

fn decide(rules: &str, request: &Request) -> Result<Permit, Refusal> {
    let principal = Arc::new(Principal::anonymous());
    let target = Target { asset_type: "Path".into(), asset_id: "/".into(), action: "get".into() };
    let path = CanonicalPath::parse(request.raw_path(), Allowances::default()).unwrap();
    let context = Context::Http { request, path: &path };
    let policy = Policy::rego(load(rules));
    policy.decide_now(&Question { principal: &principal, target: &target, context, now: NOW })
}

fn fault(rules: &str) -> String {
    match decide(rules, &request("/")).unwrap_err().kind {
        RefusalKind::Fault(text) => text,
        other => panic!("{other:?}"),
    }
}

fn is_denied(rules: &str) -> bool {
    matches!(decide(rules, &request("/")).unwrap_err().kind, RefusalKind::NoPermit)
}

/// The document as the policy sees it.
fn document(request: &Request) -> serde_json::Value {
    let rules = r#"allow := {"allowed": true, "dynamic_metadata": {"input": input}}"#;
    let verdict = ask(&load(rules), request);
    assert!(matches!(verdict.effect, Effect::Permitted), "{verdict:?}");
    verdict.additions.mutations.changes().metadata["input"].clone()
}

#[test]
fn the_document_is_the_one_of_opa_envoy() {
    let mut request = request("/people/a%20b?lang=en&id=1&id=2");
    request.headers.push("X-A", "1");
    request.headers.push("x-a", b"\xff".as_slice());
    request.headers.push("content-type", "application/json");
    request.source.ip = Some("192.0.2.7".parse().unwrap());
    request.source.port = Some(61402);
    request.source.principal = Some("spiffe://a/b".to_owned());
    request.destination.ip = Some("192.0.2.8".parse().unwrap());
    request.destination.port = Some(8000);
    request.protocol = "HTTP/1.1".to_owned();
    request.time = Some(NOW);
    request.size = Some(10);
    request.body = Body::Whole(r#"{"a":[1.5]}"#.into());
    request.extensions.insert("k".to_owned(), "v".to_owned());
    request.metadata.insert("jwt".to_owned(), json!({"sub": "alice", "exp": 1}));
    request.server_name = Some("orders.example".to_owned());
    let target = "/people/a%20b?lang=en&id=1&id=2";
    let expected = json!({
        "attributes": {
            "source": {
                "address": {"socketAddress": {"address": "192.0.2.7", "portValue": 61402}},
                "principal": "spiffe://a/b",
            },
            "destination": {
                "address": {"socketAddress": {"address": "192.0.2.8", "portValue": 8000}},
            },
            "request": {
                "time": NOW.rfc3339(),
                "http": {
                    "id": "id-1",
                    "method": "GET",
                    "scheme": "http",
                    "host": "orders.example:8080",
                    "path": target,
                    "protocol": "HTTP/1.1",
                    "size": 10,
                    "body": "{\"a\":[1.5]}",
                    "headers": {
                        ":authority": "orders.example:8080",
                        ":method": "GET",
                        ":path": target,
                        ":scheme": "http",
                        "content-type": "application/json",
                        "x-a": "1,!",
                    },
                },
            },
            "contextExtensions": {"k": "v"},
            "metadataContext": {"filterMetadata": {"jwt": {"sub": "alice", "exp": 1}}},
            "tlsSession": {"sni": "orders.example"},
        },
        "parsed_path": ["people", "a b"],
        "parsed_query": {"lang": ["en"], "id": ["1", "2"]},
        "parsed_body": {"a": [1.5]},
        "truncated_body": false,
        "version": {"ext_authz": "v3", "encoding": "protojson"},
    });
    assert_eq!(document(&request), expected);
}

#[test]
fn no_segment_is_dropped_and_a_part_of_a_body_is_none() {
    let path = |target| document(&request(target))["parsed_path"].clone();
    assert_eq!(path("/"), json!([""]));
    assert_eq!(path("//admin/people"), json!(["", "admin", "people"]));
    assert_eq!(path("/a//b/"), json!(["a", "", "b", ""]));
    let mut cut = request("/");
    cut.headers.push("content-type", "application/json");
    cut.body = Body::Partial(r#"{"a":"#.into());
    let document = document(&cut);
    assert_eq!(
        (&document["parsed_body"], &document["truncated_body"]),
        (&json!(null), &json!(true))
    );
}

#[test]
fn forms_and_messages_are_parsed_bodies() {
    let mut form = request("/");
    form.headers.push("content-type", "multipart/form-data; boundary=x");
    let part = "--x\r\nContent-Disposition: form-data; name=a";
    let text = format!(
        "{part}\r\n\r\n1\r\n{part}\r\nContent-Type: application/json\r\n\r\n[2]\r\n{part}; filename=f\r\n\r\n"
    );
    form.body = Body::Whole([text.as_bytes(), b"\xff\r\n--x--"].concat().into());
    assert_eq!(document(&form)["parsed_body"], json!({"a": ["1", [2], null]}));

    let folder = tempfile::tempdir().unwrap();
    let policy = "package envoy.authz\nallow := input.parsed_body == {\"sign\": true}";
    fs::write(folder.path().join("p.rego"), policy).unwrap();
    let known = Descriptors::parse(crate::proto::DESCRIPTORS.to_vec()).unwrap();
    let with = RegoSources { descriptors: Some(Arc::new(known)), ..sources(folder.path()) };
    let (seeing, blind) =
        (Rego::load(&with).unwrap(), Rego::load(&sources(folder.path())).unwrap());
    assert_ne!(seeing.revision(), blind.revision());
    let mut call = request("/placet.v1.PolicyDecisionPoint/Evaluate");
    call.headers.push("content-type", "application/grpc");
    call.body = Body::Whole(b"\0\0\0\0\x02\x28\x01".as_slice().into());
    assert!(matches!(ask(&seeing, &call).effect, Effect::Permitted));
    assert!(matches!(ask(&blind, &call).effect, Effect::Unmatched));
}

#[test]
fn a_body_that_is_not_what_it_says_is_the_clients_fault() {
    let mut bad = request("/");
    bad.headers.push("content-type", "application/json");
    bad.body = Body::Whole("{".into());
    let refusal = decide("allow := true", &bad).unwrap_err();
    assert!(matches!(refusal.kind, RefusalKind::BadBody(_)), "{:?}", refusal.kind);
}

#[test]
fn every_form_of_result_is_read() {
    let permit = decide(
        r#"
        allow := {
            "allowed": true,
            "headers": [{"x-a": "1"}, {"X-B": ["2", "3"]}],
            "response_headers_to_add": {"set-cookie": ["a", "b"]},
            "request_headers_to_remove": {"x-c", "X-D"},
            "query_parameters_to_set": {"t": ["1", "2"], "u": "3"},
            "query_parameters_to_remove": ["v"],
            "dynamic_metadata": {"s": {2, 1}, "n": null, "f": 0.5},
            "http_status": 200,
            "body": "not read of an allow",
            "reason": ["because"],
            "subject": "alice",
            "entitlements": [{"type": "A", "id": "1", "action": "read"}],
            "unknown": 1,
        }"#,
        &request("/"),
    )
    .unwrap();
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let changes = permit.additions().mutations.changes();
    assert_eq!(changes.headers, pairs(&[("x-a", "1"), ("x-b", "2"), ("x-b", "3")]));
    assert_eq!(changes.response_headers, pairs(&[("set-cookie", "a"), ("set-cookie", "b")]));
    assert_eq!(changes.remove_headers, ["x-d", "x-c"]);
    assert_eq!(changes.query, pairs(&[("t", "1"), ("t", "2"), ("u", "3")]));
    assert_eq!(changes.remove_query, ["v"]);
    assert_eq!(json!(changes.metadata), json!({"s": [1, 2], "n": null, "f": 0.5}));
    assert_eq!(permit.additions().subject.as_deref(), Some("alice"));
    let target = Target { asset_type: "A".into(), asset_id: "1".into(), action: "read".into() };
    assert_eq!(permit.additions().entitlements, Some(vec![target]));
    assert_eq!(permit.grounds().reasons, ["because"]);
    assert_eq!(permit.grounds().determining, ["envoy/authz/allow"]);

    let denied = r#"allow := {"allowed": false, "http_status": 302, "body": "go",
        "headers": {"location": "https://login.example/"}, "reason": "no session"}"#;
    let refusal = decide(denied, &request("/")).unwrap_err();
    let custom = refusal.custom.unwrap();
    assert_eq!((custom.answer().status, custom.answer().body.as_deref()), (Some(302), Some("go")));
    assert_eq!(custom.answer().headers, pairs(&[("location", "https://login.example/")]));
    assert_eq!(refusal.grounds.reasons, ["no session"]);
}

#[test]
fn only_true_allows() {
    assert!(decide("allow := true", &request("/")).is_ok());
    assert!(decide(r#"allow := {"allowed": true}"#, &request("/")).is_ok());
    for rules in [
        "allow := false",
        "allow if input.nothing",
        "default allow := false\nallow if input.attributes.request.http.method == \"POST\"",
        r#"allow := {"allowed": false}"#,
    ] {
        assert!(is_denied(rules), "{rules}");
    }
}

#[test]
fn a_result_of_another_form_is_a_fault_that_names_it() {
    let shape = "the policy's result is neither a boolean nor an object";
    for rules in
        ["allow := \"true\"", "allow := 1", "allow := null", "allow := [true]", "allow := {true}"]
    {
        assert_eq!(fault(rules), shape, "{rules}");
    }
    assert!(fault("allow := {}").contains("no `allowed`"));
    for (field, value) in [
        ("allowed", "\"true\""),
        ("allowed", "1"),
        ("headers", "\"a\""),
        ("headers", "{\"a\": 1}"),
        ("headers", "[[]]"),
        ("headers", "{1: \"a\"}"),
        ("response_headers_to_add", "{\"a\": [1]}"),
        ("request_headers_to_remove", "\"a\""),
        ("request_headers_to_remove", "[1]"),
        ("query_parameters_to_set", "[{\"a\": \"b\"}]"),
        ("query_parameters_to_remove", "{\"a\": 1}"),
        ("dynamic_metadata", "[]"),
        ("dynamic_metadata", "{\"a\": {1: 2}}"),
        ("reason", "1"),
        ("subject", "\"\""),
        ("subject", "1"),
        ("entitlements", "[\"a\"]"),
        ("entitlements", "[{\"type\": \"a\", \"id\": 1, \"action\": \"b\"}]"),
    ] {
        let first = if field == "allowed" { "" } else { "\"allowed\": true, " };
        let text = fault(&format!("allow := {{{first}\"{field}\": {value}}}"));
        assert!(text.contains(&format!("`{field}`")), "{field} {value}: {text}");
    }
    for (field, value) in [("http_status", "\"401\""), ("http_status", "200.5"), ("body", "1")] {
        let text = fault(&format!("allow := {{\"allowed\": false, \"{field}\": {value}}}"));
        assert!(text.contains(&format!("`{field}`")), "{field} {value}: {text}");
    }
}

#[test]
fn what_is_not_a_policys_to_change_is_a_fault() {
    for (field, value) in [
        ("headers", r#"{"X-Placet-Decision": "forged"}"#),
        ("headers", r#"{"x_placet_decision": "forged"}"#),
        ("headers", r#"{":path": "/admin"}"#),
        ("headers", r#"{"host": "evil.example"}"#),
        ("headers", r#"{"x-a": "1\r\nx-placet-decision: 2"}"#),
        ("request_headers_to_remove", r#"["x-placet-decision"]"#),
        ("response_headers_to_add", r#"{"content-length": "0"}"#),
    ] {
        let text = fault(&format!("allow := {{\"allowed\": true, \"{field}\": {value}}}"));
        assert!(text.contains("can't be done"), "{field} {value}: {text}");
    }
    for status in [100, 200, 204, 600] {
        let text = fault(&format!("allow := {{\"allowed\": false, \"http_status\": {status}}}"));
        assert!(text.contains("status of a denial"), "{status}: {text}");
    }
}

#[test]
fn a_contradiction_is_a_fault_even_where_it_is_denied() {
    for rules in [
        "h := 1 if true\nh := 2 if true\nallow if not h",
        "h := v if some v in [1, 2]\nallow if not h",
        "f(x) := 1 if x\nf(x) := 2 if x\nallow if not f(3)",
        "h[k] := v if { some v in [1, 2]; k := \"a\" }\nallow if h.a == 2",
        "allow if { {\"a\": v | some v in [1, 2]}.a == 2 }",
    ] {
        let rego = load(rules);
        assert_eq!(rego.evaluator(), Evaluator::Interpreter, "{rules}");
        let verdict = ask(&rego, &request("/"));
        assert!(matches!(verdict.effect, Effect::Fault(_)), "{rules}: {verdict:?}");
    }
}

#[test]
fn an_evaluation_that_does_not_end_is_a_fault() {
    for rules in [
        "n := numbers.range(1, 2000)\nallow if { some a in n; some b in n; some c in n; a + b + c == -1 }",
        "n := numbers.range(1, 2000)\nallow if { some a in n; some b in n; some c in n; crypto.sha256(sprintf(\"%d %d %d\", [a, b, c])) == \"\" }",
    ] {
        let verdict = ask(&load(rules), &request("/"));
        assert!(matches!(verdict.effect, Effect::Fault(_)), "{rules}: {verdict:?}");
    }
}

#[test]
fn the_machine_takes_what_it_can_and_the_interpreter_the_rest() {
    let roles = "default allow := false\nallow if { some role in data.roles; role == input.parsed_path[0] }";
    for (rules, evaluator) in [
        (roles, Evaluator::Machine),
        ("default allow := false\nallow if input.parsed_path == [\"a\"]", Evaluator::Machine),
        ("result[\"allowed\"] := true\nallow := result", Evaluator::Interpreter),
        ("allow if time.now_ns() > 0", Evaluator::Interpreter),
        ("allow if crypto.sha1(\"a\") != \"\"", Evaluator::Interpreter),
    ] {
        assert_eq!(load(rules).evaluator(), evaluator, "{rules}");
    }
}

#[test]
fn the_time_is_the_decisions() {
    let seconds = NOW.seconds();
    assert!(
        decide(&format!("allow if time.now_ns() == {seconds} * 1000000000"), &request("/")).is_ok()
    );
}

#[test]
fn both_versions_of_rego_are_read_file_by_file() {
    let v0 = "package envoy.authz\ndefault allow = false\nallow { input.parsed_path[_] == roles[_] }\nroles[r] { r := data.roles[_] }";
    let v1 = "package other\nx if input.a";
    let keywords = "package third\nimport future.keywords\ny if { some x in [1]; x == 1 }";
    let rego = load_all(&[
        ("a/p.rego", v0),
        ("b.rego", v1),
        ("c.rego", keywords),
        ("roles/data.json", r#"["admin"]"#),
        ("p_test.rego", "not rego at all"),
        ("readme.json", "not read"),
    ])
    .unwrap();
    assert!(matches!(ask(&rego, &request("/admin")).effect, Effect::Permitted));
    assert!(matches!(ask(&rego, &request("/other")).effect, Effect::Unmatched));
    let v0_only = [("p.rego", v0), (".manifest", r#"{"rego_version": 1}"#)];
    assert_eq!(errors(&v0_only).len(), 1);
    let broken = errors(&[("p.rego", "package envoy.authz\nallow if {")]);
    assert!(broken[0].contains("p.rego"), "{broken:?}");
    assert!(!broken[0].contains('\n'), "{broken:?}");
}

#[test]
fn what_is_not_provided_is_refused_with_its_line() {
    for (call, says) in [
        ("http.send({\"method\": \"get\", \"url\": \"x\"})", "`http.send` is not provided"),
        ("opa.runtime()", "`opa.runtime` is not provided"),
        ("trace(\"a\")", "`trace` is not provided"),
        ("print(\"a\")", "`print` is not provided"),
        ("crypto.md5(\"a\")", "`crypto.md5` is not provided"),
        ("nowhere(1)", "the function `nowhere` is not defined"),
        ("data.other.f(1)", "the function `data.other.f` is not defined"),
        ("[_, 1] = walk(input)", "`walk(x, [path, value])`"),
        ("crypto.sha256(\"a\", 1)", "`crypto.sha256` takes 1 arguments"),
    ] {
        let text = format!("package envoy.authz\nimport rego.v1\nallow if true\nx if {call}\n");
        let errors = errors(&[("p.rego", &text)]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains(says) && errors[0].contains("line 4"), "{errors:?}");
    }
    let called = "package envoy.authz\nimport rego.v1\nimport data.lib\nimport data.lib.g as h\nf(x) := x\nallow if { f(1); lib.g(1); h(1); data.lib.g(1); data.envoy.authz.f(1) }";
    let lib = "package lib\nimport rego.v1\ng(x) := x";
    assert!(load_all(&[("p.rego", called), ("lib.rego", lib)]).is_ok());
}

#[test]
fn what_can_not_decide_is_refused() {
    let good = "package envoy.authz\nallow := true";
    let one = |files: &[(&str, &str)], says: &str| {
        let errors = errors(files);
        assert!(errors.iter().any(|error| error.contains(says)), "{errors:?}");
    };
    one(&[("p.rego", "package other\nallow := true")], "names no rule");
    one(&[("p.rego", good), ("data.json", "[]")], "is not an object");
    one(&[("p.rego", good), ("data.json", "{\"a\":1,\"a\":2}")], "twice");
    one(
        &[("p.rego", good), ("data.json", r#"{"a":{"b":1}}"#), ("a/data.json", r#"{"b":1}"#)],
        "`a/b`",
    );
    one(&[("p.rego", good), (".manifest", r#"{"roots":["other"]}"#)], "outside the roots");
    let over = r#"{"envoy":{"authz":{"allow":true}}}"#;
    one(&[("p.rego", "package envoy.authz\nallow := false"), ("data.json", over)], "is a rule");
    let roots = r#"{"roots":["envoy/authz","roles"]}"#;
    one(
        &[("p.rego", good), (".manifest", roots), ("data.json", r#"{"x":1}"#)],
        "outside the roots",
    );
    let files = [("p.rego", good), (".manifest", roots), ("data.json", r#"{"roles":{"x":1}}"#)];
    assert!(load_all(&files).is_ok());
    let none = Rego::load(&sources(std::path::Path::new("/nonexistent/x"))).unwrap_err();
    assert!(none[0].to_string().contains("neither a directory"), "{none:?}");
}

#[test]
fn what_placet_knows_is_there_for_policies_that_ask() {
    let rules = r#"allow if { input.placet.principal.type == "Anonymous"; input.placet.target == {"type": "Path", "id": "/", "action": "get"} }"#;
    assert!(decide(rules, &request("/")).is_ok());
}

/// Terms that look at the request, at data, at other rules and at nothing, some of which fail.
const TERMS: [&str; 26] = [
    "true",
    "input.parsed_path[0] == \"a\"",
    "input.parsed_path == [\"a\", x]",
    "some segment in input.parsed_path; segment == \"b\"",
    "input.parsed_query.q[_] == data.roles[_]",
    "input.absent",
    "not input.absent",
    "not input.attributes.request.http.headers[\"x-a\"]",
    "input.attributes.request.http.method in {\"GET\", \"POST\"}",
    "role",
    "not role",
    "roles[\"admin\"]",
    "count(roles) > 1",
    "count({r | some r in data.roles}) == 2",
    "[p | some p in input.parsed_path; p != \"\"][0] == \"a\"",
    "every p in input.parsed_path { p != \"z\" }",
    "to_number(input.parsed_path[0]) > 1",
    "not to_number(input.parsed_path[0])",
    "glob.match(\"/a/*\", [\"/\"], input.attributes.request.http.path)",
    "startswith(input.attributes.request.http.path, \"/a\")",
    "f(input.parsed_path[0])",
    "not f(input.parsed_path[1])",
    "data.roles[_] == \"admin\"",
    "data.grants[input.parsed_path[0]][_] == \"read\"",
    "object.get(data.grants, input.parsed_path[0], []) == []",
    "1 / (count(input.parsed_path) - 1) > 0",
];

fn module(bodies: &[BTreeSet<usize>]) -> String {
    let body = |terms: &BTreeSet<usize>| {
        let terms: Vec<_> = terms.iter().map(|term| TERMS[*term]).collect();
        terms.join("\n    ").replace("[\"a\", x]", "[\"a\", \"b\"]")
    };
    let mut text = String::from(
        "package envoy.authz\nimport rego.v1\ndefault allow := false\n\
         f(x) if x == \"a\"\nf(x) if { some y in data.roles; x == y }\n\
         roles contains r if { some r in data.roles }\nrole if roles[input.parsed_path[0]]\n",
    );
    for terms in bodies {
        text.push_str(&format!("allow if {{\n    {}\n}}\n", body(terms)));
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_machine_answers_as_the_interpreter(
        bodies in proptest::collection::vec(proptest::collection::btree_set(0..TERMS.len(), 1..4), 1..4),
        target in proptest::sample::select(vec!["/", "/a", "/a/b", "/admin", "/a/b/c?q=admin", "/b?q=x&q=user", "/5"]),
        header in any::<bool>(),
    ) {
        let data = r#"{"roles": ["admin", "user"], "grants": {"a": ["read"], "b": []}}"#;
        let load = || load_all(&[("p.rego", &module(&bodies)), ("data.json", data)]).unwrap();
        let machine = load();
        prop_assert_eq!(machine.evaluator(), Evaluator::Machine);
        let interpreter = load().interpreted();
        let mut request = request(target);
        if header {
            request.headers.push("x-a", "1");
        }
        // Twice: what one evaluation leaves behind must not reach the next.
        for _ in 0..2 {
            let fast = ask(&machine, &request);
            let slow = ask(&interpreter, &request);
            prop_assert_eq!(format!("{:?}", fast.effect), format!("{:?}", slow.effect), "{}", module(&bodies));
        }
    }

    #[test]
    fn no_result_panics(text in "[a-z_]{0,12}", number in any::<i64>(), values in proptest::collection::vec(".{0,8}", 0..4)) {
        let fields = ["allowed", "headers", "http_status", "body", "dynamic_metadata", "reason", "entitlements", text.as_str()];
        for field in fields {
            for value in [json!(values), json!(number), json!(text), json!({"a": values}), json!(null)] {
                for allowed in [true, false] {
                    let document = json!({"allowed": allowed, field: value});
                    let _ = result::read(&input::value(&document), &Protected::default());
                }
            }
        }
    }
}
