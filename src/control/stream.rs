//! Snapshots for sidecars, over gRPC: `placet.control.v1.Snapshots`; and the union of the keys they sign with.
//!
//! A sidecar holds one stream. Its ServiceAccount's token says which namespace it is of (`caller`), and so
//! whose snapshot it is sent: the newest, once, and again only when that changes (`session`). A snapshot is
//! encoded once for all who get it (`frames`). Nothing is sent where nothing is known, so a control plane that
//! has just started, or has lost its API server, changes nothing anywhere.
//!
//! Sidecars say which public keys their tokens are verified by; `union` serves those of all of them at one
//! address.

mod caller;
mod frames;
mod namespaces;
mod session;
mod settings;
mod template;
mod union;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::caller::Callers;
use self::session::Desk;
use self::union::Union;
use super::certificates::Current;
use super::refusals::Refusals;
use super::snapshot::Snapshots;
use crate::app::{https, streams};
use crate::clock::Clock;

pub use self::caller::Authority;
pub(super) use self::settings::RawSnapshots;
pub use self::settings::{AUDIENCE, Kept, StreamSettings};

/// Sends `snapshots` to sidecars, keeps their `refusals`, and serves their keys, until `shutdown`: with the certificate
/// that is `current`, unless the settings name files.
///
/// # Errors
/// If a listener can't be opened, or a task ends by itself.
pub async fn serve(
    settings: &StreamSettings,
    current: Option<Current>,
    snapshots: Arc<Snapshots>,
    refusals: Arc<Refusals>,
    shutdown: &CancellationToken,
) -> Result<()> {
    raise_limit();
    let union = Arc::new(Union::new(Instant::now()));
    let callers = Arc::new(Callers::new(settings.authority.clone()));
    let (sent, kept) = (Arc::clone(&snapshots), Arc::clone(&union));
    let desk = Arc::new(Desk::new(sent, refusals, callers, kept, shutdown.clone()));
    let answer = move |call| {
        let desk = Arc::clone(&desk);
        async move { desk.answer(call).await }
    };
    let listener = &settings.listener;
    let streaming =
        streams::serve(listener, current.clone(), "snapshots", answer, Clock::System, shutdown);
    let keys = async {
        match &settings.jwks {
            Some(listener) => {
                let router = union::router(union);
                let current = current.filter(|_| listener.tls.is_none());
                https::serve(listener, current, "jwks", router, Clock::System, shutdown).await
            }
            None => {
                shutdown.cancelled().await;
                Ok(())
            }
        }
    };
    let reading = async {
        if let Some(directory) = &settings.directory {
            namespaces::read(directory, &snapshots).run(shutdown).await;
        } else {
            shutdown.cancelled().await;
        }
        Ok(())
    };
    tokio::try_join!(streaming, keys, reading).context("snapshots can't be served")?;
    Ok(())
}

/// Each sidecar takes a descriptor, and the usual limit is for programs that count them in tables of 1024.
fn raise_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
