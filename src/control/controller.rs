//! The controller: from the custom resources of each namespace to the snapshot that its sidecars are to have.
//!
//! Every replica watches, judges and publishes; the one that leads, by a Lease, also says in each object's
//! status whether it is in force, and if not, what is wrong and what to do; and in that of scopes, which of the sidecars
//! that are connected to it refuse them. What becomes of a namespace is pure, given what there is, what was last
//! good, and which client IDs are other namespaces'; the rest is to notice that something has changed, and to
//! tell. With the API server away all stays as it is.

mod claims;
mod files;
mod lease;
mod object;
mod status;
mod trial;
mod verdict;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use self::claims::{Claims, Taken};
use self::lease::Election;
use self::object::{Key, Objects, Version};
use self::verdict::{Finding, Outcome, Verdict};
use self::watching::Watching;
use super::refusals::{Refusals, Standing};
use super::snapshot::Snapshots;
use crate::clock::Clock;

/// Who writes, as the API server notes it.
const FIELD_MANAGER: &str = "placet-control";

/// Which part of a cluster, and where the Lease is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reach {
    /// The namespaces whose objects count; none named: all.
    pub namespaces: BTreeSet<String>,
    /// The namespace of the Lease; `None`: the one that the process runs in.
    pub lease_namespace: Option<String>,
}

/// How fast it goes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Changes that come within this time of the first are taken together.
    pub debounce: Duration,
    /// How long a leader that is gone is waited for, in whole seconds.
    pub lease: Duration,
    /// After a write or a judgement that failed, the time to the next try.
    pub retry: Duration,
    /// Between two looks at what sidecars refuse.
    pub look: Duration,
    /// How long that other sidecars refuse a snapshot for the same reasons is no news.
    pub recount: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(200),
            lease: Duration::from_secs(15),
            retry: Duration::from_secs(5),
            look: Duration::from_secs(2),
            recount: Duration::from_secs(30),
        }
    }
}

/// One replica.
pub struct Controller {
    client: Client,
    reach: Reach,
    pace: Pace,
    clock: Clock,
    snapshots: Arc<Snapshots>,
    refusals: Arc<Refusals>,
    /// The namespaces that have objects, once they are known.
    namespaces: watch::Sender<Option<BTreeSet<String>>>,
    is_ready: watch::Sender<bool>,
}

impl Controller {
    /// A controller that publishes to `snapshots`, and tells of `refusals`.
    pub fn new(
        client: Client,
        reach: Reach,
        pace: Pace,
        snapshots: Arc<Snapshots>,
        refusals: Arc<Refusals>,
    ) -> Self {
        let (namespaces, is_ready) = (watch::Sender::new(None), watch::Sender::new(false));
        let clock = Clock::System;
        Self { client, reach, pace, clock, snapshots, refusals, namespaces, is_ready }
    }

    /// Which part of the cluster it looks at.
    pub fn reach(&self) -> &BTreeSet<String> {
        &self.reach.namespaces
    }

    /// The namespaces that have objects, once they are known.
    pub fn namespaces(&self) -> watch::Receiver<Option<BTreeSet<String>>> {
        self.namespaces.subscribe()
    }

    /// `/livez`, and `/readyz`: whether every namespace was judged once.
    pub fn probes(&self) -> Router {
        let is_ready = self.is_ready.subscribe();
        let readyz = async move || match *is_ready.borrow() {
            true => (StatusCode::OK, "ok\n"),
            false => {
                (StatusCode::SERVICE_UNAVAILABLE, "the API server has not told all objects yet\n")
            }
        };
        Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(readyz))
    }

    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// If a part of it ends by itself.
    pub async fn run(self, identity: String, shutdown: &CancellationToken) -> Result<()> {
        let watching = Watching::new(&self.client, &self.reach.namespaces);
        let (stores, changed) = (watching.stores(), watching.changed());
        let namespace = self.reach.lease_namespace.as_deref();
        let namespace = namespace.unwrap_or(self.client.default_namespace());
        let election = Election {
            leases: Api::namespaced(self.client.clone(), namespace),
            identity,
            duration: self.pace.lease,
            clock: self.clock,
        };
        let (says, leads) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let stop = shutdown.clone();
        tasks.spawn(
            async move { stop.run_until_cancelled(watching.run()).await.unwrap_or_default() },
        );
        tasks.spawn(election.run(says, shutdown.clone()));
        let namespaces = BTreeMap::new();
        let desk = Desk { controller: self, stores, leads, leads_since: None, namespaces };
        let stop = shutdown.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(desk.run(changed)).await.unwrap_or_default()
        });
        while let Some(ended) = tasks.join_next().await {
            ended?;
            if !shutdown.is_cancelled() {
                return Err(anyhow!("a task of the controller ended by itself"));
            }
        }
        Ok(())
    }
}

