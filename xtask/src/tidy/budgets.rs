//! How many instructions the verifier walks through for each program, against what was recorded.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use super::Finding;
use crate::exec::{cargo, output};

/// Lines of `program instructions`; what follows a `#` is a remark.
const BUDGETS: &str = "lb-ebpf/budgets.txt";

const OBJECT: &str = "target/bpf/fairlead";

type Instructions = BTreeMap<String, u64>;

/// Loads the object, prints what each program took, and finds those over budget.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let budgets =
        fs::read_to_string(root.join(BUDGETS)).with_context(|| format!("cannot read {BUDGETS}"))?;
    let budgets = parse(&budgets).with_context(|| format!("cannot read {BUDGETS}"))?;
    let verified = verified()?;
    print_table(&budgets, &verified);
    Ok(compare(&budgets, &verified))
}

/// What the kernel says: it takes a loaded program to know.
fn verified() -> Result<Instructions> {
    let printed = output(cargo().args([
        "run",
        "--quiet",
        "--package=tests",
        "--bin=insns",
        "--",
        OBJECT,
    ]))?;
    parse(&printed)
}

fn parse(text: &str) -> Result<Instructions> {
    let mut programs = Instructions::new();
    for line in text.lines() {
        let words: Vec<_> = line
            .split('#')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        match *words {
            [] => {}
            [program, count] => {
                let count = count
                    .parse()
                    .with_context(|| format!("`{line}` is not `program instructions`"))?;
                programs.insert(program.to_owned(), count);
            }
            [_] | [_, _, _, ..] => bail!("`{line}` is not `program instructions`"),
        }
    }
    Ok(programs)
}

fn print_table(budgets: &Instructions, verified: &Instructions) {
    println!("{:24} {:>10} {:>10}", "program", "verified", "budget");
    for (program, count) in verified {
        let budget = budgets
            .get(program)
            .map_or_else(|| "none".to_owned(), u64::to_string);
        println!("{program:24} {count:>10} {budget:>10}");
    }
}

fn compare(budgets: &Instructions, verified: &Instructions) -> Vec<Finding> {
    let find = |message: String| Finding::new(BUDGETS, 1, message);
    let mut findings = Vec::new();
    if verified.is_empty() {
        findings.push(Finding::new(OBJECT, 1, "holds no programs"));
    }
    for (program, count) in verified {
        match budgets.get(program) {
            None => findings.push(find(format!(
                "no budget for {program}, which takes {count}"
            ))),
            Some(budget) if count > budget => findings.push(find(format!(
                "{program} takes {count} verified instructions; its budget is {budget}"
            ))),
            Some(_) => {}
        }
    }
    for program in budgets.keys().filter(|&it| !verified.contains_key(it)) {
        findings.push(find(format!(
            "a budget for {program}, which does not exist"
        )));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(budgets: &str, verified: &str) -> Vec<String> {
        let findings = compare(&parse(budgets).unwrap(), &parse(verified).unwrap());
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn programs_stay_within_their_budgets() {
        assert_eq!(
            messages("# hooks\nxdp 100 # v4 and v6\n", "xdp 100"),
            [""; 0]
        );
        assert_eq!(
            messages("xdp 100\ngone 1", "xdp 101\nnew 7"),
            [
                "lb-ebpf/budgets.txt:1: no budget for new, which takes 7",
                "lb-ebpf/budgets.txt:1: xdp takes 101 verified instructions; its budget is 100",
                "lb-ebpf/budgets.txt:1: a budget for gone, which does not exist",
            ]
        );
    }

    #[test]
    fn an_object_without_programs_proves_nothing() {
        assert_eq!(
            messages("", ""),
            ["target/bpf/fairlead:1: holds no programs"]
        );
    }

    #[test]
    fn a_budget_is_a_program_and_a_number() {
        for bad in ["xdp", "xdp many", "xdp 1 2"] {
            assert!(parse(bad).is_err(), "of {bad}");
        }
    }
}
