//! Who asks, and for what: subjects with a credential each, and paths.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Fault;
use crate::issuer::Issuer;

pub(crate) const SUBJECTS: usize = 200;
pub(crate) const PATHS: usize = 50;

/// Writes the provider's key and `idp.jwks.json`, and `credentials.txt` with a token for each
/// subject.
pub(crate) fn prepare(directory: &Path) -> Result<(), Fault> {
    let key = Issuer::generate()?;
    let issuer = Issuer::new(&key)?;
    let tokens = (0..SUBJECTS)
        .map(|number| issuer.token(&subject(number), number as u64, now()))
        .collect::<Result<Vec<_>, _>>()?;
    fs::create_dir_all(directory)?;
    fs::write(directory.join("idp.key"), key)?;
    fs::write(directory.join("idp.jwks.json"), issuer.jwks().to_string())?;
    fs::write(directory.join("credentials.txt"), tokens.join("\n"))?;
    Ok(())
}

/// What `prepare` wrote.
pub(crate) struct Crowd {
    pub(crate) issuer: Issuer,
    /// A token for each subject.
    pub(crate) tokens: Vec<Rc<str>>,
}

impl Crowd {
    pub(crate) fn read(directory: &Path) -> Result<Self, Fault> {
        let tokens = fs::read_to_string(directory.join("credentials.txt"))?;
        let key = fs::read(directory.join("idp.key"))?;
        Ok(Self { issuer: Issuer::new(&key)?, tokens: tokens.lines().map(Rc::from).collect() })
    }
}

pub(crate) fn subject(number: usize) -> String {
    format!("user-{number}@example.org")
}

/// The order that a path asks for.
pub(crate) fn order(number: usize) -> usize {
    1_000 + number
}

/// In seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "tokens are judged by the servers' own clock")]
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}
