//! Claims under other names, actors, opaque tokens and API keys.

use super::*;
use crate::identity::refusal::BadToken;
use crate::secrets::Kept;

/// The caller of a token with `change` to its claims, at an issuer as `set` makes it.
fn caller(set: impl FnOnce(&mut IssuerSettings), change: Value) -> Result<Principal, Refusal> {
    let mut settings = settings();
    set(&mut settings.issuers[0]);
    let token = token(&header(), &with(claims(), change));
    identity(settings).authenticate_now(&bearing(&token), NOW)
}

fn path(names: &[&str]) -> ClaimPath {
    ClaimPath::of_names(names.iter().map(|&name| name.to_owned()).collect())
}

#[test]
fn the_roles_of_a_keycloak_realm_are_groups() {
    let set = |issuer: &mut IssuerSettings| issuer.groups = ClaimPath::new("realm_access.roles");
    let principal = caller(set, json!({"realm_access": {"roles": ["admin", "dev"]}})).unwrap();
    assert_eq!(principal.groups, ["admin", "dev"]);
    assert_eq!(caller(set, json!({"realm_access": {}})).unwrap().groups, [""; 0]);
    let malformed = caller(set, json!({"realm_access": {"roles": {"admin": true}}}));
    assert_eq!(malformed, Err(BadToken::Groups.into()));
}

#[test]
fn a_list_of_names_leads_below_a_name_with_dots() {
    let pod = json!({"kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": "web"}}});
    let set = |issuer: &mut IssuerSettings| {
        issuer.subject = path(&["kubernetes.io", "serviceaccount", "name"]);
        issuer.groups = path(&["kubernetes.io", "namespace"]);
    };
    let principal = caller(set, pod.clone()).unwrap();
    assert_eq!((principal.id.as_str(), principal.groups), ("web", vec!["prod".to_owned()]));
    let dotted = |issuer: &mut IssuerSettings| {
        issuer.subject = ClaimPath::new("kubernetes.io.serviceaccount.name");
    };
    assert_eq!(caller(dotted, pod), Err(BadToken::Subject.into()));
    // A list is names, and never a path written with dots.
    let flat = json!({"a.b": "x", "a": {"b": "y"}});
    let of = |names: &[&str]| caller(|i| i.subject = path(names), flat.clone()).unwrap().id;
    assert_eq!((of(&["a.b"]), of(&["a", "b"])), ("x".to_owned(), "y".to_owned()));
}

#[test]
fn a_mapped_claim_is_what_its_path_says_and_nothing_else() {
    let set = |issuer: &mut IssuerSettings| {
        issuer.claims = vec![
            ("email".to_owned(), ClaimPath::new("profile.email")),
            ("profile".to_owned(), ClaimPath::new("email")),
        ];
    };
    let claims = |change| caller(set, change).unwrap().claims;
    let found = claims(json!({"email": "raw", "profile": {"email": "mapped"}}));
    assert_eq!((&found["email"], &found["profile"]), (&json!("mapped"), &json!("raw")));
    let found = claims(json!({"email": "raw", "profile": {}}));
    assert_eq!(found.get("email"), None, "what the token calls so is another claim");
    assert_eq!(found["sub"], "alice");
    let principal = caller(
        |i| i.claims = vec![("groups".to_owned(), ClaimPath::new("other"))],
        json!({"other": ["evil"]}),
    );
    assert_eq!(principal.unwrap().groups, ["eng", "oncall"], "groups are found before mapping");
}

#[test]
fn a_chain_of_actors_is_kept_and_has_one_shape() {
    let of = |act: Value| caller(|_| {}, json!({ "act": act }));
    let chain = json!({"sub": "gateway", "iss": "https://a", "act": {"sub": "agent"}});
    assert_eq!(of(chain.clone()).unwrap().actor(), Ok(Some(&chain)));
    assert_eq!(of(Value::Null).unwrap().actor(), Ok(None));
    for malformed in [
        json!("gateway"),
        json!(["gateway"]),
        json!({}),
        json!({"sub": ""}),
        json!({"sub": 1}),
        json!({"iss": "https://a"}),
        json!({"sub": "a", "act": "b"}),
        json!({"sub": "a", "act": {}}),
        json!({"sub": "a", "act": null}),
        json!({"sub": "a", "act": {"sub": "b", "act": []}}),
    ] {
        assert_eq!(of(malformed.clone()).unwrap().actor(), Err(BadToken::Actor), "{malformed}");
    }
    let long = |actors: usize| {
        (1..actors).fold(json!({"sub": "a"}), |chain, _| json!({"sub": "a", "act": chain}))
    };
    assert!(of(long(8)).is_ok());
    let longer = of(long(9)).unwrap();
    assert_eq!(longer.actor(), Err(BadToken::ActorChain { limit: 8 }));
}

