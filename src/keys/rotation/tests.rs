use super::*;
use crate::fixture::signing_key;

const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
const PUBLISH: Duration = Duration::from_secs(1200);
const LIFETIME: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(START.seconds() + seconds)
}

fn stages(rotation: &Rotation) -> (String, Vec<String>) {
    let ring = rotation.ring();
    let published = ring.published().map(|key| key.thumbprint().to_owned()).collect();
    (ring.active().thumbprint().to_owned(), published)
}

#[test]
fn a_new_key_is_published_first_then_signs_and_the_old_one_stays_as_long_as_its_tokens() {
    let (old, new) = (signing_key("orders"), signing_key("orders"));
    let (a, b) = (old.thumbprint().to_owned(), new.thumbprint().to_owned());
    let mut rotation = Rotation::begin(old, PUBLISH, LIFETIME);
    assert_eq!(stages(&rotation), (a.clone(), vec![a.clone()]));
    rotation.observe(new, at(0));
    assert_eq!(stages(&rotation), (a.clone(), vec![a.clone(), b.clone()]));
    rotation.advance(at(1199));
    assert_eq!(stages(&rotation).0, a);
    rotation.advance(at(1200));
    assert_eq!(stages(&rotation), (b.clone(), vec![b.clone(), a.clone()]));
    rotation.advance(at(1200 + 119));
    assert_eq!(stages(&rotation).1.len(), 2);
    rotation.advance(at(1200 + 120));
    assert_eq!(stages(&rotation), (b.clone(), vec![b]));
}

#[test]
fn the_same_key_again_is_no_new_version() {
    let generated = crate::keys::generate(crate::keys::Algorithm::ES256, "k", START).unwrap();
    let load = || {
        let material = crate::secrets::KeyMaterial {
            bytes: crate::secrets::Secret::new(
                generated.private_key_pem.expose().clone().into_bytes(),
            ),
            certificate: None,
            version: None,
            created: None,
        };
        let settings = KeySettings {
            client_id: "orders".to_owned(),
            algorithm: None,
            key_id: None,
            certificate: None,
            token_type: "JWT".to_owned(),
        };
        SigningKey::load(&material, &settings).unwrap()
    };
    let mut rotation = Rotation::begin(load(), PUBLISH, LIFETIME);
    rotation.observe(load(), at(5));
    rotation.observe(load(), at(5000));
    assert_eq!(stages(&rotation).1.len(), 1);
}

#[test]
fn a_next_key_that_goes_back_before_its_time_never_signs() {
    let (first, second) = (signing_key("orders"), signing_key("orders"));
    let (a, b) = (first.thumbprint().to_owned(), second.thumbprint().to_owned());
    let mut rotation = Rotation::begin(first, PUBLISH, LIFETIME);
    rotation.observe(second, at(0));
    let third = signing_key("orders");
    let c = third.thumbprint().to_owned();
    rotation.observe(third, at(600));
    rotation.advance(at(1201));
    assert_eq!(stages(&rotation), (a, vec![stages(&rotation).0, c.clone()]), "the clock restarts");
    rotation.advance(at(1800));
    assert_eq!(stages(&rotation).0, c);
    assert!(!stages(&rotation).1.contains(&b));
}

#[tokio::test(start_paused = true)]
async fn the_task_loads_the_key_when_it_appears_and_says_why_it_waits() {
    let folder = tempfile::tempdir().unwrap();
    let kind = crate::secrets::StoreKind::File { directory: folder.path().to_owned() };
    let settings = crate::secrets::StoreSettings { id: "f".to_owned(), default: true, kind };
    let stores = crate::secrets::SecretStores::open(vec![settings]).unwrap();
    let source = KeySource {
        store: Arc::clone(stores.choose(None).unwrap()),
        location: KeyLocation { path: None, name: "orders".to_owned() },
        settings: KeySettings {
            client_id: "orders".to_owned(),
            algorithm: None,
            key_id: None,
            certificate: None,
            token_type: "JWT".to_owned(),
        },
        publish_before: PUBLISH,
        token_lifetime: LIFETIME,
    };
    let (task, mut keys) = KeyTask::new(source, Clock::Fixed(START));
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(task.run(shutdown.clone()));
    while keys.problem().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(keys.ring().is_none());
    let generated = crate::keys::generate(crate::keys::Algorithm::ES256, "k", START).unwrap();
    std::fs::write(folder.path().join("orders.pem"), generated.private_key_pem.expose()).unwrap();
    keys.loaded().await;
    assert!(keys.ring().is_some() && keys.problem().is_none());
    shutdown.cancel();
    running.await.unwrap();
}
