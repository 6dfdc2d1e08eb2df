use std::path::Path;

use super::order::Order;
use super::*;
use crate::keys::{Algorithm, generate};
use crate::secrets::{SecretStores, StoreKind, StoreSettings};

const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
const PUBLISH: u64 = 1200;
/// Token life, skew and refresh interval.
const KEPT: u64 = 60 + 60 + 30;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(START.seconds() + seconds)
}

fn source(folder: &Path) -> KeySource {
    let kind = StoreKind::File { directory: folder.to_owned() };
    let settings = StoreSettings { id: "files".to_owned(), default: true, kind };
    let stores = SecretStores::open(vec![settings]).unwrap();
    KeySource {
        store: Arc::clone(stores.choose(None).unwrap()),
        location: KeyLocation { path: None, name: "orders".to_owned(), is_named: true },
        backend: Backend::Memory,
        settings: KeySettings {
            client_id: "orders".to_owned(),
            algorithm: None,
            key_id: None,
            certificate: None,
            token_type: "JWT".to_owned(),
        },
        publish_before: Duration::from_secs(PUBLISH),
        token_lifetime: Duration::from_secs(60),
        max_key_age: Duration::from_secs(7200),
    }
}

/// Puts a new key into the folder; its PEM is returned.
fn put(folder: &Path) -> String {
    let pem = generate(Algorithm::ES256, "k", START).unwrap().private_key_pem.expose().clone();
    put_again(folder, &pem);
    pem
}

fn put_again(folder: &Path, pem: &str) {
    std::fs::write(folder.join("orders.pem"), pem).unwrap();
}

/// Looks at `now`, and returns the thumbprints of active, next and retired keys.
async fn look(memory: &mut Memory, source: &KeySource, now: Timestamp) -> [Vec<String>; 3] {
    memory.look(source, now).await.unwrap();
    stages(&memory.ring(source, now).unwrap())
}

fn stages(ring: &KeyRing) -> [Vec<String>; 3] {
    let prints = |keys: &[Arc<SigningKey>]| {
        keys.iter().map(|key| key.thumbprint().to_owned()).collect::<Vec<_>>()
    };
    [prints(std::slice::from_ref(ring.active())), prints(ring.next()), prints(ring.retired())]
}

#[tokio::test]
async fn a_file_that_changes_is_published_first_and_then_signs() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let mut memory = Memory::default();
    put(folder.path());
    let [a, next, _] = look(&mut memory, &source, at(0)).await;
    assert!(next.is_empty());
    let pem = put(folder.path());
    let [active, b, _] = look(&mut memory, &source, at(100)).await;
    assert_eq!((&active, b.len()), (&a, 1));
    put_again(folder.path(), &pem);
    assert_eq!(
        look(&mut memory, &source, at(100 + PUBLISH - 1)).await,
        [a.clone(), b.clone(), vec![]]
    );
    assert_eq!(look(&mut memory, &source, at(100 + PUBLISH)).await, [b.clone(), vec![], a.clone()]);
    let last = 100 + PUBLISH + KEPT;
    assert_eq!(look(&mut memory, &source, at(last - 1)).await, [b.clone(), vec![], a]);
    assert_eq!(look(&mut memory, &source, at(last)).await, [b, vec![], vec![]]);
}

#[tokio::test]
async fn a_key_that_is_taken_back_before_its_time_never_signs() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let mut memory = Memory::default();
    let first = put(folder.path());
    let [a, ..] = look(&mut memory, &source, at(0)).await;
    put(folder.path());
    look(&mut memory, &source, at(100)).await;
    put_again(folder.path(), &first);
    assert_eq!(look(&mut memory, &source, at(200)).await, [a.clone(), vec![], vec![]]);
    assert_eq!(look(&mut memory, &source, at(5000)).await, [a, vec![], vec![]]);
}

#[tokio::test]
async fn while_the_store_is_away_the_keys_go_on_for_max_key_age() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let mut memory = Memory::default();
    put(folder.path());
    let known = look(&mut memory, &source, at(0)).await;
    std::fs::write(folder.path().join("orders.pem"), "no key").unwrap();
    assert!(memory.look(&source, at(100)).await.is_err());
    for (now, signs) in [(100, true), (7200, true), (7201, false)] {
        let ring = memory.ring(&source, at(now)).unwrap();
        assert_eq!(ring.signer().is_some(), signs, "at {now}");
        assert_eq!(stages(&ring), known, "published all the same");
    }
    put(folder.path());
    look(&mut memory, &source, at(7300)).await;
    assert!(memory.ring(&source, at(7300)).unwrap().signer().is_some());
}

#[tokio::test]
async fn a_certificate_may_belong_to_one_version_but_must_belong_to_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = source(folder.path());
    let matching = generate(Algorithm::ES256, "k", START).unwrap();
    source.settings.certificate =
        Some(crate::keys::Certificate::parse(&matching.certificate_pem).unwrap());
    put(folder.path());
    let mut memory = Memory::default();
    let error = memory.look(&source, at(0)).await.unwrap_err();
    assert!(
        matches!(error, LoadError::Key { source: KeyError::CertificateMismatch { .. }, .. }),
        "{error}"
    );
    assert!(memory.ring(&source, at(0)).is_none());
    put_again(folder.path(), matching.private_key_pem.expose());
    look(&mut memory, &source, at(1)).await;
    put(folder.path());
    look(&mut memory, &source, at(2)).await;
    let ring = memory.ring(&source, at(2)).unwrap();
    let with: Vec<bool> = ring.published().map(|key| key.has_certificate()).collect();
    assert_eq!(with, [true, false]);
}

