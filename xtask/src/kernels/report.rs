//! Results as tables that people read, on a terminal and in the documentation.

use std::collections::BTreeSet;

use super::result::{Cases, Outcome};
use crate::budgets::Program;

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
    counted(cases.passed, cases.passed + cases.failed)
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
