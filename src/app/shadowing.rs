//! Asks a scope's shadow policies, beside the requests.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::audit::Recorder;
use crate::clock::Clock;
use crate::shadow::{Asked, Shadow};

/// The one that asks for one scope.
#[derive(Debug)]
pub(super) struct ShadowTask {
    pub(super) client_id: String,
    pub(super) shadow: Shadow,
    pub(super) waiting: mpsc::Receiver<Asked>,
    pub(super) recorder: Recorder,
    pub(super) clock: Clock,
}

impl ShadowTask {
    /// Asks one question after another until `end`; what is still queued then is let go.
    pub(super) async fn run(mut self, end: CancellationToken) {
        loop {
            let asked = tokio::select! {
                () = end.cancelled() => return,
                asked = self.waiting.recv() => asked,
            };
            let Some(asked) = asked else { return };
            let opinion = self.shadow.answer(&asked).await;
            self.recorder.record_shadow(&self.client_id, &asked, &opinion, self.clock.now());
        }
    }
}
