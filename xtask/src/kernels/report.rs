//! Results as tables that people read, on a terminal and in the documentation.

use std::collections::BTreeSet;

use super::result::{Cases, Outcome};
use crate::budgets::Program;

/// The feature by which programs of tc are attached where it is, as the agent names it.
const TCX: &str = "tcx links";

/// Both tables, then what went wrong.
pub(super) fn tables(outcomes: &[Outcome]) -> String {
    let mut text = kernels(outcomes);
    if outcomes.iter().any(|outcome| !outcome.programs.is_empty()) {
        text.push('\n');
        text.push_str(&programs(outcomes));
    }
    text
}

/// Kernel × what was run on it.
fn kernels(outcomes: &[Outcome]) -> String {
    let mut rows = vec![
        [
            "kernel",
            "release",
            "CPU",
            "tc by",
            "programs",
            "most instructions",
            "deepest stack",
            "fixtures",
            "tests",
            "boot s",
            "all s",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(outcomes.iter().map(|outcome| {
        let programs = &outcome.programs;
        let loaded = programs.iter().filter(|it| it.loaded);
        let largest = loaded.clone().filter_map(|it| it.instructions).max();
        let deepest = loaded.clone().filter_map(|it| it.stack).max();
        vec![
            outcome.kernel.clone(),
            outcome.release.clone(),
            outcome.arch.clone(),
            attached_by(outcome),
            counted(loaded.count(), programs.len()),
            largest.map_or_else(none, |it| it.to_string()),
            deepest.map_or_else(none, |it| it.to_string()),
            passed(&outcome.cases(true)),
            passed(&outcome.cases(false)),
            format!("{:.1}", outcome.boot_seconds),
            format!("{:.0}", outcome.seconds),
        ]
    }));
    table(&rows)
}

/// How programs of tc are attached.
fn attached_by(outcome: &Outcome) -> String {
    match outcome.features.get(TCX) {
        Some(true) => "tcx".to_owned(),
        Some(false) => "clsact".to_owned(),
        None => none(),
    }
}

/// Program × kernel: verified instructions, and bytes of the deepest stack.
fn programs(outcomes: &[Outcome]) -> String {
    let with: Vec<_> = outcomes
        .iter()
        .filter(|outcome| !outcome.programs.is_empty())
        .collect();
    let names: BTreeSet<&str> = with
        .iter()
        .flat_map(|outcome| &outcome.programs)
        .map(|program| program.name.as_str())
        .collect();
    let mut rows = vec![
        std::iter::once("program".to_owned())
            .chain(with.iter().map(|it| format!("{} {}", it.kernel, it.arch)))
            .collect::<Vec<_>>(),
    ];
    rows.extend(names.into_iter().map(|name| {
        let of = |outcome: &&Outcome| {
            let program = outcome.programs.iter().find(|it| it.name == name);
            program.map_or_else(none, cell)
        };
        std::iter::once(name.to_owned())
            .chain(with.iter().map(of))
            .collect()
    }));
    table(&rows)
}

/// `19000 (272)`, or that it was refused.
fn cell(program: &Program) -> String {
    let number = program.instructions.map_or_else(none, |it| it.to_string());
    match (program.loaded, program.stack) {
        (false, _) => format!("refused {number}"),
        (true, Some(stack)) => format!("{number} ({stack})"),
        (true, None) => number,
    }
}

fn passed(cases: &Cases) -> String {
    let counted = counted(cases.passed, cases.passed + cases.failed);
    match cases.ignored {
        0 => counted,
        ignored => format!("{counted}, {ignored} ignored"),
    }
}

fn counted(good: usize, all: usize) -> String {
    if all == 0 {
        none()
    } else {
        format!("{good} of {all}")
    }
}

fn none() -> String {
    "–".to_owned()
}

/// A table as Markdown has it, its columns aligned; the first row is the heading.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!(" {cell:<width$} "))
            .collect();
        format!("|{}|\n", cells.join("|"))
    };
    let mut lines: Vec<_> = rows.iter().map(line).collect();
    let rules: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    lines.insert(lines.len().min(1), format!("|{}|\n", rules.join("|")));
    lines.concat()
}

