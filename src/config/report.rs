//! Collects what is wrong, so that all of it is said at once.

use std::fmt::Display;

/// Errors and warnings, each with the path of the setting it is about.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// What is wrong with what this machine has for the listeners: an error for who binds them.
    pub(super) for_listeners: Vec<String>,
}

impl Report {
    pub(super) fn error(&mut self, path: impl Display, message: impl Display) {
        self.errors.push(format!("{path}: {message}"));
    }

    pub(super) fn warning(&mut self, path: impl Display, message: impl Display) {
        self.warnings.push(format!("{path}: {message}"));
    }

    pub(super) fn for_listeners(&mut self, path: impl Display, message: impl Display) {
        self.for_listeners.push(format!("{path}: {message}"));
    }

    /// The value, or an error under `path`.
    pub(super) fn keep<T, E: Display>(
        &mut self,
        path: impl Display,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.error(path, error)).ok()
    }

    /// Whether an error about the setting at `path` was said already.
    pub(super) fn has(&self, path: impl Display) -> bool {
        let start = format!("{path}: ");
        self.errors.iter().any(|error| error.starts_with(&start))
    }

    /// The value, or an error that says that it is required. One that was unreadable is not missed
    /// a second time.
    pub(super) fn required<T>(&mut self, path: impl Display, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.has(&path) {
            self.error(path, "is required");
        }
        value
    }
}
