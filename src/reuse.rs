//! When a decision may be used again: for the same question, while the same things are in force.
//!
//! A decision and its token follow from the request, as far as the scope reads it, and from what is in
//! force: the policies, the deny list, the issuers' keys, the API keys, the signing key. A [`Key`] is a fingerprint of the
//! first under a number of the second, which is never used twice, so that what was decided before a
//! change is not found after it. What a scope reads is known from its settings and its policies. Where
//! it can't be known, or where a policy reads the clock or the request's body, there is no key, and the request is
//! decided.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use prost::encoding::encode_varint;

use crate::authorizer::Authorizer;
use crate::clock::Timestamp;
use crate::deny_list::DenyList;
use crate::digest;
use crate::identity::KnownBy;
use crate::keys::KeyRing;
use crate::policy::InForce;
use crate::request::{AddressRead, Asked, Reads};

/// A request to a scope while the same things are in force. It tells nothing of the request: the
/// fingerprint is under a secret of the process.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Key(digest::Fingerprint);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Tells which requests to one scope are alike.
pub struct Reuse {
    secret: digest::Fingerprints,
    epoch: ArcSwapOption<Epoch>,
}

/// A time during which nothing changes that decisions rest on.
struct Epoch {
    number: u64,
    /// `None` where decisions are not used again.
    reads: Option<Reads>,
    ring: Option<Arc<KeyRing>>,
    deny_list: Option<Arc<DenyList>>,
    credentials: KnownBy,
    policies: InForce,
}

static EPOCHS: AtomicU64 = AtomicU64::new(0);

impl Reuse {
    /// Keys for one scope; `None` if the system has no randomness.
    pub fn new() -> Option<Self> {
        Some(Self { secret: digest::Fingerprints::random()?, epoch: ArcSwapOption::empty() })
    }

    /// The key of a request that `authorizer`, always the same one, decides on. `None`: it is to be
    /// decided, and the decision not used again.
    pub fn key(&self, authorizer: &Authorizer, asked: &Asked<'_>) -> Option<Key> {
        let epoch = self.epoch.load();
        if let Some(epoch) = epoch.as_ref().filter(|epoch| epoch.goes_on(authorizer)) {
            return epoch.key(&self.secret, asked);
        }
        let epoch = Arc::new(Epoch::beginning(authorizer));
        let key = epoch.key(&self.secret, asked);
        self.epoch.store(Some(epoch));
        key
    }
}

impl fmt::Debug for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reuse").finish_non_exhaustive()
    }
}

impl Epoch {
    fn beginning(authorizer: &Authorizer) -> Self {
        let policies = authorizer.policy.in_force();
        let reads = policies.reads();
        let reads = reads.and_then(|reads| Some(authorizer.identity.reads()?.and(reads)));
        Self {
            number: EPOCHS.fetch_add(1, Ordering::Relaxed),
            reads,
            ring: authorizer.minter.ring(),
            deny_list: authorizer.deny_list(),
            credentials: authorizer.identity.known_by(),
            policies,
        }
    }

    fn goes_on(&self, authorizer: &Authorizer) -> bool {
        is_same(&self.ring, &authorizer.minter.ring())
            && is_same(&self.deny_list, &authorizer.deny_list())
            && authorizer.identity.is_known_by(&self.credentials)
            && authorizer.policy.is_in_force(&self.policies)
    }

    fn key(&self, secret: &digest::Fingerprints, asked: &Asked<'_>) -> Option<Key> {
        let reads = self.reads.as_ref().filter(|reads| !(reads.body && asked.has_body))?;
        let mut text = Vec::with_capacity(1024);
        let mut add = |part: &[u8]| {
            encode_varint(part.len() as u64, &mut text);
            text.extend_from_slice(part);
        };
        add(&self.number.to_le_bytes());
        add(asked.method.as_bytes());
        add(asked.scheme.as_bytes());
        add(asked.host.as_bytes());
        let end_of_path = asked.target.find('?').unwrap_or(asked.target.len());
        let (path, query) = asked.target.split_at(end_of_path);
        add(path.as_bytes());
        add(if reads.query { query.as_bytes() } else { b"" });
        match &reads.source_ip {
            AddressRead::Unread => add(b""),
            AddressRead::Whole => add(asked.source_ip.as_bytes()),
            AddressRead::Ranges(ranges) => match plain(asked.source_ip) {
                Some(ip) => {
                    let within = ranges.iter().map(|range| u8::from(range.contains(&ip)));
                    add(&[1].into_iter().chain(within).collect::<Vec<u8>>());
                }
                None => add(&[b"\0", asked.source_ip.as_bytes()].concat()),
            },
        }
        add(asked.source_principal.as_bytes());
        add(asked.source_certificate.as_bytes());
        for wanted in &reads.headers {
            let values = asked.headers.iter().filter(|(name, _)| *name == wanted.as_bytes());
            let values = values.map(|(_, value)| *value);
            add(&values.clone().count().to_le_bytes());
            values.for_each(&mut add);
        }
        secret.of(&text).map(Key)
    }
}

fn is_same<T>(then: &Option<Arc<T>>, now: &Option<Arc<T>>) -> bool {
    match (then, now) {
        (Some(then), Some(now)) => Arc::ptr_eq(then, now),
        (then, now) => then.is_none() && now.is_none(),
    }
}

/// The address, unless it is none, or IPv4 in IPv6, which some read as the one and some as the other.
fn plain(ip: &str) -> Option<IpAddr> {
    ip.parse().ok().filter(|_| !(ip.contains(':') && ip.contains('.')))
}

/// Since when and until when a token that is valid from and to these times may be used again: while at
/// least half of its life remains.
pub fn span((issued, expires): (Timestamp, Timestamp)) -> Option<(Timestamp, Timestamp)> {
    let half = expires.since(issued) / 2;
    (half.as_millis() > 0).then(|| (issued, issued.after(half)))
}

/// A key of no request.
#[cfg(test)]
pub(crate) fn any_key() -> Key {
    Key(digest::Fingerprints::random().unwrap().of(b"").unwrap())
}

#[cfg(test)]
mod tests;
