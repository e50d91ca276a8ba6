//! Rules on Rust files.

use std::path::Path;

use super::{
    File, Finding,
    code::{code_lines, words},
};

/// A file past this is two concerns (and past 400 lines it is time to look for them).
const LONGEST_FILE: usize = 450;

/// Macros that have no place in what is committed.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// Names that say nothing about what is inside.
const VAGUE_MODULES: &[&str] = &["common", "helper", "helpers", "manager", "util", "utils"];

/// The rules on one file. `unsafe_files` are those that may hold `unsafe`.
pub(super) fn check(file: &File, unsafe_files: &[&str]) -> Vec<Finding> {
    let code = code_lines(&file.text);
    let mut findings = Vec::from_iter(check_length(file));
    findings.extend(check_name(file));
    for (index, line) in code.iter().enumerate() {
        let mut find = |message: String| {
            findings.push(Finding::new(&file.path, index + 1, message));
        };
        if let Some(name) = UNFINISHED.iter().find(|name| calls(line, name)) {
            find(format!("`{name}` is for work in progress"));
        }
        if line.contains("[allow(") || line.contains(", allow(") {
            find("use `#[expect(.., reason = \"..\")]`: it ends with its cause".to_owned());
        }
        if holds_unsafe(line) {
            if !unsafe_files.contains(&&*file.path) {
                find("`unsafe` may not be here: see UNSAFE_FILES in xtask/src/tidy.rs".to_owned());
            }
            if needs_safety_comment(&code, index) && !has_safety_comment(file, &code, index) {
                find("`unsafe` without a `// SAFETY:` comment above".to_owned());
            }
        }
    }
    findings
}

/// The rules on particular crates.
pub(super) fn check_crates(files: &[File]) -> Vec<Finding> {
    let pipeline = "lb-ebpf/src/lib.rs";
    let forbids = files.iter().any(|file| {
        let code = code_lines(&file.text);
        file.path == pipeline
            && code
                .iter()
                .any(|line| line.contains("#![forbid(unsafe_code)]"))
    });
    let message = "the pipeline needs `#![forbid(unsafe_code)]`";
    Vec::from_iter((!forbids).then(|| Finding::new(pipeline, 1, message)))
}

/// The list of files with `unsafe` holds none in vain.
pub(super) fn check_unsafe_list(files: &[File], unsafe_files: &[&str]) -> Vec<Finding> {
    let in_use = |path: &str| {
        let file = files.iter().find(|file| file.path == path);
        file.is_some_and(|file| code_lines(&file.text).iter().any(|line| holds_unsafe(line)))
    };
    unsafe_files
        .iter()
        .filter(|path| !in_use(path))
        .map(|path| Finding::new(path, 1, "listed in UNSAFE_FILES, but holds no `unsafe`"))
        .collect()
}

fn check_length(file: &File) -> Option<Finding> {
    let lines = file.text.lines().count();
    let message = format!("{lines} lines; more than {LONGEST_FILE} are two concerns");
    (lines > LONGEST_FILE).then(|| Finding::new(&file.path, LONGEST_FILE + 1, message))
}

fn check_name(file: &File) -> Option<Finding> {
    let path = Path::new(&file.path).with_extension("");
    let name = path
        .iter()
        .filter_map(|part| part.to_str())
        .find(|part| VAGUE_MODULES.contains(part))?;
    let message = format!("a module called `{name}` does not say what it holds");
    Some(Finding::new(&file.path, 1, message))
}

