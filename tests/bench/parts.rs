//! What the parts of a decision cost, each alone: verifying the caller's token, asking the policies,
//! signing.
//!
//! `tests/bench/run` starts it, on its own settings: `parts SETTINGS CREDENTIALS time` prints, at each
//! line of its input, the microseconds of CPU time of each as JSON, and `parts SETTINGS CREDENTIALS PART CALLS` only calls,
//! for callgrind. The scope is `es256`; it signs with a throw-away key of that algorithm.

#![expect(clippy::unwrap_used, reason = "a benchmark ends at the first surprise")]
#![expect(clippy::panic, reason = "as above")]
#![expect(clippy::indexing_slicing, reason = "as above")]
#![expect(clippy::print_stdout, reason = "its figures are what it is for")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use futures_util::FutureExt as _;
use placet::app::{GivenKeys, Offline};
use placet::clock::{Clock, Timestamp};
use placet::config::Config;
use placet::identity::Principal;
use placet::path::{Allowances, CanonicalPath};
use placet::policy::{Context, Permit, Question};
use placet::request::{Host, Request};
use placet::route::{Resolved, Target};
use placet::scope::Scope;
use placet::token::{Binding, Channel, DecisionId, Listed};

/// As in `placet`, so that a part costs what it costs there.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTS: [&str; 3] = ["verify", "policy", "sign"];

fn main() {
    // Cargo itself adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match *words.as_slice() {
        [settings, credentials, "time"] => {
            let case = Case::new(settings, credentials);
            for _ in io::stdin().lines() {
                println!("{}", serde_json::json!(case.means()));
            }
        }
        [settings, credentials, part, calls] => {
            let case = Case::new(settings, credentials);
            (0..calls.parse().unwrap()).for_each(|_: u32| case.call(part));
        }
        _ => println!("started by tests/bench/run: SETTINGS CREDENTIALS time | PART CALLS"),
    }
}

struct Case {
    scope: Arc<Scope>,
    /// Each with another token: of one that comes again and again, a processor learns which way its verification goes.
    requests: Vec<Request>,
    next: Cell<usize>,
    path: CanonicalPath,
    target: Target,
    principal: Arc<Principal>,
    permit: Permit,
    now: Timestamp,
}

impl Case {
    fn new(settings: &str, credentials: &str) -> Self {
        let now = Clock::System.now();
        let config = Config::load(Path::new(settings)).unwrap();
        let offline = Offline::new(config, &GivenKeys::None, now).unwrap();
        let scope = Arc::clone(offline.scopes.with_client_id("es256").unwrap());
        let tokens = fs::read_to_string(credentials).unwrap();
        let requests: Vec<Request> = tokens.lines().map(request).collect();
        let request = &requests[0];
        let path = CanonicalPath::parse(request.raw_path(), Allowances::default()).unwrap();
        let Resolved::Target(target) = scope.authorizer.routes.resolve("GET", &path) else {
            panic!("no route for {path}");
        };
        let identified = scope.authorizer.identity.authenticate(request, now);
        let principal = identified.now_or_never().unwrap().unwrap();
        let question = Question {
            principal: &principal,
            target: &target,
            context: Context::Http { request, path: &path },
            now,
        };
        let permit = scope.authorizer.policy.decide(&question).now_or_never().unwrap().unwrap();
        Self { scope, requests, next: Cell::new(0), path, target, principal, permit, now }
    }

    fn call(&self, part: &str) {
        match part {
            "verify" => self.verify(),
            "policy" => self.policy(),
            "sign" => self.sign(),
            other => panic!("no part `{other}`"),
        }
    }

    /// The token's form, claims and signature.
    fn verify(&self) {
        let request = &self.requests[self.next.get()];
        self.next.set((self.next.get() + 1) % self.requests.len());
        let identified = self.scope.authorizer.identity.authenticate(request, self.now);
        assert!(black_box(identified.now_or_never().unwrap()).is_ok());
    }

    fn policy(&self) {
        let question = Question {
            principal: &self.principal,
            target: &self.target,
            context: Context::Http { request: &self.requests[0], path: &self.path },
            now: self.now,
        };
        let decided = self.scope.authorizer.policy.decide(&question);
        assert!(black_box(decided.now_or_never().unwrap()).is_ok());
    }

    /// The token's claims and signature.
    fn sign(&self) {
        let authorizer = &self.scope.authorizer;
        let listed = Listed { targets: &[&self.target], assets: &authorizer.policy };
        let binding =
            Binding { method: "GET", uri: "http://orders.example.com/api/v1/orders/1000" };
        let id = DecisionId::random().unwrap();
        let minted = authorizer.minter.mint(
            &self.permit,
            &listed,
            Some(&binding),
            Channel::Proxy,
            self.now,
            &id,
        );
        assert!(black_box(minted.now_or_never().unwrap()).is_ok());
    }

    /// Microseconds of a call of each part, in the mean, as those of a request are measured: not the least, which
    /// on a machine whose speed changes is of its best moment. They take turns, so that a slow moment is all parts'.
    fn means(&self) -> BTreeMap<&'static str, f64> {
        const TURNS: u32 = 3;
        const CALLS: u32 = 100;
        let mut spent = BTreeMap::from(PARTS.map(|part| (part, 0.0)));
        for _ in 0..TURNS {
            for (part, nanoseconds) in &mut spent {
                let before = cpu_nanoseconds();
                (0..CALLS).for_each(|_| self.call(part));
                *nanoseconds += cpu_nanoseconds() - before;
            }
        }
        spent.into_iter().map(|(part, all)| (part, all / 1e3 / f64::from(TURNS * CALLS))).collect()
    }
}

/// The time that this thread has run. The kernel brings its account up to date when it schedules.
fn cpu_nanoseconds() -> f64 {
    thread::yield_now();
    let account = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    account.split(' ').next().unwrap().parse().unwrap()
}

/// As the load client writes it.
fn request(token: &str) -> Request {
    let mut request = Request {
        id: "4276809336591076463".to_owned(),
        method: "GET".to_owned(),
        scheme: "http".to_owned(),
        host: Host::parse("orders.example.com").unwrap(),
        target: "/api/v1/orders/1000?expand=items&limit=10".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        ..Request::default()
    };
    request.source.ip = Some("192.0.2.2".parse().unwrap());
    request.headers.push("authorization", format!("Bearer {token}"));
    for number in 0..12 {
        request.headers.push(&format!("x-header-{number}"), "a value of usual length");
    }
    request
}
