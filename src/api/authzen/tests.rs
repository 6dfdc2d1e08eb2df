use axum::body::Body;
use http::HeaderMap;
use serde_json::json;

use super::*;
use crate::api::fixture::{WORKLOAD, basic, desk, scope};
use crate::scope::Api;
use crate::tls::TlsPeer;

/// What ends in an even digit may be read; a forbid fails on writing.
const POLICY: &str = r#"
    permit(principal, action == Action::"read", resource) when { resource.even };
    forbid(principal, action == Action::"write", resource) when { resource.absent };
"#;

fn orders() -> Scope {
    let entity = |id: usize| {
        let even = id.is_multiple_of(2);
        json!({"uid": {"type": "Account", "id": id.to_string()}, "attrs": {"even": even}, "parents": []})
    };
    scope("orders", POLICY, &json!((0..6).map(entity).collect::<Vec<_>>()).to_string())
}

fn asked(action: &str, account: &str) -> Value {
    json!({
        "subject": {"type": "User", "id": "alice"},
        "action": {"name": action},
        "resource": {"type": "Account", "id": account},
    })
}

fn request(body: impl Into<Body>) -> Request {
    http::Request::post("/")
        .header("authorization", basic("orders:secret"))
        .header("content-type", "application/json")
        .header("x-request-id", "id-1")
        .body(body.into())
        .unwrap()
}

/// Status, headers, and the body as JSON or text.
async fn send(scope: Scope, endpoint: Endpoint, request: Request) -> (u16, HeaderMap, Value) {
    let (desk, _log) = desk(scope);
    let (parts, body) = serve(desk, endpoint, request).await.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = || Value::from(String::from_utf8(bytes.to_vec()).unwrap());
    (
        parts.status.as_u16(),
        parts.headers,
        serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
    )
}

async fn ask(endpoint: Endpoint, body: Value) -> (u16, Value) {
    let (status, headers, answer) = send(orders(), endpoint, request(body.to_string())).await;
    assert_eq!(headers["x-request-id"], "id-1");
    assert_eq!(headers["cache-control"], "no-store");
    (status, answer)
}

async fn evaluate(body: Value) -> (u16, Value) {
    ask(Endpoint::Evaluation, body).await
}

#[tokio::test]
async fn a_question_is_answered() {
    assert_eq!(evaluate(asked("read", "2")).await, (200, json!({"decision": true})));
    let (status, denied) = evaluate(asked("read", "1")).await;
    assert_eq!((status, &denied["decision"]), (200, &json!(false)));
    assert_eq!(denied["context"]["reason"], "no_permit");
    assert!(denied["context"]["id"].is_string());
}

#[tokio::test]
async fn a_yes_is_signed_where_it_is_asked_for() {
    let mut body = asked("read", "2");
    body["options"] = json!({"token": true});
    let (_, answer) = evaluate(body.clone()).await;
    assert_eq!(answer["decision"], true);
    assert_eq!(answer["context"]["token"].as_str().unwrap().split('.').count(), 3);
    body["resource"]["id"] = json!("1");
    assert_eq!(evaluate(body).await.1["context"].get("token"), None);
}

#[tokio::test]
async fn a_fault_of_ours_is_no_answer_to_one_question_and_a_no_in_a_batch() {
    assert_eq!(evaluate(asked("write", "2")).await, (500, json!("policy_error\n")));
    let mut body = asked("read", "2");
    body["evaluations"] = json!([{"action": {"name": "write"}}, {}]);
    let (status, answer) = ask(Endpoint::Evaluations, body).await;
    let first = &answer["evaluations"][0];
    assert_eq!((status, &first["decision"]), (200, &json!(false)));
    assert_eq!(first["context"]["error"], json!({"status": 500, "message": "policy_error"}));
    assert_eq!(answer["evaluations"][1], json!({"decision": true}));
}

