//! What came out.

use serde::Serialize;

use super::{
    contestant::{Client, Contestant, Measure},
    figures::{Figure, Middle, Runs},
    requirements::{Requirement, requirements},
};
use crate::bench::{
    control_plane::Size,
    table::{Cells, table},
};

/// A whole run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The `iptables` that kube-proxy had.
    pub iptables: String,
    /// How often each was run.
    pub rounds: usize,
    /// Who was not measured, where and why.
    pub absences: Vec<Absence>,
    /// The figures.
    pub rows: Vec<Row>,
    /// What is asked for, and how it is.
    pub requirements: Vec<Requirement>,
}

/// Who was not measured.
#[derive(Clone, Debug, Serialize)]
pub struct Absence {
    /// Services there were.
    pub services: u32,
    /// Who.
    pub contestant: Contestant,
    /// Why.
    pub why: String,
}

/// The figures of one contestant in one thing: medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Services there were.
    pub services: u32,
    /// Where the client was.
    pub client: Client,
    /// What it did.
    pub measure: Measure,
    /// Who led it.
    pub contestant: Contestant,
    /// How much in a second.
    pub rate: f64,
    /// Of what, of which second.
    pub unit: &'static str,
    /// Microseconds of one that half are not above.
    pub p50_us: Option<f64>,
    /// The same of 99 of 100.
    pub p99_us: Option<f64>,
    /// The rate beside that without a proxy, round by round.
    pub of_direct: Option<Middle>,
}

impl Report {
    /// Takes in the runs of another size.
    pub(super) fn add(&mut self, size: Size, runs: &Runs) {
        let mut rows: Vec<_> = runs
            .iter()
            .filter_map(|(contestant, case)| {
                let median = |of| Some(runs.middle(contestant, case, of)?.median);
                let beside = [contestant, Contestant::Direct];
                Some(Row {
                    services: size.services,
                    client: case.client,
                    measure: case.measure,
                    contestant,
                    rate: median(Figure::Rate)?,
                    unit: case.measure.unit(),
                    p50_us: median(Figure::P50),
                    p99_us: median(Figure::P99),
                    of_direct: runs.ratio(beside, case, Figure::Rate),
                })
            })
            .collect();
        rows.sort_by_key(|row| (row.client, row.measure, row.contestant));
        self.rows.extend(rows);
        self.requirements.extend(requirements(size, runs));
    }

    /// The figures for people.
    pub fn table(&self) -> String {
        let header = [
            "CLIENT",
            "MEASURE",
            "SERVICES",
            "BY",
            "RATE",
            "",
            "P50 US",
            "P99 US",
            "OF DIRECT",
            "LOW",
            "HIGH",
        ];
        let mut parts = vec![
            table(&header, self.rows.iter().map(Row::cells)),
            table(
                &["ASKED", "SERVICES", "FIGURE", "LIMIT", ""],
                self.requirements.iter().map(Requirement::cells),
            ),
        ];
        parts.extend(self.absences.iter().map(|absence| {
            let Absence {
                services,
                contestant,
                why,
            } = absence;
            format!("{} is absent at {services}: {why}\n", contestant.name())
        }));
        if !self.iptables.is_empty() {
            parts.push(format!("iptables is {}\n", self.iptables));
        }
        parts.push(format!(
            "medians of {} rounds; LOW and HIGH are quartiles\n",
            self.rounds
        ));
        parts.join("\n")
    }
}

impl Row {
    fn cells(&self) -> Cells {
        let micros = |time: Option<f64>| time.map_or_else(String::new, |us| format!("{us:.1}"));
        let ratio = |of: fn(&Middle) -> f64| {
            let ratio = self.of_direct.as_ref().map(of);
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"))
        };
        vec![
            self.client.name().to_owned(),
            self.measure.name().to_owned(),
            self.services.to_string(),
            self.contestant.name().to_owned(),
            format!("{:.0}", self.rate),
            self.unit.to_owned(),
            micros(self.p50_us),
            micros(self.p99_us),
            ratio(|middle| middle.median),
            ratio(|middle| middle.low),
            ratio(|middle| middle.high),
        ]
    }
}
