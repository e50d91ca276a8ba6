//! `cargo xtask tidy`: the rules of the repository, as checks that tell every breach at once.

mod code;
mod documents;
mod manifest;
mod rust;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    budgets::{self, BUDGETS, Budgets},
    ebpf,
    exec::root,
};

/// The only files that may hold `unsafe`.
const UNSAFE_FILES: &[&str] = &[
    "lb-common/src/lib.rs",
    "lb-ebpf/src/bench/outer.rs",
    "lb-ebpf/src/bench/targets.rs",
    "lb-ebpf/src/bpf/dry_run.rs",
    "lb-ebpf/src/bpf/entry.rs",
    "lb-ebpf/src/bpf/fib.rs",
    "lb-ebpf/src/bpf/maps.rs",
    "lb-ebpf/src/bpf/socket.rs",
    "lb-ebpf/src/bpf/tables.rs",
    "lb-ebpf/src/bpf/tc.rs",
    "lb-ebpf/src/bpf/words.rs",
    "lb-ebpf/src/bpf/xdp.rs",
    "lb-userspace/src/agent/netns.rs",
    "lb-userspace/src/bpf.rs",
    "lb-userspace/src/bpf/trial.rs",
    "lb-userspace/src/maps/batch.rs",
    "lb-userspace/src/maps/mmap.rs",
    "tests/src/old_kernel.rs",
    "tests/src/raw.rs",
    "tests/src/verifier/raw.rs",
];

/// Folders that hold nothing of ours.
const NOT_OURS: &[&str] = &[".git", "target"];

/// Builds what has to be measured, then checks.
pub(crate) fn tidy() -> Result<()> {
    ebpf::build(&[])?;
    check()
}

/// Checks all rules; the BPF objects have to be there.
pub(crate) fn check() -> Result<()> {
    let root = root();
    let files = read_tree(&root).context("cannot read the repository")?;
    let mut findings = check_files(&files);
    let measured = check_budgets(&root).map(|over| findings.extend(over));
    for finding in &findings {
        println!("{finding}");
    }
    measured.context("cannot count the programs' instructions")?;
    if !findings.is_empty() {
        bail!("{} breaches of the rules", findings.len());
    }
    println!("{} files follow the rules", files.len());
    Ok(())
}

/// What this machine's verifier says of the programs.
fn check_budgets(root: &Path) -> Result<Vec<Finding>> {
    let budgets = Budgets::of(root)?;
    let (kernel, programs) = (budgets::own_kernel()?, budgets::measure()?);
    print!("{}", budgets.table(&kernel, &programs));
    let breaches = budgets.breaches(&kernel, &programs).into_iter();
    let breaches = breaches.map(|breach| Finding::new(BUDGETS, 1, breach));
    let reads = budgets::stack_reads()?.into_iter();
    let reads = reads.map(|read| Finding::new(budgets::OBJECT, 1, read));
    Ok(breaches.chain(reads).collect())
}

fn check_files(files: &[File]) -> Vec<Finding> {
    let mut findings = rust::check_crates(files);
    findings.extend(rust::check_unsafe_list(files, UNSAFE_FILES));
    findings.extend(documents::check_test_line(files));
    for file in files {
        if has_extension(&file.path, "rs") {
            findings.extend(rust::check(file, UNSAFE_FILES));
        } else if has_extension(&file.path, "md") {
            findings.extend(documents::check_links(file, files));
        } else if file.path == "Cargo.toml" {
            findings.extend(manifest::check(file));
        }
    }
    findings
}

/// A text file of the repository.
#[derive(Debug)]
struct File {
    /// Below the top of the repository, with `/` between the parts.
    path: String,
    text: String,
}

/// A breach of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From 1.
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            message,
        } = self;
        write!(f, "{path}:{line}: {message}")
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|it| it == extension)
}

/// Every text file, sorted by path; what is not text has no rules.
fn read_tree(root: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() && !NOT_OURS.iter().any(|it| path == Path::new(it)) {
                folders.push(path);
            } else if kind.is_file()
                && let Ok(text) = String::from_utf8(fs::read(root.join(&path))?)
            {
                let path = path.to_string_lossy().into_owned();
                files.push(File { path, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

#[cfg(test)]
fn file(path: &str, text: &str) -> File {
    File {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}