#[tokio::test]
async fn an_activated_key_signs_at_once_and_the_one_before_stays_published() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = source(folder.path());
    source.settings.key_id = Some(crate::keys::KeyIdTemplate::parse("{{thumbprint}}").unwrap());
    let mut memory = Memory::default();
    put(folder.path());
    let [a, ..] = look(&mut memory, &source, at(0)).await;
    put(folder.path());
    let [_, b, _] = look(&mut memory, &source, at(10)).await;
    memory.obey(Order::Activate, &b[0], at(20)).unwrap();
    let ring = |memory: &mut Memory, now| stages(&memory.ring(&source, at(now)).unwrap());
    let expected = [b.clone(), vec![], a.clone()];
    assert_eq!(ring(&mut memory, 20), expected);
    // Another replica may sign with it until the new key's time has come.
    assert_eq!(ring(&mut memory, 10 + PUBLISH + KEPT - 1), expected);
    assert_eq!(ring(&mut memory, 10 + PUBLISH + KEPT), [b.clone(), vec![], vec![]]);
    let again = memory.obey(Order::Activate, &b[0], at(2000)).unwrap_err();
    assert!(matches!(again, OrderError::NotNext { .. }), "{again}");
}

#[tokio::test]
async fn a_withdrawn_key_never_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let mut memory = Memory::default();
    let first = put(folder.path());
    let [a, ..] = look(&mut memory, &source, at(0)).await;
    put(folder.path());
    let [_, b, _] = look(&mut memory, &source, at(10)).await;
    let ambiguous = memory.obey(Order::Withdraw, "orders", at(20)).unwrap_err();
    assert!(ambiguous.to_string().contains(&b[0]), "{ambiguous}");
    memory.obey(Order::Withdraw, &a[0], at(20)).unwrap();
    assert_eq!(stages(&memory.ring(&source, at(20)).unwrap()), [b.clone(), vec![], vec![]]);
    put_again(folder.path(), &first);
    assert_eq!(look(&mut memory, &source, at(30)).await, [b.clone(), vec![], vec![]]);
    memory.obey(Order::Withdraw, "orders", at(40)).unwrap();
    assert!(memory.ring(&source, at(40)).is_none());
    assert!(memory.look(&source, at(50)).await.is_err(), "there is no other");
    assert!(memory.ring(&source, at(50)).is_none());
    let unknown = memory.obey(Order::Withdraw, "orders", at(60)).unwrap_err();
    assert!(matches!(unknown, OrderError::Unknown { .. }), "{unknown}");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_key_stays_gone_when_the_settings_change() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path());
    let (task, mut keys) = KeyTask::new(source(folder.path()), Clock::Fixed(START), None);
    let running = tokio::spawn(task.run(CancellationToken::new()));
    keys.loaded().await;
    keys.withdraw("orders").await.unwrap();
    assert!(keys.ring().is_none() && keys.had_keys());
    running.abort();
    let mut changed = source(folder.path());
    changed.settings.key_id = Some(crate::keys::KeyIdTemplate::parse("other").unwrap());
    let (task, mut later) = KeyTask::new(changed, Clock::Fixed(START), Some(&keys));
    let running = tokio::spawn(task.run(CancellationToken::new()));
    while later.problem().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(later.ring().is_none());
    put(folder.path());
    later.loaded().await;
    assert_eq!(later.ring().unwrap().active().kid(), "other");
    running.abort();
}

#[tokio::test]
async fn in_place_of_a_withdrawn_key_signs_one_that_verifiers_know() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let mut memory = Memory::default();
    put(folder.path());
    let [a, ..] = look(&mut memory, &source, at(0)).await;
    put(folder.path());
    look(&mut memory, &source, at(10)).await;
    let [b, ..] = look(&mut memory, &source, at(10 + PUBLISH)).await;
    put(folder.path());
    let [_, c, _] = look(&mut memory, &source, at(10 + PUBLISH)).await;
    memory.obey(Order::Withdraw, &b[0], at(20 + PUBLISH)).unwrap();
    let ring = memory.ring(&source, at(20 + PUBLISH)).unwrap();
    assert_eq!(stages(&ring), [a, c, vec![]], "not the one that is only just published");
}

#[tokio::test(start_paused = true)]
async fn the_task_loads_the_key_when_it_appears_and_says_why_it_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (task, mut keys) = KeyTask::new(source(folder.path()), Clock::Fixed(START), None);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(task.run(shutdown.clone()));
    while keys.problem().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(keys.ring().is_none());
    put(folder.path());
    keys.loaded().await;
    assert!(keys.ring().is_some() && keys.problem().is_none());
    shutdown.cancel();
    running.await.unwrap();
}
