//! What came out.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{Turned, table::table};

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The outer program calling nothing, at XDP.
    pub floor_ns: f64,
    /// One lookup of an IPv4 flow among one, net of the floor.
    pub lookup_ns: f64,
    /// Instructions the verifier walked through, by program.
    pub verified_instructions: BTreeMap<String, u32>,
    /// The figures.
    pub rows: Vec<Row>,
    /// What Maglev tables cost the agent.
    pub maglev_tables: Vec<Turned>,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
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
    /// Live flows, and drawn from; for new flows, those begun before.
    pub flows: u32,
    /// As measured, floor included.
    pub ns: f64,
    /// Net of the floor.
    pub net_ns: f64,
    /// The least over the rounds, net of the floor.
    pub min_ns: f64,
    /// What the primitives it pays cost, net of the floor.
    pub primitives_ns: f64,
    /// What other objects' program took in the same rounds; none where nothing is held against them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<Others>,
    /// What it may cost; none where nothing is asked.
    pub limit_ns: Option<f64>,
}

/// What a path cost with the program of other objects, on the same maps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Others {
    /// Net of the floor.
    pub net_ns: f64,
    /// Ours in parts of theirs: the median over the rounds.
    pub ratio: f64,
}

impl Row {
    /// Whether the figure is over its limit.
    pub fn is_over(&self) -> bool {
        self.limit_ns.is_some_and(|limit| self.net_ns > limit)
    }
}

impl Report {
    /// The figures for people.
    pub fn table(&self) -> String {
        let header = [
            "PATH",
            "HOOK",
            "FAMILY",
            "SERVICES",
            "IN USE",
            "FLOWS",
            "NET NS",
            "MIN NS",
            "PRIMITIVES",
            "RATIO",
            "LIMIT",
            "",
        ];
        let rows = self.rows.iter().map(|row| {
            vec![
                row.path.to_owned(),
                row.hook.to_owned(),
                row.family.to_owned(),
                row.services.to_string(),
                row.drawn.to_string(),
                row.flows.to_string(),
                format!("{:.1}", row.net_ns),
                format!("{:.1}", row.min_ns),
                format!("{:.1}", row.primitives_ns),
                format!("{:.2}", row.net_ns / row.primitives_ns),
                row.limit_ns
                    .map_or(String::new(), |limit| format!("{limit:.1}")),
                if row.is_over() { "OVER" } else { "" }.to_owned(),
            ]
        });
        let mut text = table(&header, rows);
        let _ = writeln!(
            text,
            "\nfloor {:.1} ns, one v4 flow lookup {:.1} ns net of it",
            self.floor_ns, self.lookup_ns
        );
        for turned in &self.maglev_tables {
            let Turned {
                slots,
                endpoints,
                first_us,
                shared_us,
            } = turned;
            let _ = writeln!(
                text,
                "Maglev table of {slots} slots of {endpoints} endpoints: {first_us:.0} \u{b5}s to turn a Service \
                 to it, {shared_us:.0} where another has it"
            );
        }
        for (program, count) in &self.verified_instructions {
            let _ = writeln!(text, "{program}: {count} instructions verified");
        }
        text
    }
}
