//! `placet validate`: the settings, and everything they name.
//!
//! A key that can't be read now may be there later, so that is a warning; a key that was read and
//! can't be used is an error.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::print;
use crate::clock::Clock;
use crate::config::{Config, ScopeConfig};
use crate::keys::{KeyError, LoadError};

pub(super) fn run(path: &Path) -> Result<ExitCode> {
    let mut config = Config::load(path)?;
    let mut warnings = std::mem::take(&mut config.warnings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let errors = runtime.block_on(check_keys(&config.scopes, &mut warnings));
    say(&warnings, &errors);
    if errors.is_empty() {
        let scopes = config.scopes.len();
        print(&format!(
            "{}: valid, {scopes} scope{}",
            path.display(),
            if scopes == 1 { "" } else { "s" }
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(2))
}

async fn check_keys(scopes: &[ScopeConfig], warnings: &mut Vec<String>) -> Vec<String> {
    let mut errors = Vec::new();
    for (index, scope) in scopes.iter().enumerate() {
        let line = |error: &dyn std::fmt::Display| format!("scopes[{index}].jwtSigning: {error}");
        let now = Clock::System.now();
        let ring = match scope.key_source().ring(now).await {
            Ok(ring) => ring,
            Err(LoadError::Key {
                source: error @ KeyError::CertificateMismatch { .. }, ..
            }) => {
                errors.push(format!("scopes[{index}].jwtResponse.x509Certificate: {error}"));
                continue;
            }
            Err(error @ LoadError::Key { .. }) => {
                errors.push(line(&error));
                continue;
            }
            Err(error) => {
                warnings.push(line(&error));
                continue;
            }
        };
        for warning in ring.published().flat_map(|key| key.warnings(now)) {
            warnings.push(format!("scopes[{index}].jwtResponse.x509Certificate: {warning}"));
        }
        for kid in ring.shared_kids() {
            warnings.push(format!(
                "scopes[{index}].jwtResponse.keyId: two live versions of the key have the key id `{kid}`: use {{{{key_version}}}} or {{{{thumbprint}}}}"
            ));
        }
    }
    errors
}

#[expect(clippy::print_stderr, reason = "what a person at a terminal is to read")]
fn say(warnings: &[String], errors: &[String]) {
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    errors.iter().for_each(|error| eprintln!("error: {error}"));
}
