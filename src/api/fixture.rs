//! A desk for the unit tests, with its decision log in a file.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

use super::desk::Desk;
use crate::audit::{LogSettings, LogWriter, Recorder, Sink};
use crate::clock::Clock;
use crate::fixture::{self, NOW};
use crate::metrics::Metrics;
use crate::scope::{Api, CallerSecrets, PublicUrl, Scope, Scopes, Selectable};
use crate::secrets::Kept;
use crate::tls::UriSan;

/// The caller that is known by its certificate.
pub(super) const WORKLOAD: &str = "spiffe://example.org/orders-client";

/// The digest of `secret`.
const DIGEST: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// A scope that answers the caller with the secret `secret`.
pub(super) fn scope(client_id: &str, policy: &str, entities: &str) -> Scope {
    let secrets = Some(Kept::fixed(CallerSecrets::parse(DIGEST.as_bytes()).unwrap()));
    let public_url = Some(PublicUrl::parse("https://pdp.example.com").unwrap());
    let workloads = [UriSan::parse(WORKLOAD).unwrap()].into();
    let (authzen, check, scheme) = (true, false, "http");
    let api = Some(Api { authzen, check, scheme, secrets, workloads, public_url });
    let authorizer = crate::authorizer::Authorizer {
        policy: fixture::policy(policy, entities),
        ..fixture::authorizer()
    };
    Scope { api, authorizer, ..fixture::scope(client_id) }
}

pub(super) fn basic(pair: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

/// A desk for one scope, and what it records.
pub(super) fn desk(scope: Scope) -> (Desk, Log) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let settings = LogSettings::to(Sink::file(file.path()));
    let (recorder, writer) = Recorder::open(settings, Metrics::new()).unwrap();
    let selectable = Selectable { scope: Arc::new(scope), hosts: Vec::new(), default: true };
    let scopes = Arc::new(ArcSwap::from_pointee(Scopes::new(vec![selectable])));
    (Desk::new(scopes, recorder, Clock::Fixed(NOW)), Log { file, writer })
}

pub(super) struct Log {
    file: tempfile::NamedTempFile,
    writer: LogWriter,
}

impl Log {
    /// What was recorded, once the desk is gone.
    pub(super) fn records(self) -> Vec<Value> {
        self.writer.finish(Duration::from_secs(10));
        let text = std::fs::read_to_string(self.file.path()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
