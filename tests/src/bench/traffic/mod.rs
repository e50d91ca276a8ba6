//! `cargo xtask bench traffic`: what clients have of a proxy, beside kube-proxy and beside none.
//!
//! A real control plane holds so many Services. Each [`Contestant`] has a topology of its own, at the same
//! time as the others, where clients ask the same servers: a process on the node, one in a pod, another
//! machine. In each round each contestant does each thing for a moment, each round in another order;
//! a figure is the median over the rounds, and what is compared is compared within a round.

mod ask;
mod contestant;
mod cpu;
mod figures;
mod ground;
mod node_port;
mod objects;
mod report;
mod requirements;
mod serve;
mod source;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::{
    ask::Span,
    contestant::Case,
    figures::Runs,
    ground::{Ground, Start},
    source::Source,
};
use super::control_plane::{self, Size};
use crate::kube::{are_there, iptables_version};

pub use contestant::{Client, Contestant, Measure};
pub use figures::{Figure, Middle};
pub use report::{Absence, Report, Row};
pub use requirements::{Bound, Requirement};

/// How long a run is, first unmeasured and then measured.
const SPAN: Span = Span {
    warm_up: Duration::from_millis(50),
    length: Duration::from_millis(250),
};
/// What comes with each run: another group for this process, threads.
const AROUND_RUN: Duration = Duration::from_millis(40);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many objects.
    pub sizes: Vec<Size>,
    /// With whom.
    pub contestants: Vec<Contestant>,
    /// How often each.
    pub rounds: usize,
}

impl Options {
    /// About how long it takes, if kube-proxy starts at once.
    pub fn estimate(&self) -> Duration {
        let run = SPAN.warm_up + SPAN.length + AROUND_RUN;
        let runs: usize = self
            .contestants
            .iter()
            .map(|contestant| cases(*contestant).count())
            .sum();
        let rounds = run * u32::try_from(runs * self.rounds).unwrap_or(u32::MAX);
        let starts = control_plane::AROUND * u32::try_from(self.contestants.len()).unwrap_or(0);
        let sizes = self.sizes.iter();
        sizes.map(|size| size.making() + starts + rounds).sum()
    }
}

/// Measures; `progress` is told what is at hand.
pub fn measure(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    ensure!(
        cpu::count() >= 2,
        "there is one CPU only: clients and servers need one each"
    );
    let mut report = Report {
        rounds: options.rounds,
        ..Report::default()
    };
    if options.contestants.contains(&Contestant::Iptables) && are_there() {
        report.iptables = iptables_version()?;
    }
    for size in &options.sizes {
        let runs = one(*size, options, &mut report.absences, progress);
        report.add(*size, &runs.with_context(|| format!("at {size}"))?);
    }
    Ok(report)
}

fn cases(contestant: Contestant) -> impl Iterator<Item = Case> {
    let cases = Case::ALL.into_iter();
    cases.filter(move |case| case.is_of(contestant))
}

fn one(
    size: Size,
    options: &Options,
    absences: &mut Vec<Absence>,
    progress: &mut dyn FnMut(&str),
) -> Result<Runs> {
    progress(&format!("{size}: making the objects"));
    let mut source = Source::new(size, ground::pods())?;
    let mut grounds = Vec::new();
    for contestant in &options.contestants {
        let name = contestant.name();
        progress(&format!("{size}: starting {name}"));
        let started = Ground::start(&mut source, *contestant);
        match started.with_context(|| format!("cannot start {name}"))? {
            Start::Ready(ground) => grounds.push(*ground),
            Start::Absent(why) => {
                progress(&format!("{size}: {name} is absent: {why}"));
                absences.push(Absence {
                    services: size.services,
                    contestant: *contestant,
                    why,
                });
            }
        }
    }
    let mut runs = Runs::default();
    for round in 0..options.rounds {
        progress(&format!(
            "{size}: round {} of {}",
            round + 1,
            options.rounds
        ));
        let order = order(round, grounds.len());
        for case in Case::ALL {
            for ground in order.iter().filter_map(|index| grounds.get(*index)) {
                if case.is_of(ground.contestant()) {
                    let run = ground.run(case, SPAN)?;
                    runs.push(ground.contestant(), case, run);
                }
            }
        }
        grounds.iter_mut().try_for_each(Ground::check_alive)?;
    }
    Ok(runs)
}

/// Who comes after whom in a round: each is first in turn, and after the one and the other.
fn order(round: usize, count: usize) -> Vec<usize> {
    let all = (0..count).map(|place| (place + round) % count);
    if (round / count.max(1)).is_multiple_of(2) {
        all.collect()
    } else {
        all.rev().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_at_an_advantage_by_the_order() {
        let rounds: Vec<_> = (0..8).map(|round| order(round, 4)).collect();
        for who in 0..4 {
            for place in 0..4 {
                let there = rounds.iter().filter(|round| round[place] == who).count();
                assert_eq!(there, 2, "{who} at {place} of {rounds:?}");
            }
        }
        assert_eq!(rounds[0], [0, 1, 2, 3]);
        assert_eq!(rounds[1], [1, 2, 3, 0]);
        assert_eq!(rounds[4], [3, 2, 1, 0]);
        assert_eq!(order(3, 0), [0; 0]);
    }
}
