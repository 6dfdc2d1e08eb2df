//! A thousand sidecars on one control plane: `tests/bench/sidecars`.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use placet::metrics::Metrics;
use placet::source::{Outcome, Parts};
use tokio_util::sync::CancellationToken;

use super::Site;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);

/// All sidecars.
struct Crowd {
    shutdown: CancellationToken,
    connected: Arc<AtomicUsize>,
    /// When each one got the last snapshot, and which.
    got: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Crowd {
    fn start(site: &Site, count: usize) -> Self {
        let (shutdown, metrics) = (CancellationToken::new(), Metrics::new());
        let connected = Arc::new(AtomicUsize::new(0));
        let got = Arc::new(Mutex::new(vec![(Instant::now(), String::new()); count]));
        for index in 0..count {
            let token = format!("shop/sidecar-{index}/placet-control");
            let Parts { follower, mut wanted, outcome, mut following } =
                site.sidecar(&token, None, &metrics);
            let until = shutdown.clone();
            tokio::spawn(async move { follower.run(Vec::new, until).await });
            let counted = Arc::clone(&connected);
            tokio::spawn(async move {
                let mut was_connected = false;
                while following.problem.changed().await.is_ok() {
                    let is_connected = following.problem.borrow_and_update().is_none();
                    match (was_connected, is_connected) {
                        (false, true) => counted.fetch_add(1, Ordering::SeqCst),
                        (true, false) => counted.fetch_sub(1, Ordering::SeqCst),
                        _ => 0,
                    };
                    was_connected = is_connected;
                }
            });
            let got = Arc::clone(&got);
            tokio::spawn(async move {
                while wanted.changed().await.is_ok() {
                    let Some(snapshot) = wanted.borrow_and_update().clone() else { continue };
                    got.lock().unwrap()[index] = (Instant::now(), snapshot.revision.clone());
                    let in_force = Some(snapshot.revision.clone());
                    outcome.send_replace(Outcome { in_force, refused: None });
                }
            });
        }
        Self { shutdown, connected, got }
    }

    async fn until_connected(&self, count: usize) {
        until("the connections", || self.connected.load(Ordering::SeqCst) == count).await;
    }

    /// When each one got a snapshot that is not `last`, in order; and which.
    async fn until_got(&self, last: &str) -> (Vec<Instant>, String) {
        let news = || {
            let got = self.got.lock().unwrap();
            let revision = &got[0].1;
            got.iter().all(|(_, it)| it != last && it == revision)
        };
        until("the snapshot", news).await;
        let got = self.got.lock().unwrap();
        let mut times: Vec<Instant> = got.iter().map(|(time, _)| *time).collect();
        times.sort_unstable();
        (times, got[0].1.clone())
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A control plane, which ends with the test, however that ends.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, if the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(site: &Site) -> Running {
    let path = site.folder.path().join("log");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    let process = Command::new(env!("CARGO_BIN_EXE_placet-control"))
        .args(["snapshots", "--config"])
        .arg(&site.settings_file)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn();
    Running(process.unwrap())
}

/// The resident memory of a process, and the most it ever was, in MiB.
fn memory(process: &Running) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let mib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    format!("{} MiB (most: {} MiB)", mib("VmRSS:"), mib("VmHWM:"))
}

fn publish(site: &Site, kib: usize, round: usize) {
    let place = site.folder.path().join("namespaces/shop");
    std::fs::create_dir_all(&place).unwrap();
    let mut policy = String::new();
    while policy.len() < kib * 1024 {
        let number = policy.len();
        writeln!(policy, "permit (principal, action, resource == Account::\"{round}-{number}\");")
            .unwrap();
    }
    std::fs::write(
        place.join("placet.yaml"),
        "scopes: [{clientId: orders, policy: {files: [orders.cedar]}}]",
    )
    .unwrap();
    std::fs::write(place.join(".new"), policy).unwrap();
    std::fs::rename(place.join(".new"), place.join("orders.cedar")).unwrap();
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes and a thousand connections: tests/bench/sidecars"]
async fn a_thousand_sidecars() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let (count, kib) = (number("SIDECARS", 1000), number("SNAPSHOT_KIB", 32));
    let site = Site::new(Duration::from_millis(number("REVIEW_MILLIS", 5) as u64)).await;
    let reviews = || site.reviews.count.swap(0, Ordering::Relaxed);
    publish(&site, kib, 0);
    let mut process = start(&site);
    let is_up = || std::net::TcpStream::connect(&site.address).is_ok();
    until("the control plane", is_up).await;
    eprintln!("{count} sidecars, a snapshot of {kib} KiB");
    eprintln!("alone: {}", memory(&process));

    let began = Instant::now();
    let crowd = Crowd::start(&site, count);
    crowd.until_connected(count).await;
    let (_, mut last) = crowd.until_got("").await;
    eprintln!(
        "all connected, with their first snapshot, after {:?}: {}; {} TokenReviews",
        began.elapsed(),
        memory(&process),
        reviews()
    );

    for round in 1..=5 {
        let written = Instant::now();
        publish(&site, kib, round);
        let (times, revision) = crowd.until_got(&last).await;
        last = revision;
        let after = |time: Instant| (time - times[0]).as_millis();
        let (median, late) = (times[count / 2], times[count * 99 / 100]);
        eprintln!(
            "a change: the first sidecar has it {:?} after it was written, the median {} ms after that, 99 of 100 {} ms, the last {} ms: {}",
            times[0] - written,
            after(median),
            after(late),
            after(times[count - 1]),
            memory(&process),
        );
    }

    for away in [1, 40] {
        process.kill();
        crowd.until_connected(0).await;
        tokio::time::sleep(Duration::from_secs(away)).await;
        reviews();
        process = start(&site);
        let began = Instant::now();
        crowd.until_connected(count * 99 / 100).await;
        let most = began.elapsed();
        crowd.until_connected(count).await;
        eprintln!(
            "killed for {away} s: 99 of 100 are back after {most:?}, all after {:?}; {} TokenReviews: {}",
            began.elapsed(),
            reviews(),
            memory(&process),
        );
    }
    crowd.shutdown.cancel();
    process.kill();
}
