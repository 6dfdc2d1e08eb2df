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
    assert_eq!(decision.facts.opinion.unwrap().grounds.determining, ["read-1"]);
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
    let policy = r#"permit(principal, action, resource) when { resource has owner || resource == Account::"1" };"#;
    let listing = fixture::listing_authorizer(policy, &accounts(4_000));
    let asked = request("GET", "/accounts/1");
    let deadline = std::time::Duration::from_millis(1);
    let decision =
        tokio::time::timeout(deadline, listing.authorize(&asked, Channel::Proxy, NOW)).await;
    assert!(decision.is_err(), "the whole list was decided without a pause");
}

fn accounts(count: usize) -> String {
    let account =
        |id| serde_json::json!({"uid": {"type": "Account", "id": id}, "attrs": {}, "parents": []});
    let accounts: Vec<_> = (0..count).map(|id| account(id.to_string())).collect();
    serde_json::to_string(&accounts).unwrap()
}

#[tokio::test]
async fn more_entitlements_than_allowed_are_a_denial_and_never_cut() {
    let policy = "permit(principal, action, resource);";
    let with_limit = |max_items| {
        let listing = fixture::listing_authorizer(policy, &accounts(5));
        let catalogue = Catalogue::new(&listing.policy, &listing.routes, max_items).unwrap();
        Authorizer { catalogue: Some(catalogue), ..listing }
    };
    let grant = decide(&with_limit(5), &request("GET", "/accounts/1")).await.unwrap();
    assert_eq!(claims(&grant)["entitlements"].as_str().unwrap().split(',').count(), 5);
    let denial = decide(&with_limit(4), &request("GET", "/accounts/1")).await.unwrap_err();
    assert_eq!(denial.reason(), Reason::Internal);
    assert!(denial.detail().contains("more than 4 entitlements"), "{}", denial.detail());
}

#[tokio::test]
async fn too_many_targets_to_decide_are_a_denial() {
    let policy = r#"
        permit(principal, action, resource == Account::"1");
        permit(principal, action, resource) when { context.http.headers has "x-all" };"#;
    let listing = fixture::listing_authorizer(policy, &accounts(20_001));
    let denial = decide(&listing, &request("GET", "/accounts/1")).await.unwrap_err();
    assert_eq!(denial.reason(), Reason::Internal);
    assert!(denial.detail().contains("20001 targets"), "{}", denial.detail());
}

#[tokio::test]
async fn a_list_is_kept_for_whom_the_policies_see_and_no_longer_than_the_credential() {
    let lookup = async |authorizer: &Authorizer, principal: &Principal, now| {
        let target =
            Target { asset_type: "Account".into(), asset_id: "1".into(), action: "read".into() };
        let (asked, path) = (request("GET", "/accounts/1"), fixture::path("/accounts/1"));
        let principal = Arc::new(principal.clone());
        let context = Context::Http { request: &asked, path: &path };
        let question = Question { principal: &principal, target: &target, context, now };
        let held = authorizer.catalogue.as_ref().unwrap().held(&authorizer.policy, &question);
        let held = held.await.unwrap();
        (held.targets.len(), held.lookup)
    };
    let by_claim = r#"permit(principal, action, resource) when { principal.claims.level > 1 };"#;
    let authorizer = fixture::listing_authorizer(by_claim, &accounts(3));
    let mut alice = fixture::user("alice");
    alice.claims.insert("level".to_owned(), 2.into());
    alice.claims.insert("jti".to_owned(), "1".into());
    alice.expires = Some(NOW.after(std::time::Duration::from_secs(10)));
    assert_eq!(lookup(&authorizer, &alice, NOW).await, (3, Lookup::Miss));
    alice.claims.insert("jti".to_owned(), "2".into());
    assert_eq!(lookup(&authorizer, &alice, NOW).await, (3, Lookup::Hit), "another token");
    let later = NOW.after(std::time::Duration::from_secs(10));
    assert_eq!(lookup(&authorizer, &alice, later).await, (3, Lookup::Miss), "the first has ended");
    alice.claims.insert("level".to_owned(), 1.into());
    assert_eq!(lookup(&authorizer, &alice, NOW).await, (0, Lookup::Miss), "another level");
    alice.groups.push("staff".to_owned());
    assert_eq!(lookup(&authorizer, &alice, NOW).await, (0, Lookup::Miss), "another group");
    assert_eq!(lookup(&authorizer, &fixture::user("bob"), NOW).await, (0, Lookup::Miss));

    let by_time =
        r#"permit(principal, action, resource) when { context.time > datetime("2020-01-01") };"#;
    let authorizer = fixture::listing_authorizer(by_time, &accounts(3));
    assert_eq!(lookup(&authorizer, &alice, NOW).await, (3, Lookup::Miss));
    assert_eq!(lookup(&authorizer, &alice, NOW).await, (3, Lookup::Miss), "time decides");
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
        (DenyListed, "deny_listed", 403),
        (BadPath, "bad_path", 400),
        (BadRequest, "bad_request", 400),
        (KeyUnavailable, "key_unavailable", 503),
        (PolicyError, "policy_error", 503),
        (PolicyStale, "policy_stale", 503),
        (Deadline, "deadline", 503),
        (Overload, "overload", 503),
        (LogFull, "log_full", 503),
        (Internal, "internal", 503),
    ];
    for (reason, code, status) in all {
        assert_eq!((reason.code(), reason.status()), (code, status));
    }
}
