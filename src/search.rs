//! Who may do it, to what, and what may be done: the questions with one place left open.
//!
//! The candidates are what the policies and their entities know; each is decided like a question of its
//! own, so that what is found would be permitted, and a candidate that can't be decided is not found.
//! One page decides on a bounded number of them. A [`Cursor`] is only a place among the candidates: it
//! holds nothing to be trusted, and is refused by any search but the one that it came from.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest::{Context as Digest, SHA256};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::json;

use crate::clock::Timestamp;
use crate::identity::Principal;
use crate::policy::{Context, Policy, Question, Stated};
use crate::route::{Routes, Target};

/// Decided for one page at most; a page may so be shorter than asked for, and have a next one.
const MAX_DECIDED: usize = 10_000;

/// Candidates decided between two pauses, in which the caller's deadline can strike.
const BETWEEN_YIELDS: usize = 32;

/// Bytes of the digest in a cursor.
const DIGEST_BYTES: usize = 16;

/// Which place of the question is left open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Open {
    /// Who may do it?
    Subject,
    /// To which assets may it be done?
    Asset,
    /// What may be done?
    Action,
}

/// A question with a place left open.
#[derive(Clone, Debug)]
pub struct Search {
    /// Which.
    pub open: Open,
    /// Who asks; its id counts for nothing when it is the open place.
    pub principal: Principal,
    /// For what; as for the principal.
    pub target: Target,
    /// Under which circumstances.
    pub stated: Stated,
}

/// One page of what was found.
#[derive(Debug, Eq, PartialEq)]
pub struct Found {
    /// Ids, or names of actions: sorted, each once over all pages.
    pub ids: Vec<String>,
    /// Where the next page begins; `None` when there is nothing more.
    pub next: Option<Cursor>,
}

/// A place among a search's candidates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cursor {
    digest: [u8; DIGEST_BYTES],
    position: u32,
}

/// Why a search is not made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SearchError {
    /// The engine knows no candidates.
    #[error("this scope's policies can't be searched")]
    Unsearchable,
    /// The cursor is no cursor, or one of another search or other policies.
    #[error(
        "the page token is not of this search, or the policies have changed since: begin again"
    )]
    Cursor,
}

impl Search {
    /// Finds up to `limit` candidates that are permitted, of principals that are not denied anyway.
    pub(crate) async fn run(
        &self,
        policy: &Policy,
        routes: &Routes,
        is_denied: &(dyn Fn(&Principal) -> bool + Sync),
        from: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Found, SearchError> {
        let candidates = self.candidates(policy, routes).ok_or(SearchError::Unsearchable)?;
        let digest = self.digest(&policy.revision(), &candidates);
        let start = match from {
            None => 0,
            Some(cursor) if cursor.digest == digest => {
                usize::try_from(cursor.position).unwrap_or(usize::MAX)
            }
            Some(_) => return Err(SearchError::Cursor),
        };
        let principal = Arc::new(self.principal.clone());
        let question = Question {
            principal: &principal,
            target: &self.target,
            context: Context::Stated(&self.stated),
            now,
        };
        let nothing = Found { ids: Vec::new(), next: None };
        if self.open != Open::Subject && is_denied(&principal) {
            return Ok(nothing);
        }
        let Ok(inquiry) = policy.inquire(&question) else { return Ok(nothing) };
        let permits = |candidate: &str| match self.open {
            Open::Subject => {
                let named = Arc::new(self.principal.clone().named(candidate));
                if is_denied(&named) {
                    return Ok(false);
                }
                let question = Question { principal: &named, ..question };
                policy.inquire(&question).and_then(|inquiry| inquiry.permits(&self.target))
            }
            Open::Asset => {
                inquiry.permits(&Target { asset_id: candidate.to_owned(), ..self.target.clone() })
            }
            Open::Action => {
                inquiry.permits(&Target { action: candidate.to_owned(), ..self.target.clone() })
            }
        };
        let mut found = nothing;
        for (decided, (position, candidate)) in
            candidates.iter().enumerate().skip(start).enumerate()
        {
            if decided % BETWEEN_YIELDS == 0 {
                tokio::task::yield_now().await;
            }
            let is_over = decided >= MAX_DECIDED;
            if is_over || permits(candidate).unwrap_or(false) {
                if is_over || found.ids.len() == limit {
                    let position = u32::try_from(position).map_err(|_| SearchError::Cursor)?;
                    found.next = Some(Cursor { digest, position });
                    break;
                }
                found.ids.push((*candidate).to_owned());
            }
        }
        Ok(found)
    }

    /// All that could stand in the open place, sorted.
    fn candidates<'p>(&self, policy: &'p Policy, routes: &'p Routes) -> Option<Vec<&'p str>> {
        match self.open {
            Open::Subject => policy.known_ids(&self.principal.entity_type),
            Open::Asset => policy.known_ids(&self.target.asset_type),
            Open::Action => {
                let mut names: BTreeSet<&str> = policy.known_actions()?;
                names.extend(routes.named_targets().map(|(_, action)| action));
                Some(names.into_iter().collect())
            }
        }
    }

    fn digest(&self, revision: &str, candidates: &[&str]) -> [u8; DIGEST_BYTES] {
        let mut query = json!([
            match self.open {
                Open::Subject => "subject",
                Open::Asset => "asset",
                Open::Action => "action",
            },
            [self.principal.entity_type, self.principal.id],
            self.principal.claims,
            [self.target.asset_type, self.target.asset_id, self.target.action],
            [self.stated.context, self.stated.action, self.stated.asset],
            revision,
        ]);
        query.sort_all_objects();
        let mut digest = Digest::new(&SHA256);
        digest.update(query.to_string().as_bytes());
        for candidate in candidates {
            digest.update(&candidate.len().to_be_bytes());
            digest.update(candidate.as_bytes());
        }
        let mut short = [0; DIGEST_BYTES];
        short.iter_mut().zip(digest.finish().as_ref()).for_each(|(to, from)| *to = *from);
        short
    }
}

impl Cursor {
    /// The text that an earlier page gave.
    ///
    /// # Errors
    /// [`SearchError::Cursor`], when it is none of ours.
    pub fn parse(text: &str) -> Result<Self, SearchError> {
        let mut bytes = [0; DIGEST_BYTES + 4];
        let read = BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes);
        if read.ok() != Some(bytes.len()) {
            return Err(SearchError::Cursor);
        }
        let (digest, position) = bytes.split_first_chunk().ok_or(SearchError::Cursor)?;
        let position = position.first_chunk().ok_or(SearchError::Cursor)?;
        Ok(Self { digest: *digest, position: u32::from_be_bytes(*position) })
    }

    /// The text that the next page is asked for with.
    pub fn text(&self) -> String {
        let position = self.position.to_be_bytes();
        BASE64_URL_SAFE_NO_PAD.encode([self.digest.as_slice(), position.as_slice()].concat())
    }
}

#[cfg(test)]
mod tests;
