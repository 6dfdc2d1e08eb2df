//! `placet check`: decides on a captured request, and explains. Nothing is asked over the network.

mod account;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use regex::Regex;

use super::stand_in::StandIn;
use super::{Output, Settings, print};
use crate::app::{GivenKeys, Offline};
use crate::audit;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::envoy::capture::REDACTED;
use crate::envoy::json;
use crate::identity::KeySet;
use crate::identity::jwks::IssuerKeys;
use crate::request::Request;
use crate::token::Channel;
use account::Account;

/// The arguments of `placet check`.
#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    settings: Settings,
    /// The captured CheckRequests, JSON or protobuf; `-` reads standard input. What was captured
    /// without signatures (`/capture`) is taken for verified.
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
    let (name, bytes) = input(&args.request)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    // A request that was captured has no signatures: they are put back by a key of our own.
    let stand_in = StandIn::new(Clock::System.now())?;
    let signed = runtime.block_on(signed_again(&bytes, &stand_in))?;
    let given = match (&signed, &args.jwks) {
        (Some(_), _) => stand_in.keys(),
        (None, None) => GivenKeys::None,
        (None, Some(path)) => {
            let text =
                std::fs::read(path).with_context(|| format!("can't read `{}`", path.display()))?;
            let keys = KeySet::parse(&text).with_context(|| format!("`{}`", path.display()))?;
            GivenKeys::Published(IssuerKeys::fixed(keys))
        }
    };
    let captured = json::read(signed.as_deref().unwrap_or(&bytes));
    let captured = captured.with_context(|| format!("`{name}`"))?;
    let offline = Offline::new(config, &given, Clock::System.now())?;
    for (number, captured) in captured.iter().enumerate() {
        if number > 0 && matches!(args.output, Output::Text) {
            print("")?;
        }
        let clock = match captured.time {
            Some(time) if !args.now => Clock::Fixed(time),
            _ => Clock::System,
        };
        runtime.block_on(explain(&captured.request, &offline, clock.now(), args.output))?;
    }
    Ok(())
}

/// The captured requests, and what they are called.
fn input(path: &Path) -> Result<(String, Vec<u8>)> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("can't read standard input")?;
        return Ok(("standard input".to_owned(), bytes));
    }
    let name = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("can't read `{name}`"))?;
    Ok((name, bytes))
}

/// `text` with the tokens signed whose signatures were taken out when it was captured; `None` where there
/// is none.
async fn signed_again(text: &[u8], issuer: &StandIn) -> Result<Option<Vec<u8>>> {
    let Ok(text) = std::str::from_utf8(text) else { return Ok(None) };
    let unsigned = Regex::new(&format!(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.{REDACTED}"))?;
    let mut signed = String::new();
    let mut rest = text;
    while let Some((token, payload)) =
        unsigned.captures(rest).and_then(|found| Some((found.get(0)?, found.get(1)?)))
    {
        let (before, _) = rest.split_at(token.start());
        signed.push_str(before);
        signed.push_str(&issuer.sign_payload(payload.as_str()).await?);
        rest = rest.split_at(token.end()).1;
    }
    if signed.is_empty() {
        return Ok(None);
    }
    signed.push_str(rest);
    Ok(Some(signed.into_bytes()))
}

async fn explain(
    request: &Request,
    offline: &Offline,
    now: Timestamp,
    output: Output,
) -> Result<()> {
    let (scope, decision) = offline.scopes.decide(request, Channel::Proxy, now).await;
    let decision = match &scope {
        Some(scope) => scope.enforced(decision),
        None => decision,
    };
    let record = audit::record(Some(request), scope.as_deref(), &decision, now, Duration::ZERO);
    if let Output::Json = output {
        return print(&String::from_utf8(record.json()?)?);
    }
    let shadow = scope.as_ref().and_then(|scope| scope.shadow.as_ref());
    let shadow = match shadow.zip(decision.facts.question(request, now)) {
        Some((shadow, question)) => Some(shadow.opinion(&question).await),
        None => None,
    };
    let choice = offline.scopes.choose(request).ok().map(|(_, choice)| choice);
    let scope = scope.as_deref();
    let account = Account { request, scope, choice, decision: &decision, record, shadow };
    print(&account.lines().join("\n"))
}
