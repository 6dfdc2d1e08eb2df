//! `placet check`: decides on a captured request, and explains. Nothing is asked over the network.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::{Settings, print};
use crate::app::{GivenKeys, Offline};
use crate::audit;
use crate::authorizer::{Decision, Grant};
use crate::clock::Clock;
use crate::config::Config;
use crate::envoy::json;
use crate::identity::KeySet;
use crate::identity::jwks::IssuerKeys;
use crate::proto::DecisionRecord;
use crate::token::Channel;

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

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// A denial is a result, not a failure: the exit code is 0 for both answers.
pub(super) fn run(args: &Check) -> Result<()> {
    let config = Config::load(&args.settings.config)?;
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
    let deciding = offline.scopes.decide(&captured.request, Channel::Proxy, clock.now());
    let (scope, decision) = runtime.block_on(deciding);
    let record = audit::record(
        Some(&captured.request),
        scope.as_deref(),
        &decision,
        clock.now(),
        Duration::ZERO,
    );
    match args.output {
        Output::Json => print(&serde_json::to_string(&record)?)?,
        Output::Text => print(&explain(&record, &decision))?,
    }
    Ok(())
}

/// The steps of a decision, one a line, as far as it came.
fn explain(record: &DecisionRecord, decision: &Decision) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<10} {text}"));
    if let Some(http) = &record.http {
        line("request", format!("{} {}{}", http.method, http.host, http.path));
    }
    line("scope", if record.scope.is_empty() { "none".into() } else { record.scope.clone() });
    if let Some(principal) = &record.principal {
        line("principal", format!("{}::{:?}", principal.r#type, principal.id));
    }
    if let Some(target) = &record.target {
        let asset = format!("{}::{:?}", target.asset_type, target.asset_id);
        line("target", format!("{} on {asset}", target.action));
    }
    if let Some(policy) = &record.policy {
        let determining = policy.determining.join(", ");
        let determining = if determining.is_empty() { "none matched".into() } else { determining };
        line("policies", format!("{determining} (revision {})", policy.revision));
        policy.reasons.iter().for_each(|reason| line("because", reason.clone()));
        policy.errors.iter().for_each(|error| line("error", error.clone()));
    }
    let detail =
        if record.detail.is_empty() { String::new() } else { format!(": {}", record.detail) };
    line("decision", format!("{} ({}){detail}", record.outcome, record.reason));
    if let Ok(Grant::Signed { token, .. }) = &decision.outcome {
        line("claims", serde_json::Value::Object(token.claims()).to_string());
    }
    lines.join("\n")
}
