//! From [`raw::Settings`] to [`Config`]: what is required, what belongs together, what can't be.

mod control_plane;
mod credential;
mod listen;
mod log;
mod scope;
mod stores;
mod telemetry;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::load::Loaded;
use super::report::Report;
use super::{Config, DenyListFile, ScopeConfig, effective, raw};
use crate::deny_list::DenyList;
use crate::files::{Look, Stamp};

/// What kept answers may take where the settings don't say.
pub(super) const DEFAULT_REUSE_BYTES: u64 = 5 * 1024 * 1024;

/// Looking at files more often is of no use.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);

/// The checked settings; `None`, or any error in `report`, means they can't be used. A deny list at
/// `kept_deny_list` is kept up to date already, and not read.
pub(super) fn check(
    loaded: Loaded,
    kept_deny_list: Option<&Path>,
    report: &mut Report,
) -> Option<Config> {
    let settings = &loaded.settings;
    if settings.version.is_some_and(|version| version != 1) {
        report.error("version", "is not 1, the only version there is");
    }
    let listen = listen::check(&settings.listen, &loaded.base, report);
    let stores = stores::check(&loaded, report);
    let control_plane = control_plane::check(&loaded, report);
    let reload = reload(&settings.reload, report);
    let known_listen = listen.as_ref().filter(|_| !report.is_elsewhere);
    let shared = scope::Shared::new(settings, stores.as_ref(), known_listen, reload.flatten());
    if settings.scopes.is_empty() && settings.control_plane.is_none() {
        report.error("scopes", "is empty: add a scope for each protected application");
    }
    let scopes: Vec<Option<ScopeConfig>> = settings
        .scopes
        .iter()
        .enumerate()
        .map(|(index, raw)| {
            let base = loaded.scope_base(index);
            scope::check(&loaded.scope_path(index), raw, base, &shared, report)
        })
        .collect();
    check_together(&settings.scopes, &|index| loaded.scope_path(index), report);
    let decision_log = log::check(&settings.decision_log, &loaded.base, report);
    let telemetry = telemetry::check(settings.telemetry.as_ref(), &loaded.base, report);
    let startup_grace =
        duration("startupGrace", settings.startup_grace.as_deref(), secs(30), report);
    let drain_after = settings.drain_after.as_deref();
    let drain_after = duration("drainAfter", drain_after, Duration::ZERO, report);
    let shutdown_grace = settings.shutdown_grace.as_deref();
    let shutdown_grace = duration("shutdownGrace", shutdown_grace, secs(10), report);
    let deny_list = deny_list(settings.deny_list.as_ref(), &loaded.base, kept_deny_list, report);
    let listen = listen?;
    let scopes: Vec<ScopeConfig> = scopes.into_iter().collect::<Option<_>>()?;
    let control_plane = control_plane?;
    let effective = effective::settings(settings, &listen, &scopes, control_plane.as_ref());
    Some(Config {
        listen,
        control_plane,
        scopes,
        decision_log: decision_log?,
        telemetry: telemetry?,
        reuse_max_bytes: settings.reuse.max_bytes.unwrap_or(DEFAULT_REUSE_BYTES),
        startup_grace: startup_grace?,
        drain_after: drain_after?,
        shutdown_grace: shutdown_grace?,
        reload: reload?,
        deny_list: deny_list?,
        ready_needs_all: settings.readiness == Some(raw::ReadinessRule::All),
        warnings: Vec::new(),
        effective,
        files: Look::default(),
        revision: String::new(),
    })
}

/// The rules that hold between scopes.
fn check_together(scopes: &[raw::Scope], path: &dyn Fn(usize) -> String, report: &mut Report) {
    let mut client_ids = BTreeMap::new();
    let mut hosts = BTreeMap::new();
    let mut callers = BTreeMap::new();
    for (index, scope) in scopes.iter().enumerate() {
        if let Some(client_id) = &scope.client_id
            && let Some(first) = client_ids.insert(client_id, index)
        {
            let message = format!("`{client_id}` is also the clientId of {}", path(first));
            report.error(format!("{}.clientId", path(index)), message);
        }
        for (at, host) in scope.matches.hosts.iter().enumerate() {
            let host = host.to_ascii_lowercase();
            if let Some(first) = hosts.insert(host.clone(), index) {
                let message = format!("`{host}` is already a host of {}", path(first));
                report.error(format!("{}.match.hosts[{at}]", path(index)), message);
            }
        }
        let named = scope.api.iter().filter_map(|api| api.allowed_uri_sans.as_ref());
        for (at, name) in named.flatten().enumerate() {
            if let Some(first) = callers.insert(name, index)
                && first != index
            {
                let message = format!("`{name}` is already a caller of {}", path(first));
                report.error(format!("{}.api.allowedUriSans[{at}]", path(index)), message);
            }
        }
    }
    let defaults: Vec<usize> =
        (0..).zip(scopes).filter(|(_, s)| s.default == Some(true)).map(|(i, _)| i).collect();
    if let [first, second, ..] = defaults.as_slice() {
        let message = format!("{} is the default already: at most one may be", path(*first));
        report.error(format!("{}.default", path(*second)), message);
    }
    if let [default] = defaults.as_slice()
        && scopes.iter().any(|scope| !scope.matches.hosts.is_empty())
    {
        report.warning(
            format!("{}.default", path(*default)),
            "a host that no scope lists, a mistyped one too, is decided by this scope",
        );
    }
    check_recipients(scopes, path, report);
}

