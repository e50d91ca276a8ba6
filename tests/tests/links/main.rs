//! Where programs are attached, how they are replaced, and what is left of them.

mod clsact;
mod detached;
mod lacking;
mod world;

use std::process::ExitCode;

use tests::{checks::Checks, old_kernel};

fn main() -> ExitCode {
    if let Err(error) = old_kernel::run_if_asked() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let mut checks = Checks::from_args();
    checks.group(detached::checks(), detached::topology, |_| String::new());
    checks.group(clsact::checks(), world::World::start, world::World::logs);
    checks.group(
        lacking::checks(),
        lacking::World::start,
        lacking::World::logs,
    );
    checks.finish()
}
