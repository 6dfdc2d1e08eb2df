use std::collections::BTreeSet;

use axum::http::StatusCode;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use proptest::prelude::*;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::fixture::{ApiServer, CONFIGURATION, SECRET, configuration};
use super::ring::{AUTHORITY_LIFE, SERVING_LIFE, SETTLE};
use super::*;
use crate::fixture::NOW;

const HOST: &str = "placet-control.placet.svc";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn keeper(client: &Client) -> Keeper<Configuration> {
    named(client, "placet-control")
}

fn named(client: &Client, service: &str) -> Keeper<Configuration> {
    let secret = "placet-control-certificates".to_owned();
    let names = Names { secret, service: service.to_owned() };
    Keeper::new(client.clone(), "placet", names, Configuration::new(client.clone(), "placet"))
}

#[derive(Debug)]
struct At(Timestamp);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.seconds())))
    }
}

/// Calls the webhook over TLS as an API server does that trusts `bundle`, at `now`.
async fn call(
    keeper: &Keeper<impl Publication>,
    bundle: &str,
    now: Timestamp,
) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let (provider, roots) = (Arc::new(default_provider()), Arc::new(roots));
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let config = ClientConfig::builder_with_details(provider, Arc::new(At(now)))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_webpki_verifier(verifier.build().map_err(|error| error.to_string())?)
        .with_no_client_auth();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let acceptor = TlsAcceptor::from(keeper.current.as_ref().unwrap().load_full());
    let name = ServerName::try_from(HOST).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let (client, _) = tokio::join!(connector.connect(name, theirs), acceptor.accept(ours));
    client.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_first_look_makes_all_and_the_second_nothing() {
    let (server, client) = ApiServer::start().await;
    let (mut one, mut other) = (keeper(&client), keeper(&client));
    let (first, second) = tokio::join!(one.look(NOW), other.look(NOW));
    first.unwrap();
    second.unwrap();
    let bundle = server.published(NOW).unwrap();
    assert_eq!(bundle, server.field("ca.crt").unwrap());
    for replica in [&one, &other] {
        assert!(replica.is_published().load(Ordering::Relaxed));
        call(replica, &bundle, NOW).await.unwrap();
    }
    let writes = server.writes();
    one.look(NOW).await.unwrap();
    assert_eq!(server.writes(), writes);
    let kept = server.object(CONFIGURATION).unwrap();
    assert_eq!(kept["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(kept["webhooks"][1]["failurePolicy"], "Fail");
    assert!(!format!("{:?}", one.ring).contains("PRIVATE"));
}

#[tokio::test]
async fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
    let (server, client) = ApiServer::start().await;
    let mut one = keeper(&client);
    one.look(NOW).await.unwrap();
    let (first, authority) = (server.field("tls.crt"), server.field("ca.crt"));
    one.look(NOW.after(SERVING_LIFE / 3 * 2 - DAY / 12)).await.unwrap();
    assert_eq!(server.field("tls.crt"), first);
    one.look(NOW.after(SERVING_LIFE / 3 * 2)).await.unwrap();
    assert_ne!(server.field("tls.crt"), first);
    assert_eq!(server.field("ca.crt"), authority);
    let end = NOW.after(SERVING_LIFE + DAY);
    call(&one, &server.published(end).unwrap(), end).await.unwrap();
}

/// Each stage of an authority's life, and that a stage is waited for.
#[tokio::test]
async fn a_new_authority_is_published_first_signs_later_and_outlives_nothing() {
    let (server, client) = ApiServer::start().await;
    let mut one = keeper(&client);
    one.look(NOW).await.unwrap();
    let old = server.field("ca.crt").unwrap();
    let made = NOW.after(AUTHORITY_LIFE / 3 * 2);
    one.look(made).await.unwrap();
    let new = server.field("next-ca.crt").unwrap();
    assert_eq!(server.field("ca.crt").unwrap(), old);
    assert_eq!(server.published(made).unwrap(), format!("{old}{new}"));
    one.look(made.after(SETTLE - Duration::from_secs(1))).await.unwrap();
    assert_eq!(server.field("ca.crt").unwrap(), old);
    let signs = made.after(SETTLE);
    one.look(signs).await.unwrap();
    assert_eq!(server.field("ca.crt").unwrap(), new);
    assert_eq!(server.field("retired-ca.crt").unwrap(), old);
    assert_eq!(server.field("next-ca.key"), None, "and no key that is not needed");
    one.look(signs.after(SERVING_LIFE - Duration::from_secs(1))).await.unwrap();
    assert_eq!(server.published(signs).unwrap(), format!("{new}{old}"));
    let gone = signs.after(SERVING_LIFE);
    one.look(gone).await.unwrap();
    server.at(gone);
    assert_eq!(server.object(SECRET).unwrap()["data"].as_object().unwrap().len(), 4);
    call(&one, &new, gone).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_can_not_be_published_does_not_sign() {
    let (server, client) = ApiServer::start().await;
    let mut one = keeper(&client);
    one.look(NOW).await.unwrap();
    let old = server.field("ca.crt");
    let due = NOW.after(AUTHORITY_LIFE / 3 * 2);
    let mut now = due;
    for _ in 0..40 {
        let taken = server.delete(CONFIGURATION);
        let error = one.look(now).await.unwrap_err().to_string();
        server.put(CONFIGURATION, taken);
        assert!(error.contains("no MutatingWebhookConfiguration `placet`"), "{error}");
        assert_eq!(server.field("ca.crt"), old);
        call(&one, &server.published(now).unwrap(), now).await.unwrap();
        now = now.after(DAY);
    }
    one.look(now).await.unwrap();
    one.look(now.after(SETTLE)).await.unwrap();
    assert_ne!(server.field("ca.crt"), old);
}

#[tokio::test]
async fn conflicts_are_looked_at_again_and_faults_told() {
    let (server, client) = ApiServer::start().await;
    let mut one = keeper(&client);
    server.refuse(&[StatusCode::CONFLICT; 5]);
    one.look(NOW).await.unwrap();
    server.refuse(&[StatusCode::CONFLICT; 90]);
    let due = NOW.after(SERVING_LIFE / 3 * 2);
    assert!(matches!(one.look(due).await, Err(CertificateError::Contended)));
    server.refuse(&[StatusCode::FORBIDDEN]);
    let error = anyhow::Error::new(one.look(due).await.unwrap_err());
    assert!(
        format!("{error:#}").starts_with("can't update the Secret `placet-control-cert"),
        "{error:#}"
    );
    server.refuse(&[]);
    one.look(due).await.unwrap();
}

#[tokio::test]
async fn what_was_published_meanwhile_is_not_taken_back() {
    let (server, client) = ApiServer::start().await;
    let (mut one, mut other) = (keeper(&client), keeper(&client));
    one.look(NOW).await.unwrap();
    other.look(NOW).await.unwrap();
    let old = server.field("ca.crt").unwrap();
    server.put(CONFIGURATION, configuration());
    server.publish_meanwhile(format!("{old}\n{old}"));
    one.look(NOW).await.unwrap();
    assert_eq!(server.published(NOW).unwrap(), old, "looked again, and published what is so");
}

#[tokio::test]
async fn what_is_taken_away_is_put_back() {
    let (server, client) = ApiServer::start().await;
    let mut one = keeper(&client);
    one.look(NOW).await.unwrap();
    let (authority, bundle) = (server.field("ca.crt"), server.published(NOW).unwrap());
    server.put(CONFIGURATION, configuration());
    one.look(NOW).await.unwrap();
    assert_eq!(server.published(NOW).unwrap(), bundle);
    server.delete(SECRET);
    one.look(NOW).await.unwrap();
    assert_eq!(server.field("ca.crt"), authority);
    let mut empty = server.object(SECRET).unwrap();
    empty.as_object_mut().unwrap().remove("data");
    empty["metadata"]["labels"] = json!({"kept": "yes"});
    server.put(SECRET, empty);
    one.look(NOW).await.unwrap();
    assert_eq!(server.field("ca.crt"), authority);
    assert_eq!(server.object(SECRET).unwrap()["metadata"]["labels"]["kept"], "yes");
    call(&one, &bundle, NOW).await.unwrap();
}

#[tokio::test]
async fn what_is_no_certificate_is_said_and_what_was_served_is_served_on() {
    let (server, client) = ApiServer::start().await;
    let mut one = keeper(&client);
    one.look(NOW).await.unwrap();
    let good = server.object(SECRET).unwrap();
    let other = server.field("ca.key").unwrap();
    for (field, text, expected) in [
        ("ca.crt", "x", "`ca.crt` can't be used"),
        ("tls.key", other.as_str(), "`tls.key` can't be used: it is not the key"),
        ("next-ca.crt", "x", "`next-ca.key` is missing"),
    ] {
        let mut bad = good.clone();
        bad["data"][field] = json!(BASE64_STANDARD.encode(text));
        server.put(SECRET, bad);
        let error = anyhow::Error::new(one.look(NOW).await.unwrap_err());
        let said = format!("{error:#}");
        assert!(said.contains("delete it") && said.contains(expected), "{said}");
        assert!(!said.contains("PRIVATE"), "{said}");
        call(&one, &server.published(NOW).unwrap(), NOW).await.unwrap();
        let mut fresh = keeper(&client);
        assert!(fresh.look(NOW).await.is_err() && fresh.current.is_none());
    }
    let mut missing = good.clone();
    missing["data"].as_object_mut().unwrap().remove("tls.key");
    server.put(SECRET, missing);
    let error = anyhow::Error::new(one.look(NOW).await.unwrap_err());
    assert!(format!("{error:#}").ends_with("`tls.key` is missing"), "{error:#}");
    server.put(SECRET, good);
    one.look(NOW).await.unwrap();
}

#[tokio::test]
async fn after_years_without_anyone_all_is_made_anew() {
    let (server, client) = ApiServer::start().await;
    keeper(&client).look(NOW).await.unwrap();
    let old = server.field("ca.crt");
    let now = NOW.after(3 * AUTHORITY_LIFE);
    let mut one = keeper(&client);
    one.look(now).await.unwrap();
    assert_ne!(server.field("ca.crt"), old);
    call(&one, &server.published(now).unwrap(), now).await.unwrap();
}

#[tokio::test]
async fn another_service_gets_another_certificate_of_the_same_authority() {
    let (server, client) = ApiServer::start().await;
    keeper(&client).look(NOW).await.unwrap();
    let (authority, certificate) = (server.field("ca.crt"), server.field("tls.crt"));
    let mut one = named(&client, "renamed");
    one.look(NOW).await.unwrap();
    assert_eq!(server.field("ca.crt"), authority);
    assert_ne!(server.field("tls.crt"), certificate);
}

/// For sidecars: a keeper whose namespaces are told by the sender.
fn of_sidecars(client: &Client) -> (Keeper<ConfigMaps>, watch::Sender<Option<BTreeSet<String>>>) {
    let (sender, namespaces) = watch::channel(None);
    let settings = "version: 1\n".to_owned();
    let maps = ConfigMaps::new(client.clone(), "placet", settings, &BTreeSet::new(), namespaces);
    let names =
        Names { secret: "placet-control-certificates".into(), service: "placet-control".into() };
    (Keeper::new(client.clone(), "placet", names, maps), sender)
}

fn in_namespaces(names: &[&str]) -> Option<BTreeSet<String>> {
    Some(names.iter().map(|it| (*it).to_owned()).collect())
}

fn config_map(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/placet")
}

#[tokio::test]
async fn sidecars_are_told_whom_to_trust_where_there_are_objects() {
    let (server, client) = ApiServer::start().await;
    let (mut one, namespaces) = of_sidecars(&client);
    let foreign = json!({"metadata": {"name": "placet", "namespace": "theirs"}, "data": {"placet.yaml": "x"}});
    server.put(&config_map("theirs"), foreign);
    one.look(NOW).await.unwrap();
    assert!(server.object(&config_map("shop")).is_none(), "nothing is known yet");
    namespaces.send_replace(in_namespaces(&["bank", "shop", "theirs"]));
    one.look(NOW).await.unwrap();
    let authority = server.field("ca.crt").unwrap();
    for namespace in ["bank", "shop"] {
        let map = server.object(&config_map(namespace)).unwrap();
        assert_eq!(map["data"], json!({"placet.yaml": "version: 1\n", "ca.pem": authority}));
        assert_eq!(map["metadata"]["labels"]["app.kubernetes.io/managed-by"], "placet-control");
    }
    assert_eq!(server.object(&config_map("theirs")).unwrap()["data"], json!({"placet.yaml": "x"}));
    call(&one, &authority, NOW).await.unwrap();

    let writes = server.writes();
    one.look(NOW).await.unwrap();
    assert_eq!(server.writes(), writes, "there is nothing to be written");
    let mut changed = server.object(&config_map("shop")).unwrap();
    changed["data"]["ca.pem"] = json!("another");
    server.put(&config_map("shop"), changed);
    let mut immutable = server.object(&config_map("bank")).unwrap();
    immutable["immutable"] = json!(true);
    immutable["data"]["ca.pem"] = json!("another");
    server.put(&config_map("bank"), immutable);
    namespaces.send_replace(in_namespaces(&[]));
    one.look(NOW).await.unwrap();
    let kept = |namespace| server.object(&config_map(namespace)).unwrap()["data"]["ca.pem"].clone();
    assert_eq!(kept("shop"), authority.as_str(), "put back, though its objects have gone");
    assert_eq!(kept("bank"), "another", "nobody can change it");
}

#[tokio::test]
async fn a_new_authority_waits_until_every_namespace_was_told() {
    let (server, client) = ApiServer::start().await;
    let (mut one, namespaces) = of_sidecars(&client);
    namespaces.send_replace(in_namespaces(&["bank", "shop"]));
    one.look(NOW).await.unwrap();
    let old = server.field("ca.crt").unwrap();
    let due = NOW.after(AUTHORITY_LIFE / 3 * 2);
    // The Secret is written twice, and one of the two namespaces is not told.
    server.refuse(&[StatusCode::FORBIDDEN, StatusCode::OK, StatusCode::OK]);
    assert!(one.look(due).await.is_err());
    let told = |namespace| {
        let map = server.object(&config_map(namespace)).unwrap();
        map["data"]["ca.pem"].as_str().unwrap().to_owned()
    };
    assert_eq!([told("bank"), told("shop")].iter().filter(|it| **it == old).count(), 1);
    assert_eq!(server.field("next-ca.published"), None);

    one.look(due).await.unwrap();
    let next = server.field("next-ca.crt").unwrap();
    assert!(server.field("next-ca.published").is_some());
    assert_eq!([told("bank"), told("shop")], [format!("{old}{next}"), format!("{old}{next}")]);
    let before = told("shop");
    one.look(due.after(SETTLE)).await.unwrap();
    assert_eq!(server.field("ca.crt").unwrap(), next);
    call(&one, &before, due.after(SETTLE)).await.unwrap();
    assert!(call(&one, &old, due.after(SETTLE)).await.is_err(), "the new one signs");
}

/// What happens next: so much later, one replica or both look, and some writes go wrong.
#[derive(Clone, Debug)]
struct Event {
    minutes: u64,
    who: u8,
    refusals: Vec<u16>,
    /// How far an API server is behind, in seconds.
    behind: u64,
}

fn event() -> impl Strategy<Value = Event> {
    let minutes = prop_oneof![1..30_u64, 30..3000_u64, 1000..10_000_u64];
    let refusals = prop::collection::vec(prop::sample::select(vec![409_u16, 409, 500, 403]), 0..3);
    (minutes, 1..4_u8, refusals, 0..SETTLE.as_secs())
        .prop_map(|(minutes, who, refusals, behind)| Event { minutes, who, refusals, behind })
}

/// Both replicas through two rotations of the authority. They look when they will; a look that can't go
/// wrong is never longer than a week ago.
async fn live_through(events: Vec<Event>) -> Result<usize, TestCaseError> {
    let (server, client) = ApiServer::start().await;
    let mut replicas = [keeper(&client), keeper(&client)];
    let (mut now, mut looked) = (NOW, [NOW, NOW]);
    server.at(now);
    for replica in &mut replicas {
        replica.look(now).await.unwrap();
    }
    let mut authorities = std::collections::BTreeSet::new();
    for event in events.iter().cycle() {
        if now.since(NOW) > 2 * AUTHORITY_LIFE {
            break;
        }
        now = now.after(Duration::from_secs(event.minutes * 60));
        server.at(now);
        let [one, other] = &mut replicas;
        let is_due = looked.map(|looked| now.since(looked) > 6 * DAY);
        if is_due == [false, false] {
            let refusals = event.refusals.iter().map(|code| StatusCode::from_u16(*code).unwrap());
            server.refuse(&refusals.collect::<Vec<_>>());
        }
        match (event.who & 1 != 0 || is_due[0], event.who & 2 != 0 || is_due[1]) {
            (true, true) => drop(tokio::join!(one.look(now), other.look(now))),
            (true, false) => drop(one.look(now).await),
            _ => drop(other.look(now).await),
        }
        for (index, looked) in looked.iter_mut().enumerate() {
            let is_sure = is_due != [false, false] || event.refusals.is_empty();
            if is_due[index] || (is_sure && event.who & (1 << index) != 0) {
                *looked = now;
            }
        }
        server.refuse(&[]);
        authorities.insert(server.field("ca.crt").unwrap());
        let behind = Timestamp::from_seconds(now.seconds() - event.behind);
        for bundle in [server.published(now), server.published(behind)] {
            // One that is behind the very beginning knows nothing yet.
            let Some(bundle) = bundle.filter(|bundle| !bundle.is_empty()) else { continue };
            for (replica, name) in replicas.iter().zip(["one", "other"]) {
                let called = call(replica, &bundle, now).await;
                prop_assert!(called.is_ok(), "{name} after {:?}: {called:?}", now.since(NOW));
            }
        }
    }
    Ok(authorities.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_call_ever_fails_through_whole_rotations(events in prop::collection::vec(event(), 40..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let authorities = runtime.block_on(live_through(events))?;
        prop_assert!(authorities >= 3, "{authorities} authorities");
    }
}
