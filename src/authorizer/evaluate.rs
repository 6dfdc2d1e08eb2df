//! Questions without a request: an application states who asks, for what, and under which
//! circumstances.
//!
//! The application was authenticated before; what it states is its own word, and is marked as such
//! ([`PrincipalKind::Stated`](crate::identity::PrincipalKind)). Identity settings, paths and routes are
//! about requests and have no part in it; policy and token have the same as for a proxy's check.

use std::sync::Arc;

use super::{Authorizer, Denial, Facts, refuse_listed, refuse_named};
use crate::clock::Timestamp;
use crate::identity::Principal;
use crate::policy::{Context, Opinion, Permit, Question, Stated};
use crate::route::Target;
use crate::search::{Cursor, Found, Search, SearchError};
use crate::stages::{Stage, Stages};
use crate::token::{Channel, DecisionId, Listed, Token};

/// What an application asks.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Who is said to ask.
    pub principal: Arc<Principal>,
    /// For what.
    pub target: Target,
    /// Under which circumstances.
    pub stated: Stated,
}

/// The answer to a [`Statement`], and what it rests on.
#[derive(Debug)]
pub struct Evaluation {
    /// Yes or no.
    pub outcome: Result<Permission, Denial>,
    /// For the record.
    pub facts: Facts,
    /// How long what took.
    pub stages: Stages,
}

/// A yes to an application. It is no [`Grant`](super::Grant): a proxy is never answered with it.
#[derive(Debug)]
pub struct Permission {
    /// The policy's yes.
    pub permit: Box<Permit>,
    /// The signed form of it, where it was asked for.
    pub token: Option<Token>,
}

impl Authorizer {
    /// Decides on `statement`; with `signed` a yes comes with its token, and without one there is no
    /// yes.
    pub async fn evaluate(
        &self,
        statement: &Statement,
        signed: bool,
        now: Timestamp,
    ) -> Evaluation {
        let mut facts = Facts {
            principal: Some(Arc::clone(&statement.principal)),
            target: Some(statement.target.clone()),
            ..Facts::default()
        };
        let mut stages = Stages::default();
        let outcome = self.permission(statement, signed, now, &mut facts, &mut stages).await;
        stages.end();
        Evaluation { outcome, facts, stages }
    }

    /// Finds up to `limit` of what `search` asks for, beginning at `from`.
    ///
    /// # Errors
    /// [`SearchError`], when the scope's policies can't be searched or `from` is of another search.
    pub async fn search(
        &self,
        search: &Search,
        from: Option<&Cursor>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Found, SearchError> {
        let list = self.deny_list();
        let is_denied =
            |principal: &Principal| refuse_listed(list.as_deref(), principal, now).is_err();
        search.run(&self.policy, &self.routes, &is_denied, from, limit, now).await
    }

    async fn permission(
        &self,
        statement: &Statement,
        signed: bool,
        now: Timestamp,
        facts: &mut Facts,
        stages: &mut Stages,
    ) -> Result<Permission, Denial> {
        let id = facts.id.insert(DecisionId::random()?).clone();
        let Statement { principal, target, stated } = statement;
        let deny_list = self.deny_list();
        refuse_listed(deny_list.as_deref(), principal, now)?;
        let question = Question { principal, target, context: Context::Stated(stated), now };
        stages.begin(Stage::Policy);
        let permit = self.policy.decide(&question).await.map_err(|refusal| {
            facts.opinion = Some(Opinion::from(&refusal));
            Denial::from(refusal)
        })?;
        facts.opinion = Some(Opinion::from(&permit));
        refuse_named(deny_list.as_deref(), &permit, now)?;
        let token = if signed {
            let targets = self.items(&permit, &question, &mut facts.entitlements, stages).await?;
            let items = Listed { targets: &targets, assets: &self.policy };
            stages.begin(Stage::Token);
            Some(self.minter.mint(&permit, &items, None, Channel::Api, now, &id).await?)
        } else {
            None
        };
        Ok(Permission { permit: Box::new(permit), token })
    }
}

#[cfg(test)]
mod tests;
