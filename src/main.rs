//! `placet`: parse, run, print one error chain, exit code.

use std::process::ExitCode;

use clap::Parser;
use placet::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
