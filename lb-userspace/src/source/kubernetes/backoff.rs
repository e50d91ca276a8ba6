//! When to try again.
//!
//! A node that lost the API server tries with one connection at a time, however many watches it
//! has, so what a server that comes back has to bear is one attempt of each node within the
//! longest pause. A second is bearable in a cluster of some hundred nodes and lets a node be in
//! line again within two. Of larger clusters only a hint is at hand: the number of slices, which
//! grows with that of the pods and so with that of the nodes. The longest pause grows with it.

use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause in a cluster of usual size.
const LONGEST: Duration = Duration::from_secs(1);

/// The longest pause in any cluster.
const LONGEST_EVER: Duration = Duration::from_secs(10);

/// Each further this many slices add [`LONGEST`] to the longest pause.
const SLICES: usize = 20_000;

/// An answer that did not change in this many tries is asked for less often.
const STUBBORN: u32 = 30;

/// What a stubborn answer stretches pauses by.
const STRETCH: u32 = 10;

/// A number of 0 to 1, of which each is as likely as any other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance(pub(super) f64);

/// The longest pause while the cluster has this many slices.
pub(super) fn longest(slices: usize) -> Duration {
    let steps = u32::try_from(slices / SLICES).unwrap_or(u32::MAX);
    LONGEST
        .saturating_mul(steps.saturating_add(1))
        .min(LONGEST_EVER)
}

/// The pause after so many failures to get through, the first of them 1.
pub(super) fn pause(failures: u32, longest: Duration, chance: Chance) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    // Between half of it and all: nodes that lost the server together do not return together.
    doubled.min(longest).mul_f64(0.5 + chance.0 / 2.0)
}

/// The pause after so many refusals by a server that can be reached.
pub(super) fn pause_refused(failures: u32, longest: Duration, chance: Chance) -> Duration {
    let stretch = if failures > STUBBORN { STRETCH } else { 1 };
    pause(failures, longest, chance) * stretch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses = |chance| (1..=6).map(move |n| pause(n, LONGEST, Chance(chance)).as_millis());
        assert!(pauses(1.0).eq([100, 200, 400, 800, 1000, 1000]));
        assert!(pauses(0.0).eq([50, 100, 200, 400, 500, 500]));
        assert_eq!(pause(u32::MAX, LONGEST, Chance(1.0)), LONGEST);
    }

    #[test]
    fn the_longest_pause_grows_with_the_cluster() {
        let seconds = |slices| longest(slices).as_secs();
        assert_eq!(seconds(0), 1);
        assert_eq!(seconds(19_999), 1);
        assert_eq!(seconds(20_000), 2);
        assert_eq!(seconds(usize::MAX), 10);
    }

    #[test]
    fn a_stubborn_refusal_is_asked_less_often() {
        let seconds = |n| pause_refused(n, LONGEST, Chance(1.0)).as_secs();
        assert_eq!((seconds(30), seconds(31)), (1, 10));
    }
}
