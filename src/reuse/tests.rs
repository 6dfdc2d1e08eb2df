use proptest::prelude::*;

use super::*;
use crate::authorizer::Authorizer;
use crate::deny_list::DenyList;
use crate::fixture;
use crate::identity::{
    ApiKeySettings, ApiKeys, Identity, IdentitySettings, Place, Principal, Require,
};
use crate::path::{Allowances, CanonicalPath};
use crate::policy::{Authzen, Context, Policy, Protected, Question, Rego, RegoSources};
use crate::request::{Body, Host, Request, Source};
use crate::route::Target;
use crate::secrets::Kept;

const ASKED: Asked<'_> = Asked {
    method: "GET",
    scheme: "http",
    host: "orders.example",
    target: "/accounts/1?a=1",
    headers: &[(b"x-a", b"1"), (b"x-b", b"2")],
    has_body: false,
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
        ("query", Asked { target: "/accounts/1?", ..ASKED }),
        ("body", Asked { has_body: true, ..ASKED }),
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

fn deciding_by_rego(rule: &str, parse_body: bool) -> Authorizer {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.rego");
    std::fs::write(&file, format!("package envoy.authz\nimport rego.v1\n{rule}")).unwrap();
    let sources = RegoSources {
        files: vec![file],
        data: Vec::new(),
        query: "envoy/authz/allow".to_owned(),
        parse_body,
        protected: Protected::default(),
        bundle: None,
        descriptors: None,
    };
    let policy = Policy::rego(Rego::load(&sources).unwrap());
    Authorizer { policy, ..fixture::authorizer() }
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
        ("context.http has body", &["body"]),
    ] {
        assert_differ_in(&deciding(condition), read, condition);
    }
}

#[test]
fn rules_tell_requests_apart_as_policies_do() {
    let http = "input.attributes.request.http";
    for (rule, parse_body, read) in [
        ("allow := true".to_owned(), false, &[][..]),
        ("allow := true".to_owned(), true, &["body"]),
        (format!("allow if {http}.headers[\"x-a\"] == \"1\""), false, &["x-a"]),
        (
            format!("allow if {{ {http}.headers[\"x-b\"]; {http}.path }}"),
            true,
            &["body", "query", "x-b"],
        ),
        (format!("allow if {http}.body"), false, &["body"]),
        ("allow if input.parsed_query.a".to_owned(), false, &["query"]),
        (
            "allow if input.attributes.source.address.socketAddress.address".to_owned(),
            false,
            &["ip"],
        ),
    ] {
        assert_differ_in(&deciding_by_rego(&rule, parse_body), read, &rule);
    }
}

