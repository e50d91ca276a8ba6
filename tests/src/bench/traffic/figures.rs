//! What runs come to, and how those of two contestants compare.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::contestant::{Case, Contestant};

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    /// How much in a second.
    pub(super) rate: f64,
    /// Microseconds of one that half are not above; none where they are not timed one by one.
    pub(super) p50: Option<f64>,
    /// The same of 99 of 100.
    pub(super) p99: Option<f64>,
}

impl Run {
    /// Of what each took, one after the other.
    pub(super) fn of_each(taken: &[Duration]) -> Self {
        let mut sorted = taken.to_vec();
        sorted.sort_unstable();
        let seconds = sorted.iter().sum::<Duration>().as_secs_f64();
        // The least that so many of a hundred are not above.
        let percentile = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            Some(sorted.get(rank - 1)?.as_secs_f64() * 1e6)
        };
        Self {
            rate: count(sorted.len() as u64) / seconds,
            p50: percentile(50),
            p99: percentile(99),
        }
    }

    /// Of a stream; the rate is in megabytes.
    pub(super) fn of_bytes(bytes: u64, taken: Duration) -> Self {
        Self::of_rate(count(bytes) / 1e6 / taken.as_secs_f64())
    }

    /// Of how much was done in so much time of a CPU.
    pub(super) fn of_cpu(done: u64, taken: Duration) -> Self {
        Self::of_rate(count(done) / taken.as_secs_f64())
    }

    const fn of_rate(rate: f64) -> Self {
        Self {
            rate,
            p50: None,
            p99: None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "all are far below 2^52")]
const fn count(number: u64) -> f64 {
    number as f64
}

/// One of the numbers of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Figure {
    /// How much in a second.
    Rate,
    /// The time of one that half are not above.
    P50,
    /// The time of one that 99 of 100 are not above.
    P99,
}

impl Figure {
    pub(super) const ALL: [Self; 3] = [Self::Rate, Self::P50, Self::P99];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::P50 => "p50",
            Self::P99 => "p99",
        }
    }

    fn of(self, run: &Run) -> Option<f64> {
        match self {
            Self::Rate => Some(run.rate),
            Self::P50 => run.p50,
            Self::P99 => run.p99,
        }
    }

    /// How good `ours` is beside `theirs`: above 1 where it is better, of times as of rates.
    fn ratio(self, ours: &Run, theirs: &Run) -> Option<f64> {
        let (ours, theirs) = (self.of(ours)?, self.of(theirs)?);
        Some(match self {
            Self::Rate => ours / theirs,
            Self::P50 | Self::P99 => theirs / ours,
        })
    }
}

/// The middle of a set of figures, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Middle {
    /// Half are not above.
    pub median: f64,
    /// A quarter is not above.
    pub low: f64,
    /// A quarter is not below.
    pub high: f64,
}

impl Middle {
    /// Of these; none of none.
    pub(super) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let last = figures.len().checked_sub(1)?;
        let at = |index: usize| figures.get(index).copied();
        Some(Self {
            median: f64::midpoint(at(last / 2)?, at(last.div_ceil(2))?),
            low: at(last / 4)?,
            high: at(last - last / 4)?,
        })
    }
}

/// The runs of one size, in the order of their rounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs(BTreeMap<(Contestant, Case), Vec<Run>>);

impl Runs {
    /// Takes in the run of another round.
    pub(super) fn push(&mut self, contestant: Contestant, case: Case, run: Run) {
        self.0.entry((contestant, case)).or_default().push(run);
    }