#[tokio::test]
async fn a_batch_ends_where_its_semantic_says() {
    for (semantic, decisions) in [
        ("execute_all", vec![true, false, false, true]),
        ("deny_on_first_deny", vec![true, false]),
        ("permit_on_first_permit", vec![true]),
    ] {
        let mut body = asked("read", "0");
        body["options"] = json!({"evaluations_semantic": semantic});
        let resource = |id: &str| json!({"resource": {"id": id}});
        body["evaluations"] = json!([resource("2"), resource("1"), {"resource": 1}, resource("4")]);
        let (status, answer) = ask(Endpoint::Evaluations, body).await;
        let answers = answer["evaluations"].as_array().unwrap();
        let given: Vec<_> = answers.iter().map(|it| it["decision"].as_bool().unwrap()).collect();
        assert_eq!((status, given), (200, decisions), "{semantic}");
        assert_eq!(answer.get("decision"), None);
    }
    let one = ask(Endpoint::Evaluations, asked("read", "2")).await;
    assert_eq!(one, (200, json!({"decision": true})));
}

#[tokio::test]
async fn a_search_is_paged() {
    let mut body = asked("read", "ignored");
    body["page"] = json!({"limit": 2});
    let (_, first) = ask(Endpoint::Search(Open::Asset), body.clone()).await;
    let account = |id: &str| json!({"type": "Account", "id": id});
    assert_eq!(first["results"], json!([account("0"), account("2")]));
    assert_eq!(first["page"]["count"], 2);
    body["page"]["token"] = first["page"]["next_token"].clone();
    let (_, second) = ask(Endpoint::Search(Open::Asset), body.clone()).await;
    let page = json!({"next_token": "", "count": 1});
    assert_eq!(second, json!({"results": [account("4")], "page": page}));
    body["subject"]["id"] = json!("bob");
    assert_eq!(ask(Endpoint::Search(Open::Asset), body).await.0, 400);
    let (_, actions) = ask(Endpoint::Search(Open::Action), asked("", "2")).await;
    assert_eq!(actions["results"], json!([{"name": "read"}]));
}

#[tokio::test]
async fn who_can_not_be_told_is_sent_away() {
    let good = asked("read", "2").to_string();
    for (credentials, expected) in [
        (None, 401),
        (Some(basic("orders:wrong")), 401),
        (Some(basic("billing:secret")), 401),
        (Some("Bearer secret".to_owned()), 401),
        (Some(basic("orders:secret")), 200),
    ] {
        let mut request = request(good.clone());
        request.headers_mut().remove("authorization");
        if let Some(credentials) = &credentials {
            request.headers_mut().insert("authorization", credentials.parse().unwrap());
        }
        let (status, headers, _) = send(orders(), Endpoint::Evaluation, request).await;
        assert_eq!(status, expected, "{credentials:?}");
        assert_eq!(headers.contains_key("www-authenticate"), status == 401);
    }
    let mut twice = request(good);
    twice.headers_mut().append("authorization", basic("orders:secret").parse().unwrap());
    assert_eq!(send(orders(), Endpoint::Evaluation, twice).await.0, 401);
}

#[tokio::test]
async fn a_caller_may_show_a_certificate_instead() {
    let other = format!("{WORKLOAD}/x");
    for (peer, authorization, expected) in [
        (Some(WORKLOAD), None, 200),
        (Some(WORKLOAD), Some(basic("orders:wrong")), 401),
        (Some(WORKLOAD), Some("Bearer x".to_owned()), 401),
        (Some(other.as_str()), None, 401),
        (Some(other.as_str()), Some(basic("orders:secret")), 200),
        (None, None, 401),
    ] {
        let mut request = request(asked("read", "2").to_string());
        request.headers_mut().remove("authorization");
        if let Some(authorization) = &authorization {
            request.headers_mut().insert("authorization", authorization.parse().unwrap());
        }
        for claimed in ["x-forwarded-client-cert", "client-cert", "x-spiffe-id"] {
            request.headers_mut().insert(claimed, format!("URI={WORKLOAD}").parse().unwrap());
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(TlsPeer::named(peer));
        }
        let status = send(orders(), Endpoint::Evaluation, request).await.0;
        assert_eq!(status, expected, "{peer:?} {authorization:?}");
    }
}

