//! Steps of a verb: each under a heading and timed, none keeping the next from running.

use std::time::Instant;

use anyhow::{Result, bail};

/// The steps done so far.
#[derive(Default)]
pub(crate) struct Steps {
    failed: Vec<&'static str>,
}

impl Steps {
    /// Does one step and says how it went; whether it succeeded.
    pub(crate) fn step(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) -> bool {
        println!("\n== {name}");
        let started = Instant::now();
        let done = step();
        let seconds = started.elapsed().as_secs_f32();
        match &done {
            Ok(()) => println!("== {name}: ok, {seconds:.1} s"),
            Err(error) => {
                println!("== {name}: FAILED, {seconds:.1} s: {error:#}");
                self.failed.push(name);
            }
        }
        done.is_ok()
    }

    /// How many steps failed.
    pub(crate) fn failures(&self) -> usize {
        self.failed.len()
    }

    /// Fails when a step did, naming all that did.
    pub(crate) fn finish(self) -> Result<()> {
        let Self { failed } = self;
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}
