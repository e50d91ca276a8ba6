//! What came out on one kernel.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{
    console::{StepRun, Transcript},
    plan::{Kind, Step},
};
use crate::{
    budgets::{self, Budgets, Program},
    static_build::Arch,
};

/// How a suite begins to say what a machine lacks (`Checks::ignore` of the `tests` crate).
const LACKS: &str = "this machine has ";

/// How many cases of tests passed and failed, and how many were not run: they are said to take long, or the kernel lacks
/// what they need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Cases {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
}

impl Cases {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
        }
    }
}

/// A suite that was run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) cases: Cases,
    pub(super) seconds: f64,
    /// Names of those that failed, each with what it said.
    pub(super) failures: BTreeMap<String, String>,
    /// Why cases were ignored, and how many for each reason.
    pub(super) ignored: BTreeMap<String, usize>,
}

/// Everything that is known of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Outcome {
    /// As it is asked for: `6.1`, `host`.
    pub(super) kernel: String,
    pub(super) arch: String,
    /// As `uname -r` says it.
    pub(super) release: String,
    pub(super) flavour: Option<String>,
    pub(super) cpus: u32,
    /// From the guest's start to its end.
    pub(super) seconds: f64,
    pub(super) boot_seconds: f64,
    pub(super) lacks: Vec<String>,
    /// What the agent finds out about the kernel by trying: each feature, and whether it is there.
    pub(super) features: BTreeMap<String, bool>,
    pub(super) programs: Vec<Program>,
    pub(super) suites: Vec<Suite>,
    /// What went wrong, each on a line; empty if nothing did.
    pub(super) problems: Vec<String>,
}

/// What a kernel is and how it was run.
pub(super) struct Subject<'a> {
    pub(super) kernel: &'a str,
    pub(super) arch: Arch,
    pub(super) flavour: Option<String>,
    pub(super) lacks: &'a [String],
    pub(super) seconds: f64,
}

impl Outcome {
    /// Of all that a guest has said.
    pub(super) fn read(subject: Subject<'_>, steps: &[Step], transcript: &Transcript) -> Self {
        let Subject {
            kernel,
            arch,
            flavour,
            lacks,
            seconds,
        } = subject;
        let mut outcome = Self {
            kernel: kernel.to_owned(),
            arch: arch.name().to_owned(),
            release: transcript.release.clone(),
            flavour,
            cpus: transcript.cpus,
            seconds,
            boot_seconds: transcript.boot,
            lacks: lacks.iter().chain(&transcript.lacks).cloned().collect(),
            features: BTreeMap::new(),
            programs: Vec::new(),
            suites: Vec::new(),
            problems: Vec::new(),
        };
        for step in steps {
            match transcript.steps.iter().find(|run| run.step == step.name) {
                Some(run) => outcome.add(step, run),
                None => outcome.problems.push(format!("{} was not run", step.name)),
            }
        }
        if !transcript.done {
            let rest: Vec<_> = transcript.rest.iter().map(String::as_str).collect();
            outcome.problems.push(format!(
                "the guest did not come to its end; the last that it said: {}",
                rest.join(" | ")
            ));
        }
        outcome
    }

    /// A kernel that could not be had, or not be started.
    pub(super) fn failed(kernel: &str, arch: Arch, error: &anyhow::Error) -> Self {
        Self {
            kernel: kernel.to_owned(),
            arch: arch.name().to_owned(),
            release: String::new(),
            flavour: None,
            cpus: 0,
            seconds: 0.0,
            boot_seconds: 0.0,
            lacks: Vec::new(),
            features: BTreeMap::new(),
            programs: Vec::new(),
            suites: Vec::new(),
            problems: vec![format!("{error:#}")],
        }
    }

    fn add(&mut self, step: &Step, run: &StepRun) {
        match step.kind {
            Kind::Preflight => return self.add_preflight(run),
            Kind::Loads => self.add_loads(run),
            Kind::Fixtures | Kind::Suite => self.add_suite(step, run),
        }
        let cause = match run.code {
            Some(0) => return,
            Some(137) => format!("{} was ended after {:.0} s", run.step, run.seconds),
            Some(code) => format!("{} ended with exit code {code}", run.step),
            None => format!("{} did not come to its end", run.step),
        };
        // What a suite or the verifier has said of it is enough.
        let told = match step.kind {
            Kind::Preflight | Kind::Loads => self.programs.iter().any(|it| !it.loaded),
            Kind::Fixtures | Kind::Suite => self
                .suites
                .last()
                .is_some_and(|suite| !suite.failures.is_empty()),
        };
        if run.code == Some(137) || !told {
            let said: Vec<_> = run.lines.iter().rev().take(5).rev().cloned().collect();
            let said = [said, run.kernel.clone()].concat().join(" | ");
            self.problems.push(format!("{cause}: {said}"));
        }
    }

