//! Keeps a number of requests in flight: each waits for its answer, and the next one follows.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::task::JoinSet;

use crate::Fault;
use crate::draw::{Deck, Draw};
use crate::run::Session;

/// Sends what `draw` gives until it gives nothing, with `streams` in flight on each connection.
pub(crate) async fn send(
    session: &Rc<Session>,
    streams: usize,
    draw: impl FnMut(&mut Deck) -> Result<Option<Draw>, Fault> + 'static,
) -> Result<(), Fault> {
    let draw = Rc::new(RefCell::new(draw));
    let mut workers = JoinSet::new();
    for connection in 0..session.connections.len() {
        for _ in 0..streams {
            let (session, draw) = (Rc::clone(session), Rc::clone(&draw));
            workers.spawn_local(async move {
                let next = || (draw.borrow_mut())(&mut session.deck.borrow_mut());
                while let Some(drawn) = next()? {
                    session.ask(connection, &drawn).await?;
                }
                Ok::<(), Fault>(())
            });
        }
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}
