//! The connections of one listener, whatever is spoken on them.
//!
//! Each has a task. There are only so many ([`crowd`]), and one that asks nothing for [`FIRST_CALL`], or takes so
//! long to say what, is ended. When listening ends, every connection is told, and ends with its last call.

mod crowd;

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) use self::crowd::{Asked, Crowd};
use super::listener::{Connection, PAUSE, is_of_the_connection};

/// How long a connection may take until it has asked something.
const FIRST_CALL: Duration = Duration::from_secs(10);

/// Serves the connections that come in until `stop`, and then what they have begun. What `begin` makes of a
/// connection notes each call in its [`Asked`], and ends with what is begun once its token is cancelled.
pub(super) async fn serve<C, E>(
    mut crowd: Crowd,
    incoming: impl Stream<Item = io::Result<Connection>>,
    stop: impl Future<Output = ()>,
    begin: impl Fn(Connection, Asked, CancellationToken) -> C,
) where
    C: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let (connections, stopping) = (TaskTracker::new(), CancellationToken::new());
    {
        // Listening ends with this block, before what was begun is waited for.
        let (mut incoming, mut stop) = (pin!(incoming), pin!(stop));
        while let Some(connection) = tokio::select! {
            () = &mut stop => None,
            accepted = incoming.next() => accepted,
        } {
            let connection = match connection {
                Ok(connection) => connection,
                Err(error) if is_of_the_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let asked = crowd.asked();
            let served = begin(connection, asked.clone(), stopping.clone());
            let asks = asked.clone();
            let task = connections.spawn(serve_one(served, move || !asks.never()));
            if crowd.add(asked, task.abort_handle()) {
                tracing::debug!("the connection that has asked nothing for longest made room");
            }
        }
    }
    stopping.cancel();
    connections.close();
    connections.wait().await;
}

/// Serves a connection to its end, or until it was given the time for a first call and `has_asked` nothing.
pub(super) async fn serve_one<E: Display>(
    served: impl Future<Output = Result<(), E>>,
    has_asked: impl Fn() -> bool,
) {
    let mut served = pin!(served);
    let ended = match tokio::time::timeout(FIRST_CALL, &mut served).await {
        Err(_) if !has_asked() => {
            tracing::debug!("a connection was ended that asked nothing for {FIRST_CALL:?}");
            return;
        }
        Err(_) => served.await,
        Ok(ended) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
