//! What a check comes to.

use serde::Serialize;

/// How well a checked fact suits the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FindingState {
    /// Nothing to do.
    Ok,
    /// The fact is hidden from this user or this container.
    Unknown,
    /// The agent serves, with less than it could do.
    Warning,
    /// The agent would not start, or would not serve this node.
    Failure,
}

impl FindingState {
    /// The word that every output format has for it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// The result of one check on one subject. Every text is one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct NodeFinding {
    /// Stable name of the check.
    pub(super) check: &'static str,
    /// The interface, module or option that the check looked at, if there are several.
    pub(super) subject: Option<String>,
    /// The result.
    pub(super) state: FindingState,
    /// The fact.
    pub(super) found: String,
    /// Why the fact matters; none if the state is ok.
    pub(super) why: Option<String>,
    /// What to do about it; none if the state is ok.
    pub(super) action: Option<String>,
}

impl NodeFinding {
    /// A fact that suits.
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            subject: None,
            state: FindingState::Ok,
            found: found.into(),
            why: None,
            action: None,
        }
    }

    /// A fact that is hidden.
    pub(super) fn unknown(
        check: &'static str,
        found: impl Into<String>,
        why: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self::new(check, FindingState::Unknown, found, why, action)
    }

    /// A fact that costs something.
    pub(super) fn warning(
        check: &'static str,
        found: impl Into<String>,
        why: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self::new(check, FindingState::Warning, found, why, action)
    }

    /// A fact that keeps the agent from serving.
    pub(super) fn failure(
        check: &'static str,
        found: impl Into<String>,
        why: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self::new(check, FindingState::Failure, found, why, action)
    }

    /// A finding of any state that is not ok.
    pub(super) fn new(
        check: &'static str,
        state: FindingState,
        found: impl Into<String>,
        why: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self {
            check,
            subject: None,
            state,
            found: found.into(),
            why: Some(why.into()),
            action: Some(action.into()),
        }
    }

    /// The same, about this interface, module or option.
    pub(super) fn on(self, subject: impl Into<String>) -> Self {
        Self {
            subject: Some(subject.into()),
            ..self
        }
    }
}
