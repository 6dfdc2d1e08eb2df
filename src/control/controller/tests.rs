use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::object::{Kind, Object};
use super::*;
use crate::config::Config;
use crate::control::refusals::COMES_BACK;
use crate::control::snapshot::Snapshot;
use server::{Asked, Server};

mod server;

const PACE: Pace = Pace {
    debounce: Duration::from_millis(10),
    lease: Duration::from_secs(2),
    retry: Duration::from_millis(200),
    look: Duration::from_millis(10),
    recount: Duration::from_millis(50),
};

/// One replica that runs.
struct Replica {
    snapshots: Arc<Snapshots>,
    refusals: Arc<Refusals>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Replica {
    fn start(server: &Server, identity: &str) -> Self {
        Self::start_within(server, identity, Reach::default())
    }

    fn start_within(server: &Server, identity: &str, reach: Reach) -> Self {
        Self::start_with(server, identity, reach, COMES_BACK)
    }

    /// One whose sidecars come back within that time.
    fn start_with(server: &Server, identity: &str, reach: Reach, comes_back: Duration) -> Self {
        let (snapshots, shutdown) = (Arc::<Snapshots>::default(), CancellationToken::new());
        let refusals = Arc::new(Refusals::new(comes_back));
        let (sent, refused) = (Arc::clone(&snapshots), Arc::clone(&refusals));
        let controller = Controller::new(server.client(), reach, PACE, sent, refused);
        let (stop, identity) = (shutdown.clone(), identity.to_owned());
        let task = tokio::spawn(async move { controller.run(identity, &stop).await });
        Self { snapshots, refusals, shutdown, task }
    }

    fn snapshot(&self, namespace: &str) -> Option<Arc<Snapshot>> {
        self.snapshots.watch(namespace).borrow().clone()
    }

    /// The sidecars in these pods of `shop` refuse the snapshot.
    fn refuse(&self, pods: &[&str], error: &str) {
        let revision = self.snapshot("shop").unwrap().revision.clone();
        for (id, pod) in (0..).zip(pods) {
            self.refusals.refuse("shop", id, &revision, pod, error);
        }
    }

    fn file(&self, namespace: &str, name: &str) -> String {
        let snapshot = self.snapshot(namespace);
        let file = snapshot.as_ref().and_then(|it| it.files.get(name));
        file.map(|it| String::from_utf8(it.to_vec()).unwrap()).unwrap_or_default()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "never came: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn scope(client_id: &str, file: &str) -> Value {
    json!({
        "clientId": client_id,
        "match": {"hosts": [format!("{client_id}.example.com")]},
        "identity": {"jwt": [{"issuer": "https://idp.example.com/", "audiences": [client_id]}]},
        "policy": {"files": [file]},
        "jwtResponse": {"tokenLifetimeSeconds": 60, "audience": client_id},
    })
}

fn store() -> Value {
    json!({"type": "vault", "default": true, "details": {
        "address": "https://vault.vault.svc:8200",
        "defaultPath": "placet/keys",
        "auth": {"method": "token", "token": "{{storeId=ENV_VAR,key=VAULT_TOKEN_OF_THE_SIDECAR}}"},
        "tls": {"caFile": "/etc/ssl/vault.pem"},
    }})
}

fn bundle(files: &[(&str, &str)]) -> Value {
    json!({"files": files.iter().copied().collect::<BTreeMap<_, _>>()})
}

const PERMIT: &str = "permit(principal, action, resource);";

/// A server with one of each in the namespace `shop`.
async fn shop() -> Server {
    let server = Server::start().await;
    server.put("secretstores", "shop", "vault", &store());
    server.put(
        "policybundles",
        "shop",
        "rules",
        &bundle(&[("orders.cedar", PERMIT), ("other.cedar", PERMIT)]),
    );
    server.put("scopes", "shop", "orders", &scope("orders", "rules/orders.cedar"));
    server
}

const OBJECTS: [(&str, &str); 3] =
    [("secretstores", "vault"), ("policybundles", "rules"), ("scopes", "orders")];

async fn until_ready(server: &Server, resource: &str, name: &str) {
    let what = format!("{resource} {name} is ready");
    until(&what, || server.ready(resource, "shop", name).0 == "True").await;
}

#[tokio::test]
async fn good_objects_are_published_and_said_to_be_ready() {
    let server = shop().await;
    let replica = Replica::start(&server, "a");
    for (resource, name) in OBJECTS {
        until_ready(&server, resource, name).await;
        let status = server.get(resource, "shop", name)["status"].clone();
        let snapshot = replica.snapshot("shop").unwrap();
        assert_eq!(status["revision"], snapshot.revision.as_str());
        assert_eq!(status["observedGeneration"], 1);
        assert_eq!(server.ready(resource, "shop", name).1, "Published");
    }
    let snapshot = replica.snapshot("shop").unwrap();
    let names: Vec<&str> = snapshot.files.keys().map(String::as_str).collect();
    assert_eq!(names, ["placet.yaml", "rules/orders.cedar"], "nothing that no scope names");
    let settings: Value = yaml_serde::from_str(&replica.file("shop", "placet.yaml")).unwrap();
    let keys: Vec<&String> = settings.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["secretStores", "scopes"]);
    assert_eq!(settings["secretStores"][0]["id"], "vault");
    assert_eq!(settings["scopes"][0], scope("orders", "rules/orders.cedar"));
    until("other namespaces are known to be empty", || replica.snapshot("none").is_some()).await;
    assert_eq!(replica.snapshot("none").unwrap().as_ref(), &Snapshot::empty());
    replica.stop().await;
}

/// With a label that changes, and a namespace after it that shows that the label was noticed.
#[tokio::test]
async fn a_status_is_written_once() {
    let server = shop().await;
    let replica = Replica::start(&server, "a");
    for (resource, name) in OBJECTS {
        until_ready(&server, resource, name).await;
    }
    let writes = server.status_writes();
    assert_eq!(writes, 3);
    for (round, namespace) in ["b", "c", "d"].into_iter().enumerate() {
        server.touch("scopes", "shop", "orders", namespace);
        server.put("policybundles", namespace, "rules", &bundle(&[("a.cedar", PERMIT)]));
        let is_told = || server.ready("policybundles", namespace, "rules").1 == "Valid";
        until("the next namespace", is_told).await;
        assert_eq!(server.status_writes(), writes + round + 1);
    }
    replica.stop().await;
}

#[tokio::test]
async fn a_bad_scope_is_told_what_is_wrong_and_harms_no_other() {
    let server = shop().await;
    let replica = Replica::start(&server, "a");
    until_ready(&server, "scopes", "orders").await;
    let mut bad = scope("bills", "rules/bills.cedar");
    bad["policy"]["engin"] = "cedar".into();
    bad["jwtResponse"]["keyId"] = "{{client}}".into();
    server.put("scopes", "shop", "bills", &bad);
    let said = || server.ready("scopes", "shop", "bills");
    until("it is said to be wrong", || said().0 == "False").await;
    let (_, reason, message) = said();
    assert_eq!(reason, "Invalid");
    for part in [
        "spec.policy.engin: unknown key: did you mean `engine`?",
        "spec.policy.files[0]: the PolicyBundle `rules` has no `bills.cedar`: it has `orders.cedar`, `other.cedar`",
        "spec.jwtResponse.keyId: ",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(!message.contains("/tmp") && !message.contains("can't read"), "{message}");
    // The others go on, with their changes.
    let mut changed = scope("orders", "rules/orders.cedar");
    changed["jwtResponse"]["tokenLifetimeSeconds"] = 30.into();
    server.put("scopes", "shop", "orders", &changed);
    until("the change", || {
        replica.file("shop", "placet.yaml").contains("tokenLifetimeSeconds: 30")
    })
    .await;
    assert!(!replica.file("shop", "placet.yaml").contains("bills"));
    until_ready(&server, "scopes", "orders").await;
    // Put right, it is in force; deleted, it is not.
    server.put("scopes", "shop", "bills", &scope("bills", "rules/other.cedar"));
    until_ready(&server, "scopes", "bills").await;
    assert!(replica.file("shop", "placet.yaml").contains("bills"));
    server.delete("scopes", "shop", "bills");
    until("it is gone", || !replica.file("shop", "placet.yaml").contains("bills")).await;
    server.delete("scopes", "shop", "orders");
    until("nothing is left", || *replica.snapshot("shop").unwrap() == Snapshot::empty()).await;
    replica.stop().await;
}

#[tokio::test]
async fn a_bad_change_leaves_the_last_good_version_in_force() {
    let server = shop().await;
    server.put("policybundles", "shop", "bills", &bundle(&[("bills.cedar", PERMIT)]));
    server.put("scopes", "shop", "bills", &scope("bills", "bills/bills.cedar"));
    let replica = Replica::start(&server, "a");
    until_ready(&server, "scopes", "orders").await;
    let first = server.get("scopes", "shop", "orders")["status"]["revision"].clone();
    server.put("policybundles", "shop", "rules", &bundle(&[("orders.cedar", "permit(")]));
    until("the scope is said to be wrong", || {
        server.ready("scopes", "shop", "orders").0 == "False"
    })
    .await;
    let (.., message) = server.ready("scopes", "shop", "orders");
    assert!(message.starts_with("spec.policy: `rules/orders.cedar` is not valid: "), "{message}");
    until("so is the bundle", || server.ready("policybundles", "shop", "rules").1 == "Held").await;
    let (.., message) = server.ready("policybundles", "shop", "rules");
    assert!(message.contains("Scope `orders`"), "{message}");
    assert_eq!(replica.file("shop", "rules/orders.cedar"), PERMIT);
    assert_eq!(server.get("scopes", "shop", "orders")["status"]["revision"], first);
    // Who would need the rest of the change is told so.
    let changed = [("orders.cedar", "permit("), ("more.cedar", PERMIT)];
    server.put("policybundles", "shop", "rules", &bundle(&changed));
    server.put("scopes", "shop", "more", &scope("more", "rules/more.cedar"));
    until("it is held", || server.ready("scopes", "shop", "more").1 == "Held").await;
    assert!(server.ready("scopes", "shop", "more").2.contains("Scope `orders`: see there"));
    server.delete("scopes", "shop", "more");
    // Others are not held up.
    let forbid = "forbid(principal, action, resource);";
    server.put("policybundles", "shop", "bills", &bundle(&[("bills.cedar", forbid)]));
    until("the other's change", || replica.file("shop", "bills/bills.cedar") == forbid).await;
    until_ready(&server, "scopes", "bills").await;
    assert_eq!(replica.file("shop", "rules/orders.cedar"), PERMIT);
    // What is in use can't be deleted away.
    server.delete("policybundles", "shop", "rules");
    let is_missed =
        || server.ready("scopes", "shop", "orders").2.contains("there is no PolicyBundle `rules`");
    until("it is missed", is_missed).await;
    assert_eq!(replica.file("shop", "rules/orders.cedar"), PERMIT);
    server.delete("secretstores", "shop", "vault");
    until("it is missed", || {
        server.ready("scopes", "shop", "bills").2.contains("there is no SecretStore that is ready")
    })
    .await;
    assert!(replica.file("shop", "placet.yaml").contains("vault"));
    server.put("secretstores", "shop", "vault", &store());
    server.put("policybundles", "shop", "rules", &bundle(&[("orders.cedar", forbid)]));
    for (resource, name) in OBJECTS {
        until_ready(&server, resource, name).await;
    }
    assert_eq!(replica.file("shop", "rules/orders.cedar"), forbid);
    replica.stop().await;
}

/// Of two that can't be together the older stays.
#[tokio::test]
async fn what_does_not_go_together_is_told_in_names() {
    let server = shop().await;
    let replica = Replica::start(&server, "a");
    until_ready(&server, "scopes", "orders").await;
    server.put("scopes", "shop", "again", &scope("orders", "rules/other.cedar"));
    until("the younger one is wrong", || server.ready("scopes", "shop", "again").0 == "False")
        .await;
    let (.., message) = server.ready("scopes", "shop", "again");
    assert!(
        message.contains("spec.clientId: `orders` is also the clientId of Scope `orders`"),
        "{message}"
    );
    assert_eq!(server.ready("scopes", "shop", "orders").0, "True");
    server.put(
        "secretstores",
        "shop",
        "second",
        &json!({"type": "env", "default": true, "details": {"prefix": "K"}}),
    );
    until("a second default", || server.ready("secretstores", "shop", "second").0 == "False").await;
    let (.., message) = server.ready("secretstores", "shop", "second");
    assert!(message.contains("`second`, `vault`") && message.contains("keep one"), "{message}");
    assert_eq!(server.ready("secretstores", "shop", "vault").0, "True");
    assert_eq!(server.ready("scopes", "shop", "orders").0, "True");
    replica.stop().await;
}

#[test]
fn who_uses_a_bad_store_is_not_wrong() {
    let mut bad = store();
    bad["details"]["kvVersion"] = 3.into();
    let objects = Objects::from([
        object(Kind::SecretStore, "vault", &bad),
        object(Kind::PolicyBundle, "rules", &bundle(&[("a.cedar", PERMIT)])),
        object(Kind::Scope, "orders", &scope("orders", "rules/a.cedar")),
    ]);
    let verdict = verdict::judge(&objects, &Objects::new(), &Taken::new()).unwrap();
    let said: Vec<&Finding> = verdict.findings.values().collect();
    let why = "not taken over, since it doesn't go with SecretStore `vault`: see there";
    let faults = ["spec.details.kvVersion: `3` is not 1 or 2".to_owned()];
    let bad = Finding::Bad(faults.to_vec());
    assert_eq!(said, [&Finding::Good(vec![]), &bad, &Finding::Held(why.to_owned())]);
    assert!(matches!(verdict.outcome, Outcome::Withdraw));
}

/// Though the younger can't be beside it, it is not wrong as long as the older is not there.
#[tokio::test]
async fn a_bad_scope_is_in_nobody_s_way() {
    let server = shop().await;
    server.delete("scopes", "shop", "orders");
    let mut bad = scope("orders", "rules/none.cedar");
    bad["default"] = true.into();
    server.put("scopes", "shop", "a-bad-one", &bad);
    server.put("scopes", "shop", "orders", &scope("orders", "rules/orders.cedar"));
    let replica = Replica::start(&server, "a");
    until_ready(&server, "scopes", "orders").await;
    until("the other is wrong", || server.ready("scopes", "shop", "a-bad-one").0 == "False").await;
    server.put("scopes", "shop", "a-bad-one", &scope("orders", "rules/other.cedar"));
    let message = || server.ready("scopes", "shop", "a-bad-one").2;
    until("it is new beside the other", || message().contains("Scope `orders`")).await;
    assert_eq!(server.ready("scopes", "shop", "orders").0, "True");
    // Nothing is left that is in force.
    server.delete("scopes", "shop", "orders");
    server.delete("scopes", "shop", "a-bad-one");
    until("the store is only valid", || server.ready("secretstores", "shop", "vault").1 == "Valid")
        .await;
    assert!(server.get("secretstores", "shop", "vault")["status"]["revision"].is_null());
    assert_eq!(*replica.snapshot("shop").unwrap(), Snapshot::empty());
    replica.stop().await;
}

/// A replica that starts after an object went bad does not know what it was.
#[tokio::test]
async fn a_restart_takes_nothing_from_the_sidecars() {
    let server = shop().await;
    server.put("scopes", "shop", "bills", &scope("bills", "rules/other.cedar"));
    let replica = Replica::start(&server, "a");
    until_ready(&server, "scopes", "orders").await;
    until_ready(&server, "scopes", "bills").await;
    replica.stop().await;
    let mut bad = scope("bills", "rules/other.cedar");
    bad["policy"]["engine"] = "rego".into();
    bad["policy"]["schema"] = "rules/none".into();
    server.put("scopes", "shop", "bills", &bad);
    let replica = Replica::start(&server, "b");
    until("it is said to be wrong", || server.ready("scopes", "shop", "bills").0 == "False").await;
    until("and holds up the rest", || server.ready("scopes", "shop", "orders").1 == "Held").await;
    assert!(
        server
            .ready("scopes", "shop", "orders")
            .2
            .contains("until Scope `bills` is put right or deleted")
    );
    assert!(replica.snapshot("shop").is_none() && replica.snapshot("none").is_none());
    server.delete("scopes", "shop", "bills");
    until_ready(&server, "scopes", "orders").await;
    assert!(replica.file("shop", "placet.yaml").contains("orders"));
    until("the rest is known too", || replica.snapshot("none").is_some()).await;
    replica.stop().await;
}

#[tokio::test]
async fn lost_watches_and_versions_that_are_gone_are_made_up_for() {
    let server = shop().await;
    let replica = Replica::start(&server, "a");
    until_ready(&server, "scopes", "orders").await;
    for (round, seconds) in (30..36).enumerate() {
        match round % 3 {
            0 => server.cut_watches(false),
            1 => server.cut_watches(true),
            _ => server.set_down(true),
        }
        let mut changed = scope("orders", "rules/orders.cedar");
        changed["jwtResponse"]["tokenLifetimeSeconds"] = seconds.into();
        server.put("scopes", "shop", "orders", &changed);
        let name = format!("extra-{round}");
        server.put("scopes", "shop", &name, &scope(&name, "rules/other.cedar"));
        if round % 3 == 1 {
            server.cut_watches(true);
        }
        server.set_down(false);
        let lifetime = format!("tokenLifetimeSeconds: {seconds}");
        until("the change", || replica.file("shop", "placet.yaml").contains(&lifetime)).await;
        until_ready(&server, "scopes", &name).await;
        server.delete("scopes", "shop", &name);
        server.cut_watches(true);
        until("the deletion", || !replica.file("shop", "placet.yaml").contains(&name)).await;
    }
    let lists = |asked: &&Asked| asked.verb == "list" && asked.resource == "scopes";
    assert!(server.asked().iter().filter(lists).count() > 5, "it was listed again");
    replica.stop().await;
}

#[tokio::test]
async fn a_write_that_comes_too_late_is_made_again() {
    let server = shop().await;
    server.conflict(5);
    let replica = Replica::start(&server, "a");
    for (resource, name) in OBJECTS {
        until_ready(&server, resource, name).await;
    }
    assert_eq!(server.status_writes(), 8);
    replica.stop().await;
}

/// The message of the condition that some sidecar refuses the scope, if it has that.
fn refused(server: &Server, scope: &str) -> Option<String> {
    let scope = server.get("scopes", "shop", scope);
    let conditions = scope["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|it| it["type"] == "Programmed")?;
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&"False".into(), &"RefusedBySidecars".into())
    );
    Some(condition["message"].as_str()?.to_owned())
}

const REFUSED: &str =
    "snapshot.scopes[0].identity.jwt[0].jwksFile: can't read `/keys`\nsnapshot.secretStores[0]: no";
const SAID: &str = "Scope `orders`: spec.identity.jwt[0].jwksFile: can't read `/keys`; SecretStore `vault`: spec: no";

#[tokio::test]
async fn what_sidecars_refuse_is_said_of_the_scopes_they_were_sent() {
    let server = shop().await;
    let replica = Replica::start(&server, "a");
    for (resource, name) in OBJECTS {
        until_ready(&server, resource, name).await;
    }
    server.put("scopes", "shop", "bad", &scope("bad", "rules/none.cedar"));
    until("it is said to be wrong", || server.ready("scopes", "shop", "bad").0 == "False").await;
    let writes = server.status_writes();
    replica.refuse(&["orders-0"], REFUSED);
    let kept = "the namespace's snapshot is refused, and the last good one kept, by";
    let one = format!("{kept} 1 sidecar (orders-0): {SAID}");
    until("it is said", || refused(&server, "orders").as_ref() == Some(&one)).await;
    assert_eq!(server.status_writes(), writes + 1, "of the one scope that is in the snapshot");
    assert_eq!(server.ready("scopes", "shop", "orders").0, "True", "it is given to them");
    replica.refuse(&["orders-0", "orders-1", "orders-2"], REFUSED);
    let three = format!("{kept} 3 sidecars (orders-0, orders-1, …): {SAID}");
    until("all are counted", || refused(&server, "orders").as_ref() == Some(&three)).await;
    // The next snapshot is theirs to take or to refuse: until they did, what was said stays.
    let mut changed = scope("orders", "rules/orders.cedar");
    changed["jwtResponse"]["tokenLifetimeSeconds"] = 30.into();
    server.put("scopes", "shop", "orders", &changed);
    until_ready(&server, "scopes", "orders").await;
    assert_eq!(refused(&server, "orders"), Some(three));
    for id in 0..3 {
        replica.refusals.accept("shop", id);
    }
    until("it is taken back", || refused(&server, "orders").is_none()).await;
    until_ready(&server, "scopes", "orders").await;
    // A restart of the last one that refuses takes nothing back.
    replica.refuse(&["orders-0"], REFUSED);
    until("it is said again", || refused(&server, "orders").as_ref() == Some(&one)).await;
    let writes = server.status_writes();
    replica.refusals.leave("shop", 0, tokio::time::Instant::now());
    for (round, namespace) in ["b", "c"].into_iter().enumerate() {
        server.put("policybundles", namespace, "rules", &bundle(&[("a.cedar", PERMIT)]));
        let is_told = || server.ready("policybundles", namespace, "rules").1 == "Valid";
        until("the next namespace", is_told).await;
        assert_eq!(server.status_writes(), writes + round + 1);
    }
    assert_eq!(refused(&server, "orders"), Some(one));
    replica.stop().await;
}

#[tokio::test]
async fn a_new_leader_takes_nothing_back_before_sidecars_had_the_time_to_come() {
    let server = shop().await;
    let first = Replica::start(&server, "first");
    until_ready(&server, "scopes", "orders").await;
    first.refuse(&["orders-0"], REFUSED);
    until("it is said", || refused(&server, "orders").is_some()).await;
    first.stop().await;
    let second = Replica::start(&server, "second");
    until("the second leads", || holder(&server) == "second").await;
    let mut changed = scope("orders", "rules/orders.cedar");
    changed["jwtResponse"]["tokenLifetimeSeconds"] = 30.into();
    server.put("scopes", "shop", "orders", &changed);
    until_ready(&server, "scopes", "orders").await;
    assert!(refused(&server, "orders").is_some());
    second.stop().await;
    let third = Replica::start_with(&server, "third", Reach::default(), Duration::ZERO);
    until("it is taken back", || refused(&server, "orders").is_none()).await;
    third.stop().await;
}

#[test]
fn other_reasons_are_counted() {
    let refusals = Refusals::default();
    for (id, error) in (0..).zip(["a", "b", "b", "c", "d"]) {
        refusals.refuse("shop", id, "r", &format!("pod-{id}"), error);
    }
    let now = tokio::time::Instant::now();
    let Standing::Refused(refused) = refusals.standing("shop", "r", now, now) else { panic!() };
    let said = "the namespace's snapshot is refused, and the last good one kept, by 2 sidecars (pod-1, pod-2): b; \
        1 sidecar (pod-0): a; 2 sidecars for other reasons";
    assert_eq!(status::by_whom(&refused), said);
}

fn holder(server: &Server) -> String {
    let lease = server.get("leases", "placet", lease::NAME);
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_replica_leads_and_another_follows_it() {
    let server = shop().await;
    let first = Replica::start(&server, "first");
    until("the first leads", || holder(&server) == "first").await;
    let second = Replica::start(&server, "second");
    until("both publish", || second.snapshot("shop").is_some() && first.snapshot("shop").is_some())
        .await;
    assert_eq!(first.snapshot("shop"), second.snapshot("shop"));
    for (resource, name) in OBJECTS {
        until_ready(&server, resource, name).await;
    }
    assert_eq!(server.status_writes(), 3, "the second wrote nothing");
    // It dies: nothing is given up.
    first.task.abort();
    server.put("policybundles", "shop", "rules", &bundle(&[("orders.cedar", "oops")]));
    until("the second leads", || holder(&server) == "second").await;
    until("and says what is wrong", || server.ready("scopes", "shop", "orders").0 == "False").await;
    let lease = server.get("leases", "placet", lease::NAME);
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    // It ends well: the third need not wait.
    let third = Replica::start(&server, "third");
    until("the third is there", || third.snapshot("none").is_some() || !server.asked().is_empty())
        .await;
    second.stop().await;
    assert_eq!(holder(&server), "");
    until("the third leads", || holder(&server) == "third").await;
    third.stop().await;
}

#[tokio::test]
async fn only_the_named_namespaces_count() {
    let server = shop().await;
    for (resource, name) in OBJECTS {
        let spec = server.get(resource, "shop", name)["spec"].clone();
        server.put(resource, "other", name, &spec);
    }
    let reach = Reach { namespaces: BTreeSet::from(["shop".to_owned()]), ..Reach::default() };
    let replica = Replica::start_within(&server, "a", reach);
    until_ready(&server, "scopes", "orders").await;
    assert!(replica.snapshot("other").is_none(), "nothing is known of it");
    assert!(server.get("scopes", "other", "orders")["status"].is_null());
    let foreign = |asked: &Asked| asked.namespace != "shop" && asked.resource != "leases";
    assert!(!server.asked().iter().any(foreign));
    replica.stop().await;
    // Nor does it matter here what is older there.
    let reach = Reach { namespaces: BTreeSet::from(["other".to_owned()]), ..Reach::default() };
    let replica = Replica::start_within(&server, "b", reach);
    until("it has its client ID", || server.ready("scopes", "other", "orders").0 == "True").await;
    replica.stop().await;
}

/// The oldest has it, whatever becomes of it, and the next one when it is deleted.
#[tokio::test]
async fn a_client_id_is_one_namespace_s() {
    let server = shop().await;
    for (resource, name) in OBJECTS {
        let spec = server.get(resource, "shop", name)["spec"].clone();
        let twin = if resource == "scopes" { "twin" } else { name };
        server.put(resource, "bank", twin, &spec);
    }
    server.put("scopes", "bank", "bills", &scope("bills", "rules/other.cedar"));
    let replica = Replica::start(&server, "a");
    until_ready(&server, "scopes", "orders").await;
    let said = || server.ready("scopes", "bank", "twin");
    until("the younger one is wrong", || said().0 == "False").await;
    let message = "spec.clientId: `orders` is that of an older Scope in the namespace `shop`: \
        make this one with another, or have that one deleted";
    assert_eq!(said(), ("False".to_owned(), "Invalid".to_owned(), message.to_owned()));
    until("its neighbour goes on", || replica.file("bank", "placet.yaml").contains("bills")).await;
    assert!(!replica.file("bank", "placet.yaml").contains("orders"));
    let is_ready = |resource, name| server.ready(resource, "bank", name).0 == "True";
    until("and its bundle", || is_ready("policybundles", "rules")).await;
    // A bad one has it too.
    let mut bad = scope("orders", "rules/orders.cedar");
    bad["policy"]["engin"] = "cedar".into();
    server.put("scopes", "shop", "orders", &bad);
    until("the older one is wrong", || server.ready("scopes", "shop", "orders").0 == "False").await;
    server.put("scopes", "bank", "twin", &scope("orders", "rules/other.cedar"));
    until("the younger one still is", || said().0 == "False").await;
    server.delete("scopes", "shop", "orders");
    until("it is the next one's", || said().0 == "True").await;
    assert!(replica.file("bank", "placet.yaml").contains("orders"));
    until("nothing is left", || *replica.snapshot("shop").unwrap() == Snapshot::empty()).await;
    // Who comes back is younger.
    server.put("scopes", "shop", "orders", &scope("orders", "rules/orders.cedar"));
    until("it is another's", || server.ready("scopes", "shop", "orders").0 == "False").await;
    assert!(server.ready("scopes", "shop", "orders").2.contains("the namespace `bank`"));
    assert_eq!(said().0, "True");
    replica.stop().await;
}

/// As it may be where objects were restored from elsewhere, all in one second.
#[test]
fn one_that_was_in_force_stays_as_any_bad_object_does() {
    let good = Objects::from([
        object(Kind::SecretStore, "vault", &store()),
        object(Kind::PolicyBundle, "rules", &bundle(&[("a.cedar", PERMIT)])),
        object(Kind::Scope, "orders", &scope("orders", "rules/a.cedar")),
        object(Kind::Scope, "bills", &scope("bills", "rules/a.cedar")),
    ]);
    let mut now = good.clone();
    let forbid = json!({"metadata": {"name": "rules", "uid": "another"}, "spec": bundle(&[("a.cedar", "forbid(principal, action, resource);")])});
    let key = Key::new(Kind::PolicyBundle, "rules");
    now.insert(key, Object::new(Arc::new(serde_json::from_value(forbid).unwrap())));
    let taken = Taken::from([(Key::new(Kind::Scope, "orders"), "bank".to_owned())]);
    let verdict = verdict::judge(&now, &good, &taken).unwrap();
    let Outcome::Publish(snapshot, chosen) = verdict.outcome else { panic!("it is published") };
    assert_eq!(chosen.len(), 4);
    assert!(snapshot.files["rules/a.cedar"].starts_with(b"forbid"), "it holds nothing up");
    let said = &verdict.findings[&Key::new(Kind::Scope, "orders")];
    assert!(
        matches!(said, Finding::Bad(lines) if lines[0].contains("namespace `bank`")),
        "{said:?}"
    );
    let others = verdict.findings.values().filter(|it| matches!(it, Finding::Good(_)));
    assert_eq!(others.count(), 3);
}

fn object(kind: Kind, name: &str, spec: &Value) -> (Key, Object) {
    let object = json!({"metadata": {"name": name, "uid": name}, "spec": spec});
    (Key::new(kind, name), Object::new(Arc::new(serde_json::from_value(object).unwrap())))
}

/// What leads to the file `secret` of this machine, or is none of a bundle's.
fn prying(secret: &str) -> Vec<(&'static str, Value)> {
    let up = format!("{}{secret}", "../".repeat(20));
    let remote = json!({"engine": "authzen", "url": "https://a.example/b"});
    let with = |key: &str, file: &str| {
        let mut policy = remote.clone();
        policy[key] = file.into();
        json!({ "policy": policy })
    };
    let verification = json!({"keyFile": secret});
    let issuer = json!({"issuer": "https://a", "audiences": "any", "jwksFile": up});
    vec![
        ("up", json!({"policy": {"files": [up]}})),
        ("absolute", json!({"policy": {"files": [secret]}})),
        ("entities", json!({"policy": {"files": ["rules/a.cedar"], "entities": up}})),
        ("within", json!({"policy": {"files": ["rules/../../token"]}})),
        ("settings", json!({"policy": {"files": ["placet.yaml"]}})),
        (
            "key",
            json!({"policy": {"bundle": {"url": "https://a.example/b", "verification": verification}}}),
        ),
        ("descriptor", json!({"policy": {"files": ["rules/a.cedar"], "protoDescriptor": secret}})),
        ("remote", with("caFile", secret)),
        ("credential", with("tokenFile", "rules/a.cedar")),
        ("jwks", json!({"identity": {"jwt": [issuer]}})),
    ]
}

/// A namespace's author must not read this machine's files through us.
#[test]
fn only_files_of_bundles_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("token");
    std::fs::write(&secret, "s3cr3t").unwrap();
    let names = [("../../x", ""), ("a", ""), ("a/b", ""), ("/x", ""), ("a//b", "")];
    let mut objects = Objects::from([
        object(Kind::SecretStore, "vault", &store()),
        object(Kind::PolicyBundle, "rules", &bundle(&[("a.cedar", PERMIT)])),
        object(Kind::PolicyBundle, "bad", &bundle(&names)),
        object(Kind::PolicyBundle, "placet.yaml", &bundle(&[("x", "")])),
        object(Kind::Scope, "fine", &scope("fine", "rules/a.cedar")),
    ]);
    for (name, change) in prying(secret.to_str().unwrap()) {
        let mut spec = scope(name, "rules/a.cedar");
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        objects.extend([object(Kind::Scope, name, &spec)]);
    }
    let verdict = verdict::judge(&objects, &Objects::new(), &Taken::new()).unwrap();
    for (key, finding) in &verdict.findings {
        let is_fine = matches!(key.name.as_str(), "vault" | "rules" | "fine");
        match finding {
            Finding::Bad(lines) => {
                assert!(!is_fine, "{key}: {lines:?}");
                assert!(!lines.iter().any(|line| line.contains("s3cr3t")), "{lines:?}");
                assert!(!lines.iter().any(|line| line.contains("can't read")), "{lines:?}");
            }
            Finding::Good(_) => assert!(is_fine, "{key} passed"),
            Finding::Held(why) => panic!("{key}: {why}"),
        }
    }
    let Outcome::Publish(snapshot, _) = verdict.outcome else { panic!("the rest is published") };
    assert_eq!(snapshot.files.keys().collect::<Vec<_>>(), ["placet.yaml", "rules/a.cedar"]);
}

/// A sidecar reads the files as any settings.
#[test]
fn what_is_published_is_what_a_file_would_say() {
    let mut objects = Objects::new();
    let rego = "package envoy.authz\nimport rego.v1\ndefault allow := false\nallow if input.attributes.request.http.method == \"GET\"\n";
    for (kind, name, spec) in [
        (
            Kind::SecretStore,
            "keys",
            json!({"type": "env", "default": true, "details": {"prefix": "KEY_"}}),
        ),
        (
            Kind::PolicyBundle,
            "rego",
            json!({"files": {"a/policy.rego": rego}, "binaryFiles": {"a/data.json": "e30="}}),
        ),
        (Kind::Scope, "on", {
            let mut spec = scope("on", "rego/a");
            spec["policy"]["engine"] = "rego".into();
            // YAML 1.1 would read these otherwise.
            spec["jwtResponse"]["audience"] = json!(["on", "no", "1e3", "0x10", "~"]);
            spec["jwtCustomization"] = json!({"itemDelimiter": null});
            spec["dryRun"] = true.into();
            spec
        }),
    ] {
        objects.extend([object(kind, name, &spec)]);
    }
    let verdict = verdict::judge(&objects, &Objects::new(), &Taken::new()).unwrap();
    let dry = &verdict.findings[&Key::new(Kind::Scope, "on")];
    let Finding::Good(warnings) = dry else { panic!("{dry:?}") };
    assert!(warnings.iter().any(|line| line.starts_with("spec.dryRun: ")), "{warnings:?}");
    let Outcome::Publish(snapshot, _) = verdict.outcome else { panic!("{:?}", verdict.findings) };
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in &snapshot.files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let config = Config::load(&folder.path().join("placet.yaml")).unwrap();
    let scope = &config.effective["scopes"][0];
    assert_eq!(scope["jwtResponse"]["audience"], json!(["on", "no", "1e3", "0x10", "~"]));
    assert!(scope["jwtCustomization"]["itemDelimiter"].is_null());
    assert_eq!(snapshot.files["rego/a/data.json"].as_ref(), b"{}");
}

proptest::proptest! {
    /// Whatever a name is, the path stays below.
    #[test]
    fn a_name_leads_nowhere_else(name in "[a./\\\\ \u{0}-]{0,12}|\\PC{0,20}") {
        if files::is_name(&name) {
            let is_plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
            let path = Path::new(&name);
            proptest::prop_assert!(path.components().all(is_plain));
            proptest::prop_assert_eq!(path.components().count(), name.split('/').count());
        }
    }
}

type Grant = (Option<String>, String, String, String, Vec<String>);

/// The rules of deploy/kubernetes/controller.yaml: of which namespace (none: of all), group, resource, verb
/// and names.
fn granted() -> Vec<Grant> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/controller.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let mut granted = Vec::new();
    for document in yaml_serde::Deserializer::from_str(&text) {
        let document = Value::deserialize(document).unwrap();
        let kind = document["kind"].as_str().unwrap_or_default();
        if !matches!(kind, "Role" | "ClusterRole") {
            continue;
        }
        let namespace = document["metadata"]["namespace"].as_str().map(str::to_owned);
        assert_eq!(namespace.is_some(), kind == "Role");
        let texts = |value: &Value| -> Vec<String> {
            let texts = value.as_array().into_iter().flatten();
            texts.map(|it| it.as_str().unwrap().to_owned()).collect()
        };
        for rule in document["rules"].as_array().unwrap() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        let names = texts(&rule["resourceNames"]);
                        granted.push((
                            namespace.clone(),
                            group.clone(),
                            resource.clone(),
                            verb,
                            names,
                        ));
                    }
                }
            }
        }
    }
    granted
}

