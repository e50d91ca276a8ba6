//! `cargo xtask semantics`: every row of docs/semantics.md has a test, every test of a row its row.
//!
//! A test belongs to the row its name begins with: `b4_node_port_on_every_type` to B4. The names
//! are those the test program lists, so a test that does not run does not count.

use std::{collections::BTreeMap, fs, iter};

use anyhow::{Context as _, Result, bail};

use crate::exec::{cargo, root, run_reading};

const DOCUMENT: &str = "docs/semantics.md";

/// Prints rows with their tests; fails if one has none, or a test has no row.
pub(crate) fn semantics() -> Result<()> {
    let text = fs::read_to_string(root().join(DOCUMENT))
        .with_context(|| format!("cannot read {DOCUMENT}"))?;
    let mut names = Vec::new();
    let mut list = cargo();
    list.args(["test", "--quiet", "--package=tests", "--test=semantics"]);
    run_reading(list.args(["--", "--list"]), |line| {
        names.extend(line.strip_suffix(": test").map(str::to_owned));
    })?;
    let account = Account::new(rows(&text), &names);
    print!("{}", account.table());
    account.complete()
}

/// The rows, each with its tests; and the tests that have none.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    rows: Vec<(String, String, Vec<String>)>,
    strays: Vec<String>,
}

impl Account {
    fn new(rows: Vec<(String, String)>, tests: &[String]) -> Self {
        let mut of_row: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for test in tests {
            of_row.entry(row_of(test)).or_default().push(test.clone());
        }
        let rows = rows.into_iter().map(|(id, text)| {
            let tests = of_row.remove(&id).unwrap_or_default();
            (id, text, tests)
        });
        Self {
            rows: rows.collect(),
            strays: of_row.into_values().flatten().collect(),
        }
    }

    fn table(&self) -> String {
        let lines = self.rows.iter().flat_map(|(id, text, tests)| {
            let names = match tests.as_slice() {
                [] => vec!["NO TEST"],
                tests => tests.iter().map(String::as_str).collect(),
            };
            let names = names.into_iter().map(|name| format!("       {name}\n"));
            iter::once(format!("{id:<4} {text}\n")).chain(names)
        });
        lines.collect()
    }

    fn complete(&self) -> Result<()> {
        let untested = self.rows.iter().filter(|(_, _, tests)| tests.is_empty());
        let untested: Vec<_> = untested.map(|(id, _, _)| id.as_str()).collect();
        if !untested.is_empty() {
            bail!("rows without a test: {}", untested.join(", "));
        }
        if !self.strays.is_empty() {
            let strays = self.strays.join(", ");
            bail!("tests of rows that {DOCUMENT} does not have: {strays}");
        }
        if self.rows.is_empty() {
            bail!("{DOCUMENT} has no rows");
        }
        let tests: usize = self.rows.iter().map(|(_, _, tests)| tests.len()).sum();
        println!("\n{} rows, {tests} tests", self.rows.len());
        Ok(())
    }
}

/// The rows of the document's tables: id and text.
fn rows(document: &str) -> Vec<(String, String)> {
    let cells = document.lines().filter_map(|line| {
        let line = line.strip_prefix("| ")?.strip_suffix(" |")?;
        line.split_once(" | ")
    });
    cells
        .filter(|(id, _)| is_row(id))
        .map(|(id, text)| (id.to_owned(), text.to_owned()))
        .collect()
}

/// A letter and a number.
fn is_row(id: &str) -> bool {
    let mut chars = id.chars();
    let is_letter = chars.next().is_some_and(|c| c.is_ascii_uppercase());
    let number = chars.as_str();
    is_letter && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
}

/// The row a test's name begins with; the whole name if that is none.
fn row_of(test: &str) -> String {
    let name = test.rsplit("::").next().unwrap_or(test);
    let id = name.split('_').next().unwrap_or(name).to_uppercase();
    if is_row(&id) { id } else { test.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\
# Rows

| row | what happens |
|---|---|
| A1 | This. |
| B12 | `That` | or so. |
";

    fn account(tests: &[&str]) -> Account {
        let tests: Vec<_> = tests.iter().map(|&name| name.to_owned()).collect();
        Account::new(rows(DOCUMENT), &tests)
    }

    #[test]
    fn rows_stand_with_their_tests() {
        let account = account(&["objects::a1_this", "a1_also", "b12_that"]);
        let expected = "\
A1   This.
       objects::a1_this
       a1_also
B12  `That` | or so.
       b12_that
";
        assert_eq!(account.table(), expected);
        assert!(account.complete().is_ok());
    }

    #[test]
    fn a_row_without_a_test_fails() {
        let error = account(&["a1_this"]).complete().unwrap_err();
        assert_eq!(error.to_string(), "rows without a test: B12");
    }

    #[test]
    fn a_test_without_a_row_fails() {
        for stray in ["c9_else", "a12_else", "just_so"] {
            let error = account(&["a1_this", "b12_that", stray]).complete();
            assert!(error.unwrap_err().to_string().contains(stray));
        }
    }
}
