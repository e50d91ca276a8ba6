//! The agent's own trials of the kernel, as rows of the report.

use super::{
    finding::FindingState,
    kernel::{FeatureRow, Tried},
};
use crate::agent::probe::{Feature, Features, Finding, State, Without};

/// What came of the trials. With `refuses` the agent does not start without what nothing stands in for
/// (`--check-kernel`).
pub(super) fn tried(features: &Features, refuses: bool) -> Tried {
    let of_jit = features.findings().find(|it| it.feature == Feature::Jit);
    let others = features.findings().filter(|it| it.feature != Feature::Jit);
    Tried {
        compiles: of_jit.and_then(|it| match it.state {
            State::Has => Some(true),
            State::Lacks => Some(false),
            State::Unknown(_) => None,
        }),
        tcx: features.has(Feature::Tcx),
        rows: others.map(|it| row(&it, refuses)).collect(),
    }
}

fn row(finding: &Finding, refuses: bool) -> FeatureRow {
    let without = match finding.feature.without() {
        Without::Instead(text) | Without::Refuse(text) => text,
    };
    let (state, found, action) = match (finding.state, finding.feature.without()) {
        (State::Has, _) => (FindingState::Ok, "the kernel has it".to_owned(), ""),
        (State::Lacks, Without::Refuse(_)) if refuses => {
            let action = "run a kernel that has it, or try all the same by --check-kernel=false";
            (
                FindingState::Failure,
                "the kernel lacks it".to_owned(),
                action,
            )
        }
        (State::Lacks, Without::Refuse(_) | Without::Instead(_)) => (
            FindingState::Warning,
            "the kernel lacks it".to_owned(),
            "nothing has to be done; a newer kernel has it",
        ),
        (State::Unknown(error), _) => (
            FindingState::Unknown,
            format!("it cannot be tried: {error}"),
            "run preflight as root",
        ),
    };
    FeatureRow {
        name: finding.feature.to_string(),
        state,
        found,
        consequence: without.to_owned(),
        action: action.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(state: &State, refuses: bool) -> Vec<FindingState> {
        let features = Features::by(|_| state.clone());
        let tried = tried(&features, refuses);
        tried.rows.iter().map(|row| row.state).collect()
    }

    #[test]
    fn what_nothing_stands_in_for_is_a_failure_unless_it_is_to_be_tried_all_the_same() {
        let [first, rest @ ..] = &states(&State::Lacks, true)[..] else {
            panic!("there are features");
        };
        assert_eq!(*first, FindingState::Failure);
        assert!(
            rest.iter().all(|it| *it == FindingState::Warning),
            "{rest:?}"
        );
        let all = states(&State::Lacks, false);
        assert!(all.iter().all(|it| *it == FindingState::Warning), "{all:?}");
    }

    #[test]
    fn a_trial_that_fails_tells_nothing() {
        let unknown = State::Unknown("EPERM".into());
        let states = states(&unknown, true);
        assert!(
            states.iter().all(|it| *it == FindingState::Unknown),
            "{states:?}"
        );
        let features = Features::by(|_| unknown.clone());
        let tried = tried(&features, true);
        assert_eq!((tried.compiles, tried.tcx), (None, false));
    }

    #[test]
    fn a_new_kernel_has_everything() {
        let features = Features::by(|_| State::Has);
        let tried = tried(&features, true);
        assert_eq!((tried.compiles, tried.tcx), (Some(true), true));
        assert!(tried.rows.iter().all(|row| row.state == FindingState::Ok));
        assert_eq!(tried.rows.len(), Feature::ALL.len() - 1);
    }
}
