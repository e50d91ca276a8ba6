//! What is asked for.

use serde::Serialize;

use super::{Proxy, Row, Size, stage::START};
use crate::bench::table::Cells;

/// Seconds from when all objects are known to when they are programmed.
const PROGRAMMED_S: f64 = 1.0;
/// Milliseconds from the write of a slice to traffic, in 99 of 100 cases.
const CHANGE_P99_MS: f64 = 20.0;
/// Megabytes, ever.
const PEAK_MB: f64 = 150.0;
/// The part of kube-proxy's time it may take, for either of these.
const OF_TIME: f64 = 1.0 / 20.0;
/// The part of kube-proxy's memory.
const OF_MEMORY: f64 = 0.5;
/// System calls for each Service that is told again and has not changed.
const CALLS: f64 = 0.0;

/// A figure, and what it may be at most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Requirement {
    /// What it is.
    pub what: &'static str,
    /// Where.
    pub size: Size,
    /// The figure.
    pub figure: f64,
    /// The limit.
    pub limit: f64,
}

impl Requirement {
    /// Whether it is not met.
    pub fn is_over(&self) -> bool {
        // What is no number is not met either.
        !matches!(
            self.figure.partial_cmp(&self.limit),
            Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)
        )
    }

    pub(super) fn cells(&self) -> Cells {
        vec![
            self.what.to_owned(),
            self.size.to_string(),
            format!("{:.4}", self.figure),
            format!("{:.4}", self.limit),
            if self.is_over() { "OVER" } else { "" }.to_owned(),
        ]
    }
}

/// What is asked for at the size it is asked for; what does not compare, at smaller ones too.
pub(super) fn requirements(rows: &[Row]) -> Vec<Requirement> {
    let ours = rows.iter().filter(|row| row.proxy == Proxy::Fairlead);
    let limited = ours.filter(|row| {
        row.size.endpoints <= Size::LARGE.endpoints && row.size.services <= Size::LARGE.services
    });
    limited
        .flat_map(|row| {
            let mut asked = alone(row);
            if row.size == Size::LARGE {
                asked.extend(compared(row, rows));
            }
            asked
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "all are far below 2^52")]
fn alone(row: &Row) -> Vec<Requirement> {
    let asked = |what, figure, limit| Requirement {
        what,
        size: row.size,
        figure,
        limit,
    };
    let mut all = vec![
        asked(
            "programmed, s",
            row.programmed_s.unwrap_or(f64::INFINITY),
            PROGRAMMED_S,
        ),
        asked(
            "a change, p99, ms",
            p99(row).unwrap_or(f64::INFINITY),
            CHANGE_P99_MS,
        ),
        asked("RSS peak, MB", row.peak_mb, PEAK_MB),
    ];
    if let Some(resync) = &row.resync {
        let [told_again, _] = resync.of_services();
        all.push(asked(
            "system calls per unchanged service",
            told_again as f64 / f64::from(row.size.services),
            CALLS,
        ));
    }
    all
}

/// Beside kube-proxy, in the mode that is the better one where it says nothing of a mode.
fn compared(row: &Row, rows: &[Row]) -> Vec<Requirement> {
    let others: Vec<_> = rows
        .iter()
        .filter(|other| other.size == row.size && other.proxy != Proxy::Fairlead)
        .collect();
    let asked = |what, figure: fn(&Row) -> Option<f64>, mode: Option<Proxy>, limit| {
        let beside = others
            .iter()
            .filter(|other| mode.is_none_or(|mode| other.proxy == mode));
        let theirs = beside.filter_map(|other| figure(other)).reduce(f64::min)?;
        let ours = figure(row).unwrap_or(f64::INFINITY);
        Some(Requirement {
            what,
            size: row.size,
            figure: ours / theirs,
            limit,
        })
    };
    let nftables = Some(Proxy::Nftables);
    [
        asked("programmed, of nftables'", programmed, nftables, OF_TIME),
        asked("a change, p99, of kube-proxy's", p99, None, OF_TIME),
        asked("RSS settled, of kube-proxy's", settled, None, OF_MEMORY),
        asked("RSS peak, of kube-proxy's", peak, None, OF_MEMORY),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Who was not through took at least the time there was.
#[expect(clippy::unnecessary_wraps, reason = "as the other figures")]
fn programmed(row: &Row) -> Option<f64> {
    Some(row.programmed_s.unwrap_or(START.as_secs_f64()))
}

fn p99(row: &Row) -> Option<f64> {
    row.change_ms.map(|spread| spread.p99)
}

/// What is taken before all is programmed tells nothing.
fn settled(row: &Row) -> Option<f64> {
    row.programmed_s.map(|_| row.resident_mb)
}

fn peak(row: &Row) -> Option<f64> {
    row.programmed_s.map(|_| row.peak_mb)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::control_plane::Spread;

    fn row(proxy: Proxy, size: Size, [programmed_s, p99, megabytes]: [f64; 3]) -> Row {
        Row {
            size,
            proxy,
            name: proxy.name().to_owned(),
            programmed_s: Some(programmed_s),
            answered_s: Some(programmed_s),
            cpu_s: 1.0,
            changes: 1,
            change_ms: Some(Spread {
                p50: p99,
                p99,
                max: p99,
            }),
            given_up: false,
            write_ms: None,
            change_cpu_ms: None,
            resident_mb: megabytes,
            anonymous_mb: megabytes,
            peak_mb: megabytes,
            resync: None,
        }
    }

    fn over(rows: &[Row]) -> Vec<&'static str> {
        let over = requirements(rows).into_iter().filter(Requirement::is_over);
        over.map(|requirement| requirement.what).collect()
    }

    #[test]
    fn what_is_met_is_not_over() {
        let rows = [
            row(Proxy::Fairlead, Size::LARGE, [0.9, 20.0, 150.0]),
            row(Proxy::Nftables, Size::LARGE, [18.0, 400.0, 300.0]),
        ];
        assert_eq!(over(&rows), [""; 0]);
        assert_eq!(requirements(&rows).len(), 7);
    }

    #[test]
    fn kube_proxy_is_taken_as_it_is_better() {
        let rows = [
            row(Proxy::Fairlead, Size::LARGE, [0.9, 20.0, 150.0]),
            row(Proxy::Nftables, Size::LARGE, [17.0, 800.0, 600.0]),
            row(Proxy::Iptables, Size::LARGE, [9.0, 300.0, 299.0]),
        ];
        let expected = [
            "programmed, of nftables'",
            "a change, p99, of kube-proxy's",
            "RSS settled, of kube-proxy's",
            "RSS peak, of kube-proxy's",
        ];
        assert_eq!(over(&rows), expected);
    }

    #[test]
    fn a_proxy_that_was_not_through_is_compared_in_time_only() {
        let rows = [
            row(Proxy::Fairlead, Size::LARGE, [0.9, 20.0, 150.0]),
            Row {
                programmed_s: None,
                change_ms: None,
                ..row(Proxy::Nftables, Size::LARGE, [0.0, 0.0, 100.0])
            },
        ];
        assert_eq!(over(&rows), [""; 0]);
        let rows = [Row {
            programmed_s: None,
            change_ms: None,
            ..rows[0].clone()
        }];
        assert_eq!(over(&rows), ["programmed, s", "a change, p99, ms"]);
    }
}
