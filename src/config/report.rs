//! Collects what is wrong, so that all of it is said at once.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::files::Look;

/// Errors and warnings, each with the path of the setting it is about.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// What is wrong with what this machine has for the listeners: an error for who binds them.
    pub(super) for_listeners: Vec<String>,
    /// What was read, or is read once by what the settings make.
    pub(super) files: Look,
    /// Those of the files that are no settings.
    pub(super) named: Vec<PathBuf>,
    /// Whether the settings are those of another machine, whose listeners, files and environment are not
    /// here: only files below the settings' own folder are read.
    pub(super) is_elsewhere: bool,
}

impl Report {
    /// For settings of another machine.
    #[cfg(feature = "control")]
    pub(super) fn of_another_machine() -> Self {
        Self { is_elsewhere: true, ..Self::default() }
    }

    pub(super) fn error(&mut self, path: impl Display, message: impl Display) {
        self.errors.push(format!("{path}: {message}"));
    }

    pub(super) fn warning(&mut self, path: impl Display, message: impl Display) {
        self.warnings.push(format!("{path}: {message}"));
    }

    pub(super) fn for_listeners(&mut self, path: impl Display, message: impl Display) {
        self.for_listeners.push(format!("{path}: {message}"));
    }

    /// What listeners need is needed.
    pub(super) fn for_a_listener(&mut self) {
        self.errors.append(&mut self.for_listeners);
    }

    /// What listeners need is not needed now.
    pub(super) fn for_nobody_listening(&mut self) {
        self.warnings.append(&mut self.for_listeners);
    }

    /// Notes that the settings at `file` are about to be read.
    pub(super) fn reads(&mut self, file: &Path) {
        self.files.note(file);
    }

    /// Notes that what the settings name as `file` is about to be read.
    pub(super) fn reads_named(&mut self, file: &Path) {
        self.reads(file);
        self.named.push(file.to_owned());
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
