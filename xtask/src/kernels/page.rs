//! The page of results in the documentation: prose that people write, and tables between two marks.

use std::fs;

use anyhow::{Context as _, Result};

use super::{report, result::Outcome};
use crate::exec::{output, program, root};

const PAGE: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- written by `cargo xtask kernels --write`: begin -->";
const END: &str = "<!-- written by `cargo xtask kernels --write`: end -->";

/// Puts the tables of results into the page.
pub(super) fn write(outcomes: &[Outcome]) -> Result<()> {
    let path = root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    let commit = output(program("git").args(["describe", "--always", "--dirty"]))?;
    let date = output(program("date").args(["--utc", "+%Y-%m-%d"]))?;
    let page = replaced(&page, &results(outcomes, &date, &commit))?;
    fs::write(&path, page).with_context(|| format!("cannot write {PAGE}"))?;
    eprintln!("wrote {PAGE}");
    Ok(())
}

fn results(outcomes: &[Outcome], date: &str, commit: &str) -> String {
    let problems = report::problems(outcomes);
    let mut text = format!("Run on {date} at {commit}.\n\n{}", report::tables(outcomes));
    if problems.is_empty() {
        text.push_str("\nNothing failed.\n");
    } else {
        text.push_str("\nWhat failed:\n\n");
        text.extend(problems.iter().map(|problem| format!("- {problem}\n")));
    }
    text
}

/// The page with other text between the marks.
fn replaced(page: &str, text: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.with_context(|| format!("{PAGE} lacks the marks for results"))?;
    Ok(format!("{before}{BEGIN}\n\n{text}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_written() -> Result<()> {
        let page = format!("# Kernels\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n");
        let expected = format!("# Kernels\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n");
        assert_eq!(replaced(&page, "new\n")?, expected);
        assert_eq!(replaced(&expected, "new\n")?, expected);
        assert!(replaced("# Kernels\n", "new\n").is_err());
        Ok(())
    }

    #[test]
    fn the_page_has_its_marks() -> Result<()> {
        let page = fs::read_to_string(root().join(PAGE))?;
        replaced(&page, "").map(drop)
    }
}
