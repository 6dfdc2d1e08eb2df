//! `placet bench`: how long a running instance takes to answer.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Output, print};
use crate::bench::{self, Place, Plan, Report};
use crate::envoy::json;

/// The arguments of `placet bench`.
#[derive(Args, Debug)]
pub(super) struct Bench {
    /// The gRPC listener: `HOST:PORT` or `unix:PATH`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9191")]
    address: String,
    /// Captured CheckRequests, JSON or protobuf; of several, each is sent in turn.
    #[arg(long, value_name = "FILE", required = true)]
    request: Vec<PathBuf>,
    /// Checks a second; without it, as many as are answered.
    #[arg(long, value_name = "NUMBER", value_parser = positive)]
    rate: Option<f64>,
    /// How long checks are begun, an hour at most.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Checks in progress at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    callers: u16,
    /// Connections.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// The deadline of each check.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Speak TLS, and trust these authorities.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Whose certificate the server shows (default: the address's host).
    #[arg(long, value_name = "NAME", requires = "ca_file")]
    server_name: Option<String>,
    /// The certificate to show.
    #[arg(long, value_name = "FILE", requires_all = ["ca_file", "key_file"])]
    certificate_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "certificate_file")]
    key_file: Option<PathBuf>,
    /// How the report is written.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

const MAX_DURATION: Duration = Duration::from_secs(3600);

pub(super) fn run(args: &Bench) -> Result<()> {
    let (place, plan) = (place(args)?, plan(args)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let stop = CancellationToken::new();
        let interrupted = stop.clone();
        tokio::spawn(async move {
            // What was seen until then is reported.
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupted.cancel();
            }
        });
        bench::run(plan, &place, stop).await
    })?;
    match args.output {
        Output::Json => print(&serde_json::to_string(&report)?)?,
        Output::Text => print(&text(&report))?,
    }
    if report.allowed + report.denied.values().sum::<u64>() == 0 {
        bail!("nothing was answered: {}", report.failure.as_deref().unwrap_or("nothing was asked"));
    }
    Ok(())
}

fn place(args: &Bench) -> Result<Place> {
    let place = Place::parse(&args.address)?;
    let Some(ca_file) = &args.ca_file else { return Ok(place) };
    let host = args.address.rsplit_once(':').map_or("", |(host, _)| host);
    let name = args.server_name.as_deref().unwrap_or(host);
    let identity = args.certificate_file.as_deref().zip(args.key_file.as_deref());
    Ok(place.over_tls(ca_file, name, identity)?)
}

fn plan(args: &Bench) -> Result<Plan> {
    if args.duration > MAX_DURATION || args.duration.is_zero() {
        bail!("--duration: write a time of up to an hour");
    }
    let mut checks = Vec::new();
    for path in &args.request {
        let named = || format!("`{}`", path.display());
        let bytes = std::fs::read(path).with_context(|| format!("can't read {}", named()))?;
        checks.extend(json::read_messages(&bytes).with_context(named)?);
    }
    Ok(Plan {
        checks,
        duration: args.duration,
        rate: args.rate,
        connections: args.connections.into(),
        callers: args.callers.into(),
        timeout: args.timeout,
    })
}

fn positive(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "write a number above 0".to_owned())
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} checks in {:.1} s, {:.0} answers a second",
        report.checks, report.seconds, report.rate
    )];
    lines.push(format!("{:>10} allowed", report.allowed));
    let denied = report.denied.iter();
    lines.extend(denied.map(|(status, count)| format!("{count:>10} denied with {status}")));
    let failed = report.failed.iter();
    lines.extend(failed.map(|(code, count)| format!("{count:>10} without an answer: {code}")));
    lines.extend(report.failure.iter().map(|failure| format!("{:>10} such as: {failure}", "")));
    let latency = &report.latency;
    let quantiles =
        [("p50", latency.p50), ("p90", latency.p90), ("p99", latency.p99), ("p99.9", latency.p999)];
    let of = |(name, micros)| format!("{name} {micros}");
    let quantiles: Vec<String> =
        quantiles.into_iter().chain([("max", latency.max)]).map(of).collect();
    lines.push(format!("µs: {}", quantiles.join(", ")));
    lines.join("\n")
}
