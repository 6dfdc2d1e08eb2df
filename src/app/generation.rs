//! One reading of the settings, compiled and running.
//!
//! A reload starts a new generation beside the old one and swaps them when the new one is good;
//! dropping a generation ends its tasks.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::admin::InForce;
use crate::audit::Recorder;
use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::config::{ApiConfig, Config, ScopeConfig};
use crate::deny_list::DenyList;
use crate::identity::jwks;
use crate::identity::{ApiKeys, Identity, Introspector, KeySourceSettings, Proof};
use crate::keys::{KeyTask, Keys};
use crate::metrics::Metrics;
use crate::policy::{Confirmed, Policy};
use crate::readiness::{Needs, all_complete, any_complete};
use crate::reuse::Reuse;
use crate::scope::{Api, CallerSecrets, Scope, Scopes, Selectable};
use crate::secrets::{KeepTask, Kept};
use crate::shadow::Shadow;
use crate::token::Minter;

use super::denying::Denying;
use super::shadowing::ShadowTask;

/// What every generation is built in.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) recorder: Recorder,
    pub(super) metrics: Metrics,
    /// When the files in force were last found to be what they were.
    pub(super) confirmed: Confirmed,
    /// When the control plane last said that its snapshot in force is what should be.
    pub(super) controlled: Confirmed,
}

/// A set of scopes and the tasks that keep their keys.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) scopes: Arc<Scopes>,
    pub(super) needs: Vec<Needs>,
    pub(super) in_force: InForce,
    pub(super) startup_grace: Duration,
    denying: Option<Arc<Denying>>,
    ready_needs_all: bool,
    started: Instant,
    _tasks: JoinSet<()>,
    _end: DropGuard,
}

impl Generation {
    /// Compiles `config` and starts to load its keys; what the generation before it, `earlier`, knows of
    /// keys and the deny list is not forgotten.
    pub(super) fn start(config: Config, earlier: Option<&Self>, world: &World) -> Result<Self> {
        let end = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let own_issuers = config.own_issuers();
        let waits_for = waits_for(&config);
        let is_alone = config.control_plane.as_ref().is_some_and(|it| it.client_ids.is_empty());
        let controlled = config.control_plane.map(|control_plane| control_plane.client_ids);
        let controlled = Arc::new(controlled.unwrap_or_default());
        let denying = config.deny_list.map(|file| {
            let earlier = earlier.and_then(|earlier| earlier.denying.as_ref());
            Denying::start(file, earlier, world.clock, &world.metrics)
        });
        let deny_list = denying.as_ref().map(|denying| denying.list());
        let earlier = earlier.map_or(&[][..], |earlier| &earlier.needs);
        let mut scopes = Vec::new();
        let mut needs = Vec::new();
        for scope in config.scopes {
            for store in scope.stores() {
                store.counted_by(|| world.metrics.store_requests(store.id()));
            }
            let deny_list = deny_list.clone();
            let is_controlled = controlled.contains(&scope.client_id);
            let confirmed = if is_controlled { &world.controlled } else { &world.confirmed };
            let confirmed = confirmed.clone();
            let mut starting =
                Starting { tasks: &mut tasks, end: &end, world, deny_list, confirmed };
            let (selectable, need) = build(scope, &own_issuers, earlier, &mut starting)?;
            scopes.push(selectable);
            needs.push(need);
        }
        // What is the only one must not decide for those that are yet to come, or were withdrawn.
        let scopes = if is_alone { Scopes::without_others(scopes) } else { Scopes::new(scopes) };
        Ok(Self {
            scopes: Arc::new(scopes),
            needs,
            in_force: InForce {
                settings: config.effective,
                revision: config.revision,
                since: world.clock.now(),
                deny_list,
                controlled,
                waits_for,
            },
            denying,
            startup_grace: config.startup_grace,
            ready_needs_all: config.ready_needs_all,
            started: Instant::now(),
            _tasks: tasks,
            _end: end.drop_guard(),
        })
    }

    /// The file of the deny list that is kept up to date.
    pub(super) fn deny_list_path(&self) -> Option<PathBuf> {
        self.denying.as_ref().map(|denying| denying.path().to_owned())
    }

    /// Whether there is all that there is to be.
    pub(super) fn is_complete(&self) -> bool {
        self.in_force.waits_for.is_none()
            && self.needs.iter().all(|needs| needs.missing().is_empty())
    }

    /// Waits until every scope is complete.
    pub(super) async fn complete(&self) {
        all_complete(&self.needs).await;
    }

    /// Waits until requests may come: every scope is complete, or the grace is over and one is.
    pub(super) async fn serviceable(&self) {
        if self.in_force.waits_for.is_some() {
            return std::future::pending().await;
        }
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

/// What no scope brings, and requests can't come without.
fn waits_for(config: &Config) -> Option<&'static str> {
    let control_plane = config.control_plane.as_ref()?;
    match &control_plane.snapshot {
        None => Some("the control plane: no snapshot ever came"),
        Some(_) if config.scopes.is_empty() => Some("a scope: the control plane has none for us"),
        Some(_) => None,
    }
}

/// What a scope's tasks are started with.
struct Starting<'a> {
    tasks: &'a mut JoinSet<()>,
    end: &'a CancellationToken,
    world: &'a World,
    deny_list: Option<Kept<DenyList>>,
    /// Of its policies, unless they are fetched.
    confirmed: Confirmed,
}

