use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsConnector, client};

use super::*;
use crate::app::listener::coalesced::HIGH_WATER;
use crate::fixture::NOW;
use crate::tls::fixture::{Authority, client, days_from_now, settings, write};

const ENVOY: &str = "spiffe://example.org/envoy";

struct World {
    folder: tempfile::TempDir,
    authority: Authority,
    metrics: Metrics,
    address: SocketAddr,
}

/// A listener that asks for a certificate, and its watch.
async fn world() -> (World, TlsListener, TlsWatch) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let server = authority.identity(&[]);
    let settings = settings(folder.path(), &server, Some(&authority), Some(&[ENVOY]));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let metrics = Metrics::new();
    let made = TlsListener::new(tcp, &settings, "grpc", &metrics, Clock::Fixed(NOW));
    let (listener, watch) = made.unwrap();
    (World { folder, authority, metrics, address }, listener, watch)
}

impl World {
    async fn connect(&self) -> client::TlsStream<TcpStream> {
        let known = self.authority.identity(&[ENVOY]);
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("placet.example").unwrap();
        TlsConnector::from(client(Some(&known))).connect(name, stream).await.unwrap()
    }

    /// Both ends of a new connection.
    async fn connected(
        &self,
        listener: &mut TlsListener,
    ) -> (Connection, client::TlsStream<TcpStream>) {
        tokio::join!(listener.connection(), self.connect())
    }

    fn refused(&self, reason: &str) -> u64 {
        let line = format!("refused_total{{listener=\"grpc\",reason=\"{reason}\"}} ");
        self.sample(&line).parse().unwrap_or(0)
    }

    fn sample(&self, line: &str) -> String {
        let text = self.metrics.exposition();
        text.lines().find_map(|it| it.split_once(line)).unwrap_or_default().1.to_owned()
    }
}