fn calls(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn holds_unsafe(line: &str) -> bool {
    words(line).any(|word| word == "unsafe")
}

/// Blocks and implementations promise something here; functions, externs and attributes say what
/// they ask for in their own documentation.
fn needs_safety_comment(code: &[String], index: usize) -> bool {
    let after = code[index]
        .split_once("unsafe")
        .map_or("", |(_, after)| after.trim_start());
    let next = code.get(index + 1).map_or("", |line| line.trim_start());
    let after = if after.is_empty() { next } else { after };
    after.starts_with('{') || words(after).next() == Some("impl")
}

/// Whether the comment above the statement that holds this line says why it is safe.
fn has_safety_comment(file: &File, code: &[String], index: usize) -> bool {
    let lines: Vec<_> = file.text.lines().map(str::trim).collect();
    let is_comment = |index: usize| lines[index].starts_with("//");
    let continues = |index: usize| {
        let code = code[index].trim();
        let ends = code.ends_with([';', '{', '}', ',']);
        code.starts_with("#[") || (!code.is_empty() && !ends)
    };
    let above: Vec<_> = (0..index)
        .rev()
        .skip_while(|&index| !is_comment(index) && continues(index))
        .take_while(|&index| is_comment(index))
        .collect();
    above.iter().any(|&index| lines[index].contains("SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    /// The messages about a file that may hold `unsafe`.
    fn findings(path: &str, text: &str) -> Vec<String> {
        let findings = check(&file(path, text), &["unsafe.rs"]);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_has_at_most_450_lines() {
        assert_eq!(findings("a.rs", &"x\n".repeat(450)), [""; 0]);
        assert_eq!(
            findings("a.rs", &"x\n".repeat(451)),
            ["a.rs:451: 451 lines; more than 450 are two concerns"]
        );
    }

    #[test]
    fn nothing_is_left_unfinished() {
        assert_eq!(findings("a.rs", "// todo!()\nnot_todo!();"), [""; 0]);
        assert_eq!(
            findings("a.rs", "\ntodo!();"),
            ["a.rs:2: `todo!` is for work in progress"]
        );
        assert_eq!(findings("a.rs", "dbg!(x); unimplemented!()").len(), 1);
    }

    #[test]
    fn lints_are_expected_not_allowed() {
        assert_eq!(findings("a.rs", "#[expect(x, reason = \"y\")]"), [""; 0]);
        for attribute in ["#[allow(x)]", "#![allow(x)]", "#[cfg_attr(test, allow(x))]"] {
            assert_eq!(
                findings("a.rs", attribute),
                ["a.rs:1: use `#[expect(.., reason = \"..\")]`: it ends with its cause"]
            );
        }
    }

    #[test]
    fn modules_are_named_for_what_they_hold() {
        assert_eq!(findings("lb-common/src/flow.rs", ""), [""; 0]);
        for path in ["a/utils.rs", "a/utils/b.rs"] {
            assert_eq!(
                findings(path, ""),
                [format!(
                    "{path}:1: a module called `utils` does not say what it holds"
                )]
            );
        }
    }

    #[test]
    fn unsafe_stays_in_its_files() {
        let text = "// SAFETY: it is.\nunsafe { f() }";
        assert_eq!(findings("unsafe.rs", text), [""; 0]);
        assert_eq!(findings("a.rs", "// unsafe\n\"unsafe\""), [""; 0]);
        assert_eq!(
            findings("a.rs", text),
            ["a.rs:2: `unsafe` may not be here: see UNSAFE_FILES in xtask/src/tidy.rs"]
        );
    }

    #[test]
    fn unsafe_says_why_it_is_safe() {
        for justified in [
            "// SAFETY: it is,\n// always.\nunsafe { f() }",
            "// SAFETY: it is.\nlet x =\n    unsafe { f() };",
            "// SAFETY: it is.\n#[rustfmt::skip]\nunsafe impl A for B {}",
            "/// Contract.\nunsafe fn f() {}",
            "#[unsafe(no_mangle)]",
        ] {
            assert_eq!(findings("unsafe.rs", justified), [""; 0], "of {justified}");
        }
        for silent in [
            "unsafe { f() }",
            "// it is.\nunsafe { f() }",
            "// SAFETY: it is.\nf();\nunsafe { f() }",
            "// SAFETY: it is.\n\nunsafe { f() }",
            "unsafe impl A for B {}",
            "unsafe\n{ f() }",
        ] {
            assert_eq!(findings("unsafe.rs", silent).len(), 1, "of {silent}");
        }
    }

    #[test]
    fn the_pipeline_forbids_unsafe() {
        let with = |text| check_crates(&[file("lb-ebpf/src/lib.rs", text)]);
        assert_eq!(with("#![forbid(unsafe_code)]"), []);
        assert_eq!(with("// #![forbid(unsafe_code)]").len(), 1);
        assert_eq!(check_crates(&[]).len(), 1);
    }

    #[test]
    fn the_list_of_unsafe_files_is_true() {
        let files = [file("a.rs", "unsafe {}"), file("b.rs", "// unsafe")];
        assert_eq!(check_unsafe_list(&files, &["a.rs"]), []);
        assert_eq!(check_unsafe_list(&files, &["b.rs"]).len(), 1);
        assert_eq!(check_unsafe_list(&files, &["c.rs"]).len(), 1);
    }
}
