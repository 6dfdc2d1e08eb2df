//! What `identity` settings are refused for, and what not.

use super::*;
use crate::identity::fixture;

/// The faults of the usual settings after `change`.
fn faults(change: impl FnOnce(&mut IdentitySettings)) -> Vec<String> {
    let mut settings = fixture::settings();
    change(&mut settings);
    let own = ["placet".to_owned()].into();
    settings.faults(&own).iter().map(ToString::to_string).collect()
}

fn first(settings: &mut IdentitySettings) -> &mut IssuerSettings {
    &mut settings.issuers[0]
}

#[test]
fn the_usual_settings_have_no_fault() {
    assert_eq!(faults(|_| {}), [""; 0]);
    assert_eq!(faults(|s| s.issuers.push(fixture::issuer("https://other.example"))), [""; 0]);
}

#[test]
fn an_issuer_of_our_own_tokens_is_refused() {
    assert_eq!(
        faults(|s| first(s).issuer = "placet".to_owned()),
        ["issuer `placet` is the issuer of our own decision tokens, which are never \
          credentials: change one of the two"]
    );
    assert_eq!(faults(|s| first(s).issuer = "Placet".to_owned()), [""; 0]);
}

#[test]
fn what_is_required_must_be_configured() {
    let peer = || Some(fixture::peer(&["cluster.local"]));
    for (require, jwt, peered, sound) in [
        (Require::Jwt, true, false, true),
        (Require::Jwt, true, true, true),
        (Require::Jwt, false, true, false),
        (Require::Peer, false, true, true),
        (Require::Peer, true, true, false),
        (Require::Peer, true, false, false),
        (Require::Both, true, true, true),
        (Require::Both, true, false, false),
        (Require::Both, false, true, false),
        (Require::Either, true, true, true),
        (Require::Either, true, false, false),
        (Require::Either, false, true, false),
        (Require::Both, false, false, true),
    ] {
        let found = faults(|s| {
            s.require = require;
            s.peer = peered.then(peer).flatten();
            if !jwt {
                s.issuers.clear();
            }
        });
        assert_eq!(found.is_empty(), sound, "{require:?} {jwt} {peered}: {found:?}");
    }
}

#[test]
fn what_could_never_work_is_refused() {
    let header = |name: &str, prefix: &str| {
        vec![Place::Header { name: name.to_owned(), prefix: prefix.to_owned() }]
    };
    type Change = Box<dyn Fn(&mut IssuerSettings)>;
    let changes: Vec<(&str, Change)> = vec![
        ("an issuer is empty", Box::new(|i| i.issuer = String::new())),
        ("no audience", Box::new(|i| i.audiences = Audiences::OneOf(vec![]))),
        ("no algorithm", Box::new(|i| i.algorithms.clear())),
        ("no type", Box::new(|i| i.types.clear())),
        ("no place", Box::new(|i| i.from.clear())),
        ("empty claim path", Box::new(|i| i.subject = ClaimPath::new(""))),
        ("empty claim path", Box::new(|i| i.groups = ClaimPath::new(""))),
        ("empty claim path", Box::new(|i| i.subject = ClaimPath::of_names(vec![]))),
        (
            "empty claim path",
            Box::new(|i| i.claims = vec![("a".into(), ClaimPath::of_names(vec![String::new()]))]),
        ),
        ("claim `act`", Box::new(|i| i.claims = vec![("act".into(), ClaimPath::new("a"))])),
        ("claim `sub`", Box::new(|i| i.claims = vec![("sub".into(), ClaimPath::new("a"))])),
        ("claim ``", Box::new(|i| i.claims = vec![(String::new(), ClaimPath::new("a"))])),
        ("principal type `Certificate`", Box::new(|i| i.principal_type = "Certificate".to_owned())),
        ("principal type `Workload`", Box::new(|i| i.principal_type = "Workload".to_owned())),
        ("principal type `Anonymous`", Box::new(|i| i.principal_type = "Anonymous".to_owned())),
        ("principal type `Group`", Box::new(|i| i.principal_type = "Group".to_owned())),
        ("principal type ``", Box::new(|i| i.principal_type = String::new())),
        ("no name of one", Box::new(move |i| i.from = header(":path", ""))),
        ("no name of one", Box::new(move |i| i.from = header("", ""))),
        ("no name of one", Box::new(move |i| i.from = header("a b", ""))),
        ("the prefix `Bearer`", Box::new(move |i| i.from = header("a", "Bearer"))),
        ("the prefix `a, `", Box::new(move |i| i.from = header("a", "a, "))),
        ("the prefix `é `", Box::new(move |i| i.from = header("a", "é "))),
    ];
    for (text, change) in changes {
        let found = faults(|s| change(first(s)));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].contains(text), "{text}: {found:?}");
    }
    let twice = faults(|s| s.issuers.push(fixture::issuer(fixture::ISSUER)));
    assert!(twice[0].contains("listed twice"), "{twice:?}");
}