#[tokio::test]
async fn peers_that_never_finish_keep_nobody_out() {
    let (world, mut listener, _) = world().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_HANDSHAKES + 10 {
        silent.push(TcpStream::connect(world.address).await.unwrap());
        // Lets the listener take it from the system's own queue.
        tokio::select! {
            biased;
            _ = listener.connection() => panic!("nobody finished"),
            () = tokio::task::yield_now() => {}
        }
    }
    let (ours, _theirs) = world.connected(&mut listener).await;
    assert_eq!(ours.peer.uri().unwrap().as_str(), ENVOY);
    let mut byte = [0];
    let oldest = silent.first_mut().unwrap().read(&mut byte).await;
    assert!(matches!(oldest, Ok(0) | Err(_)), "{oldest:?}");
    assert!(listener.handshakes.len() <= MAX_HANDSHAKES);
    assert!(world.refused("overload") >= 1);
    // Whoever comes next finds nobody waiting for the silent ones either.
    world.connected(&mut listener).await;
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_a_deadline() {
    let (world, mut listener, _) = world().await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    silent.write_all(&[22, 3, 1]).await.unwrap();
    let before = Instant::now();
    let end = async {
        let mut byte = [0];
        let _ = silent.read(&mut byte).await;
    };
    tokio::select! {
        _ = listener.connection() => panic!("nobody finished"),
        () = end => {}
    }
    assert!(before.elapsed() >= HANDSHAKE);
    tokio::select! {
        _ = listener.connection() => panic!("nobody finished"),
        () = tokio::time::sleep(PAUSE) => {}
    }
    assert_eq!(world.refused("deadline"), 1);
}

#[tokio::test]
async fn why_a_handshake_failed_is_counted() {
    let (world, mut listener, _) = world().await;
    let plain = async {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
        drop(TcpStream::connect(world.address).await.unwrap());
        let stranger = world.authority.identity(&["spiffe://example.org/stranger"]);
        let stream = TcpStream::connect(world.address).await.unwrap();
        let name = ServerName::try_from("placet.example").unwrap();
        let shaken = TlsConnector::from(client(Some(&stranger))).connect(name, stream).await;
        if let Ok(mut stream) = shaken {
            stream.read_u8().await.unwrap_err();
        }
        world.connect().await
    };
    // The last one gets through; the others were ended before it, but for the closed one perhaps.
    let (_, _theirs) = tokio::join!(listener.connection(), plain);
    while world.refused("closed") < 1 {
        tokio::select! {
            biased;
            _ = listener.connection() => panic!("nobody else connects"),
            () = tokio::task::yield_now() => {}
        }
    }
    for reason in ["certificate", "protocol", "closed"] {
        assert_eq!(world.refused(reason), 1, "{reason}");
    }
}

#[tokio::test]
async fn a_slow_reader_makes_the_writer_wait() {
    let (world, mut listener, _) = world().await;
    let (mut ours, mut theirs) = world.connected(&mut listener).await;
    // More than what the system, TLS and the connection itself hold.
    let all = vec![7; 64 * HIGH_WATER];
    let length = all.len();
    let writing = tokio::spawn(async move {
        ours.write_all(&all).await.unwrap();
        ours.shutdown().await.unwrap();
    });
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!writing.is_finished(), "nobody reads yet");
    let mut read = Vec::new();
    theirs.read_to_end(&mut read).await.unwrap();
    assert_eq!((read.len(), read.iter().all(|byte| *byte == 7)), (length, true));
    writing.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_is_gone_without_a_word_is_noticed() {
    let (world, mut listener, _) = world().await;
    let (mut ours, theirs) = world.connected(&mut listener).await;
    // Without TLS's own farewell.
    drop(theirs.into_inner().0);
    let error = ours.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn records_are_sent_together() {
    let (world, mut listener, _) = world().await;
    let (mut ours, mut theirs) = world.connected(&mut listener).await;
    for part in [b"one ".as_slice(), b"two ", b"three"] {
        ours.write_all(part).await.unwrap();
        ours.flush().await.unwrap();
    }
    let mut read = [0; 13];
    theirs.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"one two three");
}

/// What the listener shows now.
async fn shown(world: &World, listener: &mut TlsListener) -> Vec<u8> {
    let (_, theirs) = world.connected(listener).await;
    theirs.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn new_files_are_taken_over_once_two_looks_agree() {
    let (world, mut listener, mut watch) = world().await;
    let settings = watch.settings.clone();
    let mut look = || watch.look(&Files::read(&settings));
    let first = shown(&world, &mut listener).await;
    let (mut ours, mut theirs) = world.connected(&mut listener).await;
    let next = world.authority.identity(&[]);
    write(world.folder.path(), &next);
    look();
    assert_eq!(shown(&world, &mut listener).await, first);
    look();
    assert_eq!(shown(&world, &mut listener).await, next.der().to_vec());
    // What was connected before stays so.
    ours.write_all(b"!").await.unwrap();
    assert_eq!(theirs.read_u8().await.unwrap(), b'!');
}

#[tokio::test]
async fn files_that_are_no_good_change_nothing_and_are_told_once() {
    let (world, mut listener, mut watch) = world().await;
    let settings = watch.settings.clone();
    let mut look = || watch.look(&Files::read(&settings));
    let failures = || world.sample("reload_failures_total{listener=\"grpc\"} ");
    let first = shown(&world, &mut listener).await;
    let other = world.authority.identity(&[]);
    // In the middle of being written: a look between tells nothing.
    std::fs::write(world.folder.path().join("tls.crt"), &other.certificate).unwrap();
    look();
    std::fs::write(world.folder.path().join("tls.key"), &other.key).unwrap();
    look();
    look();
    assert_eq!(failures(), "");
    assert_eq!(shown(&world, &mut listener).await, other.der().to_vec());
    for _ in 0..3 {
        std::fs::write(world.folder.path().join("tls.key"), "broken").unwrap();
        look();
    }
    assert_eq!(failures(), "1");
    assert_eq!(shown(&world, &mut listener).await, other.der().to_vec());
    assert_ne!(first, other.der().to_vec());
    write(world.folder.path(), &world.authority.identity(&[]));
    look();
    look();
    assert_ne!(shown(&world, &mut listener).await, other.der().to_vec());
    assert_eq!(failures(), "1");
}

#[tokio::test]
async fn how_long_the_certificate_holds_is_noted() {
    let (world, _listener, mut watch) = world().await;
    let near = world.authority.identity_until(&[], days_from_now(3));
    write(world.folder.path(), &near);
    let files = Files::read(&watch.settings);
    watch.look(&files);
    watch.look(&files);
    let mut left = |days: u64| {
        watch.remind(NOW.after(Duration::from_secs(days * 24 * 3600)));
        let sample = world.sample("expiry_seconds{listener=\"grpc\"} ");
        (sample.parse::<i64>().unwrap() / 3600, watch.reminded.map(|(_, is_over)| is_over))
    };
    assert_eq!(left(0), (72, Some(false)));
    assert_eq!(left(2), (24, Some(false)));
    assert_eq!(left(4), (-24, Some(true)));
}

#[test]
fn of_many_lines_some_are_written_and_the_rest_counted() {
    let (mut log, start) = (Sparing::default(), Instant::now());
    let written: Vec<_> = (0..LOGGED + 5).filter_map(|_| log.next(start)).collect();
    assert_eq!(written, vec![0; LOGGED as usize]);
    assert_eq!(log.next(start + LOG_WINDOW), Some(5));
    assert_eq!(log.next(start + LOG_WINDOW), Some(0));
}
