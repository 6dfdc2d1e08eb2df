use std::path::Path;

use proptest::prelude::*;
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::fixture::{Authority, Identity, client, days_from_now, settings, write};
use super::*;
use crate::fixture::NOW;

const ENVOY: &str = "spiffe://example.org/envoy";
const OTHER: &str = "spiffe://example.org/other";

fn served(folder: &Path, clients: Option<&Authority>, allowed: Option<&[&str]>) -> Served {
    let server = Authority::new("server").identity(&[]);
    Served::read(&settings(folder, &server, clients, allowed)).unwrap()
}

/// What the server says of a client: who it is, or why it is refused.
async fn connect(
    served: &Served,
    config: &Arc<rustls::ClientConfig>,
) -> Result<(TlsPeer, HandshakeKind), String> {
    let (ours, theirs) = duplex(1 << 16);
    let connector = TlsConnector::from(Arc::clone(config));
    let client = tokio::spawn(async move {
        let name = ServerName::try_from("placet.example").unwrap();
        let mut stream = connector.connect(name, theirs).await?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        Ok::<_, io::Error>(all)
    });
    let shaken = TlsAcceptor::from(Arc::clone(&served.config)).accept(ours).await;
    let mut stream = match shaken {
        Ok(stream) => stream,
        Err(error) => {
            client.await.unwrap().unwrap_err();
            return Err(why(&error));
        }
    };
    stream.write_all(b"welcome").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(client.await.unwrap().unwrap(), b"welcome");
    let connection = stream.get_ref().1;
    let peer = TlsPeer::of_verified(connection.peer_certificates());
    Ok((peer, connection.handshake_kind().unwrap()))
}

#[tokio::test]
async fn only_clients_with_an_allowed_name_get_through() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, wrong) = (Authority::new("clients"), Authority::new("clients"));
    let served = served(folder.path(), Some(&authority), Some(&[ENVOY, OTHER]));
    let yesterday = time::OffsetDateTime::now_utc() - time::Duration::days(1);
    let known = authority.identity(&[ENVOY]);
    let (peer, _) = connect(&served, &client(Some(&known))).await.unwrap();
    assert_eq!(peer.uri().unwrap().as_str(), ENVOY);
    let cases: [(Option<Identity>, &str); 9] = [
        (None, "peer sent no certificates"),
        (Some(wrong.identity(&[ENVOY])), "invalid peer certificate"),
        (Some(authority.identity_until(&[ENVOY], yesterday)), "expired"),
        (Some(authority.identity(&[])), "0 URI names"),
        (Some(authority.identity(&[ENVOY, OTHER])), "2 URI names"),
        (
            Some(authority.identity(&["spiffe://example.org/envoy/x"])),
            "is not among allowedUriSans",
        ),
        (Some(authority.identity(&["spiffe://example.com/envoy"])), "is not among allowedUriSans"),
        (Some(authority.identity(&["SPIFFE://example.org/envoy"])), "is no SPIFFE ID"),
        (Some(authority.identity(&["spiffe://example.org/envoy\n"])), "\\n` is no SPIFFE ID"),
    ];
    for (identity, expected) in cases {
        let error = connect(&served, &client(identity.as_ref())).await.unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn without_names_the_authority_decides() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("clients");
    let served = served(folder.path(), Some(&authority), None);
    for (uris, name) in [(&[ENVOY][..], Some(ENVOY)), (&[], None), (&[ENVOY, OTHER], None)] {
        let identity = authority.identity(uris);
        let (peer, _) = connect(&served, &client(Some(&identity))).await.unwrap();
        assert_eq!(peer.uri().map(UriSan::as_str), name);
    }
    connect(&served, &client(None)).await.unwrap_err();
}

#[tokio::test]
async fn a_certificate_is_verified_at_every_handshake() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("clients");
    let open = served(folder.path(), None, None);
    let named = served(folder.path(), Some(&authority), Some(&[ENVOY]));
    let known = authority.identity(&[ENVOY]);
    for (served, again) in [(open, HandshakeKind::Resumed), (named, HandshakeKind::Full)] {
        let config = client(Some(&known));
        let first = connect(&served, &config).await.unwrap().1;
        assert_ne!(first, HandshakeKind::Resumed);
        let second = connect(&served, &config).await.unwrap().1;
        assert_eq!(second == HandshakeKind::Resumed, again == HandshakeKind::Resumed);
    }
}

#[test]
fn all_that_is_wrong_with_files_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("clients");
    let server = authority.identity(&[]);
    let settings = settings(folder.path(), &server, Some(&authority), None);
    let said = || match Served::read(&settings) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(|it| (it.setting().unwrap(), it.to_string())).collect(),
    };
    let spoil = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let says = |expected: &[(&str, &str)]| {
        let said = said();
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for ((setting, message), (of, part)) in said.iter().zip(expected) {
            assert!(setting == of && message.contains(part), "{setting}: {message}");
        }
    };
    says(&[]);
    spoil("tls.key", &authority.identity(&[]).key);
    says(&[("keyFile", "is not that of the certificate in")]);
    spoil("tls.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    spoil("tls.crt", &server.key);
    spoil("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    says(&[
        ("certificateFile", "holds no certificate in PEM"),
        ("keyFile", "holds a key that can't be used"),
        ("clientCaFile", "it is no X.509 certificate"),
    ]);
    spoil("tls.key", &server.certificate);
    for name in ["tls.crt", "ca.pem"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    says(&[
        ("certificateFile", "can't read"),
        ("keyFile", "holds no private key in PEM"),
        ("clientCaFile", "can't read"),
    ]);
}