#[test]
fn trust_domains_are_names() {
    let peer = |domains: &[&str]| {
        faults(|s| {
            s.peer = Some(fixture::peer(domains));
        })
    };
    assert_eq!(peer(&["cluster.local", "a_b-c.1"]), [""; 0]);
    assert_eq!(peer(&[]).len(), 1);
    assert_eq!(peer(&["Cluster.local", "", "a/b", "spiffe://a", "a:1", "*"]).len(), 6);
}

#[test]
fn who_is_asked_about_a_token_is_never_in_doubt() {
    let asked = |name: &str, prefix: &str| {
        let place = Place::Header { name: name.to_owned(), prefix: prefix.to_owned() };
        let keys = KeySourceSettings::Introspection(Box::new(fixture::introspection()));
        let issuer = format!("https://{name}.{}.example", prefix.trim());
        IssuerSettings { keys, from: vec![place], ..fixture::issuer(&issuer) }
    };
    let with = |issuers: &[IssuerSettings]| faults(|s| s.issuers.extend_from_slice(issuers));
    assert_eq!(with(&[asked("authorization", "Bearer ")]), [""; 0], "beside one with keys");
    assert_eq!(with(&[asked("a", "A "), asked("a", "B "), asked("b", "A ")]), [""; 0]);
    let found = with(&[asked("A", "x "), asked("a", "X ")]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("would both be asked about a token in the header `a`"), "{found:?}");
    let mut remote = fixture::introspection();
    remote.url = "http://idp.example/introspect".to_owned();
    let found = faults(|s| {
        first(s).keys = KeySourceSettings::Introspection(Box::new(remote));
    });
    assert!(
        found[0].contains("can't be asked at its `introspection.url`: plain http"),
        "{found:?}"
    );
}

#[test]
fn a_token_for_fetching_keys_never_travels_in_the_clear() {
    let found = faults(|s| {
        first(s).token_file = Some("token".into());
        first(s).insecure_http = true;
    });
    assert!(found[0].contains("over plain http"), "{found:?}");
    assert_eq!(faults(|s| first(s).token_file = Some("token".into())), [""; 0]);
}

#[test]
fn api_keys_have_a_place_and_a_type_of_their_own() {
    let with = |change: fn(&mut ApiKeySettings)| {
        let mut keys = fixture::api_key_settings();
        change(&mut keys);
        faults(|s| s.api_keys = Some(keys))
    };
    let header =
        |name: &str, prefix: &str| Place::Header { name: name.into(), prefix: prefix.into() };
    assert_eq!(with(|_| {}), [""; 0]);
    let at = |place: Place| {
        let keys = ApiKeySettings { place, ..fixture::api_key_settings() };
        faults(|s| s.api_keys = Some(keys))
    };
    assert_eq!(at(header("authorization", "ApiKey ")), [""; 0]);
    assert_eq!(at(Place::Query { name: "key".into() }), [""; 0]);
    assert!(at(header("Authorization", "bearer "))[0].contains("where a token of issuer"));
    assert!(at(header("a b", ""))[0].contains("no name"));
    assert!(at(header("authorization", "ApiKey"))[0].contains("no name"));
    assert!(with(|k| k.principal_type = "Workload".into())[0].contains("type `Workload`"));
    let alone = faults(|s| {
        s.issuers.clear();
        s.api_keys = Some(fixture::api_key_settings());
    });
    assert_eq!(alone, [""; 0], "an API key is what `require: jwt` asks for");
}

#[test]
fn a_certificate_in_a_header_needs_trusted_hops() {
    let peer = |change: fn(&mut PeerSettings)| {
        faults(|s| {
            let mut peer = fixture::peer(&["cluster.local"]);
            change(&mut peer);
            s.peer = Some(peer);
        })
    };
    for from in [CertificateSource::ClientCert, CertificateSource::Forwarded] {
        let found = faults(|s| {
            s.peer = Some(PeerSettings { from, ..fixture::peer(&["cluster.local"]) });
        });
        assert!(found[0].contains("`trustedHops`"), "{found:?}");
    }
    let hops = || vec!["10.0.0.0/8".parse().unwrap()];
    assert_eq!(
        faults(|s| s.peer = Some(PeerSettings {
            from: CertificateSource::Forwarded,
            trusted_hops: hops(),
            ..fixture::peer(&["cluster.local"])
        })),
        [""; 0]
    );
    assert!(
        peer(|p| p.trusted_hops = vec!["10.0.0.0/8".parse().unwrap()])[0].contains("remove it")
    );
    assert!(peer(|p| p.subject = PeerSubject::DnsSan)[0].contains("`trustDomains` only"));
    assert_eq!(
        peer(|p| {
            p.subject = PeerSubject::DnsSan;
            p.trust_domains.clear();
        }),
        [""; 0]
    );
}
