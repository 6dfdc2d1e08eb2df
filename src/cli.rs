//! The command line: one file a command.
//!
//! A command prints its result on standard output and, when it fails, one error with its causes on
//! standard error. Exit codes: 0 done, 1 failed, 2 the settings (or arguments) are wrong.

mod bench;
mod check;
mod doctor;
mod jwks;
mod keygen;
mod keys;
mod serve;
mod stand_in;
mod test;
mod validate;
mod verify;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing_subscriber::EnvFilter;

use crate::clock::Clock;
use crate::config::{self, ConfigErrors};
use crate::fips;

/// The sidecar that Envoy asks about every request, and that signs its answer.
#[derive(Debug, Parser)]
#[command(name = "placet", version = fips::VERSION)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written (default: text on a terminal, else json).
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// An object a line.
    Json,
    /// For people.
    Text,
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve Envoy.
    Serve(serve::Serve),
    /// Check the settings, with all they name; print every error.
    Validate(Settings),
    /// Decide on a captured request, and explain.
    Check(check::Check),
    /// Run case files: requests with the decisions they must get.
    Test(test::Test),
    /// Ask a running instance over and over, and say how long it takes.
    Bench(bench::Bench),
    /// Look through the proxy's configuration for what lets a forged decision pass.
    Doctor(doctor::Doctor),
    /// Print the JWKS.
    Jwks(Settings),
    /// Verify a decision token against a JWKS.
    Verify(verify::Verify),
    /// Make a private key and its certificate.
    Keygen(keygen::Keygen),
    /// Print the JSON Schema of the settings.
    Schema,
    /// Show, rotate, activate and withdraw signing keys.
    Keys(keys::Keys),
    /// Print a shell's completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command.
    Man {
        /// The directory they go into.
        directory: PathBuf,
    },
}

/// Where the settings are.
#[derive(Args, Debug)]
struct Settings {
    /// The settings file.
    #[arg(long, env = "PLACET_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

impl Cli {
    /// Runs the command and says how it went.
    pub fn run(self) -> ExitCode {
        start_log(self.log_format);
        forbid_core_dumps();
        let outcome = fips::require().map_err(Into::into).and_then(|()| self.command.run());
        match outcome {
            Ok(code) => code,
            Err(error) => report(&error),
        }
    }
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Serve(serve) => serve::run(serve)?,
            Self::Validate(settings) => return validate::run(&settings.config),
            Self::Check(check) => check::run(&check)?,
            Self::Test(test) => return test::run(&test),
            Self::Bench(bench) => bench::run(&bench)?,
            Self::Doctor(doctor) => return doctor::run(&doctor),
            Self::Jwks(settings) => jwks::run(&settings.config, Clock::System.now())?,
            Self::Verify(verify) => verify::run(&verify, Clock::System.now())?,
            Self::Keygen(keygen) => keygen::run(&keygen, Clock::System.now())?,
            Self::Keys(keys) => keys::run(&keys, Clock::System.now())?,
            Self::Schema => print(&serde_json::to_string_pretty(&config::schema())?)?,
            Self::Completions { shell } => {
                let mut out = std::io::stdout();
                clap_complete::generate(shell, &mut Cli::command(), "placet", &mut out);
            }
            Self::Man { directory } => {
                let written = clap_mangen::generate_to(Cli::command(), &directory);
                written.with_context(|| format!("can't write to `{}`", directory.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes `text` and a line end to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

#[expect(clippy::print_stderr, reason = "the one place where a command's failure is said")]
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
        errors.iter().for_each(|line| eprintln!("error: {line}"));
        return ExitCode::from(2);
    }
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

/// A core dump would hold the private keys, which not only the server reads; nor may another process
/// of this user read the memory.
pub(crate) fn forbid_core_dumps() {
    let limit = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, limit);
    let closed = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Err(error) = limited.and(closed) {
        tracing::warn!(%error, "core dumps can't be forbidden");
    }
}

/// Log lines go to standard error: standard output is the decision log's.
pub(crate) fn start_log(format: Option<LogFormat>) {
    let is_terminal = std::io::stderr().is_terminal();
    let filter = EnvFilter::try_from_env("PLACET_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(is_terminal)
        .with_writer(std::io::stderr);
    let is_text = match format {
        Some(LogFormat::Text) => true,
        Some(LogFormat::Json) => false,
        None => is_terminal,
    };
    // An error means that a test has set a subscriber already.
    let _ =
        if is_text { builder.try_init() } else { builder.json().flatten_event(true).try_init() };
}