/// No more and no less than what is asked of the API server.
#[tokio::test]
async fn the_roles_grant_what_is_asked() {
    let server = shop().await;
    let first = Replica::start(&server, "first");
    for (resource, name) in OBJECTS {
        until_ready(&server, resource, name).await;
    }
    first.stop().await;
    let second = Replica::start(&server, "second");
    until("the second leads", || holder(&server) == "second").await;
    second.stop().await;
    let granted = granted();
    let mut used = BTreeSet::new();
    for asked in server.asked() {
        let at = granted.iter().position(|(namespace, group, resource, verb, names)| {
            namespace.as_ref().is_none_or(|it| *it == asked.namespace)
                && (group, resource, verb.as_str()) == (&asked.group, &asked.resource, asked.verb)
                && (names.is_empty() || names.contains(&asked.name))
        });
        used.insert(at.unwrap_or_else(|| panic!("not granted: {asked:?}")));
    }
    // These the streams and their certificates ask for: tests/e2e/test_controller.py.
    let is_of_streams = |(_, _, resource, ..): &&Grant| {
        matches!(resource.as_str(), "configmaps" | "secrets" | "tokenreviews")
    };
    let unused = (0..granted.len()).filter(|at| !used.contains(at)).map(|at| &granted[at]);
    let unused: Vec<_> = unused.filter(|grant| !is_of_streams(grant)).collect();
    assert!(unused.is_empty(), "granted and never asked: {unused:?}");
}
