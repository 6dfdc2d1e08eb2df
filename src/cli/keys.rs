//! `placet keys`: the key rings of a running process, orders to it, and new keys in the stores.
//!
//! `status` asks the process on its control socket, or else on its admin listener. `activate` and
//! `withdraw` take the control socket: only who may open it may give orders. `rotate` speaks with the
//! secret store alone, with the login of the settings; the process notices by itself.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use super::{Output, Settings, print};
use crate::clock::Timestamp;
use crate::config::{Address, Config, Listen, ScopeConfig, SocketAccess};
use crate::keys::{self, Algorithm, Backend};
use crate::secrets::NewKey;

/// How long the running process may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every scope's keys by life stage, as the running process has them.
    Status {
        #[command(flatten)]
        settings: Settings,
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Write a new version of a scope's key to its secret store.
    Rotate {
        #[command(flatten)]
        settings: Settings,
        /// The scope's client ID; not needed where there is only one.
        #[arg(long)]
        scope: Option<String>,
    },
    /// Let a published key sign at once, before its time.
    Activate(Order),
    /// Take a key out of use and out of the JWKS at once, until the process ends.
    Withdraw(Order),
}

#[derive(Debug, clap::Args)]
struct Order {
    /// The key, by key id or thumbprint, which may begin with a hyphen.
    #[arg(allow_hyphen_values = true)]
    key: String,
    #[command(flatten)]
    settings: Settings,
    /// The scope's client ID; not needed where there is only one.
    #[arg(long)]
    scope: Option<String>,
}

pub(super) fn run(keys: &Keys, now: Timestamp) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &keys.command {
        Command::Status { settings, output } => {
            let config = Config::load_without_listening(&settings.config)?;
            let shown = runtime.block_on(status(&config.listen))?;
            print(&match output {
                Output::Text => table(&shown),
                Output::Json => serde_json::to_string_pretty(&shown)?,
            })
        }
        Command::Rotate { settings, scope } => {
            let config = Config::load_without_listening(&settings.config)?;
            let said = runtime.block_on(rotate(find(&config, scope.as_deref())?, now))?;
            print(&said)
        }
        Command::Activate(order) => give(&runtime, order, "activate"),
        Command::Withdraw(order) => give(&runtime, order, "withdraw").and_then(|()| {
            print("for good: delete the version in the secret store too, a restart reads it again")
        }),
    }
}

fn give(runtime: &tokio::runtime::Runtime, order: &Order, what: &str) -> Result<()> {
    let config = Config::load_without_listening(&order.settings.config)?;
    let scope = find(&config, order.scope.as_deref())?;
    let socket = config.listen.control.as_ref().context(
        "the settings name no control socket: set `listen.control: unix:/PATH` and restart placet",
    )?;
    let body = json!({ "scope": scope.client_id, "key": order.key });
    let address = Address::Unix(socket.clone(), SocketAccess::default());
    let answer = runtime.block_on(ask(&address, &format!("/keys/{what}"), Some(&body)))?;
    print(&table(&json!({ "scopes": [answer] })))
}

async fn status(listen: &Listen) -> Result<Value> {
    let Some(path) = &listen.control else {
        if listen.admin.tls.is_some() {
            bail!(
                "listen.admin serves TLS: ask `https://{}/keys`, or set `listen.control: unix:/PATH`",
                listen.admin
            );
        }
        return ask(&listen.admin.address, "/keys", None).await;
    };
    ask(&Address::Unix(path.clone(), SocketAccess::default()), "/keys", None).await
}

/// Asks the running process: a GET, or a POST of `body`.
async fn ask(address: &Address, path: &str, body: Option<&Value>) -> Result<Value> {
    let builder = reqwest::Client::builder().no_proxy().timeout(TIMEOUT);
    let (builder, base) = match address {
        Address::Tcp(address) => (builder, format!("http://{address}")),
        Address::Unix(path, _) => {
            (builder.unix_socket(PathBuf::from(path)), "http://localhost".to_owned())
        }
    };
    let client = builder.build()?;
    let url = format!("{base}{path}");
    let request = match body {
        None => client.get(url),
        Some(body) => {
            client.post(url).header("content-type", "application/json").body(body.to_string())
        }
    };
    let away = || format!("no placet answers on `{address}`: is it running with these settings?");
    let answer = request.send().await.with_context(away)?;
    let status = answer.status();
    let text = answer.text().await.with_context(away)?;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    if !status.is_success() {
        let said = answer.get("error").and_then(Value::as_str).unwrap_or(status.as_str());
        bail!("{said}");
    }
    Ok(answer)
}

