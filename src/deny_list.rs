//! The emergency deny list: callers who are refused at once, whatever the policies say.
//!
//! The operator's file names subjects, ids of tokens (`jti`) and the clients that tokens were issued to
//! (`client_id`, `azp`), each for as long as it says. A list is whole or none: one entry that can't be read
//! makes it unusable, so that nobody is let in by a slip of the pen, and what is said of it quotes nothing.
//! Who is listed is found by hashing, however many are.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::Timestamp;
use crate::identity::{Principal, PrincipalKind};

/// The largest list that is read, in bytes.
pub const SIZE_LIMIT: usize = 16 * 1024 * 1024;

/// The most entries a list has.
pub const ENTRY_LIMIT: usize = 100_000;

/// How many of those who act for one another are looked at; a longer chain is no caller's.
const ACTOR_LIMIT: usize = 32;

/// Who is refused.
#[derive(Default)]
pub struct DenyList {
    subjects: Entries,
    jtis: Entries,
    client_ids: Entries,
}

/// By subject, `jti` or client ID.
type Entries = HashMap<Box<str>, Vec<Entry>>;

#[derive(Debug)]
struct Entry {
    /// Whose subject, token or client; none: anybody's.
    issuer: Option<Box<str>>,
    until: Option<Timestamp>,
    reason: Option<Box<str>>,
}

/// Why something is no deny list.
#[derive(Debug, thiserror::Error)]
pub enum DenyListError {
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Read(#[from] io::Error),
    /// Too many bytes.
    #[error("it is larger than {} MiB", SIZE_LIMIT / 1024 / 1024)]
    Size,
    /// No UTF-8.
    #[error("it is no text")]
    Text,
    /// Nothing is in it.
    #[error("it is empty: write `{{}}` to deny nobody")]
    Empty,
    /// It is of another form.
    #[error(
        "it is no map of `subjects`, `jtis` and `clientIds`, each a list of maps with `subject`, `jti` or `clientId`, and `issuer`, `until` and `reason` where wanted{}",
        line.map_or_else(String::new, |line| format!(": see line {line}"))
    )]
    Form {
        /// Where it was noticed.
        line: Option<usize>,
    },
    /// Too many entries.
    #[error("it has more than {ENTRY_LIMIT} entries")]
    Entries,
    /// An entry that denies nobody.
    #[error("number {number} of `{list}` is empty: name whom it is about")]
    Nobody {
        /// Of which list.
        list: &'static str,
        /// Counted from 1.
        number: usize,
    },
    /// A time that is none.
    #[error("number {number} of `{list}` ends at no time such as 2027-01-31T00:00:00Z")]
    Until {
        /// Of which list.
        list: &'static str,
        /// Counted from 1.
        number: usize,
    },
}

impl DenyList {
    /// Reads the list in the file at `path`.
    ///
    /// # Errors
    /// When it can't be read, and as [`Self::parse`].
    pub fn read(path: &Path) -> Result<Self, DenyListError> {
        let limit = u64::try_from(SIZE_LIMIT).unwrap_or(u64::MAX).saturating_add(1);
        let mut text = Vec::new();
        File::open(path)?.take(limit).read_to_end(&mut text)?;
        Self::parse(&text)
    }

    /// Reads a list in YAML or JSON.
    ///
    /// # Errors
    /// [`DenyListError`]: the first thing that is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, DenyListError> {
        if text.len() > SIZE_LIMIT {
            return Err(DenyListError::Size);
        }
        let text = str::from_utf8(text).map_err(|_| DenyListError::Text)?;
        if text.trim().is_empty() {
            return Err(DenyListError::Empty);
        }
        let Written { subjects, jtis, client_ids } = Written::parse(text)?;
        let count = subjects.len().saturating_add(jtis.len()).saturating_add(client_ids.len());
        if count > ENTRY_LIMIT {
            return Err(DenyListError::Entries);
        }
        let subjects = subjects.into_iter().map(|it| (it.subject, it.issuer, it.until, it.reason));
        let jtis = jtis.into_iter().map(|it| (it.jti, it.issuer, it.until, it.reason));
        let client_ids =
            client_ids.into_iter().map(|it| (it.client_id, it.issuer, it.until, it.reason));
        Ok(Self {
            subjects: entries("subjects", subjects)?,
            jtis: entries("jtis", jtis)?,
            client_ids: entries("clientIds", client_ids)?,
        })
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        let lists = [&self.subjects, &self.jtis, &self.client_ids];
        lists.into_iter().flat_map(HashMap::values).map(Vec::len).sum()
    }

    /// Whether it denies nobody.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty() && self.jtis.is_empty() && self.client_ids.is_empty()
    }

    /// The entry that refuses `principal` at `now`, if one does: by its subject, the peer it came from,
    /// whoever acts for it, its token or the token's client.
    pub fn refusing(&self, principal: &Principal, now: Timestamp) -> Option<Listed<'_>> {
        if self.is_empty() {
            return None;
        }
        // What an application states has no issuer: whoever is listed under any is meant.
        let issuer = match (&principal.issuer, principal.kind) {
            (Some(issuer), _) => By::Issuer(issuer),
            (None, PrincipalKind::Stated) => By::Anyone,
            (None, _) => By::Nobody,
        };
        let claim = |name: &str| principal.claims.get(name).and_then(Value::as_str);
        let find = |what, entries, id: Option<&str>, by| find(what, entries, id?, by, now);
        find("subject", &self.subjects, principal.subject.as_deref(), issuer)
            .or_else(|| find("peer", &self.subjects, principal.peer.as_deref(), By::Nobody))
            .or_else(|| find("token", &self.jtis, claim("jti"), issuer))
            .or_else(|| find("client", &self.client_ids, claim("client_id"), issuer))
            .or_else(|| find("client", &self.client_ids, claim("azp"), issuer))
            .or_else(|| self.refusing_actor(principal, issuer, now))
    }

    /// The entry that refuses `subject`, whoever issued it: one that a policy named.
    pub fn refusing_subject(&self, subject: &str, now: Timestamp) -> Option<Listed<'_>> {
        find("subject", &self.subjects, subject, By::Anyone, now)
    }

    fn refusing_actor(
        &self,
        principal: &Principal,
        issuer: By<'_>,
        now: Timestamp,
    ) -> Option<Listed<'_>> {
        if principal.kind == PrincipalKind::ApiKey {
            return None;
        }
        let first = principal.claims.get("act");
        let mut chain = std::iter::successors(first, |actor| actor.get("act")).take(ACTOR_LIMIT);
        chain.find_map(|actor| {
            let subject = actor.get("sub")?.as_str()?;
            let own = actor.get("iss").and_then(Value::as_str).map(By::Issuer);
            find("actor", &self.subjects, subject, own.unwrap_or(issuer), now)
        })
    }
}

