//! One reading of the settings, compiled and running.
//!
//! A reload starts a new generation beside the old one and swaps them when the new one is good;
//! dropping a generation ends its tasks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::config::{ApiConfig, Config, ScopeConfig};
use crate::identity::Identity;
use crate::identity::jwks::{self, IssuerKeys};
use crate::keys::{KeyTask, Keys};
use crate::readiness::{Needs, all_complete, any_complete};
use crate::scope::{Api, CallerSecrets, Scope, Scopes, Selectable};
use crate::secrets::KeepTask;
use crate::token::Minter;

/// A set of scopes and the tasks that keep their keys.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) scopes: Arc<Scopes>,
    pub(super) needs: Vec<Needs>,
    pub(super) settings: Value,
    pub(super) startup_grace: Duration,
    ready_needs_all: bool,
    started: Instant,
    _tasks: JoinSet<()>,
    _end: DropGuard,
}

impl Generation {
    /// Compiles `config` and starts to load its keys; `earlier` is what the generation before it
    /// needed, whose keys are not forgotten.
    pub(super) fn start(config: Config, clock: Clock, earlier: &[Needs]) -> Result<Self> {
        let end = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let own_issuers = config.own_issuers();
        let mut scopes = Vec::new();
        let mut needs = Vec::new();
        for scope in config.scopes {
            let (selectable, need) = build(scope, &own_issuers, clock, earlier, &mut tasks, &end)?;
            scopes.push(selectable);
            needs.push(need);
        }
        Ok(Self {
            scopes: Arc::new(Scopes::new(scopes)),
            needs,
            settings: config.effective,
            startup_grace: config.startup_grace,
            ready_needs_all: config.ready_needs_all,
            started: Instant::now(),
            _tasks: tasks,
            _end: end.drop_guard(),
        })
    }

    /// Whether every scope is complete.
    pub(super) fn is_complete(&self) -> bool {
        self.needs.iter().all(|needs| needs.missing().is_empty())
    }

    /// Waits until every scope is complete.
    pub(super) async fn complete(&self) {
        all_complete(&self.needs).await;
    }

    /// Waits until requests may come: every scope is complete, or the grace is over and one is.
    pub(super) async fn serviceable(&self) {
        let all = all_complete(&self.needs);
        if self.ready_needs_all {
            return all.await;
        }
        let some = async {
            tokio::time::sleep_until(self.started + self.startup_grace).await;
            any_complete(&self.needs).await;
        };
        tokio::select! {
            () = all => {}
            () = some => {}
        }
    }
}

/// Starts the tasks of one scope, and compiles it.
fn build(
    mut config: ScopeConfig,
    own_issuers: &[String],
    clock: Clock,
    earlier: &[Needs],
    tasks: &mut JoinSet<()>,
    end: &CancellationToken,
) -> Result<(Selectable, Needs)> {
    let earlier = earlier.iter().find(|needs| needs.client_id == config.client_id);
    let (key_task, keys) =
        KeyTask::new(config.key_source(), clock, earlier.map(|needs| &needs.keys));
    tasks.spawn(key_task.run(end.child_token()));
    let mut issuers = Vec::new();
    for issuer in &config.identity.issuers {
        let (keys, task) = jwks::start(issuer, jwks::Pace::default())?;
        tasks.spawn(task.run(end.child_token()));
        issuers.push((issuer.issuer.clone(), keys));
    }
    let issuer_keys = issuers.iter().map(|(_, keys)| keys.clone()).collect();
    let needs = Needs { client_id: config.client_id.clone(), keys: keys.clone(), issuers };
    let api = config.api.take().map(|api| {
        let ApiConfig { authzen, check, public_url, store, location } = api;
        let (task, callers) = KeepTask::new(store, location, CallerSecrets::parse);
        tasks.spawn(task.run(end.child_token()));
        Api { authzen, check, callers, public_url }
    });
    Ok((compile(config, own_issuers, keys, issuer_keys, api)?, needs))
}

/// Puts one scope together from its settings and the keys it will read.
pub(super) fn compile(
    config: ScopeConfig,
    own_issuers: &[String],
    keys: Keys,
    issuer_keys: Vec<IssuerKeys>,
    api: Option<Api>,
) -> Result<Selectable> {
    let identity = Identity::new(config.identity, issuer_keys, own_issuers.to_vec())
        .with_context(|| format!("scope `{}`", config.client_id))?;
    let scope = Scope {
        authorizer: Authorizer {
            paths: config.paths,
            routes: config.routes,
            identity,
            policy: config.policy,
            catalogue: config.catalogue,
            minter: Minter::new(config.claims, keys),
        },
        client_id: config.client_id,
        header: config.header,
        remove_headers: config.remove_headers,
        deny: config.deny,
        jwks_max_age: (config.publish_before / 2).min(Duration::from_secs(300)),
        api,
    };
    Ok(Selectable { scope: Arc::new(scope), hosts: config.hosts, default: config.default })
}
