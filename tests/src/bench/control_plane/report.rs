//! What came out.

use serde::Serialize;

use super::{
    Proxy, Size,
    changes::Spread,
    requirements::{Requirement, requirements},
    resync::Resync,
    stage::START,
};
use crate::bench::table::{Cells, table};

/// A whole run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The `iptables` that kube-proxy had.
    pub iptables: String,
    /// What the API server alone takes, by size.
    pub floors: Vec<Floor>,
    /// The figures.
    pub rows: Vec<Row>,
    /// What is asked for, and how it is.
    pub requirements: Vec<Requirement>,
}

/// What the API server alone takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Floor {
    /// How much it holds.
    pub size: Size,
    /// Milliseconds from a write to when a bare watch is told of it.
    pub told_ms: Spread,
    /// Milliseconds from a write to the API server's answer.
    pub write_ms: Spread,
}

/// The figures of one proxy.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How much there was to program.
    pub size: Size,
    /// Who did it.
    pub proxy: Proxy,
    /// Its name; of a program that was chosen by `--agent`, the path.
    pub name: String,
    /// Seconds from when it knew all objects to when it had programmed them, by its log; none if it
    /// was not through in time.
    pub programmed_s: Option<f64>,
    /// Seconds from its start to when the last Service in the list answered; none if it did not.
    pub answered_s: Option<f64>,
    /// CPU seconds until it had nothing more to do.
    pub cpu_s: f64,
    /// How many changes were made.
    pub changes: usize,
    /// Milliseconds from the write of a slice to the first answer of the new backend.
    pub change_ms: Option<Spread>,
    /// Whether the last change was given up before it was in force: it takes longer.
    pub given_up: bool,
    /// Milliseconds from the write of a slice to the API server's answer.
    pub write_ms: Option<Spread>,
    /// CPU milliseconds for each change, with what it does while it waits for the next.
    pub change_cpu_ms: Option<f64>,
    /// Megabytes that were resident after the changes.
    pub resident_mb: f64,
    /// Those among them that no file and no shared memory is behind.
    pub anonymous_mb: f64,
    /// The most that ever were resident, Fairlead's resync included.
    pub peak_mb: f64,
    /// What a resync takes; only Fairlead is asked.
    pub resync: Option<Resync>,
}

impl Report {
    /// Puts it together.
    pub(super) fn new(iptables: String, floors: Vec<Floor>, rows: Vec<Row>) -> Self {
        let requirements = requirements(&rows);
        Self {
            iptables,
            floors,
            rows,
            requirements,
        }
    }

    /// The figures for people.
    pub fn table(&self) -> String {
        let mut parts = vec![self.figures(), self.ratios(), self.resyncs()];
        parts.push(table(
            &["ASKED", "SIZE", "FIGURE", "LIMIT", ""],
            self.requirements.iter().map(Requirement::cells),
        ));
        if !self.iptables.is_empty() {
            parts.push(format!("iptables is {}\n", self.iptables));
        }
        parts.join("\n")
    }

    fn figures(&self) -> String {
        let header = [
            "SIZE",
            "PROXY",
            "PROGRAMMED S",
            "ANSWERED S",
            "CPU S",
            "CHANGES",
            "P50 MS",
            "P99 MS",
            "MAX MS",
            "WRITE P50",
            "WRITE P99",
            "CPU MS",
            "RSS MB",
            "ANON MB",
            "PEAK MB",
        ];
        let floors = self.floors.iter().map(|floor| (floor.size, floor.cells()));
        let rows = self.rows.iter().map(|row| (row.size, row.cells()));
        let mut cells: Vec<_> = floors.chain(rows).collect();
        // What is alone stays before what is with a proxy.
        cells.sort_by_key(|(size, _)| *size);
        table(&header, cells.into_iter().map(|(_, cells)| cells))
    }

    /// How often Fairlead's figure goes into another proxy's.
    fn ratios(&self) -> String {
        let header = [
            "TIMES FAIRLEAD",
            "SIZE",
            "PROGRAMMED",
            "ANSWERED",
            "CPU",
            "P50",
            "P99",
            "CPU",
            "RSS",
            "PEAK",
        ];
        let others = self.rows.iter().filter(|row| row.proxy != Proxy::Fairlead);
        let rows = others.filter_map(|row| {
            let ours = self.of(row.size, Proxy::Fairlead)?;
            Some(row.ratios(ours))
        });
        table(&header, rows)
    }

