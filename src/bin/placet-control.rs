//! `placet-control`: parse, run, print one error chain, exit code.

use std::process::ExitCode;

use clap::Parser;
use placet::control::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
