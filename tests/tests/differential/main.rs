//! The programs in the kernel against the pipeline on the host: whatever packets come, in whatever
//! order, both answer the same, write the same bytes, count the same and are left with the same rows;
//! and what they write can be read, with every checksum right that was right before.
//!
//! A stream of packets and changes begins with no flow and is played twice, as it enters by XDP and by
//! tc. It follows from its seed alone: `FAIRLEAD_SEED` repeats those of a run from there on.
//! `cargo xtask test --long` plays a million packets.

mod change;
mod draw;
mod fragment;
mod place;
mod route;
mod spoil;
mod stream;
mod sums;
mod tuple;
mod twins;
mod world;

use std::{env, process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use tests::{
    checks::{Check, Checks},
    fixture::stage::Stage,
    random,
};

use crate::{stream::Played, twins::Twins};

fn main() -> ExitCode {
    let mut checks = Checks::from_args();
    let packets = if checks.long() { 1_000_000 } else { 60_000 };
    let name = "any_packets_are_treated_alike_by_the_pipeline_and_in_the_kernel";
    let check = Check::new(name, move |stage: &mut Stage| compare(stage, packets));
    checks.group(vec![check], Stage::build, |_| String::new());
    checks.finish()
}

fn compare(stage: &mut Stage, packets: usize) -> Result<()> {
    let seed = match env::var("FAIRLEAD_SEED") {
        Ok(seed) => seed.parse().context("FAIRLEAD_SEED is not a number")?,
        Err(_) => random::seed(),
    };
    println!("{packets} packets from FAIRLEAD_SEED={seed} on");
    let started = Instant::now();
    let mut played = Played::default();
    stage.inside(|kernel, interfaces| {
        let mut twins = Twins::new(kernel, interfaces)?;
        let mut seed = seed;
        while played.packets < packets {
            stream::play(&mut twins, seed, &mut played)
                .with_context(|| format!("repeat it with FAIRLEAD_SEED={seed}"))?;
            seed = seed.wrapping_add(1);
        }
        Ok(())
    })?;
    println!("{played}; in {:.1?}", started.elapsed());
    played.covers_everything()
}