    fn resyncs(&self) -> String {
        let header = [
            "RESYNC",
            "SIZE",
            "OF SERVICES",
            "OTHER MAPS",
            "NOT OF MAPS",
            "RECEIVED MB",
        ];
        let rows = self.rows.iter().filter_map(|row| {
            let resync = row.resync.as_ref()?;
            let received = [format!("{:.1}", resync.received_mb), String::new()];
            let whole = [("all told again", &resync.list), ("audit", &resync.audit)];
            let parts = whole.into_iter().zip(resync.of_services()).zip(received);
            let cells = parts.map(|(((what, calls), of_services), received)| {
                vec![
                    what.to_owned(),
                    row.size.to_string(),
                    of_services.to_string(),
                    (calls.of_maps() - of_services).to_string(),
                    calls.other.to_string(),
                    received,
                ]
            });
            Some(cells.collect::<Vec<_>>())
        });
        table(&header, rows.flatten())
    }

    fn of(&self, size: Size, proxy: Proxy) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| (row.size, row.proxy) == (size, proxy))
    }
}

impl Floor {
    fn cells(&self) -> Cells {
        let mut cells = vec![self.size.to_string(), "(bare watch)".to_owned()];
        cells.extend(["", "", "", ""].map(str::to_owned));
        cells.extend(spread(Some(self.told_ms), false));
        cells.extend(spread(Some(self.write_ms), false).into_iter().take(2));
        cells
    }
}

impl Row {
    fn cells(&self) -> Cells {
        let seconds = |figure: Option<f64>| match figure {
            Some(seconds) => format!("{seconds:.3}"),
            None => format!(">{}", START.as_secs()),
        };
        let mut cells = vec![
            self.size.to_string(),
            self.name.clone(),
            seconds(self.programmed_s),
            seconds(self.answered_s),
            format!("{:.2}", self.cpu_s),
            self.changes.to_string(),
        ];
        cells.extend(spread(self.change_ms, self.given_up));
        cells.extend(spread(self.write_ms, false).into_iter().take(2));
        let cpu = self.change_cpu_ms.map(|cpu| format!("{cpu:.2}"));
        cells.push(cpu.unwrap_or_default());
        let memory = [self.resident_mb, self.anonymous_mb, self.peak_mb];
        cells.extend(memory.map(|megabytes| format!("{megabytes:.1}")));
        cells
    }

    fn ratios(&self, ours: &Self) -> Cells {
        let mut cells = vec![self.name.clone(), self.size.to_string()];
        let over = |theirs: f64, ours: f64| format!("{:.1}", theirs / ours);
        let started = |theirs: Option<f64>, ours: Option<f64>| match (theirs, ours) {
            (Some(theirs), Some(ours)) => over(theirs, ours),
            (None, Some(ours)) => format!(">{}", over(START.as_secs_f64(), ours)),
            (_, None) => String::new(),
        };
        let changed = |figure: fn(&Spread) -> f64| {
            let both = self.change_ms.as_ref().zip(ours.change_ms.as_ref());
            let mark = if self.given_up { ">" } else { "" };
            both.map(|(theirs, ours)| format!("{mark}{}", over(figure(theirs), figure(ours))))
                .unwrap_or_default()
        };
        cells.push(started(self.programmed_s, ours.programmed_s));
        cells.push(started(self.answered_s, ours.answered_s));
        cells.push(over(self.cpu_s, ours.cpu_s));
        cells.push(changed(|spread| spread.p50));
        cells.push(changed(|spread| spread.p99));
        let cpu = self.change_cpu_ms.zip(ours.change_cpu_ms);
        cells.push(cpu.map(|(a, b)| over(a, b)).unwrap_or_default());
        cells.push(over(self.resident_mb, ours.resident_mb));
        cells.push(over(self.peak_mb, ours.peak_mb));
        cells
    }
}

fn spread(spread: Option<Spread>, given_up: bool) -> [String; 3] {
    let mark = if given_up { ">" } else { "" };
    let Some(Spread { p50, p99, max }) = spread else {
        return [const { String::new() }; 3];
    };
    [
        format!("{p50:.2}"),
        format!("{mark}{p99:.2}"),
        format!("{mark}{max:.2}"),
    ]
}
