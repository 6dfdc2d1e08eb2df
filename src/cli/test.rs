//! `placet test`: case files, each a list of requests with the decisions they must get.
//!
//! A case runs through the same code as a request from Envoy, with the same settings. The claims
//! under `token` are signed by a throw-away key that stands in for the issuers' own, so credentials
//! are verified for real and no issuer is asked.

mod coverage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::stand_in::StandIn;
use super::{Settings, print};
use crate::app::Offline;
use crate::authorizer::{Decision, Grant};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::identity::Audiences;
use crate::policy::Opinion;
use crate::request::{Headers, Host, Request, Source};
use crate::scope::{SCOPE_EXTENSION, Scope};
use crate::token::Channel;
use coverage::Coverage;

/// The arguments of `placet test`.
#[derive(Args, Debug)]
pub(super) struct Test {
    #[command(flatten)]
    settings: Settings,
    /// Case files, or folders of them.
    #[arg(required = true, value_name = "CASES")]
    cases: Vec<PathBuf>,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Print which policies determined no decision of any case.
    #[arg(long)]
    coverage: bool,
    /// Fail when fewer than this many percent of the policies determined a decision.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    Text,
    Junit,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CaseFile {
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    request: CaseRequest,
    /// Claims of the caller's token; `iss`, `aud`, `iat` and `exp` are filled in.
    #[serde(default)]
    token: Option<Map<String, Value>>,
    expect: Expected,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CaseRequest {
    /// The client ID, as Envoy's route would name it.
    #[serde(default)]
    scope: Option<String>,
    #[serde(default = "get")]
    method: String,
    path: String,
    #[serde(default)]
    host: String,
    #[serde(default = "http")]
    scheme: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    source_ip: Option<std::net::IpAddr>,
    #[serde(default)]
    source_principal: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expected {
    /// `allow`, `deny` or `bypass`.
    outcome: String,
    #[serde(default)]
    reason: Option<String>,
    /// The ids of the determining policies.
    #[serde(default)]
    policies: Option<Vec<String>>,
    /// Claims of the decision token; `null` for one that must not be there.
    #[serde(default)]
    claims: Map<String, Value>,
    /// What the shadow policies say: `allow`, `deny` or `fault`.
    #[serde(default)]
    shadow: Option<String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn http() -> String {
    "http".to_owned()
}

/// Exit code 0 when every case passed, 1 otherwise.
pub(super) fn run(args: &Test) -> Result<ExitCode> {
    let now = Clock::System.now();
    let issuer = StandIn::new(now)?;
    let config = Config::load_without_listening(&args.settings.config)?;
    let issuers: BTreeMap<String, (String, Option<String>)> = defaults(&config);
    let offline = Offline::new(config, &issuer.keys(), now)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut results = Vec::new();
    let mut coverage = Coverage::of(&offline);
    for path in case_files(&args.cases)? {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("can't read `{}`", path.display()))?;
        let file: CaseFile = yaml_serde::from_str(&text)
            .with_context(|| format!("`{}` is no case file", path.display()))?;
        for case in file.cases {
            let scope = case.request.scope.as_deref();
            let standard = scope.and_then(|scope| issuers.get(scope)).or(issuers.values().next());
            let request = runtime
                .block_on(request(&case, &issuer, standard, now))
                .with_context(|| format!("`{}`: case `{}`", path.display(), case.name))?;
            let (scope, decision) =
                runtime.block_on(offline.scopes.decide(&request, Channel::Proxy, now));
            coverage.note(scope.as_deref(), &decision);
            let shadow = scope.as_ref().and_then(|scope| scope.shadow.as_ref());
            let shadow = shadow.zip(decision.facts.question(&request, now));
            let shadow =
                shadow.map(|(shadow, question)| runtime.block_on(shadow.opinion(&question)));
            let differences =
                differences(&case.expect, scope.as_deref(), &decision, shadow.as_ref());
            let shadow = shadow.zip(decision.facts.opinion).and_then(|(shadow, enforced)| {
                let (said, other) = (enforced.said.outcome(), shadow.said.outcome());
                (!enforced.agrees(&shadow)).then(|| format!("{said}, by the shadow {other}"))
            });
            results.push(CaseResult { file: path.clone(), name: case.name, differences, shadow });
        }
    }
    print(&match args.output {
        Output::Text => text(&results),
        Output::Junit => junit(&results),
    })?;
    if args.coverage && args.output == Output::Text {
        print(&coverage.lines().join("\n"))?;
    }
    if let Some(least) = args.min_coverage {
        let percent = coverage.percent();
        anyhow::ensure!(
            percent >= usize::from(least),
            "the cases cover {percent}% of the policies, less than {least}%: see --coverage"
        );
    }
    let failed = results.iter().any(|result| !result.differences.is_empty());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct CaseResult {
    file: PathBuf,
    name: String,
    differences: Vec<String>,
    /// What the policies in force say and what the shadow's, where they differ.
    shadow: Option<String>,
}

/// By client ID: the first issuer and the first of its audiences, for cases that name none.
fn defaults(config: &Config) -> BTreeMap<String, (String, Option<String>)> {
    let scopes = config.scopes.iter();
    scopes
        .filter_map(|scope| {
            let issuer = scope.identity.issuers.first()?;
            let audience = match &issuer.audiences {
                Audiences::Any => None,
                Audiences::OneOf(audiences) => audiences.first().cloned(),
            };
            Some((scope.client_id.clone(), (issuer.issuer.clone(), audience)))
        })
        .collect()
}

fn case_files(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let folder = std::fs::read_dir(path).with_context(|| format!("`{}`", path.display()))?;
        for entry in folder {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "yaml") {
                files.push(file);
            }
        }
    }
    files.sort_unstable();
    anyhow::ensure!(!files.is_empty(), "there is no case file (*.yaml) in what was given");
    Ok(files)
}

async fn request(
    case: &Case,
    issuer: &StandIn,
    standard: Option<&(String, Option<String>)>,
    now: Timestamp,
) -> Result<Request> {
    let asked = &case.request;
    let mut headers = Headers::default();
    for (name, value) in &asked.headers {
        headers.push(name, value.as_bytes());
    }
    if let Some(token) = &case.token {
        let mut claims = Map::new();
        if let Some((issuer, audience)) = standard {
            claims.insert("iss".to_owned(), issuer.as_str().into());
            claims.extend(audience.iter().map(|aud| ("aud".to_owned(), aud.as_str().into())));
        }
        claims.insert("iat".to_owned(), now.seconds().into());
        claims.insert("exp".to_owned(), (now.seconds() + 300).into());
        claims.extend(token.clone());
        claims.retain(|_, value| !value.is_null());
        headers.push("authorization", format!("Bearer {}", issuer.sign(&claims).await?));
    }
    let scope = asked.scope.iter();
    Ok(Request {
        method: asked.method.clone(),
        scheme: asked.scheme.clone(),
        host: Host::parse(&asked.host)?,
        target: asked.path.clone(),
        headers,
        source: Source {
            ip: asked.source_ip,
            principal: asked.source_principal.clone(),
            certificate: None,
            ..Source::default()
        },
        extensions: scope.map(|scope| (SCOPE_EXTENSION.to_owned(), scope.clone())).collect(),
        ..Request::default()
    })
}

fn differences(
    expected: &Expected,
    scope: Option<&Scope>,
    decision: &Decision,
    shadow: Option<&Opinion>,
) -> Vec<String> {
    let record = crate::audit::record(
        None,
        scope,
        decision,
        Timestamp::from_millis(0),
        std::time::Duration::ZERO,
    );
    let mut differences = Vec::new();
    let mut compare = |what: &str, expected: &Value, found: &Value| {
        if expected != found {
            differences.push(format!("{what}: expected {expected}, found {found}"));
        }
    };
    compare("outcome", &expected.outcome.as_str().into(), &record.outcome.into());
    if let Some(reason) = &expected.reason {
        compare("reason", &reason.as_str().into(), &record.reason.into());
    }
    if let Some(policies) = &expected.policies {
        let found = record.policy.map(|policy| policy.determining.into_owned());
        compare("policies", &policies.clone().into(), &found.unwrap_or_default().into());
    }
    if let Some(expected) = &expected.shadow {
        let found = shadow.map_or(Value::Null, |opinion| opinion.said.outcome().into());
        compare("shadow", &expected.as_str().into(), &found);
    }
    let claims = match &decision.outcome {
        Ok(Grant::Signed { token, .. }) => token.claims(),
        _ => Map::new(),
    };
    for (name, value) in &expected.claims {
        compare(name, value, claims.get(name).unwrap_or(&Value::Null));
    }
    if !differences.is_empty() && !record.detail.is_empty() {
        differences.push(record.detail.into_owned());
    }
    differences
}

fn text(results: &[CaseResult]) -> String {
    let mut lines = Vec::new();
    for CaseResult { file, name, differences, shadow } in results {
        if differences.is_empty() {
            lines.push(format!("ok    {name}"));
        } else {
            lines.push(format!("FAIL  {name} ({})", file.display()));
            lines.extend(differences.iter().map(|difference| format!("      {difference}")));
        }
        lines.extend(shadow.iter().map(|shadow| format!("      {shadow}")));
    }
    let failed = results.iter().filter(|result| !result.differences.is_empty()).count();
    lines.push(format!("{} passed, {failed} failed", results.len() - failed));
    lines.join("\n")
}

fn junit(results: &[CaseResult]) -> String {
    let failed = results.iter().filter(|result| !result.differences.is_empty()).count();
    let mut lines = vec![
        r#"<?xml version="1.0" encoding="UTF-8"?>"#.to_owned(),
        format!(r#"<testsuite name="placet" tests="{}" failures="{failed}">"#, results.len()),
    ];
    for CaseResult { file, name, differences, .. } in results {
        let class = escape(&display(file));
        let case = format!(r#"  <testcase classname="{class}" name="{}""#, escape(name));
        if differences.is_empty() {
            lines.push(format!("{case}/>"));
        } else {
            let message = escape(&differences.join("; "));
            lines.push(format!(r#"{case}><failure message="{message}"/></testcase>"#));
        }
    }
    lines.push("</testsuite>".to_owned());
    lines.join("\n")
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
