//! How much the verifier may have to do for each program, and how deep its stack may go, on each kernel.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::exec::{cargo, output, program};

/// A heading of kernels, then a line a program with its budget on each; what follows a `#` is a remark.
pub(crate) const BUDGETS: &str = "lb-ebpf/budgets.txt";

/// The object that the agent embeds.
pub(crate) const OBJECT: &str = "target/bpf/fairlead";

/// Half of what every kernel's verifier walks through before it gives up. Kernels differ by a factor of four
/// over the same program, so what is near the limit on one is over it on another.
const HALF_OF_LIMIT: u64 = 500_000;

/// Instructions for a program of the slow path, by design.
const SLOW_PATH: u64 = 200_000;

/// Instructions for any other program, by design.
const FAST_PATH: u64 = 40_000;

/// Bytes of the deepest chain of calls, by design; the kernel's limit is 512.
const STACK: u32 = 480;

/// What names of the programs of the slow path end with.
const SLOW_PATH_SUFFIX: &str = "_full";

/// What the verifier said of a program; as `programs --json` of the `tests` crate prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Its name; that of a dry-run copy begins with `dry:`.
    #[serde(rename = "program")]
    pub(crate) name: String,
    pub(crate) loaded: bool,
    /// Milliseconds of the system call.
    pub(crate) ms: u64,
    /// Instructions that the verifier walked through.
    pub(crate) instructions: Option<u64>,
    /// Bytes of stack of the deepest chain of calls, each frame rounded up to 32.
    pub(crate) stack: Option<u32>,
    /// Bytes of stack of each function.
    pub(crate) frames: Vec<u32>,
    /// Why it was refused.
    pub(crate) error: String,
}

impl Program {
    /// Reads a line; `None` if it is about something else.
    pub(crate) fn read(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

/// Gives every program of the object to this machine's verifier.
pub(crate) fn measure() -> Result<Vec<Program>> {
    let printed = ask_verifier("--json")?;
    let programs: Vec<_> = printed.lines().filter_map(Program::read).collect();
    ensure!(!programs.is_empty(), "{OBJECT} holds no programs");
    Ok(programs)
}

/// Numbers that functions read from their caller's stack: kernels before 6.8 may run such code wrong. A line each.
pub(crate) fn stack_reads() -> Result<Vec<String>> {
    let printed = ask_verifier("--stack-reads")?;
    Ok(printed.lines().map(str::to_owned).collect())
}

/// What `programs` of the `tests` crate prints about the object with this option.
fn ask_verifier(option: &str) -> Result<String> {
    let mut programs = cargo();
    programs.args(["run", "--quiet", "--package=tests", "--bin=programs", "--"]);
    output(programs.args([option, OBJECT]))
}

/// The number of this machine's kernel, such as `6.18`.
pub(crate) fn own_kernel() -> Result<String> {
    let release = output(program("uname").arg("-r"))?;
    number(&release).with_context(|| format!("the kernel's release {release} has no number"))
}

/// `6.12` of `6.12.118+deb13-amd64`.
pub(crate) fn number(release: &str) -> Option<String> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let (major, minor) = (parts.next()?, parts.next()?);
    (!major.is_empty() && !minor.is_empty()).then(|| format!("{major}.{minor}"))
}

/// Instructions that each program may take on each kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Budgets {
    kernels: Vec<String>,
    programs: BTreeMap<String, Vec<u64>>,
}

impl Budgets {
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(BUDGETS));
        text.map_err(Into::into)
            .and_then(|text| Self::parse(&text))
            .with_context(|| format!("cannot read {BUDGETS}"))
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(|line| {
            let line = line.split('#').next().unwrap_or("");
            line.split_whitespace().collect::<Vec<_>>()
        });
        let mut lines = lines.filter(|words| !words.is_empty());
        let heading = lines.next().context("it has no heading")?;
        let ["program", kernels @ ..] = heading.as_slice() else {
            bail!(
                "the heading is not `program KERNEL…`: {}",
                heading.join(" ")
            );
        };
        let mut programs = BTreeMap::new();
        for words in lines {
            let line = words.join(" ");
            let (name, budgets) = words.split_first().context("an empty line")?;
            ensure!(
                budgets.len() == kernels.len(),
                "`{line}` has not a budget for each of {}",
                kernels.join(", ")
            );
            let budgets = budgets.iter().map(|budget| budget.parse());
            let budgets: Result<_, _> = budgets.collect();
            let budgets = budgets.with_context(|| format!("`{line}` is not `program budget…`"))?;
            programs.insert((*name).to_owned(), budgets);
        }
        let kernels = kernels.iter().map(|&kernel| kernel.to_owned()).collect();
        Ok(Self { kernels, programs })
    }

    /// A program's budget on a kernel; the largest of all where the kernel has no column.
    fn of_program(&self, name: &str, kernel: &str) -> Option<u64> {
        let budgets = self.programs.get(name)?;
        let column = self.kernels.iter().position(|it| it == kernel);
        match column {
            Some(column) => budgets.get(column).copied(),
            None => budgets.iter().max().copied(),
        }
    }

    /// What is wrong with what a kernel's verifier said, a line each.
    pub(crate) fn breaches(&self, kernel: &str, programs: &[Program]) -> Vec<String> {
        let mut breaches = Vec::new();
        for program in programs {
            let name = &program.name;
            let budget = self.of_program(name, kernel);
            breaches.extend(budget.is_none().then(|| match program.instructions {
                Some(count) => format!("no budget for {name}, which takes {count} on {kernel}"),
                None => format!("no budget for {name}"),
            }));
            if !program.loaded {
                breaches.push(format!("{name} is refused on {kernel}: {}", program.error));
                continue;
            }
            let limits = [
                (budget, "its budget"),
                (Some(design_limit(name)), "the design's limit"),
                (Some(HALF_OF_LIMIT), "half of the verifier's limit"),
            ];
            let over = limits.into_iter().find_map(|(limit, what)| {
                let (count, limit) = (program.instructions?, limit?);
                (count > limit).then(|| {
                    format!(
                        "{name} takes {count} verified instructions on {kernel}; {what} is {limit}"
                    )
                })
            });
            breaches.extend(over);
            breaches.extend(program.stack.filter(|stack| *stack > STACK).map(|stack| {
                format!(
                    "{name} takes {stack} bytes of stack on {kernel}; the design's limit is {STACK}"
                )
            }));
            breaches.extend(
                program
                    .instructions
                    .is_none()
                    .then(|| format!("{kernel} has not said what {name} takes")),
            );
        }
        for name in self.programs.keys() {
            if !programs.iter().any(|program| program.name == *name) {
                breaches.push(format!("a budget for {name}, which does not exist"));
            }
        }
        breaches
    }

    /// What each program takes beside what it may.
    pub(crate) fn table(&self, kernel: &str, programs: &[Program]) -> String {
        let heading = ["program", "verified", "budget", "stack"].map(str::to_owned);
        let rows = programs.iter().map(|program| {
            let shown = |number: Option<u64>| number.map_or("none".to_owned(), |it| it.to_string());
            [
                program.name.clone(),
                shown(program.instructions),
                shown(self.of_program(&program.name, kernel)),
                shown(program.stack.map(u64::from)),
            ]
        });
        let lines: Vec<_> = std::iter::once(heading)
            .chain(rows)
            .map(|[name, count, budget, stack]| {
                format!("{name:24} {count:>10} {budget:>10} {stack:>6}\n")
            })
            .collect();
        lines.concat()
    }
}