    /// Its exit code says that a guest is no node of a cluster, which is so.
    fn add_preflight(&mut self, run: &StepRun) {
        let report: Value = serde_json::from_str(&run.lines.concat()).unwrap_or_default();
        let findings = report["findings"].as_array().into_iter().flatten();
        let features = findings.filter(|finding| finding["check"] == "feature");
        self.features.extend(features.filter_map(|finding| {
            let name = finding["subject"].as_str()?.to_owned();
            Some((name, finding["state"] == "ok"))
        }));
        if self.features.is_empty() {
            let said: Vec<_> = run.lines.iter().take(3).cloned().collect();
            self.problems.push(format!(
                "preflight told no feature of the kernel: {}",
                said.join(" | ")
            ));
        }
    }

    fn add_loads(&mut self, run: &StepRun) {
        for line in &run.lines {
            self.programs.extend(Program::read(line));
        }
        if self.programs.is_empty() {
            self.problems
                .push("no program was given to the verifier".to_owned());
        }
    }

    fn add_suite(&mut self, step: &Step, run: &StepRun) {
        let suite = Suite::read(run);
        let Suite {
            name,
            cases,
            failures,
            ..
        } = &suite;
        for failure in failures.keys() {
            self.problems.push(format!("{name}: {failure} failed"));
        }
        // Guests are there to lack nothing; the machine itself may.
        if self.flavour.is_some() {
            let lacking = suite
                .ignored
                .iter()
                .filter(|(why, _)| why.starts_with(LACKS));
            self.problems.extend(
                lacking.map(|(why, count)| format!("{name} did not run {count} cases: {why}")),
            );
        }
        let all = cases.passed + cases.failed;
        if all == 0 {
            self.problems.push(format!("{name} ran no test"));
        } else if let Some(named) = step.named_cases()
            && all < named
        {
            let missing = format!("{name} ran {all} of {named} cases: not all names are right");
            self.problems.push(missing);
        }
        self.suites.push(suite);
    }

    /// Holds the programs against their budgets.
    pub(super) fn check(&mut self, budgets: &Budgets) {
        if let Some(kernel) = budgets::number(&self.release)
            && !self.programs.is_empty()
        {
            let breaches = budgets.breaches(&kernel, &self.programs);
            self.problems.extend(breaches);
        }
    }

    /// Cases of the fixtures, or of everything else.
    pub(super) fn cases(&self, fixtures: bool) -> Cases {
        let suites = self.suites.iter();
        let suites = suites.filter(|suite| (suite.name == "fixtures") == fixtures);
        suites.fold(Cases::default(), |sum, suite| sum.and(suite.cases))
    }

    /// As tests are counted: a program that loads within its budget has passed, and every problem has failed.
    pub(super) fn counts(&self) -> Cases {
        let bad = |program: &&Program| {
            let start = format!("{} ", program.name);
            self.problems
                .iter()
                .any(|problem| problem.starts_with(&start))
        };
        let cases = self.suites.iter().map(|suite| suite.cases.passed);
        let programs = self.programs.iter().filter(|program| !bad(program));
        Cases {
            passed: programs.count() + cases.sum::<usize>(),
            failed: self.problems.len(),
            ignored: self.suites.iter().map(|suite| suite.cases.ignored).sum(),
        }
    }
}

