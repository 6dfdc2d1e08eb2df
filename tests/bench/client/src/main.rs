//! The load client of the benchmark: ext_authz calls over h2, gRPC framing by hand.
//!
//! `prepare` makes an identity provider's key and one token of it, and writes a CheckRequest for
//! each case; `load` sends one of them many times and reads every answer. An answer that is no
//! answer, or not the expected decision, fails the run: a wrong server must not look fast.
//!
//! Usage:
//!   `bench-client prepare DIRECTORY NAME=METHOD,PATH,SCOPE...`
//!   `bench-client load ADDRESS MESSAGE CONNECTIONS STREAMS REQUESTS allow|deny`

mod capture;
mod load;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use load::{Decision, Load};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    match arguments {
        ["prepare", directory, cases @ ..] => capture::prepare(Path::new(directory), cases),
        ["load", address, message, connections, streams, requests, expected] => {
            let load = Load {
                address: address.parse()?,
                message: std::fs::read(message)?,
                connections: connections.parse()?,
                streams: streams.parse()?,
                requests: requests.parse()?,
            };
            let expected = match *expected {
                "allow" => Decision::Allow,
                "deny" => Decision::Deny,
                other => return Err(format!("`{other}` is neither `allow` nor `deny`").into()),
            };
            let counted = load.run()?;
            println!("{} allowed, {} denied", counted.allowed, counted.denied);
            if counted.all(expected) {
                Ok(())
            } else {
                Err("not every answer was the expected one".into())
            }
        }
        _ => Err("use `prepare DIRECTORY NAME=METHOD,PATH,SCOPE...` or `load ADDRESS MESSAGE \
                  CONNECTIONS STREAMS REQUESTS allow|deny`"
            .into()),
    }
}