fn find<'a>(config: &'a Config, client_id: Option<&str>) -> Result<&'a ScopeConfig> {
    let known = || {
        let ids = config.scopes.iter().map(|scope| format!("`{}`", scope.client_id));
        ids.collect::<Vec<_>>().join(", ")
    };
    match (client_id, config.scopes.as_slice()) {
        (None, [scope]) => Ok(scope),
        (None, _) => {
            Err(anyhow!("there are several scopes: choose one of {} with --scope", known()))
        }
        (Some(id), scopes) => scopes
            .iter()
            .find(|scope| scope.client_id == id)
            .ok_or_else(|| anyhow!("there is no scope `{id}`: there are {}", known())),
    }
}

/// Writes a new version, of the algorithm that signs now; what is to be said of it.
async fn rotate(scope: &ScopeConfig, now: Timestamp) -> Result<String> {
    let source = scope.key_source();
    let (store, name) = (&scope.store, &scope.location.name);
    let done = format!(
        "a new version of `{name}` is in the store `{}`: it is published at the next look, and signs \
         {} after it was made",
        store.id(),
        humantime::format_duration(scope.publish_before)
    );
    if scope.backend == Backend::Transit {
        store.transit_rotate(name).await?;
        return Ok(done);
    }
    let algorithm = match source.ring(now).await {
        Ok(ring) => ring.active().algorithm(),
        // There is none to go by: this is the first, or the first after a fault.
        Err(_) => scope.key.algorithm.unwrap_or(Algorithm::ES256),
    };
    let made = keys::generate(algorithm, &scope.client_id, now)?;
    let key = NewKey { pem: &made.private_key_pem, certificate: &made.certificate_pem };
    store.write(&scope.location, &key).await?;
    Ok(if scope.key.certificate.is_some() {
        format!("{done}; x509Certificate is not its certificate: it is published without")
    } else {
        done
    })
}

/// One line a key.
fn table(shown: &Value) -> String {
    let mut rows = vec![
        ["SCOPE", "STAGE", "KID", "ALG", "VERSION", "CREATED", "SIGNS FROM"].map(str::to_owned),
    ];
    let mut remarks = String::new();
    let text = |value: &Value, name: &str| {
        value.get(name).and_then(Value::as_str).unwrap_or("-").to_owned()
    };
    let list = |value: &Value, name: &str| {
        value.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    for scope in list(shown, "scopes") {
        let client_id = text(&scope, "clientId");
        for key in list(&scope, "keys") {
            let [stage, kid, algorithm, version, created, from] =
                ["stage", "kid", "algorithm", "version", "created", "signsFrom"]
                    .map(|name| text(&key, name));
            rows.push([client_id.clone(), stage, kid, algorithm, version, created, from]);
        }
        let problem = text(&scope, "problem");
        if scope.get("signs") != Some(&Value::Bool(true)) {
            let _ = write!(remarks, "\n{client_id}: nothing is signed");
        }
        if problem != "-" {
            let _ = write!(remarks, "\n{client_id}: {problem}");
        }
    }
    aligned(&rows) + &remarks
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        keys: Keys,
    }

    #[test]
    fn a_thumbprint_may_begin_with_a_hyphen() {
        for key in ["-gLB-wzgZyOsqBis3w5YPKYK-_Bum1g8HGR7VCabcde", "--LB", "orders-1"] {
            for line in [["withdraw", key, "--config", "a"], ["withdraw", "--config", "a", key]] {
                let read = Line::try_parse_from(["keys"].iter().chain(&line)).unwrap();
                let Command::Withdraw(order) = read.keys.command else { panic!("{line:?}") };
                assert_eq!((order.key.as_str(), order.settings.config.to_str()), (key, Some("a")));
            }
        }
    }
}
