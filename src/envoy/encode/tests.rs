use super::*;
use crate::authorizer::Facts;
use crate::fixture::{self, NOW};
use crate::policy::{Changes, Protected};
use crate::token::Channel;

async fn answer(scope: &Scope, target: &str) -> CheckResponse {
    let decision =
        scope.authorizer.authorize(&fixture::request("GET", target), Channel::Proxy, NOW).await;
    response(Some(scope), &decision)
}

fn code(response: &CheckResponse) -> i32 {
    response.status.as_ref().unwrap().code
}

fn denied(response: CheckResponse) -> DeniedHttpResponse {
    match response.http_response.unwrap() {
        HttpResponse::DeniedResponse(denied) => denied,
        other => panic!("{other:?}"),
    }
}

fn allowed(response: CheckResponse) -> OkHttpResponse {
    match response.http_response.unwrap() {
        HttpResponse::OkResponse(ok) => ok,
        other => panic!("{other:?}"),
    }
}

fn header<'a>(headers: &'a [HeaderValueOption], name: &str) -> Option<&'a str> {
    let mut found = headers.iter().filter_map(|h| h.header.as_ref()).filter(|h| h.key == name);
    let value = found.next().map(|header| header.value.as_str());
    assert!(found.next().is_none(), "{name} stands twice");
    value
}

#[tokio::test]
async fn an_allow_overwrites_the_header_and_removes_its_twins_only() {
    let mut scope = fixture::scope("orders");
    scope.header.prefix = "Bearer ".to_owned();
    let response = answer(&scope, "/accounts/1").await;
    assert_eq!(code(&response), 0);
    let ok = allowed(response);
    assert!(header(&ok.headers, "x-placet-decision").unwrap().starts_with("Bearer eyJ"));
    let option = &ok.headers[0];
    #[expect(deprecated, reason = "`append` is what is tested")]
    let append = option.append;
    assert_eq!(append, Some(BoolValue { value: false }));
    assert_eq!(option.append_action, i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd));
    let mut removed = ok.headers_to_remove;
    removed.sort_unstable();
    let twins = ["cookie", "x-placet_decision", "x_placet-decision", "x_placet_decision"];
    assert_eq!(removed, twins, "never the header itself: removal runs last");
}

#[test]
fn what_a_policy_wants_changed_is_written() {
    let text = |text: &str| text.to_owned();
    let pair = |name: &str, value: &str| (text(name), text(value));
    let changes = Changes {
        headers: vec![pair("x-role", "admin")],
        remove_headers: vec![text("x-debug")],
        response_headers: vec![pair("set-cookie", "a=1"), pair("set-cookie", "b=2")],
        query: vec![pair("a b", "1 &c=2é")],
        remove_query: vec![text("d&")],
        metadata: Map::default(),
    };
    let mutations = Mutations::new(changes, &Protected::default()).unwrap();
    let mut ok = OkHttpResponse::default();
    mutate(&mut ok, &mutations);
    assert_eq!(ok.headers, [overwrite("x-role", text("admin"))]);
    assert_eq!(ok.headers_to_remove, ["x-debug"]);
    assert_eq!(ok.response_headers_to_add.len(), 2);
    let action = HeaderAppendAction::AppendIfExistsOrAdd;
    assert!(ok.response_headers_to_add.iter().all(|add| add.append_action == i32::from(action)));
    let query = &ok.query_parameters_to_set[0];
    assert_eq!((query.key.as_str(), query.value.as_str()), ("a%20b", "1%20%26c%3D2%C3%A9"));
    assert_eq!(ok.query_parameters_to_remove, ["d%26"]);
}

#[tokio::test]
async fn a_bypass_removes_the_header_too() {
    let ok = allowed(answer(&fixture::scope("orders"), "/healthz").await);
    assert!(ok.headers.is_empty());
    for name in ["x-placet-decision", "x_placet_decision", "x-placet_decision", "x_placet-decision"]
    {
        assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}");
    }
}

#[test]
fn every_denial_sets_both_status_and_response() {
    use Reason::*;
    for reason in [
        NoCredentials,
        BadToken,
        NoScope,
        NoRoute,
        NoPermit,
        Forbidden,
        BadPath,
        BadRequest,
        KeyUnavailable,
        PolicyError,
        Deadline,
        Overload,
        Internal,
    ] {
        let answer = response(None, &Decision::denied(Denial::new(reason, "the cause")));
        assert_eq!(code(&answer), if reason.status() == 401 { 16 } else { 7 }, "{reason:?}");
        let denied = denied(answer);
        assert_eq!(denied.status.unwrap().code, i32::from(reason.status()));
        assert!(!denied.body.contains("cause"), "{}", denied.body);
        let challenge = header(&denied.headers, "www-authenticate");
        assert_eq!(challenge.is_some(), reason.status() == 401, "{reason:?}");
        assert_eq!(header(&denied.headers, "content-type"), Some("application/json"));
    }
}

#[test]
fn a_grant_without_a_scope_is_denied() {
    let response =
        response(None, &Decision { outcome: Ok(Grant::Bypass), facts: Facts::default() });
    assert_eq!(code(&response), 7);
    assert_eq!(denied(response).status.unwrap().code, 503);
}

#[test]
fn the_challenge_tells_a_bad_token_from_none() {
    for (reason, expected) in
        [(NoCredentials, "Bearer"), (BadToken, r#"Bearer error="invalid_token""#)]
    {
        let denied = denied(response(None, &Decision::denied(Denial::new(reason, ""))));
        assert_eq!(header(&denied.headers, "www-authenticate"), Some(expected));
    }
    use Reason::*;
}

#[test]
fn a_custom_denial_changes_403_only() {
    let mut scope = fixture::scope("orders");
    scope.deny = DenyResponse {
        status: 404,
        headers: vec![("x-denied".to_owned(), "yes".to_owned())],
        body: Some("nothing here".to_owned()),
    };
    let deny = |reason| denied(response(Some(&scope), &Decision::denied(Denial::new(reason, ""))));
    let forbidden = deny(Reason::Forbidden);
    assert_eq!(forbidden.status.unwrap().code, 404);
    assert_eq!(forbidden.body, "nothing here");
    assert_eq!(header(&forbidden.headers, "x-denied"), Some("yes"));
    assert_eq!(header(&forbidden.headers, "content-type"), None);
    let bad_path = deny(Reason::BadPath);
    assert_eq!(bad_path.status.unwrap().code, 400);
    assert_eq!(bad_path.body, r#"{"code":400,"error":"Bad Request"}"#);
    assert_eq!(header(&bad_path.headers, "x-denied"), Some("yes"));
    let standard = denied(response(None, &Decision::denied(Denial::new(Reason::NoPermit, ""))));
    assert_eq!(standard.body, r#"{"code":403,"error":"Forbidden"}"#);
}
