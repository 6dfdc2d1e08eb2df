//! What a scope is still waiting for.
//!
//! A scope is complete when its key and its API keys are loaded, and its policies (where they are in a
//! bundle) and each of its issuers' keys were fetched once; it stays complete, since what was loaded is kept. An incomplete scope refuses (503), is retried for
//! ever and is listed on `/readyz`.

use futures_util::future::{join_all, select_all};

use crate::identity::ApiKeys;
use crate::identity::jwks::IssuerKeys;
use crate::keys::Keys;
use crate::policy::Fetching;
use crate::secrets::Kept;

/// What one scope needs.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Its client ID.
    pub client_id: String,
    /// Its signing key.
    pub keys: Keys,
    /// Its issuers, with their keys.
    pub issuers: Vec<(String, IssuerKeys)>,
    /// Its API keys.
    pub api_keys: Option<Kept<ApiKeys>>,
    /// Its policies, where they are fetched.
    pub policies: Option<Fetching>,
}

impl Needs {
    /// What is missing, with what the last attempt said; empty when the scope is complete.
    pub fn missing(&self) -> Vec<String> {
        let because =
            |problem: Option<String>| problem.map_or_else(String::new, |p| format!(": {p}"));
        let mut missing = Vec::new();
        if self.keys.ring().is_none() {
            missing.push(format!("signing key{}", because(self.keys.problem())));
        }
        for (issuer, keys) in self.issuers.iter().filter(|(_, keys)| !keys.ready()) {
            missing.push(format!("keys of issuer `{issuer}`{}", because(keys.last_error())));
        }
        if let Some(keys) = self.api_keys.as_ref().filter(|keys| keys.current().is_none()) {
            missing.push(format!("API keys{}", because(keys.problem())));
        }
        if let Some(policies) = self.policies.as_ref().filter(|policies| policies.is_pending()) {
            missing.push(format!("bundle of policies{}", because(policies.problem())));
        }
        missing
    }

    async fn complete(mut self) {
        self.keys.loaded().await;
        for (_, keys) in &mut self.issuers {
            keys.loaded().await;
        }
        if let Some(keys) = &mut self.api_keys {
            keys.loaded().await;
        }
        if let Some(policies) = &mut self.policies {
            policies.loaded().await;
        }
    }
}

/// Waits until every scope is complete.
pub async fn all_complete(needs: &[Needs]) {
    join_all(needs.iter().cloned().map(Needs::complete)).await;
}

/// Waits until one scope is.
pub async fn any_complete(needs: &[Needs]) {
    if needs.is_empty() {
        std::future::pending::<()>().await;
    }
    select_all(needs.iter().cloned().map(|needs| Box::pin(needs.complete()))).await;
}