/// Judges, publishes and tells.
struct Desk {
    controller: Controller,
    stores: watching::Stores,
    leads: watch::Receiver<bool>,
    leads_since: Option<Instant>,
    namespaces: BTreeMap<String, Namespace>,
}

/// What is known of a namespace.
#[derive(Debug, Default)]
struct Namespace {
    /// What was judged.
    judged: BTreeMap<Key, Version>,
    taken: Taken,
    findings: BTreeMap<Key, Finding>,
    /// The objects of the last snapshot, and its revision.
    good: Objects,
    revision: Option<String>,
    /// Whether its sidecars are told all there is.
    is_settled: bool,
    /// The resource versions that a status was written over: until the watch brings the next one, there is
    /// nothing to compare with.
    told: BTreeMap<Key, String>,
    /// What sidecars say of the revision, and since when that is said of them.
    standing: Standing,
    stands_since: Option<Instant>,
}

impl Namespace {
    /// What was said of an earlier revision is not said of this one.
    fn await_sidecars(&mut self) {
        if self.standing != Standing::Quiet {
            self.standing = Standing::Open;
        }
    }

    /// Whether what sidecars say is other than what they said. That they are others who say it is so only at times.
    fn take(&mut self, mut standing: Standing, recount: Duration, now: Instant) -> bool {
        if let Standing::Refused(refused) = &mut standing {
            for cause in &mut refused.causes {
                cause.error = trial::in_words_of_objects(&self.good, &cause.error);
            }
        }
        if let (Standing::Refused(before), Standing::Refused(after)) = (&self.standing, &standing)
            && before.is_because_of_the_same(after)
            && self.stands_since.is_some_and(|since| now < since + recount)
        {
            return false;
        }
        let is_news = self.standing != standing;
        if is_news {
            self.standing = standing;
            self.stands_since = Some(now);
        }
        is_news
    }
}

