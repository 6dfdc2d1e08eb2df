//! The tables. Each grows one thing and leaves the rest small.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use futures_util::FutureExt as _;
use placet::clock::Timestamp;
use placet::identity::Principal;
use placet::path::{Allowances, CanonicalPath};
use placet::policy::{Context, Question};
use placet::route::{Pattern, Resolved, Route, Routes, Target};
use placet::scope::{Scopes, Selectable};
use placet::token::Channel;
use serde_json::{Value, json};

use crate::least;
use crate::world::{NOW, World, request};

type Costs<'a> = &'a [(&'static str, f64)];

/// Choosing the route: every tenth begins with a variable, the others with literals.
pub(crate) fn routes(show: impl Fn(&str, usize, Costs<'_>)) {
    for size in [10, 100, 1_000, 10_000, 100_000] {
        let routes = Routes::new((0..size).map(route).collect());
        let resolve = |path: String, is_known: bool| {
            let path = CanonicalPath::parse(&path, Allowances::default()).unwrap();
            least(|| {
                let found = black_box(routes.resolve("GET", black_box(&path)));
                assert_eq!(matches!(found, Resolved::Target(_)), is_known);
            })
        };
        let first = resolve("/service-1/items/7".to_owned(), true);
        let last = resolve(format!("/service-{}/items/7", size - 1), true);
        let none = resolve("/service-1/nothing/7".to_owned(), false);
        show("routes", size, &[("first", first), ("last", last), ("none", none)]);
    }
}

fn route(number: usize) -> Route {
    let text = match number % 10 {
        0 => format!("/{{tenant}}/things-{number}/{{id}}"),
        _ => format!("/service-{number}/items/{{id}}"),
    };
    let pattern = Pattern::parse(&text, Allowances::default()).unwrap();
    Route::target(vec!["GET".to_owned()], pattern, "Item".to_owned(), "{id}", "read".to_owned())
        .unwrap()
}

/// Choosing the scope, by a host of its own or by the end of one.
pub(crate) fn scopes(show: impl Fn(&str, usize, Costs<'_>)) {
    let scope = World::new().scope(json!({}));
    for size in [1, 10, 100, 1_000, 10_000] {
        let selectable = |number| Selectable {
            scope: Arc::clone(&scope),
            hosts: vec![format!("host-{number}.example"), format!("*.wild-{number}.example")],
            default: false,
        };
        let scopes = Scopes::new((0..size).map(selectable).collect());
        let select = |host: String| {
            let request = request(&host, "/");
            least(|| assert!(black_box(scopes.select(black_box(&request))).is_ok()))
        };
        let exact = select(format!("host-{}.example", size - 1));
        let suffix = select(format!("some.host.wild-{}.example", size - 1));
        show("scopes", size, &[("host", exact), ("suffix", suffix)]);
    }
}

/// Verifying an ES256 token of the last of many issuers.
pub(crate) fn issuers(show: impl Fn(&str, usize, Costs<'_>)) {
    for size in [1, 10, 100] {
        let world = World::new();
        let issuers: Vec<Value> = (0..size).map(World::issuer).collect();
        let scope = world.scope(json!({"identity": {"jwt": issuers}}));
        let token = world.token(size - 1, 100);
        show("issuers", size, &[("verify", decision(&scope, &token).0)]);
    }
}

/// Verifying a token with a claim of so many bytes; and the whole decision with it carried over.
pub(crate) fn claims(show: impl Fn(&str, usize, Costs<'_>)) {
    for size in [10, 100, 1_000, 4_000] {
        let world = World::new();
        let scope = world.scope(json!({
            "identity": {"jwt": [World::issuer(0)]},
            "jwtCustomization": {"includeIncomingPayload": true},
        }));
        let (verify, whole) = decision(&scope, &world.token(0, size));
        show("bytes of a claim", size, &[("verify", verify), ("whole decision", whole)]);
    }
}

/// Microseconds of verifying `token`, and of the whole decision.
fn decision(scope: &placet::scope::Scope, token: &str) -> (f64, f64) {
    let now = Timestamp::from_seconds(NOW);
    let mut request = request("orders.example", "/orders/7");
    request.headers.push("authorization", format!("Bearer {token}"));
    let verify = least(|| {
        let identified = scope.authorizer.identity.authenticate(&request, now);
        assert!(black_box(identified.now_or_never().unwrap()).is_ok());
    });
    let whole = least(|| {
        let decided = scope.authorizer.authorize(&request, Channel::Proxy, now);
        assert!(black_box(decided.now_or_never().unwrap()).outcome.is_ok());
    });
    (verify, whole)
}

/// Asking policies of which one fits.
pub(crate) fn policies(show: impl Fn(&str, usize, Costs<'_>)) {
    for size in [10, 100, 1_000, 10_000] {
        let world = World::new();
        let mut text = String::new();
        for number in 0..size {
            writeln!(
                text,
                "permit(principal in Group::\"g{number}\", action == Action::\"read\", \
                 resource == Order::\"{number}\") when {{ context.http.method == \"GET\" }};"
            )
            .unwrap();
        }
        world.write("policies.cedar", &text);
        let scope = world.scope(json!({}));
        let last = size - 1;
        let request = request("orders.example", &format!("/orders/{last}"));
        let path = CanonicalPath::parse(request.raw_path(), Allowances::default()).unwrap();
        let principal = Principal { groups: vec![format!("g{last}")], ..Principal::anonymous() };
        let target = Target {
            asset_type: "Order".to_owned(),
            asset_id: last.to_string(),
            action: "read".to_owned(),
        };
        let question = Question {
            principal: &Arc::new(principal),
            target: &target,
            context: Context::Http { request: &request, path: &path },
            now: Timestamp::from_seconds(NOW),
        };
        let cost = least(|| {
            let decided = scope.authorizer.policy.decide(&question).now_or_never().unwrap();
            assert!(black_box(decided).is_ok());
        });
        show("policies", size, &[("policy", cost)]);
    }
}

/// The whole decision with a token that lists so many entitlements, which are kept in memory.
pub(crate) fn entitlements(show: impl Fn(&str, usize, Costs<'_>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let now = Timestamp::from_seconds(NOW);
    for size in [1, 10, 100, 1_000] {
        let world = World::new();
        let orders: Vec<Value> = (0..size).map(order).collect();
        world.write("entities.json", &Value::from(orders).to_string());
        let scope = world.scope(json!({
            "jwtCustomization": {"items": "entitlements", "template": "{{asset_id}}"},
        }));
        let request = request("orders.example", "/orders/0");
        let cost = least(|| {
            let decided = scope.authorizer.authorize(&request, Channel::Proxy, now);
            assert!(runtime.block_on(decided).outcome.is_ok());
        });
        show("entitlements", size, &[("whole decision", cost)]);
    }
}

fn order(number: usize) -> Value {
    json!({"uid": {"type": "Order", "id": number.to_string()}, "attrs": {}, "parents": []})
}
