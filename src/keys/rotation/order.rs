//! What an operator may order: a key to sign before its time, or never again.

use std::fmt;

use tokio::sync::oneshot;

/// What is to be done with a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Order {
    Activate,
    Withdraw,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Activate => "activate",
            Self::Withdraw => "withdraw",
        })
    }
}

/// An order for one key, on its way to the loop that carries it out.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) order: Order,
    /// The key's id or thumbprint.
    pub(super) name: String,
    pub(super) reply: oneshot::Sender<Result<(), OrderError>>,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// No such key.
    #[error("there is no key `{name}`: there are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The key ids there are.
        known: String,
    },
    /// Two versions under one key id.
    #[error("several keys have the key id `{name}`: give the thumbprint, one of {thumbprints}")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The thumbprints of those keys.
        thumbprints: String,
    },
    /// The key signs already, or did before.
    #[error(
        "the key `{name}` is not a next one: to go back to an earlier key, withdraw the later ones"
    )]
    NotNext {
        /// What was asked for.
        name: String,
    },
    /// The process ends, or read its settings again just now.
    #[error("the keys are being loaded anew: try again")]
    Ended,
}
