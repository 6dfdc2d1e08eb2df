//! `placet`: parse, run, print one error chain, exit code.

use std::process::ExitCode;

use clap::Parser;
use placet::cli::Cli;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
