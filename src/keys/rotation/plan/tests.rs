use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing {
    publish_before: Duration::from_secs(1200),
    token_lifetime: Duration::from_secs(60),
    refresh_interval: Duration::from_secs(30),
};
/// Token life, skew and refresh interval.
const KEPT: u64 = 150;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(1_800_000_000 + seconds)
}

fn versions(created: &[u64]) -> Vec<Version> {
    let numbered = (1..).zip(created);
    numbered.map(|(number, created)| Version { number, created: at(*created) }).collect()
}

/// `active / next / retired` at the start of a process.
fn fresh(created: &[u64], now: u64) -> (u64, Vec<u64>, Vec<u64>) {
    let plan = Plan::new(&versions(created), None, &[], &TIMING, at(now)).unwrap();
    (plan.active, plan.next, plan.retired)
}

#[test]
fn without_a_version_there_is_no_plan() {
    assert_eq!(Plan::new(&[], None, &[], &TIMING, at(0)), None);
    assert_eq!(Plan::new(&[], Some(1), &[], &TIMING, at(0)), None);
}

#[test]
fn a_new_version_is_published_first() {
    assert_eq!(fresh(&[0], 0), (1, vec![], vec![]), "the only one signs at once");
    assert_eq!(fresh(&[0, 5000], 5000), (1, vec![2], vec![]));
    assert_eq!(fresh(&[0, 5000], 6199), (1, vec![2], vec![]));
    assert_eq!(fresh(&[0, 5000], 6200), (2, vec![], vec![1]));
    assert_eq!(fresh(&[0, 5000], 6200 + KEPT - 1), (2, vec![], vec![1]));
    assert_eq!(fresh(&[0, 5000], 6200 + KEPT), (2, vec![], vec![]));
}

#[test]
fn several_new_versions_each_wait_their_time() {
    assert_eq!(fresh(&[0, 5000, 5600], 5700), (1, vec![3, 2], vec![]));
    assert_eq!(fresh(&[0, 5000, 5600], 6200), (2, vec![3], vec![1]));
    assert_eq!(fresh(&[0, 5000, 5600], 6800), (3, vec![], vec![2]));
}

#[test]
fn with_no_version_old_enough_the_newest_signs_at_once() {
    assert_eq!(fresh(&[0, 100], 200), (2, vec![], vec![1]));
}

#[test]
fn the_one_that_signs_keeps_signing_until_another_is_old_enough() {
    let versions = versions(&[0, 100]);
    let plan = |now| Plan::new(&versions, Some(1), &[], &TIMING, at(now)).unwrap();
    assert_eq!((plan(200).active, plan(200).next), (1, vec![2]));
    assert_eq!(plan(1300).active, 2);
    let back = Plan::new(&versions, Some(2), &[], &TIMING, at(0)).unwrap();
    assert_eq!(back.active, 2, "a clock that is set back does not bring an old key back");
}

#[test]
fn a_withdrawn_version_stops_signing_at_once() {
    let mut versions = versions(&[0, 100, 5000]);
    versions.remove(1);
    let plan = Plan::new(&versions, Some(2), &[], &TIMING, at(5001)).unwrap();
    assert_eq!((plan.active, plan.next), (1, vec![3]));
}

#[test]
fn what_was_seen_to_stop_is_kept_from_then_on() {
    let versions = versions(&[0, 0]);
    let kept =
        |now| Plan::new(&versions, Some(2), &[(1, at(3000))], &TIMING, at(now)).unwrap().retired;
    assert_eq!(kept(3000 + KEPT - 1), [1]);
    assert!(kept(3000 + KEPT).is_empty());
}

/// A model of a fleet: versions arrive in one store; replicas with clocks of their own look at it,
/// sign, are restarted, which costs them their memory, and are told to activate a key before its time.
#[derive(Clone, Debug)]
struct Fleet {
    /// Creation times; the first is long ago.
    created: Vec<u64>,
    /// For each replica: the offset of its clock, and the seconds between its looks.
    replicas: Vec<(i64, u64)>,
    /// When which replica restarts.
    restarts: Vec<(u64, usize)>,
    /// When which replica is told to sign with the newest key that all of them publish.
    activations: Vec<(u64, usize)>,
}

const DAY: u64 = 86_400;

