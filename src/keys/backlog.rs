//! Signing that takes long: RSA on threads of its own, no more at a time than there are cores, and whatever
//! a store signs. Of both only so many may wait: one more is refused at once rather than queued.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::error::Unspecified;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Algorithm;
use super::private_key::PrivateKey;

/// How many signatures of one key may be under way.
const MAX_UNDER_WAY: usize = 128;

static CORES: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Semaphore::new(cores)
});

/// The signatures of one key that are under way.
#[derive(Debug)]
pub(super) struct Backlog(Semaphore);

impl Backlog {
    pub(super) fn new() -> Self {
        Self(Semaphore::new(MAX_UNDER_WAY))
    }

    /// Adds one to those under way, while what is returned lives; `None` if there is no more room.
    pub(super) fn admit(&self) -> Option<SemaphorePermit<'_>> {
        self.0.try_acquire().ok()
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        MAX_UNDER_WAY.saturating_sub(self.0.available_permits())
    }
}

/// Signs on a thread that may take its time.
pub(super) async fn sign_aside(
    key: &Arc<PrivateKey>,
    algorithm: Algorithm,
    message: &[u8],
) -> Result<Vec<u8>, Unspecified> {
    let _core = CORES.acquire().await.map_err(|_| Unspecified)?;
    let (key, message) = (Arc::clone(key), message.to_vec());
    let signing = tokio::task::spawn_blocking(move || key.sign(algorithm, &message));
    signing.await.map_err(|_| Unspecified)?
}
