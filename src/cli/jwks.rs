//! `placet jwks`: the key set of every scope, read from the secret stores now.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::print;
use crate::clock::Timestamp;
use crate::config::Config;

pub(super) fn run(path: &Path, now: Timestamp) -> Result<()> {
    let config = Config::load_without_listening(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let keys = runtime.block_on(async {
        let mut keys = Vec::new();
        for scope in &config.scopes {
            let ring = scope.key_source().ring(now).await;
            let ring = ring.with_context(|| format!("the key of scope `{}`", scope.client_id))?;
            keys.extend(ring.published().map(|key| key.jwk().clone()));
        }
        anyhow::Ok(keys)
    })?;
    print(&serde_json::to_string_pretty(&json!({ "keys": keys }))?)
}