/// One scope's token must not be another's: they differ in `aud` or in `iss`.
fn check_recipients(scopes: &[raw::Scope], path: &dyn Fn(usize) -> String, report: &mut Report) {
    let recipients = |scope: &raw::Scope| -> (String, BTreeSet<String>) {
        let issuer = scope.jwt_response.issuer.clone().unwrap_or_else(|| "placet".to_owned());
        (issuer, scope.jwt_response.audience.iter().flat_map(texts).cloned().collect())
    };
    for (index, scope) in scopes.iter().enumerate() {
        let (issuer, audiences) = recipients(scope);
        let twin = scopes.iter().take(index).position(|earlier| {
            let (other_issuer, others) = recipients(earlier);
            issuer == other_issuer
                && (audiences.is_empty() || others.is_empty() || !audiences.is_disjoint(&others))
        });
        if let Some(twin) = twin {
            report.error(
                format!("{}.jwtResponse", path(index)),
                format_args!(
                    "its tokens could pass for those of {}: give each scope its own `audience` or `issuer`",
                    path(twin),
                ),
            );
        }
    }
}

/// A duration such as `30s` or `20m`; `default` where none is written.
fn duration(
    path: impl Display,
    text: Option<&str>,
    default: Duration,
    report: &mut Report,
) -> Option<Duration> {
    let Some(text) = text else { return Some(default) };
    let parsed = humantime::parse_duration(text).map_err(|_| {
        format!("`{text}` is no duration: write a number and a unit, such as 30s or 20m")
    });
    report.keep(path, parsed)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn texts(form: &raw::OneOrMany) -> &[String] {
    match form {
        raw::OneOrMany::One(text) => std::slice::from_ref(text),
        raw::OneOrMany::Many(texts) => texts,
    }
}

/// Reports each of `fields` that is set although it belongs elsewhere.
fn refuse_foreign(path: &str, fields: &[(&str, bool)], owner: &str, report: &mut Report) {
    for (name, _) in fields.iter().filter(|(_, is_set)| *is_set) {
        report
            .error(format!("{path}.{name}"), format_args!("does not belong to {owner}: remove it"));
    }
}

fn joined(base: &Path, path: &str) -> PathBuf {
    base.join(path)
}

/// [`joined`], of a file that is read once: what is made of it is made anew when it changes. One that
/// another machine has elsewhere is none of this machine's.
fn read_once(base: &Path, path: &str, report: &mut Report) -> PathBuf {
    let is_below =
        |path: &str| Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if report.is_elsewhere && !is_below(path) {
        return base.join("(a file of another machine)");
    }
    let file = joined(base, path);
    report.reads_named(&file);
    file
}

/// How often to look at files; `None` where they are not watched. The outer `None` is an error.
fn reload(raw: &raw::Reload, report: &mut Report) -> Option<Option<Duration>> {
    let interval = duration("reload.interval", raw.interval.as_deref(), secs(1), report)?;
    if interval < SHORTEST_LOOK {
        report.error("reload.interval", "is less than 50ms");
        return None;
    }
    Some(raw.watch.unwrap_or(true).then_some(interval))
}

/// The deny list, read unless it is the one at `kept`. The outer `None` is an error.
fn deny_list(
    raw: Option<&raw::DenyList>,
    base: &Path,
    kept: Option<&Path>,
    report: &mut Report,
) -> Option<Option<DenyListFile>> {
    let Some(raw) = raw else { return Some(None) };
    let path = joined(base, report.required("denyList.file", raw.file.as_deref())?);
    let stamp = Stamp::of(&path);
    if kept == Some(path.as_path()) {
        return Some(Some(DenyListFile { path, stamp, list: None }));
    }
    let read = DenyList::read(&path).map_err(|error| format!("`{}`: {error}", path.display()));
    let list = Some(report.keep("denyList.file", read)?);
    Some(Some(DenyListFile { path, stamp, list }))
}
