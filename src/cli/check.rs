//! `placet check`: decides on a captured request, and explains. Nothing is asked over the network.

mod account;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::{Output, Settings, print};
use crate::app::{GivenKeys, Offline};
use crate::audit;
use crate::clock::Clock;
use crate::config::Config;
use crate::envoy::json;
use crate::identity::KeySet;
use crate::identity::jwks::IssuerKeys;
use crate::token::Channel;
use account::Account;

/// The arguments of `placet check`.
#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    settings: Settings,
    /// The captured CheckRequest: JSON or protobuf.
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// The JWKS of the issuers that publish theirs at an address.
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// Decide as of now, not as of the time in the request.
    #[arg(long)]
    now: bool,
    /// What is printed: an explanation, or the decision record as one line of JSON.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// A denial is a result, not a failure: the exit code is 0 for both answers.
pub(super) fn run(args: &Check) -> Result<()> {
    let config = Config::load_without_listening(&args.settings.config)?;
    let bytes = std::fs::read(&args.request)
        .with_context(|| format!("can't read `{}`", args.request.display()))?;
    let captured = json::read(&bytes).with_context(|| format!("`{}`", args.request.display()))?;
    let clock = match captured.time {
        Some(time) if !args.now => Clock::Fixed(time),
        _ => Clock::System,
    };
    let given = match &args.jwks {
        None => GivenKeys::None,
        Some(path) => {
            let text =
                std::fs::read(path).with_context(|| format!("can't read `{}`", path.display()))?;
            let keys = KeySet::parse(&text).with_context(|| format!("`{}`", path.display()))?;
            GivenKeys::Published(IssuerKeys::fixed(keys))
        }
    };
    let offline = Offline::new(config, &given, Clock::System.now())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (request, now) = (&captured.request, clock.now());
    let (scope, decision) = runtime.block_on(offline.scopes.decide(request, Channel::Proxy, now));
    let decision = match &scope {
        Some(scope) => scope.enforced(decision),
        None => decision,
    };
    let record = audit::record(Some(request), scope.as_deref(), &decision, now, Duration::ZERO);
    match args.output {
        Output::Json => print(&serde_json::to_string(&record)?)?,
        Output::Text => {
            let shadow = scope.as_ref().and_then(|scope| scope.shadow.as_ref());
            let shadow = shadow.zip(decision.facts.question(request, now));
            let shadow =
                shadow.map(|(shadow, question)| runtime.block_on(shadow.opinion(&question)));
            let choice = offline.scopes.choose(request).ok().map(|(_, choice)| choice);
            let scope = scope.as_deref();
            let account = Account { request, scope, choice, decision: &decision, record, shadow };
            print(&account.lines().join("\n"))?;
        }
    }
    Ok(())
}
