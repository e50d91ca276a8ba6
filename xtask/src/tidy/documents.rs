//! Rules on documents: what they point at is there, and what they promise is what CI runs.

use std::path::{Component, Path, PathBuf};

use super::{File, Finding};

/// How the README's line for the tests ends.
const TEST_LINE_END: &str = "cargo xtask test";

/// Links to files lead somewhere.
pub(super) fn check_links(file: &File, files: &[File]) -> Vec<Finding> {
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    links(&file.text)
        .filter(|(_, target)| !target.contains(':') && !target.starts_with('#'))
        .filter_map(|(line, target)| {
            let path = target.split('#').next().unwrap_or(target);
            let path = normalised(&folder.join(path));
            let is_there = files
                .iter()
                .any(|it| Path::new(&it.path).starts_with(&path));
            let message = format!("the link to {target} leads nowhere");
            (!is_there).then(|| Finding::new(&file.path, line, message))
        })
        .collect()
}

/// What the README tells newcomers to run is what CI runs, letter by letter.
pub(super) fn check_test_line(files: &[File]) -> Vec<Finding> {
    let text = |path| {
        let file = files.iter().find(|file| file.path == path);
        file.map_or("", |file| &file.text)
    };
    let promised = text("README.md")
        .lines()
        .map(str::trim)
        .find(|line| line.ends_with(TEST_LINE_END));
    let Some(promised) = promised else {
        let message = format!("no line that ends in `{TEST_LINE_END}`");
        return vec![Finding::new("README.md", 1, message)];
    };
    if text(".ci/run").lines().any(|line| line == promised) {
        return Vec::new();
    }
    let message = format!("does not run the README's line: {promised}");
    vec![Finding::new(".ci/run", 1, message)]
}

/// The targets of `[text](target)`, with their lines, outside of code blocks.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    let prose = text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    });
    prose.flat_map(|(index, line)| {
        let targets = line.split("](").skip(1);
        targets.filter_map(move |rest| Some((index + 1, rest.split_once(')')?.0)))
    })
}

fn normalised(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::Normal(name) => normal.push(name),
            Component::CurDir | Component::Prefix(_) | Component::RootDir => {}
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn links_lead_to_files() {
        let files = [file("README.md", ""), file("docs/a/b.md", "")];
        let check = |text| check_links(&file("docs/x.md", text), &files);
        for good in [
            "[a](a/b.md), [b](../README.md#part), [c](a)",
            "[web](https://example.org/x), [here](#part)",
            "```\n[code](nowhere)\n```",
        ] {
            assert_eq!(check(good), [], "of {good}");
        }
        assert_eq!(
            check("[a](a/b.md)\n[c](c.md#d)"),
            [Finding::new(
                "docs/x.md",
                2,
                "the link to c.md#d leads nowhere"
            )]
        );
    }

    #[test]
    fn ci_runs_what_the_readme_promises() {
        let check =
            |readme, run| check_test_line(&[file("README.md", readme), file(".ci/run", run)]);
        let readme = "To test:\n\n    apt-get update && cargo xtask test\n";
        assert_eq!(
            check(readme, "#!/bin/bash\napt-get update && cargo xtask test\n"),
            []
        );
        assert_eq!(
            check(readme, "cargo xtask test\n"),
            [Finding::new(
                ".ci/run",
                1,
                "does not run the README's line: apt-get update && cargo xtask test"
            )]
        );
        assert_eq!(check("", "cargo xtask test").len(), 1);
    }
}
