use proptest::prelude::*;

use super::*;
use crate::authorizer::Authorizer;
use crate::deny_list::DenyList;
use crate::fixture;
use crate::identity::{ApiKeySettings, ApiKeys, Identity, IdentitySettings, Place, Require};
use crate::policy::{Authzen, Policy};
use crate::secrets::Kept;

const ASKED: Asked<'_> = Asked {
    method: "GET",
    scheme: "http",
    host: "orders.example",
    target: "/accounts/1?a=1",
    headers: &[(b"x-a", b"1"), (b"x-b", b"2")],
    source_ip: "192.0.2.1",
    source_principal: "spiffe://a/b",
    source_certificate: "pem",
};

/// Every request that differs from [`ASKED`] in one part, by the part's name.
fn others() -> Vec<(&'static str, Asked<'static>)> {
    vec![
        ("method", Asked { method: "PUT", ..ASKED }),
        ("scheme", Asked { scheme: "https", ..ASKED }),
        ("host", Asked { host: "Orders.example", ..ASKED }),
        ("path", Asked { target: "/accounts/2?a=1", ..ASKED }),
        ("path", Asked { target: "/accounts/%31?a=1", ..ASKED }),
        ("query", Asked { target: "/accounts/1?a=2", ..ASKED }),
        ("query", Asked { target: "/accounts/1", ..ASKED }),
        ("x-a", Asked { headers: &[(b"x-a", b"2"), (b"x-b", b"2")], ..ASKED }),
        ("x-a", Asked { headers: &[(b"x-b", b"2")], ..ASKED }),
        ("x-a", Asked { headers: &[(b"x-a", b""), (b"x-b", b"2")], ..ASKED }),
        ("x-a", Asked { headers: &[(b"x-a", b"1"), (b"x-a", b"1"), (b"x-b", b"2")], ..ASKED }),
        ("x-b", Asked { headers: &[(b"x-a", b"1"), (b"x-b", b"\xff")], ..ASKED }),
        ("x-c", Asked { headers: &[(b"x-a", b"1"), (b"x-b", b"2"), (b"x-c", b"")], ..ASKED }),
        ("ip", Asked { source_ip: "192.0.2.2", ..ASKED }),
        ("peer", Asked { source_principal: "spiffe://a/c", ..ASKED }),
        ("certificate", Asked { source_certificate: "", ..ASKED }),
    ]
}

const ALWAYS: [&str; 6] = ["method", "scheme", "host", "path", "peer", "certificate"];

fn deciding(condition: &str) -> Authorizer {
    let text = format!("permit(principal, action, resource) when {{ {condition} }};");
    Authorizer { policy: fixture::policy(&text, "[]"), ..fixture::authorizer() }
}

fn key(reuse: &Reuse, authorizer: &Authorizer, asked: &Asked<'_>) -> Option<Key> {
    reuse.key(authorizer, asked)
}

#[test]
fn requests_differ_in_what_is_read_and_in_nothing_else() {
    for (condition, read) in [
        ("true", &[][..]),
        ("context.http.headers has \"x-a\"", &["x-a"]),
        (
            "context.http.headers[\"x-b\"] == \"2\" || context.http.headers has \"x-c\"",
            &["x-b", "x-c"],
        ),
        ("context.http.query.a.contains(\"1\")", &["query"]),
        ("context.source has ip && context.source.ip.isIpv4()", &["ip"]),
        ("context.source.ip.isInRange(ip(\"192.0.2.2\"))", &["ip"]),
        ("context.source.ip.isInRange(ip(\"192.0.2.0/24\"))", &[]),
        ("context.source has ip", &[]),
    ] {
        let (reuse, authorizer) = (Reuse::new().unwrap(), deciding(condition));
        let known = key(&reuse, &authorizer, &ASKED).unwrap();
        assert_eq!(key(&reuse, &authorizer, &ASKED), Some(known), "{condition}");
        for (part, asked) in others() {
            let differs = key(&reuse, &authorizer, &asked) != Some(known);
            let is_read = ALWAYS.contains(&part) || read.contains(&part);
            assert_eq!(differs, is_read, "{condition}: {part} {asked:?}");
        }
    }
}