/// Starts the tasks of one scope, and compiles it.
fn build(
    mut config: ScopeConfig,
    own_issuers: &Arc<BTreeSet<String>>,
    earlier: &[Needs],
    starting: &mut Starting<'_>,
) -> Result<(Selectable, Needs)> {
    let Starting { tasks, end, world, deny_list, confirmed } = starting;
    let World { clock, metrics, .. } = world;
    let earlier = earlier.iter().find(|needs| needs.client_id == config.client_id);
    let (key_task, keys) =
        KeyTask::new(config.key_source(), *clock, earlier.map(|needs| &needs.keys));
    tasks.spawn(key_task.run(end.child_token()));
    let (mut issuers, mut proofs) = (Vec::new(), Vec::new());
    for issuer in &config.identity.issuers {
        if let KeySourceSettings::Introspection(asking) = &issuer.keys {
            let introspector = Introspector::new(asking.as_ref().clone())?;
            proofs.push(Proof::Word(Arc::new(introspector)));
            continue;
        }
        let known = earlier.and_then(|needs| {
            needs.issuers.iter().find(|(name, _)| *name == issuer.issuer).map(|(_, keys)| keys)
        });
        let (keys, task) = jwks::start(issuer, jwks::Pace::default(), known)?;
        let task = task.counted_by(metrics.issuer_fetches(&issuer.issuer));
        tasks.spawn(task.run(end.child_token()));
        issuers.push((issuer.issuer.clone(), keys.clone()));
        proofs.push(Proof::Keys(keys));
    }
    let api_keys = config.identity.api_keys.as_ref().map(|settings| {
        let (store, location) = (Arc::clone(&settings.store), settings.location.clone());
        let (task, api_keys) = KeepTask::new(store, location, ApiKeys::parse);
        tasks.spawn(task.run(end.child_token()));
        api_keys
    });
    let mut confirmed = confirmed.clone();
    if let Some(bundle) = config.bundle.take() {
        confirmed = Confirmed::new(clock.now());
        let bundle = bundle.confirming(confirmed.clone(), *clock);
        tasks.spawn(bundle.run(metrics.clone(), end.child_token()));
    }
    if let Some(max) = config.max_policy_age {
        config.policy = config.policy.no_older_than(max, confirmed);
    }
    let needs = Needs {
        client_id: config.client_id.clone(),
        keys: keys.clone(),
        issuers,
        api_keys: api_keys.clone(),
        policies: config.policy.fetching(),
    };
    let api = config.api.take().map(|api| {
        let ApiConfig { authzen, check, scheme, public_url, workloads, secrets } = api;
        let secrets = secrets.map(|(store, location)| {
            let (task, secrets) = KeepTask::new(store, location, CallerSecrets::parse);
            tasks.spawn(task.run(end.child_token()));
            secrets
        });
        Api { authzen, check, scheme, secrets, workloads, public_url }
    });
    let shadow = config.shadow.take().map(|policy| {
        let (shadow, task) = shadowed(policy, config.client_id.clone(), world);
        tasks.spawn(task.run(end.child_token()));
        shadow
    });
    let credentials = Credentials { proofs, api_keys, deny_list: deny_list.clone() };
    Ok((compile(config, own_issuers, keys, credentials, api, shadow)?, needs))
}

/// Policies that are asked beside a scope's own, and the task that asks them.
fn shadowed(policy: Policy, client_id: String, world: &World) -> (Shadow, ShadowTask) {
    let (shadow, waiting) = Shadow::queued(policy);
    let (recorder, clock) = (world.recorder.clone(), world.clock);
    let task = ShadowTask { client_id, shadow: shadow.clone(), waiting, recorder, clock };
    (shadow, task)
}

/// What a scope knows incoming credentials by.
pub(super) struct Credentials {
    /// Of each issuer.
    pub(super) proofs: Vec<Proof>,
    pub(super) api_keys: Option<Kept<ApiKeys>>,
    /// Who is refused although a credential holds.
    pub(super) deny_list: Option<Kept<DenyList>>,
}

/// Puts one scope together from its settings and the keys it will read.
pub(super) fn compile(
    config: ScopeConfig,
    own_issuers: &Arc<BTreeSet<String>>,
    keys: Keys,
    credentials: Credentials,
    api: Option<Api>,
    shadow: Option<Shadow>,
) -> Result<Selectable> {
    let Credentials { proofs, api_keys, deny_list } = credentials;
    let identity = Identity::new(config.identity, proofs, api_keys, Arc::clone(own_issuers))
        .with_context(|| format!("scope `{}`", config.client_id))?;
    let identity = if config.reuse { identity.remembering() } else { identity };
    let scope = Scope {
        authorizer: Authorizer {
            paths: config.paths,
            routes: config.routes,
            identity,
            deny_list,
            policy: config.policy,
            catalogue: config.catalogue,
            minter: Minter::new(config.claims, keys),
        },
        reuse: if config.reuse { Reuse::new() } else { None },
        client_id: config.client_id,
        header: config.header,
        remove_headers: config.remove_headers,
        deny: config.deny,
        jwks_max_age: (config.publish_before / 2).min(Duration::from_secs(300)),
        api,
        dry_run: config.dry_run,
        explain: config.explain,
        shadow,
    };
    Ok(Selectable { scope: Arc::new(scope), hosts: config.hosts, default: config.default })
}