#[tokio::test]
async fn it_is_off_until_it_is_switched_on() {
    let good = || request(asked("read", "2").to_string());
    for (authzen, check, expected) in [(false, false, 404), (false, true, 404), (true, true, 200)] {
        let mut scope = orders();
        scope.api = scope.api.map(|api| Api { authzen, check, ..api });
        assert_eq!(send(scope, Endpoint::Evaluation, good()).await.0, expected);
    }
    let closed = Scope { api: None, ..orders() };
    assert_eq!(send(closed, Endpoint::Evaluation, good()).await.0, 404);
}

#[tokio::test]
async fn what_can_not_be_read_is_a_bad_request() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(64), "]".repeat(64));
    for body in ["", "{", "[]", "null", "{}", r#"{"subject":1,"subject":1}"#, &deep] {
        let (status, _, message) =
            send(orders(), Endpoint::Evaluation, request(body.to_owned())).await;
        assert_eq!(status, 400, "{body}: {message}");
    }
    for kind in ["text/plain", "application/jsonx", "", "application/json, text/plain"] {
        let mut request = request(asked("read", "2").to_string());
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        assert_eq!(send(orders(), Endpoint::Evaluation, request).await.0, 400, "{kind}");
    }
    let mut bare = request(asked("read", "2").to_string());
    bare.headers_mut().remove("content-type");
    assert_eq!(send(orders(), Endpoint::Evaluation, bare).await.0, 400);
    let mut marked = request(asked("read", "2").to_string());
    let kind = "Application/JSON; charset=utf-8".parse().unwrap();
    marked.headers_mut().insert("content-type", kind);
    assert_eq!(send(orders(), Endpoint::Evaluation, marked).await.0, 200);
    let long = " ".repeat(MAX_BODY_BYTES) + &asked("read", "2").to_string();
    assert_eq!(send(orders(), Endpoint::Evaluation, request(long)).await.0, 413);
}

#[tokio::test]
async fn every_answer_is_recorded_and_nothing_of_the_question_but_its_names() {
    let (desk, log) = desk(orders());
    let mut body = asked("read", "2");
    body["subject"]["properties"] = json!({"email": "canary"});
    body["evaluations"] = json!([{}, {"resource": {"id": "1"}}, {"resource": 1}]);
    let mut wrong = request(body.to_string());
    wrong.headers_mut().insert("authorization", basic("orders:wrong").parse().unwrap());
    serve(desk.clone(), Endpoint::Evaluations, request(body.to_string())).await;
    serve(desk, Endpoint::Evaluations, wrong).await;
    let records = log.records();
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!((&records[0]["outcome"], &records[1]["outcome"]), (&json!("allow"), &json!("deny")));
    for record in &records {
        assert_eq!((&record["scope"], &record["requestId"]), (&json!("orders"), &json!("id-1")));
        assert_eq!(record["principal"]["id"], "alice");
        assert!(!record.to_string().contains("canary"), "{record}");
    }
}

#[tokio::test]
async fn the_metadata_is_at_its_address_and_nowhere_else() {
    async fn get(scope: Scope, path: &str) -> (u16, Value) {
        let (desk, _log) = desk(scope);
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        let (parts, body) = metadata(State(desk), request).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
    }
    let (status, document) = get(orders(), PublicUrl::METADATA).await;
    assert_eq!(status, 200);
    assert_eq!(document["policy_decision_point"], "https://pdp.example.com");
    for (name, path) in [
        ("access_evaluation_endpoint", EVALUATION),
        ("access_evaluations_endpoint", EVALUATIONS),
        ("search_subject_endpoint", SEARCH_SUBJECT),
        ("search_resource_endpoint", SEARCH_RESOURCE),
        ("search_action_endpoint", SEARCH_ACTION),
    ] {
        assert_eq!(document[name], format!("https://pdp.example.com{path}"));
    }
    let below = format!("{}/orders", PublicUrl::METADATA);
    assert_eq!(get(orders(), &below).await.0, 404);
    let unnamed = |scope: Scope| {
        let api = scope.api.map(|api| Api { public_url: None, ..api });
        Scope { api, ..orders() }
    };
    assert_eq!(get(unnamed(orders()), PublicUrl::METADATA).await.0, 404);
    let off = |scope: Scope| {
        let api = scope.api.map(|api| Api { authzen: false, ..api });
        Scope { api, ..orders() }
    };
    assert_eq!(get(off(orders()), PublicUrl::METADATA).await.0, 404);
}