#[test]
fn any_change_to_any_file_is_another_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("clients");
    let settings = settings(folder.path(), &authority.identity(&[]), Some(&authority), None);
    let mut seen = vec![Files::read(&settings).fingerprint()];
    assert_eq!(Files::read(&settings).fingerprint(), seen[0]);
    for name in ["tls.crt", "tls.key", "ca.pem"] {
        let file = folder.path().join(name);
        let mut text = std::fs::read(&file).unwrap();
        text.push(b'\n');
        std::fs::write(&file, text).unwrap();
        seen.push(Files::read(&settings).fingerprint());
        std::fs::write(&file, "").unwrap();
        seen.push(Files::read(&settings).fingerprint());
        std::fs::remove_file(&file).unwrap();
        seen.push(Files::read(&settings).fingerprint());
    }
    let without = TlsSettings { client_ca_file: None, ..settings };
    seen.push(Files::read(&without).fingerprint());
    let different: BTreeSet<_> = seen.iter().collect();
    assert_eq!(different.len(), seen.len());
}

#[test]
fn an_end_that_is_near_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("server");
    let long = authority.identity_until(&[], days_from_now(20));
    let settings = settings(folder.path(), &long, None, None);
    let warning = |end| {
        write(folder.path(), &authority.identity_until(&[], days_from_now(end)));
        let served = Served::read(&settings).unwrap();
        (served.seconds_left(NOW) / 3600, served.warning(NOW).unwrap_or_default())
    };
    assert_eq!(warning(8), (8 * 24, String::new()));
    assert_eq!(warning(6), (6 * 24, "the certificate expires in 6days: renew it".to_owned()));
    assert_eq!(warning(0).1, "the certificate has expired: clients refuse it");
    assert_eq!(warning(-1).0, -24);
    assert_eq!(warning(61).1, "the certificate is not valid yet: clients refuse it");
    // Of a chain the certificate that ends first counts.
    let mut chain = authority.identity_until(&[], days_from_now(20));
    let soon = authority.identity_until(&[], days_from_now(2)).certificate;
    chain.certificate.push_str(&soon);
    write(folder.path(), &chain);
    assert_eq!(Served::read(&settings).unwrap().seconds_left(NOW), 2 * 24 * 3600);
}

fn id_text() -> impl Strategy<Value = String> {
    let segment = "[a-zA-Z0-9._-]{1,8}";
    (r"[a-z0-9._-]{1,12}", prop::collection::vec(segment, 1..4))
        .prop_map(|(domain, path)| format!("spiffe://{domain}/{}", path.join("/")))
        .prop_filter("segments of dots are no path", |text| {
            !text.split('/').any(|segment| segment == "." || segment == "..")
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_what_was_written(text in id_text()) {
        let read = UriSan::parse(&text).unwrap();
        prop_assert_eq!(read.as_str(), text);
    }

    /// Whatever else is there is no ID, and no pattern of one.
    #[test]
    fn a_text_with_anything_else_in_it_is_no_id(
        text in id_text(), at in any::<prop::sample::Index>(), odd in r"[*?#%@:\[\] \n\x00é\\,]",
    ) {
        let mut spoiled = text.clone();
        spoiled.insert_str(at.index(text.len() + 1), &odd);
        prop_assert!(UriSan::parse(&spoiled).is_err(), "{}", spoiled);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// A certificate counts if it has one URI, and that is byte by byte one of those allowed.
    #[test]
    fn a_name_counts_byte_by_byte_and_alone(
        allowed in prop::collection::btree_set(id_text(), 1..4),
        own in prop::collection::vec(id_text(), 0..3),
        is_known in any::<bool>(),
        change in any::<prop::sample::Index>(),
    ) {
        let mut own = own;
        if is_known {
            own = vec![allowed.iter().nth(change.index(allowed.len())).unwrap().clone()];
        }
        let uris: Vec<&str> = own.iter().map(String::as_str).collect();
        let certificate = Authority::new("clients").identity(&uris).der();
        let expected = matches!(own.as_slice(), [only] if allowed.contains(only));
        let verifier = NamedClients {
            chain: rustls::server::WebPkiClientVerifier::no_client_auth(),
            allowed: allowed.iter().map(|text| UriSan::parse(text).unwrap()).collect(),
        };
        prop_assert_eq!(verifier.judge(&certificate).is_ok(), expected);
        let peer = TlsPeer::of_verified(Some(&[certificate]));
        let only = uris.first().copied().filter(|_| own.len() == 1);
        prop_assert_eq!(peer.uri().map(UriSan::as_str), only);
    }
}