fn design_limit(name: &str) -> u64 {
    if name.ends_with(SLOW_PATH_SUFFIX) {
        SLOW_PATH
    } else {
        FAST_PATH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(name: &str, instructions: u64, stack: u32) -> Program {
        Program {
            name: name.to_owned(),
            loaded: true,
            ms: 1,
            instructions: Some(instructions),
            stack: Some(stack),
            frames: vec![stack],
            error: String::new(),
        }
    }

    fn breaches(budgets: &str, kernel: &str, programs: &[Program]) -> Vec<String> {
        Budgets::parse(budgets).unwrap().breaches(kernel, programs)
    }

    #[test]
    fn programs_stay_within_their_budgets_on_each_kernel() {
        let budgets = "# hooks\nprogram 6.1 6.12\nxdp 100 200 # v4 and v6\n";
        let xdp = |count| [takes("xdp", count, 32)];
        assert_eq!(breaches(budgets, "6.1", &xdp(100)), [""; 0]);
        assert_eq!(breaches(budgets, "6.12", &xdp(101)), [""; 0]);
        assert_eq!(
            breaches(budgets, "6.1", &xdp(101)),
            ["xdp takes 101 verified instructions on 6.1; its budget is 100"]
        );
        // A kernel without a column has the largest.
        assert_eq!(breaches(budgets, "6.6", &xdp(200)), [""; 0]);
        assert_eq!(breaches(budgets, "6.6", &xdp(201)).len(), 1);
    }

    #[test]
    fn budgets_and_programs_are_the_same_ones() {
        assert_eq!(
            breaches("program 6.1\ngone 1", "6.1", &[takes("new", 7, 32)]),
            [
                "no budget for new, which takes 7 on 6.1",
                "a budget for gone, which does not exist",
            ]
        );
    }

    #[test]
    fn the_design_has_limits_whatever_the_budgets_say() {
        let budgets = "program 6.1\nslow_full 900000\nfast 900000";
        let programs =
            |slow, fast, stack| [takes("slow_full", slow, stack), takes("fast", fast, stack)];
        assert_eq!(
            breaches(budgets, "6.1", &programs(200_000, 40_000, 480)),
            [""; 0]
        );
        assert_eq!(
            breaches(budgets, "6.1", &programs(200_001, 40_001, 481)),
            [
                "slow_full takes 200001 verified instructions on 6.1; the design's limit is 200000",
                "slow_full takes 481 bytes of stack on 6.1; the design's limit is 480",
                "fast takes 40001 verified instructions on 6.1; the design's limit is 40000",
                "fast takes 481 bytes of stack on 6.1; the design's limit is 480",
            ]
        );
    }

    #[test]
    fn a_refused_program_and_a_silent_verifier_are_breaches() {
        let refused = Program {
            loaded: false,
            error: "E2BIG".to_owned(),
            ..takes("xdp", 1_000_001, 32)
        };
        let silent = Program {
            instructions: None,
            ..takes("tc", 0, 32)
        };
        assert_eq!(
            breaches("program 6.1\nxdp 1\ntc 1", "6.1", &[refused, silent]),
            [
                "xdp is refused on 6.1: E2BIG",
                "6.1 has not said what tc takes"
            ]
        );
    }

    #[test]
    fn a_line_has_a_budget_for_each_kernel() {
        for bad in [
            "",
            "xdp 1",
            "program 6.1\nxdp",
            "program 6.1\nxdp many",
            "program 6.1\nxdp 1 2",
        ] {
            assert!(Budgets::parse(bad).is_err(), "of {bad}");
        }
    }

    #[test]
    fn a_kernel_is_known_by_two_numbers() {
        assert_eq!(number("6.12.118+deb13-amd64"), Some("6.12".to_owned()));
        assert_eq!(number("7.3-rc1"), Some("7.3".to_owned()));
        assert_eq!(number("x"), None);
    }
}