impl Suite {
    /// From lines such as `test NAME ... ok`; what follows `FAILED` until the next test is what that test said.
    fn read(run: &StepRun) -> Self {
        let mut cases = Cases::default();
        let mut failures: BTreeMap<String, String> = BTreeMap::new();
        let mut ignored: BTreeMap<String, usize> = BTreeMap::new();
        let mut current: Option<String> = None;
        for line in &run.lines {
            let test = line
                .strip_prefix("test ")
                .and_then(|it| it.split_once(" ... "));
            match test {
                Some((_, "ok")) => {
                    cases.passed += 1;
                    current = None;
                }
                Some((name, outcome)) if outcome.starts_with("FAILED") => {
                    cases.failed += 1;
                    failures.insert(name.to_owned(), String::new());
                    current = Some(name.to_owned());
                }
                Some((_, outcome)) if outcome.starts_with("ignored") => {
                    cases.ignored += 1;
                    let reason = outcome
                        .trim_start_matches("ignored")
                        .trim_start_matches(", ");
                    *ignored.entry(reason.to_owned()).or_default() += 1;
                    current = None;
                }
                Some(_) | None if line.starts_with("test result: ") || line == "failures:" => {
                    current = None;
                }
                // How the standard test runner tells later what a test has said.
                Some(_) | None if line.starts_with("---- ") => {
                    let name = line.trim_matches('-').trim().trim_end_matches(" stdout");
                    current = Some(name.to_owned());
                }
                Some(_) | None => {
                    if let Some(said) = current.as_ref().and_then(|name| failures.get_mut(name)) {
                        said.push_str(line);
                        said.push('\n');
                    }
                }
            }
        }
        Self {
            name: run.step.clone(),
            cases,
            seconds: run.seconds,
            failures,
            ignored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(name: &str, code: i32, lines: &str) -> StepRun {
        StepRun {
            step: name.to_owned(),
            code: Some(code),
            seconds: 1.5,
            lines: lines.lines().map(str::to_owned).collect(),
            kernel: Vec::new(),
        }
    }

    #[test]
    fn a_suite_knows_its_cases_and_what_failures_said() {
        let suite = Suite::read(&ran(
            "traffic",
            1,
            "\ntest a ... ok\ntest b ... FAILED\none\ntwo\n\ntest c ... ok\n\
             test d ... ignored, this machine has no bond devices\n\nfailures:\n    b\n\n\
             test result: FAILED. 2 passed; 1 failed; 1 ignored\n",
        ));
        assert_eq!(
            suite.cases,
            Cases {
                passed: 2,
                failed: 1,
                ignored: 1
            }
        );
        assert_eq!(suite.ignored["this machine has no bond devices"], 1);
        assert_eq!(suite.failures["b"], "one\ntwo\n\n");
    }

    #[test]
    fn the_standard_runner_tells_its_failures_later() {
        let suite = Suite::read(&ran(
            "links",
            101,
            "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nError: no\n",
        ));
        assert_eq!(suite.failures["a"], "\nError: no\n");
    }

    fn read(flavour: Option<&str>, steps: &[Step], transcript: &Transcript) -> Outcome {
        let subject = Subject {
            kernel: "6.1",
            arch: Arch::Amd64,
            flavour: flavour.map(str::to_owned),
            lacks: &[],
            seconds: 9.0,
        };
        Outcome::read(subject, steps, transcript)
    }

    #[test]
    fn silence_is_a_failure() {
        let steps = super::super::plan::steps(true, Vec::new());
        let outcome = read(None, &steps, &Transcript::default());
        assert_eq!(outcome.problems.len(), steps.len() + 1, "{outcome:?}");
        let transcript = Transcript {
            steps: vec![
                ran("preflight", 0, "{}"),
                ran("loads", 0, ""),
                ran("fixtures", 0, "test a ... ok"),
                ran("traffic", 0, ""),
                ran("sockets", 0, "test a ... ok"),
            ],
            done: true,
            ..Transcript::default()
        };
        let outcome = read(None, &steps, &transcript);
        assert_eq!(
            outcome.problems,
            [
                "preflight told no feature of the kernel: {}",
                "no program was given to the verifier",
                "traffic ran no test",
                "sockets ran 1 of 10 cases: not all names are right"
            ]
        );
    }

    #[test]
    fn what_a_guest_lacks_is_a_problem_and_what_takes_long_is_none() -> anyhow::Result<()> {
        let choice = super::super::plan::Choice::parse("wires")?;
        let steps = super::super::plan::steps(false, vec![choice]);
        let lines = "test a ... ok\ntest b ... ignored, this machine has no bond devices\ntest c ... ignored";
        for (flavour, problems) in [(Some("generic"), 1), (None, 0)] {
            let transcript = Transcript {
                steps: vec![ran("wires", 0, lines)],
                done: true,
                ..Transcript::default()
            };
            let outcome = read(flavour, &steps, &transcript);
            assert_eq!(outcome.problems.len(), problems, "{:?}", outcome.problems);
        }
        Ok(())
    }

    #[test]
    fn a_refused_program_is_a_problem_told_once() -> anyhow::Result<()> {
        let steps = super::super::plan::steps(true, Vec::new());
        let steps = &steps[..2];
        let line = r#"{"program":"tc_ext_in","loaded":false,"ms":9,"instructions":1000001,
            "stack":null,"frames":[],"error":"E2BIG: too large"}"#
            .replace('\n', "");
        let preflight = r#"{"findings": [{"check": "feature", "subject": "tcx", "state": "warning"},
            {"check": "jit", "subject": null, "state": "ok"}]}"#;
        let transcript = Transcript {
            release: "6.1.0-57-cloud-amd64".to_owned(),
            steps: vec![ran("preflight", 1, preflight), ran("loads", 1, &line)],
            done: true,
            ..Transcript::default()
        };
        let mut outcome = read(None, steps, &transcript);
        assert_eq!(
            outcome.features,
            BTreeMap::from([("tcx".to_owned(), false)])
        );
        assert_eq!(outcome.problems, [""; 0]);
        outcome.check(&Budgets::parse("program 6.1\ntc_ext_in 1000")?);
        assert_eq!(
            outcome.problems,
            ["tc_ext_in is refused on 6.1: E2BIG: too large"]
        );
        Ok(())
    }
}
