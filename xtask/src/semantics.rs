//! `cargo xtask semantics`: every row of docs/semantics.md has a test, every test of a row its row.
//!
//! A test is of the rows that its name, or a part of its path, begins with: `b4_node_port_on_every_type`
//! of B4, `sockets::c15_e3_local_policy::v4` of C15 and E3. The names are those the test programs list,
//! so a test that does not run does not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, iter,
};

use anyhow::{Context, Result, bail};

use crate::exec::{cargo, root, run_reading};

const DOCUMENT: &str = "docs/semantics.md";

/// The program all of whose tests are of rows: the contract's own, on a real API server.
const CONTRACT: &str = "semantics";
/// The others that have tests of rows, and the packages they are in.
const PROGRAMS: [(&str, &str); 10] = [
    ("tests", CONTRACT),
    ("tests", "fixtures"),
    ("tests", "traffic"),
    ("tests", "sockets"),
    ("tests", "overlay"),
    ("tests", "links"),
    ("tests", "wires"),
    ("tests", "snat"),
    ("lb-userspace", "control"),
    ("lb-ebpf", "pipeline"),
];

/// Prints rows with their tests; fails if one has none, or a test has no row.
pub(crate) fn semantics() -> Result<()> {
    let text = fs::read_to_string(root().join(DOCUMENT))
        .with_context(|| format!("cannot read {DOCUMENT}"))?;
    let mut tests = Vec::new();
    for (package, program) in PROGRAMS {
        let mut list = cargo();
        list.args(["test", "--quiet", "--package", package, "--test", program]);
        run_reading(list.args(["--", "--list"]), |line| {
            let name = line.strip_suffix(": test");
            tests.extend(name.map(|name| format!("{program}::{name}")));
        })?;
    }
    let account = Account::new(rows(&text), &tests);
    print!("{}", account.table());
    account.complete()
}

/// A row: its id and text, and the tests that are of it.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    id: String,
    text: String,
    tests: Vec<String>,
}

/// The rows; and the tests that ought to be of one, and are not.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    rows: Vec<Row>,
    strays: Vec<String>,
}

impl Account {
    fn new(rows: Vec<(String, String)>, tests: &[String]) -> Self {
        let mut of_row: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut strays = Vec::new();
        for test in tests {
            let ids = rows_of(test);
            if ids.is_empty() && test.starts_with(&format!("{CONTRACT}::")) {
                strays.push(test.clone());
            }
            for id in ids {
                of_row.entry(id).or_default().push(test.clone());
            }
        }
        let rows = rows.into_iter().map(|(id, text)| {
            let tests = of_row.remove(&id).unwrap_or_default();
            Row { id, text, tests }
        });
        let rows = rows.collect();
        strays.extend(of_row.into_values().flatten());
        Self { rows, strays }
    }

    fn table(&self) -> String {
        let lines = self.rows.iter().flat_map(|Row { id, text, tests }| {
            let names: BTreeSet<_> = match tests.as_slice() {
                [] => BTreeSet::from(["NO TEST".to_owned()]),
                tests => tests.iter().map(|test| short(test, id)).collect(),
            };
            let names = names.into_iter().map(|name| format!("       {name}\n"));
            iter::once(format!("{id:<4} {text}\n")).chain(names)
        });
        lines.collect()
    }

    fn complete(&self) -> Result<()> {
        let untested = self.rows.iter().filter(|row| row.tests.is_empty());
        let untested: Vec<_> = untested.map(|row| row.id.as_str()).collect();
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
        let tests: BTreeSet<_> = self.rows.iter().flat_map(|row| &row.tests).collect();
        println!("\n{} rows, {} tests", self.rows.len(), tests.len());
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

/// The rows a test is of.
fn rows_of(test: &str) -> BTreeSet<String> {
    test.split("::").flat_map(ids).collect()
}

/// The rows that a part of a test's path begins with; something has to follow, as in no `v4`.
fn ids(part: &str) -> impl Iterator<Item = String> {
    let (words, _) = part.rsplit_once('_').unwrap_or_default();
    let ids = words.split('_').map(str::to_uppercase);
    ids.take_while(|id| is_row(id))
}

/// A test of a row without what tells it from others of its kind: as one of E1
/// `sockets::e1_no_endpoints::v6::udp` is `sockets::e1_no_endpoints`.
fn short(test: &str, row: &str) -> String {
    let program = test.split("::").next().unwrap_or_default();
    match test.split("::").find(|part| ids(part).any(|id| id == row)) {
        Some(part) => format!("{program}::{part}"),
        None => test.to_owned(),
    }
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
        let account = account(&[
            "semantics::objects::a1_this",
            "semantics::a1_also",
            "traffic::tc::b12_a1_that::v4::udp",
            "traffic::tc::b12_a1_that::v6::udp",
            "sockets::a1_this::v4::b12_loose",
        ]);
        let expected = "\
A1   This.
       semantics::a1_also
       semantics::a1_this
       sockets::a1_this
       traffic::b12_a1_that
B12  `That` | or so.
       sockets::b12_loose
       traffic::b12_a1_that
";
        assert_eq!(account.table(), expected);
        assert!(account.complete().is_ok());
    }

    #[test]
    fn a_row_without_a_test_fails() {
        let error = account(&["semantics::a1_this"]).complete().unwrap_err();
        assert_eq!(error.to_string(), "rows without a test: B12");
    }

    #[test]
    fn a_test_without_a_row_fails() {
        let strays = [
            "semantics::c9_else",
            "traffic::a12_else::v4",
            "sockets::a1_b2_both",
            "semantics::just_so",
        ];
        for stray in strays {
            let error = account(&["semantics::a1_this", "snat::b12_that", stray]).complete();
            assert!(error.unwrap_err().to_string().contains(stray));
        }
    }

    #[test]
    fn beside_the_contract_s_own_a_test_need_not_be_of_a_row() {
        let others = ["traffic::tc::clean_wire", "sockets::status::v4", "snat::v6"];
        let account = account(&[&["semantics::a1_this", "snat::b12_that"], &others[..]].concat());
        assert!(account.complete().is_ok());
    }
}
