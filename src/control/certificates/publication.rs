//! Where it is said which authorities to trust.

use kube::api::PostParams;

use super::CertificateError;

/// Who writes, as the API keeps it of each field.
pub(super) const MANAGER: &str = "placet-control";

/// A place in the cluster where those look who are to trust the authorities.
pub trait Publication {
    /// What is there.
    type Seen: Seen;

    /// What is there now.
    ///
    /// # Errors
    /// If it can't be read.
    fn seen(&self) -> impl Future<Output = Result<Self::Seen, CertificateError>> + Send;

    /// Says that `bundle` is to be trusted, where nobody has written since it was `seen`.
    ///
    /// # Errors
    /// If it can't be written.
    fn publish(
        &self,
        seen: &Self::Seen,
        bundle: &str,
    ) -> impl Future<Output = Result<Write, CertificateError>> + Send;

    /// Waits until there is more to be said, or less.
    fn wanted(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// What was found in a [`Publication`].
pub trait Seen: Send + Sync {
    /// Whether everybody was told of `authority`, PEM.
    fn has(&self, authority: &str) -> bool;

    /// Whether everybody was told of `bundle` and nothing else.
    fn is(&self, bundle: &str) -> bool;
}

/// Whether something was written, or somebody else was first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Write {
    /// It was.
    Done,
    /// It was not.
    Conflict,
}

pub(super) fn outcome<T>(
    result: kube::Result<T>,
    what: &'static str,
    name: &str,
) -> Result<Write, CertificateError> {
    match result {
        Ok(_) => Ok(Write::Done),
        // Also where it is there already, or no more.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Write::Conflict),
        Err(error) => Err(api(what, name, error)),
    }
}

pub(super) fn api(what: &'static str, name: &str, source: kube::Error) -> CertificateError {
    CertificateError::Api { what, name: name.to_owned(), source: Box::new(source) }
}

pub(super) fn writer() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}
