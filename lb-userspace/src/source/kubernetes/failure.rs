//! Why the API server did not do as it was asked, and what that means.

use std::error::Error;

use kube::core::Status;
use thiserror::Error;

/// Why a request, or the stream that answers it, came to nothing.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// The server could not be reached, or broke off.
    #[error("{0}")]
    Lost(String),
    /// It refused.
    #[error("{message} ({code})")]
    Refused {
        /// HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// It does not remember that far back: only a list helps.
    #[error("the history of changes does not reach back that far")]
    Expired,
    /// It sent what is not to be understood.
    #[error("an answer cannot be read: {0}")]
    Unreadable(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let expired = status.code == 410 || matches!(&*status.reason, "Expired" | "Gone");
        if expired {
            return Self::Expired;
        }
        let words = [status.message, status.reason, "refused".to_owned()];
        let message = words.into_iter().find(|text| !text.is_empty());
        Self::Refused {
            code: status.code,
            message: one_line(&message.unwrap_or_default()),
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => (*status).into(),
            kube::Error::SerdeError(error) => Self::Unreadable(error.to_string()),
            other => Self::Lost(root(&other)),
        }
    }
}

impl Failure {
    /// Whether another way to list might succeed.
    pub(super) const fn is_answer(&self) -> bool {
        match self {
            Self::Lost(_) => false,
            Self::Refused { .. } | Self::Expired | Self::Unreadable(_) => true,
        }
    }
}

/// The cause behind all causes: what is in front of it tells the path of the error through the
/// layers of the client.
pub(super) fn root(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    one_line(&error.to_string())
}

/// Hostile text must not look like lines of ours.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 300;
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    text.take(LONGEST).collect()
}

/// Bad news of a kind of object, until it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Since when, RFC 3339.
    pub(super) since: String,
    /// The server.
    pub(super) server: String,
    /// Whether the server cannot be reached at all.
    pub(super) unreachable: bool,
    /// Why.
    pub(super) cause: String,
}
