//! What a decision costs by the number of policies and entities, beside Cedar's own authorizer.
//!
//! `cargo bench --bench policy`. The same question is decided by Placet, and by `cedar-policy` on
//! all policies with the principal added to a copy of all entities, which is what its interface
//! offers. Both must permit. Nothing is asserted of the figures: they are for a person to compare.
//!
//! `cargo bench --bench policy -- ours|cedar POLICIES ENTITIES CALLS` only calls, for callgrind.

#![expect(clippy::unwrap_used, reason = "a benchmark ends at the first surprise")]
#![expect(clippy::print_stdout, reason = "its tables are what it is for")]

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityUid, PolicySet,
    RestrictedExpression as Value,
};
use futures_util::FutureExt as _;
use placet::clock::Timestamp;
use placet::identity::Principal;
use placet::path::{Allowances, CanonicalPath};
use placet::policy::{self, Cedar, CedarSources, Policy, Question};
use placet::request::{Host, Request};
use placet::route::Target;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn main() {
    // Cargo itself adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [which, numbers @ ..] = words.as_slice() {
        let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().unwrap()).collect();
        let [policies, entities, calls] = numbers.try_into().unwrap();
        let case = Case::new(policies, entities);
        (0..calls).for_each(|_| if which == "ours" { case.ours() } else { case.cedar() });
        return;
    }
    println!("microseconds a decision, the least of 15 batches: Placet | Cedar's own authorizer");
    println!("{:>10} {:>22} {:>22}", "policies", "10 entities", "10,000 entities");
    for policies in SIZES {
        let cells = [10, 10_000].map(|entities| {
            let case = Case::new(policies, entities);
            let ours = least(|| case.ours());
            format!("{ours:.1} | {:.1}", least(|| case.cedar()))
        });
        println!("{policies:>10} {:>22} {:>22}", cells[0], cells[1]);
    }
    println!("\nthe same with 1,000 targets decided for one request, microseconds a target");
    for policies in SIZES {
        let case = Case::new(policies, 10_000);
        println!("{policies:>10} {:>22.1}", least(|| case.many()) / 1_000.0);
    }
}

struct Case {
    policy: Policy,
    all: PolicySet,
    entities: Entities,
    principal: Arc<Principal>,
    target: Target,
    request: Request,
    path: CanonicalPath,
}

impl Case {
    fn new(policies: usize, entities: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (text, file) = (policy_text(policies), entity_text(entities));
        let sources = CedarSources {
            policies: vec![write("orders.cedar", &text)],
            schema: None,
            entities: Some(write("entities.json", &file)),
        };
        let policy = Policy::cedar(Cedar::load(&sources, ["User", "Account"]).unwrap());
        let principal = Principal {
            entity_type: "User".to_owned(),
            id: "u1".to_owned(),
            issuer: Some("https://idp.example/".to_owned()),
            groups: vec!["g1".to_owned(), "g2".to_owned(), "g3".to_owned()],
            claims: (0..12).map(|number| (format!("claim{number}"), "some text".into())).collect(),
            ..Principal::anonymous()
        };
        let mut request = Request {
            method: "GET".to_owned(),
            scheme: "https".to_owned(),
            host: Host::parse("orders.example").unwrap(),
            target: "/accounts/a1?expand=items".to_owned(),
            ..Request::default()
        };
        request.source.ip = Some("192.0.2.7".parse().unwrap());
        for number in 0..17 {
            request.headers.push(&format!("x-header-{number}"), "a value of usual length");
        }
        Self {
            policy,
            all: text.parse().unwrap(),
            entities: Entities::from_json_str(&file, None).unwrap(),
            principal: Arc::new(principal),
            target: target("a1"),
            request,
            path: CanonicalPath::parse("/accounts/a1", Allowances::default()).unwrap(),
        }
    }

