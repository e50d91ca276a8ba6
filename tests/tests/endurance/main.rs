//! Services that go on while the API server is away, and while they change at random: a real API
//! server, an agent on each of two nodes, and clients that talk all the while. Every answer is held
//! against what the objects ask for at that time (`judge`).
//!
//! `cargo xtask test --long` has all of it last longer.

mod change;
mod client;
mod draw;
mod history;
mod judge;
mod outage;
mod setup;
mod shared;
mod stock;
mod traffic;
mod unit;
mod world;
mod writes;

use std::{process::ExitCode, time::Duration};

use tests::checks::Checks;

use crate::world::World;

fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    let (outage, change) = if checks.long() {
        (Duration::from_mins(5), Duration::from_mins(10))
    } else {
        (Duration::from_secs(20), Duration::from_mins(1))
    };
    let mut list = outage::checks(outage);
    list.extend(change::checks(change));
    checks.group(list, World::start, World::explain);
    checks.finish()
}
