//! `placet doctor`: the proxy's configuration, and what in it lets a forged decision pass.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::{Output, print};
use crate::config::Config;
use crate::doctor::{Expected, ExpectedScope, Finding, Severity, Source, examine};

/// The arguments of `placet doctor`.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// Envoy's bootstrap or /config_dump, or manifests of Istio, Envoy Gateway or the Gateway API, as
    /// YAML or JSON; `-` reads standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Placet's settings: with them the right header, issuer, audience and scopes are looked for, else
    /// the defaults.
    #[arg(long, env = "PLACET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How findings are written.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// 0 and no word, 1 with findings, 2 if something can't be read.
pub(super) fn run(args: &Doctor) -> Result<ExitCode> {
    let expected = match &args.config {
        Some(path) => expected(&Config::load(path)?),
        None => Expected::by_default()?,
    };
    let findings = read(&args.files).and_then(|sources| Ok(examine(&sources, &expected)?));
    let findings = match findings {
        Ok(findings) => findings,
        Err(error) => {
            super::report(&error);
            return Ok(ExitCode::from(2));
        }
    };
    match args.output {
        Output::Json => print(&serde_json::to_string_pretty(&findings)?)?,
        Output::Text if findings.is_empty() => {}
        Output::Text => print(&text(&findings))?,
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(files: &[PathBuf]) -> Result<Vec<Source>> {
    let read_one = |path: &PathBuf| {
        let is_input = path == Path::new("-");
        let name = if is_input { "standard input".to_owned() } else { path.display().to_string() };
        let text = if is_input {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(path)
        };
        Ok(Source { text: text.with_context(|| format!("can't read `{name}`"))?, name })
    };
    files.iter().map(read_one).collect()
}

fn expected(config: &Config) -> Expected {
    let scopes = config.scopes.iter().map(|scope| ExpectedScope {
        client_id: Some(scope.client_id.clone()),
        header: scope.header.clone(),
        issuer: scope.claims.issuer.clone(),
        audiences: match &scope.claims.audience {
            Some(Value::String(audience)) => vec![audience.clone()],
            Some(Value::Array(list)) => {
                list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        },
        publish_before: scope.publish_before,
    });
    Expected { scopes: scopes.collect(), is_configured: true }
}

/// Each finding with its place and its remedy, and how many there are.
fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { code, severity, place, what, remedy } in findings {
        text.push_str(&format!("{severity}[{code}]: {what}\n  at {place}\n"));
        let mut label = "  fix: ";
        for line in remedy.lines() {
            text.push_str(&format!("{label}{line}\n"));
            label = "       ";
        }
        text.push('\n');
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let counts = [
        (count(Severity::Error), "error"),
        (count(Severity::Warning), "warning"),
        (count(Severity::Note), "note"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts =
        counts.map(|(count, name)| format!("{count} {name}{}", if *count == 1 { "" } else { "s" }));
    text.push_str(&counts.collect::<Vec<_>>().join(", "));
    text
}