    fn question(&self) -> Question<'_> {
        Question {
            principal: &self.principal,
            target: &self.target,
            context: policy::Context::Http { request: &self.request, path: &self.path },
            now: Timestamp::from_seconds(1_800_000_000),
        }
    }

    fn ours(&self) {
        black_box(self.policy.decide(&self.question()).now_or_never().unwrap().unwrap());
    }

    fn many(&self) {
        let question = self.question();
        let inquiry = self.policy.inquire(&question).unwrap();
        for number in 0..1_000 {
            black_box(inquiry.permits(&target(&format!("a{number}"))).unwrap());
        }
    }

    fn cedar(&self) {
        let principal = uid("User", &self.principal.id);
        let request = cedar_policy::Request::new(
            principal.clone(),
            uid("Action", "read"),
            uid("Account", "a1"),
            self.context(),
            None,
        );
        let (_, mut attributes, mut parents) = match self.entities.get(&principal) {
            Some(known) => known.clone().into_inner(),
            None => (principal.clone(), HashMap::new(), HashSet::new()),
        };
        let text = |text: &str| Value::new_string(text.to_owned());
        let claims = self.principal.claims.keys().map(|name| (name.clone(), text("some text")));
        attributes.insert("claims".to_owned(), Value::new_record(claims).unwrap());
        attributes.insert("issuer".to_owned(), text("https://idp.example/"));
        parents.extend(self.principal.groups.iter().map(|group| uid("Group", group)));
        let entity = Entity::new(principal, attributes, parents).unwrap();
        let entities = self.entities.clone().upsert_entities([entity], None).unwrap();
        let response = Authorizer::new().is_authorized(&request.unwrap(), &self.all, &entities);
        assert_eq!(black_box(response).decision(), Decision::Allow);
    }

    fn context(&self) -> Context {
        let text = |text: &str| Value::new_string(text.to_owned());
        let record = |fields: Vec<(&str, Value)>| {
            Value::new_record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)))
                .unwrap()
        };
        let headers = self.request.headers.iter().map(|(name, _)| (name, text("a value")));
        let http = vec![
            ("method", text("GET")),
            ("host", text("orders.example")),
            ("path", text("/accounts/a1")),
            ("query", record(vec![("expand", Value::new_set([text("items")]))])),
            ("headers", record(headers.collect())),
        ];
        Context::from_pairs([
            ("http".to_owned(), record(http)),
            ("source".to_owned(), record(vec![("ip", Value::new_ip("192.0.2.7"))])),
            ("time".to_owned(), Value::new_datetime("2027-01-15T08:00:00.000Z")),
        ])
        .unwrap()
    }
}

/// A forbid for all, and permits for a group, an action and an account or a folder of them, some of
/// them on a condition. Each group and each account has the same share of them at any number.
fn policy_text(count: usize) -> String {
    let mut text = String::from(
        "forbid(principal, action, resource)
             when { context.source has ip && context.source.ip.isInRange(ip(\"198.51.100.0/24\")) };
         permit(principal in Group::\"g1\", action == Action::\"read\", resource == Account::\"a1\")
             when { context.http.method == \"GET\" && resource.owner == principal };",
    );
    for number in 2..count {
        let head = format!("permit(principal in Group::\"g{number}\", action == Action::\"read\",");
        match number % 3 {
            0 => writeln!(text, "{head} resource in Folder::\"f{number}\");"),
            1 => writeln!(
                text,
                "{head} resource == Account::\"a{number}\")
                 when {{ context.http.method == \"GET\" }};"
            ),
            _ => writeln!(
                text,
                "permit(principal == User::\"u{number}\", action, resource is Account)
                 when {{ resource.owner == principal }};"
            ),
        }
        .unwrap();
    }
    text
}

/// Users in groups, and accounts in folders and with an owner.
fn entity_text(count: usize) -> String {
    let mut file = Vec::new();
    for number in 0..count / 2 {
        file.push(format!(
            r#"{{"uid": {{"type": "User", "id": "u{number}"}}, "attrs": {{"desk": {number}}},
                "parents": [{{"type": "Group", "id": "g{}"}}]}}"#,
            number % 50,
        ));
        file.push(format!(
            r#"{{"uid": {{"type": "Account", "id": "a{number}"}},
                "attrs": {{"owner": {{"__entity": {{"type": "User", "id": "u{number}"}}}}}},
                "parents": [{{"type": "Folder", "id": "f{}"}}]}}"#,
            number % 50,
        ));
    }
    format!("[{}]", file.join(","))
}

fn target(id: &str) -> Target {
    Target { asset_type: "Account".to_owned(), asset_id: id.to_owned(), action: "read".to_owned() }
}

fn uid(name: &str, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(name.parse().unwrap(), id.parse().unwrap())
}

/// Microseconds of one call: the least of 15 batches of about 20 ms each.
fn least(mut call: impl FnMut()) -> f64 {
    let began = Instant::now();
    call();
    let calls = (Duration::from_millis(20).as_nanos() / began.elapsed().as_nanos().max(1)).max(1);
    let batch = |_| {
        let began = Instant::now();
        (0..calls).for_each(|_| call());
        began.elapsed().as_secs_f64() * 1e6 / calls as f64
    };
    (0..15).map(batch).fold(f64::MAX, f64::min)
}
