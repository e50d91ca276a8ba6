//! `cargo xtask test`: everything that can tell whether Fairlead works, and a count.

use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};

use crate::{
    ebpf,
    exec::{cargo, run, run_reading},
    kernels, kube_assets, lint, semantics,
    static_build::{self, Arch},
    steps::Steps,
    tidy, tools,
};

/// Which tests to run.
pub(crate) struct Selection<'a> {
    /// Also those that take minutes: the ignored ones.
    pub(crate) long: bool,
    /// Only those whose name contains one of these; all and the repository's checks when empty.
    pub(crate) filters: &'a [String],
}

impl Selection<'_> {
    fn includes(&self, test: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| test.contains(filter))
    }
}

/// The test that runs static programs.
const IMAGE_TEST: &str = "deploy::image_has_what_programs_need";

/// Runs the selected tests; their count is the last line.
pub(crate) fn test(selection: &Selection<'_>) -> ExitCode {
    let mut steps = Steps::default();
    let mut count = Count::default();
    if steps.step("build-ebpf", || ebpf::build(&[])) {
        if selection.filters.is_empty() {
            steps.step("tidy", tidy::check);
            lint::all(&mut steps);
        }
        count.failed += steps.failures();
        count.step(&mut steps, "network tools", |_| network_tools());
        count.step(&mut steps, "host tests", |count| {
            host_tests(selection, count)
        });
        if selection.includes(IMAGE_TEST) {
            count.step(&mut steps, "static programs", |_| static_programs());
        }
        count.step(&mut steps, "kube-assets", |_| kube_assets::provide());
        count.step(&mut steps, "kernel and topology tests", |count| {
            kernel_tests(selection, count)
        });
        if selection.filters.is_empty() {
            count.step(&mut steps, "other kernels", |count| {
                let cases = kernels::tests(selection.long)?;
                count.passed += cases.passed;
                count.failed += cases.failed;
                ensure!(cases.failed == 0, "{} problems", cases.failed);
                Ok(())
            });
            count.step(&mut steps, "semantics", |_| semantics::semantics());
        }
    } else {
        count.failed += 1;
    }
    if let Err(error) = steps.finish() {
        println!("\n{error:#}");
    }
    println!("\n{} passed, {} failed", count.passed, count.failed);
    ExitCode::from(u8::from(count.failed > 0))
}

/// The programs that the image is made of, for this machine's CPU; what is built fastest shows as much.
fn static_programs() -> Result<()> {
    static_build::binaries(Arch::native()?, "dev").map(drop)
}

fn host_tests(selection: &Selection<'_>, count: &mut Count) -> Result<()> {
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--exclude=tests"]);
    run_tests(tests, selection, count)
}

/// What tests of every kind start: those on the host have the kernel's tables to clean up too.
fn network_tools() -> Result<()> {
    [tools::NETWORK, tools::NFTABLES, tools::IPTABLES]
        .into_iter()
        .try_for_each(tools::debian_packages)
}

fn kernel_tests(selection: &Selection<'_>, count: &mut Count) -> Result<()> {
    // The topologies start these as processes, which no dependency of a test would build.
    run(cargo().args(["build", "--package=lb-userspace", "--bins"]))?;
    let mut tests = cargo();
    tests.args(["test", "--package=tests"]);
    run_tests(tests, selection, count)
}

fn run_tests(mut tests: Command, selection: &Selection<'_>, count: &mut Count) -> Result<()> {
    let Selection { long, filters } = selection;
    tests.args(["--no-fail-fast", "--"]);
    if *long {
        tests.arg("--include-ignored");
    }
    tests.args(*filters);
    run_reading(&mut tests, |line| {
        println!("{line}");
        count.add(line);
    })
}

/// What the test programs reported. A step that breaks down without a report is one failure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn step(
        &mut self,
        steps: &mut Steps,
        name: &'static str,
        tests: impl FnOnce(&mut Self) -> Result<()>,
    ) {
        let before = self.failed;
        let done = steps.step(name, || tests(self));
        if !done && self.failed == before {
            self.failed += 1;
        }
    }

    /// Adds what a line of a test program reports, if it is its last.
    fn add(&mut self, line: &str) {
        let Some(report) = line.strip_prefix("test result: ") else {
            return;
        };
        // `ok. 3 passed; 0 failed; 1 ignored; …`
        let counted = report.split_once(". ").map_or("", |(_, counts)| counts);
        for part in counted.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                Some(_) | None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn reports_of_test_programs_add_up() {
        let mut count = Count::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
            "7 passed; 7 failed",
        ] {
            count.add(line);
        }
        let expected = Count {
            passed: 15,
            failed: 2,
        };
        assert_eq!(count, expected);
    }

    #[test]
    fn tests_that_do_not_compile_are_a_failure() {
        let mut count = Count::default();
        count.step(&mut Steps::default(), "step", |_| bail!("no such crate"));
        assert_eq!(count.failed, 1);
    }

    #[test]
    fn a_filter_includes_tests_whose_names_contain_it() {
        let includes = |filters: &[&str]| {
            let filters: Vec<_> = filters.iter().map(|&it| it.to_owned()).collect();
            let selection = Selection {
                long: false,
                filters: &filters,
            };
            selection.includes(IMAGE_TEST)
        };
        assert!(includes(&[]) && includes(&["snat", "deploy::"]));
        assert!(!includes(&["snat"]));
    }

    #[test]
    fn a_failure_that_was_reported_counts_once() {
        let mut count = Count::default();
        count.step(&mut Steps::default(), "step", |count| {
            count.add("test result: FAILED. 0 passed; 2 failed");
            bail!("exit status: 101")
        });
        assert_eq!(count.failed, 2);
    }
}
