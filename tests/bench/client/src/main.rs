//! The load client of the benchmark: ext_authz calls over h2, gRPC framing by hand, or the requests
//! behind which a real Envoy makes them.
//!
//! `prepare` makes an identity provider and the credentials of the crowd. `run` carries out one
//! [`plan`]: it connects, warms up, writes `ready` to standard output, waits for a line on standard
//! input, sends, and writes what it saw as one line of JSON; at a further line it does so once more,
//! from `ready` on. No two requests are alike, and every answer is judged: a wrong one ends the run,
//! since a wrong server must not look fast.
//!
//! Usage:
//!   `bench-client prepare DIRECTORY`
//!   `bench-client run PLAN`, a JSON object

mod answer;
mod connection;
mod crowd;
mod draw;
mod issuer;
mod load;
mod message;
mod pace;
mod plan;
mod random;
mod run;
mod token;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

/// Nobody handles one: a benchmark ends at the first surprise.
type Fault = Box<dyn Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match arguments.as_slice() {
        ["prepare", directory] => crowd::prepare(Path::new(directory)),
        ["run", plan] => run::run(plan),
        _ => Err("use `prepare DIRECTORY` or `run PLAN`".into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