/// From what is asked otherwise, `authorizer` tells apart just what differs in `read`.
fn assert_differ_in(authorizer: &Authorizer, read: &[&str], what: &str) {
    let reuse = Reuse::new().unwrap();
    let known = key(&reuse, authorizer, &ASKED).unwrap();
    assert_eq!(key(&reuse, authorizer, &ASKED), Some(known), "{what}");
    for (part, asked) in others() {
        let differs = key(&reuse, authorizer, &asked) != Some(known);
        let is_read = ALWAYS.contains(&part) || read.contains(&part);
        assert_eq!(differs, is_read, "{what}: {part} {asked:?}");
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
    let cedar =
        ["context.time > datetime(\"2020-01-01\")", "context.http.headers == {}", "context == {}"];
    let rego = deciding_by_rego("allow if input.attributes.request.http.id", false);
    for authorizer in cedar.map(deciding).into_iter().chain([remote, rego]) {
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

    /// What rules read is in the key: where keys are alike, so are decisions.
    #[test]
    fn what_has_one_key_is_decided_alike(
        rule in prop::sample::select(RULES.to_vec()),
        one in parts(),
        other in parts(),
    ) {
        let authorizer = deciding_by_rego(rule, true);
        let (reuse, principal) = (Reuse::new().unwrap(), Arc::new(Principal::anonymous()));
        let keys = [&one, &other].map(|parts| parts.key(&reuse, &authorizer));
        let decided = [&one, &other].map(|parts| {
            let request = parts.request();
            let path = CanonicalPath::parse(request.raw_path(), Allowances::default()).unwrap();
            let target = Target {
                asset_type: "Path".into(), asset_id: path.to_string(), action: parts.method.into()
            };
            let context = Context::Http { request: &request, path: &path };
            let question = Question { principal: &principal, target: &target, context, now: fixture::NOW };
            let permit = authorizer.policy.decide_now(&question);
            permit.ok().map(|permit| format!("{:?}", permit.additions()))
        });
        if keys[0].is_some() && keys[0] == keys[1] {
            prop_assert_eq!(&decided[0], &decided[1], "{} {:?} {:?}", rule, one, other);
        }
    }
}

/// Rules that each look at a part of the request, some only to answer with it.
const RULES: [&str; 16] = [
    "allow := true",
    "allow if input.attributes.request.http.method == \"GET\"",
    "allow if input.attributes.request.http.headers[\"x-a\"] == \"1\"",
    "allow if not input.attributes.request.http.headers[\"x-a\"]",
    "allow if input.attributes.request.http.headers[concat(\"-\", [\"x\", \"a\"])] == \"1\"",
    "allow if input.attributes.request.http.headers[\":path\"] == \"/a?\"",
    "allow if endswith(input.attributes.request.http.path, \"a\")",
    "allow if input.parsed_path == [\"a\"]",
    "allow if input.parsed_query.k[_] == \"1\"",
    "allow if input.parsed_query == {}",
    "allow if input.parsed_body == null",
    "allow if not input.attributes.request.http.body",
    "allow if input.attributes.request.http.protocol == \"HTTP/2\"",
    "allow if net.cidr_contains(\"10.0.0.0/8\", input.attributes.source.address.socketAddress.address)",
    "allow if { some range in [\"10.0.0.0/8\"]; net.cidr_contains(range, input.attributes.source.address.socketAddress.address) }",
    "allow := {\"allowed\": true, \"headers\": {\"x-c\": object.get(input.attributes.request.http.headers, \"x-a\", \"none\")}}",
];

/// Of a request, what the rules look at.
#[derive(Clone, Debug)]
struct Parts {
    method: &'static str,
    target: &'static str,
    header: Option<&'static str>,
    protocol: &'static str,
    body: &'static str,
    ip: &'static str,
}

fn parts() -> impl Strategy<Value = Parts> {
    let text = |texts: &'static [&'static str]| prop::sample::select(texts);
    let fields = (
        text(&["GET", "PUT"]),
        text(&["/a", "/a?", "/a?k=1", "/b?k=1"]),
        prop::option::of(text(&["", "1"])),
        text(&["HTTP/1.1", "HTTP/2"]),
        text(&["", "{}", "{"]),
        text(&["", "10.1.1.1", "10.1.1.2", "192.0.2.1", "::ffff:10.1.1.1"]),
    );
    fields.prop_map(|(method, target, header, protocol, body, ip)| Parts {
        method,
        target,
        header,
        protocol,
        body,
        ip,
    })
}

impl Parts {
    fn key(&self, reuse: &Reuse, authorizer: &Authorizer) -> Option<Key> {
        let mut headers = vec![(b"content-type".as_slice(), b"application/json".as_slice())];
        headers.extend(self.header.map(|value| (b"x-a".as_slice(), value.as_bytes())));
        let asked = Asked {
            method: self.method,
            target: self.target,
            headers: &headers,
            has_body: !self.body.is_empty(),
            source_ip: self.ip,
            ..ASKED
        };
        reuse.key(authorizer, &asked)
    }

    fn request(&self) -> Request {
        let mut request = Request {
            method: self.method.to_owned(),
            scheme: ASKED.scheme.to_owned(),
            host: Host::parse(ASKED.host).unwrap(),
            target: self.target.to_owned(),
            protocol: self.protocol.to_owned(),
            source: Source { ip: self.ip.parse().ok(), ..Source::default() },
            ..Request::default()
        };
        request.headers.push("content-type", "application/json");
        self.header.into_iter().for_each(|value| request.headers.push("x-a", value));
        if !self.body.is_empty() {
            request.body = Body::Whole(self.body.into());
        }
        request
    }
}
