//! `placet`: parse, run, print one error chain, exit code.

use std::process::ExitCode;

use clap::Parser;
use placet::cli::Cli;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A sidecar's memory is counted in pages, and huge ones would double it. Without the call it only
    // takes more.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    Cli::parse().run()
}
