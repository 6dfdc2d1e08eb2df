//! What a decision by Rego costs by the number of rules, beside regorus' default path.
//!
//! `cargo bench --bench rego`. The same request is decided by Placet with the virtual machine where
//! it takes the policies, by Placet with the interpreter, and by regorus as its documentation shows
//! it: the input as JSON text, the engine cloned, `eval_rule`. All must permit. Nothing is asserted
//! of the figures: they are for a person to compare.

#![expect(clippy::unwrap_used, reason = "a benchmark ends at the first surprise")]
#![expect(clippy::print_stdout, reason = "its tables are what it is for")]

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use placet::clock::Timestamp;
use placet::identity::Principal;
use placet::path::{Allowances, CanonicalPath};
use placet::policy::{self, Evaluator, Policy, Protected, Question, Rego, RegoSources};
use placet::request::{Host, Request};
use placet::route::Target;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn main() {
    println!("microseconds a decision, the least of 15 batches");
    println!(
        "{:>8} {:<22} {:>16} {:>14} {:>16}",
        "rules", "policies", "Placet", "interpreter", "regorus default"
    );
    for rules in SIZES {
        // Of more rules regorus' engine takes none, and Placet would need more than it gives them.
        let each = (rules <= 1_000).then(|| ("one rule each", Case::rules(rules)));
        for (name, case) in each.into_iter().chain([("grants in data", Case::data(rules))]) {
            let ours = least(|| case.ours());
            let marked = format!("{ours:.1} ({})", if case.is_machine { "vm" } else { "int" });
            let interpreted = least(|| case.interpreted());
            let default = least(|| case.default());
            println!("{rules:>8} {name:<22} {marked:>16} {interpreted:>14.1} {default:>16.1}");
        }
    }
}

struct Case {
    policy: Policy,
    is_machine: bool,
    slow: Policy,
    engine: regorus::Engine,
    input: String,
    principal: Arc<Principal>,
    target: Target,
    request: Request,
    path: CanonicalPath,
}

impl Case {
    /// Each grant is a rule; the last one permits.
    fn rules(count: usize) -> Self {
        let mut text =
            String::from("package envoy.authz\nimport rego.v1\ndefault allow := false\n");
        for number in 1..=count {
            let _ = write!(
                text,
                "allow if {{\n\tinput.attributes.request.http.method == \"GET\"\n\
                 \tinput.attributes.request.http.headers[\"x-role\"] == \"role-{number}\"\n\
                 \tinput.parsed_path == [\"accounts\", \"a{number}\"]\n}}\n"
            );
        }
        Self::new(&text, "{}", count)
    }

    /// All grants are data; one rule looks them up.
    fn data(count: usize) -> Self {
        let text = "package envoy.authz\nimport rego.v1\ndefault allow := false\nallow if {\n\
            \tsome role in data.grants[input.parsed_path[1]]\n\
            \trole == input.attributes.request.http.headers[\"x-role\"]\n}\n";
        let grants: Vec<_> =
            (1..=count).map(|number| format!("\"a{number}\": [\"role-{number}\"]")).collect();
        Self::new(text, &format!("{{\"grants\": {{{}}}}}", grants.join(",")), count)
    }

    fn new(text: &str, data: &str, last: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("policy.rego"), text).unwrap();
        fs::write(folder.path().join("data.json"), data).unwrap();
        let sources = RegoSources {
            files: vec![folder.path().to_owned()],
            data: Vec::new(),
            query: "envoy/authz/allow".to_owned(),
            parse_body: true,
            protected: Protected::default(),
            bundle: None,
            descriptors: None,
        };
        let mut engine = regorus::Engine::new();
        engine.add_policy("policy.rego".to_owned(), text.to_owned()).unwrap();
        engine.add_data_json(data).unwrap();
        let rego = Rego::load(&sources).unwrap();
        let is_machine = rego.evaluator() == Evaluator::Machine;
        let mut request = Request {
            id: "13519049518330544501".to_owned(),
            method: "GET".to_owned(),
            scheme: "https".to_owned(),
            host: Host::parse("orders.example").unwrap(),
            target: format!("/accounts/a{last}?expand=items"),
            protocol: "HTTP/2".to_owned(),
            ..Request::default()
        };
        request.source.ip = Some("192.0.2.7".parse().unwrap());
        request.headers.push("x-role", format!("role-{last}"));
        for number in 0..17 {
            request.headers.push(&format!("x-header-{number}"), "a value of usual length");
        }
        let path = CanonicalPath::parse(request.raw_path(), Allowances::default()).unwrap();
        Self {
            policy: Policy::rego(rego),
            is_machine,
            slow: Policy::rego(Rego::load(&sources).unwrap().interpreted()),
            engine,
            input: document(&request, last),
            principal: Arc::new(Principal::anonymous()),
            target: Target {
                asset_type: "Path".to_owned(),
                asset_id: path.to_string(),
                action: "get".to_owned(),
            },
            request,
            path,
        }
    }

    fn decide(&self, policy: &Policy) {
        let context = policy::Context::Http { request: &self.request, path: &self.path };
        let now = Timestamp::from_seconds(1_800_000_000);
        let question = Question { principal: &self.principal, target: &self.target, context, now };
        assert!(policy.decide(&question).now_or_never().unwrap().is_ok());
    }

    fn ours(&self) {
        self.decide(&self.policy);
    }

    fn interpreted(&self) {
        self.decide(&self.slow);
    }

    fn default(&self) {
        let mut engine = self.engine.clone();
        engine.set_input(regorus::Value::from_json_str(&self.input).unwrap());
        let allowed = engine.eval_rule("data.envoy.authz.allow".to_owned()).unwrap();
        assert_eq!(allowed, regorus::Value::from(true));
    }
}

/// The input as a caller without our mapper has it: text.
fn document(request: &Request, last: usize) -> String {
    let headers: serde_json::Map<_, _> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into()))
        .collect();
    serde_json::json!({
        "attributes": {
            "source": {"address": {"socketAddress": {"address": "192.0.2.7"}}},
            "destination": {},
            "request": {"http": {
                "id": request.id, "method": "GET", "scheme": "https", "host": "orders.example",
                "path": request.target, "protocol": "HTTP/2", "headers": headers,
            }},
            "metadataContext": {},
        },
        "parsed_path": ["accounts", format!("a{last}")],
        "parsed_query": {"expand": ["items"]},
        "parsed_body": null,
        "truncated_body": false,
        "version": {"ext_authz": "v3", "encoding": "protojson"},
    })
    .to_string()
}

/// The least of 15 batches, in microseconds a call.
fn least(call: impl Fn()) -> f64 {
    let started = Instant::now();
    let mut calls = 0_u32;
    while started.elapsed() < Duration::from_millis(20) || calls == 0 {
        call();
        calls += 1;
    }
    let batch = || {
        let started = Instant::now();
        (0..calls).for_each(|_| call());
        started.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
    };
    (0..15).map(|_| batch()).fold(f64::INFINITY, f64::min)
}
