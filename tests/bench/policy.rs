//! What a decision costs by the number of policies and entities, beside Cedar's own authorizer; and
//! what a list of all that somebody holds costs.
//!
//! `cargo bench --bench policy`. The same question is decided by Placet, and by `cedar-policy` on
//! all policies with the principal added to a copy of all entities, which is what its interface
//! offers. Both must permit. Nothing is asserted of the figures: they are for a person to compare.
//!
//! `cargo bench --bench policy -- crowds|lists` prints one of its tables.
//! `cargo bench --bench policy -- ours|cedar POLICIES ENTITIES CALLS` only calls, for callgrind.

#![expect(clippy::unwrap_used, reason = "a benchmark ends at the first surprise")]
#![expect(clippy::indexing_slicing, reason = "as above")]
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
use placet::entitlement::{Catalogue, Lookup};
use placet::identity::Principal;
use placet::path::{Allowances, CanonicalPath};
use placet::policy::{self, Cedar, CedarSources, Policy, Question};
use placet::request::{Host, Request};
use placet::route::{Pattern, Route, Routes, Target};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn main() {
    // Cargo itself adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.as_slice() {
        [which] if which == "crowds" => return crowds(),
        [which] if which == "lists" => return lists(),
        _ => {}
    }
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
    crowds();
    lists();
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
        Self::of(&policy_text(policies), &entity_text(entities))
    }

    fn of(text: &str, file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let sources = CedarSources {
            policies: vec![write("orders.cedar", text)],
            schema: None,
            entities: Some(write("entities.json", file)),
            bundle: None,
            descriptors: None,
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
            entities: Entities::from_json_str(file, None).unwrap(),
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
        assert!(self.is_permitted());
    }

    fn is_permitted(&self) -> bool {
        black_box(self.policy.decide(&self.question()).now_or_never().unwrap()).is_ok()
    }

    fn cedar(&self) {
        assert_eq!(self.response(), Decision::Allow);
    }

    fn response(&self) -> Decision {
        let principal = uid("User", &self.principal.id);
        let request = cedar_policy::Request::new(
            principal.clone(),
            uid("Action", "read"),
            uid("Account", &self.target.asset_id),
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
        black_box(response).decision()
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
fn least(call: impl FnMut()) -> f64 {
    least_of(15, Duration::from_millis(20), call)
}

fn least_of(batches: usize, batch: Duration, mut call: impl FnMut()) -> f64 {
    let began = Instant::now();
    call();
    let calls = (batch.as_nanos() / began.elapsed().as_nanos().max(1)).max(1);
    let batch = |_| {
        let began = Instant::now();
        (0..calls).for_each(|_| call());
        began.elapsed().as_secs_f64() * 1e6 / calls as f64
    };
    (0..batches).map(batch).fold(f64::MAX, f64::min)
}

/// Principals, of which some ask far more often than others.
const CROWD: usize = 200;
const DRAWS: usize = 1_000;

/// A crowd asks of sets in which groups lie three deep: the median of what is asked, by how often
/// each asks, and the principal that costs most. Placet and Cedar must agree on each.
fn crowds() {
    println!("\na crowd of {CROWD} (Zipf), groups three deep, microseconds a decision:");
    println!("Placet's median, its worst principal | Cedar's median");
    println!("{:>10} {:>30} {:>30}", "policies", "all with a head", "5 % with an open head");
    for policies in [10, 100, 1_000, 10_000, 100_000] {
        let cells = [false, true].map(|is_mixed| {
            let [median, worst, cedar] = crowd(policies, is_mixed);
            format!("{median:.1}, {worst:.1} | {cedar:.1}")
        });
        println!("{policies:>10} {:>30} {:>30}", cells[0], cells[1]);
    }
}

fn crowd(policies: usize, is_mixed: bool) -> [f64; 3] {
    let teams = (policies / 20).max(4);
    let mut case = Case::of(
        &mixed_text(policies, teams, is_mixed),
        &crowd_entities(teams, policies.max(1_000)),
    );
    // Each is permitted by a policy for its team.
    let ask = |number: usize, case: &mut Case| {
        let policy = number * 28 % policies / 4 * 4;
        let mut principal = (*case.principal).clone();
        principal.id = format!("u{number}");
        principal.groups = vec![format!("team{}", policy % teams)];
        principal.claims.insert("role".to_owned(), format!("role{number}").into());
        case.principal = Arc::new(principal);
        case.target = target(&format!("a{policy}"));
    };
    let mut cost = Vec::new();
    for number in 0..CROWD {
        ask(number, &mut case);
        cost.push(least_of(5, Duration::from_millis(2), || {
            assert!(case.is_permitted());
        }));
    }
    let mut asked: Vec<f64> = zipf().map(|number| cost[number]).collect();
    let worst = cost.iter().copied().fold(0.0, f64::max);
    let mut plain: Vec<f64> = zipf()
        .step_by(DRAWS / 10)
        .map(|number| {
            ask(number, &mut case);
            assert_eq!(case.is_permitted(), case.response() == Decision::Allow, "{number}");
            least_of(1, Duration::ZERO, || {
                case.response();
            })
        })
        .collect();
    [median(&mut asked), worst, median(&mut plain)]
}

/// `DRAWS` numbers below `CROWD`, the n-th with a weight of 1/n.
fn zipf() -> impl Iterator<Item = usize> {
    let weights: Vec<f64> = (1..=CROWD).map(|rank| 1.0 / rank as f64).collect();
    let total: f64 = weights.iter().sum();
    (0..DRAWS).map(move |draw| {
        let mut left = total * (draw as f64 + 0.5) / DRAWS as f64;
        weights
            .iter()
            .position(|weight| {
                left -= weight;
                left < 0.0
            })
            .unwrap_or(0)
    })
}

fn mixed_text(count: usize, teams: usize, is_mixed: bool) -> String {
    let mut text = String::new();
    for number in 0..count {
        let (team, folder) = (number % teams, number % 1_000);
        let open = "(principal, action, resource)";
        let policy = match (is_mixed && number % 20 == 9, number / 20 % 4, number % 4) {
            (true, 0, _) => format!(
                "permit{open} when {{ principal in Group::\"team{team}\" && resource.owner == principal }};"
            ),
            (true, 1, _) => format!(
                "forbid{open} when {{ resource in Folder::\"f{folder}\" && context.http.method == \"PATCH\" }};"
            ),
            (true, 2, _) => format!(
                "permit{open} when {{ principal.claims has role && principal.claims.role == \"role{number}\" }};"
            ),
            (true, ..) => format!(
                "forbid{open} when {{ context.source.ip.isInRange(ip(\"10.{}.{}.0/24\")) }};",
                number / 256 % 256, number % 256
            ),
            (_, _, 0) => format!(
                "permit(principal in Group::\"team{team}\", action == Action::\"read\", resource == Account::\"a{number}\")
                 when {{ resource.level < 3 }};"
            ),
            (_, _, 1) => format!(
                "permit(principal in Group::\"department{}\", action in [Action::\"read\", Action::\"write\"], resource in Folder::\"f{folder}\");",
                team / 10
            ),
            (_, _, 2) => format!(
                "permit(principal == User::\"u{number}\", action, resource is Account) when {{ resource.owner == principal }};"
            ),
            _ => format!(
                "permit(principal in Group::\"division{}\", action == Action::\"read\", resource in Folder::\"f{folder}\")
                 when {{ context.http.method == \"GET\" }};",
                team / 100
            ),
        };
        writeln!(text, "{policy}").unwrap();
    }
    text
}

/// Teams in departments in divisions, and accounts in folders.
fn crowd_entities(teams: usize, accounts: usize) -> String {
    let group = |name: &str, number: usize, parent: &str| {
        format!(
            r#"{{"uid": {{"type": "Group", "id": "{name}{number}"}}, "attrs": {{}},
                "parents": [{{"type": "Group", "id": "{parent}{}"}}]}}"#,
            number / 10
        )
    };
    let mut file: Vec<String> =
        (0..teams).map(|number| group("team", number, "department")).collect();
    file.extend((0..teams.div_ceil(10)).map(|number| group("department", number, "division")));
    file.extend((0..accounts).map(account));
    format!("[{}]", file.join(","))
}

fn account(number: usize) -> String {
    format!(
        r#"{{"uid": {{"type": "Account", "id": "a{number}"}},
            "attrs": {{"owner": {{"__entity": {{"type": "User", "id": "u{}"}}}}, "level": {}}},
            "parents": [{{"type": "Folder", "id": "f{}"}}]}}"#,
        number % 50,
        number % 3,
        number % 50,
    )
}

const ACTIONS: [&str; 5] = ["close", "list", "read", "share", "write"];

/// 1,000 accounts with five actions each, and 1,000 policies.
fn lists() {
    println!(
        "\nmilliseconds a list, of 1,000 assets with 5 actions: cold | warm | each decided by itself"
    );
    let accounts: Vec<String> = (0..1_000).map(account).collect();
    let case = Case::of(&listed_text(), &format!("[{}]", accounts.join(",")));
    let route = |action: &&str| {
        let pattern = Pattern::parse("/accounts/{id}", Allowances::default()).unwrap();
        Route::target(vec![], pattern, "Account".into(), "{id}", (*action).to_owned()).unwrap()
    };
    let routes = Routes::new(ACTIONS.iter().map(route).collect());
    let catalogue = Catalogue::new(&case.policy, &routes, 10_000).unwrap();
    for group in ["nobody", "some", "all", "judged"] {
        let mut principal = (*case.principal).clone();
        principal.groups = vec![group.to_owned()];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let list = |principal: Principal| {
            let principal = Arc::new(principal);
            let question = Question { principal: &principal, ..case.question() };
            let held = runtime.block_on(catalogue.held(&case.policy, &question)).unwrap();
            (held.targets.len(), held.lookup)
        };
        let mut count = 0;
        let cold = least(|| {
            count += 1;
            let somebody = Principal { id: format!("somebody{count}"), ..principal.clone() };
            assert_eq!(list(somebody).1, Lookup::Miss);
        });
        let (held, _) = list(principal.clone());
        let warm = least(|| assert_eq!(list(principal.clone()), (held, Lookup::Hit)));
        let each = least_of(3, Duration::ZERO, || {
            let principal = Arc::new(principal.clone());
            let decided = (0..5_000).filter(|number| {
                let asset = format!("a{}", number / 5);
                let target = Target { action: ACTIONS[number % 5].to_owned(), ..target(&asset) };
                let question =
                    Question { principal: &principal, target: &target, ..case.question() };
                case.policy.decide(&question).now_or_never().unwrap().is_ok()
            });
            assert_eq!(decided.count(), held);
        });
        println!(
            "{group:>10}, {held:>4} held {:>10.3} | {:.3} | {:.3}",
            cold / 1e3,
            warm / 1e3,
            each / 1e3
        );
    }
}

fn listed_text() -> String {
    let mut text = String::from(
        "forbid(principal, action, resource) when { principal.claims has locked };
         permit(principal in Group::\"some\", action == Action::\"read\", resource in Folder::\"f1\");
         permit(principal in Group::\"some\", action == Action::\"list\", resource in Folder::\"f2\") when { resource.level < 2 };
         permit(principal in Group::\"all\", action, resource is Account);",
    );
    for action in ACTIONS {
        writeln!(
            text,
            "permit(principal in Group::\"judged\", action == Action::\"{action}\", resource is Account) when {{ resource.level < 9 }};"
        )
        .unwrap();
    }
    for number in 0..990 {
        writeln!(
            text,
            "permit(principal in Group::\"g{number}\", action, resource == Account::\"a{number}\");"
        )
        .unwrap();
    }
    text
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