impl fmt::Debug for DenyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DenyList({})", self.len())
    }
}

/// An entry that refuses, and by what.
#[derive(Debug)]
pub struct Listed<'a> {
    what: &'static str,
    entry: &'a Entry,
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} is on the deny list", self.what)?;
        if let Some(until) = self.entry.until {
            write!(f, " until {}", until.rfc3339())?;
        }
        match &self.entry.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// Who vouches for an id.
#[derive(Clone, Copy, Debug)]
enum By<'a> {
    Issuer(&'a str),
    /// It is of no issuer: entries that name one are not about it.
    Nobody,
    /// There is no telling of which: every entry is about it.
    Anyone,
}

fn find<'a>(
    what: &'static str,
    entries: &'a Entries,
    id: &str,
    by: By<'_>,
    now: Timestamp,
) -> Option<Listed<'a>> {
    let is_about = |entry: &&Entry| {
        let is_of_issuer = match (entry.issuer.as_deref(), by) {
            (None, _) | (Some(_), By::Anyone) => true,
            (Some(listed), By::Issuer(issuer)) => listed == issuer,
            (Some(_), By::Nobody) => false,
        };
        is_of_issuer && entry.until.is_none_or(|until| now < until)
    };
    entries.get(id)?.iter().find(is_about).map(|entry| Listed { what, entry })
}

/// The list as it is written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Written {
    subjects: Vec<Subject>,
    jtis: Vec<Jti>,
    client_ids: Vec<ClientId>,
}

macro_rules! entry {
    ($name:ident, $id:ident) => {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct $name {
            $id: String,
            issuer: Option<String>,
            until: Option<String>,
            reason: Option<String>,
        }
    };
}

entry!(Subject, subject);
entry!(Jti, jti);
entry!(ClientId, client_id);

impl Written {
    fn parse(text: &str) -> Result<Self, DenyListError> {
        // A long list in JSON is read many times faster as such.
        if text.trim_start().starts_with('{')
            && let Ok(written) = serde_json::from_str(text)
        {
            return Ok(written);
        }
        // Nothing but comments is what is left of a list that was cut off.
        let written: Result<Option<Self>, _> = yaml_serde::from_str(text);
        match written {
            Ok(written) => written.ok_or(DenyListError::Empty),
            Err(error) => {
                Err(DenyListError::Form { line: error.location().map(|location| location.line()) })
            }
        }
    }
}

type WrittenEntry = (String, Option<String>, Option<String>, Option<String>);

fn entries(
    list: &'static str,
    written: impl Iterator<Item = WrittenEntry>,
) -> Result<Entries, DenyListError> {
    let mut entries = Entries::new();
    for (number, (id, issuer, until, reason)) in (1..).zip(written) {
        if id.is_empty() || issuer.as_ref().is_some_and(String::is_empty) {
            return Err(DenyListError::Nobody { list, number });
        }
        let until = match until.as_deref().map(time) {
            None => None,
            Some(Some(until)) => Some(until),
            Some(None) => return Err(DenyListError::Until { list, number }),
        };
        let boxed = |text: Option<String>| text.map(String::into_boxed_str);
        let entry = Entry { issuer: boxed(issuer), until, reason: boxed(reason) };
        entries.entry(id.into_boxed_str()).or_default().push(entry);
    }
    Ok(entries)
}

/// A time of RFC 3339, rounded up: an entry never ends early.
fn time(text: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let millis = time.unix_timestamp_nanos().checked_add(999_999)?.checked_div(1_000_000)?;
    u64::try_from(millis).ok().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests;