/// An address is told by the ranges that policies ask for.
#[test]
fn an_address_is_as_another_of_the_same_ranges() {
    let authorizer = deciding(
        "context has source.ip && (context.source.ip.isInRange(ip(\"10.0.0.0/8\"))
            || context.source.ip.isInRange(ip(\"10.1.0.0/16\")))",
    );
    let reuse = Reuse::new().unwrap();
    let of = |source_ip| key(&reuse, &authorizer, &Asked { source_ip, ..ASKED }).unwrap();
    let classes = [
        &["10.0.0.1", "10.255.0.9"][..],
        &["10.1.2.3", "10.1.0.0"],
        &["192.0.2.1", "2001:db8::1", "::"],
        &[""],
        &["no address"],
        &["::ffff:10.1.2.3"],
        &["::ffff:10.1.2.4"],
    ];
    for (number, class) in classes.iter().enumerate() {
        for ip in *class {
            assert_eq!(of(ip), of(class[0]), "{ip}");
            for other in classes.iter().skip(number + 1).flat_map(|class| *class) {
                assert_ne!(of(ip), of(other), "{ip} {other}");
            }
        }
    }
}

#[test]
fn what_can_t_be_told_apart_is_decided_each_time() {
    let remote = fixture::authzen_settings("http://127.0.0.1:1/");
    let remote = Policy::authzen(Authzen::new(remote).unwrap());
    let remote = Authorizer { policy: remote, ..fixture::authorizer() };
    let cedar = [
        "context.time > datetime(\"2020-01-01\")",
        "context.http has body",
        "context.http.headers == {}",
        "context == {}",
    ];
    for authorizer in cedar.map(deciding).into_iter().chain([remote]) {
        let reuse = Reuse::new().unwrap();
        assert_eq!(key(&reuse, &authorizer, &ASKED), None, "{:?}", authorizer.policy.ids());
    }
}

#[test]
fn a_credential_is_read_where_it_may_stand() {
    let with_keys_from = |place| {
        let keys = ApiKeySettings { place, ..fixture::api_key_settings() };
        let settings = IdentitySettings {
            require: Require::Jwt,
            issuers: Vec::new(),
            api_keys: Some(keys),
            peer: None,
            anonymous: false,
        };
        let keys = Kept::fixed(ApiKeys::parse(b"{}").unwrap());
        let identity = Identity::new(settings, Vec::new(), Some(keys), Arc::default()).unwrap();
        Authorizer { identity, ..deciding("true") }
    };
    let header = Place::Header { name: "X-A".to_owned(), prefix: String::new() };
    let (query, cookie) =
        (Place::Query { name: "k".to_owned() }, Place::Cookie { name: "k".to_owned() });
    for (place, read) in [(header, "x-a"), (query, "query")] {
        let (reuse, authorizer) = (Reuse::new().unwrap(), with_keys_from(place));
        let known = key(&reuse, &authorizer, &ASKED);
        for (part, asked) in others() {
            let differs = key(&reuse, &authorizer, &asked) != known;
            assert_eq!(differs, ALWAYS.contains(&part) || part == read, "{part} {asked:?}");
        }
    }
    let (reuse, authorizer) = (Reuse::new().unwrap(), with_keys_from(cookie));
    let with_cookie =
        |value: &[u8]| key(&reuse, &authorizer, &Asked { headers: &[(b"cookie", value)], ..ASKED });
    assert_ne!(with_cookie(b"k=1"), with_cookie(b"k=2"));
}

#[test]
fn with_other_keys_nothing_earlier_is_found() {
    let (keeper, kept) = Kept::channel();
    let settings = IdentitySettings {
        require: Require::Jwt,
        issuers: Vec::new(),
        api_keys: Some(fixture::api_key_settings()),
        peer: None,
        anonymous: true,
    };
    let identity = Identity::new(settings, Vec::new(), Some(kept), Arc::default()).unwrap();
    let authorizer = Authorizer { identity, ..deciding("true") };
    let reuse = Reuse::new().unwrap();
    let mut known = vec![key(&reuse, &authorizer, &ASKED).unwrap()];
    for _ in 0..3 {
        keeper.put(ApiKeys::parse(b"{}").unwrap());
        let next = key(&reuse, &authorizer, &ASKED).unwrap();
        assert!(!known.contains(&next), "a look is another look, though it finds the same");
        assert_eq!(key(&reuse, &authorizer, &ASKED), Some(next));
        known.push(next);
    }
}

#[test]
fn with_another_deny_list_nothing_earlier_is_found() {
    let (keeper, kept) = Kept::channel();
    let authorizer = Authorizer { deny_list: Some(kept), ..deciding("true") };
    let reuse = Reuse::new().unwrap();
    let mut known = vec![key(&reuse, &authorizer, &ASKED).unwrap()];
    for list in ["{}", "subjects: [{subject: alice}]", "{}"] {
        keeper.put(DenyList::parse(list.as_bytes()).unwrap());
        let next = key(&reuse, &authorizer, &ASKED).unwrap();
        assert!(!known.contains(&next), "{list}");
        keeper.fail("it is malformed".to_owned());
        assert_eq!(key(&reuse, &authorizer, &ASKED), Some(next), "the list stays as it was");
        known.push(next);
    }
}

#[test]
fn each_scope_has_keys_of_its_own() {
    let authorizer = deciding("true");
    let (one, other) = (Reuse::new().unwrap(), Reuse::new().unwrap());
    assert_ne!(key(&one, &authorizer, &ASKED), key(&other, &authorizer, &ASKED));
    assert_eq!(format!("{:?}", key(&one, &authorizer, &ASKED)), "Some(Key)");
}

#[test]
fn a_token_is_used_again_while_half_of_its_life_remains() {
    let at = Timestamp::from_millis;
    for (issued, expires, until) in
        [(1_000, 61_000, Some(31_000)), (1_500, 61_000, Some(31_250)), (1_999, 2_000, None)]
    {
        let expected = until.map(|until| (at(issued), at(until)));
        assert_eq!(span((at(issued), at(expires))), expected, "{issued} to {expires}");
    }
}

proptest! {
    /// No part runs into the next.
    #[test]
    fn two_requests_have_one_key_only_if_they_are_one(
        one in prop::array::uniform5("[ab]{0,2}"),
        other in prop::array::uniform5("[ab]{0,2}"),
    ) {
        let (reuse, authorizer) = (Reuse::new().unwrap(), deciding("context.http.headers has \"x-a\""));
        let key = |[method, host, path, peer, header]: &[String; 5]| {
            let headers = [(b"x-a".as_slice(), header.as_bytes())];
            let asked = Asked {
                method, host, target: path, source_principal: peer, headers: &headers, ..ASKED
            };
            key(&reuse, &authorizer, &asked)
        };
        prop_assert_eq!(key(&one) == key(&other), one == other);
    }
}
