//! Stands for a cloud's store in a build without it: there can be none.

use std::time::Duration;

use super::{KeyLocation, KeyMaterial, SecretError, Version};

/// A store that can't be.
#[derive(Debug)]
pub(super) enum Absent {}

#[expect(clippy::unused_async, reason = "has the form of the stores it stands for")]
impl Absent {
    pub(super) fn id(&self) -> &str {
        match *self {}
    }

    pub(super) const fn refresh_interval(&self) -> Duration {
        match *self {}
    }

    pub(super) fn check(&self, _: &KeyLocation) -> Result<(), SecretError> {
        match *self {}
    }

    pub(super) async fn read(&self, _: &KeyLocation) -> Result<KeyMaterial, SecretError> {
        match *self {}
    }

    pub(super) async fn versions(
        &self,
        _: &KeyLocation,
    ) -> Result<Option<Vec<Version>>, SecretError> {
        match *self {}
    }

    pub(super) async fn read_version(
        &self,
        _: &KeyLocation,
        _: u64,
    ) -> Result<KeyMaterial, SecretError> {
        match *self {}
    }
}