impl Desk {
    async fn run(mut self, changed: Arc<Notify>) {
        self.stores.wait_until_listed().await;
        let mut is_complete = !self.controller.reach.namespaces.is_empty();
        let mut looks = interval(self.controller.pace.look);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_done = self.round().await;
            self.controller.is_ready.send_replace(true);
            if !is_complete && self.namespaces.values().all(|it| it.is_settled) {
                self.controller.snapshots.complete();
                is_complete = true;
            }
            self.wait(is_done, &changed, &mut looks).await;
        }
    }

    /// Until there is something to do.
    async fn wait(&mut self, is_done: bool, changed: &Notify, looks: &mut Interval) {
        let Pace { debounce, retry, .. } = self.controller.pace;
        let mut again = pin!(async { if is_done { pending().await } else { sleep(retry).await } });
        loop {
            tokio::select! {
                () = changed.notified() => return sleep(debounce).await,
                Ok(()) = self.leads.changed() => {
                    self.leads_since = self.leads.borrow_and_update().then(Instant::now);
                    return;
                }
                () = &mut again => return,
                _ = looks.tick() => if self.look() {
                    return;
                }
            }
        }
    }

    /// Looks at what sidecars refuse; whether there is anything new in it.
    fn look(&mut self) -> bool {
        let Some(since) = self.leads_since else { return false };
        let Controller { refusals, pace, .. } = &self.controller;
        let now = Instant::now();
        let mut is_news = false;
        for (name, namespace) in &mut self.namespaces {
            if let Some(revision) = &namespace.revision {
                let standing = refusals.standing(name, revision, since, now);
                is_news |= namespace.take(standing, pace.recount, now);
            }
        }
        is_news
    }

    /// Looks at every namespace; false if something is to be tried again.
    async fn round(&mut self) -> bool {
        let mut all = self.stores.objects();
        let with_objects = Some(all.keys().cloned().collect());
        self.controller.namespaces.send_if_modified(|known| {
            let is_news = *known != with_objects;
            *known = with_objects;
            is_news
        });
        for namespace in self.namespaces.keys() {
            all.entry(namespace.clone()).or_default();
        }
        let claims = Claims::of(&all);
        let mut is_done = true;
        for (name, objects) in all {
            let mut namespace = self.namespaces.remove(&name).unwrap_or_default();
            let taken = claims.taken(&name, &objects);
            is_done &= self.judge(&name, &mut namespace, &objects, taken).await;
            is_done &= self.tell(&name, &mut namespace, &objects).await;
            if !objects.is_empty() || !namespace.is_settled {
                self.namespaces.insert(name, namespace);
            }
        }
        is_done
    }

    /// Judges what has changed, and publishes what came of it.
    async fn judge(
        &self,
        name: &str,
        namespace: &mut Namespace,
        objects: &Objects,
        taken: Taken,
    ) -> bool {
        let versions =
            objects.iter().map(|(key, object)| (key.clone(), object.version())).collect();
        if namespace.judged == versions && namespace.taken == taken {
            return true;
        }
        let (now, good, others) = (objects.clone(), namespace.good.clone(), taken.clone());
        let judging = move || verdict::judge(&now, &good, &others);
        let judged = tokio::task::spawn_blocking(judging).await;
        let verdict = match judged.map_err(anyhow::Error::from).and_then(|it| Ok(it?)) {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::error!(namespace = name, "the objects can't be judged: {error:#}");
                return false;
            }
        };
        namespace.judged = versions;
        namespace.taken = taken;
        self.publish(name, namespace, verdict);
        true
    }

    fn publish(&self, name: &str, namespace: &mut Namespace, verdict: Verdict) {
        for (key, finding) in &verdict.findings {
            if let Finding::Bad(faults) = finding
                && namespace.findings.get(key) != Some(finding)
            {
                tracing::warn!(namespace = name, object = %key, "not taken over: {}", faults.join("; "));
            }
        }
        namespace.findings = verdict.findings;
        namespace.is_settled = !matches!(verdict.outcome, Outcome::Keep);
        match verdict.outcome {
            Outcome::Publish(snapshot, good) => {
                if namespace.revision.as_ref() != Some(&snapshot.revision) {
                    tracing::info!(namespace = name, revision = snapshot.revision, "published");
                    namespace.await_sidecars();
                }
                namespace.revision = Some(snapshot.revision.clone());
                namespace.good = good;
                self.controller.snapshots.publish(name, snapshot);
            }
            Outcome::Withdraw => {
                if namespace.revision.take().is_some() {
                    tracing::info!(namespace = name, "withdrawn: there is no scope any more");
                }
                namespace.good.clear();
                self.controller.snapshots.withdraw(name);
            }
            Outcome::Keep => {}
        }
    }

    /// Writes what is to be said and is not said yet, if this replica leads.
    async fn tell(&self, name: &str, namespace: &mut Namespace, objects: &Objects) -> bool {
        let mut is_done = true;
        namespace.told.retain(|key, _| objects.contains_key(key));
        for (key, object) in objects {
            let version = object.resource_version();
            let is_told = namespace.told.get(key).map(String::as_str) == version;
            let is_leading = *self.leads.borrow();
            let Some(finding) = namespace.findings.get(key).filter(|_| is_leading && !is_told)
            else {
                continue;
            };
            let revision = namespace.revision.as_deref();
            let now = self.controller.clock.now();
            let said = status::Said { finding, revision, standing: &namespace.standing };
            let Some(wanted) = status::wanted(key, object, &said, now) else { continue };
            if self.write(name, key, &status::patch(key, object, &wanted)).await {
                namespace.told.extend(version.map(|version| (key.clone(), version.to_owned())));
            } else {
                is_done = false;
            }
        }
        is_done
    }

    async fn write(&self, namespace: &str, key: &Key, patch: &serde_json::Value) -> bool {
        let client = self.controller.client.clone();
        let api = Api::<DynamicObject>::namespaced_with(client, namespace, &key.kind.resource());
        let params =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch_status(&key.name, &params, &Patch::Merge(patch)).await {
            Ok(_) => true,
            // It has changed, or is gone: the watch says so, and that leads to another round.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(error) => {
                tracing::warn!(namespace, object = %key, %error, "the status can't be written");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