/// An identity with the usual issuer beside one that would be asked about its tokens.
fn beside_an_asked_one() -> Identity {
    let mut settings = settings();
    let keys = KeySourceSettings::Introspection(Box::new(introspection()));
    settings.issuers.push(IssuerSettings { keys, ..issuer("https://asked.example") });
    let set = Proof::Keys(IssuerKeys::fixed(key_set(&[P256.jwk("p256")])));
    Identity::new(
        settings,
        vec![set, Proof::WordOffline],
        None,
        Arc::new(["placet".to_owned()].into()),
    )
    .unwrap()
    .remembering()
}

#[test]
fn only_a_token_that_names_no_other_issuer_is_asked_about() {
    let identity = beside_an_asked_one();
    let ask = |token: &str| identity.authenticate_now(&bearing(token), NOW);
    let unasked = || {
        let (issuer, fault) = ("https://asked.example".to_owned(), AskFault::Offline);
        Err(Refusal::Unasked { issuer, fault })
    };
    let of = |iss: Value| token(&header(), &with(claims(), json!({ "iss": iss })));
    assert_eq!(ask(&of(json!(ISSUER))).unwrap().id, "alice");
    for opaque in [
        "opaque",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        "mF_9.B5f-4.1JqM",
        &of(Value::Null),
        &of(json!(1)),
        &of(json!("https://asked.example")),
    ] {
        assert_eq!(ask(opaque), unasked(), "{opaque}");
    }
    let refused = |token: &str| match ask(token) {
        Err(Refusal::BadToken(cause)) => cause,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(&of(json!("https://evil.example"))), BadToken::UnknownIssuer { .. }));
    assert!(matches!(refused(&of(json!("placet"))), BadToken::OwnToken { .. }));
    // A bad token of an issuer with keys is that issuer's, and nobody else is shown it.
    let forged = of(json!(ISSUER)).rsplit_once('.').unwrap().0.to_owned() + ".AAAA";
    assert!(matches!(refused(&forged), BadToken::Signature { .. }));
    let none = token(&json!({"alg": "none"}), &claims());
    assert!(matches!(refused(&none), BadToken::UnknownAlgorithm { .. }));
    for never in ["", " opaque", "opa que", "opaque\t", "opaqu\u{e9}"] {
        assert_eq!(refused(never), BadToken::NotOpaque, "{never:?}");
    }
    assert!(matches!(refused(&"x".repeat(16 * 1024 + 1)), BadToken::TooLong { .. }));
}

/// An identity of the usual issuer and one API key, `key`, which stands for `robot`.
fn with_a_key(list: Option<Kept<ApiKeys>>, change: impl FnOnce(&mut IdentitySettings)) -> Identity {
    let mut settings = IdentitySettings { api_keys: Some(api_key_settings()), ..settings() };
    change(&mut settings);
    let set = Proof::Keys(IssuerKeys::fixed(key_set(&[P256.jwk("p256")])));
    let proofs = settings.issuers.iter().map(|_| set.clone()).collect();
    Identity::new(settings, proofs, Some(list.unwrap_or_else(key_list)), Arc::default())
        .unwrap()
        .remembering()
}

fn key_list() -> Kept<ApiKeys> {
    let hash = digest::digest(&digest::SHA256, b"key");
    let list = format!("robot: {{hash: \"sha256:{}\"}}", hex::encode(hash));
    Kept::fixed(ApiKeys::parse(list.as_bytes()).unwrap())
}

fn presenting(key: &str) -> Request {
    let mut request = Request::default();
    request.headers.push("X-API-Key", key);
    request
}

