//! The findings together, for people and for scripts.

use serde::Serialize;

use super::finding::{FindingState, NodeFinding};
use crate::cli::output::{Detail, Paint, printable, table, text};

/// All that `lb-agent preflight` shows. The field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PreflightReport {
    /// Version of lb-agent.
    pub(super) version: &'static str,
    /// Name of the node.
    pub(super) node: String,
    /// The kernel's release.
    pub(super) kernel: String,
    /// The CPU.
    pub(super) machine: String,
    /// The worst state of a finding.
    pub(super) state: FindingState,
    /// Number of findings by state.
    pub(super) failures: usize,
    pub(super) warnings: usize,
    pub(super) unknown: usize,
    pub(super) ok: usize,
    /// Options that were given and have no effect, a line each.
    pub(super) ignored_options: Vec<String>,
    /// Every finding, in the order of the checks.
    pub(super) findings: Vec<NodeFinding>,
}

/// What a report is about.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) kernel: String,
    pub(super) machine: String,
}

impl PreflightReport {
    /// Counts the findings.
    pub(super) fn new(
        node: Node,
        ignored_options: Vec<String>,
        findings: Vec<NodeFinding>,
    ) -> Self {
        let count = |state| findings.iter().filter(|it| it.state == state).count();
        let worst = findings.iter().map(|it| it.state).max();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            node: node.name,
            kernel: node.kernel,
            machine: node.machine,
            state: worst.unwrap_or(FindingState::Ok),
            failures: count(FindingState::Failure),
            warnings: count(FindingState::Warning),
            unknown: count(FindingState::Unknown),
            ok: count(FindingState::Ok),
            ignored_options,
            findings,
        }
    }
}

/// The report for people: every finding in a line, and what to do below. With full detail all is in
/// columns.
pub(super) fn render(report: &PreflightReport, detail: Detail, paint: Paint) -> String {
    let findings = &report.findings;
    let lines = match detail {
        Detail::Brief => rows(findings, paint, &["STATE", "CHECK", "FOUND"], |it| {
            vec![it.found.clone()]
        }),
        Detail::Full => rows(
            findings,
            paint,
            &["STATE", "CHECK", "FOUND", "WHY", "DO"],
            |it| {
                let cell = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
                vec![it.found.clone(), cell(&it.why), cell(&it.action)]
            },
        ),
    };
    let mut blocks = vec![text(lines)];
    if detail == Detail::Brief {
        for (state, title) in [
            (FindingState::Failure, "Failures"),
            (FindingState::Warning, "Warnings"),
            (FindingState::Unknown, "Unknown"),
        ] {
            blocks.extend(explained(findings, state, title, paint));
        }
    }
    let ignored = report.ignored_options.iter();
    let ignored = ignored.map(|line| format!("Option: {}", printable(line)));
    blocks.push(text(ignored.chain([summary(report)])));
    blocks.join("\n")
}

fn rows(
    findings: &[NodeFinding],
    paint: Paint,
    header: &[&str],
    rest: impl Fn(&NodeFinding) -> Vec<String>,
) -> Vec<String> {
    let rows = findings.iter().map(|it| {
        let head = [it.state.name().to_owned(), name(it)];
        head.into_iter().chain(rest(it)).collect()
    });
    let lines = table(header, rows);
    let states = findings.iter().map(|it| Some(it.state));
    let states = std::iter::once(None).chain(states);
    let painted = lines.into_iter().zip(states);
    painted
        .map(|(line, state)| state.map_or(line.clone(), |state| painted_line(paint, state, &line)))
        .collect()
}

fn painted_line(paint: Paint, state: FindingState, line: &str) -> String {
    match state {
        FindingState::Ok => line.to_owned(),
        FindingState::Unknown | FindingState::Warning => paint.warning(line),
        FindingState::Failure => paint.problem(line),
    }
}

fn name(finding: &NodeFinding) -> String {
    match &finding.subject {
        Some(subject) => format!("{} {subject}", finding.check),
        None => finding.check.to_owned(),
    }
}

/// What to do about findings of a state. Those that say the same of several subjects come once.
fn explained(
    findings: &[NodeFinding],
    state: FindingState,
    title: &str,
    paint: Paint,
) -> Option<String> {
    let mut groups: Vec<(String, &NodeFinding)> = Vec::new();
    for finding in findings.iter().filter(|it| it.state == state) {
        let same = groups.iter_mut().find(|(_, first)| {
            finding.subject.is_some()
                && (first.check, &first.found) == (finding.check, &finding.found)
                && (&first.why, &first.action) == (&finding.why, &finding.action)
        });
        match (same, &finding.subject) {
            (Some((names, _)), Some(subject)) => {
                names.push_str(", ");
                names.push_str(subject);
            }
            (Some(_) | None, _) => groups.push((name(finding), finding)),
        }
    }
    if groups.is_empty() {
        return None;
    }
    let detail = |word: &str, text: &Option<String>| {
        let text = text.as_deref()?;
        Some(format!("    {word:<4} {}", printable(text)))
    };
    let lines = groups.iter().flat_map(|(names, it)| {
        let head = format!("{}: {}", printable(names), printable(&it.found));
        let head = format!("  {}", painted_line(paint, state, &head));
        let details = [detail("why:", &it.why), detail("do:", &it.action)];
        std::iter::once(head).chain(details.into_iter().flatten())
    });
    Some(text(std::iter::once(format!("{title}:")).chain(lines)))
}

fn summary(report: &PreflightReport) -> String {
    let counted = |number: usize, one: &str| {
        let s = if number == 1 { "" } else { "s" };
        format!("{number} {one}{s}")
    };
    let PreflightReport {
        failures,
        warnings,
        unknown,
        ok,
        ..
    } = report;
    let counts = format!(
        "{}, {}, {unknown} unknown, {ok} ok",
        counted(*failures, "failure"),
        counted(*warnings, "warning")
    );
    let verdict = if *failures > 0 {
        "this node cannot be served with these options"
    } else {
        "nothing keeps this node from being served"
    };
    format!("{counts}: {verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Vec<NodeFinding>) -> PreflightReport {
        let node = Node {
            name: "node-a".into(),
            kernel: "6.1.0".into(),
            machine: "x86_64".into(),
        };
        PreflightReport::new(node, Vec::new(), findings)
    }

    #[test]
    fn the_worst_finding_decides() {
        let ok = || NodeFinding::ok("a", "fine");
        let unknown = || NodeFinding::unknown("b", "hidden", "why", "do");
        let warning = || NodeFinding::warning("c", "poor", "why", "do");
        let failure = || NodeFinding::failure("d", "bad", "why", "do");
        let rows = [
            (vec![], FindingState::Ok),
            (vec![ok()], FindingState::Ok),
            (vec![ok(), unknown()], FindingState::Unknown),
            (vec![warning(), unknown()], FindingState::Warning),
            (vec![failure(), warning()], FindingState::Failure),
        ];
        for (findings, expected) in rows {
            let report = report(findings);
            assert_eq!(report.state, expected, "{report:?}");
        }
        let report = report(vec![ok(), unknown(), warning(), warning(), failure()]);
        let counts = (report.ok, report.unknown, report.warnings, report.failures);
        assert_eq!(counts, (1, 1, 2, 1));
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let report = report(vec![
            NodeFinding::warning("a", "x\u{1b}[2J", "y\n", "z").on("eth0\r"),
        ]);
        for detail in [Detail::Brief, Detail::Full] {
            let shown = render(&report, detail, Paint::OFF);
            let steers = shown.chars().any(|c| c != '\n' && c.is_control());
            assert!(!steers, "{shown:?}");
        }
    }
}
