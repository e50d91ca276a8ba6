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

/// How often in a row a watch has come to nothing with a server that can be reached. One that cannot
/// be is for the link to wait for, on behalf of all watches: when it is back, none of them is to rest
/// for what it has not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failures(u32);

impl Failures {
    /// Takes note of a failure; `down` says whether the link has lost the server.
    pub(super) fn note(&mut self, failure: &Failure, down: bool) {
        let out_of_reach = down && matches!(failure, Failure::Lost(_));
        self.0 = if out_of_reach {
            0
        } else {
            self.0.saturating_add(1)
        };
    }

    /// All is well.
    pub(super) fn clear(&mut self) {
        self.0 = 0;
    }

    /// How many.
    pub(super) const fn count(self) -> u32 {
        self.0
    }

    /// After how many failures the watch has to rest, since it has just come to nothing by this one; none
    /// if it may try again at once.
    pub(super) const fn to_rest_for(self, failure: &Failure) -> Option<u32> {
        match failure {
            // A stream that broke is opened again, and what has expired is listed.
            Failure::Lost(_) | Failure::Expired if self.0 <= 1 => None,
            Failure::Lost(_)
            | Failure::Expired
            | Failure::Refused { .. }
            | Failure::Unreadable(_) => Some(self.0),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Failure {
        Failure::Lost("connection refused".to_owned())
    }

    fn refused() -> Failure {
        Failure::Refused {
            code: 403,
            message: "forbidden".to_owned(),
        }
    }

    /// After these failures of a watch, each with whether the link is down by then.
    fn rest_after(failures: &[(Failure, bool)]) -> Option<u32> {
        let mut count = Failures::default();
        for (failure, down) in failures {
            count.note(failure, *down);
        }
        count.to_rest_for(&failures.last().unwrap().0)
    }

    #[test]
    fn a_single_failure_is_tried_again_at_once_unless_it_is_the_servers_word() {
        assert_eq!(rest_after(&[(lost(), false)]), None);
        assert_eq!(rest_after(&[(Failure::Expired, false)]), None);
        assert_eq!(rest_after(&[(refused(), false)]), Some(1));
    }

    #[test]
    fn failures_in_a_row_have_a_watch_rest() {
        assert_eq!(rest_after(&[(lost(), false), (lost(), false)]), Some(2));
        let expired = [(Failure::Expired, false), (Failure::Expired, false)];
        assert_eq!(rest_after(&expired), Some(2));
    }

    #[test]
    fn nobody_rests_for_a_server_that_was_away() {
        for last in [lost(), Failure::Expired] {
            let mut failures: Vec<_> = (0..1000).map(|_| (lost(), true)).collect();
            failures.push((last, false));
            assert_eq!(rest_after(&failures), None);
            failures.pop();
            assert_eq!(rest_after(&failures), None);
            failures.push((refused(), false));
            assert_eq!(rest_after(&failures), Some(1));
        }
    }
}
