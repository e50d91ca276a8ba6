//! Two builds of the objects, held against each other in one run.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{Extent, Others, Row, built_objects, datapath, measure::median, table::table};

/// How much dearer a row may be.
const LIMIT: f64 = 1.03;

/// What a figure is of: path, hook, family, services, services in use, flows.
type Identity = (&'static str, &'static str, &'static str, u32, u32, u32);

/// A path's price with the built objects, in parts of its price with the others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// What the packet went through.
    pub path: &'static str,
    /// Where.
    pub hook: &'static str,
    /// `v4` or `v6`.
    pub family: &'static str,
    /// Services programmed.
    pub services: u32,
    /// Of these, how many traffic is spread over.
    pub drawn: u32,
    /// Live flows.
    pub flows: u32,
    /// Nanoseconds net of the harness, median over the turns: with the others, and with the built ones.
    pub net_ns: (f64, f64),
    /// Least, median and largest ratio over the turns, built to others.
    pub ratio: (f64, f64, f64),
}

impl Ratio {
    /// Whether the path has become dearer by more than may be.
    pub fn is_over(&self) -> bool {
        self.ratio.1 > LIMIT
    }
}

/// All ratios.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pairing {
    /// How often both were measured.
    pub turns: usize,
    /// By path.
    pub rows: Vec<Ratio>,
}

/// Measures the built objects beside those of the folder `against`, so many times, on tables that are filled afresh.
///
/// The layouts of the maps have to be the same: within a turn both run on the same tables.
pub fn paired(
    extent: Extent,
    against: &Path,
    turns: usize,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<Pairing> {
    ensure!(turns > 0, "there is nothing to compare in no turn");
    let mut figures = BTreeMap::<Identity, Vec<(f64, Others)>>::new();
    for turn in 1..=turns {
        let mut progress = |what: &str| progress(&format!("turn {turn} of {turns}: {what}"));
        let report = datapath(extent, &built_objects(), Some(against), &mut progress)?;
        for row in report.rows {
            // Some rows are of the measuring object's own programs.
            if let Some(others) = row.others {
                let turns = figures.entry(identity(&row)).or_default();
                turns.push((row.net_ns, others));
            }
        }
    }
    let rows = figures.into_iter();
    let rows = rows.map(|(identity, turns)| ratio(identity, &turns));
    Ok(Pairing {
        turns,
        rows: rows.collect(),
    })
}

fn identity(row: &Row) -> Identity {
    (
        row.path,
        row.hook,
        row.family,
        row.services,
        row.drawn,
        row.flows,
    )
}

fn ratio(identity: Identity, turns: &[(f64, Others)]) -> Ratio {
    let (path, hook, family, services, drawn, flows) = identity;
    let ratios = turns.iter().map(|(_, others)| others.ratio);
    let least = ratios.clone().fold(f64::INFINITY, f64::min);
    let largest = ratios.clone().fold(f64::NEG_INFINITY, f64::max);
    let others = turns.iter().map(|(_, others)| others.net_ns).collect();
    let built = turns.iter().map(|(built, _)| *built).collect();
    Ratio {
        path,
        hook,
        family,
        services,
        drawn,
        flows,
        net_ns: (median(others), median(built)),
        ratio: (least, median(ratios.collect()), largest),
    }
}

impl Pairing {
    /// The ratios for people.
    pub fn table(&self) -> String {
        let header = [
            "PATH", "HOOK", "FAMILY", "SERVICES", "IN USE", "FLOWS", "OTHER NS", "BUILT NS",
            "RATIO", "LEAST", "MOST", "",
        ];
        let rows = self.rows.iter().map(|row| {
            let (other, built) = row.net_ns;
            let (least, ratio, most) = row.ratio;
            vec![
                row.path.to_owned(),
                row.hook.to_owned(),
                row.family.to_owned(),
                row.services.to_string(),
                row.drawn.to_string(),
                row.flows.to_string(),
                format!("{other:.1}"),
                format!("{built:.1}"),
                format!("{ratio:.3}"),
                format!("{least:.3}"),
                format!("{most:.3}"),
                if row.is_over() { "OVER" } else { "" }.to_owned(),
            ]
        });
        let mut text = table(&header, rows);
        let _ = writeln!(
            text,
            "\nmedians over {} turns; a row may be {LIMIT} times as dear",
            self.turns
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_over_the_turns() {
        let others = [(10.0, 1.1), (20.0, 1.0), (10.0, 1.02)];
        let turns: Vec<_> = others
            .map(|(net_ns, ratio)| (net_ns * ratio, Others { net_ns, ratio }))
            .into();
        let row = ratio(("local", "xdp", "v4", 1, 1, 1), &turns);
        assert_eq!(row.net_ns, (10.0, 11.0));
        let (least, middle, most) = row.ratio;
        assert!(
            (least - 1.0).abs() < 1e-9 && (middle - 1.02).abs() < 1e-9 && (most - 1.1).abs() < 1e-9
        );
        assert!(!row.is_over());
    }
}