    /// All there are, by contestant.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Contestant, Case)> {
        self.0.keys().copied()
    }

    /// A figure of a contestant.
    pub(super) fn middle(&self, contestant: Contestant, case: Case, of: Figure) -> Option<Middle> {
        let runs = self.0.get(&(contestant, case))?;
        Middle::of(runs.iter().filter_map(|run| of.of(run)).collect())
    }

    /// How good a contestant's figure is beside that of another, round by round.
    pub(super) fn ratio(
        &self,
        [ours, theirs]: [Contestant; 2],
        case: Case,
        of: Figure,
    ) -> Option<Middle> {
        self.by_round([ours, theirs], case, |ours, theirs| of.ratio(ours, theirs))
    }

    /// How many microseconds of a CPU one of ours takes more than one of theirs, round by round.
    pub(super) fn excess(&self, [ours, theirs]: [Contestant; 2], case: Case) -> Option<Middle> {
        self.by_round([ours, theirs], case, |ours, theirs| {
            Some(1e6 / ours.rate - 1e6 / theirs.rate)
        })
    }

    fn by_round(
        &self,
        [ours, theirs]: [Contestant; 2],
        case: Case,
        compare: impl Fn(&Run, &Run) -> Option<f64>,
    ) -> Option<Middle> {
        let (ours, theirs) = (self.0.get(&(ours, case))?, self.0.get(&(theirs, case))?);
        let rounds = ours.iter().zip(theirs);
        Middle::of(rounds.filter_map(|(a, b)| compare(a, b)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::traffic::contestant::{Client, Measure};

    const CASE: Case = Case::new(Client::Host, Measure::KeepAlive);
    const BOTH: [Contestant; 2] = [Contestant::Fairlead, Contestant::Direct];

    fn run(rate: f64, p50: f64) -> Run {
        Run {
            rate,
            p50: Some(p50),
            p99: None,
        }
    }

    fn runs(rounds: &[[Run; 2]]) -> Runs {
        let mut runs = Runs::default();
        for round in rounds {
            for (contestant, run) in BOTH.into_iter().zip(round) {
                runs.push(contestant, CASE, *run);
            }
        }
        runs
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let taken: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        let run = Run::of_each(&taken);
        assert_eq!((run.p50, run.p99), (Some(100.0), Some(198.0)));
        assert!((run.rate - 200.0 / 0.0201).abs() < 1.0, "{run:?}");
        assert_eq!(Run::of_each(&[]).p50, None);
    }

    #[test]
    fn the_middle_of_an_even_number_is_between_two() {
        let middle = |median, low, high| Some(Middle { median, low, high });
        assert_eq!(Middle::of(vec![]), None);
        assert_eq!(Middle::of(vec![3.0]), middle(3.0, 3.0, 3.0));
        assert_eq!(Middle::of(vec![4.0, 1.0, 2.0, 3.0]), middle(2.5, 1.0, 4.0));
        let many = (0..=8).map(f64::from).collect();
        assert_eq!(Middle::of(many), middle(4.0, 2.0, 6.0));
    }

    #[test]
    fn ratios_are_those_within_a_round() {
        // The machine was twice as fast in the second round, and thrice in the third.
        let runs = runs(&[
            [run(9.0, 20.0), run(10.0, 10.0)],
            [run(18.0, 10.0), run(20.0, 5.0)],
            [run(27.0, 6.0), run(30.0, 3.0)],
        ]);
        let median = |of| runs.ratio(BOTH, CASE, of).map(|middle| middle.median);
        assert_eq!(median(Figure::Rate), Some(0.9));
        // Twice the time is half as good.
        assert_eq!(median(Figure::P50), Some(0.5));
        assert_eq!(median(Figure::P99), None);
    }

    #[test]
    fn who_was_not_measured_compares_with_nobody() {
        let runs = runs(&[[run(9.0, 20.0), run(10.0, 10.0)]]);
        let with_nftables = [Contestant::Fairlead, Contestant::Nftables];
        assert_eq!(runs.ratio(with_nftables, CASE, Figure::Rate), None);
        assert_eq!(runs.excess(with_nftables, CASE), None);
    }

    #[test]
    fn an_excess_is_of_one_each() {
        let each = |nanoseconds| Run::of_cpu(1000, Duration::from_nanos(nanoseconds) * 1000);
        let runs = runs(&[[each(2500), each(1000)]]);
        let excess = runs.excess(BOTH, CASE).map(|excess| excess.median);
        assert!(excess.is_some_and(|micros| (micros - 1.5).abs() < 1e-9));
    }
}
