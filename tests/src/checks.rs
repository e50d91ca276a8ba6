//! A test runner for checks that share something dear (a running cluster) and have to take it down
//! when they are through, which `#[test]` functions cannot. Arguments and output are those of
//! `cargo test`.

use std::{
    any::Any,
    env, fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use anyhow::Result;

type Run<W> = dyn Fn(&mut W) -> Result<()>;

/// One check on a shared `W`.
pub struct Check<W> {
    name: String,
    run: Box<Run<W>>,
}

impl<W> Check<W> {
    /// A check and its name, by which it is chosen and reported.
    pub fn new(name: impl Into<String>, run: impl Fn(&mut W) -> Result<()> + 'static) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

impl<W> fmt::Debug for Check<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The checks asked for, and how they went.
#[derive(Debug)]
pub struct Checks {
    started: Instant,
    filters: Vec<String>,
    exact: bool,
    list: bool,
    long: bool,
    passed: usize,
    failed: Vec<String>,
    ignored: usize,
    filtered: usize,
}

impl Checks {
    /// As the command line asks.
    pub fn from_args() -> Self {
        let (flags, filters): (Vec<_>, Vec<_>) =
            env::args().skip(1).partition(|arg| arg.starts_with('-'));
        let checks = Self {
            started: Instant::now(),
            filters,
            exact: flags.iter().any(|flag| flag == "--exact"),
            list: flags.iter().any(|flag| flag == "--list"),
            long: flags.iter().any(|flag| flag == "--include-ignored"),
            passed: 0,
            failed: Vec::new(),
            ignored: 0,
            filtered: 0,
        };
        if !checks.list {
            println!();
        }
        checks
    }

    /// Whether checks that can take minutes are to take them, as `cargo xtask test --long` asks.
    pub const fn long(&self) -> bool {
        self.long
    }

    /// Runs the checks that are wanted, in order, on what `build` makes; nothing is made for none.
    /// With each failure comes what `explain` knows.
    pub fn group<W>(
        &mut self,
        checks: Vec<Check<W>>,
        build: impl FnOnce() -> Result<W>,
        explain: impl Fn(&W) -> String,
    ) {
        let wanted: Vec<_> = checks
            .into_iter()
            .filter(|check| self.wants(&check.name))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let mut shared = match attempt(build) {
            Ok(shared) => shared,
            Err(failure) => {
                let names = wanted.into_iter().map(|check| check.name);
                return names.for_each(|name| self.report(name, Err(failure.clone())));
            }
        };
        for Check { name, run } in wanted {
            let outcome = attempt(|| run(&mut shared))
                .map_err(|failure| format!("{failure}\n{}", explain(&shared)));
            self.report(name, outcome);
        }
    }

    /// Says of checks that this machine cannot run them, because it lacks something.
    pub fn ignore<W>(&mut self, checks: &[Check<W>], lacked: &str) {
        for Check { name, .. } in checks {
            if self.wants(name) {
                println!("test {name} ... ignored, this machine has {lacked}");
                self.ignored += 1;
            }
        }
    }

    /// Whether a check is to run; else it counts as filtered out.
    fn wants(&mut self, name: &str) -> bool {
        let matches = |filter: &String| {
            if self.exact {
                name == filter
            } else {
                name.contains(filter)
            }
        };
        let wanted = self.filters.is_empty() || self.filters.iter().any(matches);
        if wanted && self.list {
            println!("{name}: test");
        }
        if !wanted {
            self.filtered += 1;
        }
        wanted && !self.list
    }

    fn report(&mut self, name: String, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                println!("test {name} ... ok");
                self.passed += 1;
            }
            Err(failure) => {
                println!("test {name} ... FAILED\n{failure}\n");
                self.failed.push(name);
            }
        }
    }

    /// Says how it went.
    pub fn finish(self) -> ExitCode {
        let Self {
            started,
            passed,
            failed,
            ignored,
            filtered,
            list,
            ..
        } = self;
        if list {
            return ExitCode::SUCCESS;
        }
        if !failed.is_empty() {
            println!("\nfailures:\n    {}", failed.join("\n    "));
        }
        let result = if failed.is_empty() { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {result}. {passed} passed; {} failed; {ignored} ignored; 0 measured; \
             {filtered} filtered out; finished in {:.2}s\n",
            failed.len(),
            started.elapsed().as_secs_f64()
        );
        if failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Runs `f`; its error, or its panic, in words.
fn attempt<T>(f: impl FnOnce() -> Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(panic) => Err(format!("panicked: {}", message(panic.as_ref()))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
