//! Tells systemd, where it asks by `NOTIFY_SOCKET`, what the process is doing (sd_notify(3)).

use sd_notify::NotifyState;

/// It serves, with the settings in force.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads the settings again; [`ready`] follows.
pub(super) fn reloading() {
    // With `Type=notify-reload` the time says which reload is meant.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// It is about to end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