#[test]
fn an_api_key_is_its_holder_and_a_bad_one_is_passed_over_for_nothing() {
    let identity = with_a_key(None, |settings| settings.anonymous = true);
    let principal = identity.authenticate_now(&presenting("key"), NOW).unwrap();
    assert_eq!((principal.kind, principal.id.as_str()), (PrincipalKind::ApiKey, "robot"));
    assert_eq!((principal.issuer, principal.expires), (None, None));
    for wrong in ["Key", "key ", "keys"] {
        let refused = identity.authenticate_now(&presenting(wrong), NOW);
        assert_eq!(refused, Err(BadToken::UnknownApiKey.into()), "{wrong}");
    }
    for malformed in ["", "key,key", "key,"] {
        let refused = identity.authenticate_now(&presenting(malformed), NOW);
        assert!(matches!(refused, Err(Refusal::BadToken(_))), "{malformed}: {refused:?}");
    }
    assert_eq!(identity.authenticate_now(&Request::default(), NOW), Ok(Principal::anonymous()));
}

#[test]
fn beside_a_token_an_api_key_does_not_count() {
    let identity = with_a_key(None, |_| {});
    let both = |token: &str, key: &str| {
        let mut request = bearing(token);
        request.headers.push("x-api-key", key);
        identity.authenticate_now(&request, NOW)
    };
    let good = token(&header(), &claims());
    assert_eq!(both(&good, "key").unwrap().id, "alice");
    assert_eq!(both(&good, "wrong").unwrap().id, "alice", "the first place decides");
    assert!(matches!(both("x.y.z", "key"), Err(Refusal::BadToken(_))));
}

#[test]
fn api_keys_that_were_never_read_are_our_fault() {
    let identity = with_a_key(Some(Kept::absent()), |_| {});
    let refused = identity.authenticate_now(&presenting("key"), NOW);
    assert_eq!(refused, Err(Refusal::ApiKeysUnavailable));
    assert!(identity.authenticate_now(&bearing(&token(&header(), &claims())), NOW).is_ok());
}

#[test]
fn to_require_an_api_key_is_what_a_token_is() {
    let ask = |require: Require, key: Option<&str>, peer_id: Option<&str>| {
        let identity = with_a_key(None, |settings| {
            settings.require = require;
            settings.issuers.clear();
            settings.peer = Some(peer(&["cluster.local"]));
        });
        let mut request = key.map(presenting).unwrap_or_default();
        request.source.principal = peer_id.map(str::to_owned);
        identity.authenticate_now(&request, NOW).map(|principal| principal.kind)
    };
    let key = Some("key");
    assert_eq!(ask(Require::Jwt, key, None), Ok(PrincipalKind::ApiKey));
    assert_eq!(ask(Require::Jwt, None, Some(PEER)), Err(Refusal::NoCredentials));
    assert_eq!(ask(Require::Both, key, Some(PEER)), Ok(PrincipalKind::ApiKey));
    assert_eq!(ask(Require::Both, key, None), Err(Refusal::NoCredentials));
    assert_eq!(ask(Require::Either, None, Some(PEER)), Ok(PrincipalKind::Workload));
    assert_eq!(ask(Require::Either, key, None), Ok(PrincipalKind::ApiKey));
    let bad = ask(Require::Either, Some("wrong"), Some(PEER));
    assert_eq!(bad, Err(BadToken::UnknownApiKey.into()));
}

#[test]
fn a_bound_token_is_for_the_certificate_in_the_header_and_not_the_hop_s() {
    let hash = "ab".repeat(32);
    let thumbprint = b64(hex::decode(&hash).unwrap());
    let ask = |ip: &str, field: &str| {
        let identity = identity(IdentitySettings {
            peer: Some(PeerSettings {
                from: CertificateSource::Forwarded,
                trusted_hops: vec!["10.0.0.0/8".parse().unwrap()],
                ..peer(&["cluster.local"])
            }),
            ..settings()
        });
        let bound = with(claims(), json!({"cnf": {"x5t#S256": thumbprint}}));
        let mut request = bearing(&token(&header(), &bound));
        request.source.ip = Some(ip.parse().unwrap());
        request.headers.push("x-forwarded-client-cert", field);
        identity.authenticate_now(&request, NOW).map(|principal| principal.id)
    };
    let good = format!("Hash={hash};URI={PEER}");
    assert_eq!(ask("10.0.0.1", &good), Ok("alice".to_owned()));
    assert_eq!(ask("11.0.0.1", &good), Err(BadToken::Certificate.into()));
    let other = format!("Hash={};URI={PEER}", "cd".repeat(32));
    assert_eq!(ask("10.0.0.1", &other), Err(BadToken::Certificate.into()));
    assert_eq!(ask("10.0.0.1", &format!("URI={PEER}")), Err(BadToken::Certificate.into()));
}
