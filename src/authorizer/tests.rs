use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::Value;

use super::*;
use crate::fixture::{self, NOW, request};

async fn decide(authorizer: &Authorizer, request: &Request) -> Result<Grant, Denial> {
    authorizer.authorize(request, Channel::Proxy, NOW).await.outcome
}

async fn reason(authorizer: &Authorizer, request: &Request) -> Reason {
    decide(authorizer, request).await.unwrap_err().reason()
}

fn claims(grant: &Grant) -> Value {
    let Grant::Signed { token, .. } = grant else { panic!("no token") };
    let payload = token.as_str().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn a_permitted_request_gets_a_token_for_its_target() {
    let decision = fixture::authorizer()
        .authorize(&request("GET", "/accounts/1?a=b"), Channel::Proxy, NOW)
        .await;
    let claims = claims(&decision.outcome.unwrap());
    assert_eq!(claims["entitlements"], "Account:1:read");
    assert_eq!(claims["htm"], "GET");
    assert_eq!(claims["htu"], "http://orders.example:8080/accounts/1");
    assert_eq!(decision.facts.grounds.unwrap().determining, ["read-1"]);
}

#[tokio::test]
async fn each_step_refuses_with_its_own_reason() {
    let authorizer = fixture::authorizer();
    let closed = Authorizer { identity: fixture::identity(false), ..fixture::authorizer() };
    let mut forbidden = request("GET", "/accounts/1");
    forbidden.headers.push("X-Forbid", "");
    for (authorizer, request, expected) in [
        (&authorizer, request("GET", "/accounts/../1"), Reason::BadPath),
        (&authorizer, request("CONNECT", ""), Reason::BadPath),
        (&authorizer, request("GET", "/nowhere"), Reason::NoRoute),
        (&authorizer, request("GET", "/accounts/2"), Reason::NoPermit),
        (&authorizer, forbidden, Reason::Forbidden),
        (&closed, request("GET", "/accounts/1"), Reason::NoCredentials),
        (&closed, request("GET", "/nowhere"), Reason::NoCredentials),
        (&closed, request("GET", "//healthz"), Reason::BadPath),
    ] {
        assert_eq!(reason(authorizer, &request).await, expected, "{}", request.target);
    }
}

#[tokio::test]
async fn a_denial_says_what_was_wrong_for_the_log() {
    let denial = decide(&fixture::authorizer(), &request("GET", "//")).await.unwrap_err();
    assert_eq!(denial.detail(), "the path has an empty segment (`//`)");
}

#[tokio::test]
async fn a_bypass_asks_nobody() {
    let closed = Authorizer { identity: fixture::identity(false), ..fixture::authorizer() };
    let grant = decide(&closed, &request("GET", "/healthz")).await.unwrap();
    assert!(matches!(grant, Grant::Bypass));
    assert_eq!(reason(&closed, &request("GET", "/healthz/")).await, Reason::NoCredentials);
}

#[tokio::test]
async fn without_a_key_nothing_is_granted() {
    let keys = fixture::no_keys();
    let minter = Minter::new(fixture::claim_settings(), keys);
    let keyless = Authorizer { minter, ..fixture::authorizer() };
    assert_eq!(reason(&keyless, &request("GET", "/accounts/1")).await, Reason::KeyUnavailable);
    assert_eq!(reason(&keyless, &request("GET", "/accounts/2")).await, Reason::NoPermit);
}

#[tokio::test]
async fn entitlements_are_listed_completely_and_only_where_permitted() {
    let policies = r#"
        permit(principal, action == Action::"read", resource)
            when { resource in Folder::"open" || resource == Account::"1" };
        forbid(principal, action, resource == Account::"4");
    "#;
    let entities = r#"[
        {"uid": {"type": "Account", "id": "3"}, "attrs": {}, "parents": [{"type": "Folder", "id": "open"}]},
        {"uid": {"type": "Account", "id": "4"}, "attrs": {}, "parents": [{"type": "Folder", "id": "open"}]},
        {"uid": {"type": "Account", "id": "2"}, "attrs": {}, "parents": [{"type": "Folder", "id": "open"}]},
        {"uid": {"type": "Account", "id": "9"}, "attrs": {}, "parents": []},
        {"uid": {"type": "Folder", "id": "open"}, "attrs": {}, "parents": []}
    ]"#;
    let listing = fixture::listing_authorizer(policies, entities);
    let listed = |target: &'static str| {
        let listing = &listing;
        async move {
            let grant = decide(listing, &request("GET", target)).await.unwrap();
            claims(&grant)["entitlements"].as_str().unwrap().to_owned()
        }
    };
    assert_eq!(listed("/accounts/2").await, "Account:2:read,Account:3:read");
    // An asset that no entity describes is still the decision itself.
    assert_eq!(listed("/accounts/1").await, "Account:1:read,Account:2:read,Account:3:read");
    assert_eq!(reason(&listing, &request("GET", "/accounts/4")).await, Reason::Forbidden);
    assert_eq!(reason(&listing, &request("GET", "/accounts/9")).await, Reason::NoPermit);
}

/// A long list lets the deadline strike: the deadline's timer is past, and only a pause shows it.
#[tokio::test]
async fn a_long_list_of_entitlements_ends_at_the_deadline() {
    let entities: Vec<_> = (0..2_000)
        .map(|id| serde_json::json!({"uid": {"type": "Account", "id": id.to_string()}, "attrs": {}, "parents": []}))
        .collect();
    let entities = serde_json::to_string(&entities).unwrap();
    let listing = fixture::listing_authorizer("permit(principal, action, resource);", &entities);
    let asked = request("GET", "/accounts/1");
    let deadline = std::time::Duration::from_millis(1);
    let decision =
        tokio::time::timeout(deadline, listing.authorize(&asked, Channel::Proxy, NOW)).await;
    assert!(decision.is_err(), "the whole list was decided without a pause");
}

#[test]
fn every_reason_denies_with_the_status_of_the_contract() {
    use Reason::*;
    let all = [
        (NoCredentials, "no_credentials", 401),
        (BadToken, "bad_token", 401),
        (NoScope, "no_scope", 403),
        (NoRoute, "no_route", 403),
        (NoPermit, "no_permit", 403),
        (Forbidden, "forbidden", 403),
        (BadPath, "bad_path", 400),
        (BadRequest, "bad_request", 400),
        (KeyUnavailable, "key_unavailable", 503),
        (PolicyError, "policy_error", 503),
        (Deadline, "deadline", 503),
        (Overload, "overload", 503),
        (Internal, "internal", 503),
    ];
    for (reason, code, status) in all {
        assert_eq!((reason.code(), reason.status()), (code, status));
    }
}