fn fleet() -> impl Strategy<Value = Fleet> {
    let arrivals = prop::collection::vec(1..DAY, 0..6);
    let replicas = prop::collection::vec((-20_i64..20, 5_u64..30), 1..4);
    let restarts = prop::collection::vec((0..DAY, 0_usize..4), 0..6);
    let activations = prop::collection::vec((0..DAY, 0_usize..4), 0..40);
    (arrivals, replicas, restarts, activations).prop_map(
        |(mut created, replicas, restarts, activations)| {
            created.push(0);
            created.sort_unstable();
            let created = created.iter().map(|at| at + 10 * DAY).collect();
            Fleet { created, replicas, restarts, activations }
        },
    )
}

#[derive(Debug)]
struct Replica {
    offset: i64,
    signing: Option<u64>,
    stopped: Vec<(u64, Timestamp)>,
    plan: Option<Plan>,
}

impl Replica {
    fn look(&mut self, created: &[u64], now: u64) {
        // The oldest version is older than anything: the store was there before the fleet.
        let known = created.iter().enumerate().filter(|(index, at)| *index == 0 || **at <= now);
        let versions: Vec<Version> = known
            .map(|(index, at)| Version {
                number: index as u64 + 1,
                created: if index == 0 { Timestamp::from_seconds(0) } else { at_second(*at) },
            })
            .collect();
        let clock = at_second(now.checked_add_signed(self.offset).unwrap());
        let plan = Plan::new(&versions, self.signing, &self.stopped, &TIMING, clock).unwrap();
        if let Some(before) = self.signing.filter(|before| *before != plan.active) {
            self.stopped.push((before, clock));
        }
        self.signing = Some(plan.active);
        self.plan = Some(plan);
    }

    fn activate(&mut self, number: u64, now: u64) {
        let clock = at_second(now.checked_add_signed(self.offset).unwrap());
        self.stopped.extend(self.signing.map(|before| (before, clock)));
        self.signing = Some(number);
    }

    fn publishes(&self, number: u64) -> bool {
        let plan = self.plan.as_ref().unwrap();
        plan.active == number || plan.next.contains(&number) || plan.retired.contains(&number)
    }
}

fn at_second(second: u64) -> Timestamp {
    Timestamp::from_seconds(second)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// While a token is valid every replica publishes its key, and no key signs anywhere before
    /// every replica has published it for about as long as verifiers may cache, unless told to.
    #[test]
    fn rotation_loses_nothing(fleet in fleet()) {
        let mut replicas: Vec<Replica> = fleet
            .replicas
            .iter()
            .map(|(offset, _)| Replica { offset: *offset, signing: None, stopped: vec![], plan: None })
            .collect();
        // The latest expiry of a token of each version, and since when all replicas publish it.
        let mut valid_until = vec![0; fleet.created.len() + 1];
        let mut published_since = vec![None; fleet.created.len() + 1];
        let mut activated = vec![false; fleet.created.len() + 1];
        let start = 10 * DAY;
        for now in (start..start + DAY + 3600).step_by(5) {
            for (index, replica) in replicas.iter_mut().enumerate() {
                let restarts = fleet.restarts.iter().any(|(at, which)| {
                    *which == index && (start + at) / 5 == now / 5
                });
                if restarts {
                    replica.signing = None;
                    replica.stopped.clear();
                }
                let is_told = fleet.activations.iter().any(|(at, which)| {
                    *which == index && (start + at) / 5 == now / 5
                });
                let next = replica.plan.as_ref().and_then(|plan| plan.next.first().copied());
                if let Some(next) = next.filter(|next| is_told && published_since[*next as usize].is_some()) {
                    replica.activate(next, now);
                    activated[next as usize] = true;
                }
                if restarts || is_told || replica.plan.is_none() || now % fleet.replicas[index].1 < 5 {
                    replica.look(&fleet.created, now);
                }
                let active = replica.plan.as_ref().unwrap().active;
                valid_until[active as usize] = now + TIMING.token_lifetime.as_secs();
            }
            for number in 1..=fleet.created.len() as u64 {
                let index = number as usize;
                let everywhere = replicas.iter().all(|replica| replica.publishes(number));
                if everywhere && published_since[index].is_none() {
                    published_since[index] = Some(now);
                }
                if valid_until[index] > now {
                    prop_assert!(everywhere, "version {number} is not published at {now}");
                }
                let signs = replicas.iter().any(|replica| replica.signing == Some(number));
                if signs && number > 1 && !activated[index] {
                    let since = published_since[index].unwrap_or(now);
                    prop_assert!(now - since >= 1200 - 60, "version {number} signs at {now} already");
                }
            }
        }
    }
}
