//! What one call costs as the settings grow: routes, scopes, issuers, claims, policies,
//! entitlements.
//!
//! `cargo bench --bench growth` prints the tables, `-- json` a line of JSON for each row of them.
//! Nothing is asserted of the figures; that each call has the right outcome is.

#![expect(clippy::unwrap_used, reason = "a benchmark ends at the first surprise")]
#![expect(clippy::print_stdout, reason = "its tables are what it is for")]

mod tables;
mod world;

use std::fs;
use std::thread;

use serde_json::{Map, Value};

fn main() {
    let is_json = std::env::args().any(|word| word == "json");
    let show = |table: &str, size: usize, costs: &[(&str, f64)]| {
        if is_json {
            let costs = costs.iter().map(|(column, cost)| ((*column).to_owned(), (*cost).into()));
            let mut row: Map<String, Value> = costs.collect();
            row.insert("table".to_owned(), table.into());
            row.insert("size".to_owned(), size.into());
            println!("{}", Value::Object(row));
        } else {
            let costs = costs.iter().map(|(column, cost)| format!("{column} {cost:.2}"));
            println!("{size:>8} {table:<20} {}", costs.collect::<Vec<_>>().join("   "));
        }
    };
    if !is_json {
        println!("microseconds of CPU time of a call, the least of 9 batches");
    }
    tables::routes(show);
    tables::scopes(show);
    tables::issuers(show);
    tables::claims(show);
    tables::policies(show);
    tables::entitlements(show);
}

/// Microseconds of a call: the least of 9 batches of at least 5 ms.
fn least(mut call: impl FnMut()) -> f64 {
    const BATCH: f64 = 5e6;
    let mut batch = |calls: u32| {
        let before = cpu_nanoseconds();
        (0..calls).for_each(|_| call());
        cpu_nanoseconds() - before
    };
    let mut calls = 1;
    while batch(calls) < BATCH {
        calls *= 2;
    }
    (0..9).map(|_| batch(calls) / 1e3 / f64::from(calls)).fold(f64::MAX, f64::min)
}

/// The time that this thread has run. The kernel brings its account up to date when it schedules.
fn cpu_nanoseconds() -> f64 {
    thread::yield_now();
    let account = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    account.split(' ').next().unwrap().parse().unwrap()
}