/// Why cases were not run, a line each.
pub(super) fn ignored(outcomes: &[Outcome]) -> Vec<String> {
    let mut lines = Vec::new();
    for Outcome {
        kernel,
        arch,
        suites,
        ..
    } in outcomes
    {
        for suite in suites {
            let reasons = suite.ignored.iter();
            lines.extend(reasons.map(|(reason, count)| {
                format!(
                    "{kernel} {arch}: {} did not run {count} cases: {reason}",
                    suite.name
                )
            }));
        }
    }
    lines
}

/// What went wrong, a line each.
pub(super) fn problems(outcomes: &[Outcome]) -> Vec<String> {
    outcomes
        .iter()
        .flat_map(|outcome| {
            let Outcome { kernel, arch, .. } = outcome;
            outcome
                .problems
                .iter()
                .map(move |problem| format!("{kernel} {arch}: {problem}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kernels::result::Suite;

    fn program(name: &str, loaded: bool, instructions: u64, stack: Option<u32>) -> Program {
        Program {
            name: name.to_owned(),
            loaded,
            ms: 1,
            instructions: Some(instructions),
            stack,
            frames: Vec::new(),
            error: String::new(),
        }
    }

    fn suite(name: &str, passed: usize, failed: usize) -> Suite {
        Suite {
            name: name.to_owned(),
            cases: Cases {
                passed,
                failed,
                ignored: 0,
            },
            seconds: 1.0,
            failures: BTreeMap::new(),
            ignored: BTreeMap::new(),
        }
    }

    #[test]
    fn results_are_two_tables() {
        let good = Outcome {
            kernel: "6.12".to_owned(),
            arch: "amd64".to_owned(),
            release: "6.12.118+deb13-amd64".to_owned(),
            flavour: Some("generic".to_owned()),
            cpus: 2,
            seconds: 61.4,
            boot_seconds: 4.75,
            lacks: Vec::new(),
            features: BTreeMap::from([(TCX.to_owned(), true)]),
            programs: vec![
                program("xdp_external", true, 13_145, Some(256)),
                program("dry:tc_host", true, 2_630, None),
            ],
            suites: vec![
                suite("fixtures", 767, 0),
                suite("traffic", 12, 1),
                suite("links", 1, 0),
            ],
            problems: vec!["traffic: a failed".to_owned()],
        };
        let bad = Outcome {
            kernel: "5.10".to_owned(),
            release: "5.10.0-46-amd64".to_owned(),
            programs: vec![program("xdp_external", false, 1_000_001, None)],
            features: BTreeMap::from([(TCX.to_owned(), false)]),
            suites: Vec::new(),
            problems: vec!["xdp_external is refused".to_owned()],
            ..good.clone()
        };
        let outcomes = [bad, good];
        assert_eq!(
            tables(&outcomes),
            "\
| kernel | release              | CPU   | tc by  | programs | most instructions | deepest stack | fixtures   | tests    | boot s | all s |
|--------|----------------------|-------|--------|----------|-------------------|---------------|------------|----------|--------|-------|
| 5.10   | 5.10.0-46-amd64      | amd64 | clsact | 0 of 1   | –                 | –             | –          | –        | 4.8    | 61    |
| 6.12   | 6.12.118+deb13-amd64 | amd64 | tcx    | 2 of 2   | 13145             | 256           | 767 of 767 | 13 of 14 | 4.8    | 61    |

| program      | 5.10 amd64      | 6.12 amd64  |
|--------------|-----------------|-------------|
| dry:tc_host  | –               | 2630        |
| xdp_external | refused 1000001 | 13145 (256) |
"
        );
        assert_eq!(
            problems(&outcomes),
            [
                "5.10 amd64: xdp_external is refused",
                "6.12 amd64: traffic: a failed"
            ]
        );
    }
}
